//! The table at the end of a run, read back from `metrics.parquet`: what is printed is what is stored.

use std::path::Path;

use anyhow::{Context, Result};
use polars::prelude::*;

/// Values of one suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub suite: String,
    /// In the order of the recipe.
    pub metrics: Vec<String>,
    /// Dense first.
    pub rows: Vec<SummaryRow>,
}

/// A cell's values, one a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRow {
    pub cell: String,
    pub values: Vec<Value>,
}

/// A value and its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}

/// Reads `metrics.parquet`, a summary a suite.
pub fn summarize(metrics: &Path) -> Result<Vec<Summary>> {
    let table = read(metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
    let text = |name: &str| -> Result<Vec<String>> {
        Ok(table.column(name)?.str()?.iter().map(|v| v.unwrap_or_default().to_owned()).collect())
    };
    let real = |name: &str| -> Result<Vec<Option<f64>>> { Ok(table.column(name)?.f64()?.iter().collect()) };
    let (suites, cells, metrics) = (text("suite")?, text("cell")?, text("metric")?);
    let (values, lows, highs) = (real("value")?, real("ci_low")?, real("ci_high")?);

    let mut summaries: Vec<Summary> = Vec::new();
    for i in 0..table.height() {
        let at = summaries.iter().position(|s| s.suite == suites[i]).unwrap_or_else(|| {
            summaries.push(Summary { suite: suites[i].clone(), metrics: vec![], rows: vec![] });
            summaries.len() - 1
        });
        let summary = &mut summaries[at];
        if !summary.metrics.contains(&metrics[i]) {
            summary.metrics.push(metrics[i].clone());
        }
        if summary.rows.last().is_none_or(|row| row.cell != cells[i]) {
            summary.rows.push(SummaryRow { cell: cells[i].clone(), values: vec![] });
        }
        let value = Value { value: values[i].unwrap_or(f64::NAN), interval: lows[i].zip(highs[i]) };
        summary.rows.last_mut().expect("a row was just pushed").values.push(value);
    }
    Ok(summaries)
}

fn read(path: &Path) -> Result<DataFrame> {
    let path = path.to_str().context("the path is not UTF-8")?;
    let columns = ["suite", "cell", "metric", "value", "ci_low", "ci_high"];
    let scan = LazyFrame::scan_parquet(path.into(), ScanArgsParquet::default())?;
    // A stable sort: within a suite, cells stay in the order in which they ran.
    let order = SortMultipleOptions::default().with_maintain_order(true);
    Ok(scan.select(columns.map(col)).sort(["suite"], order).collect()?)
}
