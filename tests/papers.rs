//! Figures of papers beside what a study finds.

mod common;

use std::fs;
use std::path::Path;

use calipr::Recipe;
use calipr::internals::Library;
use common::{RECIPE, Tiny, Workshop, read_table};
use serde_json::{Value, json};

/// A study with seeds, and figures of a setting, a cell and the dense model.
fn shop(figures: &str) -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let recipe = RECIPE.replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.5]\nseed = [0, 1]");
    let recipe = recipe.replace("windows = 5\nlength = 64", "windows = 12\nlength = 16");
    fs::write(shop.path("recipe.toml"), recipe + figures).unwrap();
    shop
}

const FIGURES: &str = r#"
[[published]]
setting = "dense"
suite = "text"
metric = "perplexity"
value = 5.12
spread = 0.25
where = "A. Uthor 2024, table 3"

[[published]]
setting = "wanda-0.5-general"
suite = "text"
metric = "top1_agreement"
value = 0.5
where = "A. Uthor 2024, table 4"
note = "read off a plot"

[[published]]
setting = "wanda-0.5-general-s1"
suite = "text"
metric = "loss"
value = 1.5
where = "A. Uthor 2024, table 4"
model = "hf:OWNER/NAME"

[[published]]
setting = "dense"
suite = "text"
metric = "js_divergence"
value = 0.0
where = "A. Uthor 2024, table 5"
"#;

/// The row of a table with these values.
fn row<'a>(table: &'a [Value], like: &Value) -> &'a Value {
    let has = |row: &&Value| like.as_object().unwrap().iter().all(|(key, value)| row[key] == *value);
    table.iter().find(has).unwrap_or_else(|| panic!("no {like} in {table:?}"))
}

#[test]
fn figures_of_papers_stand_beside_what_was_found() {
    let shop = shop(FIGURES);
    let (printed, _) = shop.succeeds(&["run", "recipe.toml"]);
    let figures = read_table(&shop.path("results/tiny/published.parquet"));
    assert_eq!(figures.len(), 4);
    let settings = read_table(&shop.path("results/tiny/settings.parquet"));
    let cells = read_table(&shop.path("results/tiny/metrics.parquet"));
    let found = [
        row(&settings, &json!({"setting": "dense", "metric": "perplexity"})),
        row(&settings, &json!({"setting": "wanda-0.5-general", "metric": "top1_agreement"})),
        row(&cells, &json!({"cell": "wanda-0.5-general-s1", "metric": "loss"})),
        row(&settings, &json!({"setting": "dense", "metric": "js_divergence"})),
    ];
    let published = [5.12, 0.5, 1.5, 0.0];
    for ((figure, found), published) in figures.iter().zip(found).zip(published) {
        for column in ["value", "ci_low", "ci_high", "suite", "metric", "method", "calibration"] {
            assert_eq!(figure[column], found[column], "{column} of {figure}");
        }
        assert_eq!(figure["published"], published);
        let delta = found["value"].as_f64().unwrap() - published;
        assert_eq!(figure["delta"].as_f64(), Some(delta));
        let interval = found["ci_low"].as_f64().zip(found["ci_high"].as_f64());
        let within = interval.map(|(low, high)| low <= published && published <= high);
        assert_eq!(figure["within"].as_bool(), within, "{figure}");
    }
    assert_eq!(figures[3]["within"], Value::Null, "dense has no interval of what it is to itself");
    assert_eq!(
        [&figures[0]["seed"], &figures[1]["seed"], &figures[2]["seed"]],
        [&Value::Null, &Value::Null, &json!(1)]
    );
    assert_eq!([&figures[0]["model"], &figures[2]["model"]], ["path:model", "hf:OWNER/NAME"]);
    assert_eq!([&figures[0]["published_spread"], &figures[1]["note"]], [&json!(0.25), &json!("read off a plot")]);
    assert_eq!(figures[1]["where"], "A. Uthor 2024, table 4");
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        printed.contains("- Of 4 published figures (of hf:OWNER/NAME, which is not this study's model), "),
        "{printed}"
    );
    for (format, mark) in [
        ("terminal", "Published and found"),
        ("markdown", "## Published and found"),
        ("html", "id=\"published\""),
        ("latex", "\\label{tab:published}"),
        ("json", "\"published\": 5.12"),
        ("csv", "5.12,false,\"A. Uthor 2024, table 3\""),
    ] {
        let report = shop.succeeds(&["report", "results/tiny", "--format", format]).0;
        assert!(report.contains(mark) && report.contains("A. Uthor 2024"), "{format}: {report}");
    }
}

