//! Causal attention within spans of a batch, and after cached keys and values.
//!
//! What is computed is said once, by [`Attention`]; there is a body for the CPU ([`host`]: one task a stripe of a span's
//! rows, in loops of our own), one for CUDA devices ([`cuda`]), and one composed of candle's operations ([`composed`]) for
//! other devices and for what the kernels lack. They are tested against each other.

mod composed;
#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod kv;
#[cfg(any(feature = "cuda", test))]
mod pieces;

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

pub use kv::KvCache;

use super::rope::{Rope, Ropes};
use super::spec::{Alibi, AttentionSpec, Heads};

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

/// Softmax attention of queries to keys and values: what is turned, how scores are made of the products, and what is
/// seen.
#[derive(Clone)]
pub struct Attention {
    pub heads: Heads,
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// Scores s become cap·tanh(s/cap).
    pub cap: Option<f32>,
    /// A token sees so many positions, its own among them; None where it sees all up to its own.
    pub window: Option<usize>,
    /// Turns queries and keys by their positions; None leaves them.
    pub rope: Option<Rope>,
    /// What the score of a query head gains from one position of the key to the next, and whether products are rounded to
    /// bf16.
    pub alibi: Option<(Vec<f32>, bool)>,
    /// Positions that there may be.
    pub positions: usize,
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
    pub fn new(spec: &AttentionSpec, ropes: &Ropes, dtype: DType) -> Self {
        let alibi = |alibi: Alibi| {
            let slopes = Alibi::slopes(spec.heads.query).into_iter();
            match alibi.falcon {
                true => (slopes.map(|slope| bf16::from_f32(slope).to_f32()).collect(), true),
                false => (slopes.collect(), false),
            }
        };
        Self {
            heads: spec.heads,
            scale: spec.scale,
            cap: spec.cap,
            // One that cuts nothing is none.
            window: spec.window.filter(|&window| window < ropes.positions()),
            rope: spec.rope.map(|index| ropes.get(index).clone()),
            alibi: spec.alibi.map(alibi),
            positions: ropes.positions(),
            precision: if dtype == DType::BF16 { Precision::Bf16 } else { Precision::F32 },
        }
    }

    /// What all heads see of all before, whole heads turned by halves.
    #[cfg(test)]
    pub fn plain(heads: Heads, rope: Rope, precision: Precision) -> Self {
        let (scale, positions) = (heads.scale(), rope.cos.dims()[0]);
        let rope = Some(rope);
        Self { heads, scale, cap: None, window: None, rope, alibi: None, positions, precision }
    }

