//! The program from outside: runs, reruns, plans, wrong recipes, failures and interrupts.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{RECIPE, Tiny, Workshop, assert_same_tables, read_table, texts};
use serde_json::Value;

#[test]
fn a_study_leaves_tables_of_every_cell() {
    let shop = Workshop::new(&Tiny::default());
    let (stdout, stderr) = shop.succeeds(&["run", "recipe.toml"]);
    // dense; magnitude × 2 sparsities; wanda and sparsegpt × 2 sparsities × 2 calibrations.
    assert_eq!(stderr.lines().filter(|l| l.contains(": sparsity ")).count(), 11, "{stderr}");
    // The report is about the suite's main metric, and has too few windows to tell anything among ten comparisons.
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(stdout.starts_with("tiny\n\nperplexity on text\n") && stdout.contains("\ndense "), "{stdout}");
    assert!(words.contains("on 5 windows none can be told from dense"), "{stdout}");
    assert!(words.contains("at least 9 are needed"), "{stdout}");

    let tables = shop.tables("results/tiny");
    let [cells, layers, metrics, samples, contrasts, settings, masks] = tables.as_slice() else { panic!() };
    assert_eq!(cells.len(), 11);
    assert_eq!(layers.len(), 10 * 3 * 7);
    assert_eq!(metrics.len(), 11 * 5);
    assert_eq!(samples.len(), 11 * 5);
    // Without seeds, every cell is a setting.
    assert_eq!(settings.len(), 11 * 5);
    // 10 against dense; at each of 2 sparsities magnitude against 2 × wanda and 2 × sparsegpt, and these against each
    // other on either calibration; 2 methods × 2 sparsities on either calibration; 5 at either sparsity.
    let along = |axis: &str| contrasts.iter().filter(|row| row["axis"] == axis).count();
    let counts = ["dense", "method", "calibration", "sparsity"].map(along);
    assert_eq!(counts, [10 * 5, 2 * 6 * 5, 2 * 2 * 5, 5 * 5]);
    assert_eq!(contrasts.len(), counts.iter().sum::<usize>());
    // Of each of 21 matrices: 2 methods × 2 sparsities on both calibrations, and as many pairs of methods as above.
    assert_eq!(masks.len(), (2 * 2 + 2 * 6) * 3 * 7);
    for cell in cells {
        assert_eq!(cell["status"], "done");
        let (asked, achieved) = (cell["sparsity"].as_f64().unwrap(), cell["achieved_sparsity"].as_f64().unwrap());
        assert!((asked - achieved).abs() < 0.003, "{cell}");
        if cell["method"] == "wanda" || cell["pattern"] == "2:4" {
            assert_eq!(asked, achieved, "{cell}");
        }
    }
    for metric in metrics {
        let number = |key: &str| metric[key].as_f64().unwrap();
        assert!((number("value") - number("dense") - number("delta")).abs() < 1e-9);
        // Five windows cannot carry an interval: their signs are 1 in 16 at best.
        assert!(metric["ci_low"].is_null() && metric["p_value"].as_f64().is_none_or(|p| p >= 1.0 / 16.0), "{metric}");
        if metric["cell"] == "dense" && metric["metric"] == "js_divergence" {
            assert_eq!(number("value"), 0.0);
        }
    }
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(shop.path("results/tiny/run.json")).unwrap()).unwrap();
    assert_eq!(run["cells"], serde_json::json!({"planned": 11, "done": 11, "failed": 0}));
    assert_eq!(run["recipe"]["grid"]["sparsity"], serde_json::json!([0.5, "2:4"]));
}

