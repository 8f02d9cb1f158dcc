//! Estimates from scores of samples: the value, a 95% bootstrap interval, and the difference to another
//! model on the same samples, with a p-value.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Metric;

/// How often samples are drawn anew.
pub const RESAMPLES: usize = 1000;

/// What a sample adds to a metric: a sum, and what it is divided by (positions, or 1 for a row).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    pub sum: f64,
    pub weight: f64,
}

impl Share {
    /// The share of one row.
    pub fn one(sum: f64) -> Self {
        Self { sum, weight: 1.0 }
    }

    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }

    fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }
}

/// A metric over a suite, beside another model's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    /// 95% percentile interval over samples drawn with replacement; none with a single sample.
    pub interval: Option<(f64, f64)>,
    /// The value of the other model: dense, or the same pruning from other calibration data.
    pub other: f64,
    pub difference: Difference,
}

/// How far a model is from another on the same samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The value minus the other model's.
    pub delta: f64,
    /// Its 95% percentile interval, both models on the same drawn samples.
    pub interval: Option<(f64, f64)>,
    /// Two-sided bootstrap p-value of no difference: twice the share of resamples in which the difference has
    /// the other sign or is none, counting the data itself as one (so never 0), at most 1. Few samples are
    /// never surer than [`least_p_value`]: a bootstrap of them is too narrow.
    pub p_value: Option<f64>,
}

/// The estimate of a metric from the shares of the same samples under two models.
pub fn estimate(metric: Metric, shares: &[Share], others: &[Share], seed: u64) -> Estimate {
    assert_eq!(shares.len(), others.len(), "both models were scored on the same samples");
    let total = |shares: &mut dyn Iterator<Item = Share>| {
        let mut sum = Share::default();
        shares.for_each(|s| sum.add(s));
        metric.of_mean(sum.mean())
    };
    let (value, other) = (total(&mut shares.iter().copied()), total(&mut others.iter().copied()));
    let mut values = Vec::with_capacity(RESAMPLES);
    let mut deltas = Vec::with_capacity(RESAMPLES);
    if shares.len() > 1 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn = vec![0; shares.len()];
        for _ in 0..RESAMPLES {
            drawn.fill_with(|| rng.random_range(0..shares.len()));
            let value = total(&mut drawn.iter().map(|&i| shares[i]));
            values.push(value);
            deltas.push(value - total(&mut drawn.iter().map(|&i| others[i])));
        }
    }
    let p_value = (!deltas.is_empty()).then(|| two_sided(&deltas).max(least_p_value(shares.len())));
    Estimate {
        value,
        interval: middle_95(values),
        other,
        difference: Difference { delta: value - other, interval: middle_95(deltas), p_value },
    }
}

/// The least p-value that so many pairs can give without a distribution assumed: all of one sign, as the sign
/// test counts them (Dixon and Mood 1946), two-sided. Below 0.05 from six samples on.
pub fn least_p_value(samples: usize) -> f64 {
    0.5f64.powi(samples.min(1000) as i32 - 1).min(1.0)
}

fn two_sided(deltas: &[f64]) -> f64 {
    let count = |side: fn(&f64) -> bool| deltas.iter().filter(|d| side(d)).count();
    // What is no number is on either side: infinite losses of both models say nothing of their difference.
    let fewer = count(|&d| d <= 0.0 || d.is_nan()).min(count(|&d| d >= 0.0 || d.is_nan()));
    (2.0 * (fewer + 1) as f64 / (deltas.len() + 1) as f64).min(1.0)
}

/// The 2.5th and the 97.5th percentile; None of no values.
pub fn middle_95(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values.get((q * (values.len().max(1) - 1) as f64).round() as usize).copied();
    Some((at(0.025)?, at(0.975)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(losses: &[f64]) -> Vec<Share> {
        losses.iter().copied().map(Share::one).collect()
    }

    fn random(n: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(0.0..1.0)).collect()
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
        let losses = shares(&random(400, 1));
        let estimate = estimate(Metric::Loss, &losses, &losses, 0);
        let (low, high) = estimate.interval.unwrap();
        // A uniform variable has variance 1/12.
        let expected = 2.0 * 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        assert!(((high - low) / expected - 1.0).abs() < 0.2, "{} {expected}", high - low);
        assert!(low < estimate.value && estimate.value < high);
    }

    #[test]
    fn a_mean_is_weighted_by_positions() {
        let long = [Share { sum: 9.0, weight: 3.0 }, Share { sum: 1.0, weight: 1.0 }];
        assert_eq!(estimate(Metric::Loss, &long, &long, 0).value, 2.5);
    }

    #[test]
    fn a_difference_that_every_sample_shares_has_no_width_and_is_certain() {
        let estimate = estimate(Metric::Loss, &shares(&[1.5, 5.5, 2.5, 8.5]), &shares(&[1.0, 5.0, 2.0, 8.0]), 0);
        assert_eq!(estimate.difference.delta, 0.5);
        let (low, high) = estimate.difference.interval.unwrap();
        assert!((low - 0.5).abs() < 1e-12 && (high - 0.5).abs() < 1e-12);
        assert_eq!(estimate.difference.p_value.unwrap(), 0.125);
        let (more, less) = (shares(&[1.5; 20]), shares(&[1.0; 20]));
        assert_eq!(super::estimate(Metric::Loss, &more, &less, 0).difference.p_value, Some(2.0 / 1001.0));
    }

    #[test]
    fn no_p_value_is_less_than_the_signs_of_all_samples_can_give() {
        for n in 2..8 {
            let (more, less) = (shares(&vec![1.5; n]), shares(&vec![1.0; n]));
            let p = estimate(Metric::Loss, &more, &less, 0).difference.p_value.unwrap();
            assert_eq!(p, 2.0 / 2f64.powi(n as i32));
        }
    }

    #[test]
    fn equal_models_do_not_differ() {
        let losses = shares(&random(50, 2));
        assert_eq!(estimate(Metric::Loss, &losses, &losses, 0).difference.p_value, Some(1.0));
    }

    #[test]
    fn p_values_of_models_that_do_not_differ_are_spread_evenly() {
        let below = (0..200)
            .map(|i| (shares(&random(60, 2 * i + 1000)), shares(&random(60, 2 * i + 1001))))
            .filter(|(a, b)| estimate(Metric::Loss, a, b, 0).difference.p_value.unwrap() < 0.2)
            .count();
        assert!((20..=60).contains(&below), "{below} of 200 below 0.2");
    }

    #[test]
    fn one_sample_has_no_interval() {
        let estimate = estimate(Metric::Loss, &shares(&[2.0]), &shares(&[1.0]), 0);
        assert_eq!((estimate.interval, estimate.difference.p_value), (None, None));
    }
}
