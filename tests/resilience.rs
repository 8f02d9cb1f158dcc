//! What ends a run must not end a study: kills, full disks, other runs, damaged caches.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{Tiny, Workshop, assert_same_tables, faults, run_with, texts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A small study with suites of windows, of answers and of choices, whose prunings are calibrated and not.
fn shop() -> Workshop {
    shop_with(&Tiny { hidden: 64, feed_forward: 96, blocks: 4, ..Tiny::default() })
}

fn shop_with(model: &Tiny) -> Workshop {
    let shop = Workshop::new(model);
    let recipe = common::RECIPE.replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.5]\ncalibration = [\"general\"]")
        + "\n[suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 6\nmetrics = [\"f1\", \"loss\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"{i} and\", \"completion\": \" {}\"}}\n", i + 1);
    std::fs::write(shop.path("pairs.jsonl"), (0..6).map(row).collect::<String>()).unwrap();
    shop
}

fn forget(shop: &Workshop) {
    for folder in ["cache", "results"] {
        let _ = std::fs::remove_dir_all(shop.path(folder));
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn unfinished(shop: &Workshop) -> Vec<PathBuf> {
    let all = ["cache", "results"].into_iter().flat_map(|folder| files(&shop.path(folder)));
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
}

#[test]
fn a_run_that_is_killed_at_any_write_goes_on_to_the_same_tables() {
    let shop = shop();
    let library = faults(shop.dir.path());
    assert!(run_with(&shop, &library, "none", 0).status.success());
    let expected = shop.tables("results/tiny");
    let writes: usize = std::fs::read_to_string(shop.path("writes")).unwrap().parse().unwrap();
    assert!(writes > 60, "{writes}");
    // How often the walk's standing is saved is a matter of time, so the last writes may not come.
    for at in (1..writes - 20).step_by(3) {
        forget(&shop);
        let killed = run_with(&shop, &library, "kill", at);
        assert!(!killed.status.success(), "write {at} of {writes}");
        let (_, log) = shop.succeeds(&["run", "recipe.toml"]);
        assert_same_tables(&expected, &shop.tables("results/tiny"));
        assert_eq!(unfinished(&shop), Vec::<PathBuf>::new(), "killed at write {at}: {log}");
    }
    // Killed again and again, each time a little further on.
    forget(&shop);
    let mut kills = 0;
    while !run_with(&shop, &library, "kill", 25 + kills % 9).status.success() {
        kills += 1;
        assert!(kills < 200, "it does not get on");
    }
    assert!(kills > 3, "{kills}");
    assert_same_tables(&expected, &shop.tables("results/tiny"));
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_half_written() {
    let shop = shop();
    let library = faults(shop.dir.path());
    assert!(run_with(&shop, &library, "none", 0).status.success());
    let expected = shop.tables("results/tiny");
    let writes: usize = std::fs::read_to_string(shop.path("writes")).unwrap().parse().unwrap();
    for at in (1..writes - 20).step_by(5) {
        forget(&shop);
        let output = run_with(&shop, &library, "full", at);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "write {at}: {stderr}");
        assert!(stderr.contains("No space left") && !stderr.contains("panicked"), "write {at}: {stderr}");
        assert_eq!(unfinished(&shop), Vec::<PathBuf>::new(), "write {at}");
        shop.succeeds(&["run", "recipe.toml"]);
        assert_same_tables(&expected, &shop.tables("results/tiny"));
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_tables() {
    // Large enough for many moments, and for most of them to lie inside of a cell.
    let shop = shop_with(&Tiny { hidden: 192, feed_forward: 384, blocks: 6, ..Tiny::default() });
    let started = Instant::now();
    shop.succeeds(&["run", "recipe.toml"]);
    let whole = started.elapsed();
    let expected = shop.tables("results/tiny");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut kills, mut went_on) = (0, 0);
    // How often a kill finds a cell in its middle is a matter of time, so it goes on until one has.
    while kills < 30 || went_on == 0 {
        assert!(kills < 300, "no cell was taken up in its middle");
        forget(&shop);
        // Two or three kills to each study, then the end of it.
        for _ in 0..3 {
            let mut command = shop.command(&["run", "recipe.toml"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * rng.random_range(0.0..1.0)));
            kills += usize::from(child.try_wait().unwrap().is_none());
            let _ = child.kill();
            child.wait().unwrap();
        }
        let (_, log) = shop.succeeds(&["run", "recipe.toml"]);
        went_on += log.matches("going on after").count();
        assert_same_tables(&expected, &shop.tables("results/tiny"));
        assert_eq!(unfinished(&shop), Vec::<PathBuf>::new(), "{log}");
    }
}

#[test]
fn a_suite_that_is_new_to_a_finished_study_prunes_nothing_again() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let recipe = std::fs::read_to_string(shop.path("recipe.toml")).unwrap();
    let more = recipe + "\n[suite.more]\ndataset = \"path:rows.jsonl\"\nwindows = 3\nlength = 32\n";
    std::fs::write(shop.path("recipe.toml"), more).unwrap();
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    let prunings: Vec<&str> = plan.lines().filter(|l| l.contains(" prune ")).collect();
    assert!(prunings.len() == 3 && prunings.iter().all(|l| l.contains(" yes ")), "{plan}");
    shop.succeeds(&["run", "recipe.toml", "--out", "kept"]);
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    shop.succeeds(&["run", "recipe.toml", "--out", "anew"]);
    assert_same_tables(&shop.tables("anew"), &shop.tables("kept"));
}

#[test]
fn cells_share_the_statistics_of_a_dense_model() {
    let shop = shop();
    let run = |sparsity: &str, out: &str| {
        let set = format!("grid.sparsity={sparsity}");
        shop.succeeds(&["run", "recipe.toml", "--set", "prune.propagation=dense", "--set", &set, "--out", out])
    };
    run("[0.5]", "first");
    // Wanda's and SparseGPT's, of four sites in each block.
    let entries = files(&shop.path("cache/statistics"));
    assert_eq!(entries.len(), 2 * 4 * 4);
    run("[0.5, 0.7, \"2:4\"]", "shared");
    assert_eq!(files(&shop.path("cache/statistics")).len(), entries.len());
    // One that is damaged is made again, with those of all other blocks.
    std::fs::write(&entries[3], "torn").unwrap();
    run("[0.5, 0.6, 0.7, \"2:4\"]", "more");
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    run("[0.5, 0.7, \"2:4\"]", "fresh");
    assert_same_tables(&shop.tables("fresh"), &shop.tables("shared"));
    run("[0.5, 0.6, 0.7, \"2:4\"]", "all");
    assert_same_tables(&shop.tables("all"), &shop.tables("more"));
}

#[test]
fn cells_of_a_calibration_share_what_only_the_dense_model_feeds() {
    let shop = shop();
    // Of the first block every site, or the first site alone where the others see pruned linears.
    for (schedule, sites) in [("block", 4), ("linear", 1)] {
        let run = |sparsity: &str, out: &str| {
            let (schedule, sparsity) = (format!("prune.schedule={schedule}"), format!("grid.sparsity=[{sparsity}]"));
            shop.succeeds(&["run", "recipe.toml", "--set", &schedule, "--set", &sparsity, "--out", out, "--replace"]);
        };
        let alone = format!("alone-{schedule}");
        run("0.7", &alone);
        std::fs::remove_dir_all(shop.path("cache")).unwrap();
        run("0.5", "first");
        let entries = files(&shop.path("cache/statistics"));
        assert_eq!(entries.len(), 2 * sites);
        let shared = format!("shared-{schedule}");
        run("0.7", &shared);
        assert_eq!(files(&shop.path("cache/statistics")), entries);
        assert_same_tables(&shop.tables(&alone), &shop.tables(&shared));
        std::fs::remove_dir_all(shop.path("cache")).unwrap();
    }
}

#[test]
fn cells_side_by_side_come_to_the_same_tables() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--out", "one"]);
    std::fs::remove_dir_all(shop.path("cache")).unwrap();
    let side_by_side = ["run", "recipe.toml", "--set", "model.device=[\"cpu\", \"cpu\", \"cpu\"]", "--out", "three"];
    let (_, log) = shop.succeeds(&side_by_side);
    assert_same_tables(&shop.tables("one"), &shop.tables("three"));
    let ended = log.lines().filter(|line| line.contains(": sparsity ")).count();
    assert_eq!(ended, 4, "{log}");
    let manifest = std::fs::read_to_string(shop.path("three/run.json")).unwrap();
    assert!(manifest.contains("\"cpu, cpu, cpu\""), "{manifest}");
}

#[test]
fn damaged_entries_are_made_again() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let expected = shop.tables("results/tiny");
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for stage in ["windows", "prompts", "teacher", "pruned", "blocks", "errors", "scores", "answers"] {
        let entries = files(&shop.path("cache").join(stage));
        assert!(!entries.is_empty(), "{stage}");
        for entry in entries {
            let mut bytes = std::fs::read(&entry).unwrap();
            match rng.random_range(0..3) {
                0 => bytes.truncate(rng.random_range(0..bytes.len())),
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
            }
            std::fs::write(&entry, bytes).unwrap();
        }
        // Blocks and the teacher are only looked at where a cell has something to compute.
        if stage == "blocks" {
            std::fs::remove_dir_all(shop.path("cache/scores")).unwrap();
        }
        let more: &[&str] =
            if stage == "teacher" { &["--set", "grid.sparsity=[0.5, 0.7]", "--out", "more"] } else { &[] };
        let (_, log) = shop.succeeds(&[&["run", "recipe.toml"], more].concat());
        assert!(log.contains("dropping the damaged cache entry"), "{stage}: {log}");
        assert_same_tables(&expected, &shop.tables("results/tiny"));
    }
}

