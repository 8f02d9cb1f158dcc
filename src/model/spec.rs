//! A model as data: what its blocks are made of, in which order things are computed, and what its tensors are called.
//!
//! [`super::arch`] translates a config into it. Reading, pruning, estimates of work and memory, checks and GGUF's names
//! iterate it.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arch::Quantization;
use super::rope::RopeSpec;

/// What the forward pass needs to know of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// As the files call it: `model_type`, `general.architecture`.
    pub architecture: String,
    pub hidden: usize,
    pub vocabulary: usize,
    /// The longest window that the model was made for, in tokens.
    pub context: usize,
    /// Where calipr computes what the model does only of shorter windows.
    pub reach: Option<Reach>,
    /// The rotary embeddings that blocks name by index.
    pub ropes: Vec<RopeSpec>,
    pub embedding: EmbeddingSpec,
    /// In front of a block's own names stands this, and the block's number.
    pub layers: Name,
    /// One a block; blocks of a kind share it.
    pub blocks: Vec<Arc<BlockSpec>>,
    pub head: HeadSpec,
    pub quantization: Option<Quantization>,
    /// Tensors of a GGUF file that were taken beside those of weights.
    pub also: &'static [&'static str],
    /// What a person should know of how the files are read.
    pub remarks: Vec<String>,
}

impl Spec {
    /// What stands in front of the names of a block's tensors.
    pub fn name_of_block(&self, index: usize) -> Name {
        let number = index.to_string();
        self.layers.under(&Name::new(number.clone(), number))
    }

    /// Every tensor that the model is made of, and its shape.
    pub fn tensors(&self) -> Vec<(Name, Vec<usize>)> {
        let (vocabulary, hidden) = (self.vocabulary, self.hidden);
        let (embedding, head) = (&self.embedding, &self.head);
        let mut tensors = vec![(embedding.name.of("weight"), vec![vocabulary, embedding.width])];
        if let Some(positions) = &embedding.positions {
            tensors.push((positions.name.of("weight"), vec![positions.rows, hidden]));
        }
        tensors.extend(embedding.norm.iter().flat_map(|norm| norm.tensors(&Name::default(), embedding.width)));
        tensors.extend(embedding.projection.iter().map(|name| (name.of("weight"), vec![hidden, embedding.width])));
        tensors.extend(head.norm.iter().flat_map(|norm| norm.tensors(&Name::default(), hidden)));
        tensors.extend(head.projection.iter().map(|name| (name.of("weight"), vec![embedding.width, hidden])));
        if !head.tied {
            tensors.push((head.name.of("weight"), vec![vocabulary, embedding.width]));
        }
        if head.bias {
            tensors.push((head.name.of("bias"), vec![vocabulary]));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let own = self.name_of_block(index);
            for (norm, width) in block.norms(hidden) {
                tensors.extend(norm.tensors(&own, width));
            }
            if let FeedForwardSpec::Experts(experts) = &block.feed_forward {
                tensors.push((own.under(&experts.router).of("weight"), vec![experts.count, hidden]));
                let gate = experts.shared.iter().filter_map(|shared| shared.router.as_ref());
                tensors.extend(gate.map(|name| (own.under(name).of("weight"), experts.shared_router_shape(hidden))));
            }
            // What several experts have in one tensor stands with the first of them.
            let is_first = |linear: &&LinearSpec| !matches!(linear.stored, Stored::Expert { index: 1.., .. });
            for linear in block.linears.iter().filter(is_first) {
                let name = own.under(&linear.part);
                tensors.push((name.of("weight"), linear.stored_shape()));
                if linear.bias {
                    tensors.push((name.of("bias"), vec![linear.rows]));
                }
            }
        }
        tensors
    }

    /// For people: what the model computes, with blocks of a kind said once.
    pub fn described(&self) -> Value {
        let kinds = self.blocks.chunk_by(Arc::ptr_eq);
        let described = |first: usize, kind: &[Arc<BlockSpec>]| {
            let block = &kind[0];
            let linears: Map<String, Value> =
                block.linears.iter().map(|l| (l.name.clone(), json!([l.rows, l.columns]))).collect();
            json!({
                "blocks": [first, first + kind.len() - 1],
                "attention": block.attention,
                "linears": linears,
                "feed_forward": block.feed_forward,
            })
        };
        let mut first = 0;
        let blocks: Vec<Value> = kinds.map(|kind| (described(first, kind), first += kind.len()).0).collect();
        json!({
            "architecture": self.architecture,
            "hidden": self.hidden,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "reach": self.reach,
            "tied": self.head.tied,
            "ropes": self.ropes,
            "blocks": blocks,
        })
    }

