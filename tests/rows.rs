//! One bad row among many: refused with its number before anything is computed, whichever rows are drawn, by plan and run.

mod common;

use common::{Tiny, Workshop, read_table, texts};
use serde_json::{Value, json};

/// A study whose suite and calibration are of these files' rows.
fn shop(suite: &str, calibration: &str) -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let calibrated = match calibration {
        "" => "method = ['magnitude']\nsparsity = [0.5]\n".to_owned(),
        set => format!("method = ['wanda']\nsparsity = [0.5]\nseed = [0, 1, 2]\n[calibration.c]\n{set}\n"),
    };
    let recipe = format!(
        "name = 'rows'\n[model]\nsource = 'path:model'\ndevice = 'cpu'\n[grid]\n{calibrated}[suite.w]\n{suite}\n"
    );
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop
}

/// A hundred rows, of which one is another.
fn with_one_bad(good: impl Fn(usize) -> Value, bad: Value) -> String {
    (0..100).map(|i| if i == 56 { bad.clone() } else { good(i) }).map(|row| format!("{row}\n")).collect()
}

fn refused(shop: &Workshop, says: &[&str]) {
    for command in ["plan", "run"] {
        let output = shop.calipr(&[command, "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
        assert!(says.iter().all(|says| stderr.contains(says)), "{command}: {stderr}");
        assert!(!shop.path("results").exists());
    }
}

#[test]
fn a_bad_row_is_refused_whether_or_not_it_would_be_drawn() {
    let text = |i: usize| json!({"text": format!("row {i} is one of the good rows")});
    let pair = |i: usize| json!({"prompt": format!("{i}+1="), "completion": format!(" {}", i + 1)});
    let windows = "dataset = 'path:rows.jsonl'\npacking = 'single'\nlength = 16\nwindows = 4";
    let answers = "dataset = 'path:rows.jsonl'\nmetrics = ['exact_match']\nmax_new_tokens = 2";
    for (rows, suite, says) in [
        (with_one_bad(text, json!({"text": null})), windows, "row 57: `text` is null"),
        (with_one_bad(text, json!({"txt": "a"})), windows, "row 57: it has no `text`, which row 1 has"),
        (with_one_bad(text, json!({"text": ["a"]})), windows, "row 57: `text` is a list"),
        (with_one_bad(text, json!({"input_ids": [1, 256]})), windows, "row 57: token id 256 is outside"),
        (with_one_bad(pair, json!({"prompt": "a", "completion": null})), windows, "row 57: `completion` is null"),
        (with_one_bad(pair, json!({"prompt": "a", "completion": null})), answers, "row 57: `completion` is null"),
        (with_one_bad(pair, json!({"prompt": "a", "completion": ""})), answers, "row 57 has no target"),
        (with_one_bad(pair, json!({"prompt": "", "completion": " b"})), answers, "row 57: the prompt is empty"),
    ] {
        let suites = shop(suite, "");
        std::fs::write(suites.path("rows.jsonl"), &rows).unwrap();
        refused(&suites, &["[suite.w]", says]);
        if suite == windows {
            let calibrated = shop("dataset = 'path:test.jsonl'\nwindows = 2\nlength = 16", windows);
            std::fs::write(calibrated.path("rows.jsonl"), &rows).unwrap();
            refused(&calibrated, &["[calibration.c]", says]);
        }
    }
}

#[test]
fn a_limit_beyond_the_rows_takes_all_and_what_nobody_draws_is_not_read() {
    let pair = |i: usize| json!({"prompt": format!("{i}+1="), "completion": format!(" {}", i + 1)});
    let bad = with_one_bad(pair, json!({"prompt": null, "completion": " a"}));
    for (limit, samples) in [(56, 56), (57, 0)] {
        let suite =
            format!("dataset = 'path:rows.jsonl'\nmetrics = ['exact_match']\nmax_new_tokens = 2\nlimit = {limit}");
        let shop = shop(&suite, "");
        std::fs::write(shop.path("rows.jsonl"), &bad).unwrap();
        match samples {
            0 => refused(&shop, &["row 57: `prompt` is null"]),
            _ => drop(shop.succeeds(&["run", "recipe.toml"])),
        }
    }
    let shop = shop("dataset = 'path:rows.jsonl'\nmetrics = ['exact_match']\nmax_new_tokens = 2\nlimit = 50", "");
    std::fs::write(shop.path("rows.jsonl"), (0..3).map(|i| format!("{}\n", pair(i))).collect::<String>()).unwrap();
    shop.succeeds(&["plan", "recipe.toml"]);
    shop.succeeds(&["run", "recipe.toml"]);
    assert_eq!(read_table(&shop.path("results/rows/samples.parquet")).len(), 2 * 3);
}

#[test]
fn questions_without_an_answer_are_judged_by_squad_2_where_there_are_any() {
    let toml = "source = 'path:rows.jsonl'\n[template]\nprompt = '{{ q }}'\nreferences = 'answers.text'\n";
    let answered = json!({"q": "a", "answers": {"text": ["..."]}});
    for (more, f1) in [(json!({"q": "b", "answers": {"text": []}}), 1.0), (answered.clone(), 0.0)] {
        // Nothing but a line break is generated before the answer ends: it is empty.
        let suite = "dataset = 'path:rows.toml'\nmetrics = ['exact_match', 'f1']\nmax_new_tokens = 1\nstop = [STOP]";
        let all: Vec<String> = (0u8..127).map(|b| json!(char::from(b).to_string()).to_string()).collect();
        let shop = shop(&suite.replace("STOP", &format!("{}, \"\\u007f\", \"\u{fffd}\"", all.join(", "))), "");
        std::fs::write(shop.path("rows.toml"), toml).unwrap();
        std::fs::write(shop.path("rows.jsonl"), format!("{answered}\n{more}\n")).unwrap();
        shop.succeeds(&["run", "recipe.toml"]);
        for sample in read_table(&shop.path("results/rows/samples.parquet")) {
            // "..." has no word: the first script finds it in nothing with an F1 of 0, the second takes it for no answer.
            assert_eq!((sample["prediction"].as_str(), sample["f1"].as_f64()), (Some(""), Some(f1)), "{sample}");
            assert_eq!(sample["exact_match"], 1.0);
        }
    }
}
