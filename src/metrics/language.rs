//! Loss, divergences and agreement at given positions of samples, and log-likelihoods of texts.
//!
//! Both models' logits are recomputed from their last hidden states, a chunk of positions at a time,
//! and everything is read off them in one parallel pass, or on the device where they are: logits of the whole suite
//! never exist.

use std::ops::{Add, AddAssign, Mul, Sub};

use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::registry::{Traits, metrics};
use super::{Metric, on_device};
use crate::linalg::simd::{self, LANES};
use crate::model::{Head, device};
use crate::statistics::Quantity;
use crate::tensors;

metrics! { Language:
    /// Mean negative log-likelihood of a token, in nats: of windows every token, of rows those of the target.
    LOSS = "loss", |s| s.loss, Traits::LOSS;
    /// exp of the mean token loss over all samples.
    PERPLEXITY = "perplexity", |s| s.loss, Traits {
        unit: "",
        quantity: Quantity::EXP.within(0.0, f64::INFINITY),
        made_of: Some(Metric::LOSS),
        is_headline: true,
        ..Traits::LOSS
    };
    /// Jensen-Shannon divergence of the next-token distribution from the dense model's, mean over
    /// positions, in nats (at most ln 2).
    JS_DIVERGENCE = "js_divergence", |s| s.js, Traits {
        quantity: Quantity::MEAN.within(0.0, std::f64::consts::LN_2),
        is_headline: true,
        ..Traits::DIVERGENCE
    };
    /// Kullback-Leibler divergence KL(dense ‖ pruned), mean over positions, in nats.
    KL_DIVERGENCE = "kl_divergence", |s| s.kl, Traits::DIVERGENCE;
    /// Fraction of positions at which the most likely token is the dense model's.
    TOP1_AGREEMENT = "top1_agreement", |s| s.agreement, Traits { is_of_dense: true, ..Traits::SCORE };
}

/// Scores summed over positions: of one sample, or of many.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Scores {
    /// Tokens that were predicted.
    pub positions: f64,
    pub loss: f64,
    pub js: f64,
    pub kl: f64,
    pub agreement: f64,
}

impl AddAssign<&Scores> for Scores {
    fn add_assign(&mut self, other: &Self) {
        self.positions += other.positions;
        self.loss += other.loss;
        self.js += other.js;
        self.kl += other.kl;
        self.agreement += other.agreement;
    }
}

/// Positions whose logits exist at once; two such chunks, of the dense and the pruned model.
const CHUNK: usize = 128;

/// Bytes of a chunk's logits on a device, which has more to do at once.
const DEVICE_CHUNK_BYTES: usize = 512 << 20;

/// A token that a hidden state predicts, and the sample that its score is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    pub sample: usize,
    pub id: u32,
}

/// The scores of `samples` samples, summed over their positions.
///
/// Row i of `states` and of the dense ones (positions × hidden), last hidden states after the final norm, predicts
/// `predictions[i]`; the head beside them (vocabulary × hidden) turns them into logits, on the device that it is on. Both
/// heads have one vocabulary. Without `dense`, the model is compared with itself.
pub fn score_positions(
    predictions: &[Prediction],
    samples: usize,
    dense: Option<(&Tensor, &Head)>,
    (states, head): (&Tensor, &Head),
) -> Result<Vec<Scores>> {
    let mut scores = vec![Scores::default(); samples];
    let Some((dense, dense_head)) = dense else {
        each_likelihood(predictions, states, head, |prediction, likelihood| {
            let itself = Scores { positions: 1.0, loss: -likelihood, agreement: 1.0, ..Scores::default() };
            scores[prediction.sample] += &itself;
        })?;
        return Ok(scores);
    };
    if !head.device().is_cpu() {
        each_chunk_on_device(predictions, states, head, |first, predictions, ids, logits| {
            let dense = logits_on_device(&dense.narrow(0, first, ids.len())?, dense_head)?;
            let scored = on_device::compare(&dense, logits, ids)?;
            scored.iter().zip(predictions).for_each(|(s, p)| scores[p.sample] += s);
            Ok(())
        })?;
        return Ok(scores);
    }
    let vocabulary = head.vocabulary();
    let mut dense_logits = vec![0f32; CHUNK.min(predictions.len()) * vocabulary];
    each_chunk(predictions, states, head, |first, predictions, logits| {
        let dense_logits = &mut dense_logits[..logits.len()];
        recompute_logits(&dense.narrow(0, first, predictions.len())?, dense_head, dense_logits)?;
        let pairs = dense_logits.par_chunks(vocabulary).zip(logits.par_chunks(vocabulary)).zip(predictions);
        let scored: Vec<Scores> = pairs
            .map_init(Scratch::default, |scratch, ((dense, pruned), prediction)| {
                compare_f32(dense, pruned, prediction.id as usize, scratch)
            })
            .collect();
        scored.iter().zip(predictions).for_each(|(s, p)| scores[p.sample] += s);
        Ok(())
    })?;
    Ok(scores)
}

