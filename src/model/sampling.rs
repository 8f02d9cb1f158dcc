//! How the next token is chosen of its logits: transformers 5's processors of repetition, temperature, top k and top p, in
//! the order of its `_get_logits_processor` (generation/utils.py, generation/logits_process.py).
//!
//! A vocabulary is not sorted for one token: the likeliest few are looked for first, and more only where these do not do.

use std::cmp::Ordering;
use std::collections::HashSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::linalg::simd;

/// How the next token is chosen, and when a sequence ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    pub max_new_tokens: usize,
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// So many of the most likely tokens are drawn from, and those as likely as the last of them; None draws from all.
    pub top_k: Option<usize>,
    /// Only the most likely of these that together have this probability are drawn from.
    pub top_p: f64,
    /// Logits of tokens that the prompt or the answer has already are divided by it, or multiplied where they are below
    /// 0; 1 leaves them.
    pub repetition_penalty: f32,
    /// Each sequence draws from a stream of its own, so that what is decoded beside it does not matter.
    pub seed: u64,
    /// Tokens that end a text.
    pub end: Vec<u32>,
}

/// Room that one choice after the other is made in.
#[derive(Debug, Default)]
pub struct Room {
    /// Of the whole vocabulary, penalized and divided by the temperature.
    scores: Vec<f32>,
    /// Scores and tokens that may be drawn, the most likely first.
    kept: Vec<(f32, u32)>,
    /// eˢ of their scores, where the greatest has 1.
    weights: Vec<f64>,
}

impl Sampling {
    /// Takes the most likely token of a vocabulary's logits (the first of equals), or draws one. `seen` has the tokens that
    /// are there already.
    pub fn choose(&self, logits: &[f32], seen: &HashSet<u32>, random: &mut ChaCha8Rng, room: &mut Room) -> u32 {
        self.score(logits, seen, room);
        let Room { scores, kept, weights } = room;
        if self.temperature == 0.0 {
            return first_of_greatest(scores);
        }
        let drawn: f64 = random.random_range(0.0..1.0);
        // Of how many of the most likely tokens it is looked at whether they do.
        let mut most = self.top_k.unwrap_or(64).clamp(1, scores.len().max(1));
        loop {
            let (total, whole) = self.weigh(scores, most, kept, weights);
            let nucleus = self.nucleus(weights, total);
            if whole || nucleus < weights.len() {
                let mass: f64 = weights[..nucleus].iter().sum();
                return find(drawn * mass, &weights[..nucleus]).map_or(0, |i| kept[i].1);
            }
            if self.top_p >= 1.0
                && let Some(i) = find(drawn * total, weights)
            {
                return kept[i].1;
            }
            most = most.saturating_mul(16).min(scores.len());
        }
    }

    /// The logits as they are drawn from, but for what is left out.
    fn score(&self, logits: &[f32], seen: &HashSet<u32>, Room { scores, .. }: &mut Room) {
        scores.clear();
        scores.extend_from_slice(logits);
        let penalty = self.repetition_penalty;
        for &token in seen.iter().filter(|_| penalty != 1.0) {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
        if self.temperature != 0.0 && self.temperature != 1.0 {
            divide(scores, self.temperature as f32);
        }
    }

    /// The `most` likely tokens with their weights; the weights' sum over all tokens that top k leaves, and whether these
    /// are all.
    fn weigh(&self, scores: &[f32], most: usize, kept: &mut Vec<(f32, u32)>, weights: &mut Vec<f64>) -> (f64, bool) {
        likeliest(scores, most, kept);
        let greatest = kept.first().map_or(0.0, |first| first.0);
        weights.clear();
        weights.extend(kept.iter().map(|&(score, _)| f64::from(score - greatest).exp()));
        let whole = self.top_k.is_some() || kept.len() == scores.len() || most == scores.len();
        let total = if whole { weights.iter().sum() } else { sum_of_exp(scores, greatest) };
        (total, whole)
    }

    /// How many of the most likely tokens together have the probability `top_p`: transformers leaves out those that, with
    /// all that are less likely, have no more than 1 - `top_p`, compared in f32, and never the most likely one.
    fn nucleus(&self, weights: &[f64], total: f64) -> usize {
        if self.top_p >= 1.0 {
            return weights.len();
        }
        let left_out = (1.0 - self.top_p) as f32;
        let mut below = (total - weights.iter().sum::<f64>()).max(0.0) / total;
        let outside = |weight: &&f64| {
            below += f64::from(**weight as f32 / total as f32);
            below as f32 <= left_out
        };
        let outside = weights.iter().rev().take_while(outside).count();
        (weights.len() - outside).max(weights.len().min(1))
    }
}

/// -ln p of a token, by the softmax of logits as they are.
pub fn loss(logits: &[f32], token: u32) -> f64 {
    let greatest = greatest(logits);
    let of_token = logits.get(token as usize).map_or(f64::NAN, |&logit| f64::from(logit - greatest));
    sum_of_exp(logits, greatest).ln() - of_token
}

/// The first token of the greatest score: what greedy decoding takes.
pub fn first_of_greatest(scores: &[f32]) -> u32 {
    let greatest = greatest(scores);
    scores.iter().position(|&score| score == greatest).unwrap_or(0) as u32
}

/// Where a point between 0 and the sum of weights falls; None behind all.
fn find(mut point: f64, weights: &[f64]) -> Option<usize> {
    weights.iter().position(|weight| (point -= weight, point < 0.0).1)
}

/// The `count` greatest scores with their tokens, and all that are as great as the last of them; the greatest first, of
/// equals the last token first, as a stable sort from the least leaves them.
fn likeliest(scores: &[f32], count: usize, kept: &mut Vec<(f32, u32)>) {
    const CHUNK: usize = 64;
    kept.clear();
    // What is less is not among them.
    let mut least = f32::NEG_INFINITY;
    let mut full = 2 * count.max(CHUNK);
    for (chunk, first) in scores.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
        if least > f32::NEG_INFINITY && greatest(chunk) < least {
            continue;
        }
        kept.extend(chunk.iter().zip(first..).filter(|(score, _)| **score >= least).map(|(&score, i)| (score, i)));
        if kept.len() >= full {
            least = cut(kept, count);
            // Many that are equal stay, and make no work at every chunk.
            full = 2 * kept.len().max(CHUNK);
        }
    }
    cut(kept, count);
    kept.sort_unstable_by(descending);
}

