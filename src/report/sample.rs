//! A small report with all parts, to test formats with.

use super::*;
use crate::metrics::Metric;

fn setting(method: &str, pattern: &str, sparsity: f64, calibration: Option<&str>) -> Setting {
    let strength = text::strength(pattern, sparsity);
    let name = match (method, calibration) {
        ("dense", _) => "dense".to_owned(),
        (_, None) => format!("{method}-{strength}"),
        (_, Some(calibration)) => format!("{method}-{strength}-{calibration}"),
    };
    let (method, pattern, calibration) = (method.into(), pattern.into(), calibration.map(Into::into));
    Setting { name, method, pattern, sparsity: Some(sparsity), calibration }
}

fn settings() -> Vec<Setting> {
    vec![
        setting("dense", "dense", 0.0, None),
        setting("magnitude", "unstructured", 0.5, None),
        setting("magnitude", "2:4", 0.5, None),
        setting("wanda", "unstructured", 0.5, Some("prose")),
        setting("wanda", "unstructured", 0.6, Some("prose")),
        setting("wanda", "unstructured", 0.5, Some("task")),
    ]
}

fn difference(delta: f64, half: f64) -> Difference {
    let verdict = match delta {
        0.0 => Verdict::WithinMargin,
        d if d.abs() < half => Verdict::NotToldApart,
        d if d > 0.0 => Verdict::Better,
        _ => Verdict::Worse,
    };
    let (p_value, p_adjusted) = if delta.abs() < half { (0.4, 1.0) } else { (0.0004, 0.002) };
    Difference {
        delta,
        low: Some(delta - half),
        high: Some(delta + half),
        p_value: Some(p_value),
        p_adjusted: Some(p_adjusted),
        verdict,
        needed: None,
    }
}

fn value(setting: &Setting, value: f64, dense: f64, half: f64) -> Value {
    let seeds = if setting.calibration.is_some() { 3 } else { 1 };
    Value {
        value,
        low: Some(value - half),
        high: Some(value + half),
        spread: (seeds > 1).then_some(half / 3.0),
        seeds,
        to_dense: (!setting.is_dense()).then(|| difference(value - dense, half)),
    }
}

/// The values of the settings by a score of which more is better.
const SCORES: [f64; 6] = [0.6125, 0.3375, 0.0125, 0.6125, 0.45, 0.5375];

/// The column of the metric of that name.
pub fn column(name: &str) -> MetricColumn {
    let metric: Metric = serde_json::from_value(name.into()).unwrap();
    MetricColumn::new(name, &MetricEntry::of(metric))
}

fn suite(suite: &str, unit: &str, metrics: &[&str]) -> SuiteReport {
    let columns = metrics.iter().map(|name| column(name));
    let of = |score: f64, column: &MetricColumn| match (column.ratio, column.downstream) {
        (true, _) => 10.0 / (score + 0.01),
        (false, true) => score,
        (false, false) => SCORES[0] - score,
    };
    let row = |(setting, score): (Setting, f64)| {
        let values = metrics.iter().map(|name| column(name)).map(|column| {
            let half = if column.ratio { 1.75 } else { 0.1125 };
            value(&setting, of(score, &column), of(SCORES[0], &column), half)
        });
        SettingRow { values: values.collect(), setting }
    };
    SuiteReport {
        suite: suite.into(),
        samples: 80,
        unit: unit.into(),
        metrics: columns.collect(),
        rows: settings().into_iter().zip(SCORES).map(row).collect(),
    }
}

fn decision(suite: &SuiteReport) -> Decision {
    let row = |row: &SettingRow| DecisionRow {
        setting: row.setting.clone(),
        value: row.values[0].clone(),
        best: ["wanda-0.5-prose", "wanda-0.6-prose", "magnitude-2:4"].contains(&row.setting.name.as_str()),
        seconds: (!row.setting.is_dense()).then_some(83.25),
        parameters: Some(if row.setting.is_dense() { 134_515_008 } else { 81_500_000 }),
    };
    Decision {
        suite: suite.suite.clone(),
        metric: "f1".into(),
        higher_is_better: true,
        samples: suite.samples,
        unit: suite.unit.clone(),
        margin: 0.02,
        ratio: false,
        comparisons: 5,
        enough_rows: Some(228),
        rows: suite.rows.iter().map(row).collect(),
    }
}

fn contrast(axis: &str, a: &Setting, b: &Setting, values: [f64; 2], half: f64) -> Contrast {
    Contrast {
        axis: axis.into(),
        family: format!("{axis} against {axis}, on task by f1: 2 comparisons"),
        suite: "task".into(),
        metric: "f1".into(),
        setting: a.clone(),
        other: b.clone(),
        value: values[0],
        other_value: values[1],
        seeds: if a.calibration.is_some() { 3 } else { 1 },
        other_seeds: if b.calibration.is_some() { 3 } else { 1 },
        difference: difference(values[0] - values[1], half),
    }
}

fn predictor(metric: &str, within: Option<&str>, spearman: f64, p_to_best: Option<f64>) -> Predictor {
    Predictor {
        suite: "language".into(),
        metric: metric.into(),
        downstream_suite: "task".into(),
        downstream_metric: "f1".into(),
        within: within.map(Into::into),
        settings: 5,
        spearman,
        low: Some(spearman - 0.5),
        high: Some(0.98),
        p_adjusted: Some(0.03),
        p_to_best,
    }
}

