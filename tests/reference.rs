//! Pruning against the published PyTorch code (locuslab/wanda, which carries SparseGPT's solver):
//! one layer by itself, and SmolLM2-135M-Instruct as a whole.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use calipr::internals::{Accumulator, MethodName, MethodOptions, Sparsity};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

#[test]
fn one_layer_is_pruned_as_the_published_code_prunes_it() {
    let fixture = candle_core::safetensors::load("tests/fixtures/layer.safetensors", &Device::Cpu).unwrap();
    let (weight, inputs) = (&fixture["weight"], &fixture["inputs"]);
    let options = MethodOptions::default();
    let names: Vec<&String> = fixture.keys().filter(|k| k.contains('_')).collect();
    assert_eq!(names.len(), 12);
    // Relative output errors of the published results, in the order of their sorted names.
    let mut sorted = names.clone();
    sorted.sort();
    let published: Vec<f64> = fixture["errors"].to_vec1().unwrap();
    let published: BTreeMap<&String, f64> = sorted.into_iter().zip(published).collect();

    for name in names {
        let (method, pattern) = name.split_once('_').unwrap();
        let method: MethodName = serde_json::from_value(method.into()).unwrap();
        let sparsity: Sparsity = match pattern.split_once("of") {
            Some((n, m)) => format!("{n}:{m}").parse().unwrap(),
            None => Sparsity::try_from(pattern.parse::<f64>().unwrap()).unwrap(),
        };
        let kind = options.get(method).statistic();
        let mut statistic = Accumulator::new(kind, 576, DType::F32, &Device::Cpu).unwrap();
        let windows = [0..512, 512..1024]; // as the published code saw them
        statistic.add(inputs, &windows).unwrap();
        let pruned = options.get(method).prune(weight, &statistic.finish().unwrap(), sparsity).unwrap().weight;

        let kept: Vec<bool> = flat(&pruned).iter().map(|&x| x != 0.0).collect();
        let bits: Vec<u8> = fixture[name].to_vec1().unwrap();
        let theirs: Vec<bool> = (0..kept.len()).map(|i| bits[i / 8] >> (7 - i % 8) & 1 == 1).collect();
        let agree = kept.iter().zip(&theirs).filter(|(a, b)| a == b).count() as f64 / kept.len() as f64;
        if method == MethodName::SparseGpt {
            assert!(agree >= 0.995, "{name}: {agree}");
        } else {
            assert_eq!(agree, 1.0, "{name}");
            let untouched = flat(&pruned).iter().zip(flat(weight)).all(|(&p, w)| p == w || p == 0.0);
            assert!(untouched, "{name}: what is kept is kept as it was");
        }
        let error = squares(&inputs.matmul(&(&pruned - weight).unwrap().t().unwrap()).unwrap())
            / squares(&inputs.matmul(&weight.t().unwrap()).unwrap());
        assert!((error / published[name] - 1.0).abs() < 0.01, "{name}: {error} {}", published[name]);
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn squares(tensor: &Tensor) -> f64 {
    flat(tensor).iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// A row of model.json.
#[derive(Deserialize)]
struct Figure {
    method: String,
    sparsity: Option<String>,
    calibration: Option<String>,
    evaluation: String,
    perplexity: f64,
    js_divergence: f64,
    measured_sparsity: f64,
}

/// The whole grid of model.json takes a quarter of an hour, so this is the part of it that touches
/// every method, both patterns and both data sets; `ALL_FIGURES=1` runs the rest too.
#[test]
fn the_real_models_figures_are_the_published_codes() {
    let out = tempfile::tempdir().unwrap();
    // A cache of its own: figures are computed, not found.
    let cache = common::cache_with_the_real_model(out.path());
    let figures: Vec<Figure> =
        serde_json::from_str(&std::fs::read_to_string("tests/fixtures/model.json").unwrap()).unwrap();
    let all = std::env::var_os("ALL_FIGURES").is_some();
    let parts: &[(&str, &str, &str)] = match all {
        true => &[(r#"["magnitude", "wanda", "sparsegpt"]"#, r#"[0.5, "2:4"]"#, r#"["general", "task"]"#)],
        false => &[
            (r#"["magnitude", "wanda"]"#, "[0.5]", r#"["task"]"#),
            (r#"["sparsegpt"]"#, r#"["2:4"]"#, r#"["general"]"#),
        ],
    };
    let mut compared = 0;
    for (i, (methods, sparsities, calibrations)) in parts.iter().enumerate() {
        let folder = out.path().join(i.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_calipr"));
        command
            .args(["run", "tests/fixtures/published.toml", "--quiet", "--cache"])
            .arg(&cache)
            .arg("--out")
            .arg(&folder);
        for (key, value) in [("method", methods), ("sparsity", sparsities), ("calibration", calibrations)] {
            command.args(["--set", &format!("grid.{key}={value}")]);
        }
        if !all {
            command.args(["--set", "suite.task.windows=1"]);
        }
        assert!(command.status().unwrap().success());
        compared += compare(&folder, &figures, all);
    }
    assert_eq!(compared, if all { figures.len() } else { 5 });
}

/// Compares metrics.parquet and cells.parquet with the figures that it has rows for.
fn compare(folder: &std::path::Path, figures: &[Figure], all: bool) -> usize {
    let metrics = common::read_table(&folder.join("metrics.parquet"));
    let cells = common::read_table(&folder.join("cells.parquet"));
    let mut compared = 0;
    for figure in figures.iter().filter(|f| all || f.evaluation == "general") {
        let pattern = match figure.sparsity.as_deref() {
            None => "dense",
            Some("0.5") => "unstructured",
            Some(pattern) => pattern,
        };
        let of_cell = |row: &&serde_json::Value| {
            row["method"] == *figure.method
                && row["pattern"] == pattern
                && figure.calibration.as_ref().is_none_or(|c| row["calibration"] == **c)
        };
        let value = |metric: &str| {
            let of_metric = |row: &&serde_json::Value| row["metric"] == metric && row["suite"] == *figure.evaluation;
            Some(metrics.iter().filter(of_cell).find(of_metric)?["value"].as_f64().unwrap())
        };
        let Some(perplexity) = value("perplexity") else { continue };
        compared += 1;
        // Magnitude and Wanda agree to a thousandth of a percent where no two scores are closer than rounding,
        // and to half a percent where one such pair falls the other way and moves all that follows; which
        // pairs do depends on the processor. SparseGPT's masks agree completely on one layer, but float32
        // knows the inverses of its Gram matrices to two or three digits only, and whole models part ways:
        // benches/pytorch_baseline.py with `--threads 1` in place of 2, or `--dtype float64`, parts from
        // itself by up to 3% where the model is judged on the kind of text it was calibrated on, and by 12%
        // elsewhere (2:4, task to general: 183.6, 205.3 and 205.8).
        let in_domain = figure.calibration.as_ref() == Some(&figure.evaluation);
        let tolerance = match figure.method.as_str() {
            "dense" => 0.001,
            "magnitude" => 0.005,
            "wanda" => 0.01,
            _ if in_domain => 0.05,
            _ => 0.12,
        };
        let what = format!("{} {pattern} {:?} {}", figure.method, figure.calibration, figure.evaluation);
        assert!((perplexity / figure.perplexity - 1.0).abs() < tolerance, "{what}: {perplexity} {}", figure.perplexity);
        let js = value("js_divergence").unwrap();
        assert!(
            (js - figure.js_divergence).abs() <= tolerance * figure.js_divergence,
            "{what}: {js} {}",
            figure.js_divergence
        );
        let achieved = cells.iter().find(of_cell).unwrap()["achieved_sparsity"].as_f64().unwrap();
        assert!((achieved - figure.measured_sparsity).abs() < 1e-3, "{what}: {achieved} {}", figure.measured_sparsity);
    }
    compared
}
