//! A block: its sites and linears, its norms, and how its parts add up.

use std::ops::Range;

use super::{AttentionSpec, FeedForwardSpec, Name, NormSpec, Over};

/// One decoder block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// The places where linears read, in the order in which a token passes them.
    pub sites: Vec<SiteSpec>,
    /// The weights that pruning may touch, site by site.
    pub linears: Vec<LinearSpec>,
    pub attention: AttentionSpec,
    pub feed_forward: FeedForwardSpec,
    pub norms: Norms,
    pub residual: Residual,
    /// What attention and feed-forward add is multiplied by it.
    pub branch_scale: Option<f32>,
}

impl BlockSpec {
    /// All of its norms, and how many values each is over.
    pub fn norms(&self, hidden: usize) -> impl Iterator<Item = (&NormSpec, usize)> {
        let Norms { before_attention, after_attention, before_feed_forward, after_feed_forward } = &self.norms;
        let around = [before_attention, after_attention, before_feed_forward, after_feed_forward];
        let around = around.into_iter().flatten().map(move |norm| (norm, hidden));
        let AttentionSpec { heads, q_norm, k_norm, .. } = &self.attention;
        let of_heads = [(q_norm, heads.query), (k_norm, heads.key_value)];
        around.chain(of_heads.into_iter().filter_map(|(norm, count)| {
            let norm = norm.as_ref()?;
            Some((norm, if norm.over == Over::Head { heads.dim } else { count * heads.dim }))
        }))
    }

    /// Parameters that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        self.linears.iter().map(LinearSpec::parameters).sum()
    }

    /// The sites that linears read; experts' input as a whole may have none.
    pub fn read_sites(&self) -> impl Iterator<Item = usize> {
        (0..self.sites.len()).filter(|&site| !self.sites[site].linears.is_empty())
    }

    /// The part of all tokens that is at a site, where experts share them evenly.
    pub fn share(&self, site: usize) -> f64 {
        match (&self.feed_forward, self.sites[site].place.expert()) {
            (FeedForwardSpec::Experts(experts), Some(_)) => experts.used as f64 / experts.count as f64,
            _ => 1.0,
        }
    }

    /// The linears that read a site.
    pub fn readers(&self, site: usize) -> &[LinearSpec] {
        &self.linears[self.sites[site].linears.clone()]
    }
}

/// The norms around attention and feed-forward; `after` is of what they add.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Norms {
    pub before_attention: Option<NormSpec>,
    pub after_attention: Option<NormSpec>,
    pub before_feed_forward: Option<NormSpec>,
    pub after_feed_forward: Option<NormSpec>,
}

/// How what attention (A) and the feed-forward (F) make of the hidden states h is added to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// h += A(norm h), then h += F(norm h)
    Sequential,
    /// n = norm h, h = n + A(n), then n = norm h, h = n + F(n)
    OfNormed,
    /// h += A(norm h) + F(norm h): F reads what A reads where it has no norm of its own.
    Parallel,
    /// h = norm(h + A(h)), then h = norm(h + F(h))
    PostNorm,
}

/// A place in a block whose value one or more linears read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSpec {
    pub place: Place,
    pub columns: usize,
    /// Those of the block's linears that read it.
    pub linears: Range<usize>,
}

/// Which place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The normed residual, read by q, k and v; where attention and feed-forward are parallel, by the feed-forward too.
    AttentionInput,
    /// The heads' outputs side by side, read by o.
    AttentionOutput,
    /// The normed residual after attention, read by gate and up; of experts, by the router and what all tokens go through.
    FeedForwardInput,
    /// activation(gate)·up, read by down.
    FeedForwardOutput,
    /// The same of the expert that all tokens go through.
    SharedOutput,
    /// The rows of the feed-forward's input that are routed to an expert, read by its gate and up.
    ExpertInput(usize),
    /// What its down reads.
    ExpertOutput(usize),
}

impl Place {
    /// The expert whose tokens alone are there.
    pub fn expert(self) -> Option<usize> {
        match self {
            Self::ExpertInput(expert) | Self::ExpertOutput(expert) => Some(expert),
            _ => None,
        }
    }

    /// For messages: the model's 576 "hidden" columns.
    pub fn of_columns(self) -> &'static str {
        match self {
            Self::AttentionInput | Self::FeedForwardInput | Self::ExpertInput(_) => "hidden",
            Self::AttentionOutput => "attention",
            Self::FeedForwardOutput => "feed-forward",
            Self::SharedOutput => "shared expert's",
            Self::ExpertOutput(_) => "experts'",
        }
    }
}

/// A weight matrix that pruning may touch.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearSpec {
    /// As tables spell it.
    pub name: String,
    /// What it is called within the block.
    pub part: Name,
    pub rows: usize,
    pub columns: usize,
    pub bias: bool,
    pub stored: Stored,
}

/// How the files hold a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// (rows, columns)
    Plain,
    /// (columns, rows), as GPT-2's one-dimensional convolutions
    Transposed,
    /// In GGUF, the rows of each of so many heads are in pairs, (x₀, x_{d/2}), (x₁, x_{d/2+1}) …
    Paired(usize),
    /// In GGUF, beside those of the other experts: (count, rows, columns)
    Expert { index: usize, count: usize },
}

impl LinearSpec {
    pub fn parameters(&self) -> usize {
        self.rows * self.columns
    }

    /// The shape of its weight in the files.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.stored {
            Stored::Transposed => vec![self.columns, self.rows],
            Stored::Expert { count, .. } => vec![count, self.rows, self.columns],
            _ => vec![self.rows, self.columns],
        }
    }
}
