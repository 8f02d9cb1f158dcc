//! What comes with the program: recipes by their names, data sets without a folder of them, and recipes to start from.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Tiny, Workshop, assert_same_tables, cache_with_the_real_model, read_table, texts};
use serde_json::{Value, json};

/// A quickstart that is over soon.
const REDUCED: [&str; 16] = [
    "--set",
    "grid.method=[\"magnitude\", \"wanda\"]",
    "--set",
    "grid.calibration=[\"prose\"]",
    "--set",
    "calibration.prose.windows=2",
    "--set",
    "suite.prose.windows=2",
    "--set",
    "suite.instruct.windows=2",
    "--set",
    "suite.answers.limit=3",
    "--set",
    "suite.answers.max_new_tokens=3",
    "--set",
    "seed=1",
];

struct Empty {
    dir: tempfile::TempDir,
    cache: PathBuf,
}

impl Empty {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache_with_the_real_model(dir.path());
        Self { dir, cache }
    }

    fn calipr(&self, folder: &str, arguments: &[&str]) -> Output {
        let folder = self.dir.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_calipr"));
        command.args(arguments).current_dir(folder).env("CALIPR_CACHE", &self.cache).output().unwrap()
    }

    fn succeeds(&self, folder: &str, arguments: &[&str]) -> (String, String) {
        let output = self.calipr(folder, arguments);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn tables(&self, folder: &str) -> Vec<Vec<Value>> {
        let results = self.dir.path().join(folder).join("results/quickstart");
        ["cells", "metrics", "samples", "contrasts", "settings"]
            .map(|table| read_table(&results.join(format!("{table}.parquet"))))
            .to_vec()
    }
}

#[test]
fn the_quickstart_runs_in_an_empty_folder_as_it_does_in_the_project() {
    let empty = Empty::new();
    let (plan, _) = empty.succeeds("a", &["plan", "quickstart"]);
    assert!(plan.starts_with("quickstart: 6 cells") && plan.contains("stages to compute"), "{plan}");
    let (printed, _) = empty.succeeds("a", &[&["run", "quickstart"], &REDUCED[..]].concat());
    assert!(printed.contains("tables: results/quickstart"), "{printed}");

    // The project's own files, of which nothing is computed again.
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart.toml");
    let (_, log) = empty.succeeds("b", &[&["run", recipe.to_str().unwrap()], &REDUCED[..]].concat());
    assert!(!log.contains(": block "), "{log}");
    assert_same_tables(&empty.tables("a"), &empty.tables("b"));

    let run = std::fs::read_to_string(empty.dir.path().join("a/results/quickstart/run.json")).unwrap();
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!((&run["recipe_path"], &run["folders"]), (&json!("quickstart"), &json!(["../.."])));
    assert_eq!(run["datasets"]["prose"]["folders"], json!([]));
    assert_eq!(run["datasets"]["prose"]["definition"]["source"], "path:prose.jsonl");

    // From another folder, with the rows unpacked anew.
    std::fs::remove_dir_all(empty.cache.join("bundled")).unwrap();
    let (printed, _) = empty.succeeds("elsewhere", &["reproduce", "../a/results/quickstart"]);
    assert!(printed.contains("the same model, data, versions and machine"), "{printed}");
}

#[test]
fn what_is_unpacked_is_no_stage_and_goes_with_the_others() {
    let empty = Empty::new();
    empty.succeeds("a", &["datasets", "prose"]);
    let unpacked = empty.cache.join("bundled");
    assert_eq!(std::fs::read_dir(&unpacked).unwrap().count(), 1);
    let (listing, _) = empty.succeeds("a", &["cache", "ls"]);
    assert!(!listing.contains("bundled"), "{listing}");
    empty.succeeds("a", &["cache", "clear"]);
    assert!(!unpacked.exists());
}