#[test]
fn what_is_finished_is_not_run_again_and_a_change_runs_only_what_changed() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let before = shop.tables("results/tiny");
    let (_, stderr) = shop.succeeds(&["run", "recipe.toml"]);
    assert_eq!(stderr.matches("finished before").count(), 11, "{stderr}");
    assert_same_tables(&before, &shop.tables("results/tiny"));

    let computed = |arguments: &[&str]| shop.succeeds(arguments).1.matches(": sparsity ").count();
    assert_eq!(computed(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5, \"2:4\", 0.7]"]), 5);
    // Options of one method do not touch the others; a metric is only read off.
    let replacing = |set: &str| computed(&["run", "recipe.toml", "--replace", "--set", set]);
    assert_eq!(replacing("method.sparsegpt.damping=0.05"), 4);
    assert_eq!(replacing("suite.text.metrics=[\"loss\"]"), 0);
    // How the blocks are walked is nothing to magnitude.
    assert_eq!(replacing("prune.schedule=block"), 8);
    assert_eq!(computed(&["run", "recipe.toml", "--out", "elsewhere"]), 0);
    assert_same_tables(&before, &shop.tables("elsewhere"));
    // Data that changed is other data.
    std::fs::write(shop.path("rows.jsonl"), "{\"text\": \"short and new\"}\n".repeat(60)).unwrap();
    assert_eq!(computed(&["run", "recipe.toml", "--replace"]), 4);
}

#[test]
fn suites_and_calibrations_keep_the_order_of_the_recipe_and_what_is_cached_has_none() {
    let shop = Workshop::new(&Tiny::default());
    let suite = |name: &str| format!("[suite.{name}]\ndataset = \"path:test.jsonl\"\nwindows = 3\nlength = 32\n");
    let (head, rest) = RECIPE.split_once("[calibration.general]").unwrap();
    let (general, rest) = rest.split_once("[calibration.other]").unwrap();
    let (other, grid) = rest.split_once("[grid]").unwrap();
    let grid = grid.split_once("[suite.text]").unwrap().0;
    let recipe = |parts: [&str; 2], suites: [&str; 2]| {
        let calibration =
            |name: &str| format!("[calibration.{name}]{}", if name == "general" { general } else { other });
        head.to_owned() + &parts.map(calibration).concat() + "[grid]" + grid + &suites.map(suite).concat()
    };
    std::fs::write(shop.path("a.toml"), recipe(["general", "other"], ["ab", "aa"])).unwrap();
    std::fs::write(shop.path("b.toml"), recipe(["other", "general"], ["aa", "ab"])).unwrap();
    shop.succeeds(&["run", "a.toml", "--out", "a"]);
    let added = "suite.a={ dataset = \"path:rows.jsonl\", windows = 2, length = 16 }";
    let (_, log) = shop.succeeds(&["run", "b.toml", "--out", "b"]);
    assert_eq!(log.matches("finished before").count(), 11, "{log}");
    shop.succeeds(&["run", "a.toml", "--out", "c", "--set", added]);

    let order = |out: &str, table: usize, column: &str, is_row: &dyn Fn(&Value) -> bool| {
        let rows = shop.tables(out).swap_remove(table);
        let mut names: Vec<String> =
            rows.iter().filter(|row| is_row(row)).map(|row| row[column].as_str().unwrap().to_owned()).collect();
        names.dedup();
        names
    };
    let run = |out: &str| std::fs::read_to_string(shop.path(out).join("run.json")).unwrap();
    let wanda = |row: &Value| row["method"] == "wanda" && row["pattern"] == "2:4";
    let dense = |row: &Value| row["method"] == "dense";
    for (out, calibrations, suites) in [
        ("a", ["general", "other"], &["ab", "aa"][..]),
        ("b", ["other", "general"], &["aa", "ab"]),
        // What only an override adds comes last.
        ("c", ["general", "other"], &["ab", "aa", "a"]),
    ] {
        assert_eq!(order(out, 0, "calibration", &wanda), calibrations, "{out}");
        assert_eq!(order(out, 2, "suite", &dense), suites, "{out}");
        assert_eq!(order(out, 3, "suite", &dense), suites, "{out}");
        let recipe: Value = serde_json::from_str(&run(out)).unwrap();
        let keys = |key: &str| recipe["recipe"][key].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (keys("calibration"), keys("suite")),
            (calibrations.map(String::from).into(), suites.iter().map(|s| s.to_string()).collect())
        );
    }
    let (plan, _) = shop.succeeds(&["plan", "b.toml"]);
    assert!(plan.find("of suite aa").unwrap() < plan.find("of suite ab").unwrap(), "{plan}");
}