    /// Parameters of all blocks that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        self.blocks.iter().map(|block| block.linear_parameters()).sum()
    }
}

impl BlockSpec {
    /// All of its norms, and how many values each is over.
    fn norms(&self, hidden: usize) -> impl Iterator<Item = (&NormSpec, usize)> {
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

/// The longest window that calipr computes as the model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reach {
    pub tokens: usize,
    /// What ends there, with the key that says so.
    pub because: &'static str,
}

impl Reach {
    /// Why something longer is not computed: `what` is "windows of 9 tokens are", say.
    pub fn refusal(&self, what: &str) -> String {
        format!("{what} longer than {} tokens, the model's {}; calipr computes none beyond", self.tokens, self.because)
    }
}

/// What a tensor, or a part of a model, is called in a Hugging Face folder and in a GGUF file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Name {
    pub hub: String,
    pub gguf: String,
}

impl Name {
    pub fn new(hub: impl Into<String>, gguf: impl Into<String>) -> Self {
        Self { hub: hub.into(), gguf: gguf.into() }
    }

    /// What it has under it: `model.layers`, `3` → `model.layers.3`.
    pub fn under(&self, inner: &Self) -> Self {
        let joined = |outer: &str, inner: &str| match outer.is_empty() {
            true => inner.to_owned(),
            false => format!("{outer}.{inner}"),
        };
        Self::new(joined(&self.hub, &inner.hub), joined(&self.gguf, &inner.gguf))
    }

    /// Its tensor of this kind, `weight` or `bias`.
    pub fn of(&self, kind: &str) -> Self {
        self.under(&Self::new(kind, kind))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.hub)
    }
}

/// Tokens to hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// (vocabulary, width)
    pub name: Name,
    /// Values of a token, which are the hidden ones where there is no projection.
    pub width: usize,
    /// What rows are multiplied by.
    pub scale: Option<f32>,
    /// Over a token's values.
    pub norm: Option<NormSpec>,
    /// (hidden, width)
    pub projection: Option<Name>,
    /// What each position adds.
    pub positions: Option<PositionsSpec>,
}

/// A learned vector for each position: (rows, hidden).
#[derive(Debug, Clone, PartialEq)]
pub struct PositionsSpec {
    pub name: Name,
    pub rows: usize,
    /// The row of position 0.
    pub first: usize,
}

/// Hidden states to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// (vocabulary, width)
    pub name: Name,
    /// The head is the embedding.
    pub tied: bool,
    pub bias: bool,
    /// In front of it.
    pub norm: Option<NormSpec>,
    /// (width, hidden), in front of the head.
    pub projection: Option<Name>,
    /// What logits are multiplied by.
    pub scale: Option<f32>,
    /// Logits z become cap·tanh(z/cap).
    pub cap: Option<f32>,
}

/// A norm over the values of a token, or of its heads.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    pub name: Name,
    pub kind: NormKind,
    pub epsilon: f64,
    pub bias: bool,
    pub over: Over,
}

/// How a norm is computed of values x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε) · w
    Rms,
    /// x / √(mean(x²) + ε) · (1 + w), as Gemma stores it
    RmsPlusOne,
    /// (x − mean(x)) / √(var(x) + ε) · w + b
    Layer,
    /// The same without w and b.
    Plain,
}

/// Which values a norm is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// All of a row.
    Row,
    /// Those of each head, all of which have the same weights.
    Head,
    /// Those of each head, each of which has weights of its own: so many heads.
    EachHead(usize),
    /// The same in tensors of their own, which are numbered.
    HeadsApart(usize),
}

impl NormSpec {
    /// Its tensors in the files, for a norm of so many values whose name stands under `outer`.
    pub fn tensors(&self, outer: &Name, width: usize) -> Vec<(Name, Vec<usize>)> {
        let name = outer.under(&self.name);
        let (names, shape) = match self.over {
            Over::EachHead(heads) => (vec![name], vec![heads, width / heads]),
            Over::HeadsApart(heads) => {
                let of = |head: usize| name.under(&Name::new(head.to_string(), head.to_string()));
                ((0..heads).map(of).collect(), vec![width / heads])
            }
            Over::Row | Over::Head => (vec![name], vec![width]),
        };
        let of_kind = |kind: &str| names.iter().map(|name| (name.of(kind), shape.clone())).collect::<Vec<_>>();
        let weights = if self.kind == NormKind::Plain { vec![] } else { of_kind("weight") };
        let biases = if self.bias { of_kind("bias") } else { vec![] };
        [weights, biases].concat()
    }
}

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

