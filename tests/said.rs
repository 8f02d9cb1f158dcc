//! What commands say of a study is so: where it is not finished, where settings are alike, where a recipe has changed since, and
//! where a path or an option is not what it should be.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Tiny, Workshop, texts};
use serde_json::{Value, json};

/// Cells that are planned and done, by run.json.
fn cells(shop: &Workshop, results: &str) -> [u64; 2] {
    let Ok(text) = fs::read_to_string(shop.path(results).join("run.json")) else { return [0, 0] };
    let manifest: Value = serde_json::from_str(&text).unwrap();
    ["planned", "done"].map(|key| manifest["cells"][key].as_u64().unwrap())
}

#[test]
fn a_study_that_is_not_finished_is_not_spoken_of_as_if_it_were() {
    let shop = Workshop::new(&Tiny { hidden: 192, feed_forward: 384, blocks: 6, ..Tiny::default() });
    let recipe = common::RECIPE.replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.4, 0.5, 0.6, 0.7]");
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let mut run = shop.command(&["run", "recipe.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while cells(&shop, "results/tiny")[1] < 3 {
        assert!(started.elapsed() < Duration::from_secs(60), "no cell is done");
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let [planned, done] = cells(&shop, "results/tiny");
    assert!(done < planned, "it was faster than the kill");
    let so_far = format!("{done} of {planned} done");

    let (exported, _) = shop.succeeds(&["export", "results/tiny", "--to", "best"]);
    assert!(exported.contains(&format!(" of the cells that are done ({so_far}), ")), "{exported}");
    let (printed, _) = shop.succeeds(&["reproduce", "results/tiny"]);
    assert!(printed.contains(", 0 apart\n"), "{printed}");
    let new = planned - done;
    let were = if new == 1 { "1 cell was".to_owned() } else { format!("{new} cells were") };
    assert!(printed.contains(&format!("{were} not done when it was recorded")), "{printed}");
    shop.succeeds(&["run", "recipe.toml", "--out", "whole"]);
    let (compared, _) = shop.succeeds(&["compare", "results/tiny", "whole", "--format", "csv"]);
    assert!(!compared.is_empty());
    let (compared, _) = shop.succeeds(&["compare", "results/tiny", "whole"]);
    let row = compared.lines().find(|line| line.starts_with("cells ")).unwrap_or_else(|| panic!("{compared}"));
    assert!(row.contains(&so_far) && row.contains(&format!("{planned} of {planned} done")), "{row}");

    let (exported, _) = shop.succeeds(&["export", "whole", "--to", "best-of-all"]);
    assert!(exported.contains(" of all sparsities, "), "{exported}");
    let (compared, _) = shop.succeeds(&["compare", "whole", "whole"]);
    assert!(!compared.contains(&format!("of {planned} done")), "{compared}");
}

/// A study of two methods whose answers are all wrong.
fn all_wrong() -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let recipe = common::RECIPE.replace("[0.5, \"2:4\"]", "[0.5]").replace("\"sparsegpt\"", "")
        + "\n[suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 4\nmetrics = [\"exact_match\", \"js_divergence\"]\n";
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let row = |i: usize| json!({"prompt": format!("{i} and"), "completion": format!(" number {}", i + 1)}).to_string();
    fs::write(shop.path("pairs.jsonl"), (0..8).map(|i| row(i) + "\n").collect::<String>()).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    shop
}

#[test]
fn of_settings_that_are_alike_none_is_said_to_be_the_best_and_families_have_their_own_size() {
    let shop = all_wrong();
    let (exported, _) = shop.succeeds(&["export", "results/tiny", "--to", "best"]);
    let expected =
        "magnitude-0.5: the first of 3 settings with the highest exact_match on rows of all sparsities, 0.00";
    assert!(exported.starts_with(expected), "{exported}");
    // Dense has no divergence from itself: 4 differences by exact_match, 3 by js_divergence.
    let (compared, _) = shop.succeeds(&["compare", "results/tiny", "results/tiny"]);
    let words = compared.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("adjusted for the 3 to 4 comparisons of each metric"), "{compared}");
    assert!(shop.succeeds(&["export", "results/tiny", "--to", "best.GGUF"]).0.contains("best.GGUF"));
    assert!(shop.path("best.GGUF").is_file());
}

