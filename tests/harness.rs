//! Choices and answers of a tiny model, as lm-evaluation-harness scores and generates them (tests/scripts/harness.py).

mod common;

use std::path::Path;

use common::{Workshop, read_table};
use serde_json::Value;

const FIXTURES: &str = "tests/fixtures/harness";

/// How the harness's rows become prompts with choices.
const CHOICES: &str = "prompt = '{{ q }}'\nchoices = 'choices'\nanswer = '{{ label }}'";

/// A study of the harness's rows on its model, whose tokenizer puts a beginning in front of texts (`bos`) or not (`eos`).
fn shop(kind: &str, suite: &str, rows: &[&str]) -> Workshop {
    shop_of(CHOICES, kind, suite, rows)
}

/// The same, of rows that this template makes prompts of.
fn shop_of(template: &str, kind: &str, suite: &str, rows: &[&str]) -> Workshop {
    let shop = Workshop::new(&common::Tiny::default());
    let model = shop.path("harness");
    std::fs::create_dir(&model).unwrap();
    let copy = |from: &Path| std::fs::copy(from, model.join(from.file_name().unwrap())).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        copy(&Path::new(FIXTURES).join(kind).join(name));
    }
    copy(&Path::new(FIXTURES).join("bos/model.safetensors"));
    std::fs::write(shop.path("rows.jsonl"), rows.join("\n")).unwrap();
    let toml = format!("source = 'path:rows.jsonl'\n[template]\n{template}\n");
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

/// What the harness makes of choices without a space before them, of targets, and of several right choices
/// (tests/scripts/harness_targets.py).
fn targets() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURES}/targets.json")).unwrap()).unwrap()
}