#[test]
fn two_runs_of_one_study_do_not_meet() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--out", "alone"]);
    forget(&shop);
    let run = || shop.command(&["run", "recipe.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let outputs: Vec<Output> =
        [run(), run(), run()].map(|child| child.wait_with_output().unwrap()).into_iter().collect();
    let mut done = 0;
    for output in &outputs {
        let (_, stderr) = texts(output);
        match output.status.code() {
            Some(0) => done += 1,
            Some(1) => assert!(stderr.contains("is being written by process "), "{stderr}"),
            other => panic!("{other:?}: {stderr}"),
        }
    }
    assert!(done > 0);
    assert_same_tables(&shop.tables("alone"), &shop.tables("results/tiny"));
    // Two studies may share a cache.
    forget(&shop);
    let mut other = shop.command(&["run", "recipe.toml", "--out", "other"]);
    let other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    assert!(other.wait_with_output().unwrap().status.success());
    assert_same_tables(&shop.tables("other"), &shop.tables("results/tiny"));
}

#[test]
fn the_cache_is_listed_trimmed_cleared_and_bounded() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml"]);
    let (listed, _) = shop.succeeds(&["cache", "ls"]);
    for stage in ["windows", "prompts", "teacher", "pruned", "blocks", "scores", "answers"] {
        assert!(listed.contains(stage), "{listed}");
    }
    assert!(!listed.contains("walks"), "a finished cell leaves none: {listed}");
    let stages = || files(&shop.path("cache")).into_iter().filter(|path| !path.starts_with(shop.path("cache/studies")));
    let size = || stages().map(|f| f.metadata().unwrap().len()).sum::<u64>();
    shop.succeeds(&["cache", "trim", "--to", "20 kB"]);
    assert!(size() > 0 && size() <= 20_000, "{}", size());
    shop.succeeds(&["cache", "clear"]);
    assert_eq!(files(&shop.path("cache/studies")).len() as u64 + size(), 0);
    assert_eq!(shop.succeeds(&["cache", "clear"]).0, "nothing to remove\n");
    // Blocks make room as soon as their cell is done; what the study is made of stays, however little it may take.
    let bounded = ["run", "recipe.toml", "--cache-size", "1 kB"];
    let (_, log) = shop.succeeds(&bounded);
    assert_eq!(files(&shop.path("cache/blocks")), Vec::<PathBuf>::new());
    assert!(
        log.contains("more than the cache's limit of 1.0 kB (--cache-size): pruned blocks will make room"),
        "{log}"
    );
    assert_eq!(log.matches("pruned blocks of cells that are done make room (4 entries, ").count(), 1, "{log}");
    assert_eq!(log.matches("running studies need all of it, and nothing that they need goes").count(), 1, "{log}");
    assert!(!log.contains("by the study"), "{log}");
    let (_, log) = shop.succeeds(&bounded);
    assert_eq!(log.matches("finished before").count(), 4, "{log}");
    let (_, stderr) = texts(&shop.calipr(&["cache", "trim", "--to", "much"]));
    assert!(stderr.contains("\"much\" is no size"), "{stderr}");
}