/// The log-likelihood of `samples` texts in nats, summed over their tokens; the arguments are as for
/// [`score_positions`].
pub fn log_likelihoods(predictions: &[Prediction], samples: usize, states: &Tensor, head: &Head) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; samples];
    each_likelihood(predictions, states, head, |prediction, likelihood| sums[prediction.sample] += likelihood)?;
    Ok(sums)
}

/// Calls `f` with every prediction and its log-likelihood, in order.
fn each_likelihood(
    predictions: &[Prediction],
    states: &Tensor,
    head: &Head,
    mut f: impl FnMut(&Prediction, f64),
) -> Result<()> {
    if !head.device().is_cpu() {
        return each_chunk_on_device(predictions, states, head, |_, predictions, ids, logits| {
            on_device::likelihoods(logits, ids)?.iter().zip(predictions).for_each(|(l, p)| f(p, *l));
            Ok(())
        });
    }
    let vocabulary = head.vocabulary();
    each_chunk(predictions, states, head, |_, predictions, logits| {
        let likelihoods: Vec<f64> = logits
            .par_chunks(vocabulary)
            .zip(predictions)
            .map_init(Vec::new, |scratch, (logits, prediction)| {
                let (max, sum) = exponentials_f32(logits, scratch);
                f64::from(logits[prediction.id as usize] - max) - sum.ln()
            })
            .collect();
        likelihoods.iter().zip(predictions).for_each(|(l, p)| f(p, *l));
        Ok(())
    })
}

/// Calls `f` with every chunk of predictions: the number of its first row, the predictions, and their logits.
pub(super) fn each_chunk(
    predictions: &[Prediction],
    states: &Tensor,
    head: &Head,
    mut f: impl FnMut(usize, &[Prediction], &[f32]) -> Result<()>,
) -> Result<()> {
    let vocabulary = head.vocabulary();
    let mut logits = vec![0f32; CHUNK.min(predictions.len()) * vocabulary];
    for (chunk, predictions) in predictions.chunks(CHUNK).enumerate() {
        let logits = &mut logits[..predictions.len() * vocabulary];
        recompute_logits(&states.narrow(0, chunk * CHUNK, predictions.len())?, head, logits)?;
        f(chunk * CHUNK, predictions, logits)?;
    }
    Ok(())
}

