//! Suites of rows, from the recipe to the tables and the report.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tiny, Workshop, read_table, texts};
use serde_json::{Value, json};

const RECIPE: &str = r#"name = "rows"

[model]
source = "path:model"

[calibration.general]
dataset = "path:rows.jsonl"
windows = 6
length = 48

[calibration.other]
dataset = "path:other.jsonl"
windows = 6
length = 48

[grid]
method = ["magnitude", "wanda", "sparsegpt"]
sparsity = [0.5]

[suite.text]
dataset = "path:test.jsonl"
windows = 5
length = 64
metrics = ["perplexity", "js_divergence"]

[suite.answers]
dataset = "path:questions.jsonl"
shots = 1
max_new_tokens = 6
metrics = ["exact_match", "f1", "rouge1", "rouge2", "rougeL", "contains_answer", "loss", "js_divergence"]

[suite.choices]
dataset = "path:choices.jsonl"
metrics = ["acc", "acc_norm", "acc_bytes"]
"#;

fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny::default());
    let lines = |rows: Vec<Value>| rows.iter().map(|r| r.to_string() + "\n").collect::<String>();
    let questions = (0..8).map(|i| json!({"prompt": format!("{i}+1="), "completion": format!(" {}", i + 1)}));
    std::fs::write(shop.path("questions.jsonl"), lines(questions.collect())).unwrap();
    let choices = (0..8).map(|i| json!({"question": format!("q{i}"), "choices": ["a", "bb", "ccc"], "answer": i % 3}));
    std::fs::write(shop.path("choices.jsonl"), lines(choices.collect())).unwrap();
    std::fs::write(shop.path("recipe.toml"), RECIPE).unwrap();
    shop
}

#[test]
fn a_suite_of_rows_leaves_prompts_answers_and_scores_of_every_cell() {
    let shop = shop();
    let (printed, _) = shop.succeeds(&["run", "recipe.toml"]);
    assert!(printed.starts_with("rows\n\nexact_match on answers\n") && printed.contains("- On answers, "), "{printed}");
    let samples = read_table(&shop.path("results/rows/samples.parquet"));
    assert_eq!(samples.len(), 6 * (5 + 8 + 8));
    for row in samples.iter().filter(|r| r["suite"] == "answers") {
        let sample = row["sample"].as_u64().unwrap();
        let prompt = row["prompt"].as_str().unwrap();
        let (shot, own) = prompt.split_once("\n\n").unwrap();
        assert_eq!(own, format!("{sample}+1="));
        assert!(!shot.starts_with(own) && shot.contains("+1= "), "{prompt}: a shot is another row, with its answer");
        assert_eq!(row["reference"], (sample + 1).to_string());
        assert!(row["prediction"].is_string() && row["f1"].is_number() && row["acc"].is_null());
        assert!(["choices", "answer", "log_likelihoods", "chosen"].iter().all(|name| row[name].is_null()), "{row}");
        assert_eq!(row["positions"], 1 + row["reference"].as_str().unwrap().len(), "a token a byte");
    }
    for row in samples.iter().filter(|r| r["suite"] == "choices") {
        assert!(row["prediction"].is_null() && row["acc_norm"].is_number() && row["loss"].is_null());
        assert_eq!(row["choices"], json!(["a", "bb", "ccc"]));
        assert_eq!(row["answer"], row["sample"].as_u64().unwrap() % 3);
        let likelihoods: Vec<f64> = serde_json::from_value(row["log_likelihoods"].clone()).unwrap();
        let (chosen, most) =
            (row["chosen"].as_u64().unwrap() as usize, likelihoods.iter().copied().fold(f64::MIN, f64::max));
        assert!(likelihoods.len() == 3 && most < 0.0 && likelihoods[chosen] == most, "{row}");
        assert_eq!(row["acc"], f64::from(u8::from(row["chosen"] == row["answer"])));
    }
    let metrics = read_table(&shop.path("results/rows/metrics.parquet"));
    assert_eq!(metrics.len(), 6 * (2 + 8 + 3));
    for row in &metrics {
        let p = row["p_value"].as_f64().unwrap();
        assert!(p > 0.0 && p <= 1.0);
        let dense = row["cell"] == "dense";
        assert!(!dense || (row["delta"] == 0.0 && p == 1.0));
    }
    // wanda and sparsegpt, general against other.
    let contrasts = read_table(&shop.path("results/rows/contrasts.parquet"));
    let calibrations: Vec<&Value> = contrasts.iter().filter(|row| row["axis"] == "calibration").collect();
    assert_eq!(calibrations.len(), 2 * (2 + 8 + 3));
    for row in calibrations {
        assert_eq!((&row["method"], &row["sparsity"]), (&row["other_method"], &row["other_sparsity"]));
        let of = |calibration: &Value| {
            let same = |r: &&Value| ["method", "suite", "metric"].iter().all(|k| r[k] == row[k]);
            let found = metrics.iter().filter(same).find(|r| r["calibration"] == *calibration);
            found.unwrap()["value"].as_f64().unwrap()
        };
        assert_eq!(row["delta"].as_f64().unwrap(), of(&row["calibration"]) - of(&row["other_calibration"]));
        assert!(row["p_adjusted"].as_f64().unwrap() >= row["p_value"].as_f64().unwrap());
        assert!(row["family"].as_str().unwrap().starts_with("calibrations of equal method and sparsity, on "));
    }
}

