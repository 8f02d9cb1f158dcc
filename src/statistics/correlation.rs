//! How well one metric ranks the settings as another does.
//!
//! Spearman's ρ (American Journal of Psychology 15, 1904): Pearson's correlation of the ranks, ties at their mean rank.
//! Intervals: Fisher's z with the variance of Bonett & Wright (Psychometrika 65, 2000). p values: permutation tests, so
//! that they hold however the scores are distributed (Good, Permutation, Parametric, and Bootstrap Tests of Hypotheses,
//! 2005).
//!
//! A setting of which a score is NaN is left out. An infinite score stays: an infinite perplexity is a rank, the worst.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

use super::verdict::LEVEL;

pub use super::exchange::to_best;

/// The fewest settings that have a ranking to speak of: of 4, the best agreement there is has p = 2/4! = 0.08; of 5, 0.02.
/// With fewer, or where a side is constant, every function here returns None.
pub const FEWEST: usize = 5;

/// The most settings of which all orders are looked at: 8! = 40,320.
const ALL_ORDERS: usize = 8;
/// What is drawn beyond: as many as keep the smallest p, 1 in 16,384, below the level after Holm over 800 tests.
pub(super) const DRAWS: usize = (1 << 14) - 1;

/// Spearman's ρ.
pub fn spearman(points: &[(f64, f64)]) -> Option<f64> {
    let (x, y) = ranked(points)?;
    Some(correlation(&x, &y))
}

/// The 95% interval of ρ, of as many that are looked at together: all of them hold at once (Bonferroni), so that the best of
/// them, which was chosen for its ρ, is covered like any other. By itself, the interval of the best of eight lies too high in up to
/// 15% of studies. At ρ = ±1, where z is infinite, it is that of a ρ half way to the next one that as many
/// settings can have, 1 - 12/(n³ - n), and reaches to ±1. Of normal scores it covers 92.5% (8 settings, ρ = 0.8) to
/// 99% of the time at 5 to 40 settings.
pub fn interval(points: &[(f64, f64)], together: usize) -> Option<(f64, f64)> {
    let (x, y) = ranked(points)?;
    let (rho, n) = (correlation(&x, &y), x.len() as f64);
    let most = 1.0 - 6.0 / (n.powi(3) - n);
    let kept = rho.clamp(-most, most);
    let level = LEVEL / together.max(1) as f64;
    let reach = Normal::standard().inverse_cdf(1.0 - level / 2.0) * ((1.0 + kept * kept / 2.0) / (n - 3.0)).sqrt();
    Some(((kept.atanh() - reach).tanh().min(rho), (kept.atanh() + reach).tanh().max(rho)))
}

/// p of "the two rankings have nothing to do with each other", two-sided: among all orders up to 8 settings, among 16,383
/// drawn ones and the one found beyond.
pub fn p_value(points: &[(f64, f64)]) -> Option<f64> {
    let (x, mut y) = ranked(points)?;
    let product = |y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>().abs();
    let found = product(&y);
    let (mut as_far, mut all) = (0, 0);
    let mut count = |y: &[f64]| {
        all += 1;
        as_far += usize::from(product(y) >= found);
    };
    if y.len() <= ALL_ORDERS {
        for_each_order(&mut y, 0, &mut count);
    } else {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        count(&y);
        for _ in 0..DRAWS {
            y.shuffle(&mut random);
            count(&y);
        }
    }
    Some(as_far as f64 / all as f64)
}

/// The ranks of both sides. None where there is no ranking.
fn ranked(points: &[(f64, f64)]) -> Option<(Vec<f64>, Vec<f64>)> {
    let known = points.iter().filter(|(x, y)| !(x.is_nan() || y.is_nan()));
    let (x, y): (Vec<f64>, Vec<f64>) = known.copied().unzip();
    let (x, y) = (ranks(&x), ranks(&y));
    (x.len() >= FEWEST && !is_constant(&x) && !is_constant(&y)).then_some((x, y))
}

/// Twice the ranks, less their mean: whole numbers, so that sums are exact and equal ones equal. Ties at the mean rank.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let above = values.len() - below - tied.len();
        tied.iter().for_each(|&i| ranks[i] = below as f64 - above as f64);
        below += tied.len();
    }
    ranks
}

pub(super) fn is_constant(values: &[f64]) -> bool {
    values.iter().all(|value| *value == values[0])
}

/// Pearson's, of ranks; 0 where a side is constant, which an exchange of tied ranks can make it.
pub(super) fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let scale = (product(x, x) * product(y, y)).sqrt();
    if scale > 0.0 { (product(x, y) / scale).clamp(-1.0, 1.0) } else { 0.0 }
}

