//! Output errors of pruned weights: the same held-out tokens for every cell.

mod common;

use calipr::internals::{Flow, Model, Span};
use candle_core::{DType, Device, Tensor};
use common::{RECIPE, Tiny, Workshop, assert_same_tables, read_table};
use serde_json::{Value, json};

/// The `general` calibration again, by another name.
const TWIN: &str = "\n[calibration.twin]\ndataset = \"path:rows.jsonl\"\nwindows = 6\nlength = 48\n";

/// A suite of answers alone: nothing of it goes through the model to be scored.
const ANSWERS: &str = "\n[suite.answers]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 2\nmetrics = [\"f1\"]\n";

fn shop(recipe: &str) -> Workshop {
    let shop = Workshop::new(&Tiny::default());
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"{i} and\", \"completion\": \" {}\"}}\n", i + 1);
    std::fs::write(shop.path("pairs.jsonl"), (0..3).map(row).collect::<String>()).unwrap();
    shop
}

fn layers(shop: &Workshop, out: &str) -> Vec<Value> {
    read_table(&shop.path(out).join("layers.parquet"))
}

/// The errors of the layers of one setting, in the table's order.
fn errors(layers: &[Value], method: &str, pattern: &str, calibration: Option<&str>) -> Vec<f64> {
    let is_meant = |row: &&Value| {
        row["method"] == method && row["pattern"] == pattern && row["calibration"].as_str() == calibration
    };
    layers.iter().filter(is_meant).map(|row| row["relative_error"].as_f64().unwrap()).collect()
}

#[test]
fn an_error_is_what_a_direct_calculation_gives() {
    let shop = shop(&RECIPE.replace("windows = 5\n", "windows = 1\n").replace("[0.5, \"2:4\"]", "[\"2:4\"]"));
    let text: String = (0..80).map(|i| format!("{} ", i * i % 97)).collect();
    std::fs::write(shop.path("test.jsonl"), json!({"text": text}).to_string() + "\n").unwrap();
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.method=[\"magnitude\"]", "--set", "model.dtype=f32"]);
    let layers = layers(&shop, "results/tiny");
    let tensors = Tiny::default().tensors();
    let matrix = |name: &str| tensors[name].to_vec2::<f32>().unwrap();
    let embedding = matrix("model.embed_tokens.weight");
    let norm = tensors["model.layers.0.input_layernorm.weight"].to_vec1::<f32>().unwrap();
    // A token a byte; what q, k and v of the first block read is their normed embedding.
    let x: Vec<Vec<f64>> = (text.bytes().take(64))
        .map(|byte| {
            let row: Vec<f64> = embedding[byte as usize].iter().map(|&v| f64::from(v)).collect();
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            row.iter().zip(&norm).map(|(v, &n)| v / (mean + 1e-5).sqrt() * f64::from(n)).collect()
        })
        .collect();
    for (linear, name) in [("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj")] {
        let (mut lost, mut whole) = (0.0, 0.0);
        for row in matrix(&format!("model.layers.0.self_attn.{name}.weight")) {
            let dense: Vec<f64> = row.into_iter().map(f64::from).collect();
            // The two smaller of every four go.
            let gone: Vec<bool> = (0..dense.len())
                .map(|i| {
                    let four = &dense[i / 4 * 4..i / 4 * 4 + 4];
                    four.iter().filter(|other| other.abs() > dense[i].abs()).count() >= 2
                })
                .collect();
            for x in &x {
                let product: f64 = x.iter().zip(&dense).map(|(x, w)| x * w).sum();
                let missing: f64 =
                    x.iter().zip(&dense).zip(&gone).filter(|(_, gone)| **gone).map(|((x, w), _)| x * w).sum();
                (lost, whole) = (lost + missing * missing, whole + product * product);
            }
        }
        let row = layers.iter().find(|row| row["linear"] == linear && row["block"] == 0).unwrap();
        let measured = row["relative_error"].as_f64().unwrap();
        assert!((measured - lost / whole).abs() < 1e-5 * measured, "{linear}: {measured}, expected {}", lost / whole);
    }
}