#[test]
fn a_metric_of_another_family_runs_only_what_it_needs() {
    let shop = shop();
    let only = |metrics: &str| format!("suite.answers.metrics={metrics}");
    shop.succeeds(&["run", "recipe.toml", "--set", &only(r#"["exact_match"]"#)]);
    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--set", &only(r#"["exact_match", "f1", "rougeL"]"#)]);
    assert_eq!(log.matches("finished before").count(), 6, "other metrics of the same answers: {log}");
    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--replace", "--set", &only(r#"["exact_match", "loss"]"#)]);
    assert_eq!(log.matches("finished before").count(), 0, "the targets were not scored yet: {log}");
    let answers = shop.path("cache/answers").read_dir().unwrap().count();
    assert_eq!(answers, 6, "but the answers are there");
}

#[test]
fn tables_of_rows_do_not_depend_on_threads() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--threads", "1", "--out", "one"]);
    shop.succeeds(&["run", "recipe.toml", "--threads", "2", "--out", "two", "--cache", "other"]);
    common::assert_same_tables(&shop.tables("one"), &shop.tables("two"));
}

#[test]
fn a_wrong_suite_of_rows_is_refused_with_what_was_expected() {
    let shop = shop();
    for (set, says) in [
        ("suite.answers.length=8", "`length` is for suites of token windows"),
        ("suite.answers.metrics=['exact_mach']", "exact_match"),
        ("suite.answers.top_p=0", "at most 1"),
        ("suite.answers.top_k=0", "`suite.answers.top_k`: 0 is too small; expected at least 1"),
        ("suite.answers.repetition_penalty=0", "`suite.answers.repetition_penalty`: 0 is no penalty"),
        ("suite.answers.temperature=-1", "0 to 100"),
        ("suite.answers.max_new_tokens=128", "leave no room"),
        ("suite.answers.stop=['']", "must not be empty"),
        ("suite.answers.shots_split='dev'", "\"dev\""),
        ("suite.answers.shots=8", "only 7 other rows"),
        ("suite.answers.metrics=['acc_norm']", "row 1 has no choices, which acc_norm needs"),
        ("suite.answers.chat=true", "needs a chat template, but the model has none"),
        ("suite.answers.dataset='path:test.jsonl'", "row 1 has no answer to show"),
    ] {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml", "--set", set]);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {set}: {stderr}");
            assert!(stderr.contains(says), "{command} {set}: {stderr}");
            assert!(!shop.path("results").exists(), "{set}");
        }
    }
}

