//! What a plan says of a study before it runs, and what a run then says of the plan.

mod common;

use std::fs;

use common::{RECIPE, Tiny, Workshop};

/// A recipe of so many seeds.
fn with_seeds(shop: &Workshop, seeds: usize) {
    let seeds: Vec<String> = (0..seeds).map(|seed| seed.to_string()).collect();
    let grid = format!("[grid]\nseed = [{}]", seeds.join(", "));
    fs::write(shop.path("recipe.toml"), RECIPE.replace("[grid]", &grid)).unwrap();
}

/// The seconds of a text such as `12 s`, `0.3 s` or `3 min`.
fn seconds(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap();
    number.trim_start_matches('<').parse::<f64>().unwrap() * if unit == "min" { 60.0 } else { 1.0 }
}

#[test]
fn a_plan_of_many_cells_shows_the_first_of_each_kind_and_sums_up_the_rest() {
    let shop = Workshop::new(&Tiny::default());
    with_seeds(&shop, 14);
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    // Dense, two of magnitude, and for each of two methods two sparsities of two calibrations.
    assert!(plan.starts_with("tiny: 115 cells\n"), "{plan}");
    for line in ["wanda-0.5-general ", "wanda-0.5-other ", "sparsegpt-2:4-other ", "magnitude-2:4 "] {
        assert_eq!(plan.lines().filter(|found| found.starts_with(line)).count(), 1, "{line}: {plan}");
    }
    let summed = plan.lines().find(|line| line.starts_with("wanda-2:4-general")).unwrap();
    assert!(summed.contains("14 more cells, 42 stages") && summed.contains("  no "), "{summed}");
    assert!(plan.lines().count() < 45, "{plan}");

    with_seeds(&shop, 2500);
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.starts_with("tiny: 20003 cells\n"), "{plan}");
    let stages = |line: &str| -> Option<usize> {
        line.split(" more cell").nth(1)?.split(", ").nth(1)?.split(" stages").next()?.parse().ok()
    };
    let listed = plan.lines().filter(|line| line.contains("  no  ") && stages(line).is_none()).count();
    let all: usize = plan.lines().filter_map(stages).sum::<usize>() + listed;
    assert!(plan.contains(&format!("\n{all} stages to compute, ")), "{all}: {plan}");
}

#[test]
fn a_plan_says_what_a_study_takes_and_the_run_how_far_that_was_off() {
    let shop = Workshop::new(&Tiny::default());
    let first = "grid.method=[\"wanda\"]";
    let (plan, log) = shop.succeeds(&["plan", "recipe.toml", "--set", first]);
    assert!(log.is_empty(), "{log}");
    let said = |plan: &str, what: &str| -> Option<String> {
        plan.lines().find_map(|line| line.strip_prefix(what)).map(str::to_owned)
    };
    let time = said(&plan, "time: about ").unwrap_or_else(|| panic!("{plan}"));
    let (all, cell) = time.split_once(" on one device, a cell at most ").unwrap();
    assert!(seconds(all) >= seconds(cell), "{time}");
    assert!(said(&plan, "memory: at least ").is_some() && !plan.contains(" ? "), "{plan}");
    let noted = fs::read_to_string(shop.path("cache/rates.json")).unwrap();
    assert!(noted.contains("\"calibrate wanda\"") && !noted.contains("sparsegpt"), "{noted}");

    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--set", first]);
    assert!(log.contains("the cells took ") && log.contains(" s were expected ("), "{log}");
    let learnt = fs::read_to_string(shop.path("cache/rates.json")).unwrap();
    assert_ne!(learnt, noted, "a run refines what is remembered");
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml", "--set", first]);
    assert!(plan.contains("all of it is done") && said(&plan, "time: ").is_none(), "{plan}");
    // Nothing is expected of a run that has nothing to do.
    let (_, log) = shop.succeeds(&["run", "recipe.toml", "--set", first]);
    assert!(!log.contains("were expected"), "{log}");
    // A method that was not seen is measured; what was seen stays.
    shop.succeeds(&["plan", "recipe.toml"]);
    let all = fs::read_to_string(shop.path("cache/rates.json")).unwrap();
    assert!(all.contains("\"calibrate sparsegpt\"") && all.contains("\"calibrate wanda\""), "{all}");
}

#[test]
fn what_bench_measures_is_what_plans_reckon_with() {
    let shop = Workshop::new(&Tiny::default());
    shop.succeeds(&["bench", "recipe.toml", "--tokens", "256"]);
    let measured = fs::read_to_string(shop.path("cache/rates.json")).unwrap();
    let (plan, _) = shop.succeeds(&["plan", "recipe.toml"]);
    assert!(plan.contains("\ntime: about "), "{plan}");
    assert_eq!(fs::read_to_string(shop.path("cache/rates.json")).unwrap(), measured, "nothing is measured again");
    // Of a cache that nothing can be written to, or damaged notes, plans are as good.
    fs::write(shop.path("cache/rates.json"), "{").unwrap();
    assert!(shop.succeeds(&["plan", "recipe.toml"]).0.contains("\ntime: about "));
}
