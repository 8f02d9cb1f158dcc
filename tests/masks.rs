//! Which weights calibrations, seeds and methods keep: `masks.parquet`, against the models that the cells become.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs;

use common::{Tiny, Workshop, read_table};
use serde_json::Value;

/// Two calibrations by two seeds, and methods that look at them and do not.
fn shop(model: &Tiny) -> Workshop {
    let shop = Workshop::new(model);
    let recipe = common::RECIPE.replace("sparsity = [0.5, \"2:4\"]", "sparsity = [0.6, \"2:4\"]\nseed = [0, 1]");
    fs::write(shop.path("recipe.toml"), recipe).unwrap();
    shop
}

fn masks(shop: &Workshop, results: &str) -> Vec<Value> {
    read_table(&shop.path(results).join("masks.parquet"))
}

fn text<'a>(row: &'a Value, column: &str) -> &'a str {
    row[column].as_str().unwrap_or_else(|| panic!("{column}: {row}"))
}

fn real(row: &Value, column: &str) -> f64 {
    row[column].as_f64().unwrap_or_else(|| panic!("{column}: {row}"))
}

/// Of each weight of a cell's exported model, whether it is left, by the name that Hugging Face has for it.
fn left(shop: &Workshop, cell: &str) -> HashMap<String, Vec<bool>> {
    let to = format!("models/{cell}");
    shop.succeeds(&["export", "results/tiny", cell, "--to", &to]);
    let tensors = candle_core::safetensors::load(shop.path(&to).join("model.safetensors"), &candle_core::Device::Cpu);
    let is_left = |values: Vec<f32>| values.into_iter().map(|x| x != 0.0).collect();
    let of = |(name, tensor): (String, candle_core::Tensor)| {
        (name, is_left(tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()))
    };
    tensors.unwrap().into_iter().map(of).collect()
}

fn name_of(row: &Value) -> String {
    let linear = text(row, "linear");
    let part = if ["q", "k", "v", "o"].contains(&linear) { "self_attn" } else { "mlp" };
    format!("model.layers.{}.{part}.{linear}_proj.weight", row["block"])
}

/// The pairs of cells that a row is of.
fn pairs(row: &Value) -> Vec<[String; 2]> {
    let cells = |column: &str| -> Vec<String> {
        let setting = text(row, column);
        let is_calibrated = row[if column == "setting" { "calibration" } else { "other_calibration" }].is_string();
        if is_calibrated { [0, 1].map(|s| format!("{setting}-s{s}")).to_vec() } else { vec![setting.to_owned()] }
    };
    let (a, b) = (cells("setting"), cells("other"));
    let seed = |cell: &str| cell.rsplit_once("-s").map(|(_, seed)| seed.to_owned());
    let all = a.iter().enumerate().flat_map(|(i, x)| b.iter().enumerate().map(move |(j, y)| (i, j, x, y)));
    let belong = all.filter(|(i, j, x, y)| match text(row, "axis") {
        "calibration" => true,
        "seed" => i < j,
        "method" => seed(x).is_none() || seed(y).is_none() || seed(x) == seed(y),
        other => panic!("{other}"),
    });
    belong.map(|(.., x, y)| [x.clone(), y.clone()]).collect()
}

/// Share of kept weights that both keep, and the share that is expected by chance, weight by weight and in plain loops: the
/// mean over pairs.
fn by_hand(row: &Value, models: &HashMap<String, HashMap<String, Vec<bool>>>) -> [f64; 2] {
    let name = name_of(row);
    let (mut kept, mut both, mut chance) = (0.0, 0.0, 0.0);
    for [a, b] in pairs(row) {
        let (a, b) = (&models[&a][&name], &models[&b][&name]);
        let count = |mask: &[bool]| mask.iter().filter(|left| **left).count() as f64;
        kept += (count(a) + count(b)) / 2.0;
        both += a.iter().zip(b).filter(|(a, b)| **a && **b).count() as f64;
        chance += count(a) * count(b) / a.len() as f64;
    }
    [both / kept, chance / kept]
}

#[test]
fn overlaps_are_those_of_the_exported_models() {
    let shop = shop(&Tiny::default());
    shop.succeeds(&["run", "recipe.toml"]);
    let rows = masks(&shop, "results/tiny");
    let cells = read_table(&shop.path("results/tiny/cells.parquet"));
    let cells = cells.iter().map(|row| text(row, "cell")).filter(|cell| *cell != "dense");
    let models: HashMap<_, _> = cells.map(|cell| (cell.to_owned(), left(&shop, cell))).collect();
    assert_eq!(models.len(), 2 * (1 + 4 + 4));
    // At each sparsity: a pair of calibrations and two settings of seeds for each calibrated method, and six of methods.
    let of = |axis: &str| rows.iter().filter(|row| text(row, "axis") == axis).collect::<Vec<_>>();
    assert_eq!(["calibration", "seed", "method"].map(|axis| of(axis).len() / 21), [2 * 2, 2 * 4, 2 * 6]);
    assert!(of("calibration").iter().all(|row| row["pairs"] == 4), "every seed of one beside every seed of the other");
    assert!(of("seed").iter().all(|row| row["pairs"] == 1 && row["setting"] == row["other"]));
    assert!(of("method").iter().all(|row| row["pairs"] == 2));
    for row in &rows {
        assert_eq!(row["weights"], row["compared"], "so small a matrix is compared whole");
        let expected = by_hand(row, &models);
        let found = ["overlap", "chance"].map(|column| real(row, column));
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{row}: {expected:?}");
        if row["pattern"] == "2:4" {
            assert!((found[1] - 0.5).abs() < 1e-9, "{row}");
        }
        assert!(found[0] > found[1] && found[0] <= 1.0, "{row}");
    }
}

