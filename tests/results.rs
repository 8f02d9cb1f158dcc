//! What a folder of results keeps: it is not overwritten by another study, and `run.json` says what was run.

mod common;

use std::fs;

use common::{RECIPE, Tiny, Workshop, assert_same_tables, read_table, texts};
use serde_json::Value;

fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    fs::write(shop.path("recipe.toml"), RECIPE.replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.5]")).unwrap();
    shop
}

fn manifest(shop: &Workshop, results: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(shop.path(results).join("run.json")).unwrap()).unwrap()
}

#[test]
fn another_study_is_refused_with_what_would_be_lost() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let (tables, run) = (shop.tables("results/tiny"), manifest(&shop, "results/tiny"));
    for (set, says) in [
        ("model.dtype=bf16", &["all 6 cells: the precision is bf16, not f32"][..]),
        (
            "seed=1",
            &[
                "all 6 cells: seed is 1, not 0",
                "wanda-0.5-general-s0, wanda-0.5-other-s0, ",
                " and sparsegpt-0.5-other-s0: ",
            ],
        ),
        ("grid.sparsity=[0.7]", &["magnitude-0.5, wanda-0.5-general-s0, ", "the grid no longer has them"]),
        ("method.sparsegpt.damping=0.05", &["sparsegpt-0.5-general-s0", "method.sparsegpt.damping is 0.05, not 0.01"]),
        ("prune.schedule=block", &["prune.schedule is \"block\", not \"linear\""]),
        (
            "calibration.other.windows=5",
            &["wanda-0.5-other-s0, sparsegpt-0.5-other-s0: calibration.other.windows is 5"],
        ),
        (
            "calibration.other.dataset=path:rows.jsonl",
            &["its rows are those of path:rows.jsonl, not of path:other.jsonl"],
        ),
        ("suite.text.length=32", &["the suite text: suite.text.length is 32, not 64"]),
        (
            "suite.text.metrics=[\"loss\"]",
            &["perplexity, js_divergence, kl_divergence, top1_agreement on the suite text"],
        ),
    ] {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml", "--set", set]);
            let (stdout, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {set}: {stderr}");
            assert!(says.iter().all(|says| stderr.contains(says)), "{command} {set}: {stderr}");
            assert!(stderr.contains("--out DIR") && stderr.contains("--replace") && stdout.is_empty(), "{stderr}");
        }
    }
    assert_same_tables(&tables, &shop.tables("results/tiny"));
    assert_eq!(manifest(&shop, "results/tiny"), run);
    shop.succeeds(&["plan", "recipe.toml", "--set", "seed=1", "--replace"]);
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.7]", "--replace"]);
    let cells = read_table(&shop.path("results/tiny/cells.parquet"));
    assert!(cells.len() == 6 && cells[1]["cell"] == "magnitude-0.7", "{cells:?}");
}

#[test]
fn other_files_make_another_study_of_the_same_recipe() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let refused = |says: &str| {
        let output = shop.calipr(&["run", "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert!(output.status.code() == Some(2) && stderr.contains(says), "{stderr}");
    };
    let rows = fs::read(shop.path("test.jsonl")).unwrap();
    fs::write(shop.path("test.jsonl"), fs::read(shop.path("other.jsonl")).unwrap()).unwrap();
    refused("the suite text: the rows of path:test.jsonl have changed");
    fs::write(shop.path("test.jsonl"), rows).unwrap();
    let rows = fs::read(shop.path("other.jsonl")).unwrap();
    fs::write(shop.path("other.jsonl"), [&rows[..], b"{\"text\": \"one more\"}\n"].concat()).unwrap();
    refused("other-s0: [calibration.other]: the rows of path:other.jsonl have changed");
    fs::write(shop.path("other.jsonl"), rows).unwrap();
    Tiny { blocks: 1, feed_forward_scale: 0.2, ..Tiny::default() }.write(&shop.path("model"));
    refused("all 6 cells: the files of the model path:model have changed");
}

#[test]
fn a_study_that_contains_the_old_one_goes_on_with_it() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let before = shop.tables("results/tiny");
    let more = "\n[suite.more]\ndataset = \"path:rows.jsonl\"\nwindows = 3\nlength = 32\n";
    let recipe = fs::read_to_string(shop.path("recipe.toml")).unwrap().replace("[0.5]", "[0.7, 0.5]");
    // What is spelt out is what it was by default.
    let recipe = recipe.replace("dataset = \"path:test.jsonl\"", "dataset = \"path:test.jsonl\"\npacking = \"concat\"");
    fs::write(shop.path("recipe.toml"), recipe + more).unwrap();
    shop.succeeds(&["plan", "recipe.toml"]);
    shop.succeeds(&["run", "recipe.toml"]);
    let after = shop.tables("results/tiny");
    for row in &before[2] {
        assert!(after[2].contains(row), "{row}");
    }
    assert!(after[2].len() > 2 * before[2].len());
    // But not the other way round.
    fs::write(shop.path("recipe.toml"), RECIPE.replace("[0.5, \"2:4\"]", "[0.5]")).unwrap();
    let (_, stderr) = texts(&shop.calipr(&["run", "recipe.toml"]));
    assert!(
        stderr.contains("the suite more: the recipe no longer has it") && stderr.contains("magnitude-0.7"),
        "{stderr}"
    );
}