fn samples() -> Vec<Samples> {
    let side = |prediction: Option<&str>, log_likelihoods: &[f64], chosen, score| Side {
        prediction: prediction.map(Into::into),
        log_likelihoods: log_likelihoods.to_vec(),
        chosen,
        score,
    };
    let said = Sample {
        sample: 3,
        prompt: "Why do <b>leaves</b> fall?\nAnswer:".into(),
        reference: "Because | of the cold.".into(),
        choices: vec![],
        answer: None,
        sides: [side(Some("Because of the cold."), &[], None, 1.0), side(Some("The the\nthe."), &[], None, 0.0)],
    };
    let chosen = Sample {
        sample: 7,
        prompt: "What do bees make?".into(),
        reference: "honey".into(),
        choices: vec!["honey".into(), "a long answer that wraps".into(), "salt & pepper".into()],
        answer: Some(0),
        sides: [side(None, &[-3.25, -9.5, -12.0], Some(0), 1.0), side(None, &[-8.5, -8.25, -12.0], Some(1), 0.0)],
    };
    let of = |suite: &str, metric: &str, sample: Sample| Samples {
        suite: suite.into(),
        metric: metric.into(),
        cells: ["dense".into(), "wanda-0.5-prose-s0".into()],
        how: "The two answer 23 of 80 rows differently; shown are 1 of these, where f1 differs most first".into(),
        samples: vec![sample],
    };
    vec![of("task", "f1", said), of("quiz", "acc", chosen)]
}

fn cell_rows(suites: &[SuiteReport]) -> Vec<CellRow> {
    let of_row = |suite: &str, row: &SettingRow| {
        let seeds = row.setting.calibration.as_ref().map_or(vec![None], |_| vec![Some(0), Some(1), Some(2)]);
        let value = |v: &Value| CellValue { value: v.value, low: v.low, high: v.high };
        let cell = |seed: Option<u64>| CellRow {
            cell: row.setting.name.clone() + &seed.map_or(String::new(), |seed| format!("-s{seed}")),
            setting: row.setting.name.clone(),
            seed,
            suite: suite.to_owned(),
            values: row.values.iter().map(value).collect(),
        };
        seeds.into_iter().map(cell).collect::<Vec<_>>()
    };
    suites.iter().flat_map(|s| s.rows.iter().flat_map(|row| of_row(&s.suite, row)).collect::<Vec<_>>()).collect()
}

fn published(suites: &[SuiteReport], cells: &[CellRow]) -> Vec<PublishedRow> {
    let toml = "published = [
        { setting = 'dense', suite = 'language', metric = 'perplexity', value = 16, where = 'A. Uthor 2024, table 3' },
        { setting = 'wanda-0.5-prose', suite = 'task', metric = 'f1', value = 0.8, spread = 0.01, where = 'B. 2025' },
        { setting = 'wanda-0.5-prose-s0', suite = 'task', metric = 'f1', value = 0.6, where = 'B. 2025', note = 'one seed' },
        { setting = 'wanda-0.9-prose', suite = 'task', metric = 'f1', value = 0.1, where = 'B. 2025' },
    ]
    name = 'a study'
    model = { source = 'path:model' }
    suite = {}";
    published::rows(&toml::from_str(toml).expect("a recipe"), suites, cells)
}

/// A report with all parts.
pub fn report() -> Report {
    let language = suite("language", "windows", &["loss", "perplexity", "js_divergence"]);
    let task = suite("task", "rows", &["f1", "rouge1"]);
    let settings = settings();
    let blocks = settings[1..].iter().flat_map(|setting| {
        (0..4u64).map(|block| BlockPoint {
            setting: setting.clone(),
            block,
            achieved: 0.5,
            relative_error: Some(0.1 + 0.05 * block as f64),
        })
    });
    let mask = |axis: &str, [a, b]: [usize; 2], block: u64, overlap: f64| MaskPoint {
        axis: axis.into(),
        setting: settings[a].clone(),
        other: settings[b].clone(),
        block,
        weights: 100,
        pairs: if axis == "calibration" { 9 } else { 3 },
        overlap,
        chance: 0.5,
    };
    let masks = (0..4).map(|block| mask("calibration", [3, 5], block, 0.7 + 0.05 * block as f64));
    let masks = masks.chain((0..4).map(|block| mask("seed", [3, 3], block, 0.95)));
    let masks = masks.chain((0..4).map(|block| mask("method", [1, 3], block, 0.6))).collect();
    Report {
        study: "a study".into(),
        cells: CellCounts { planned: 13, done: 12, failed: 1 },
        unfinished: Some("1 cell failed and is not compared.".into()),
        decision: Some(decision(&task)),
        sentences: vec![
            "On task, f1 is highest at 0.5 with wanda on prose (0.61 [0.50, 0.72]), within the margin of dense.".into(),
            "No method is told apart from another.".into(),
        ],
        warnings: vec!["data of suite task is in calibration set task: 3 of 80 rows".into()],
        facts: vec![
            Fact { name: "model".into(), value: "a model, LlamaForCausalLM, 134,515,008 parameters".into() },
            Fact { name: "precision".into(), value: "computed in f32; the source was quantised (Q4_1)".into() },
        ],
        contrasts: vec![
            contrast("method", &settings[3], &settings[1], [0.6125, 0.3375], 0.1125),
            contrast("calibration", &settings[5], &settings[3], [0.5375, 0.6125], 0.1125),
        ],
        predictors: vec![
            predictor("js_divergence", None, 0.9, None),
            predictor("perplexity", None, 0.75, Some(0.4)),
            predictor("js_divergence", Some("0.5"), 0.5, None),
        ],
        error_suite: Some("language".into()),
        blocks: blocks.collect(),
        masks,
        samples: samples(),
        published: published(&[language.clone(), task.clone()], &cell_rows(&[language.clone(), task.clone()])),
        cell_rows: cell_rows(&[language.clone(), task.clone()]),
        suites: vec![language, task],
        failed: vec![FailedCell { cell: "wanda-0.9-prose-s0".into(), error: "out of memory".into() }],
    }
}