#[test]
fn a_large_matrix_is_compared_by_a_sample_that_tells_its_overlap() {
    let model = Tiny { hidden: 320, feed_forward: 400, blocks: 1, ..Tiny::default() };
    let shop = shop(&model);
    shop.succeeds(&["run", "recipe.toml", "--set", "grid.method=[\"wanda\"]", "--set", "grid.sparsity=[0.6, \"2:4\"]"]);
    let rows = masks(&shop, "results/tiny");
    let cells: BTreeSet<String> = rows.iter().flat_map(pairs).flatten().collect();
    let models: HashMap<_, _> = cells.iter().map(|cell| (cell.clone(), left(&shop, cell))).collect();
    let mut sampled = 0;
    for row in &rows {
        let (weights, compared) = (row["weights"].as_u64().unwrap(), row["compared"].as_u64().unwrap());
        assert_eq!(compared, weights.min(1 << 16), "{row}");
        sampled += usize::from(compared < weights);
        let expected = by_hand(row, &models);
        // Four standard errors, 0.6 of which lie between the whole and so large a part of it.
        let found = ["overlap", "chance"].map(|column| real(row, column));
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.008), "{row}: {expected:?}");
    }
    assert_eq!(sampled, 2 * 3 * 5, "q, o, gate, up and down are larger");
}

#[test]
fn the_table_is_the_same_whatever_computes_it_and_whatever_has_left_the_cache() {
    let shop = shop(&Tiny::default());
    let run = |more: &[&str]| shop.succeeds(&[&["run", "recipe.toml"], more].concat()).1;
    run(&["--threads", "1"]);
    let bytes = |results: &str| fs::read(shop.path(results).join("masks.parquet")).unwrap();
    let expected = bytes("results/tiny");
    // Masks that no entry has are those of the blocks, where these are there.
    fs::remove_dir_all(shop.path("cache/masks")).unwrap();
    run(&[]);
    assert!(expected == bytes("results/tiny") && shop.path("cache/masks").is_dir());
    // They stay when the blocks make room, and what is finished stays finished without them.
    fs::remove_dir_all(shop.path("cache")).unwrap();
    run(&["--threads", "2", "--cache-size", "1 kB", "--out", "bounded"]);
    assert!(expected == bytes("bounded") && fs::read_dir(shop.path("cache/blocks")).unwrap().next().is_none());
    run(&["--out", "again"]);
    assert!(expected == bytes("again"));
    fs::remove_dir_all(shop.path("cache/masks")).unwrap();
    let log = run(&["--out", "without"]);
    assert_eq!(log.matches("finished before").count(), 19, "{log}");
    // At each sparsity 2·4 of calibrations, 4·1 of seeds, and 2·2 and 2·4 of methods.
    let said = "masks.parquet lacks 48 of 48 pairs of cells: which weights wanda-0.6-general-s0, for one, keeps";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert_eq!(masks(&shop, "without"), Vec::<Value>::new());
    // Of a study that goes on, the new cells have rows.
    let wanda = ["--set", "grid.method=[\"wanda\"]", "--set", "grid.sparsity=[0.6]", "--set", "grid.seed=[0, 1, 2]"];
    run(&[&wanda[..], &["--out", "more"]].concat());
    let rows = masks(&shop, "more");
    assert!(
        rows.len() == 21 && rows.iter().all(|row| text(row, "axis") == "calibration" && row["pairs"] == 1),
        "{rows:?}"
    );
}

#[test]
fn what_stays_dense_or_has_nothing_beside_it_has_no_rows() {
    let shop = shop(&Tiny::default());
    let wanda = ["run", "recipe.toml", "--set", "grid.method=[\"wanda\"]", "--set", "grid.sparsity=[0.6]"];
    let alone = ["--set", "grid.calibration=[\"general\"]", "--set", "grid.seed=[0]", "--out", "alone"];
    let (printed, _) = shop.succeeds(&[&wanda[..], &alone].concat());
    assert_eq!(masks(&shop, "alone"), Vec::<Value>::new());
    assert!(!printed.contains("chance"), "{printed}");
    let skipping = ["--set", "prune.skip=[\"*.q\", \"block.1\"]", "--out", "skipping"];
    shop.succeeds(&[&wanda[..], &skipping].concat());
    let rows = masks(&shop, "skipping");
    assert_eq!(rows.len(), 3 * 2 * 6);
    assert!(rows.iter().all(|row| row["block"] != 1 && text(row, "linear") != "q"));
}