/// Calls with every order of what comes from `from` on.
fn for_each_order(values: &mut [f64], from: usize, call: &mut impl FnMut(&[f64])) {
    if from == values.len() {
        return call(values);
    }
    for i in from..values.len() {
        values.swap(from, i);
        for_each_order(values, from + 1, call);
        values.swap(from, i);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rand::RngExt;

    use super::super::exchange::difference;
    use super::*;

    #[track_caller]
    fn assert_close(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} is not {expected}");
    }

    fn points(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
        x.iter().copied().zip(y.iter().copied()).collect()
    }

    pub fn normal(random: &mut ChaCha8Rng) -> f64 {
        let (radius, angle) = (1.0 - random.random::<f64>(), random.random::<f64>());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// `n` of them, each `share` of the truth's and noise else.
    pub fn noisy(truth: &[f64], share: f64, random: &mut ChaCha8Rng) -> Vec<f64> {
        truth.iter().map(|value| share * value + (1.0 - share * share).sqrt() * normal(random)).collect()
    }

    /// How often of `times` something is found, and what 5.5% would at most be found with luck of two standard errors.
    pub fn share(times: u32, seed: u64, mut found: impl FnMut(&mut ChaCha8Rng) -> bool) -> (f64, f64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let count = (0..times).filter(|_| found(&mut random)).count() as f64;
        (count / f64::from(times), 0.055 + 2.0 * (0.05 * 0.95 / f64::from(times)).sqrt())
    }

    #[test]
    fn correlations_are_those_of_scipy() {
        // spearmanr(x, y).statistic
        let (x, y) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [2.0, 1.0, 4.0, 3.0, 3.0, 7.0, 6.0, 9.0]);
        assert_close(spearman(&points(&x, &y)), 0.8742671711966791);
        let (x, y) = ([1.0, 1.0, 2.0, 3.0, 3.0, 3.0], [5.0, 4.0, 4.0, 2.0, 2.0, 1.0]);
        assert_close(spearman(&points(&x, &y)), -0.9057894597833127);
    }

    #[test]
    fn p_values_are_those_of_all_orders() {
        // The share of itertools.permutations whose |ρ| by scipy.stats.rankdata is as large.
        let (x, y) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [2.0, 1.0, 4.0, 3.0, 3.0, 7.0, 6.0, 9.0]);
        assert_close(p_value(&points(&x, &y)), 0.007242063492063492);
    }

    #[test]
    fn drawn_orders_come_near_the_t_distribution() {
        // spearmanr(range(12), y).pvalue
        let y = [3.0, 1.0, 0.0, 7.0, 2.0, 5.0, 11.0, 4.0, 6.0, 10.0, 8.0, 9.0];
        let twelve: Vec<f64> = (0..12).map(f64::from).collect();
        assert!((p_value(&points(&twelve, &y)).unwrap() - 0.008239768712).abs() < 0.003);
        assert_eq!(p_value(&points(&twelve, &twelve)), Some(1.0 / (DRAWS + 1) as f64));
    }

    #[test]
    fn an_interval_has_a_width_at_perfect_agreement_too_and_covers() {
        for n in [5_u8, 6, 8, 12, 18, 40] {
            let up: Vec<f64> = (0..n).map(f64::from).collect();
            let (low, high) = interval(&points(&up, &up), 1).unwrap();
            assert!(low < 1.0 && high == 1.0 && low > 0.0);
            for rho in [0.0, 0.5, 0.8, 0.95] {
                // Of normal values, Spearman's ρ is 6/π asin(r/2) if Pearson's is r.
                let r = 2.0 * (rho * std::f64::consts::PI / 6.0).sin();
                let (missed, _) = share(2000, 7, |random| {
                    let x: Vec<f64> = (0..n).map(|_| normal(random)).collect();
                    let y = noisy(&x, r, random);
                    interval(&points(&x, &y), 1).is_none_or(|(low, high)| !(low..=high).contains(&rho))
                });
                assert!(missed < 0.08, "{missed} at {n} settings, {rho}");
            }
        }
    }

    #[test]
    fn of_many_metrics_the_one_that_ranks_best_has_an_interval_that_covers() {
        for n in [6_u8, 10, 16] {
            for r in [0.0, 0.5, 0.8] {
                let rho = 6.0 / std::f64::consts::PI * f64::asin(r / 2.0);
                let (missed, at_most) = share(1000, 11, |random| {
                    let score: Vec<f64> = (0..n).map(|_| normal(random)).collect();
                    let metrics: Vec<Vec<f64>> = (0..8).map(|_| noisy(&score, r, random)).collect();
                    let all = metrics.iter().map(|metric| points(metric, &score));
                    let best = all.max_by(|a, b| spearman(a).unwrap().total_cmp(&spearman(b).unwrap())).unwrap();
                    interval(&best, 8).is_none_or(|(low, high)| !(low..=high).contains(&rho))
                });
                assert!(missed <= at_most, "{missed} at {n} settings, {r}");
            }
        }
    }

    #[test]
    fn tests_hold_their_level() {
        for (n, times) in [(6, 2000), (8, 100), (12, 200), (18, 200)] {
            let (found, at_most) = share(times, 1, |random| {
                let of_noise: Vec<_> = (0..n).map(|_| (normal(random), normal(random))).collect();
                p_value(&of_noise).unwrap() < 0.05
            });
            assert!(found <= at_most, "{found} of p values at {n} settings");
        }
    }

    #[test]
    fn without_a_ranking_there_is_no_figure() {
        let none = |points: &[(f64, f64)]| {
            let [x, y] = [points.iter().map(|p| p.0).collect::<Vec<_>>(), points.iter().map(|p| p.1).collect()];
            spearman(points).is_none()
                && interval(points, 1).is_none()
                && p_value(points).is_none()
                && difference(&x, &x, &y).is_none()
        };
        let rising: Vec<_> = (0..9).map(|i| (f64::from(i), f64::from(i))).collect();
        assert!(none(&[]) && none(&rising[..FEWEST - 1]) && !none(&rising[..FEWEST]));
        assert!(none(&rising.iter().map(|point| (point.0, 2.0)).collect::<Vec<_>>()));
        assert!(none(&rising.iter().map(|point| (f64::NAN, point.1)).collect::<Vec<_>>()));
        // NaN is left out, infinity is the largest.
        let with = |value: f64| spearman(&[&rising[..8], &[(value, 8.0)]].concat());
        assert_eq!((with(f64::NAN), with(f64::INFINITY)), (Some(1.0), Some(1.0)));
        assert!(with(f64::NEG_INFINITY).unwrap() < 0.5);
    }
}