#[test]
fn tables_do_not_depend_on_threads() {
    let shop = Workshop::new(&Tiny { hidden: 64, feed_forward: 160, ..Tiny::default() });
    for dtype in ["model.dtype=f32", "model.dtype=bf16"] {
        let run = |threads: &str| {
            let name = format!("{dtype}-{threads}");
            shop.succeeds(&[
                "run",
                "recipe.toml",
                "--set",
                dtype,
                "--threads",
                threads,
                "--cache",
                &name,
                "--out",
                &name,
            ]);
            shop.tables(&name)
        };
        assert_same_tables(&run("1"), &run("2"));
    }
}

#[test]
fn a_benchmark_says_what_the_machine_does_and_how_much_of_it_stages_reach() {
    let shop = Workshop::new(&Tiny::default());
    let (said, _) = shop.succeeds(&["bench", "recipe.toml", "--tokens", "64"]);
    let first = said.lines().next().unwrap();
    assert!(first.starts_with("matrix products on cpu") && first.contains("/s f32, ") && first.ends_with("/s bf16"));
    for stage in ["wanda: pass, norms of inputs", "sparsegpt: pass, Gram matrices", "suites: pass", "suites: scores"] {
        let line = said.lines().find(|line| line.starts_with(stage)).unwrap_or_else(|| panic!("{stage}: {said}"));
        assert!(line.ends_with("% in f32"), "{line}");
    }
    assert!(!shop.path("results").exists());
}

#[test]
fn dense_propagation_and_both_schedules_run() {
    let shop = Workshop::new(&Tiny::default());
    let mut seen = Vec::new();
    for set in ["prune.schedule=linear", "prune.schedule=block", "prune.propagation=dense"] {
        shop.succeeds(&["run", "recipe.toml", "--set", set, "--out", "out", "--replace"]);
        let tables = shop.tables("out");
        let sparse: Vec<Value> =
            tables[2].iter().filter(|m| m["method"] == "sparsegpt").map(|m| m["value"].clone()).collect();
        assert!(!seen.contains(&sparse), "{set} changes nothing");
        seen.push(sparse);
    }
}

#[test]
fn a_model_held_in_half_precision_is_rounded_and_runs() {
    let shop = Workshop::new(&Tiny::default());
    let loss = |dtype: &str| {
        shop.succeeds(&["run", "recipe.toml", "--set", &format!("model.dtype={dtype}"), "--out", dtype]);
        shop.tables(dtype)[2][0]["value"].as_f64().unwrap()
    };
    let (full, half, brain) = (loss("f32"), loss("f16"), loss("bf16"));
    assert!(half != full && (half - full).abs() < 0.01, "{half} {full}");
    assert!(brain != full && (brain - full).abs() < 0.05, "{brain} {full}");
}

#[test]
fn a_plan_lists_cells_and_stages_and_computes_nothing() {
    let shop = Workshop::new(&Tiny::default());
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.starts_with("tiny: 11 cells"), "{plan}");
    for stage in ["windows of suite text", "dense model on text", "prune wanda-0.5-general-s0", "score dense on text"] {
        assert!(plan.contains(stage), "{plan}");
    }
    assert!(!shop.path("results").exists());
    assert_eq!(plan.matches("  yes ").count(), 0, "{plan}");
    assert!(plan.contains(" to be added, 50.0 GB free of 50.0 GB (the default)\ndisk: "), "{plan}");
    shop.succeeds(&["run", "recipe.toml"]);
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.contains("\nall of it is done"), "{plan}");
    assert!(plan.contains("\ncache: 0 B to be added, "), "{plan}");
    assert_eq!(plan.matches("  no ").count(), 0, "{plan}");
}