#[test]
fn what_the_models_folder_asks_of_answers_is_followed_or_refused_by_name() {
    let shop = shop();
    let only = r#"suite.answers.metrics=["exact_match"]"#;
    let run = |out: &str| shop.succeeds(&["run", "recipe.toml", "--set", only, "--out", out]);
    let answers = |folder: &str| -> Vec<String> {
        let rows = read_table(&shop.path(folder).join("samples.parquet"));
        let of_suite = rows.iter().filter(|r| r["suite"] == "answers" && r["cell"] == "dense");
        of_suite.map(|r| r["prediction"].as_str().unwrap().to_owned()).collect()
    };
    let settings = |text: &str| std::fs::write(shop.path("model/generation_config.json"), text).unwrap();
    run("none");
    settings(r#"{"repetition_penalty": 1.0, "do_sample": true, "top_k": 20}"#);
    run("neutral");
    assert_eq!(answers("neutral"), answers("none"));
    settings(r#"{"repetition_penalty": 50.0}"#);
    run("penalized");
    assert_ne!(answers("penalized"), answers("none"));
    // What the suite says goes before it.
    let own = |penalty: &str, out: &str| {
        let set = format!("suite.answers.repetition_penalty={penalty}");
        shop.succeeds(&["run", "recipe.toml", "--set", only, "--set", &set, "--out", out]);
        answers(out)
    };
    assert_eq!(own("1.0", "own_none"), answers("none"));
    settings(r#"{"repetition_penalty": 2}"#); // which transformers refuses, but nobody asks
    assert_eq!(own("50.0", "own"), answers("penalized"));
    settings(r#"{"no_repeat_ngram_size": 2}"#);
    for command in ["plan", "run"] {
        let output = shop.calipr(&[command, "recipe.toml", "--out", "refused"]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
        assert!(stderr.contains("[suite.answers]") && stderr.contains("`no_repeat_ngram_size` is 2"), "{stderr}");
    }
    // A suite that does not generate is not concerned.
    shop.succeeds(&["plan", "recipe.toml", "--set", r#"suite.answers.metrics=["loss"]"#]);
}

#[test]
fn stop_texts_end_answers_and_are_cut_off() {
    let shop = shop();
    let only = r#"suite.answers.metrics=["exact_match"]"#;
    shop.succeeds(&["run", "recipe.toml", "--set", only, "--out", "whole"]);
    let answers = |folder: &str| -> Vec<String> {
        let rows = read_table(&shop.path(folder).join("samples.parquet"));
        let of_suite = rows.iter().filter(|r| r["suite"] == "answers" && r["cell"] == "dense");
        of_suite.map(|r| r["prediction"].as_str().unwrap().to_owned()).collect()
    };
    let whole = answers("whole");
    // A character that stands somewhere inside an answer.
    let stop = whole.iter().find_map(|a| a.chars().filter(char::is_ascii_alphanumeric).nth(1)).unwrap();
    let set = format!("suite.answers.stop=['{stop}']");
    shop.succeeds(&["run", "recipe.toml", "--set", only, "--set", &set, "--out", "cut"]);
    let expected: Vec<String> = whole.iter().map(|a| a.split(stop).next().unwrap().to_owned()).collect();
    assert_eq!(answers("cut"), expected);
}

/// The dense model on the first rows of Social IQa (Sap et al. 2019), as lm-evaluation-harness scores them.
#[test]
fn choices_of_the_real_model_are_scored_as_lm_evaluation_harness_scores_them() {
    let out = tempfile::tempdir().unwrap();
    let cache = common::cache_with_the_real_model(out.path());
    let recipe = out.path().join("choices.toml");
    let text = format!(
        "name = \"choices\"\n[model]\nsource = \"{}\"\n[grid]\nmethod = [\"magnitude\"]\nsparsity = [0.5]\n\
         [suite.social]\ndataset = \"path:tests/fixtures/social_iqa.jsonl\"\nlimit = 60\n\
         metrics = [\"acc\", \"acc_norm\", \"acc_bytes\", \"loss\"]\n",
        common::REAL_MODEL
    );
    std::fs::write(&recipe, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_calipr"));
    command.arg("run").arg(&recipe).args(["--quiet", "--out"]).arg(out.path().join("results"));
    assert!(command.arg("--cache").arg(&cache).status().unwrap().success());

    let theirs: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string("tests/fixtures/multiple_choice.json").unwrap()).unwrap();
    let samples = read_table(&out.path().join("results/samples.parquet"));
    let dense: Vec<&Value> = samples.iter().filter(|r| r["cell"] == "dense").collect();
    assert_eq!(dense.len(), 60);
    let rows = std::fs::read_to_string("tests/fixtures/social_iqa.jsonl").unwrap();
    for ((ours, theirs), row) in dense.iter().zip(&theirs).zip(rows.lines()) {
        assert_eq!(ours["prompt"], theirs["prompt"]);
        for metric in ["acc", "acc_norm", "acc_bytes"] {
            assert_eq!(ours[metric], theirs[metric], "{metric} of {}", theirs["prompt"]);
        }
        let row: Value = serde_json::from_str(row).unwrap();
        assert_eq!((&ours["choices"], &ours["answer"]), (&row["choices"], &row["answer"]));
        let likelihoods = |of: &Value| serde_json::from_value::<Vec<f64>>(of.clone()).unwrap();
        let pairs = likelihoods(&ours["log_likelihoods"]).into_iter().zip(likelihoods(&theirs["loglikelihoods"]));
        assert!(pairs.clone().all(|(ours, theirs)| (ours - theirs).abs() < 1e-2), "{:?}", pairs.collect::<Vec<_>>());
        // The loss of the right choice is its log-likelihood, a token.
        let answer = row["answer"].as_u64().unwrap() as usize;
        let likelihood = -ours["loss"].as_f64().unwrap() * ours["positions"].as_f64().unwrap();
        assert!((likelihood - theirs["loglikelihoods"][answer].as_f64().unwrap()).abs() < 1e-2, "{}", theirs["prompt"]);
    }
}

#[test]
fn choices_that_end_the_prompt_are_judged_by_how_likely_the_rest_is() {
    let shop = Workshop::new(&Tiny::default());
    let sentences =
        [("Ann gave ", "Bea", "Cy", "a ship."), ("So ", "one", "another one", "went home"), ("", "A", "I", "am.")];
    let row = |(i, (prompt, a, b, then)): (usize, &(&str, &str, &str, &str))| serde_json::json!({"sentence": format!("{prompt}_ {then}"), "option1": a, "option2": b, "answer": format!("{}", i % 2 + 1)});
    let rows: String = sentences.iter().enumerate().map(row).map(|row| format!("{row}\n")).collect();
    std::fs::write(shop.path("blanks.jsonl"), rows).unwrap();
    let winogrande = std::fs::read_to_string("datasets/winogrande.toml").unwrap();
    let template = &winogrande[winogrande.find("[template]").unwrap()..winogrande.find("[split").unwrap()];
    std::fs::write(shop.path("blanks.toml"), format!("source = \"path:blanks.jsonl\"\n{template}")).unwrap();
    // The same texts as prompts of their own, each with the rest for its answer.
    let pair = |prompt: String, then: &str| {
        serde_json::json!({"prompt": prompt, "completion": format!(" {then}")}).to_string()
    };
    let pairs =
        sentences.iter().flat_map(|(prompt, a, b, then)| [a, b].map(|x| pair(format!("{prompt}{x}"), then) + "\n"));
    std::fs::write(shop.path("pairs.jsonl"), pairs.collect::<String>()).unwrap();
    let recipe = "name = \"blanks\"\n[model]\nsource = \"path:model\"\n[grid]\nmethod = [\"magnitude\"]\nsparsity = [0.5]\n\
        [suite.blanks]\ndataset = \"path:blanks.toml\"\nmetrics = [\"acc\", \"loss\"]\n\
        [suite.pairs]\ndataset = \"path:pairs.jsonl\"\nlimit = 6\nmetrics = [\"loss\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let samples = read_table(&shop.path("results/blanks/samples.parquet"));
    for cell in ["dense", "magnitude-0.5"] {
        let of = |suite: &str| samples.iter().filter(|r| r["cell"] == cell && r["suite"] == suite).collect::<Vec<_>>();
        let likelihood = |row: &Value| -row["loss"].as_f64().unwrap() * row["positions"].as_f64().unwrap();
        let (blanks, pairs) = (of("blanks"), of("pairs"));
        assert_eq!((blanks.len(), pairs.len()), (3, 6));
        for (i, blank) in blanks.iter().enumerate() {
            let theirs = [likelihood(pairs[2 * i]), likelihood(pairs[2 * i + 1])];
            let ours: Vec<f64> = serde_json::from_value(blank["log_likelihoods"].clone()).unwrap();
            assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{ours:?} {theirs:?}");
            let right = i % 2;
            assert_eq!(blank["acc"].as_f64(), Some(f64::from(u8::from(theirs[right] > theirs[1 - right]))));
            assert!(
                (likelihood(blank) - theirs[right]).abs() < 1e-4,
                "the loss is that of the rest behind the right one"
            );
            let (prompt, a, b, _) = sentences[i];
            assert_eq!(blank["choices"], serde_json::json!([format!("{prompt}{a}"), format!("{prompt}{b}")]));
        }
    }
    let shown = shop.succeeds(&["datasets", "winogrande"]).0;
    assert!(shown.contains("WinoGrande"), "{shown}");
}

#[test]
fn a_report_answers_in_every_format() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let report = |format: &str| shop.succeeds(&["report", "results/rows", "--format", format]).0;
    assert!(report("terminal").starts_with("rows\n"));
    assert!(report("markdown").contains("| dense | "));
    let json: Value = serde_json::from_str(&report("json")).unwrap();
    assert_eq!(json["suites"].as_array().unwrap().len(), 3);
    assert_eq!(json["suites"][0]["rows"][0]["setting"]["name"], "dense");
    assert_eq!(json["blocks"].as_array().unwrap().len(), 5 * 3);
    assert!(!json["predictors"].as_array().unwrap().is_empty());
    shop.succeeds(&["report", "results/rows", "--format", "html", "--to", "page.html"]);
    assert!(std::fs::read_to_string(shop.path("page.html")).unwrap().contains("<svg"));
    shop.succeeds(&["report", "results/rows", "--to", "values.csv"]);
    assert!(std::fs::read_to_string(shop.path("values.csv")).unwrap().starts_with("study,setting,"));
    assert!(report("latex").contains("\\begin{tabular}"));
    let refused = shop.calipr(&["report", "results/rows", "--to", "values.xls"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(texts(&refused).1.contains("values.xls: expected a name that ends in one of .txt, .md"));
    for (arguments, says) in [(["report", "nowhere"], "no folder"), (["report", "model"], "no run.json")] {
        let (_, stderr) = texts(&shop.calipr(&arguments));
        assert!(stderr.contains(says), "{stderr}");
    }
    std::fs::write(shop.path("results/rows/metrics.parquet"), "PAR1").unwrap();
    let output = shop.calipr(&["report", "results/rows"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("metrics.parquet"), "{}", texts(&output).1);
}

/// Chromium, where it is installed.
fn browser() -> Option<PathBuf> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(program)
}

/// A program of this machine.
fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A page's document after its scripts ran, and what the console said.
fn open_in_browser(browser: &Path, page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"])
        .args(["--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    texts(&output)
}

/// How wide a page is that is shown in a frame of this width: a browser's own window cannot be that narrow.
fn width_in_frame(browser: &Path, page: &Path, width: u32) -> u32 {
    let frame = page.with_file_name(format!("frame-{width}.html"));
    let measure = "document.title = 'width ' + this.contentDocument.documentElement.scrollWidth + '.'";
    let name = page.file_name().unwrap().to_str().unwrap();
    let html =
        format!("<iframe src=\"{name}\" width=\"{width}\" height=\"900\" frameborder=\"0\" onload=\"{measure}\">");
    std::fs::write(&frame, html).unwrap();
    let (document, log) = open_in_browser(browser, &frame);
    let (_, found) = document.split_once("<title>width ").unwrap_or_else(|| panic!("{document} {log}"));
    found.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn the_page_opens_in_a_browser_with_its_tables_and_plots_and_a_clean_console() {
    let Some(browser) = browser() else {
        eprintln!("skipped: there is no Chromium here to open the page in");
        return;
    };
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    shop.succeeds(&["report", "results/rows", "--format", "html", "--to", "page.html"]);
    let page = shop.path("page.html");
    let (document, log) = open_in_browser(&browser, &page);
    let console: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    assert!(document.matches("<svg").count() >= 3, "{}", document.matches("<svg").count());
    for section in ["answer", "decision", "facts", "suite-answers", "suite-choices", "contrasts-calibration", "cells"] {
        let is_there = document.contains(&format!("id=\"{section}\""));
        assert_eq!(is_there, section != "cells", "{section}: without seeds, cells are the settings");
    }
    // The script lets the headings sort.
    assert!(document.contains("role=\"button\""), "the tables' script ran");
    for width in [1280, 390] {
        let found = width_in_frame(&browser, &page, width);
        assert!(found <= width, "{found} pixels wide in a window of {width}");
    }
}

#[test]
fn the_printed_page_has_every_value_to_decide_by() {
    let (Some(browser), Some(reader)) = (browser(), program("pdftotext")) else {
        eprintln!("skipped: there is no Chromium here to print with, or no pdftotext to read with");
        return;
    };
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    shop.succeeds(&["report", "results/rows", "--to", "page.html"]);
    let profile = tempfile::tempdir().unwrap();
    let printed = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--print-to-pdf={}", shop.path("page.pdf").display()))
        .arg(format!("file://{}", shop.path("page.html").display()))
        .output()
        .unwrap();
    assert!(printed.status.success());
    let text = Command::new(reader).arg("-layout").arg(shop.path("page.pdf")).arg("-").output().unwrap();
    let text = texts(&text).0;
    for cell in read_table(&shop.path("results/rows/settings.parquet")) {
        assert!(text.contains(cell["setting"].as_str().unwrap()), "{} in {text}", cell["setting"]);
    }
    // A table over several pages has its headings on each.
    let pages: Vec<&str> = text.split('\u{c}').collect();
    let of = |title: &str| pages.iter().position(|page| page.contains(title)).unwrap_or_else(|| panic!("{text}"));
    let (first, last) = (of("One method against another"), of("One calibration against another"));
    assert!(first < last, "{text}");
    pages[first..=last].iter().for_each(|page| assert!(page.contains("difference"), "{page}"));
    let csv = shop.succeeds(&["report", "results/rows", "--format", "csv"]).0;
    assert!(csv.lines().count() > 6 && text.contains("not told apart"), "{text}");
}
