//! One decoder block, in steps that can be watched from outside.
//!
//! Pruning needs what each linear reads. The places where linears read are the block's sites; [`Block::advance`] takes a
//! batch from one to the next, and whoever walks the block may look at the input there, or replace the weights that are
//! about to read it, before going on.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::attention::{Attention, KvCache, Span};
use super::linear::Linear;
use super::parts::{Norm, elementwise};
use super::rope::Rope;
use super::spec::{BlockSpec, Place};

/// The weights of one block.
#[derive(Clone)]
pub struct Block {
    pub spec: Arc<BlockSpec>,
    /// In the order of the spec.
    pub linears: Vec<Linear>,
    /// In front of attention, and of the feed-forward.
    pub norms: [Norm; 2],
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
    /// Takes a batch from the site before `site` to it.
    pub fn advance(&self, site: usize, flow: &mut Flow, rope: &Rope) -> Result<()> {
        let (spans, attention) = (flow.spans.clone(), self.attention(rope));
        self.advance_by(site, flow, |q, k, v| attention.within(q, k, v, &spans))
    }

    fn attention(&self, rope: &Rope) -> Attention {
        Attention::new(&self.spec.attention, rope, self.linears[self.spec.attention.inputs[0]].weight().dtype())
    }

    /// As [`Block::advance`], where `attend` turns q, k and v into the heads' outputs.
    fn advance_by(
        &self,
        site: usize,
        flow: &mut Flow,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let linear = |index: usize| &self.linears[index];
        let (attention, feed_forward) = (&self.spec.attention, &self.spec.feed_forward);
        let x = &flow.input;
        flow.input = match self.spec.sites[site].place {
            Place::AttentionInput => self.norms[0].forward(&flow.hidden)?,
            Place::AttentionOutput => {
                let [q, k, v] = Linear::forward_all(attention.inputs.map(linear), x)?;
                attend(&q, &k, &v)?
            }
            Place::FeedForwardInput => {
                flow.hidden = elementwise::add(&flow.hidden, &linear(attention.output).forward(x)?)?;
                self.norms[1].forward(&flow.hidden)?
            }
            Place::FeedForwardOutput => {
                let [gate, up] = Linear::forward_all([feed_forward.gate, feed_forward.up].map(linear), x)?;
                elementwise::swiglu(&gate, &up)?
            }
        };
        Ok(())
    }

    /// The block's output, from a batch at the last site.
    pub fn finish(&self, flow: Flow) -> Result<Tensor> {
        elementwise::add(&flow.hidden, &self.linears[self.spec.feed_forward.down].forward(&flow.input)?)
    }

    /// The whole block: (tokens, hidden) → (tokens, hidden).
    pub fn forward(&self, hidden: Tensor, spans: &[Span], rope: &Rope) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, spans.to_vec());
        for site in 0..self.spec.sites.len() {
            self.advance(site, &mut flow, rope)?;
        }
        self.finish(flow)
    }

    /// The whole block for the next tokens of sequences: the rows `own` of sequence i follow what
    /// `caches[i]` holds, and are added to it. (tokens, hidden) → (tokens, hidden)
    pub fn decode(&self, hidden: Tensor, own: &[Range<usize>], caches: &mut [KvCache], rope: &Rope) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, vec![]);
        let attention = self.attention(rope);
        for site in 0..self.spec.sites.len() {
            let here = (own, &mut *caches);
            self.advance_by(site, &mut flow, |q, k, v| attention.after(q, k, v, here))?;
        }
        self.finish(flow)
    }
}
