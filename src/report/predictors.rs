//! How well metrics of the model predict its downstream scores: rank correlation over the pruned cells.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Predictor, SuiteReport};
use crate::metrics::{RESAMPLES, middle_95};

/// Fewer cells have no ranking to speak of.
const FEWEST: usize = 4;

/// Every intrinsic metric against every downstream score, the best predictor of each score first.
///
/// Loss ranks as perplexity does, so it is left out where both are there.
pub fn predictors(suites: &[SuiteReport]) -> Vec<Predictor> {
    let mut all = Vec::new();
    for downstream in suites {
        for (d, score) in downstream.metrics.iter().enumerate().filter(|(_, m)| m.downstream) {
            let mut of_score = Vec::new();
            for suite in suites {
                let has_perplexity = suite.metrics.iter().any(|m| m.name == "perplexity");
                for (i, metric) in suite.metrics.iter().enumerate() {
                    if metric.downstream || (metric.name == "loss" && has_perplexity) {
                        continue;
                    }
                    let sign = if metric.higher_is_better == score.higher_is_better { 1.0 } else { -1.0 };
                    let points = points(suite, i, downstream, d);
                    let Some(spearman) = spearman(&points) else { continue };
                    if points.len() < FEWEST {
                        continue;
                    }
                    let (low, high) = interval(&points, sign).unzip();
                    of_score.push(Predictor {
                        suite: suite.suite.clone(),
                        metric: metric.name.clone(),
                        downstream_suite: downstream.suite.clone(),
                        downstream_metric: score.name.clone(),
                        cells: points.len(),
                        spearman: sign * spearman,
                        low,
                        high,
                    });
                }
            }
            of_score.sort_by(|a, b| b.spearman.total_cmp(&a.spearman));
            all.extend(of_score);
        }
    }
    all
}

/// A point a pruned cell: its metric i on a suite, and its score d on another.
fn points(suite: &SuiteReport, i: usize, downstream: &SuiteReport, d: usize) -> Vec<(f64, f64)> {
    let pruned = suite.rows.iter().filter(|row| row.pattern != "dense");
    let score = |cell: &str| Some(downstream.rows.iter().find(|row| row.cell == cell)?.values[d].value);
    pruned.filter_map(|row| Some((row.values[i].value, score(&row.cell)?))).collect()
}

/// Spearman's ρ: Pearson's correlation of the ranks, ties at their mean rank. None where one side is constant.
fn spearman(points: &[(f64, f64)]) -> Option<f64> {
    let x = ranks(&points.iter().map(|p| p.0).collect::<Vec<f64>>());
    let y = ranks(&points.iter().map(|p| p.1).collect::<Vec<f64>>());
    let mean = (points.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let spread = (product(&x, &x) * product(&y, &y)).sqrt();
    (spread > 0.0).then(|| product(&x, &y) / spread)
}

/// Ranks from 0, equal values sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    values
        .iter()
        .map(|v| {
            let below = values.iter().filter(|w| *w < v).count() as f64;
            let equal = values.iter().filter(|w| *w == v).count() as f64;
            below + (equal - 1.0) / 2.0
        })
        .collect()
}

/// The 95% percentile interval over cells drawn with replacement.
fn interval(points: &[(f64, f64)], sign: f64) -> Option<(f64, f64)> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let drawn = (0..RESAMPLES).filter_map(|_| {
        let sample: Vec<_> = points.iter().map(|_| points[rng.random_range(0..points.len())]).collect();
        Some(sign * spearman(&sample)?)
    });
    middle_95(drawn.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_equals_scipys() {
        // scipy.stats.spearmanr([1, 2, 2, 4, 5], [3, 1, 4, 4, 9]) = 0.7631578947368421
        let points = [(1.0, 3.0), (2.0, 1.0), (2.0, 4.0), (4.0, 4.0), (5.0, 9.0)];
        assert!((spearman(&points).unwrap() - 0.763_157_894_736_842_1).abs() < 1e-12, "{:?}", spearman(&points));
        assert_eq!(spearman(&[(1.0, 2.0), (3.0, 2.0)]), None);
    }

    #[test]
    fn a_loss_that_falls_as_the_score_rises_predicts_it_perfectly() {
        let points: Vec<(f64, f64)> = (0..6).map(|i| (f64::from(i), -f64::from(i * i))).collect();
        assert_eq!(-spearman(&points).unwrap(), 1.0);
        assert_eq!(interval(&points, -1.0), Some((1.0, 1.0)));
    }
}