/// As [`each_chunk`] on the head's device: the tokens predicted are there once more as a list, and logits are f32. Where
/// the device's memory does not suffice, chunks are halved; `f` then changed nothing.
pub(super) fn each_chunk_on_device(
    predictions: &[Prediction],
    states: &Tensor,
    head: &Head,
    mut f: impl FnMut(usize, &[Prediction], &[u32], &Tensor) -> Result<()>,
) -> Result<()> {
    let logits_bytes = head.vocabulary() * size_of::<f32>();
    let (mut at, mut size) = (0, (DEVICE_CHUNK_BYTES / logits_bytes.max(1)).max(CHUNK));
    while at < predictions.len() {
        let here = &predictions[at..predictions.len().min(at + size)];
        let ids: Vec<u32> = here.iter().map(|p| p.id).collect();
        let scored = states
            .narrow(0, at, here.len())
            .map_err(anyhow::Error::new)
            .and_then(|states| logits_on_device(&states, head))
            .and_then(|logits| f(at, here, &ids, &logits));
        match scored {
            Ok(()) => at += here.len(),
            Err(error) if device::is_out_of_memory(&error) && size > 1 => size /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn logits_on_device(states: &Tensor, head: &Head) -> Result<Tensor> {
    // The rows alone: as a part of a larger tensor, all of that would be taken to the device.
    let states = tensors::to_dtype(&states.force_contiguous()?, head.linear.weight().dtype())?;
    Ok(head.logits_of_normed(&states.to_device(head.device())?)?)
}

/// Logits of `states` (rows × hidden) into `logits` (rows × vocabulary).
fn recompute_logits(states: &Tensor, head: &Head, logits: &mut [f32]) -> Result<()> {
    Ok(tensors::with_values(states, |states| head.write_logits(states, logits))??)
}

/// The float that a comparison is computed in: f32 with vector functions for studies, f64 with the
/// standard library's where a test wants the formula to more digits.
trait Real: Copy + Default + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    fn of(x: f64) -> Self;
    fn widen(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn widen(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        simd::exp_fused(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        simd::ln_fused(self)
    }
}

/// Room for one position's exponentials, reused.
#[derive(Default)]
struct Scratch<T> {
    dense: Vec<T>,
    pruned: Vec<T>,
}

/// Values summed in T before they go into an f64: few enough that f32 loses nothing that shows.
const SPAN: usize = 1024;

/// Scores of one position, from the logits of the dense model (distribution p) and the pruned one (q).
///
/// With d = ln q − ln p and t = ln(½ + ½·eᵈ) = ln(m/p), where m = (p + q)/2:
/// JS = ½·Σ p·ln(p/m) + q·ln(q/m) = ½·Σ q·d − (p + q)·t, and KL(p ‖ q) = −Σ p·d.
/// Written so, both are exactly 0 where the logits are equal. d is held within ±80 for t, beyond which
/// one of p and q is nothing beside the other.
#[inline(always)]
fn compare<T: Real>(dense: &[T], pruned: &[T], target: usize, scratch: &mut Scratch<T>) -> Scores {
    let (dense_max, dense_sum) = exponentials(dense, &mut scratch.dense);
    let (pruned_max, pruned_sum) = exponentials(pruned, &mut scratch.pruned);
    let pair = Pair {
        dense_max,
        pruned_max,
        p_scale: T::of(dense_sum.recip()),
        q_scale: T::of(pruned_sum.recip()),
        // ln q − ln p = (z_q − max_q) − (z_p − max_p) − (ln Σ_q − ln Σ_p)
        shift: T::of(pruned_sum.ln() - dense_sum.ln()),
    };
    let (mut js, mut kl) = (0.0, 0.0);
    let logits = dense.chunks(SPAN).zip(pruned.chunks(SPAN));
    let exponentials = scratch.dense.chunks(SPAN).zip(scratch.pruned.chunks(SPAN));
    for ((zp, zq), (ep, eq)) in logits.zip(exponentials) {
        let mut lanes = ([T::default(); LANES], [T::default(); LANES]);
        let (zp, zp_rest) = zp.as_chunks::<AT_ONCE>();
        let (zq, zq_rest) = zq.as_chunks::<AT_ONCE>();
        let (ep, ep_rest) = ep.as_chunks::<AT_ONCE>();
        let (eq, eq_rest) = eq.as_chunks::<AT_ONCE>();
        for (((zp, zq), ep), eq) in zp.iter().zip(zq).zip(ep).zip(eq) {
            pair.add(zp, zq, ep, eq, &mut lanes);
        }
        if !zp_rest.is_empty() {
            // Padded with positions of no probability, which add nothing.
            let pad = |rest: &[T], with: T| {
                let mut padded = [with; AT_ONCE];
                padded[..rest.len()].copy_from_slice(rest);
                padded
            };
            let (zp, zq) = (pad(zp_rest, dense_max), pad(zq_rest, pruned_max));
            pair.add(&zp, &zq, &pad(ep_rest, T::default()), &pad(eq_rest, T::default()), &mut lanes);
        }
        js += lanes.0.iter().map(|x| x.widen()).sum::<f64>();
        kl += lanes.1.iter().map(|x| x.widen()).sum::<f64>();
    }
    let best = first_of(pruned, pruned_max);
    Scores {
        positions: 1.0,
        loss: pruned_sum.ln() - (pruned[target] - pruned_max).widen(),
        js: 0.5 * js,
        kl,
        agreement: if dense[best] == dense_max { 1.0 } else { 0.0 },
    }
}

simd::vectorized! {
    /// [`compare`] as studies use it.
    fn compare_f32(dense: &[f32], pruned: &[f32], target: usize, scratch: &mut Scratch<f32>) -> Scores {
        compare(dense, pruned, target, scratch)
    }
}

simd::vectorized! {
    /// [`exponentials`] as studies use it.
    fn exponentials_f32(logits: &[f32], out: &mut Vec<f32>) -> (f32, f64) {
        exponentials(logits, out)
    }
}

/// What turns logits and exponentials of a position into probabilities and their ratio.
struct Pair<T> {
    dense_max: T,
    pruned_max: T,
    p_scale: T,
    q_scale: T,
    shift: T,
}

/// Words that a step of a comparison takes at once: what one needs for its exponential and its logarithm is a long chain, and a
/// processor has others to go on with where each step is a loop of its own.
const AT_ONCE: usize = 128;

impl<T: Real> Pair<T> {
    /// Adds 2·JS and KL of some words to the lanes.
    #[inline(always)]
    fn add(
        &self,
        zp: &[T; AT_ONCE],
        zq: &[T; AT_ONCE],
        ep: &[T; AT_ONCE],
        eq: &[T; AT_ONCE],
        lanes: &mut ([T; LANES], [T; LANES]),
    ) {
        let (half, limit) = (T::of(0.5), T::of(80.0));
        let low = T::default() - limit;
        let [mut d, mut held, mut t] = [[T::default(); AT_ONCE]; 3];
        for i in 0..AT_ONCE {
            d[i] = ((zq[i] - self.pruned_max) - (zp[i] - self.dense_max)) - self.shift;
            held[i] = if d[i] > limit { limit } else { d[i] };
            held[i] = if held[i] < low { low } else { held[i] };
        }
        for i in 0..AT_ONCE {
            t[i] = half + half * held[i].exp();
        }
        for t in &mut t {
            *t = t.ln();
        }
        for first in (0..AT_ONCE).step_by(LANES) {
            for lane in 0..LANES {
                let i = first + lane;
                let (p, q) = (ep[i] * self.p_scale, eq[i] * self.q_scale);
                lanes.0[lane] = lanes.0[lane] + (q * held[i] - (p + q) * t[i]);
                lanes.1[lane] = lanes.1[lane] - p * d[i];
            }
        }
    }
}

/// Where `value` stands first.
#[inline(always)]
fn first_of<T: Real>(values: &[T], value: T) -> usize {
    let holds = |chunk: &[T]| chunk.iter().fold(false, |found, &x| found | (x == value));
    let chunk = values.chunks(SPAN).position(holds).unwrap_or(0) * SPAN;
    chunk + values[chunk..].iter().position(|&x| x == value).unwrap_or(0)
}

/// e^(z − max) of every logit into `out`; the largest logit, and the sum.
#[inline(always)]
fn exponentials<T: Real>(logits: &[T], out: &mut Vec<T>) -> (T, f64) {
    let mut lanes = [logits[0]; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let max = lanes.iter().chain(rest).fold(logits[0], |m, &z| if z > m { z } else { m });

    out.resize(logits.len(), T::default());
    let mut sum = 0.0;
    for (logits, out) in logits.chunks(SPAN).zip(out.chunks_mut(SPAN)) {
        let mut lanes = [T::default(); LANES];
        let (from, from_rest) = logits.as_chunks::<LANES>();
        let (to, to_rest) = out.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            for i in 0..LANES {
                to[i] = (from[i] - max).exp();
                lanes[i] = lanes[i] + to[i];
            }
        }
        for ((lane, z), to) in lanes.iter_mut().zip(from_rest).zip(to_rest) {
            *to = (*z - max).exp();
            *lane = *lane + *to;
        }
        sum += lanes.iter().map(|x| x.widen()).sum::<f64>();
    }
    (max, sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Linear;
    use candle_core::Device;

    impl Real for f64 {
        fn of(x: f64) -> Self {
            x
        }
        fn widen(self) -> f64 {
            self
        }
        fn exp(self) -> Self {
            f64::exp(self)
        }
        fn ln(self) -> Self {
            f64::ln(self)
        }
    }

    /// Pairs of logits with their divergences as scipy computes them.
    #[derive(Deserialize)]
    struct Pair {
        logits_p: Vec<f64>,
        logits_q: Vec<f64>,
        js: f64,
        kl_pq: f64,
    }

    #[test]
    fn divergences_equal_scipys() {
        let pairs: Vec<Pair> = serde_json::from_str(include_str!("../../tests/fixtures/divergence.json")).unwrap();
        for pair in pairs {
            let exact = compare(&pair.logits_p, &pair.logits_q, 0, &mut Scratch::default());
            assert!((exact.js - pair.js).abs() < 1e-9, "{} {}", exact.js, pair.js);
            assert!((exact.kl - pair.kl_pq).abs() < 1e-9 * pair.kl_pq.max(1.0), "{} {}", exact.kl, pair.kl_pq);
            let narrow = |z: &[f64]| z.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            let fast = compare(&narrow(&pair.logits_p), &narrow(&pair.logits_q), 0, &mut Scratch::default());
            assert!((fast.js - pair.js).abs() < 1e-6, "{} {}", fast.js, pair.js);
            assert!((fast.kl - pair.kl_pq).abs() < 2e-6 * pair.kl_pq.max(1.0), "{} {}", fast.kl, pair.kl_pq);
        }
    }

    #[test]
    fn a_device_scores_as_the_host_does() {
        let (positions, vocabulary) = (7, 900);
        let logits = |seed: f32, size: f32| -> Vec<f32> {
            (0..positions * vocabulary).map(|i| ((i as f32 * 0.37 + seed) * 12.9898).sin() * size).collect()
        };
        let tensor = |v: &[f32]| Tensor::from_slice(v, (positions, vocabulary), &Device::Cpu).unwrap();
        let ids: Vec<u32> = (0..positions as u32).map(|i| i * 101).collect();
        for (dense, pruned) in [(logits(0.0, 3.0), logits(0.4, 3.0)), (logits(0.0, 60.0), logits(0.1, 90.0))] {
            let scores = on_device::compare(&tensor(&dense), &tensor(&pruned), &ids).unwrap();
            let likelihoods = on_device::likelihoods(&tensor(&pruned), &ids).unwrap();
            for (t, scores) in scores.iter().enumerate() {
                let wide =
                    |z: &[f32]| z[t * vocabulary..][..vocabulary].iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
                let exact = compare(&wide(&dense), &wide(&pruned), ids[t] as usize, &mut Scratch::default());
                let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
                close(scores.loss, exact.loss);
                close(scores.js, exact.js);
                close(scores.kl, exact.kl);
                close(likelihoods[t], -exact.loss);
                assert_eq!((scores.positions, scores.agreement), (1.0, exact.agreement));
            }
            let itself = on_device::compare(&tensor(&dense), &tensor(&dense), &ids).unwrap();
            assert!(itself.iter().all(|s| (s.js, s.kl, s.agreement) == (0.0, 0.0, 1.0)));
        }
    }

    #[test]
    fn equal_logits_have_exactly_no_divergence() {
        let z: Vec<f32> = (0..1500).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let scores = compare(&z, &z, 3, &mut Scratch::default());
        assert_eq!((scores.js, scores.kl, scores.agreement), (0.0, 0.0, 1.0));
    }

    #[test]
    fn certain_models_that_disagree_are_ln_two_apart() {
        let (mut p, mut q) = (vec![-500f32; 40], vec![-500f32; 40]);
        (p[1], q[2]) = (500.0, 500.0);
        let scores = compare(&p, &q, 1, &mut Scratch::default());
        assert!((scores.js - 2f64.ln()).abs() < 1e-6, "{}", scores.js);
        assert_eq!((scores.loss, scores.agreement), (1000.0, 0.0));
    }

    #[test]
    fn chunks_are_scored_as_position_by_position() {
        let (hidden, vocabulary, positions) = (5, 37, 600);
        let predictions: Vec<Prediction> =
            (0..positions).map(|i| Prediction { sample: i / 250, id: (i * 7 % 37) as u32 }).collect();
        let states = |seed: f32| -> Vec<f32> { (0..600 * hidden).map(|i| (i as f32 * 0.31 + seed).sin()).collect() };
        let head: Vec<f32> = (0..vocabulary * hidden).map(|i| (i as f32 * 0.77).cos()).collect();
        let (dense, pruned) = (states(0.0), states(0.4));
        let tensor = |v: &[f32], rows| Tensor::from_slice(v, (rows, hidden), &Device::Cpu).unwrap();
        let (d, p, h) = (
            tensor(&dense, positions),
            tensor(&pruned, positions),
            Head::of(Linear::new(tensor(&head, vocabulary), None)),
        );
        let scored = score_positions(&predictions, 3, Some((&d, &h)), (&p, &h)).unwrap();
        let itself = score_positions(&predictions, 3, None, (&p, &h)).unwrap();
        assert_eq!(itself, score_positions(&predictions, 3, Some((&p, &h)), (&p, &h)).unwrap());
        let likelihoods = log_likelihoods(&predictions, 3, &p, &h).unwrap();

        let logits = |states: &[f32], t: usize| -> Vec<f64> {
            let dot = |v: usize| {
                (0..hidden).map(|j| f64::from(states[t * hidden + j]) * f64::from(head[v * hidden + j])).sum()
            };
            (0..vocabulary).map(dot).collect()
        };
        for (sample, scored) in scored.iter().enumerate() {
            let mut expected = Scores::default();
            for (t, prediction) in predictions.iter().enumerate().filter(|(_, p)| p.sample == sample) {
                let id = prediction.id as usize;
                expected += &compare(&logits(&dense, t), &logits(&pruned, t), id, &mut Scratch::default());
            }
            assert_eq!(scored.positions, expected.positions);
            assert!((scored.loss - expected.loss).abs() < 1e-5 * expected.loss);
            assert!((scored.loss + likelihoods[sample]).abs() < 1e-5 * expected.loss);
            assert!((scored.js - expected.js).abs() < 1e-5 * expected.js);
            assert!((scored.kl - expected.kl).abs() < 1e-5 * expected.kl);
            assert_eq!(scored.agreement, expected.agreement);
        }
    }
}