#[test]
fn what_a_pruned_weight_reads_has_passed_through_the_pruned_weights_before_it() {
    let shop = shop(&RECIPE.replace("windows = 5\n", "windows = 1\n").replace("[0.5, \"2:4\"]", "[\"2:4\"]"));
    let text = "what is read here is read by all of them, and by each of them in its own place ".to_owned();
    std::fs::write(shop.path("test.jsonl"), json!({"text": text}).to_string() + "\n").unwrap();
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.method=[\"magnitude\"]", "--set", "model.dtype=f32"]);
    // A model whose files have the pruned weights, walked without pruning.
    let tiny = Tiny::default();
    let (dense, mut weights) = (tiny.tensors(), tiny.tensors());
    for (_, weight) in weights.iter_mut().filter(|(name, _)| name.ends_with("_proj.weight")) {
        let rows = weight.to_vec2::<f32>().unwrap();
        let keep = |row: &[f32], i: usize| {
            let four = &row[i / 4 * 4..i / 4 * 4 + 4];
            f32::from(four.iter().filter(|other| other.abs() > row[i].abs()).count() < 2)
        };
        let pruned: Vec<Vec<f32>> =
            rows.iter().map(|row| (0..row.len()).map(|i| row[i] * keep(row, i)).collect()).collect();
        *weight = Tensor::new(pruned, &Device::Cpu).unwrap();
    }
    let files = tiny.files(&shop.path("pruned"));
    candle_core::safetensors::save(&weights, shop.path("pruned/model.safetensors")).unwrap();
    let model = Model::open(&files, DType::F32, Device::Cpu).unwrap();
    let ids: Vec<u32> = text.bytes().take(64).map(u32::from).collect();
    let mut hidden = model.embedding().unwrap().embed(&ids, 0..ids.len()).unwrap();
    let ropes = model.ropes(64).unwrap();
    let layers = layers(&shop, "results/tiny");
    let squares = |x: Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    for index in 0..tiny.blocks {
        let block = model.block(index).unwrap();
        let mut flow = Flow::new(hidden, vec![Span::window(0..64)]);
        for site in 0..block.spec.sites.len() {
            block.advance(site, &mut flow, &ropes).unwrap();
            for linear in block.spec.readers(site) {
                let name = format!("model.layers.{index}.{}.weight", linear.part);
                let whole = flow.input.matmul(&dense[&name].t().unwrap()).unwrap();
                let left = flow.input.matmul(&weights[&name].t().unwrap()).unwrap();
                let expected = f64::from(squares((&whole - left).unwrap()) / squares(whole));
                let row = layers.iter().find(|row| row["linear"] == linear.name && row["block"] == index).unwrap();
                let measured = row["relative_error"].as_f64().unwrap();
                assert!((measured - expected).abs() < 1e-4 * measured, "{name}: {measured}, expected {expected}");
            }
        }
        hidden = block.finish(flow).unwrap();
    }
}

#[test]
fn errors_are_of_the_suite_and_not_of_the_calibration() {
    let shop = shop(&(RECIPE.to_owned() + TWIN + ANSWERS));
    shop.succeeds(&["run", "recipe.toml"]);
    let layers = layers(&shop, "results/tiny");
    // The report is about the answers, which go through no walk.
    assert!(layers.iter().all(|row| row["error_suite"] == "text"));
    for pattern in ["unstructured", "2:4"] {
        assert_eq!(errors(&layers, "magnitude", pattern, None).len(), 3 * 7);
        for method in ["wanda", "sparsegpt"] {
            let of = |calibration| errors(&layers, method, pattern, Some(calibration));
            assert_eq!(of("general"), of("twin"), "{method}");
            assert_ne!(of("general"), of("other"), "{method}");
        }
    }
}

#[test]
fn without_a_suite_that_is_scored_there_are_no_errors() {
    let shop = shop(&(RECIPE[..RECIPE.find("[suite").unwrap()].to_owned() + ANSWERS));
    shop.succeeds(&["run", "recipe.toml"]);
    let layers = layers(&shop, "results/tiny");
    assert!(!layers.is_empty());
    assert!(layers.iter().all(|row| row["relative_error"].is_null() && row["error_suite"].is_null()));
    // What lacks nothing is finished.
    let (_, log) = shop.succeeds(&["run", "recipe.toml"]);
    assert!(log.contains("finished before"), "{log}");
}

#[test]
fn errors_that_are_lost_are_measured_again_on_the_pruned_blocks_of_the_cache() {
    for options in
        [["prune.schedule=linear", "prune.propagation=pruned"], ["prune.schedule=block", "prune.propagation=dense"]]
    {
        let shop = shop(RECIPE);
        let run = || shop.succeeds(&["run", "recipe.toml", "--set", options[0], "--set", options[1]]);
        run();
        let expected = shop.tables("results/tiny");
        let written = |stage: &str| {
            let entries = std::fs::read_dir(shop.path("cache").join(stage)).unwrap().map(|entry| entry.unwrap());
            let mut written: Vec<_> =
                entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect();
            written.sort();
            written
        };
        let before = ["blocks", "scores"].map(written);
        std::fs::remove_dir_all(shop.path("cache/errors")).unwrap();
        run();
        assert_same_tables(&expected, &shop.tables("results/tiny"));
        assert_eq!(["blocks", "scores"].map(written), before);
        assert_eq!(written("errors").len(), 2 * 5);
    }
}