#[test]
fn rows_with_choices_are_not_judged_by_written_answers_without_a_word() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let suite = "\n[suite.rows]\ndataset = \"path:choices.jsonl\"\nlimit = 8\nmax_new_tokens = 4\n";
    let recipe = common::RECIPE.replace("[0.5, \"2:4\"]", "[0.5]").replace("\"wanda\", \"sparsegpt\"", "") + suite;
    let row = |i: usize| json!({"question": format!("{i}?"), "choices": ["one", "two"], "answer": i % 2}).to_string();
    fs::write(shop.path("choices.jsonl"), (0..8).map(|i| row(i) + "\n").collect::<String>()).unwrap();
    let says =
        "[suite.rows]: its rows have choices, and without `metrics` it is judged by answers that the model writes";
    for (metrics, warned) in [("", true), ("metrics = [\"f1\"]\n", false), ("metrics = [\"acc\"]\n", false)] {
        fs::write(shop.path("recipe.toml"), format!("{recipe}{metrics}")).unwrap();
        let output = shop.calipr(&["run", "recipe.toml", "--out", if warned { "a" } else { "b" }, "--replace"]);
        assert!(output.status.success(), "{}", texts(&output).1);
        assert_eq!(texts(&output).1.contains(says), warned, "{metrics}: {}", texts(&output).1);
    }
}

#[test]
fn whoever_asks_how_far_a_submitted_study_is_need_not_have_its_environment() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let programs = shop.path("programs");
    fs::create_dir(&programs).unwrap();
    // Slurm, as far as it answers here: jobs 7 and 8 are taken, and wait no more.
    for (name, says) in [("sbatch", "echo 7"), ("squeue", "true")] {
        let program = programs.join(name);
        fs::write(&program, format!("#!/bin/sh\n{says}\n")).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let calipr = |arguments: &[&str], sparsity: Option<&str>| {
        let mut command = shop.command(arguments);
        command.env("PATH", &path).envs(sparsity.map(|sparsity| ("CALIPR_GRID__SPARSITY", sparsity)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", texts(&output).1);
        texts(&output).0
    };
    let submit = ["submit", "recipe.toml", "--to", "slurm"];
    let cell = "magnitude-0.7";
    let said = calipr(&submit, Some("[0.7]"));
    assert!(said.contains("logs: results/tiny/jobs/7_*.log, 7.log\n"), "{said}");
    let status = || calipr(&["status", "results/tiny"], None);
    assert!(status().contains(cell) && !status().contains("magnitude-0.5"), "{}", status());
    assert!(!status().contains("was changed"), "{}", status());
    // --set goes before the environment, as it does for the workers.
    calipr(&[&submit[..], &["--set", "grid.sparsity=[0.3]", "--", "--output=x.txt"]].concat(), Some("[0.7]"));
    assert!(status().contains("magnitude-0.3") && !status().contains(cell), "{}", status());

    let recipe = fs::read_to_string(shop.path("recipe.toml")).unwrap();
    fs::write(shop.path("recipe.toml"), recipe.replace("\"wanda\", ", "")).unwrap();
    let changed = "recipe.toml was changed since it was submitted: this is of what it says now, and workers end\n";
    assert!(status().ends_with(changed), "{}", status());
}

#[test]
fn what_a_key_within_a_value_breaks_is_said_at_that_key() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    for (set, says) in [
        ("grid.sparsity.x=3", "error: --set grid.sparsity.x=3: `grid.sparsity`: expected a list, found a table\n"),
        ("grid.method.0=wanda", "error: --set grid.method.0=wanda: `grid.method`: expected a list, found a table\n"),
        ("suite.text.windows=1e9", "expected a whole number, 0 or more, found 1000000000.0\n"),
    ] {
        let output = shop.calipr(&["plan", "recipe.toml", "--set", set]);
        let (_, said) = texts(&output);
        assert!(output.status.code() == Some(2) && said.ends_with(says), "{said}");
    }
}

#[test]
fn a_name_with_a_dot_is_set_in_quotes_as_toml_has_it() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let recipe = common::RECIPE.replace("[suite.text]", "[suite.\"te.xt\"]");
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let json = |set: &str| {
        let set = ["--set", "grid.sparsity=[0.5]", "--set", "grid.method=['magnitude']", "--set", set];
        shop.succeeds(&[&["run", "recipe.toml", "--replace"], &set[..]].concat());
        let manifest: Value =
            serde_json::from_str(&fs::read_to_string(shop.path("results/tiny/run.json")).unwrap()).unwrap();
        manifest["suites"]["te.xt"]["samples"].as_u64()
    };
    assert_eq!(json("suite.\"te.xt\".windows=3"), Some(3));
    assert_eq!(json("suite.'te.xt'.windows=2"), Some(2));
    let output = shop.calipr(&["plan", "recipe.toml", "--set", "suite.\"te.xt.windows=3"]);
    assert!(texts(&output).1.contains("has a quote that is not closed"), "{}", texts(&output).1);
}