#[test]
fn figures_change_nothing_that_is_computed() {
    let shop = shop("");
    shop.succeeds(&["run", "recipe.toml"]);
    let before = shop.tables("results/tiny");
    let table = shop.path("results/tiny/published.parquet");
    assert!(!table.exists());
    let recipe = fs::read_to_string(shop.path("recipe.toml")).unwrap();
    fs::write(shop.path("recipe.toml"), recipe.clone() + FIGURES).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    let file = fs::File::open(shop.path("results/tiny/cells.parquet")).unwrap();
    for cell in parquet::file::reader::SerializedFileReader::new(file).unwrap() {
        assert_eq!(cell.unwrap().to_json_value()["from_cache"], true);
    }
    assert_eq!(shop.tables("results/tiny")[2..], before[2..]);
    assert_eq!(read_table(&table).len(), 4);
    // The report goes by the recipe of run.json.
    fs::remove_file(&table).unwrap();
    assert!(shop.succeeds(&["report", "results/tiny"]).0.contains("Of 4 published figures"));
    shop.succeeds(&["run", "recipe.toml"]);
    assert!(table.exists());
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop.succeeds(&["run", "recipe.toml"]);
    assert!(!table.exists() && !shop.succeeds(&["report", "results/tiny"]).0.contains("ublished"));
}

#[test]
fn an_override_takes_figures_of_what_is_no_longer_run() {
    let shop = shop(FIGURES);
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.method=[\"magnitude\"]", "--set", "model.dtype=bf16"]);
    let figures = read_table(&shop.path("results/tiny/published.parquet"));
    assert!(figures.len() == 2 && figures.iter().all(|figure| figure["setting"] == "dense"), "{figures:?}");
    shop.succeeds(&["reproduce", "results/tiny"]);
    let refused = shop.calipr(&[
        "run",
        "recipe.toml",
        "--set",
        "published=[{setting='dnse', suite='text', metric='loss', value=1, where='a'}]",
    ]);
    let said = common::texts(&refused).1;
    assert!(
        refused.status.code() == Some(2) && said.contains("\"dnse\" is no setting of this study; expected dense, "),
        "{said}"
    );
    assert!(said.contains("did you mean \"dense\"?"), "{said}");
}

/// The recipes of papers, by name.
fn papers() -> Vec<String> {
    let names: Vec<String> =
        calipr::internals::recipes().filter(|name| name.starts_with("papers/")).map(str::to_owned).collect();
    assert!(names.len() >= 6, "{names:?}");
    names
}

/// The arguments of the command in a recipe's head that runs it small, as a shell reads them.
fn small(name: &str) -> Vec<String> {
    let text = calipr::internals::recipe_named(name).unwrap();
    let start = format!("# calipr run {name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{name}: no {start}"));
    let (mut arguments, mut argument, mut is_quoted) = (vec![], String::new(), false);
    for c in line.chars().chain([' ']) {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => arguments.extend(Some(std::mem::take(&mut argument)).filter(|text| !text.is_empty())),
            c => argument.push(c),
        }
    }
    assert!(!is_quoted && argument.is_empty(), "{line}");
    arguments
}