fn assert_near(ours: &Value, theirs: &Value, what: &str) {
    let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
    assert!((ours - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "{ours} for {theirs}: {what}");
}

#[test]
fn choices_follow_the_prompt_after_the_delimiter_of_the_template() {
    let (all, theirs) = (rows(), targets());
    let all: Vec<&str> = all.lines().collect();
    for kind in ["bos", "eos"] {
        let theirs = theirs[kind]["glued"].as_array().unwrap();
        let rows: Vec<&str> = theirs.iter().map(|row| all[row["row"].as_u64().unwrap() as usize]).collect();
        let shop = shop_of(&format!("{CHOICES}\ndelimiter = ''"), kind, "metrics = ['acc']", &rows);
        shop.succeeds(&["run", "recipe.toml"]);
        let samples = dense(&shop);
        assert_eq!(samples.len(), theirs.len());
        for ((sample, theirs), row) in samples.iter().zip(theirs).zip(rows) {
            let [ours, theirs] = [sample, theirs].map(|of| of["log_likelihoods"].as_array().unwrap());
            assert_eq!(ours.len(), theirs.len());
            ours.iter().zip(theirs).for_each(|(ours, theirs)| assert_near(ours, theirs, &format!("{kind}: {row}")));
        }
    }
}

#[test]
fn targets_are_right_where_the_harness_finds_them_greedy_and_have_its_perplexity() {
    let theirs = targets();
    for kind in ["bos", "eos"] {
        let rows = theirs[kind]["targets"].as_array().unwrap();
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let template = "prompt = '{{ q }}'\ntarget = '{{ target }}'";
        let shop = shop_of(template, kind, "metrics = ['acc', 'target_perplexity', 'target_loss']", &lines);
        shop.succeeds(&["run", "recipe.toml"]);
        let samples = dense(&shop);
        assert_eq!(samples.len(), rows.len());
        for (sample, row) in samples.iter().zip(rows) {
            assert_near(&sample["log_likelihoods"][0], &row["log_likelihood"], &format!("{kind}: {row}"));
            assert_eq!(sample["acc"].as_f64(), row["greedy"].as_f64(), "{kind}: {row}");
            assert_eq!(sample["target_loss"].as_f64().unwrap(), -sample["log_likelihoods"][0].as_f64().unwrap());
            assert!(["chosen", "choices", "acc_norm", "mc2"].iter().all(|name| sample[name].is_null()), "{sample}");
        }
        let metrics = read_table(&shop.path("results/harness/metrics.parquet"));
        let of_dense = |row: &&Value| row["cell"] == "dense" && row["metric"] == "target_perplexity";
        let found = &metrics.iter().find(of_dense).unwrap()["value"];
        assert_near(found, &theirs[kind]["perplexity"], kind);
    }
}

#[test]
fn several_right_choices_are_judged_as_the_harness_judges_them() {
    let (all, theirs) = (rows(), targets());
    let theirs = theirs["several"].as_array().unwrap();
    let with = |(row, theirs): (&str, &Value)| {
        let mut row: Value = serde_json::from_str(row).unwrap();
        row["labels"] = theirs["labels"].clone();
        let marks = theirs["labels"].as_array().unwrap().iter().enumerate();
        row["gold"] = marks.filter(|(_, mark)| **mark == 1).map(|(i, _)| Value::from(i)).collect();
        row.to_string()
    };
    let lines: Vec<String> = all.lines().zip(theirs).map(with).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for right in ["labels = 'labels'", "answers = 'gold'"] {
        let template = format!("prompt = '{{{{ q }}}}'\nchoices = 'choices'\n{right}");
        let shop = shop_of(&template, "bos", "metrics = ['acc', 'acc_norm', 'mc2']", &lines);
        shop.succeeds(&["run", "recipe.toml"]);
        for ((sample, theirs), row) in dense(&shop).iter().zip(theirs).zip(&lines) {
            assert_near(&sample["mc2"], &theirs["mc2"], row);
            assert_eq!([&sample["acc"], &sample["acc_norm"]], [&theirs["acc"], &theirs["acc_norm"]], "{row}");
        }
    }
    let shop = shop("bos", "metrics = ['brier_score']", &all.lines().collect::<Vec<_>>());
    shop.succeeds(&["run", "recipe.toml"]);
    dense(&shop).iter().zip(theirs).for_each(|(sample, theirs)| {
        assert_near(&sample["brier_score"], &theirs["brier_score"], &sample["prompt"].to_string());
    });
}

#[test]
fn a_metric_of_choices_that_the_rows_do_not_allow_is_refused_with_the_row() {
    let row = r#"{"q": "the sea is", "choices": ["blue", "green"], "label": 0, "gold": [0, 1], "marks": [0, 0]}"#;
    let choices = "prompt = '{{ q }}'\nchoices = 'choices'\n";
    for (template, metric, says) in [
        ("prompt = '{{ q }}'\ntarget = ' blue'".to_owned(), "mc2", "row 1 has no choices, which mc2 needs"),
        (
            format!("{choices}answers = 'gold'"),
            "brier_score",
            "row 1 has several right choices, and brier_score is of one",
        ),
        (
            format!("{choices}labels = 'marks'"),
            "mc2",
            "row 1: the data set's template fails on a row: none of the choices",
        ),
        (format!("{choices}labels = 'nothing'"), "mc2", "\"nothing\" is missing from the row"),
        (
            format!("{choices}answer = '0'\nlabels = 'marks'"),
            "acc",
            "`answer` and `labels` both say which choices are right",
        ),
        ("prompt = '{{ q }}'\nanswers = 'gold'".to_owned(), "acc", "`choices` and `answer` belong together"),
        (
            "prompt = '{{ q }}'\ntarget = 'x'\ndelimiter = ''".to_owned(),
            "acc",
            "`delimiter` stands between a prompt and its choices",
        ),
        (format!("{choices}answer = '0'\ndelimiter = '{{{{ q }}}}'"), "acc", "a template where a text is expected"),
    ] {
        let shop = shop_of(&template, "bos", &format!("metrics = ['{metric}']"), &[row]);
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml"]);
            let (_, stderr) = common::texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {template}: {stderr}");
            assert!(stderr.contains(says), "{command} {template}: {stderr}");
        }
    }
}

#[test]
fn answers_match_to_the_letter_but_for_what_the_suite_ignores() {
    let (all, theirs) = (rows(), theirs("bos"));
    let asked: Vec<(&str, &Value)> =
        all.lines().zip(&theirs).filter(|(_, t)| !t["answer"].is_null()).take(20).collect();
    // The reference is what the harness's answer is in capitals.
    let with = |(row, theirs): &(&str, &Value)| {
        let mut row: Value = serde_json::from_str(row).unwrap();
        row["gold"] = theirs["answer"].as_str().unwrap().to_uppercase().into();
        row.to_string()
    };
    let lines: Vec<String> = asked.iter().map(with).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let template = "prompt = '{{ q }}'\nreferences = '[gold]'";
    let found = |keys: &str| -> Vec<bool> {
        let suite =
            format!("metrics = ['exact_match']\nmax_new_tokens = 6\nstop = ['sea']\nexact_match = {{ {keys} }}");
        let shop = shop_of(template, "bos", &suite, &lines);
        shop.succeeds(&["run", "recipe.toml"]);
        dense(&shop).iter().map(|sample| sample["exact_match"] == 1.0).collect()
    };
    assert!(found("ignore_case = true").iter().all(|same| *same));
    let is_shouted = |theirs: &Value| theirs["answer"].as_str().is_some_and(|a| a == a.to_uppercase());
    assert_eq!(found(""), asked.iter().map(|(_, theirs)| is_shouted(theirs)).collect::<Vec<_>>());
}
