//! Several workers on one study: each cell once, and tables as one process makes them.

mod common;

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use common::{Tiny, Workshop, assert_same_tables, texts};
use serde_json::json;

/// Twelve cells and more, with statistics and texts that cells share.
fn shop() -> Workshop {
    let shop = Workshop::new(&Tiny { hidden: 128, feed_forward: 256, blocks: 5, ..Tiny::default() });
    let recipe = common::RECIPE.replace(
        "sparsity = [0.5, \"2:4\"]",
        "sparsity = [0.5, \"2:4\"]\ncalibration = [\"general\", \"other\", \"own\"]",
    );
    let own = "[calibration.own]\ngenerate = { from = \"path:rows.jsonl\", texts = 30, max_new_tokens = 60 }\nwindows = 4\nlength = 48\n";
    let rest = "[prune]\npropagation = \"dense\"\n[suite.rows]\ndataset = \"path:pairs.jsonl\"\nmax_new_tokens = 6\nmetrics = [\"f1\", \"loss\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe.replace("[grid]", &format!("{own}\n[grid]")) + rest).unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"{i} and\", \"completion\": \" {}\"}}\n", i + 1);
    std::fs::write(shop.path("pairs.jsonl"), (0..6).map(row).collect::<String>()).unwrap();
    shop
}

