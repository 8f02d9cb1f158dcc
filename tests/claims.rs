//! Studies whose truth is known: what is the same must not be told apart, whatever the samples, seeds and comparisons.

mod common;

use common::{RECIPE, Tiny, Workshop, read_table};
use serde_json::{Value, json};

/// The recipe with twelve windows, sixteen rows and three seeds, and a line or more of it replaced.
fn shop(changes: &[(&str, &str)]) -> Workshop {
    let shop = Workshop::new(&Tiny { blocks: 1, ..Tiny::default() });
    let mut recipe = RECIPE
        .replace("windows = 5\nlength = 64", "windows = 12\nlength = 16")
        .replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.5, \"2:4\"]\nseed = [0, 1, 2]");
    for (line, other) in changes {
        assert!(recipe.contains(line), "{recipe}");
        recipe = recipe.replace(line, other);
    }
    recipe +=
        "\n[suite.rows]\ndataset = \"path:questions.jsonl\"\nmax_new_tokens = 4\nmetrics = [\"f1\", \"exact_match\"]\n";
    std::fs::write(shop.path("recipe.toml"), recipe).unwrap();
    let row = |i: usize| json!({"prompt": format!("{i}+1="), "completion": format!(" {}", i + 1)}).to_string() + "\n";
    std::fs::write(shop.path("questions.jsonl"), (0..16).map(row).collect::<String>()).unwrap();
    shop
}

/// The contrasts along an axis.
fn contrasts(shop: &Workshop, axis: &str) -> Vec<Value> {
    let mut all = read_table(&shop.path("results/tiny/contrasts.parquet"));
    all.retain(|row| row["axis"] == axis);
    all
}

fn assert_not_told_apart(contrasts: &[Value]) {
    for row in contrasts {
        assert_eq!(row["delta"], 0.0, "{row}");
        assert!(["within the margin", "not told apart"].contains(&row["verdict"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn two_names_for_one_calibration_set_are_not_told_apart() {
    let shop = shop(&[("path:other.jsonl", "path:rows.jsonl")]);
    let (printed, _) = shop.succeeds(&["run", "recipe.toml"]);
    let calibrations = contrasts(&shop, "calibration");
    // Two methods at two sparsities, by five metrics of windows and two of rows.
    assert_eq!(calibrations.len(), 4 * 7);
    assert_not_told_apart(&calibrations);
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = printed.split("- ").find(|sentence| sentence.contains("calibration sets")).unwrap();
    assert!(!sentence.contains("of calibration sets,"), "a winner of two that are one: {sentence}");
}

#[test]
fn a_model_beside_itself_is_neither_better_nor_worse() {
    // The other methods leave out the smallest weight, however few they are asked for.
    let shop = shop(&[
        ("sparsity = [0.5, \"2:4\"]", "sparsity = [0.0001]"),
        ("\"magnitude\", \"wanda\", \"sparsegpt\"", "\"wanda\""),
    ]);
    let (printed, _) = shop.succeeds(&["run", "recipe.toml"]);
    let cells = read_table(&shop.path("results/tiny/cells.parquet"));
    assert!(cells.iter().all(|cell| cell["achieved_sparsity"] == 0.0), "{cells:?}");
    for axis in ["dense", "calibration"] {
        let found = contrasts(&shop, axis);
        assert!(!found.is_empty());
        assert_not_told_apart(&found);
    }
    // What is to be compared with a model that cannot be right must not look certain either.
    for row in read_table(&shop.path("results/tiny/settings.parquet")) {
        let is_of_rows = row["suite"] == "rows";
        assert!(!is_of_rows || row["ci_high"].as_f64().unwrap() > row["ci_low"].as_f64().unwrap(), "{row}");
    }
    assert!(!printed.contains("better than") && !printed.contains("worse than"), "{printed}");
    let report = shop.succeeds(&["report", "results/tiny", "--format", "markdown"]).0;
    assert!(!report.contains("| better |") && !report.contains("| worse |"), "{report}");
}

#[test]
fn the_luckiest_seed_is_not_crowned() {
    let shop = shop(&[]);
    let (printed, _) = shop.succeeds(&["run", "recipe.toml"]);
    assert!(!["-s0", "-s1", "-s2"].iter().any(|seed| printed.contains(seed)), "{printed}");
    let report = shop.succeeds(&["report", "results/tiny"]).0;
    let words = report.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("zeros achieved 0.5: 0.") && words.contains("; 2:4: 0.5000 of the linears"), "{report}");
    let metrics = read_table(&shop.path("results/tiny/metrics.parquet"));
    for setting in read_table(&shop.path("results/tiny/settings.parquet")) {
        if setting["seeds"].is_null() || setting["metric"] == "perplexity" {
            continue;
        }
        let is_seed = |row: &&Value| {
            let alike = ["suite", "metric", "method", "pattern", "sparsity", "calibration"].iter();
            alike.clone().all(|column| row[column] == setting[column])
        };
        let seeds: Vec<f64> = metrics.iter().filter(is_seed).map(|row| row["value"].as_f64().unwrap()).collect();
        assert_eq!((seeds.len(), setting["seeds"].as_u64()), (3, Some(3)), "{setting}");
        let mean = seeds.iter().sum::<f64>() / 3.0;
        assert!((setting["value"].as_f64().unwrap() - mean).abs() < 1e-9, "{setting}");
        let spread = (seeds.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((setting["spread"].as_f64().unwrap() - spread).abs() < 1e-9, "{setting}");
    }
}