/// Keeps the `count` greatest and all that are as great as the last of them, which is returned.
fn cut(kept: &mut Vec<(f32, u32)>, count: usize) -> f32 {
    if kept.len() <= count {
        return f32::NEG_INFINITY;
    }
    let least = kept.select_nth_unstable_by(count - 1, descending).1.0;
    kept.retain(|&(score, _)| score >= least);
    least
}

fn descending(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1))
}

simd::vectorized! {
    fn greatest(scores: &[f32]) -> f32 {
        simd::max(scores)
    }
}

simd::vectorized! {
    fn divide(scores: &mut [f32], by: f32) {
        scores.iter_mut().for_each(|score| *score /= by);
    }
}

simd::vectorized! {
    /// Σ eˢ⁻ᵍ of scores s, of which g is the greatest.
    fn sum_of_exp(scores: &[f32], greatest: f32) -> f64 {
        // In parts, whose sums in f32 are of few.
        let mut sum = 0f64;
        for part in scores.chunks(64 * simd::LANES) {
            let mut lanes = [0f32; simd::LANES];
            let (chunks, rest) = part.as_chunks::<{ simd::LANES }>();
            for chunk in chunks {
                for (lane, score) in lanes.iter_mut().zip(chunk) {
                    *lane += simd::exp(score - greatest);
                }
            }
            sum += f64::from(lanes.iter().sum::<f32>());
            sum += f64::from(rest.iter().map(|score| simd::exp(score - greatest)).sum::<f32>());
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use serde::Deserialize;

    fn sampling(temperature: f64, top_k: Option<usize>, top_p: f64) -> Sampling {
        Sampling { max_new_tokens: 1, temperature, top_k, top_p, repetition_penalty: 1.0, seed: 0, end: vec![] }
    }

    /// Draws one after the other.
    fn draws(sampling: &Sampling, logits: &[f32], seen: &HashSet<u32>) -> impl Iterator<Item = u32> {
        let (mut random, mut room) = (ChaCha8Rng::seed_from_u64(0), Room::default());
        std::iter::repeat_with(move || sampling.choose(logits, seen, &mut random, &mut room))
    }

    /// What may be drawn, with its probability, by the token.
    fn probabilities(sampling: &Sampling, logits: &[f32], seen: &HashSet<u32>) -> Vec<(u32, f64)> {
        let mut room = Room::default();
        sampling.score(logits, seen, &mut room);
        let Room { scores, kept, weights } = &mut room;
        let most = sampling.top_k.unwrap_or(usize::MAX).min(scores.len());
        let (total, whole) = sampling.weigh(scores, most, kept, weights);
        assert!(whole);
        let nucleus = sampling.nucleus(weights, total);
        let mass: f64 = weights[..nucleus].iter().sum();
        let mut probabilities: Vec<_> =
            kept.iter().map(|k| k.1).zip(weights[..nucleus].iter().map(|w| w / mass)).collect();
        probabilities.sort_unstable_by_key(|p| p.0);
        probabilities
    }

    /// What transformers' processors leave of logits; `tests/scripts/sampling.py`.
    #[derive(Deserialize)]
    struct Case {
        logits: Vec<f32>,
        seen: HashSet<u32>,
        repetition_penalty: Option<f32>,
        temperature: Option<f64>,
        top_k: Option<usize>,
        top_p: Option<f64>,
        kept: Vec<u32>,
        probabilities: Vec<f64>,
    }

    impl Case {
        fn sampling(&self) -> Sampling {
            let top_p = self.top_p.unwrap_or(1.0);
            let of_case = sampling(self.temperature.unwrap_or(1.0), self.top_k, top_p);
            Sampling { repetition_penalty: self.repetition_penalty.unwrap_or(1.0), ..of_case }
        }
    }

    fn cases() -> Vec<Case> {
        serde_json::from_str(include_str!("../../tests/fixtures/sampling.json")).unwrap()
    }

    #[test]
    fn what_may_be_drawn_and_how_likely_is_what_transformers_leaves() {
        for (i, case) in cases().iter().enumerate() {
            let ours = probabilities(&case.sampling(), &case.logits, &case.seen);
            assert_eq!(ours.iter().map(|p| p.0).collect::<Vec<_>>(), case.kept, "case {i}");
            for (ours, theirs) in ours.iter().zip(&case.probabilities) {
                assert!((ours.1 - theirs).abs() < 1e-5 * theirs + 1e-9, "case {i}: {ours:?} {theirs}");
            }
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_transformers_says() {
        let count = 20_000;
        for (i, case) in cases().iter().enumerate().step_by(19) {
            let mut drawn = vec![0f64; case.logits.len()];
            draws(&case.sampling(), &case.logits, &case.seen).take(count).for_each(|t| drawn[t as usize] += 1.0);
            for (&token, expected) in case.kept.iter().zip(&case.probabilities) {
                let share = std::mem::take(&mut drawn[token as usize]) / count as f64;
                // Five standard deviations.
                let tolerance = 5.0 * (expected * (1.0 - expected) / count as f64).sqrt() + 1.0 / count as f64;
                assert!((share - expected).abs() < tolerance, "case {i}, token {token}: {share} {expected}");
            }
            assert!(drawn.iter().all(|&rest| rest == 0.0), "case {i}: a token was drawn that is left out");
        }
    }

    /// A vocabulary so large, and so flat, that the likeliest few do not do.
    #[test]
    fn what_is_looked_at_first_does_not_show_in_what_is_drawn() {
        let logits: Vec<f32> = (0..40_000).map(|i| (i as f32 * 12.9898).sin() * 3.0).collect();
        let seen = HashSet::new();
        for how in [sampling(1.3, None, 1.0), sampling(0.7, None, 0.97), sampling(0.2, None, 0.3)] {
            let probabilities = probabilities(&how, &logits, &seen);
            let by = how.temperature as f32; // which makes equals of some
            let mut sorted: Vec<_> = probabilities.iter().map(|&(t, p)| (logits[t as usize] / by, t, p)).collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
            let mut random = ChaCha8Rng::seed_from_u64(0);
            for token in draws(&how, &logits, &seen).take(300) {
                let drawn: f64 = random.random_range(0.0..1.0);
                let at = sorted.iter().position(|t| t.1 == token).unwrap();
                let before: f64 = sorted[..at].iter().map(|t| t.2).sum();
                // But for rounding, which may let one token more or less into the nucleus.
                let (low, high) = (before - 5e-5, before + sorted[at].2 + 5e-5);
                assert!((low..high).contains(&drawn), "{token}: {drawn} is not in {low}..{high}");
            }
        }
    }

    #[test]
    fn the_loss_of_a_token_is_that_of_the_softmax() {
        let logits: Vec<f32> = (0..5000).map(|i| (i as f32 * 12.9898).sin() * 7.0).collect();
        let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        for token in [0, 17, 4999] {
            let expected = sum.ln() - f64::from(logits[token as usize]);
            assert!((loss(&logits, token) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn without_temperature_the_first_of_the_most_likely_is_taken() {
        let (logits, seen) = ([0.0, 2.0, 2.0, 1.0], HashSet::new());
        assert_eq!(draws(&sampling(0.0, None, 1.0), &logits, &seen).next(), Some(1));
        let penalized = Sampling { repetition_penalty: 3.0, ..sampling(0.0, Some(1), 0.5) };
        assert_eq!(draws(&penalized, &logits, &[1, 2].into()).next(), Some(3));
    }

    #[test]
    fn what_was_said_before_is_less_likely_once_however_often_it_was_said() {
        let logits = [1.1, -0.7, 0.3, -2.5, 0.0];
        let seen = [0, 1, 1, 4, 9].into_iter().collect();
        // transformers' RepetitionPenaltyLogitsProcessor.
        for (penalty, theirs) in
            [(1.3, [0.846_153_9, -0.909_999_97, 0.3, -2.5, 0.0]), (0.7, [1.571_428_7, -0.489_999_98, 0.3, -2.5, 0.0])]
        {
            let mut room = Room::default();
            Sampling { repetition_penalty: penalty, ..sampling(0.0, None, 1.0) }.score(&logits, &seen, &mut room);
            assert_eq!(room.scores, theirs);
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_no_panic() {
        for logits in
            [vec![f32::NAN; 5], vec![f32::NEG_INFINITY; 5], vec![f32::INFINITY; 5], vec![1.0, f32::NAN], vec![]]
        {
            for how in [sampling(0.0, None, 1.0), sampling(0.5, Some(2), 0.5), sampling(1.0, None, 1.0)] {
                let token = draws(&how, &logits, &HashSet::new()).next().unwrap();
                assert!((token as usize) < logits.len().max(1));
            }
        }
    }
}