#[test]
fn a_bare_name_is_a_file_here_before_it_is_a_recipe_of_the_program() {
    let shop = Workshop::new(&Tiny::default());
    let planned = |name: &str, expected: &str| {
        let (plan, _) = shop.succeeds(&["plan", name]);
        assert!(plan.starts_with(expected), "{plan}");
    };
    planned("recipe", "tiny: 11 cells");
    std::fs::create_dir(shop.path("recipes")).unwrap();
    let named = |name: &str| std::fs::read_to_string(shop.path("recipe.toml")).unwrap().replace("\"tiny\"", name);
    for (place, name) in
        [("recipes/quickstart.toml", "'third'"), ("quickstart.toml", "'second'"), ("quickstart", "'first'")]
    {
        std::fs::write(shop.path(place), named(name)).unwrap();
        planned("quickstart", &format!("{}: 11 cells", name.trim_matches('\'')));
    }
    std::fs::remove_file(shop.path("quickstart")).unwrap();
    // A folder is no recipe.
    std::fs::create_dir(shop.path("quickstart")).unwrap();
    planned("quickstart", "second: 11 cells");
}

#[test]
fn a_name_that_no_recipe_has_leads_to_those_that_there_are() {
    let shop = Workshop::new(&Tiny::default());
    let refused = |arguments: &[&str]| {
        let output = shop.calipr(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        texts(&output).1
    };
    let error = refused(&["run", "quikstart"]);
    let known = "recipes known by name are, here: recipe; with calipr: calibration_data, downstream, my_task, papers/bandari, papers/ji, papers/khanal_capone, papers/sparsegpt, papers/wanda, papers/williams_aletras, quickstart, task_calibration";
    assert!(error.contains(&format!("did you mean quickstart? {known}")), "{error}");
    assert!(refused(&["bench", "zzz"]).contains(&format!("       = {known}")));
    let error = refused(&["plan", "quickstart.toml"]);
    assert!(error.contains("did you mean quickstart, which comes with calipr?"), "{error}");
    // What is wrong with a recipe of the program is in what is set over it, or here.
    let error = refused(&["plan", "quickstart", "--set", "grid.metod=[]"]);
    assert!(error.starts_with("error: --set grid.metod=[]: "), "{error}");
    std::fs::create_dir(shop.path("datasets")).unwrap();
    std::fs::write(shop.path("datasets/prose.toml"), "sorce = 'path:x'\n").unwrap();
    let error = refused(&["plan", "quickstart"]);
    assert!(
        error.contains("calipr's recipe quickstart:9:1: ") && error.contains("datasets/prose.toml, line 1"),
        "{error}"
    );
}

#[test]
fn data_sets_here_stand_in_place_of_those_of_the_program() {
    let shop = Workshop::new(&Tiny::default());
    let uses = |name: &str| {
        let set = format!("suite.text.dataset={name}");
        shop.succeeds(&["plan", "recipe.toml", "--set", &set, "--set", "suite.text.split=test"]).0
    };
    assert!(uses("prose").contains("stages to compute"));
    let (listing, _) = shop.succeeds(&["datasets"]);
    assert!(listing.contains("prose: test, train; rows with calipr\n    200 passages"), "{listing}");
    assert!(listing.contains("c4: test, train; rows in hf:datasets/allenai/c4\n"), "{listing}");
    let listed = listing.lines().filter(|line| !line.starts_with(' ') && line.contains(": ")).count();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets")).unwrap();
    let definitions = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "toml"));
    assert_eq!(listed, definitions.count(), "{listing}");

    std::fs::create_dir(shop.path("datasets")).unwrap();
    std::fs::write(shop.path("datasets/prose.toml"), "source = 'path:../rows.jsonl'\n[split.test]\n[split.train]\n")
        .unwrap();
    std::fs::write(shop.path("datasets/own.toml"), "description = 'Mine.'\nsource = 'path:../rows.jsonl'\n").unwrap();
    let (listing, _) = shop.succeeds(&["datasets"]);
    let here = "prose: test, train; rows in path:../rows.jsonl; defined in datasets/prose.toml, in place of the one that comes with calipr\n";
    assert!(
        listing.contains(here)
            && listing.contains("own: one file; rows in path:../rows.jsonl; defined in datasets/own.toml\n"),
        "{listing}"
    );
    std::fs::write(shop.path("datasets/bad.toml"), "sorce = 'x'\n").unwrap();
    let (listing, _) = shop.succeeds(&["datasets"]);
    assert!(
        listing.contains("bad: it cannot be read: datasets/bad.toml, line 1: ") && listing.contains("wikitext2: "),
        "{listing}"
    );
    let (shown, _) = shop.succeeds(&["datasets", "prose"]);
    assert!(shown.contains("row 0 says") && shown.contains("definition (datasets/prose.toml)"), "{shown}");
}