#[test]
fn a_plan_counts_statistics_of_the_dense_model_once_for_all_cells_that_share_them() {
    let shop = Workshop::new(&Tiny::default());
    let dense = ["plan", "recipe.toml", "--set", "prune.propagation=dense"];
    let (planned, _) = shop.succeeds(&dense);
    // Wanda's and SparseGPT's, of two calibrations, for two sparsities.
    assert_eq!((planned.matches("  norms of ").count(), planned.matches("  Gram matrices of ").count()), (2, 2));
    shop.succeeds(&["run", "recipe.toml", "--set", "prune.propagation=dense"]);
    let (done, _) = shop.succeeds(&dense);
    assert!(done.contains("\nall of it is done") && done.contains("  Gram matrices of "), "{done}");
    // What the plan says of their size is what they take: of 3 blocks, for sites of 32, 32, 32 and 48 columns, norms or a
    // matrix.
    let (norms, grams) = (4 * 3 * (3 * 32 + 48), 4 * 3 * (3 * 32 * 32 + 48 * 48));
    for (name, bytes) in [("norms of calibration other", norms), ("Gram matrices of calibration other", grams)] {
        let line = done.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.contains(&format!("  {:.1} kB", f64::from(bytes) / 1e3)), "{line}");
    }
    let files = std::fs::read_dir(shop.path("cache/statistics")).unwrap();
    let kept: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    let expected = 2 * (norms + grams) as u64;
    // Each of them, of two calibrations, two methods, three blocks and four sites, has a header and a trailer too.
    assert_eq!(kept.len(), 2 * 2 * 3 * 4);
    let beside = kept.iter().sum::<u64>() - expected;
    assert!(beside < 128 * kept.len() as u64, "{beside}");
}

const LONG: &str = "name = \"a_name_of_forty_letters_three_times_over__a_name_of_forty_letters_three_times_over__\
                    a_name_of_forty_letters_three_times_over__\"";

