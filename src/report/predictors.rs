//! How well metrics of the model rank the pruned settings as its downstream scores do.

use std::collections::HashMap;

use super::{Predictor, SettingRow, SuiteReport};
use crate::statistics::{correlation, holm};

/// Every intrinsic metric against every downstream score, over all pruned settings and within each sparsity, the best
/// predictor of each score first.
///
/// Metrics of one finding rank alike, as perplexity does as loss: of one suite only the first of them is there.
pub fn predictors(suites: &[SuiteReport]) -> Vec<Predictor> {
    let strengths = strengths(suites);
    // With one sparsity, within it is over all.
    let within = std::iter::once(None).chain(strengths.iter().filter(|_| strengths.len() > 1).map(Some));
    let within: Vec<Option<&String>> = within.collect();
    let mut all = Vec::new();
    for downstream in suites {
        for d in (0..downstream.metrics.len()).filter(|&d| downstream.metrics[d].downstream) {
            for within in &within {
                all.extend(of_score(suites, downstream, d, *within));
            }
        }
    }
    all
}

/// The sparsities of the pruned settings.
fn strengths(suites: &[SuiteReport]) -> Vec<String> {
    let mut strengths: Vec<String> = vec![];
    let pruned = suites.iter().flat_map(|suite| &suite.rows).filter(|row| !row.setting.is_dense());
    for strength in pruned.filter(|row| !row.setting.is_checkpoint()).map(|row| row.setting.strength()) {
        if !strengths.contains(&strength) {
            strengths.push(strength);
        }
    }
    strengths
}

/// The predictors of one score.
fn of_score(suites: &[SuiteReport], downstream: &SuiteReport, d: usize, within: Option<&String>) -> Vec<Predictor> {
    let score = &downstream.metrics[d];
    let mut candidates: Vec<(Predictor, Vec<(f64, f64)>)> = vec![];
    for suite in suites {
        for (i, metric) in suite.metrics.iter().enumerate() {
            let is_told = suite.metrics[..i].iter().any(|earlier| earlier.finding == metric.finding);
            if metric.downstream || is_told {
                continue;
            }
            let sign = if metric.higher_is_better == score.higher_is_better { 1.0 } else { -1.0 };
            let points = points(suite, i, downstream, d, within);
            let points: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (sign * x, y)).collect();
            if points.len() < correlation::FEWEST {
                continue;
            }
            let Some(spearman) = correlation::spearman(&points) else { continue };
            let predictor = Predictor {
                suite: suite.suite.clone(),
                metric: metric.name.clone(),
                downstream_suite: downstream.suite.clone(),
                downstream_metric: score.name.clone(),
                within: within.cloned(),
                settings: points.len() as u64,
                spearman,
                low: None,
                high: None,
                p_adjusted: correlation::p_value(&points),
                p_to_best: None,
            };
            candidates.push((predictor, points));
        }
    }
    candidates.sort_by(|a, b| b.0.spearman.total_cmp(&a.0.spearman));
    corrected(candidates)
}

/// Corrects what is said of each metric for all that are looked at.
fn corrected(mut candidates: Vec<(Predictor, Vec<(f64, f64)>)>) -> Vec<Predictor> {
    let p_values: Vec<f64> = candidates.iter().map(|(p, _)| p.p_adjusted.unwrap_or(f64::NAN)).collect();
    let all = candidates.len();
    for ((predictor, points), p) in candidates.iter_mut().zip(holm(&p_values)) {
        predictor.p_adjusted = Some(p).filter(|p| !p.is_nan());
        (predictor.low, predictor.high) = correlation::interval(points, all).unzip();
    }
    let Some((best, others)) = candidates.split_first_mut() else { return vec![] };
    let (of_best, scores): (Vec<f64>, Vec<f64>) = best.1.iter().copied().unzip();
    let of_others: Vec<Vec<f64>> =
        others.iter().map(|(_, points)| points.iter().map(|point| point.0).collect()).collect();
    for ((predictor, _), p) in others.iter_mut().zip(correlation::to_best(&of_best, &of_others, &scores)) {
        predictor.p_to_best = p;
    }
    candidates.into_iter().map(|(predictor, _)| predictor).collect()
}

