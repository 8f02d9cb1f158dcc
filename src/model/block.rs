//! One decoder block, in steps that can be watched from outside.
//!
//! Pruning needs what each linear reads. A block has four such places, its [`Site`]s; [`Block::advance`]
//! takes a batch from one to the next, and whoever walks the block may look at the input there, or
//! replace the weights that are about to read it, before going on.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::attention::{Cache, Heads, Precision, Span, attention, cached_attention};
use super::kernels;
use super::linear::Linear;
use super::rope::Rope;

/// A weight matrix that pruning may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearName {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl LinearName {
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// As tables spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A place in a block whose value one or more linears read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The normed residual, read by q, k and v.
    AttentionInput,
    /// The heads' outputs side by side, read by o.
    AttentionOutput,
    /// The normed residual after attention, read by gate and up.
    FeedForwardInput,
    /// silu(gate)·up, read by down.
    FeedForwardOutput,
}

impl Site {
    /// In the order in which a token passes them.
    pub const ALL: [Self; 4] =
        [Self::AttentionInput, Self::AttentionOutput, Self::FeedForwardInput, Self::FeedForwardOutput];

    /// The linears that read this site.
    pub fn linears(self) -> &'static [LinearName] {
        match self {
            Self::AttentionInput => &[LinearName::Q, LinearName::K, LinearName::V],
            Self::AttentionOutput => &[LinearName::O],
            Self::FeedForwardInput => &[LinearName::Gate, LinearName::Up],
            Self::FeedForwardOutput => &[LinearName::Down],
        }
    }
}

/// The weights of one block.
#[derive(Clone)]
pub struct Block {
    pub heads: Heads,
    pub norm_epsilon: f32,
    pub attention_norm: Tensor, // (hidden)
    pub feed_forward_norm: Tensor,
    pub linears: [Linear; 7], // in the order of LinearName::ALL
}

/// A batch of windows on its way through a block.
#[derive(Clone)]
pub struct Flow {
    /// The residual stream, (tokens, hidden).
    pub hidden: Tensor,
    /// What the linears of the current site read, (tokens, columns).
    pub input: Tensor,
    /// Where the batch's windows lie among its rows.
    pub spans: Vec<Span>,
}

impl Flow {
    /// `hidden` (tokens × hidden) holds the spans one after the other.
    pub fn new(hidden: Tensor, spans: Vec<Span>) -> Self {
        Self { input: hidden.clone(), hidden, spans }
    }
}

impl Block {
    pub fn linear(&self, name: LinearName) -> &Linear {
        &self.linears[name as usize]
    }

    pub fn linear_mut(&mut self, name: LinearName) -> &mut Linear {
        &mut self.linears[name as usize]
    }

    /// Takes a batch from the site before `site` to it.
    pub fn advance(&self, site: Site, flow: &mut Flow, rope: &Rope) -> Result<()> {
        let spans = flow.spans.clone();
        let is_bf16 = self.linear(LinearName::Q).weight().dtype() == DType::BF16;
        let how = (rope, if is_bf16 { Precision::Bf16 } else { Precision::F32 });
        self.advance_by(site, flow, |q, k, v| attention(q, k, v, &spans, self.heads, how))
    }

    /// As [`Block::advance`], where `attend` turns q, k and v into the heads' outputs.
    fn advance_by(
        &self,
        site: Site,
        flow: &mut Flow,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let linear = |name| self.linear(name);
        let x = &flow.input;
        flow.input = match site {
            Site::AttentionInput => self.norm(&flow.hidden, &self.attention_norm)?,
            Site::AttentionOutput => {
                let [q, k, v] = Linear::forward_all([LinearName::Q, LinearName::K, LinearName::V].map(linear), x)?;
                attend(&q, &k, &v)?
            }
            Site::FeedForwardInput => {
                flow.hidden = kernels::add(&flow.hidden, &linear(LinearName::O).forward(x)?)?;
                self.norm(&flow.hidden, &self.feed_forward_norm)?
            }
            Site::FeedForwardOutput => {
                let [gate, up] = Linear::forward_all([LinearName::Gate, LinearName::Up].map(linear), x)?;
                kernels::swiglu(&gate, &up)?
            }
        };
        Ok(())
    }

    /// The block's output, from a batch at the last site.
    pub fn finish(&self, flow: Flow) -> Result<Tensor> {
        kernels::add(&flow.hidden, &self.linear(LinearName::Down).forward(&flow.input)?)
    }

    /// The whole block: (tokens, hidden) → (tokens, hidden).
    pub fn forward(&self, hidden: Tensor, spans: &[Span], rope: &Rope) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, spans.to_vec());
        for site in Site::ALL {
            self.advance(site, &mut flow, rope)?;
        }
        self.finish(flow)
    }

    /// The whole block for the next tokens of sequences: the rows `own` of sequence i follow what
    /// `caches[i]` holds, and are added to it. (tokens, hidden) → (tokens, hidden)
    pub fn decode(&self, hidden: Tensor, own: &[Range<usize>], caches: &mut [Cache], rope: &Rope) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, vec![]);
        for site in Site::ALL {
            let here = (own, &mut *caches);
            self.advance_by(site, &mut flow, |q, k, v| cached_attention(q, k, v, here, self.heads, rope))?;
        }
        self.finish(flow)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        kernels::rms_norm(x, weight, self.norm_epsilon)
    }
}
