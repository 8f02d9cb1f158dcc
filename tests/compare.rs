//! `calipr compare`: studies side by side, paired on the samples that they share and on no others.

mod common;

use common::{RECIPE, Tiny, Workshop, texts};
use serde_json::{Value, json};

/// A shop with a study `a` of twelve windows and eight rows.
fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let recipe =
        RECIPE.replace("[0.5, \"2:4\"]", "[0.5]").replace("windows = 5\nlength = 64", "windows = 12\nlength = 16")
            + "\n[suite.rows]\ndataset = \"path:questions.jsonl\"\nmax_new_tokens = 4\nmetrics = [\"f1\", \"loss\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let rows =
        (0..8).map(|i| json!({"prompt": format!("{i}+1="), "completion": format!(" {}", i + 1)}).to_string() + "\n");
    std::fs::write(shop.path("questions.jsonl"), rows.collect::<String>()).unwrap();
    run(&shop, "a", &[]);
    shop
}

fn run(shop: &Workshop, results: &str, set: &[&str]) {
    let set = set.iter().flat_map(|set| ["--set", set]);
    shop.succeeds(&["run", "recipe.toml", "--out", results].into_iter().chain(set).collect::<Vec<_>>());
}

fn compared(shop: &Workshop, studies: &[&str]) -> Value {
    let json = shop.succeeds(&[&["compare"], studies, &["--format", "json"]].concat()).0;
    serde_json::from_str(&json).unwrap()
}

/// A row of a suite.
fn row<'a>(compared: &'a Value, suite: &str, setting: &str, metric: &str) -> &'a Value {
    let suites = compared["suites"].as_array().unwrap();
    let rows = suites.iter().find(|s| s["suite"] == suite).unwrap()["rows"].as_array().unwrap();
    rows.iter().find(|row| row["setting"] == setting && row["metric"] == metric).unwrap()
}

#[test]
fn a_study_beside_itself_is_told_apart_by_nothing() {
    let shop = shop();
    run(&shop, "b", &[]);
    let found = compared(&shop, &["a", "b"]);
    let named = |name: &str| found["differs"].as_array().unwrap().iter().any(|differs| differs["name"] == name);
    assert!(!named("model") && !named("weights") && !named("run"), "{}", found["differs"]);
    // Dense has no divergence from itself.
    let comparisons = |suite: usize| found["suites"][suite]["comparisons"].as_object().unwrap().clone();
    assert_eq!(comparisons(0)["loss"].as_u64().unwrap(), comparisons(0)["js_divergence"].as_u64().unwrap() + 1);
    for suite in found["suites"].as_array().unwrap() {
        assert_eq!(suite["shared"], json!([suite["samples"][0], suite["samples"][0]]), "{suite}");
        assert!(suite["rows"].as_array().unwrap().len() >= 12, "{suite}");
        for row in suite["rows"].as_array().unwrap() {
            assert_eq!(row["values"][0]["value"], row["values"][1]["value"], "{row}");
            assert_eq!(row["differences"][1]["delta"], 0.0, "{row}");
            let verdict = row["differences"][1]["verdict"].as_str().unwrap();
            assert!(["not told apart", "within the margin"].contains(&verdict), "{row}");
        }
    }
    let text = shop.succeeds(&["compare", "a", "b"]).0;
    assert!(text.contains("b is paired with a on all 12 samples."), "{text}");
}

#[test]
fn another_precision_is_paired_sample_by_sample() {
    let shop = shop();
    run(&shop, "half", &["model.dtype=bf16"]);
    let found = compared(&shop, &["a", "half"]);
    let weights = found["differs"].as_array().unwrap().iter().find(|differs| differs["name"] == "weights").unwrap();
    assert!(weights["values"][1].as_str().unwrap().contains("bf16"), "{weights}");
    let row = row(&found, "text", "wanda-0.5-general", "loss");
    let (a, b) = (row["values"][0]["value"].as_f64().unwrap(), row["values"][1]["value"].as_f64().unwrap());
    let difference = &row["differences"][1];
    assert!((difference["delta"].as_f64().unwrap() - (b - a)).abs() < 1e-12 && a != b, "{row}");
    // The interval of a paired difference, not of two means side by side.
    let width = |of: &Value| of["high"].as_f64().unwrap() - of["low"].as_f64().unwrap();
    assert!(width(difference) < 0.5 * width(&row["values"][0]), "{row}");
}