#[test]
fn every_recipe_of_a_paper_is_checked_as_it_stands_and_by_the_line_in_its_head() {
    for name in papers() {
        let recipe = |sets: &[String]| Recipe::load(Path::new(&name), sets).unwrap_or_else(|e| panic!("{name}: {e}")).0;
        let text = calipr::internals::recipe_named(&name).unwrap();
        assert!(text.starts_with("#:schema ../recipe.schema.json\n# "), "{name}");
        let whole = recipe(&[]);
        assert!(whole.suite.values().flat_map(|suite| suite.metrics()).count() > 0);
        let small = small(&name);
        let sets: Vec<String> = small.chunks(2).map(|pair| pair[1].clone()).collect();
        assert!(small.chunks(2).all(|pair| pair[0] == "--set"), "{small:?}");
        let recipe = recipe(&sets);
        // Nothing of it is to be fetched but the model.
        let bundled = ["prose", "instruct", "yes_no"];
        let sets = recipe.calibration.values().filter_map(|set| set.dataset.as_ref());
        for dataset in sets.chain(recipe.suite.values().map(|suite| &suite.dataset)) {
            assert!(bundled.contains(&dataset.as_str()), "{name}: {dataset}");
        }
        assert_eq!(recipe.model.source.to_string(), common::REAL_MODEL);
        assert_eq!(recipe.published.len(), whole.published.len(), "{name}");
    }
}

#[test]
fn every_data_set_that_comes_with_calipr_is_read() {
    let library = Library::of_recipe(Path::new("quickstart"));
    for name in calipr::internals::datasets() {
        let dataset = library.get(name).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let splits = || ["train", "validation", "test"].into_iter().filter(|split| dataset.part(None, split).is_ok());
        assert!(!dataset.description.is_empty() && splits().count() > 0, "{name}");
    }
}

/// Runs the line in a recipe's head on a tiny model, with a figure of the dense model's.
fn run_small(name: &str, figure: &str) -> (Workshop, String) {
    let shop = Workshop::new(&Tiny { blocks: 1, context: 1024, ..Tiny::default() });
    let figure = format!("published=[{figure}]");
    let mut arguments = vec!["run".to_owned(), name.to_owned()];
    arguments.extend(small(name));
    arguments.extend(["--set", "model.source=path:model", "--set", &figure].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (printed, _) = shop.succeeds(&arguments);
    (shop, printed.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn the_other_studies_run_small_by_the_lines_in_their_heads() {
    for (name, suite, metric) in [
        ("wanda", "rte", "acc"),
        ("sparsegpt", "ptb", "perplexity"),
        ("williams_aletras", "piqa", "acc"),
        ("bandari", "svamp", "contains_answer"),
    ] {
        let figure = format!("{{setting='dense', suite='{suite}', metric='{metric}', value=1, where='here'}}");
        let (shop, printed) = run_small(&format!("papers/{name}"), &figure);
        assert!(printed.contains("Of 1 published figure"), "{printed}");
        let figures = read_table(&shop.path(&format!("results/{name}/published.parquet")));
        assert!(figures[0]["value"].is_number(), "{figures:?}");
    }
}

#[test]
fn the_study_of_ji_runs_small_by_the_line_in_its_head() {
    let figure = "{setting='wanda-0.6-wikipedia', suite='boolq', metric='acc', value=0.5, where='here'}";
    let (shop, printed) = run_small("papers/ji", figure);
    assert!(
        printed.contains("Of 1 published figure (of hf:meta-llama/Meta-Llama-3-8B, which is not this study's model), "),
        "{printed}"
    );
    let figures = read_table(&shop.path("results/ji/published.parquet"));
    assert!(figures[0]["within"].is_boolean() && figures[0]["value"].is_number(), "{figures:?}");
    assert!(shop.succeeds(&["report", "results/ji"]).0.contains("Published and found, by acc on boolq"));
}

#[test]
fn the_study_of_khanal_and_capone_runs_small_by_the_line_in_its_head() {
    let figure = "{setting='sparsegpt-0.5-alpaca', suite='unnatural', metric='f1', value=0.25, where='here'}";
    let (shop, printed) = run_small("papers/khanal_capone", figure);
    assert!(
        printed.contains("Of 1 published figure (of hf:meta-llama/Llama-2-7b-hf, which is not this study's model), "),
        "{printed}"
    );
    let figures = read_table(&shop.path("results/khanal_capone/published.parquet"));
    assert!(figures.len() == 1 && figures[0]["value"].is_number(), "{figures:?}");
    assert!(shop.succeeds(&["report", "results/khanal_capone"]).0.contains("Published and found, by f1 on unnatural"));
}
