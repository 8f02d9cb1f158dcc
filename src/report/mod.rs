//! What a study says, read from its tables: the answer in words, then the numbers, then pictures.

mod answer;
mod comparison;
mod html;
mod markdown;
mod plots;
mod predictors;
mod read;

use serde::Serialize;

pub use comparison::{Apart, Comparison, TOLERANCE};
pub use html::html;
pub use markdown::markdown;

use crate::results::CellCounts;

/// A study's results, ready to be shown. `calipr report --format json` prints this.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub study: String,
    pub model: String,
    /// Which method, sparsity and calibration keep the task, and which metric predicts it: the most important
    /// sentence first.
    pub answer: Vec<String>,
    pub cells: CellCounts,
    pub suites: Vec<SuiteReport>,
    pub contrasts: Vec<Contrast>,
    pub predictors: Vec<Predictor>,
    pub blocks: Vec<BlockPoint>,
    pub samples: Vec<SampleContrast>,
    pub failed: Vec<FailedCell>,
}

/// The values of one suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteReport {
    pub suite: String,
    pub samples: u64,
    /// What a sample is: `windows` or `rows`.
    pub unit: String,
    /// In the order of the recipe.
    pub metrics: Vec<MetricColumn>,
    /// Dense first, then in the order of the grid.
    pub rows: Vec<CellRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricColumn {
    pub name: String,
    pub higher_is_better: bool,
    /// Whether it judges answers or choices, not next-token distributions.
    pub downstream: bool,
}

/// A cell's values on a suite, one a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellRow {
    pub cell: String,
    pub method: String,
    /// `dense`, `unstructured` or `N:M`.
    pub pattern: String,
    pub sparsity: f64,
    pub calibration: Option<String>,
    pub seed: Option<u64>,
    pub values: Vec<Value>,
}

/// A value with its 95% interval, and its difference to dense on the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Value {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub delta: f64,
    pub delta_low: Option<f64>,
    pub delta_high: Option<f64>,
    pub p_value: Option<f64>,
    /// Whether it is not found worse beyond chance (p < 0.05), by samples that are enough to find it.
    pub as_good_as_dense: bool,
    /// Whether no other pruned cell is better.
    pub best: bool,
}

/// A pruning calibrated on two sets, on one metric: which set is better, and by how much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    pub suite: String,
    pub metric: String,
    pub method: String,
    pub pattern: String,
    pub sparsity: f64,
    pub seed: Option<u64>,
    pub better: String,
    pub worse: String,
    pub better_value: f64,
    pub worse_value: f64,
    /// `better_value - worse_value`, with its interval.
    pub difference: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub p_value: Option<f64>,
}

/// How well an intrinsic metric ranks the pruned cells by a downstream score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictor {
    pub suite: String,
    pub metric: String,
    pub downstream_suite: String,
    pub downstream_metric: String,
    pub cells: usize,
    /// Spearman's rank correlation, turned so that 1 is a perfect prediction.
    pub spearman: f64,
    /// 95% bootstrap interval over cells.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// What pruning made of a block: means over its linears, weighted by their sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockPoint {
    pub cell: String,
    pub method: String,
    pub calibration: Option<String>,
    pub block: u64,
    pub sparsity: f64,
    pub relative_error: Option<f64>,
}

/// An answer of the dense model beside a pruned one's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleContrast {
    pub suite: String,
    pub sample: u64,
    pub cell: String,
    pub metric: String,
    pub prompt: String,
    pub reference: String,
    pub dense: String,
    pub pruned: String,
    pub dense_score: f64,
    pub pruned_score: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedCell {
    pub cell: String,
    pub error: String,
}

/// The p-value below which a difference is said to be beyond chance.
pub const LEVEL: f64 = 0.05;

/// `1 row`, `2 rows`.
fn counted(n: u64, unit: &str) -> String {
    format!("{n} {}", if n == 1 { unit.trim_end_matches('s') } else { unit })
}

/// Four significant digits, as tables have them.
pub fn number(x: f64) -> String {
    significant(x, 4)
}

fn significant(x: f64, digits: i32) -> String {
    match x.abs() {
        size if size.is_nan() => "n/a".into(),
        f64::INFINITY => x.to_string(),
        0.0 => "0".into(),
        size if !(1e-4..1e6).contains(&size) => format!("{x:.*e}", digits as usize - 1),
        size => format!("{x:.*}", (digits - 1 - size.log10().floor() as i32).max(0) as usize),
    }
}

/// An interval in brackets, after a space; nothing where there is none.
pub fn interval(low: Option<f64>, high: Option<f64>) -> String {
    bracketed(low, high, number)
}

fn bracketed(low: Option<f64>, high: Option<f64>, number: fn(f64) -> String) -> String {
    low.zip(high).map_or(String::new(), |(low, high)| format!(" [{}, {}]", number(low), number(high)))
}

/// A sparsity as the recipe has it.
pub fn setting(pattern: &str, sparsity: f64) -> String {
    if pattern == "unstructured" { format!("{}", (sparsity * 1e4).round() / 1e4) } else { pattern.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown = [27.264991, 529.72, 1207.84, 0.410233, 123456.7, 0.0, 1e-7].map(number);
        assert_eq!(shown, ["27.26", "529.7", "1208", "0.4102", "123457", "0", "1.000e-7"]);
    }

    #[test]
    fn a_setting_is_a_ratio_or_a_pattern() {
        assert_eq!(setting("unstructured", 0.6), "0.6");
        assert_eq!(setting("2:4", 0.5), "2:4");
    }
}