    /// Attention within each span.
    ///
    /// q (tokens × query·dim), k and v (tokens × key_value·dim) → (tokens × query·dim). The spans lie one
    /// after the other; positions count from the start of each, or of its prefix.
    pub fn within(&self, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
        self.check(spans.iter().map(Span::seen).max().unwrap_or(0))?;
        match q.device() {
            Device::Cpu => host::within(self, q, k, v, spans),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if self.has_kernels() => cuda::within(self, q, k, v, spans),
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
        self.check(own.iter().zip(&*caches).map(|(own, cache)| cache.tokens() + own.len()).max().unwrap_or(0))?;
        match q.device() {
            Device::Cpu => host::after(self, q, k, v, (own, caches)),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if self.has_kernels() => cuda::after(self, q, k, v, (own, caches)),
            _ => composed::after(self, q, k, v, (own, caches)),
        }
    }

    /// An error where a window is longer than the positions that there are.
    fn check(&self, tokens: usize) -> Result<()> {
        match tokens > self.positions {
            true => bail!("a window of {tokens} tokens is longer than the {} positions of the tables", self.positions),
            false => Ok(()),
        }
    }

    /// Whether the CUDA kernels compute it: they know neither windows nor caps, and turn whole heads by halves.
    #[cfg(feature = "cuda")]
    fn has_kernels(&self) -> bool {
        let whole = |rope: &Rope| !rope.interleaved && rope.dim() == self.heads.dim && rope.alike_up_to() == usize::MAX;
        let plain = self.cap.is_none() && self.window.is_none() && self.alibi.is_none();
        let known = plain && self.rope.as_ref().is_some_and(whole);
        if !known {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                tracing::info!(
                    "attention of this kind has no kernels of calipr's; it goes through candle's operations"
                );
            });
        }
        known
    }

    /// What is added to the score of a key at a position, scaled like it where that is Falcon's way.
    fn bias(&self, head: usize, position: usize) -> f32 {
        match &self.alibi {
            None => 0.0,
            Some((slopes, false)) => slopes[head] * position as f32,
            Some((slopes, true)) => bf16::from_f32(slopes[head] * position as f32).to_f32() * self.scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parts::elementwise::tests::{close, random};
    use crate::model::rope::{RopeScaling, RopeSpec};

    const HEADS: Heads = Heads { query: 6, key_value: 2, dim: 16 };

    fn rope(positions: usize, dim: usize, interleaved: bool) -> Rope {
        let rope = RopeSpec { theta: 10_000.0, dim, interleaved, scaling: RopeScaling::None };
        Rope::new(&rope, positions, &Device::Cpu).unwrap()
    }

    fn attention(positions: usize, precision: Precision) -> Attention {
        Attention::plain(HEADS, rope(positions, HEADS.dim, false), precision)
    }

    /// Everything that differs from it.
    fn kinds(positions: usize, precision: Precision) -> Vec<Attention> {
        let plain = || attention(positions, precision);
        let alibi = |falcon| Attention { rope: None, alibi: Some((Alibi::slopes(6), falcon)), ..plain() };
        vec![
            plain(),
            Attention { window: Some(7), ..plain() },
            Attention { window: Some(64), scale: 0.1, ..plain() },
            Attention { cap: Some(1.5), ..plain() },
            Attention { rope: None, ..plain() },
            Attention { rope: Some(rope(positions, 8, false)), ..plain() },
            Attention { rope: Some(rope(positions, HEADS.dim, true)), ..plain() },
            Attention { rope: Some(rope(positions, 8, true)), window: Some(40), ..plain() },
            alibi(false),
            alibi(true),
        ]
    }

    const PRECISIONS: [(Precision, f32); 2] = [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)];

    #[test]
    fn attention_equals_candles_operations_on_spans_of_unequal_length() {
        let (q, k, v) = (random((200, 96), 0.1), random((200, 32), 0.2), random((200, 32), 0.3));
        let mut spans = [0..70, 70..71, 71..160].map(Span::window).to_vec();
        spans.extend([160..163, 163..200].map(|own| Span { prefix: 0..70, own }));
        for (precision, tolerance) in PRECISIONS {
            for attention in kinds(130, precision) {
                let composed = composed::within(&attention, &q, &k, &v, &spans).unwrap();
                close(&attention.within(&q, &k, &v, &spans).unwrap(), &composed, tolerance);
            }
        }
    }

    #[test]
    fn a_span_after_a_prefix_equals_the_end_of_the_whole_window() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        for (precision, tolerance) in PRECISIONS {
            for attention in kinds(90, precision) {
                let whole = attention.within(&q, &k, &v, &[Span::window(0..90)]).unwrap();
                let spans = [Span::window(0..50), Span { prefix: 0..50, own: 50..90 }];
                close(&attention.within(&q, &k, &v, &spans).unwrap(), &whole, tolerance);
            }
        }
    }

    #[test]
    fn attention_with_a_cache_equals_the_whole_window_piece_by_piece() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        for attention in kinds(90, Precision::F32) {
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

    /// Scores by the formulas, key by key, in f64.
    #[test]
    fn what_is_seen_and_how_it_is_scored_is_as_the_formulas_say() {
        let heads = Heads { query: 2, key_value: 1, dim: 4 };
        let (q, k, v) = (random((9, 8), 0.1), random((9, 4), 0.2), random((9, 4), 0.3));
        let alibi = Some((Alibi::slopes(2), false));
        let scale = 0.7;
        let plain = || Attention { rope: None, scale, ..Attention::plain(heads, rope(9, 4, false), Precision::F32) };
        for (how, window, cap) in [
            (Attention { window: Some(3), ..plain() }, 3, None),
            (Attention { cap: Some(2.0), window: Some(4), ..plain() }, 4, Some(2.0)),
            (Attention { alibi, ..plain() }, 9, None),
        ] {
            let ours = how.within(&q, &k, &v, &[Span::window(0..9)]).unwrap().to_vec2::<f32>().unwrap();
            let rows = |x: &Tensor| x.to_vec2::<f32>().unwrap();
            let (q, k, v) = (rows(&q), rows(&k), rows(&v));
            for (i, head) in (0..9).flat_map(|i| [(i, 0), (i, 1)]) {
                let seen = (i + 1usize).saturating_sub(window)..i + 1;
                let score = |j: usize| {
                    let dot: f64 = (0..4).map(|d| f64::from(q[i][4 * head + d]) * f64::from(k[j][d])).sum();
                    let score = dot * f64::from(scale);
                    let score = cap.map_or(score, |cap: f64| cap * (score / cap).tanh());
                    // Slopes of two heads: 2^-4 and 2^-8.
                    score + how.alibi.as_ref().map_or(0.0, |_| [2f64.powi(-4), 2f64.powi(-8)][head] * j as f64)
                };
                let weights: Vec<f64> = seen.clone().map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..4 {
                    let expected: f64 = seen.clone().zip(&weights).map(|(j, w)| w / sum * f64::from(v[j][d])).sum();
                    assert!((f64::from(ours[i][4 * head + d]) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn slopes_of_any_number_of_heads_are_the_published_ones() {
        assert_eq!(Alibi::slopes(8)[..3], [0.5, 0.25, 0.125]);
        let of_twelve = Alibi::slopes(12);
        assert_eq!(of_twelve[..8], Alibi::slopes(8));
        assert_eq!(of_twelve[8..], [0, 2, 4, 6].map(|i| Alibi::slopes(16)[i]));
    }
}
