//! A small report to test with.

use crate::report::*;
use crate::results::CellCounts;

/// A value with intervals; it is the best and as good as dense where it is that of the dense model.
fn value(value: f64, dense: f64) -> Value {
    let (low, high) = (Some(value - 0.1), Some(value + 0.1));
    let (delta, delta_low, delta_high) = (value - dense, low.map(|v| v - dense), high.map(|v| v - dense));
    let same = value == dense;
    Value { value, low, high, delta, delta_low, delta_high, p_value: Some(0.0), as_good_as_dense: same, best: same }
}

pub fn row(method: &str, pattern: &str, sparsity: f64, calibration: Option<&str>, values: &[f64]) -> CellRow {
    let cell = format!("{method}-{pattern}-{sparsity}-{}", calibration.unwrap_or("none"));
    let (method, pattern) = (method.into(), pattern.into());
    let (calibration, seed) = (calibration.map(Into::into), calibration.map(|_| 0));
    let values = values.iter().map(|v| value(*v, 2.0)).collect();
    CellRow { cell, method, pattern, sparsity, calibration, seed, values }
}

fn suite(suite: &str, metrics: &[(&str, bool)]) -> SuiteReport {
    let columns = metrics.iter().map(|&(name, downstream)| MetricColumn {
        name: name.into(),
        higher_is_better: downstream,
        downstream,
    });
    let values = |first: f64| (0..metrics.len()).map(|i| first + i as f64).collect::<Vec<f64>>();
    let rows = vec![
        row("dense", "dense", 0.0, None, &values(2.0)),
        row("magnitude", "unstructured", 0.5, None, &values(9.0)),
        row("magnitude", "2:4", 0.5, None, &values(90.0)),
        row("wanda", "unstructured", 0.5, Some("prose"), &values(2.0)),
        row("wanda", "unstructured", 0.6, Some("prose"), &values(5.0)),
        row("wanda", "unstructured", 0.5, Some("task"), &values(3.0)),
    ];
    SuiteReport { suite: suite.into(), samples: 8, unit: "windows".into(), metrics: columns.collect(), rows }
}

/// A report with all sections.
pub fn report() -> Report {
    let language = suite("language", &[("loss", false), ("perplexity", false), ("js_divergence", false)]);
    let blocks = language.rows[1..].iter().flat_map(|row| {
        (0..4).map(|block| BlockPoint {
            cell: row.cell.clone(),
            method: row.method.clone(),
            calibration: row.calibration.clone(),
            block,
            sparsity: 0.5,
            relative_error: row.calibration.as_ref().map(|_| 0.1 + block as f64),
        })
    });
    let contrast = Contrast {
        suite: "task".into(),
        metric: "f1".into(),
        method: "wanda".into(),
        pattern: "unstructured".into(),
        sparsity: 0.5,
        seed: None,
        better: "task".into(),
        worse: "prose".into(),
        better_value: 0.5,
        worse_value: 0.25,
        difference: 0.25,
        low: Some(0.125),
        high: Some(0.375),
        p_value: Some(0.002),
    };
    let predictor = Predictor {
        suite: "language".into(),
        metric: "perplexity".into(),
        downstream_suite: "task".into(),
        downstream_metric: "f1".into(),
        cells: 6,
        spearman: 0.75,
        low: Some(0.25),
        high: Some(1.0),
    };
    let said = SampleContrast {
        suite: "task".into(),
        sample: 3,
        cell: "wanda-0.5".into(),
        metric: "f1".into(),
        prompt: "Why?".into(),
        reference: "Because.".into(),
        dense: "Because.".into(),
        pruned: "The the.".into(),
        dense_score: 1.0,
        pruned_score: 0.0,
    };
    Report {
        study: "a study".into(),
        model: "a model".into(),
        answer: vec!["Wanda at 0.5.".into(), "It is as good as dense.".into()],
        cells: CellCounts { planned: 7, done: 6, failed: 1 },
        blocks: blocks.collect(),
        suites: vec![language, suite("task", &[("f1", true), ("rouge1", true)])],
        contrasts: vec![contrast],
        predictors: vec![predictor],
        samples: vec![said],
        failed: vec![FailedCell { cell: "wanda-0.9".into(), error: "out of memory".into() }],
    }
}
