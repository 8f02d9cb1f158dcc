//! The table to decide by: every setting by the one metric that the report is about.

use std::collections::HashMap;

use super::{Contrast, Decision, DecisionRow, Setting, SettingRow, SuiteReport};
use crate::metrics::Kind;
use crate::results::Manifest;
use crate::statistics;

/// What the cells of a setting cost, one a seed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cost {
    pub seconds: Vec<f64>,
    /// Weights that are zero.
    pub zeros: Vec<f64>,
}

/// The rows by sparsity, in the order of the recipe, dense first.
pub fn decision(
    manifest: &Manifest,
    suites: &[SuiteReport],
    contrasts: &[Contrast],
    costs: &HashMap<String, Cost>,
) -> Option<Decision> {
    let (suite, metric) = manifest.recipe.primary()?;
    let suite = suites.iter().find(|s| s.suite == suite)?;
    let column = suite.metrics.iter().position(|m| m.name == metric.as_str())?;
    let row = |row: &SettingRow, rivals: &[&SettingRow]| DecisionRow {
        setting: row.setting.clone(),
        value: row.values[column].clone(),
        best: is_best(suite, column, row, rivals),
        seconds: costs.get(&row.setting.name).and_then(|cost| mean(&cost.seconds)),
        parameters: parameters(manifest, &row.setting, costs.get(&row.setting.name)),
    };
    let groups = by_strength(suite);
    let rows = groups.iter().flat_map(|rivals| rivals.iter().map(|rival| row(rival, rivals)));
    let is_tested = |c: &&Contrast| {
        c.axis == "dense" && c.suite == suite.suite && c.metric == metric.as_str() && c.difference.p_value.is_some()
    };
    let told = &suite.metrics[column];
    let margin = manifest.recipe.report.margin.of_kind(told.kind);
    let comparisons = contrasts.iter().filter(is_tested).count();
    let is_of_rows = told.downstream && told.kind == Kind::Score;
    Some(Decision {
        suite: suite.suite.clone(),
        metric: metric.as_str().to_owned(),
        higher_is_better: told.higher_is_better,
        samples: suite.samples,
        unit: suite.unit.clone(),
        margin,
        ratio: told.ratio,
        comparisons: comparisons as u64,
        enough_rows: is_of_rows.then(|| statistics::rows_for_margin(margin, comparisons) as u64),
        rows: rows.collect(),
    })
}

/// Settings of one sparsity next to each other.
fn by_strength(suite: &SuiteReport) -> Vec<Vec<&SettingRow>> {
    let mut groups: Vec<Vec<&SettingRow>> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in &suite.rows {
        let place = *places.entry(row.setting.strength()).or_insert_with(|| {
            groups.push(vec![]);
            groups.len() - 1
        });
        groups[place].push(row);
    }
    groups
}

/// Whether no setting of the same sparsity has a better mean.
fn is_best(suite: &SuiteReport, column: usize, row: &SettingRow, rivals: &[&SettingRow]) -> bool {
    let higher = suite.metrics[column].higher_is_better;
    let rank = |row: &SettingRow| if higher { row.values[column].value } else { -row.values[column].value };
    let mut others = rivals.iter().map(|rival| rank(rival));
    !row.setting.is_dense() && !rank(row).is_nan() && others.all(|other| other.is_nan() || other <= rank(row))
}

/// Parameters that are not zero: what the model has, without the zeros among the weights of its linears.
fn parameters(manifest: &Manifest, setting: &Setting, cost: Option<&Cost>) -> Option<u64> {
    let model = manifest.checkpoints.get(&setting.name).filter(|_| setting.is_checkpoint()).unwrap_or(&manifest.model);
    let all = model.parameters;
    if setting.is_dense() && cost.is_none_or(|cost| cost.zeros.is_empty()) {
        return Some(all);
    }
    Some(all.saturating_sub(mean(&cost?.zeros)?.round() as u64))
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