/// (what replaces what in the recipe, what the error must say)
const WRONG: &[(&str, &str, &[&str])] = &[
    ("method = [", "methods = [", &["recipe.toml:17:1", "`methods`", "[grid]", "did you mean `method`?"]),
    ("\"wanda\"", "\"wnada\"", &[":17:24", "grid.method.1", "did you mean \"wanda\"?"]),
    ("[0.5, \"2:4\"]", "[1.5]", &[":18:13", "between 0 and 1"]),
    ("[0.5, \"2:4\"]", "[50]", &[":18:13", "for 50% write 0.5"]),
    ("[0.5, \"2:4\"]", "[0]", &[":18:13", "between 0 and 1"]),
    ("[0.5, \"2:4\"]", "[\"4:2\"]", &[":18:13", "N < M"]),
    ("[0.5, \"2:4\"]", "[\"half\"]", &[":18:13", "\"half\""]),
    ("[0.5, \"2:4\"]", "[0.5, \"3:7\"]", &[":18:18", "32 hidden columns", "groups of 7"]),
    ("[0.5, \"2:4\"]", "0.5", &[":18:1", "expected a list", "[0.5]"]),
    ("[0.5, \"2:4\"]", "[]", &[":18:1", "empty"]),
    ("[0.5, \"2:4\"]", "[0.5, 0.5]", &[":18:18", "listed twice"]),
    ("[0.5, \"2:4\"]", "[0.5, 0.50000001]", &[":18:18", "0.50000001 is listed twice: reports print it like 0.5"]),
    ("[suite.text]", "[suite.\"a\\nb\"]", &["\"a\\nb\" names a suite; expected a name without line breaks"]),
    ("name = \"tiny\"", LONG, &[":1:1", "a name of 126 letters is too long; expected at most 100"]),
    ("path:rows.jsonl", "path:rosw.jsonl", &[":7:1", "calibration.general.dataset", "rosw.jsonl does not exist"]),
    ("path:rows.jsonl", "rows", &[":7:1", "no data set \"rows\""]),
    ("windows = 6", "windows = \"six\"", &[":8:1", "whole number", "\"six\""]),
    ("windows = 6", "windows = -6", &[":8:1", "whole number", "-6"]),
    ("windows = 6", "windows = 0", &[":8:1", "at least 1"]),
    ("windows = 6", "windows = 5000", &["[calibration.general]", "too little data", "not 5000"]),
    ("length = 48", "length = 129", &[":9:1", "129", "context of 128"]),
    ("length = 48", "length = 1", &[":9:1", "at least 2"]),
    ("length = 48", "packing = \"crop\"", &["2048", "context of 128"]),
    ("name = \"tiny\"", "", &["recipe.toml", "lacks the key `name`"]),
    ("name = \"tiny\"", "name = \"../tiny\"", &[":1:1", "cannot name a folder"]),
    ("[grid]", "[gird]", &[":16:2", "`gird`", "did you mean `grid`?"]),
    ("path:model", "path:modell", &[":4:1", "modell does not exist"]),
    ("path:model", "modell", &[":4:1", "is no source", "path:DIR-or-FILE"]),
    ("path:model", "model", &[":4:1", "is no source", "did you mean \"path:model\"?"]),
    ("path:model", "owner/model", &[":4:1", "did you mean \"hf:owner/model\"?"]),
    ("path:model", "hf:datasets/a/b/c.json", &[":4:1", "names a data set"]),
    ("path:rows.jsonl", "rows.jsonl", &[":7:1", "did you mean \"path:rows.jsonl\"?"]),
    ("path:rows.jsonl", "hf:allenai/c4", &[":7:1", "names a model", "did you mean \"hf:datasets/allenai/c4\"?"]),
    (
        "name = \"tiny\"",
        "name = \"tiny\"\ncache_size = 5",
        &[":2:1", "`cache_size` is no key", "`calipr cache limit SIZE`"],
    ),
    ("name = \"tiny\"", "name = \"tiny\"\nsparsity = [0.5]", &[":2:1", "did you mean `grid.sparsity`?"]),
    ("[suite.text]", "[method.wanda]\nx = 1\n[suite.text]", &[":21:1", "no key of [method.wanda], which has none"]),
    ("path:model\"", "path:model\"\ndevice = \"gpu\"", &[":5:1", "auto, cpu, cuda"]),
    ("name = \"tiny\"", "name = \"tiny\"\nmethod = [\"wanda\"]", &[":2:", "did you mean `grid.method`?"]),
    ("[suite.text]", "[suite.text]\nsparsity = [0.5]", &[":21:1", "did you mean `grid.sparsity`?"]),
    ("[suite.text]", "[suite]", &["[suite] has tables of names that you choose, such as [suite.mine]"]),
    ("path:model\"", "path:model\"\ndtype = \"bfloat16\"", &[":5:1", "did you mean \"bf16\"?"]),
    ("path:model\"", "path:model\"\ndtype = \"int8\"", &[":5:1", "`f32`, `bf16`, `f16`"]),
    ("\"perplexity\"", "\"perplexty\"", &[":24:", "did you mean \"perplexity\"?"]),
    ("[suite.text]", "[suite.text]\nsplit = \"test\"", &[":21:1", "no split \"test\""]),
    ("path:other.jsonl", "path:model", &["calibration.other.dataset", "is no file"]),
    ("path:other.jsonl", "path:recipe.toml", &["calibration.other.dataset", "unknown field `calibration`"]),
    ("[suite.text]", "[suite.text]\npacking = \"crp\"", &[":21:1", "did you mean \"crop\"?"]),
    ("[suite.text]", "[suit.text]", &[":20:2", "`suit`", "did you mean `suite`?"]),
    ("[suite.text]", "[suite.text", &[":20:", "not TOML"]),
    ("[suite.text]", "[method.sparsegpt]\ndamping = 3\n[suite.text]", &[":21:1", "from 0 to 1"]),
    ("[suite.text]", "[method.sparsegpt]\ndampng = 3\n[suite.text]", &[":21:1", "did you mean `damping`?"]),
    ("[suite.text]", "[prune]\nschedule = \"layer\"\n[suite.text]", &[":21:1", "`linear`, `block`"]),
    ("[grid]", "[grid]\ncalibration = [\"genral\"]", &[":17:16", "did you mean \"general\"?"]),
    ("[grid]", "[report]\nsuite = \"txt\"\n[grid]", &[":17:1", "is no suite; expected text", "did you mean \"text\"?"]),
    ("[grid]", "[report]\nmetric = \"f1\"\n[grid]", &[":17:1", "no suite has the metric \"f1\""]),
    ("[grid]", "[report]\nsuite = \"text\"\nmetric = \"f1\"\n[grid]", &[":18:1", "[suite.text] has no metric \"f1\""]),
    ("[grid]", "[report.margin]\nloss = 0\n[grid]", &[":17:1", "`report.margin.loss`: 0 is no margin"]),
    ("[grid]", "[report.margin]\nscore = inf\n[grid]", &[":17:1", "expected a number above 0"]),
    ("[grid]", "[report.margin]\nscores = 0.1\n[grid]", &[":17:1", "did you mean `score`?"]),
];