/// How attention is computed, and which linears make its inputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionSpec {
    pub heads: Heads,
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// Scores s become cap·tanh(s/cap).
    pub cap: Option<f32>,
    /// A token sees so many positions, its own among them; None where it sees all up to its own.
    pub window: Option<usize>,
    /// Which of [`Spec::ropes`] turns queries and keys.
    pub rope: Option<usize>,
    /// What the distance of a key adds to its score.
    pub alibi: Option<Alibi>,
    /// Of queries and keys, before they are turned.
    #[serde(skip)]
    pub q_norm: Option<NormSpec>,
    #[serde(skip)]
    pub k_norm: Option<NormSpec>,
    /// q, k and v are held within ± this.
    pub clip: Option<f32>,
    #[serde(skip)]
    pub inputs: Inputs,
    /// The linear that reads the heads' outputs.
    #[serde(skip)]
    pub output: usize,
}

/// A score's bias by position (Press et al. 2022, arXiv 2108.12409): slope · position of the key, head by head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Alibi {
    /// Slopes and products are rounded to bf16, and scaled as scores are: Falcon's.
    pub falcon: bool,
}

impl Alibi {
    /// 2^(−8·i/n) for head i of n, a power of two; of other n, those of the next lower power and every other of the next
    /// higher one's.
    pub fn slopes(heads: usize) -> Vec<f32> {
        let of = |count: usize| 2f64.powf(-(2f64.powf(3.0 - (count as f64).log2()))) as f32;
        let lower = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        let (base, between) = (of(lower), of(2 * lower));
        let own = (1..=lower).map(|i| base.powi(i as i32));
        own.chain((0..heads - lower).map(|i| between.powi(2 * i as i32 + 1))).collect()
    }
}

/// The linears that make queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// One each.
    Separate([usize; 3]),
    /// One for all three, whose rows are in so many groups: the queries of some heads, the keys of the head that they
    /// share, its values. Of one group, all queries, all keys, all values.
    Fused { linear: usize, groups: usize },
}

impl Inputs {
    /// The first linear.
    pub fn first(self) -> usize {
        match self {
            Self::Separate([q, ..]) => q,
            Self::Fused { linear, .. } => linear,
        }
    }
}

/// How the columns of q, k and v divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

impl Heads {
    /// 1/√dim, by which most attention scales.
    pub fn scale(self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }
}

/// What is between attention's output and the next block, by the block's linears.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardSpec {
    One(Feed),
    Experts(ExpertsSpec),
}

/// activation(gate)·up, or activation(up), through down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Feed {
    pub activation: Activation,
    #[serde(skip)]
    pub inputs: FeedInputs,
    #[serde(skip)]
    pub down: usize,
}

/// The linears in front of the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedInputs {
    Gated {
        gate: usize,
        up: usize,
    },
    /// One for both: the rows of gate, then those of up.
    Fused {
        gate_up: usize,
    },
    /// Without a gate.
    Plain {
        up: usize,
    },
}

/// The functions that a feed-forward may apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x·Φ(x)
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// x / (1 + e^(−1.702·x))
    QuickGelu,
    Relu,
    /// max(x, 0)²
    Relu2,
}

/// A mixture of experts: each token goes through the few that a router finds it, and through one for all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpertsSpec {
    pub count: usize,
    /// How many a token is routed to.
    pub used: usize,
    /// The weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// (count, hidden)
    #[serde(skip)]
    pub router: Name,
    #[serde(skip)]
    pub experts: Vec<Feed>,
    pub shared: Option<SharedSpec>,
    /// The files are GGUF.
    #[serde(skip)]
    pub in_gguf: bool,
}

impl ExpertsSpec {
    /// The shape of the router of the expert that all tokens go through: (1, hidden), or (hidden) in GGUF.
    pub fn shared_router_shape(&self, hidden: usize) -> Vec<usize> {
        if self.in_gguf { vec![hidden] } else { vec![1, hidden] }
    }
}

/// The expert that all tokens go through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharedSpec {
    pub feed: Feed,
    /// (1, hidden): its sigmoid multiplies what the expert makes.
    #[serde(skip)]
    pub router: Option<Name>,
}