#[test]
fn more_windows_are_paired_on_the_first_and_other_windows_are_not() {
    let shop = shop();
    run(&shop, "fewer", &["suite.text.windows=7", "suite.rows.limit=6"]);
    run(&shop, "longer", &["suite.text.length=24"]);
    let found = compared(&shop, &["a", "fewer", "longer"]);
    let shared = |suite: usize| found["suites"][suite]["shared"].clone();
    assert_eq!([shared(0), shared(1)], [json!([12, 7, 0]), json!([8, 6, 8])]);
    let row = row(&found, "text", "dense", "loss");
    assert_eq!(row["differences"][1]["delta"], 0.0, "the dense model is the same on the windows that both have: {row}");
    assert_ne!(row["values"][0]["value"], row["values"][1]["value"]);
    assert!(row["differences"][2].is_null() && row["values"][2]["value"].is_number(), "{row}");
    let text = shop.succeeds(&["compare", "a", "fewer", "longer", "--format", "markdown"]).0;
    assert!(text.contains("fewer shares the first 7 samples with a"), "{text}");
    assert!(text.contains("No sample of longer is one of a, so that nothing is paired."), "{text}");
    // Other rows under the same names are other samples.
    std::fs::write(shop.path("test.jsonl"), std::fs::read(shop.path("other.jsonl")).unwrap()).unwrap();
    run(&shop, "other", &[]);
    assert_eq!(compared(&shop, &["a", "other"])["suites"][0]["shared"], json!([12, 0]));
}

#[test]
fn what_is_counted_by_the_token_is_not_compared_across_tokenizers() {
    let shop = shop();
    let other = shop.path("model2");
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(shop.path("model")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(other.join("tokenizer.json")).unwrap()).unwrap();
    for id in tokenizer["model"]["vocab"].as_object_mut().unwrap().values_mut() {
        *id = json!(255 - id.as_u64().unwrap());
    }
    std::fs::write(other.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    run(&shop, "other", &["model.source=path:model2"]);
    let found = compared(&shop, &["a", "other"]);
    let of = |suite: usize, key: &str| found["suites"][suite][key].clone();
    assert_eq!([of(0, "shared"), of(1, "shared")], [json!([12, 0]), json!([8, 8])]);
    assert_eq!(of(1, "same_tokens"), json!([true, false]));
    let difference = |metric: &str| row(&found, "rows", "dense", metric)["differences"][1].clone();
    assert!(difference("f1")["delta"].is_number() && difference("loss").is_null(), "{found}");
    let text = shop.succeeds(&["compare", "a", "other"]).0;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("other has another tokenizer than a: what is counted by the token is not compared."),
        "{text}"
    );
}

#[test]
fn every_format_has_every_value_and_what_cannot_be_compared_is_refused() {
    let shop = shop();
    run(&shop, "b", &["model.dtype=bf16"]);
    shop.succeeds(&["compare", "a", "b", "--to", "ab.csv"]);
    let csv = std::fs::read_to_string(shop.path("ab.csv")).unwrap();
    // Two studies, six settings, five metrics of windows and two of rows, but those that are of the dense model.
    assert_eq!(csv.lines().count(), 1 + 2 * (6 * 7 - 3), "{csv}");
    shop.succeeds(&["compare", "a", "b", "--to", "ab.md"]);
    assert!(std::fs::read_to_string(shop.path("ab.md")).unwrap().contains("| wanda-0.5-general |"));
    let latex = shop.succeeds(&["compare", "a", "b", "--format", "latex"]).0;
    assert_eq!(latex.matches("\\begin{table}").count(), 2, "{latex}");
    for (arguments, says) in [
        (&["compare", "a"][..], "two or more folders of results"),
        (&["compare", "a", "nowhere"], "nowhere"),
        (&["compare", "a", "b", "--to", "ab.xyz"], "xyz"),
        (&["compare", "a", "b", "--to", "ab.html"], ".txt, .md, .csv, .tex or .json"),
    ] {
        let output = shop.calipr(arguments);
        let (stdout, stderr) = texts(&output);
        assert!(!output.status.success() && stderr.contains(says) && stdout.is_empty(), "{arguments:?}: {stderr}");
    }
    assert!(!shop.path("ab.html").exists());
}