#[test]
fn a_command_line_that_names_no_results_is_wrong_and_says_what_may_have_been_meant() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5]", "--set", "grid.method=['magnitude']"]);
    let refused = |arguments: &[&str], says: &str| {
        let output = shop.calipr(arguments);
        let (_, said) = texts(&output);
        assert!(output.status.code() == Some(2) && said.contains(says), "{arguments:?}: {said}");
    };
    for command in ["report", "reproduce", "status"] {
        refused(&[command, "results/tini"], "there is no folder results/tini; expected a folder of results");
    }
    let meant = "\n       = did you mean results/tiny?";
    refused(&["report", "tiny"], meant);
    refused(&["report", "tiny.toml"], meant);
    refused(&["report", "results/tiny/run.json"], meant);
    refused(&["report", "results"], meant);
    refused(&["compare", "results/tiny", "tiny"], meant);
    refused(&["export", "tiny", "--to", "x"], meant);
    refused(&["report", "results/tiny", "--samples", "dense", "wanda"], "there is no setting \"wanda\"");
    let none = "no suite has answers or choices: there are no samples";
    refused(&["report", "results/tiny", "--samples", "dense", "magnitude-0.5"], none);
    refused(&["report", "results/tiny", "--suite", "txet"], "there is no suite \"txet\"; did you mean \"text\"?");
    // As a run leaves it that has just begun.
    fs::create_dir(shop.path("results/begun")).unwrap();
    fs::copy(shop.path("results/tiny/run.json"), shop.path("results/begun/run.json")).unwrap();
    let begun = shop.calipr(&["report", "results/begun"]);
    let says = "results/begun has no tables yet: no cell of the study is done; `calipr status results/begun` says";
    assert!(begun.status.code() == Some(1) && texts(&begun).1.contains(says), "{}", texts(&begun).1);
    let (said, _) = shop.succeeds(&["status", "results/tiny"]);
    assert!(said.ends_with("\nall cells are done, and the tables are in results/tiny\n"), "{said}");
    // A study without a grid's calibrated cells has no seeds to speak of.
    let (said, _) = shop.succeeds(&["report", "results/tiny"]);
    assert!(!said.contains("samples and seeds"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_no_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let latin = OsStr::from_bytes(b"na\xefve");
    let set = ["--set", "grid.sparsity=[0.5]", "--set", "grid.method=['magnitude']"];
    let folder = shop.dir.path().join(latin);
    fs::create_dir(&folder).unwrap();
    for name in ["rows.jsonl", "other.jsonl", "test.jsonl", "recipe.toml"] {
        fs::copy(shop.path(name), folder.join(name)).unwrap();
    }
    fs::create_dir(folder.join("model")).unwrap();
    for file in fs::read_dir(shop.path("model")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join("model").join(file.file_name())).unwrap();
    }
    // A folder of such a name is a folder like others, to work in and for results.
    let run = shop.command(&["run", "recipe.toml"]).args(set).current_dir(&folder).output().unwrap();
    assert!(run.status.success(), "{}", texts(&run).1);
    let run = shop.command(&["run", "recipe.toml", "--out"]).arg(latin).args(set).output().unwrap();
    assert!(run.status.success(), "{}", texts(&run).1);
    // run.json names the recipe, and is text.
    let recipe = OsStr::from_bytes(b"na\xefve.toml");
    fs::copy(shop.path("recipe.toml"), shop.dir.path().join(recipe)).unwrap();
    for command in ["plan", "run"] {
        let output = shop.command(&[command]).arg(recipe).args(set).output().unwrap();
        let (_, said) = texts(&output);
        assert!(output.status.code() == Some(2) && said.contains("is not UTF-8, and run.json"), "{command}: {said}");
    }
}
