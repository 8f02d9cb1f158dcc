//! Models that others made, judged beside those that the grid prunes.

mod common;

use std::collections::BTreeSet;
use std::fs;

use candle_core::quantized::GgmlDType;
use common::{RECIPE, Tiny, Workshop, read_table, texts, write_gguf};
use serde_json::{Value, json};

/// Its columns divide into the blocks of llama.cpp's formats.
fn divisible() -> Tiny {
    Tiny { feed_forward: 64, ..Tiny::default() }
}

/// A study of these checkpoints, `NAME = SOURCE` each, beside the grid of the tiny recipe.
fn with(shop: &Workshop, name: &str, checkpoints: &[(&str, &str)]) {
    let mut recipe = RECIPE.replace("name = \"tiny\"", &format!("name = \"{name}\""));
    recipe += "\n[suite.answers]\ndataset = \"path:asked.jsonl\"\nmax_new_tokens = 6\nmetrics = [\"f1\", \"loss\"]\n";
    recipe += "\n[report]\nsuite = \"text\"\nmetric = \"loss\"\n";
    for (name, source) in checkpoints {
        recipe += &format!("\n[checkpoint.\"{name}\"]\nsource = \"{source}\"\n");
    }
    let asked =
        |i: usize| json!({"prompt": format!("What is row {i}?"), "completion": format!("word {i}")}).to_string();
    fs::write(shop.path("asked.jsonl"), (0..8).map(asked).collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(shop.path(&format!("{name}.toml")), recipe).unwrap();
}

/// What a table says of a cell, without what the cell is called and what kind it is.
fn of(shop: &Workshop, table: &str, cell: &str) -> Vec<Value> {
    let rows = read_table(&shop.path("results/study").join(format!("{table}.parquet")));
    let named = ["cell", "method", "sparsity", "pattern", "calibration", "seed", "damping"];
    let of_cell = rows.into_iter().filter(|row| row["cell"] == cell).map(|mut row| {
        row.as_object_mut().unwrap().retain(|column, _| !named.contains(&column.as_str()));
        row
    });
    of_cell.collect()
}

#[test]
fn a_checkpoint_that_is_a_cell_on_its_way_back_has_all_that_the_cell_has() {
    let shop = Workshop::new(&Tiny::default());
    with(&shop, "first", &[]);
    shop.succeeds(&["run", "first.toml"]);
    shop.succeeds(&["export", "results/first", "sparsegpt-2:4-other", "--to", "exported"]);
    with(&shop, "study", &[("pruned", "path:exported"), ("itself", "path:model")]);
    shop.succeeds(&["run", "study.toml"]);
    for table in ["metrics", "samples", "layers", "cells"] {
        let (cell, checkpoint) = (of(&shop, table, "sparsegpt-2:4-other-s0"), of(&shop, table, "pruned"));
        assert_eq!(cell, checkpoint, "{table}");
        assert!(!cell.is_empty(), "{table}");
    }
    assert_eq!(of(&shop, "samples", "dense"), of(&shop, "samples", "itself"));
    let js = |cell: &str| -> f64 {
        let rows = of(&shop, "metrics", cell);
        rows.iter().find(|row| row["metric"] == "js_divergence").unwrap()["value"].as_f64().unwrap()
    };
    assert_eq!(js("itself"), 0.0);
    assert!(js("pruned") > 1e-3);

    // Everything else of the study is as it was, and checkpoints are compared with all settings.
    let contrasts = read_table(&shop.path("results/study/contrasts.parquet"));
    let pairs = |axis: &str| -> BTreeSet<(String, String)> {
        let of_axis = contrasts.iter().filter(|row| row["axis"] == axis);
        let name = |row: &Value, column: &str| row[column].as_str().unwrap().to_owned();
        of_axis.map(|row| (name(row, "setting"), name(row, "other"))).collect()
    };
    assert!(pairs("dense").contains(&("itself".into(), "dense".into())));
    // 10 settings of the grid and 2 checkpoints: each checkpoint with each setting, and with each other.
    assert_eq!(pairs("checkpoint").len(), 21, "{:?}", pairs("checkpoint"));
    let first = read_table(&shop.path("results/first/metrics.parquet"));
    let now = read_table(&shop.path("results/study/metrics.parquet"));
    let values = |rows: &[Value]| -> Vec<Value> {
        let of_grid = rows.iter().filter(|row| row["method"] != "checkpoint");
        of_grid.map(|row| json!([row["cell"], row["suite"], row["metric"], row["value"]])).collect()
    };
    assert_eq!(values(&first), values(&now));

    let (said, _) = shop.succeeds(&["report", "results/study"]);
    assert!(said.contains("Checkpoints against other settings") && said.contains("checkpoint pruned "), "{said}");
    assert!(said.contains("the checkpoint itself has"), "{said}");
    let (said, _) = shop.succeeds(&["plan", "study.toml"]);
    assert!(said.contains("score pruned on text") && said.contains("all of it is done"), "{said}");
    for name in ["html", "json", "csv", "tex", "md"] {
        shop.succeeds(&["report", "results/study", "--to", &format!("report.{name}")]);
    }
    shop.succeeds(&["reproduce", "results/study"]);
    let output = shop.calipr(&["export", "results/study", "pruned", "--to", "again"]);
    assert!(texts(&output).1.contains("pruned is a checkpoint, whose model is there already: path:exported"));
}

#[test]
fn checkpoints_need_no_grid_and_may_be_smaller_models_or_quantised_files() {
    let shop = Workshop::new(&divisible());
    let small = Tiny { hidden: 16, feed_forward: 24, blocks: 2, heads: 2, context: 96, ..Tiny::default() };
    small.write(&shop.path("small"));
    write_gguf(&divisible(), GgmlDType::Q8_0, &shop.path("quantised.gguf"));
    with(&shop, "study", &[("small", "path:small"), ("eight-bit", "path:quantised.gguf")]);
    let recipe = fs::read_to_string(shop.path("study.toml")).unwrap();
    let grid = "[grid]\nmethod = [\"magnitude\", \"wanda\", \"sparsegpt\"]\nsparsity = [0.5, \"2:4\"]\n";
    fs::write(shop.path("study.toml"), recipe.replace(grid, "")).unwrap();
    let (said, _) = shop.succeeds(&["plan", "study.toml"]);
    assert!(said.contains("study: 3 cells"), "{said}");
    shop.succeeds(&["run", "study.toml"]);
    let js = |cell: &str| {
        let rows = of(&shop, "metrics", cell);
        let row = rows.iter().find(|row| row["metric"] == "js_divergence");
        row.unwrap()["value"].as_f64().unwrap()
    };
    // Eight bits are nearer to the model than another model is.
    assert!(js("eight-bit") > 0.0 && js("eight-bit") < 0.05 * js("small"), "{} {}", js("eight-bit"), js("small"));
    let errors = |cell: &str| -> Vec<Value> {
        of(&shop, "layers", cell).iter().map(|row| row["relative_error"].clone()).collect()
    };
    let eight: Vec<f64> = errors("eight-bit").iter().map(|error| error.as_f64().unwrap()).collect();
    assert!(eight.len() == 21 && eight.iter().all(|&error| error > 0.0 && error < 1e-3), "{eight:?}");
    // Its blocks are others, whose errors mean nothing.
    assert!(errors("small").len() == 14 && errors("small").iter().all(Value::is_null));

    // The small model's own figures are those of a study of it alone.
    let alone = recipe.replace(grid, "").replace("path:model", "path:small").replace("\"study\"", "\"alone\"");
    let alone = alone.split("\n[checkpoint.\"small\"]").next().unwrap().to_owned();
    fs::write(shop.path("alone.toml"), alone + "\n[checkpoint.itself]\nsource = \"path:small\"\n").unwrap();
    shop.succeeds(&["run", "alone.toml"]);
    let losses = |results: &str, cell: &str| -> Vec<Value> {
        let rows = read_table(&shop.path(results).join("samples.parquet"));
        rows.iter()
            .filter(|row| row["cell"] == cell)
            .map(|row| json!([row["suite"], row["sample"], row["loss"], row["prediction"]]))
            .collect()
    };
    assert_eq!(losses("results/alone", "dense"), losses("results/study", "small"));
}

#[test]
fn what_cannot_be_set_beside_the_model_is_refused_before_anything_is_computed() {
    let shop = Workshop::new(&Tiny::default());
    Tiny { vocabulary: 258, ..Tiny::default() }.write(&shop.path("wider"));
    Tiny { context: 40, ..Tiny::default() }.write(&shop.path("short"));
    Tiny::default().write(&shop.path("other-tokens"));
    let tokenizer = fs::read_to_string(shop.path("other-tokens/tokenizer.json")).unwrap();
    let tokenizer = tokenizer.replace("\"a\":97", "\"a\":98").replace("\"b\":98", "\"b\":97");
    fs::write(shop.path("other-tokens/tokenizer.json"), tokenizer).unwrap();
    Tiny::default().write(&shop.path("no-tokenizer"));
    fs::remove_file(shop.path("no-tokenizer/tokenizer.json")).unwrap();
    let cases = [
        (("dense", "path:model"), "\"dense\" is already the name of a cell"),
        (("wanda-0.5-general", "path:model"), "is already the name of a cell"),
        (("q", "path:nowhere"), "nowhere does not exist"),
        (("q", "path:rows.jsonl"), "neither a .gguf file nor a model directory"),
        (("q", "hf:datasets/a/b/c"), "it names a data set"),
        (("q", "path:wider"), "it predicts 258 tokens, and the model 256"),
        (("q", "path:short"), "windows of 64 tokens, as [suite.text] has them, are longer than the context of 40"),
        (("q", "path:other-tokens"), "its tokens are not the model's: 97 is \"b\", not \"a\", 98 is \"a\", not \"b\""),
        (("q", "path:no-tokenizer"), "[checkpoint.q]"),
    ];
    for ((name, source), says) in cases {
        with(&shop, "study", &[(name, source)]);
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "study.toml"]);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{source}: {stderr}");
            assert!(stderr.contains(says), "{source}: {stderr}");
        }
    }
    assert!(!shop.path("results").exists());
    // Without a grid and a checkpoint there is nothing to judge.
    let grid = "[grid]\nmethod = [\"magnitude\", \"wanda\", \"sparsegpt\"]\nsparsity = [0.5, \"2:4\"]\n";
    fs::write(shop.path("study.toml"), RECIPE.replace(grid, "")).unwrap();
    let (_, stderr) = texts(&shop.calipr(&["plan", "study.toml"]));
    assert!(stderr.contains("a study needs a [grid] of prunings, or a [checkpoint.NAME]"), "{stderr}");
}

#[test]
fn another_checkpoint_of_the_name_does_not_overwrite_the_first_ones_results() {
    let shop = Workshop::new(&divisible());
    write_gguf(&divisible(), GgmlDType::Q8_0, &shop.path("a.gguf"));
    write_gguf(&divisible(), GgmlDType::Q4_0, &shop.path("b.gguf"));
    with(&shop, "study", &[("q", "path:a.gguf")]);
    shop.succeeds(&["run", "study.toml"]);
    let before = read_table(&shop.path("results/study/metrics.parquet"));
    with(&shop, "study", &[("q", "path:b.gguf")]);
    let output = shop.calipr(&["run", "study.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("checkpoint.q.source is path:b.gguf, not path:a.gguf"), "{stderr}");
    // The same files elsewhere are the same checkpoint, and nothing is computed again.
    fs::create_dir(shop.path("moved")).unwrap();
    fs::rename(shop.path("a.gguf"), shop.path("moved/a.gguf")).unwrap();
    with(&shop, "study", &[("q", "path:moved/a.gguf")]);
    let output = shop.calipr(&["run", "study.toml"]);
    assert!(output.status.success(), "{}", texts(&output).1);
    assert_eq!(read_table(&shop.path("results/study/metrics.parquet")), before);
}