#[test]
fn a_data_set_is_shown_with_its_definition_and_what_a_row_becomes() {
    let shop = Workshop::new(&Tiny::default());
    let (shown, _) = shop.succeeds(&["datasets", "instruct"]);
    for part in [
        "definition (comes with calipr):\n  description",
        "train  390   path:instruct.jsonl",
        "the first of test:",
        "  prompt    |Below is an instruction",
        "  answer    |",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (shown, _) = shop.succeeds(&["datasets", "path:rows.jsonl"]);
    assert!(shown.contains("all    40    path:rows.jsonl") && shown.contains("  text      |row 0 says"), "{shown}");
    let mut command = shop.command(&["datasets", "gsm8k"]);
    let (shown, _) = texts(&command.env("HF_HOME", shop.path("hub")).output().unwrap());
    assert!(shown.contains("not here yet  hf:datasets/openai/gsm8k") && shown.contains("{{ question }}"), "{shown}");
    let output = shop.calipr(&["datasets", "prse"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("did you mean \"prose\"?"));
}

/// Rows as JSON lines.
fn lines(row: impl Fn(usize) -> Value) -> String {
    (0..30).map(|i| row(i).to_string() + "\n").collect()
}

/// Writes a recipe for a file of rows with another of their kind to calibrate on, has it planned, and returns what was
/// printed and the recipe.
fn begun(file: &str, content: &str) -> (String, String) {
    let shop = Workshop::new(&Tiny::default());
    let other = format!("train_{file}");
    std::fs::write(shop.path(file), content).unwrap();
    // Other rows: the leak of the same ones would be warned of.
    std::fs::write(shop.path(&other), content.replace('7', "8")).unwrap();
    let arguments: [&[&str]; 2] = [
        &["init", file, "--model", "model"],
        &["init", file, "--model", "path:model", "--calibrate", &other, "--to", "both.toml"],
    ];
    let printed = arguments.map(|arguments| shop.succeeds(arguments).0);
    let name = file.split('.').next().unwrap();
    for recipe in [name, "both"] {
        let (plan, log) = shop.succeeds(&["plan", recipe]);
        assert!(
            plan.contains(" cells\n") && plan.contains("stages to compute") && log.is_empty(),
            "{recipe}: {plan}{log}"
        );
    }
    let read = |recipe: &str| std::fs::read_to_string(shop.path(recipe)).unwrap();
    assert!(
        !read(&format!("{name}.toml")).contains("\n[calibration.task]")
            && read("both.toml").contains("\n[calibration.task]")
    );
    let [first, _] = printed;
    (first, read("both.toml"))
}

#[test]
fn a_recipe_is_begun_for_questions_with_choices() {
    let row = |i: usize| json!({"id": i, "question": format!("{i} + 1?"), "choices": ["7", "no"], "answer": i % 2});
    let (printed, recipe) = begun("quiz.jsonl", &lines(row));
    assert!(printed.contains("quiz.jsonl: JSON lines, 30 rows, each a question with choices (2)\n"), "{printed}");
    assert!(printed.contains("read: question, choices, answer; not read: id\n"), "{printed}");
    assert!(printed.contains("  right     |7\n") && printed.contains("`calipr run quiz.toml`"), "{printed}");
    assert!(
        recipe.contains("metrics = [\"acc\", \"acc_norm\", \"js_divergence\"]") && !recipe.contains("max_new_tokens")
    );
}

#[test]
fn a_recipe_is_begun_for_questions_with_answers_whose_reading_is_guessed() {
    let row = |i: usize| json!({"question": format!("What is {i} + 7?"), "answer": format!("{}", i + 7)});
    let (printed, recipe) = begun("sums.jsonl", &lines(row));
    assert!(
        printed.contains("stands in sums.data.toml") && printed.contains("  prompt    |Question: What is 0 + 7?\n"),
        "{printed}"
    );
    assert!(
        recipe.contains("dataset = \"path:both.data.toml\"") && recipe.contains("\"contains_answer\", \"f1\""),
        "{recipe}"
    );
    assert!(recipe.contains("stop = [\"\\n\"]") && recipe.contains("max_new_tokens = 16"), "{recipe}");
}

#[test]
fn a_recipe_is_begun_for_prompts_with_long_answers() {
    let row = |i: usize| json!({"prompt": format!("Write {i}."), "completion": format!(" {}", "words of it\n".repeat(7 + i % 2))});
    let (_, recipe) = begun("essays.jsonl", &lines(row));
    assert!(recipe.contains("\"rougeL\", \"f1\", \"js_divergence\"") && !recipe.contains("stop ="), "{recipe}");
    assert!(recipe.contains("max_new_tokens = 40 # answers have about 25 tokens\n"), "{recipe}");
}

#[test]
fn a_recipe_is_begun_for_plain_text() {
    let (printed, recipe) = begun("notes.txt", &"Some 7 words that say a little. ".repeat(40));
    assert!(printed.contains("notes.txt: text, 1 row, each a text without an answer"), "{printed}");
    // 1280 bytes are 213 long tokens.
    assert!(recipe.contains("windows = 6\nlength = 32\nmetrics = [\"perplexity\", \"js_divergence\"]"), "{recipe}");
}

#[test]
fn a_recipe_is_begun_for_a_table() {
    let table: String =
        (0..30).map(|i| format!("{i},\"Is {i} odd, or 7?\",{}\n", if i % 2 == 1 { "yes" } else { "no" })).collect();
    let (printed, recipe) = begun("odd.csv", &format!("id,Question,Answer\n{table}"));
    assert!(
        printed
            .contains("odd.csv: CSV, 30 rows, each a prompt with its answer\nread: Question, Answer; not read: id\n"),
        "{printed}"
    );
    assert!(recipe.contains("path:both.data.toml"), "{recipe}");
}

#[test]
fn a_recipe_is_begun_for_a_data_set_with_the_splits_that_it_has() {
    let shop = Workshop::new(&Tiny::default());
    for (splits, suite, calibrates) in [
        (
            "[split.train]\nsource = 'path:rows.jsonl'\n[split.test]\nsource = 'path:test.jsonl'\n",
            "dataset = \"path:own.toml\"\nwindows",
            true,
        ),
        (
            "[split.train]\nsource = 'path:rows.jsonl'\n[split.validation]\nsource = 'path:test.jsonl'\n",
            "split = \"validation\"",
            true,
        ),
        ("[split.train]\nsource = 'path:rows.jsonl'\n", "split = \"train\"", false),
    ] {
        std::fs::write(shop.path("own.toml"), splits).unwrap();
        shop.succeeds(&["init", "own.toml", "--model", "model", "--to", "begun.toml", "--replace"]);
        let recipe = std::fs::read_to_string(shop.path("begun.toml")).unwrap();
        assert!(recipe.contains(suite) && recipe.contains("\n[calibration.task]") == calibrates, "{recipe}");
        assert!(shop.succeeds(&["plan", "begun"]).1.is_empty());
    }
}

#[test]
fn a_recipe_that_is_there_stays_unless_it_is_to_go() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["init", "rows.jsonl", "--model", "path:model"]);
    std::fs::write(shop.path("rows.toml"), "mine").unwrap();
    let again = ["init", "rows.jsonl", "--model", "path:model"];
    let output = shop.calipr(&again);
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("rows.toml is there already: --to names another file, --replace overwrites it"));
    assert_eq!(std::fs::read_to_string(shop.path("rows.toml")).unwrap(), "mine");
    shop.succeeds(&[&again[..], &["--replace"]].concat());
    assert!(std::fs::read_to_string(shop.path("rows.toml")).unwrap().contains("[suite.task]"));
    assert_eq!(shop.calipr(&["plan", "rows"]).status.code(), Some(0));
}

