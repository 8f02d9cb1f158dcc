//! Causal attention within spans of a batch, and after cached keys and values.
//!
//! What is computed is said once, by [`Attention`]; there is a body for the CPU ([`host`]: one task a span and key-value
//! head, in loops of our own), one for CUDA devices ([`cuda`]), and one composed of candle's operations ([`composed`]) for
//! other devices and for what the kernels lack. They are tested against each other.

mod composed;
#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod kv;
#[cfg(any(feature = "cuda", test))]
mod pieces;

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

pub use kv::KvCache;

use super::rope::Rope;
use super::spec::{AttentionSpec, Heads};

/// Consecutive tokens of a batch that see each other causally, and before them those of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Earlier tokens of the batch, a whole span themselves, which every token of this one sees; may be
    /// empty. Several spans may share a prefix.
    pub prefix: Range<usize>,
    pub own: Range<usize>,
}

impl Span {
    /// Tokens that only see each other.
    pub fn window(own: Range<usize>) -> Self {
        Self { prefix: 0..0, own }
    }

    /// Positions that its last token sees.
    pub fn seen(&self) -> usize {
        self.prefix.len() + self.own.len()
    }
}

/// Softmax attention of queries to keys and values as they come from their linears: what is turned, how scores are made
/// of the products, and what is seen.
#[derive(Clone)]
pub struct Attention {
    pub heads: Heads,
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// Turns queries and keys by their positions.
    pub rope: Rope,
    pub precision: Precision,
}

/// What products of attention are computed in, on the CPU; sums and the softmax are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

impl Attention {
    /// As a block of a model computes it whose weights are held in `dtype`.
    pub fn new(spec: &AttentionSpec, rope: &Rope, dtype: DType) -> Self {
        let precision = if dtype == DType::BF16 { Precision::Bf16 } else { Precision::F32 };
        Self { heads: spec.heads, scale: spec.scale, rope: rope.clone(), precision }
    }

    /// Attention within each span.
    ///
    /// q (tokens × query·dim), k and v (tokens × key_value·dim) → (tokens × query·dim). The spans lie one
    /// after the other; positions count from the start of each, or of its prefix.
    pub fn within(&self, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
        self.rope.check(spans.iter().map(Span::seen).max().unwrap_or(0))?;
        match q.device() {
            Device::Cpu => host::within(self, q, k, v, spans),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => cuda::within(self, q, k, v, spans),
            _ => composed::within(self, q, k, v, spans),
        }
    }

    /// As [`Attention::within`], where the rows `own` of sequence i follow what `caches[i]` holds, and are added to it.
    pub fn after(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        (own, caches): (&[Range<usize>], &mut [KvCache]),
    ) -> Result<Tensor> {
        let longest = own.iter().zip(&*caches).map(|(own, cache)| cache.tokens() + own.len()).max().unwrap_or(0);
        self.rope.check(longest)?;
        match q.device() {
            Device::Cpu => host::after(self, q, k, v, (own, caches)),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => cuda::after(self, q, k, v, (own, caches)),
            _ => composed::after(self, q, k, v, (own, caches)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parts::elementwise::tests::{close, random};
    use crate::model::{RopeScaling, RopeSpec};

    const HEADS: Heads = Heads { query: 6, key_value: 2, dim: 16 };

    fn attention(positions: usize, precision: Precision) -> Attention {
        let rope = RopeSpec { theta: 10_000.0, dim: HEADS.dim, scaling: RopeScaling::None };
        let rope = Rope::new(&rope, positions, &Device::Cpu).unwrap();
        Attention { heads: HEADS, scale: 0.25, rope, precision }
    }

    const PRECISIONS: [(Precision, f32); 2] = [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)];

    #[test]
    fn attention_equals_candles_operations_on_spans_of_unequal_length() {
        let (q, k, v) = (random((200, 96), 0.1), random((200, 32), 0.2), random((200, 32), 0.3));
        let mut spans = [0..70, 70..71, 71..160].map(Span::window).to_vec();
        spans.extend([160..163, 163..200].map(|own| Span { prefix: 0..70, own }));
        for (precision, tolerance) in PRECISIONS {
            let attention = attention(130, precision);
            let composed = composed::within(&attention, &q, &k, &v, &spans).unwrap();
            close(&attention.within(&q, &k, &v, &spans).unwrap(), &composed, tolerance);
        }
    }

    #[test]
    fn a_span_after_a_prefix_equals_the_end_of_the_whole_window() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        for (precision, tolerance) in PRECISIONS {
            let attention = attention(90, precision);
            let whole = attention.within(&q, &k, &v, &[Span::window(0..90)]).unwrap();
            let spans = [Span::window(0..50), Span { prefix: 0..50, own: 50..90 }];
            close(&attention.within(&q, &k, &v, &spans).unwrap(), &whole, tolerance);
        }
    }

    #[test]
    fn attention_with_a_cache_equals_the_whole_window_piece_by_piece() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        let attention = attention(90, Precision::F32);
        let whole = attention.within(&q, &k, &v, &[Span::window(0..90)]).unwrap();
        let (mut caches, mut on_device) = ([KvCache::new(HEADS, 90)], [KvCache::new(HEADS, 90)]);
        for piece in [0..70, 70..71, 71..72, 72..90] {
            let part = |x: &Tensor| x.narrow(0, piece.start, piece.len()).unwrap();
            let own = 0..piece.len();
            let expected = part(&whole);
            let here = (std::slice::from_ref(&own), caches.as_mut_slice());
            close(&attention.after(&part(&q), &part(&k), &part(&v), here).unwrap(), &expected, 2e-6);
            let here = (std::slice::from_ref(&own), on_device.as_mut_slice());
            let composed = composed::after(&attention, &part(&q), &part(&k), &part(&v), here).unwrap();
            close(&composed, &expected, 2e-6);
            on_device = [on_device[0].with_room(90).unwrap()];
        }
    }
}