fn worker(shop: &Workshop) -> Child {
    let mut command = shop.command(&["work", "recipe.toml", "--threads", "1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How often each cell was computed to its end, by what workers say.
fn computed(logs: &[String]) -> BTreeMap<String, usize> {
    let mut computed = BTreeMap::new();
    for line in logs.iter().flat_map(|log| log.lines()) {
        if let Some((cell, _)) = line.split_once("] ").and_then(|(_, said)| said.split_once(": sparsity")) {
            *computed.entry(cell.to_owned()).or_insert(0) += 1;
        }
    }
    computed
}

fn cells(shop: &Workshop) -> usize {
    shop.tables("results/tiny")[0].len()
}

/// The tables that one process makes, in a cache of its own.
fn alone(shop: &Workshop) -> Vec<Vec<serde_json::Value>> {
    shop.succeeds(&["run", "recipe.toml"]);
    let tables = shop.tables("results/tiny");
    for folder in ["cache", "results"] {
        std::fs::remove_dir_all(shop.path(folder)).unwrap();
    }
    tables
}

#[test]
fn workers_share_a_study_and_leave_what_one_process_does() {
    let shop = shop();
    let expected = alone(&shop);
    let outputs: Vec<Output> =
        (0..4).map(|_| worker(&shop)).collect::<Vec<_>>().into_iter().map(|w| w.wait_with_output().unwrap()).collect();
    let logs: Vec<String> = outputs.iter().map(|output| texts(output).1).collect();
    for (output, log) in outputs.iter().zip(&logs) {
        assert!(output.status.success(), "{log}");
        let (said, _) = texts(output);
        assert!(said.contains("run here; none is left to take"), "{said}");
    }
    assert!(!shop.path("results").exists(), "workers write no tables");
    // What is shared was claimed once: the texts, the windows, and the dense model's statistics.
    let claims: Vec<String> = std::fs::read_dir(shop.path("cache/claims"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(claims.len() > 60, "{claims:?}");
    let (out, log) = shop.succeeds(&["run", "recipe.toml"]);
    assert!(!log.contains(": sparsity"), "there is nothing left to run: {log}");
    assert!(out.contains("tables:"), "{out}");
    assert_same_tables(&expected, &shop.tables("results/tiny"));
    let computed = computed(&logs);
    assert_eq!((computed.len(), computed.values().max()), (cells(&shop), Some(&1)), "{computed:?}");
    // The tables tell what cells took where they ran, and nobody's claims are left.
    let read = std::fs::File::open(shop.path("results/tiny/cells.parquet")).unwrap();
    let read = parquet::file::reader::SerializedFileReader::new(read).unwrap();
    for row in read {
        let row = row.unwrap().to_json_value();
        assert!(row["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{row}");
    }
    assert_eq!(std::fs::read_dir(shop.path("cache/claims")).unwrap().count(), 0);
}

#[test]
fn what_a_killed_worker_had_others_take_over() {
    let shop = shop();
    let expected = alone(&shop);
    for round in 0..4 {
        let mut workers: Vec<Child> = (0..3).map(|_| worker(&shop)).collect();
        std::thread::sleep(Duration::from_millis(300 + 700 * round));
        workers[0].kill().unwrap();
        // Told to end, another leaves what it has.
        // SAFETY: a signal to a child that is not waited for yet.
        unsafe { libc::kill(workers[1].id() as i32, if round % 2 == 0 { libc::SIGTERM } else { libc::SIGUSR1 }) };
        let outputs: Vec<Output> = workers.into_iter().map(|worker| worker.wait_with_output().unwrap()).collect();
        let (_, log) = texts(&outputs[2]);
        assert!(outputs[2].status.success(), "{log}");
        assert!(matches!(outputs[1].status.code(), Some(0 | 130)), "{:?}", outputs[1]);
        let (_, log) = shop.succeeds(&["run", "recipe.toml"]);
        // One worker is left, and does all but what the others had when it found nothing else to take.
        assert!(log.matches(": sparsity").count() <= 2, "{log}");
        assert_same_tables(&expected, &shop.tables("results/tiny"));
        for folder in ["cache", "results"] {
            std::fs::remove_dir_all(shop.path(folder)).unwrap();
        }
    }
}

#[test]
fn tables_wait_for_what_a_worker_has_and_run_beside_it() {
    let shop = shop();
    let expected = alone(&shop);
    let workers: Vec<Child> = (0..2).map(|_| worker(&shop)).collect();
    let (_, run) = shop.succeeds(&["run", "recipe.toml"]);
    let outputs: Vec<Output> = workers.into_iter().map(|worker| worker.wait_with_output().unwrap()).collect();
    let logs: Vec<String> = outputs.iter().map(|output| texts(output).1).chain([run]).collect();
    assert_same_tables(&expected, &shop.tables("results/tiny"));
    let computed = computed(&logs);
    assert_eq!((computed.len(), computed.values().max()), (cells(&shop), Some(&1)), "{computed:?}");
}

#[test]
fn a_cell_that_fails_is_left_by_other_workers_and_tried_again_by_a_run() {
    let shop = Workshop::new(&Tiny { feed_forward_scale: 1e25, ..Tiny::default() });
    let first = shop.calipr(&["work", "recipe.toml"]);
    assert_eq!(first.status.code(), Some(3), "{}", texts(&first).1);
    assert!(texts(&first).1.ends_with(" of the cells failed; `calipr run` tries them again\n"), "{}", texts(&first).1);
    let second = shop.calipr(&["work", "recipe.toml"]);
    assert!(second.status.success(), "{}", texts(&second).1);
    assert!(!texts(&second).1.contains("failed"), "{}", texts(&second).1);
    let run = shop.calipr(&["run", "recipe.toml"]);
    assert_eq!(run.status.code(), Some(3), "{}", texts(&run).1);
    assert!(texts(&run).1.ends_with(" of the cells failed; the same command tries them again\n"), "{}", texts(&run).1);
    // What failed in the run that is over does not wait.
    let (status, _) = shop.succeeds(&["status", "results/tiny"]);
    assert!(status.contains(" failed: block 0: ") && !status.contains("to come"), "{status}");
    assert!(status.ends_with("nothing is left but what failed, which `calipr run` tries again\n"), "{status}");
}

#[test]
fn a_folder_of_results_says_how_far_its_study_is() {
    let shop = Workshop::new(&Tiny::default());
    let nothing = shop.calipr(&["status", "."]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(texts(&nothing).1.contains("neither jobs/submitted.json nor run.json"), "{}", texts(&nothing).1);
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.sparsity=[0.5]"]);
    let cells = cells(&shop);
    let (by_results, _) = shop.succeeds(&["status", "results/tiny"]);
    assert!(by_results.starts_with(&format!("tiny: {cells} of {cells} cells done\n")), "{by_results}");
    let (by_recipe, _) = shop.succeeds(&["status", "recipe.toml", "--set", "grid.sparsity=[0.5]"]);
    // A recipe alone does not say where its tables are.
    let table = |said: &str| said.rsplit_once("\n\n").unwrap().0.to_owned();
    assert_eq!(table(&by_recipe), table(&by_results));
    assert!(by_recipe.ends_with("`calipr run` makes the tables, where they are not made yet\n"), "{by_recipe}");
    assert!(by_results.ends_with("and the tables are in results/tiny\n"), "{by_results}");
    // Tables that were brought here without their cache say the same, and so they do where the model is not here.
    std::fs::rename(shop.path("cache"), shop.path("elsewhere")).unwrap();
    std::fs::rename(shop.path("model"), shop.path("model.away")).unwrap();
    assert_eq!(shop.succeeds(&["status", "results/tiny"]).0, by_results);
    std::fs::rename(shop.path("model.away"), shop.path("model")).unwrap();
    std::fs::remove_dir_all(shop.path("cache")).ok();
    std::fs::rename(shop.path("elsewhere"), shop.path("cache")).unwrap();
    // Of the recipe as it is, more is to come.
    assert!(shop.succeeds(&["status", "recipe.toml"]).0.contains(" to come\n"));
    let set = shop.calipr(&["status", "results/tiny", "--set", "grid.sparsity=[0.5]"]);
    assert!(
        texts(&set).1.contains("--set: the recipe in results/tiny/run.json has all of its keys"),
        "{}",
        texts(&set).1
    );
}

#[test]
fn results_that_replaced_those_of_a_submission_are_what_status_is_about() {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let jobs = shop.path("results/tiny/jobs");
    std::fs::create_dir_all(&jobs).unwrap();
    std::fs::copy(shop.path("recipe.toml"), jobs.join("recipe.toml")).unwrap();
    let folder = shop.dir.path().to_str().unwrap();
    let asked = json!({"folder": folder, "recipe": "recipe.toml", "set": [], "cache": shop.path("cache")});
    let record = json!({"engine": "hq", "ids": ["7"], "options": [], "asked": asked});
    std::fs::write(jobs.join("submitted.json"), record.to_string()).unwrap();
    // The submission's own tables are not another study's.
    shop.succeeds(&["run", "recipe.toml"]);
    let (own, _) = shop.succeeds(&["status", "results/tiny"]);
    assert!(!own.contains("replaced") && own.contains("hq"), "{own}");
    let set = ["--set", "grid.sparsity=[0.7]", "--set", "grid.method=['magnitude']"];
    shop.succeeds(&[&["run", "recipe.toml", "--replace"][..], &set].concat());
    let (said, _) = shop.succeeds(&["status", "results/tiny"]);
    assert!(said.starts_with("tiny: 2 of 2 cells done\n") && said.contains("magnitude-0.7"), "{said}");
    assert!(said.ends_with("hq: 7 were of another study, whose results these have replaced\n"), "{said}");
}
