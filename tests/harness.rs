//! Choices and answers of a tiny model, as lm-evaluation-harness scores and generates them (tests/scripts/harness.py).

mod common;

use std::path::Path;

use common::{Workshop, read_table};
use serde_json::Value;

const FIXTURES: &str = "tests/fixtures/harness";

/// A study of the harness's rows on its model, whose tokenizer puts a beginning in front of texts (`bos`) or not (`eos`).
fn shop(kind: &str, suite: &str, rows: &[&str]) -> Workshop {
    let shop = Workshop::new(&common::Tiny::default());
    let model = shop.path("harness");
    std::fs::create_dir(&model).unwrap();
    let copy = |from: &Path| std::fs::copy(from, model.join(from.file_name().unwrap())).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        copy(&Path::new(FIXTURES).join(kind).join(name));
    }
    copy(&Path::new(FIXTURES).join("bos/model.safetensors"));
    std::fs::write(shop.path("rows.jsonl"), rows.join("\n")).unwrap();
    let toml =
        "source = 'path:rows.jsonl'\n[template]\nprompt = '{{ q }}'\nchoices = 'choices'\nanswer = '{{ label }}'\n";
    std::fs::write(shop.path("rows.toml"), toml).unwrap();
    let recipe = format!(
        "name = 'harness'\n[model]\nsource = 'path:harness'\ndevice = 'cpu'\n[grid]\nmethod = ['magnitude']\n\
         sparsity = [0.5]\n[suite.w]\ndataset = 'path:rows.toml'\n{suite}\n"
    );
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop
}

fn rows() -> String {
    std::fs::read_to_string(format!("{FIXTURES}/rows.jsonl")).unwrap()
}

/// What the harness found on each row.
fn theirs(kind: &str) -> Vec<Value> {
    let all: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURES}/harness.json")).unwrap()).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn dense(shop: &Workshop) -> Vec<Value> {
    let samples = read_table(&shop.path("results/harness/samples.parquet"));
    samples.into_iter().filter(|row| row["cell"] == "dense").collect()
}

#[test]
fn choices_have_the_log_likelihoods_that_the_harness_gives_them() {
    let rows = rows();
    for kind in ["bos", "eos"] {
        let shop = shop(kind, "metrics = ['acc', 'acc_norm', 'acc_bytes']", &rows.lines().collect::<Vec<_>>());
        shop.succeeds(&["run", "recipe.toml"]);
        let (theirs, samples) = (theirs(kind), dense(&shop));
        assert_eq!(samples.len(), theirs.len());
        for ((sample, theirs), row) in samples.iter().zip(&theirs).zip(rows.lines()) {
            let pairs = ["log_likelihoods", "choices"].map(|name| sample[name].as_array().unwrap());
            let theirs_of_choices = theirs["loglikelihoods"].as_array().unwrap();
            assert_eq!(pairs.map(Vec::len), [theirs_of_choices.len(); 2]);
            for (ours, theirs) in pairs[0].iter().zip(theirs_of_choices) {
                let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
                assert!((ours - theirs).abs() < 1e-4, "{kind}: {ours} for {theirs}: {row}");
            }
            for metric in ["acc", "acc_norm", "acc_bytes"] {
                assert_eq!(sample[metric], theirs[metric], "{kind}: {metric} of {row}");
            }
        }
    }
}

#[test]
fn answers_are_those_that_the_harness_generates() {
    let (all, theirs) = (rows(), ["bos", "eos"].map(theirs));
    for (kind, theirs) in ["bos", "eos"].into_iter().zip(theirs) {
        // transformers generates nothing after nothing.
        let asked: Vec<(&str, &Value)> = all.lines().zip(&theirs).filter(|(_, t)| !t["answer"].is_null()).collect();
        let rows: Vec<&str> = asked.iter().map(|(row, _)| *row).collect();
        let suite = "metrics = ['exact_match']\nmax_new_tokens = 6\nstop = ['sea']";
        let shop = shop(kind, suite, &rows);
        shop.succeeds(&["run", "recipe.toml"]);
        let samples = dense(&shop);
        assert_eq!(samples.len(), asked.len());
        for (sample, (row, theirs)) in samples.iter().zip(asked) {
            assert_eq!(sample["prediction"], theirs["answer"], "{kind}: {row}");
        }
    }
}

#[test]
fn what_the_harness_fails_on_is_refused_with_its_row() {
    let long = ["the"; 40].join(" ");
    let row = |q: &str, choice: &str| serde_json::json!({"q": q, "choices": [choice, "sea"], "label": 0}).to_string();
    for (row, says) in [
        (row("the sea is", &long), "leave no room for a prompt in the model's context of 24"),
        (row("  ", "blue"), "row 2: nothing stands before the choice \"blue\": the prompt is empty or white space"),
    ] {
        let good = rows().lines().nth(2).unwrap().to_owned();
        let shop = shop("eos", "metrics = ['acc']", &[&good, &row]);
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml"]);
            let (_, stderr) = common::texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
            assert!(stderr.contains("row 2") && stderr.contains(says), "{command}: {stderr}");
        }
    }
}