#[test]
fn tables_of_no_known_study_are_not_overwritten_and_a_study_without_a_cell_loses_nothing() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let run = shop.path("results/tiny/run.json");
    let refused = |says: &str| {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml"]);
            let (_, stderr) = texts(&output);
            assert!(output.status.code() == Some(2) && stderr.contains(says), "{command}: {stderr}");
        }
    };
    fs::write(&run, "{\"recipe\": ").unwrap();
    refused("run.json is of no use to this version of calipr: EOF");
    fs::remove_file(&run).unwrap();
    refused("results/tiny has tables, but no run.json that says which study they are of");
    shop.succeeds(&["run", "recipe.toml", "--replace"]);
    assert!(run.is_file());
    for table in ["samples", "layers", "masks", "cells", "contrasts", "settings", "metrics"] {
        fs::remove_file(shop.path("results/tiny").join(format!("{table}.parquet"))).unwrap();
    }
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.7]"]);
}

#[test]
fn run_json_says_what_was_run() {
    let shop = shop();
    // The suite is calibrated on: the recipe's `text` and `general` are the same file.
    let seen = ["run", "recipe.toml", "--set", "suite.text.dataset=path:rows.jsonl", "--set", "suite.text.windows=4"];
    let (_, log) = shop.succeeds(&seen);
    assert_eq!(log.matches("[suite.text] has the rows of [calibration.general]").count(), 1, "{log}");
    let run = manifest(&shop, "results/tiny");
    let warnings = run["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().starts_with("[suite.text] has the rows of [calibration.general]"), "{run}");
    assert_eq!(warnings.len(), log.matches(" WARN ").count(), "{log}");

    let model = &run["model"];
    // An embedding and a head of 256 × 32, two norms and one behind the last block, and the linears of one block.
    let linears = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32;
    assert_eq!(model["prunable_parameters"], linears);
    assert_eq!(model["parameters"], linears + 2 * 256 * 32 + 3 * 32);
    assert_eq!(model["stored"]["formats"]["F32"], model["parameters"]);
    assert!(model["stored"]["quantised"].is_null());
    assert_eq!((model["architecture"].as_str(), model["vocabulary"].as_u64()), (Some("llama"), Some(256)));
    assert_eq!((model["dtype"].as_str(), model["computed_in"].as_str()), (Some("f32"), Some("f32")));
    assert_eq!((model["tokenizer"]["kind"].as_str(), model["tokenizer"]["tokens"].as_u64()), (Some("BPE"), Some(256)));
    let b3 = |file: &str| blake3::hash(&fs::read(shop.path(file)).unwrap()).to_hex().to_string();
    assert_eq!(model["files"]["model.safetensors"], b3("model/model.safetensors"));

    let other = &run["calibrations"]["other"];
    assert_eq!(other["data"]["digest"], b3("other.jsonl"));
    assert_eq!((other["windows"].as_u64(), other["length"].as_u64()), (Some(6), Some(48)));
    assert_eq!((other["drawn"][0]["seed"].as_u64(), other["drawn"][0]["tokens"].as_u64()), (Some(0), Some(6 * 48)));
    let suite = &run["suites"]["text"];
    assert_eq!(
        (suite["unit"].as_str(), suite["samples"].as_u64(), suite["tokens"].as_u64()),
        (Some("windows"), Some(4), Some(4 * 64))
    );
    assert_eq!(run["datasets"]["path:other.jsonl"]["definition"]["source"], "path:other.jsonl");
    assert_eq!(run["folders"], serde_json::json!(["../..", "../.."]));
    assert!(run["seconds"].as_f64().unwrap() > 0.0 && run["finished"].as_u64() >= run["started"].as_u64());
    // Nothing of this machine's paths, but where the user gave them.
    assert!(!run.to_string().contains(shop.dir.path().to_str().unwrap()), "{run}");
}

#[test]
fn facts_of_a_run_are_not_those_of_the_run_that_filled_the_cache() {
    let shop = shop();
    let cells = || -> Vec<Value> {
        use parquet::file::reader::SerializedFileReader;
        let file = fs::File::open(shop.path("results/tiny/cells.parquet")).unwrap();
        let rows = SerializedFileReader::new(file).unwrap().into_iter();
        rows.map(|row| row.unwrap().to_json_value()).collect()
    };
    let facts = ["seconds", "seconds_prune", "device", "batch_tokens"];
    shop.succeeds(&["run", "recipe.toml"]);
    for cell in cells() {
        assert_eq!(cell["from_cache"], false);
        assert!(facts.iter().all(|fact| !cell[fact].is_null()), "{cell}");
    }
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5, 0.7]"]);
    for cell in cells() {
        let is_old = !cell["cell"].as_str().unwrap().contains("0.7");
        assert_eq!(cell["from_cache"], is_old, "{cell}");
        assert!(facts.iter().all(|fact| cell[fact].is_null() == is_old), "{cell}");
        assert!(!cell["achieved_sparsity"].is_null());
    }
}