#[test]
fn a_wrong_recipe_is_refused_with_place_expectation_and_remedy() {
    let shop = Workshop::new(&Tiny::default());
    for (right, wrong, says) in WRONG {
        assert!(RECIPE.contains(right), "{right}");
        std::fs::write(shop.path("recipe.toml"), RECIPE.replacen(right, wrong, 1)).unwrap();
        let output = shop.calipr(&["run", "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {stderr}");
        for part in *says {
            assert!(stderr.contains(part), "{wrong}: \"{part}\" is missing from {stderr}");
        }
        assert!(!stderr.contains("panicked") && !shop.path("results").exists(), "{wrong}: {stderr}");
    }
}

#[test]
fn layers_over_the_recipe_win_and_are_named_in_errors() {
    let shop = Workshop::new(&Tiny::default());
    let plan = |env: Option<(&str, &str)>, set: &str| {
        let mut command = shop.command(&["plan", "recipe.toml", "--set", set]);
        command.envs(env);
        let output = command.output().unwrap();
        texts(&output).0 + &texts(&output).1
    };
    let sparsity = Some(("CALIPR_GRID__SPARSITY", "[0.7]"));
    assert!(plan(sparsity, "seed=1").contains("wanda-0.7-general-s1"));
    assert!(plan(sparsity, "grid.sparsity=[0.8]").contains("wanda-0.8-general-s0"));
    assert!(plan(None, "grid.sparsty=[0.8]").contains("--set grid.sparsty=[0.8]: `sparsty`"));
    let of_suite = plan(None, "suite.txt.windows=3");
    assert!(
        of_suite.contains("[suite.txt] lacks the key `dataset`\n       = did you mean [suite.text]?"),
        "{of_suite}"
    );
    assert!(
        plan(Some(("CALIPR_GRID__SPARSITY", "[7]")), "seed=1").contains("CALIPR_GRID__SPARSITY: `grid.sparsity.0`")
    );
    assert!(plan(Some(("CALIPR_GIRD__SPARSITY", "[0.7]")), "seed=1").contains("CALIPR_GIRD__SPARSITY: `gird`"));
    assert!(plan(None, "nonsense").contains("KEY=VALUE"));
}

#[test]
fn a_cell_that_fails_is_recorded_and_the_others_run() {
    // Inputs of `down` are finite, but their squares are not.
    let shop = Workshop::new(&Tiny { feed_forward_scale: 1e22, ..Tiny::default() });
    let output = shop.calipr(&["run", "recipe.toml", "--set", "grid.calibration=[\"general\"]"]);
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("4 of the cells failed"), "{stderr}");
    assert!(stdout.contains("magnitude-0.5"), "{stdout}");
    let cells = &shop.tables("results/tiny")[0];
    for cell in cells {
        let fails = cell["method"] == "wanda" || cell["method"] == "sparsegpt";
        assert_eq!(cell["status"], if fails { "failed" } else { "done" }, "{cell}");
        if fails {
            let error = cell["error"].as_str().unwrap();
            assert!(error.contains("block 0") && error.contains("linear down") && error.contains("NaN"), "{error}");
        }
    }
    // Again, only what failed is tried.
    let (_, stderr) = texts(&shop.calipr(&["run", "recipe.toml", "--set", "grid.calibration=[\"general\"]"]));
    assert_eq!(stderr.matches("finished before").count(), 3, "{stderr}");
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let before = shop.tables("results/tiny");
    let mut damaged = 0;
    for stage in ["windows", "teacher", "pruned", "scores"] {
        for entry in std::fs::read_dir(shop.path("cache").join(stage)).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    let (_, stderr) = shop.succeeds(&["run", "recipe.toml"]);
    // All but the teacher's, which the dense cell writes anew without reading it.
    assert_eq!(stderr.matches("dropping the damaged cache entry").count(), damaged - 1, "{stderr}");
    assert_same_tables(&before, &shop.tables("results/tiny"));
}

/// A study of the real model whose cells take about a second each.
fn slow_study(shop: &Workshop) -> Command {
    common::cache_with_the_real_model(shop.dir.path());
    let recipe = RECIPE
        .replace("path:model", common::REAL_MODEL)
        .replace("length = 48", "length = 32")
        .replace("length = 64", "length = 32");
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let mut command = shop.command(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5]"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn an_interrupt_ends_cleanly_and_the_same_command_goes_on() {
    let shop = Workshop::new(&Tiny::default());
    let mut child = slow_study(&shop).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.by_ref().find(|l| l.contains("dense: sparsity")).unwrap();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().ends_with("the same command goes on from there: interrupted"), "{rest:?}");
    let output = slow_study(&shop).output().unwrap();
    let (_, stderr) = texts(&output);
    assert!(output.status.success() && stderr.contains("dense: finished before"), "{stderr}");
}