#[test]
fn what_no_recipe_can_be_made_of_is_said() {
    let shop = Workshop::new(&Tiny::default());
    std::fs::write(shop.path("odd.jsonl"), "{\"a\": 1, \"b\": 2}\n").unwrap();
    std::fs::write(shop.path("short.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    std::fs::write(shop.path("mixed.jsonl"), "{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n")
        .unwrap();
    for (arguments, says) in [
        (&["odd.jsonl"][..], "with the fields `a`, `b`"),
        (&["short.jsonl"], "too few to judge by"),
        (&["mixed.jsonl"], "row 2 is a prompt with its answer, row 1 a text without an answer"),
        (&["nosuch.jsonl"], "there is no data set \"nosuch.jsonl\", and no such file (known: "),
        (&["model"], "there is no data set \"model\""),
        (&["rows.jsonl", "--calibrate", "rows.jsonl"], "none of these may be judged by"),
        (&["rows.jsonl", "--model", "path:nowhere"], "--model: nowhere does not exist"),
        (&["rows.jsonl", "--model", "owner/name"], "did you mean \"hf:owner/name\"?"),
        (&["rows.jsonl", "--to", "no/folder/x.toml"], "its folder is not there"),
    ] {
        let output = shop.calipr(&[&["init"], arguments].concat());
        let (_, stderr) = texts(&output);
        assert!(output.status.code() == Some(2) && stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_recipe_is_begun_for_conversations() {
    let empty = Empty::new();
    let turns = |i: usize| json!({"messages": [{"role": "user", "content": format!("Say {i}.")}, {"role": "assistant", "content": format!("{i}")}]});
    std::fs::create_dir(empty.dir.path().join("a")).unwrap();
    std::fs::write(empty.dir.path().join("a/talks.jsonl"), lines(turns)).unwrap();
    let (printed, _) = empty.succeeds("a", &["init", "talks.jsonl"]);
    assert!(
        printed.contains("each a conversation that ends in an answer") && printed.contains("  assistant |0\n"),
        "{printed}"
    );
    let recipe = std::fs::read_to_string(empty.dir.path().join("a/talks.toml")).unwrap();
    assert!(recipe.contains("\"contains_answer\"") && !recipe.contains("stop ="), "{recipe}");
    let (plan, log) = empty.succeeds("a", &["plan", "talks"]);
    assert!(plan.contains("stages to compute") && log.is_empty(), "{plan}{log}");
}

#[test]
fn a_recipe_without_a_task_stands_on_what_comes_with_calipr() {
    let empty = Empty::new();
    let (printed, _) = empty.succeeds("a", &["init"]);
    assert!(printed.contains("written: my_task.toml") && printed.contains("stand for yours"), "{printed}");
    let (plan, log) = empty.succeeds("a", &["plan", "my_task"]);
    assert!(
        plan.starts_with("my_task: 6 cells") && plan.contains("stages to compute") && log.is_empty(),
        "{plan}{log}"
    );
}
