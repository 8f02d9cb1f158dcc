//! Calibration on texts that the dense model writes itself.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::{Tiny, Workshop, assert_same_tables, faults, read_table, run_with, texts};
use serde_json::Value;

const GENERATE: &str = "{ from = \"path:rows.jsonl\", prefix = 4, texts = 14, max_new_tokens = 40, top_k = 30 }";

/// A study calibrated on texts that a tiny model writes, which end at two of its tokens.
fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny::default());
    let recipe = format!(
        "name = \"tiny\"\n[model]\nsource = \"path:model\"\n\
         [calibration.self]\ngenerate = {GENERATE}\nwindows = 5\nlength = 24\n\
         [grid]\nmethod = [\"wanda\"]\nsparsity = [0.5]\nseed = [0, 1]\n\
         [suite.text]\ndataset = \"path:test.jsonl\"\nwindows = 3\nlength = 64\nmetrics = [\"loss\"]\n"
    );
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    std::fs::write(shop.path("model/generation_config.json"), r#"{"eos_token_id": [5, 77]}"#).unwrap();
    shop
}

/// What run.json says of the windows that each seed drew.
fn drawn(shop: &Workshop, results: &str) -> Vec<Value> {
    let manifest = std::fs::read_to_string(shop.path(results).join("run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["calibrations"]["self"]["drawn"].as_array().unwrap().clone()
}

/// The texts that run.json names.
fn written(shop: &Workshop, results: &str, cache: &str) -> Vec<Value> {
    let file = drawn(shop, results)[0]["details"]["generate"]["file"].as_str().unwrap().to_owned();
    let lines = std::fs::read_to_string(shop.path(cache).join(file)).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The entries of single texts, with what tells a file from another that took its place.
fn entries(shop: &Workshop) -> BTreeMap<PathBuf, u64> {
    let files = std::fs::read_dir(shop.path("cache/texts")).into_iter().flatten().map(|file| file.unwrap().path());
    let is_entry = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        !name.starts_with('.') && !name.ends_with(".jsonl")
    };
    files.filter(is_entry).map(|path| (path.clone(), path.metadata().unwrap().ino())).collect()
}

#[test]
fn texts_are_kept_as_lines_and_those_of_the_highest_perplexity_are_left_out() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!(written.len(), 14);
    let perplexity = |text: &Value| text["perplexity"].as_f64().unwrap();
    let (kept, dropped): (Vec<&Value>, Vec<&Value>) = written.iter().partition(|text| text["kept"] == true);
    // np.percentile(perplexities, 80) of 14 lies between the eleventh and the twelfth.
    assert_eq!((kept.len(), dropped.len()), (11, 3));
    let highest = kept.iter().map(|text| perplexity(text)).fold(0.0, f64::max);
    assert!(dropped.iter().all(|text| perplexity(text) > highest));
    let rows = std::fs::read_to_string(shop.path("rows.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut lengths = Vec::new();
    for text in &written {
        let (row, prefix) = (text["row"].as_u64().unwrap() as usize, text["prefix"].as_str().unwrap());
        assert!(!prefix.is_empty() && rows[row - 1]["text"].as_str().unwrap().starts_with(prefix), "{text}");
        assert!(text["text"].as_str().unwrap().starts_with(prefix), "{text}");
        lengths.push(text["tokens"].as_u64().unwrap());
    }
    assert!(lengths.contains(&44) && lengths.iter().any(|&tokens| tokens < 44), "{lengths:?}");
    let drawn = drawn(&shop, "results/tiny");
    assert_eq!(drawn.len(), 2);
    let details = |i: usize| &drawn[i]["details"]["generate"];
    assert_eq!((&details(0)["texts"], &details(0)["kept"]), (&14.into(), &11.into()));
    assert_eq!(details(0)["tokens"], lengths.iter().sum::<u64>());
    assert_eq!(details(0)["highest_perplexity"].as_f64(), Some(highest));
    // Seeds draw different windows of the same texts.
    assert_eq!(details(0), details(1));
    assert_ne!(drawn[0]["digest"], drawn[1]["digest"]);
    assert_eq!(drawn[0]["windows"], 5);
}

#[test]
fn texts_are_the_same_on_any_number_of_threads() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--threads", "1", "--out", "one", "--cache", "first"]);
    shop.succeeds(&["run", "recipe.toml", "--threads", "2", "--out", "two", "--cache", "second"]);
    assert_eq!(written(&shop, "one", "first"), written(&shop, "two", "second"));
    assert_same_tables(&shop.tables("one"), &shop.tables("two"));
}

#[test]
fn a_run_that_is_killed_at_any_write_goes_on_to_the_same_texts_and_writes_none_twice() {
    let shop = shop();
    let library = faults(shop.dir.path());
    assert!(run_with(&shop, &library, "none", 0).status.success());
    let (expected, tables) = (written(&shop, "results/tiny", "cache"), shop.tables("results/tiny"));
    let writes: usize = std::fs::read_to_string(shop.path("writes")).unwrap().parse().unwrap();
    let mut found = Vec::new();
    for at in (1..writes.min(70)).step_by(2) {
        for folder in ["cache", "results"] {
            let _ = std::fs::remove_dir_all(shop.path(folder));
        }
        assert!(!run_with(&shop, &library, "kill", at).status.success(), "write {at} of {writes}");
        let before = entries(&shop);
        found.push(before.len());
        shop.succeeds(&["run", "recipe.toml"]);
        let after = entries(&shop);
        assert_eq!(after.len(), 14);
        assert!(before.iter().all(|(path, inode)| after[path] == *inode), "killed at write {at}");
        assert_eq!(written(&shop, "results/tiny", "cache"), expected, "killed at write {at}");
        assert_same_tables(&tables, &shop.tables("results/tiny"));
    }
    assert!(found.iter().any(|&texts| 0 < texts && texts < 14), "{found:?}");
}

#[test]
fn more_texts_begin_with_those_that_are_there() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let (few, before) = (written(&shop, "results/tiny", "cache"), entries(&shop));
    shop.succeeds(&["run", "recipe.toml", "--set", "calibration.self.generate.texts=20", "--out", "more"]);
    let (more, after) = (written(&shop, "more", "cache"), entries(&shop));
    assert_eq!(after.len(), 20);
    assert!(before.iter().all(|(path, inode)| after[path] == *inode));
    let texts = |all: &[Value]| all.iter().map(|text| text["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(&more)[..14], texts(&few));
    // Another temperature is another text.
    shop.succeeds(&["run", "recipe.toml", "--set", "calibration.self.generate.temperature=1.5", "--out", "hot"]);
    assert_ne!(texts(&written(&shop, "hot", "cache")), texts(&few));
}

#[test]
fn without_a_temperature_a_text_is_what_a_suite_answers() {
    let shop = shop();
    // Answers show the token that ends them, where it is a character.
    std::fs::remove_file(shop.path("model/generation_config.json")).unwrap();
    let prompts = ["abcd", "sea!", "0123", "x y z", "long", "word"];
    let row = |prompt: &&str| format!("{{\"prompt\": \"{prompt}\", \"completion\": \"x\"}}\n");
    std::fs::write(shop.path("pairs.jsonl"), prompts.iter().map(row).collect::<String>()).unwrap();
    let row = |prompt: &&str| format!("{{\"text\": \"{}\"}}\n", &prompt[..4]);
    std::fs::write(shop.path("begun.jsonl"), prompts.iter().map(row).collect::<String>()).unwrap();
    let recipe = "name = \"tiny\"\n[model]\nsource = \"path:model\"\n\
        [calibration.self]\nwindows = 2\nlength = 8\n\
        generate = { from = \"path:begun.jsonl\", prefix = 4, texts = 6, max_new_tokens = 20, temperature = 0, \
        repetition_penalty = 1.3, drop = 0 }\n\
        [grid]\nmethod = [\"wanda\"]\nsparsity = [0.5]\n\
        [suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 20\nrepetition_penalty = 1.3\nmetrics = [\"f1\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let samples = read_table(&shop.path("results/tiny/samples.parquet"));
    let answers: Vec<&str> = (samples.iter().filter(|row| row["cell"] == "dense" && row["suite"] == "rows"))
        .map(|row| row["prediction"].as_str().unwrap())
        .collect();
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!((answers.len(), written.len()), (6, 6));
    let mut compared = 0;
    for text in &written {
        let row = text["row"].as_u64().unwrap() as usize - 1;
        if prompts[row].len() == 4 {
            assert_eq!(text["text"].as_str().unwrap().trim(), format!("{}{}", prompts[row], answers[row]).trim());
            compared += 1;
        }
    }
    assert_eq!(compared, 5);
}

#[test]
fn the_defaults_are_enough() {
    let shop = shop();
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let recipe = recipe.replace(GENERATE, "{ from = \"path:rows.jsonl\" }");
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    std::fs::remove_file(shop.path("model/generation_config.json")).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    // 5,000 texts for 128 windows of 2048 tokens are three for 5 of 24; nothing but the model's context of 128 ends one.
    let written = written(&shop, "results/tiny", "cache");
    assert_eq!(written.len(), 3);
    assert_eq!(written.iter().filter(|text| text["kept"] == true).count(), 2);
    assert!(written.iter().all(|text| text["tokens"] == 128), "{written:?}");
}

#[test]
fn a_plan_says_what_texts_cost_and_which_are_there() {
    let shop = shop();
    let plan = || shop.succeeds(&["plan", "recipe.toml"]).0;
    let before = plan();
    assert!(before.contains("14 texts of calibration self, up to 44 tokens each"), "{before}");
    assert!(!shop.path("cache/texts").exists(), "a plan writes none");
    shop.succeeds(&["run", "recipe.toml"]);
    let line = |plan: &str| plan.lines().find(|line| line.contains("texts of calibration self")).unwrap().to_owned();
    assert_ne!(line(&plan()), line(&before), "they are cached");
    std::fs::remove_dir_all(shop.path("cache/windows")).unwrap();
    std::fs::remove_file(entries(&shop).keys().next().unwrap()).unwrap();
    assert!(plan().contains("each, 13 of them there"), "{}", plan());
}

#[test]
fn what_cannot_be_written_is_refused_with_its_place() {
    let shop = shop();
    for (set, says) in [
        ("generate.drop=1", "`calibration.self.generate.drop`: 1 is no share that leaves texts"),
        ("generate.drop=-0.1", "-0.1 is no share"),
        ("generate.top_k=0", "`calibration.self.generate.top_k`: 0 is too small; expected at least 1"),
        ("generate.top_p=0", "`calibration.self.generate.top_p`: 0 is no share"),
        ("generate.prefix=0", "`calibration.self.generate.prefix`: 0 is too small"),
        ("generate.texts=0", "`calibration.self.generate.texts`: 0 is too small"),
        ("generate.temperature=-1", "-1 is no temperature"),
        ("generate.repetition_penalty=0", "0 is no penalty"),
        ("generate.max_new_tokens=0", "`calibration.self.generate.max_new_tokens`: 0 is too small"),
        ("generate.prefix=128", "128 tokens leave no room in the model's context of 128"),
        ("generate.prefix=100", "none of 40 rows has 100 tokens"),
        ("generate.from='wikitexxt'", "wikitexxt"),
        ("generate.from='path:none.jsonl'", "none.jsonl"),
        ("generate.form=1", "form"),
        ("dataset='path:rows.jsonl'", "`calibration.self.generate`"),
    ] {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml", "--set", &format!("calibration.self.{set}")]);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {set}: {stderr}");
            assert!(stderr.contains(says), "{command} {set}: {stderr}");
            assert!(!shop.path("results").exists() && !shop.path("cache/texts").exists(), "{set}");
        }
    }
    // What shows only when the texts are there.
    for (set, says) in [
        ("windows=500", "texts are left; raise `texts`"),
        ("generate={from='path:rows.jsonl', prefix=4, texts=60, temperature=0}", "too few for 60 texts"),
    ] {
        let output = shop.calipr(&["run", "recipe.toml", "--set", &format!("calibration.self.{set}")]);
        let (_, stderr) = texts(&output);
        assert!(!output.status.success() && stderr.contains(says) && stderr.contains("[calibration.self]"), "{stderr}");
    }
    // The folder's settings that calipr does not follow are refused as for suites.
    std::fs::write(shop.path("model/generation_config.json"), r#"{"no_repeat_ngram_size": 2}"#).unwrap();
    let (_, stderr) = texts(&shop.calipr(&["plan", "recipe.toml"]));
    assert!(stderr.contains("[calibration.self]") && stderr.contains("`no_repeat_ngram_size` is 2"), "{stderr}");
}
