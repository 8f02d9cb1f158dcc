//! `[prune] skip`: linears that stay dense, in plan, tables and figures.

mod common;

use common::{Tiny, Workshop, read_table, texts};
use serde_json::Value;

fn layers(shop: &Workshop, results: &str) -> Vec<Value> {
    read_table(&shop.path(results).join("layers.parquet"))
}

const SKIP: &str = r#"prune.skip=["block.0", "*.down_proj"]"#;

#[test]
fn skipped_linears_stay_dense_and_others_are_pruned_as_ever() {
    let shop = Workshop::new(&Tiny::default());
    // Statistics of the dense model: what is pruned does not depend on what else is.
    let dense = ["--set", "prune.propagation=\"dense\""];
    shop.succeeds(&[&["run", "recipe.toml"][..], &dense].concat());
    shop.succeeds(&[&["run", "recipe.toml", "--set", SKIP, "--out", "skipping"][..], &dense].concat());
    let (all, skipping) = (layers(&shop, "results/tiny"), layers(&shop, "skipping"));
    assert_eq!(all.len(), skipping.len());
    let (mut skipped, mut pruned) = (0, 0);
    for (before, now) in all.iter().zip(&skipping) {
        let is_meant = now["block"] == 0 || now["linear"] == "down";
        assert_eq!(now["skipped"], is_meant, "{now}");
        assert_eq!(before["skipped"], false);
        if is_meant {
            skipped += 1;
            assert_eq!(now["achieved_sparsity"], 0.0, "{now}");
            assert_eq!(now["relative_error"], 0.0, "{now}");
            assert!(now["damping"].is_null(), "{now}");
        } else {
            pruned += 1;
            assert_eq!(now["achieved_sparsity"], before["achieved_sparsity"]);
            assert_eq!(now["damping"], before["damping"]);
        }
    }
    // Of 3 blocks of 7, 7 and 2 stay dense, in each of 10 cells.
    assert_eq!((skipped, pruned), (10 * 9, 10 * 12));
    // What stays dense counts in a cell's sparsity.
    let cells = read_table(&shop.path("skipping/cells.parquet"));
    let magnitude = cells.iter().find(|cell| cell["method"] == "magnitude").unwrap();
    let weights = |rows: &[Value], of: &dyn Fn(&Value) -> f64| -> f64 {
        let own = rows.iter().filter(|row| row["cell"] == magnitude["cell"]);
        own.map(|row| row["rows"].as_f64().unwrap() * row["columns"].as_f64().unwrap() * of(row)).sum()
    };
    let zeros = weights(&skipping, &|row| row["achieved_sparsity"].as_f64().unwrap());
    let expected = zeros / weights(&skipping, &|_| 1.0);
    assert!((magnitude["achieved_sparsity"].as_f64().unwrap() - expected).abs() < 1e-12);
    let (plan, _) = shop.succeeds(&[&["plan", "recipe.toml", "--set", SKIP, "--out", "skipping"][..], &dense].concat());
    assert!(plan.contains("all of it is done"), "{plan}");
}

#[test]
fn plan_says_what_stays_dense_and_a_pattern_that_names_nothing_is_an_error() {
    let shop = Workshop::new(&Tiny::default());
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml", "--set", SKIP]);
    assert!(plan.contains("9 of 21 linears stay dense (prune.skip)"), "{plan}");
    for (skip, says) in [
        (r#"["block.1", "blk.0.ffn_down"]"#, "\"blk.0.ffn_down\" names none of the model's linears"),
        (r#"["block.0.dwn"]"#, "did you mean \"block.0.down\"?"),
        (r#"["*"]"#, "it leaves nothing to prune"),
        (r#"["block.3"]"#, "they are called block.0.q or model.layers.0.self_attn.q_proj"),
    ] {
        for command in ["plan", "run"] {
            let output = shop.calipr(&[command, "recipe.toml", "--set", &format!("prune.skip={skip}")]);
            let (_, stderr) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(says) && stderr.contains("prune.skip"), "{stderr}");
        }
    }
}