/// A point a pruned setting: its metric i on a suite, and its score d on another.
fn points(
    suite: &SuiteReport,
    i: usize,
    downstream: &SuiteReport,
    d: usize,
    within: Option<&String>,
) -> Vec<(f64, f64)> {
    let is_in = |row: &&SettingRow| {
        !row.setting.is_dense() && within.is_none_or(|strength| row.setting.strength() == *strength)
    };
    let scores: HashMap<&str, f64> =
        downstream.rows.iter().rev().map(|row| (row.setting.name.as_str(), row.values[d].value)).collect();
    let score = |name: &str| scores.get(name).copied();
    let pruned = suite.rows.iter().filter(is_in);
    pruned.filter_map(|row| Some((row.values[i].value, score(&row.setting.name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Setting, Value, sample};
    use super::*;

    /// A suite of as many pruned settings as there are values of each metric.
    fn suite(name: &str, metrics: &[(&str, &[f64])]) -> SuiteReport {
        let column = |&(name, ..): &(&str, &[f64])| sample::column(name);
        let value = |value| Value { value, low: None, high: None, spread: None, seeds: 1, to_dense: None };
        let row = |i: usize| SettingRow {
            setting: Setting {
                name: format!("setting-{i}"),
                method: "wanda".into(),
                pattern: "unstructured".into(),
                sparsity: Some(if i.is_multiple_of(2) { 0.5 } else { 0.6 }),
                calibration: None,
            },
            values: metrics.iter().map(|(.., values)| value(values[i])).collect(),
        };
        SuiteReport {
            suite: name.into(),
            samples: 10,
            unit: "windows".into(),
            metrics: metrics.iter().map(column).collect(),
            rows: (0..metrics[0].1.len()).map(row).collect(),
        }
    }

    #[test]
    fn a_loss_that_falls_as_the_score_rises_predicts_it_and_noise_is_told_apart_from_it() {
        let scores: Vec<f64> = (0..16).map(f64::from).collect();
        let loss: Vec<f64> = scores.iter().map(|s| -s * s).collect();
        let noise: Vec<f64> = (0..16).map(|i| f64::from(i * 7 % 16)).collect();
        let language = suite("text", &[("loss", &loss), ("perplexity", &loss), ("js_divergence", &noise)]);
        let task = suite("task", &[("f1", &scores)]);
        let all = predictors(&[language, task]);
        let over_all: Vec<&Predictor> = all.iter().filter(|p| p.within.is_none()).collect();
        let names: Vec<&str> = over_all.iter().map(|p| p.metric.as_str()).collect();
        assert_eq!(names, ["loss", "js_divergence"], "perplexity says what loss says");
        assert_eq!(over_all[0].spearman, 1.0);
        assert!(over_all[0].p_adjusted.unwrap() < 0.001 && over_all[0].p_to_best.is_none());
        assert!(over_all[1].p_to_best.unwrap() < 0.05, "{over_all:?}");
        let within: Vec<(&str, u64)> = all.iter().filter_map(|p| Some((p.within.as_deref()?, p.settings))).collect();
        assert_eq!(within, [("0.5", 8), ("0.5", 8), ("0.6", 8), ("0.6", 8)]);
    }

    #[test]
    fn equal_rankings_are_not_told_apart_and_few_settings_rank_nothing() {
        let scores: Vec<f64> = (0..8).map(f64::from).collect();
        let loss: Vec<f64> = scores.iter().map(|s| -s).collect();
        let twice = suite("text", &[("loss", &loss), ("js_divergence", &loss)]);
        let all = predictors(&[twice, suite("task", &[("f1", &scores)])]);
        assert_eq!(all[1].p_to_best, Some(1.0));
        let few = suite("text", &[("loss", &loss[..3])]);
        assert!(predictors(&[few, suite("task", &[("f1", &scores[..3])])]).is_empty());
    }
}
