//! Estimates from per-window scores: the value, a 95% bootstrap interval, and the difference to the
//! dense model on the same windows.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Metric, Scores};

/// Resamples of the windows.
const RESAMPLES: usize = 1000;

/// A metric over a suite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    /// 95% percentile interval over windows drawn with replacement; none with a single window.
    pub interval: Option<(f64, f64)>,
    /// The value of the dense model.
    pub dense: f64,
    /// The value minus the dense model's.
    pub delta: f64,
    /// The interval of the difference, both models on the same drawn windows.
    pub delta_interval: Option<(f64, f64)>,
}

/// The estimate of a metric from the scores of the same windows under the pruned and the dense model.
pub fn estimate(metric: Metric, pruned: &[Scores], dense: &[Scores], seed: u64) -> Estimate {
    assert_eq!(pruned.len(), dense.len(), "both models were scored on the same windows");
    let total = |scores: &[Scores]| {
        let mut sum = Scores::default();
        scores.iter().for_each(|s| sum += s);
        metric.of(&sum)
    };
    let (value, of_dense) = (total(pruned), total(dense));
    let mut values = Vec::with_capacity(RESAMPLES);
    let mut deltas = Vec::with_capacity(RESAMPLES);
    if pruned.len() > 1 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..RESAMPLES {
            let (mut p, mut d) = (Scores::default(), Scores::default());
            for _ in 0..pruned.len() {
                let window = rng.random_range(0..pruned.len());
                p += &pruned[window];
                d += &dense[window];
            }
            values.push(metric.of(&p));
            deltas.push(metric.of(&p) - metric.of(&d));
        }
    }
    Estimate {
        value,
        interval: middle_95(values),
        dense: of_dense,
        delta: value - of_dense,
        delta_interval: middle_95(deltas),
    }
}

/// The 2.5th and the 97.5th percentile.
fn middle_95(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values.get((q * (values.len().max(1) - 1) as f64).round() as usize).copied();
    Some((at(0.025)?, at(0.975)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(losses: &[f64]) -> Vec<Scores> {
        losses.iter().map(|&loss| Scores { positions: 1.0, loss, ..Scores::default() }).collect()
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let losses: Vec<f64> = (0..400).map(|_| rng.random_range(0.0..1.0)).collect();
        let estimate = estimate(Metric::Loss, &scores(&losses), &scores(&losses), 0);
        let (low, high) = estimate.interval.unwrap();
        // A uniform variable has variance 1/12.
        let expected = 2.0 * 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        assert!(((high - low) / expected - 1.0).abs() < 0.2, "{} {expected}", high - low);
        assert!(low < estimate.value && estimate.value < high);
    }

    #[test]
    fn a_difference_that_every_window_shares_has_no_width() {
        let dense = scores(&[1.0, 5.0, 2.0, 8.0]);
        let pruned = scores(&[1.5, 5.5, 2.5, 8.5]);
        let estimate = estimate(Metric::Loss, &pruned, &dense, 0);
        assert_eq!(estimate.delta, 0.5);
        let (low, high) = estimate.delta_interval.unwrap();
        assert!((low - 0.5).abs() < 1e-12 && (high - 0.5).abs() < 1e-12);
    }

    #[test]
    fn one_window_has_no_interval() {
        assert_eq!(estimate(Metric::Loss, &scores(&[2.0]), &scores(&[1.0]), 0).interval, None);
    }
}