#[test]
fn a_dense_model_that_fails_is_recorded_and_so_is_what_was_not_run() {
    // Finite weights, whose products are not.
    let shop = Workshop::new(&Tiny { feed_forward_scale: 1e38, ..Tiny::default() });
    let output = shop.calipr(&["run", "recipe.toml"]);
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let cells = read_table(&shop.path("results/tiny/cells.parquet"));
    assert!(cells.len() == 11 && cells.iter().all(|cell| cell["status"] == "failed"), "{cells:?}");
    assert!(cells[1]["error"].as_str().unwrap().contains("the dense model fails"), "{cells:?}");
    assert!(stdout.contains("dense failed: "), "{stdout}");
}

#[test]
fn results_that_cannot_be_written_are_an_error_that_says_where() {
    let shop = Workshop::new(&Tiny::default());
    std::fs::write(shop.path("results"), "a file").unwrap();
    let output = shop.calipr(&["run", "recipe.toml"]);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("results/tiny"), "{stderr}");
}

#[test]
fn a_damaged_model_is_an_error_that_names_it() {
    for (file, content, says) in [
        ("model/model.safetensors", "not tensors", "safetensors"),
        ("model/config.json", "{\"model_type\": \"mamba\"}", "mamba"),
        ("model/config.json", "{", "config.json"),
        ("model/tokenizer.json", "{}", "tokenizer.json"),
    ] {
        let shop = Workshop::new(&Tiny::default());
        std::fs::write(shop.path(file), content).unwrap();
        let output = shop.calipr(&["run", "recipe.toml"]);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says) && !stderr.contains("panicked"), "{stderr}");
    }
    // A header that fits, but a tensor of another shape.
    let shop = Workshop::new(&Tiny::default());
    let config = std::fs::read_to_string(shop.path("model/config.json")).unwrap();
    std::fs::write(shop.path("model/config.json"), config.replace("\"hidden_size\":32", "\"hidden_size\":64")).unwrap();
    let (_, stderr) = texts(&shop.calipr(&["run", "recipe.toml"]));
    assert!(stderr.contains("shape") && stderr.contains("model.embed_tokens.weight"), "{stderr}");
}

#[test]
fn quiet_says_nothing_but_the_result() {
    let shop = Workshop::new(&Tiny::default());
    let (stdout, stderr) = shop.succeeds(&["run", "recipe.toml", "--quiet"]);
    assert!(stderr.is_empty(), "{stderr}");
    assert!(stdout.contains("tables: results/tiny"));
}

#[test]
fn the_schema_that_editors_read_is_current_and_every_recipe_loads() {
    let (schema, _) = Workshop::new(&Tiny::default()).succeeds(&["schema"]);
    let file = "recipes/recipe.schema.json";
    assert_eq!(std::fs::read_to_string(file).unwrap(), schema, "run `calipr schema > {file}`");
    let (keys, _) = Workshop::new(&Tiny::default()).succeeds(&["schema", "--markdown"]);
    assert_eq!(std::fs::read_to_string("docs/keys.md").unwrap(), keys, "run `calipr schema --markdown > docs/keys.md`");
    for key in ["| `source` |", "## `[suite.NAME]`", "## `[method.sparsegpt]`", "| `skip` |", "## `[export]`"] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
    let mut recipes = 0;
    for entry in std::fs::read_dir("recipes").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("#:schema recipe.schema.json\n"), "{}", path.display());
            calipr::Recipe::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            recipes += 1;
        }
    }
    assert!(recipes >= 2);
}