#[test]
fn a_study_whose_entries_make_room_for_another_is_named() {
    let shop = shop();
    shop.succeeds(&["run", "recipe.toml", "--set", "name=first", "--set", "seed=1"]);
    let all = |stage: &str| files(&shop.path("cache").join(stage)).len();
    let before = all("scores");
    let other = ["run", "recipe.toml", "--set", "name=second", "--set", "model.dtype=bf16", "--cache-size", "1 kB"];
    let (_, log) = shop.succeeds(&other);
    let warned = log.lines().find(|line| line.contains("made room in the cache down to its limit of 1.0 kB")).unwrap();
    assert!(warned.contains(" WARN ") && warned.contains(", by the study first (run just now); "), "{log}");
    assert!(warned.contains("blocks 12, ") && warned.contains(&format!("scores {before}")), "{log}");
    assert!(
        warned.contains("last used just now") && warned.ends_with("a larger --cache-size lets the cache hold more")
    );
    // A study that nobody came back to for long goes with a word, and without a warning.
    let (_, log) = shop.succeeds(&other);
    assert!(!log.contains("made room"), "{log}");
    for record in files(&shop.path("cache/studies")) {
        let ran = std::time::SystemTime::now() - Duration::from_secs(9 * 86_400);
        std::fs::File::open(record).unwrap().set_modified(ran).unwrap();
    }
    let third = ["run", "recipe.toml", "--set", "name=third", "--set", "model.dtype=f16", "--cache-size", "1 kB"];
    let (_, log) = shop.succeeds(&third);
    let said = log.lines().find(|line| line.contains("made room in the cache")).unwrap();
    assert!(said.contains(" INFO ") && said.contains(", by the study second (run 9 days ago)"), "{log}");
}
