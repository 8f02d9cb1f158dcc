//! Tiny models of every architecture against transformers: logits, loss, greedy text, and the loss after pruning.
//! The figures and the formula of the weights are of tests/scripts/architectures.py.

mod common;

use calipr::internals::{Block, Generator, Sampling};
use common::architectures::{GgufFixture, compare, each, fixtures, ids, loss_of, open};
use common::{Tiny, Workshop, read_table};
use rayon::prelude::*;
use serde_json::{Value, json};

#[test]
fn logits_are_those_of_transformers() {
    each(|_, fixture, dir| compare(&open(dir)?, fixture.loss, &fixture.positions, &fixture.logits));
}

#[test]
fn what_llama_cpps_converter_makes_of_a_model_is_the_model() {
    let fixtures = fixtures::<GgufFixture>("tests/fixtures/architectures_gguf");
    assert!(fixtures.len() > 30);
    let check = |fixture: &GgufFixture| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fixture.write(&path);
        compare(&open(&path)?, fixture.loss, &fixture.positions, &fixture.logits)
    };
    let wrong = fixtures.par_iter().filter_map(|(name, f)| check(f).err().map(|error| format!("{name}: {error}")));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn greedy_text_is_that_of_transformers_token_for_token() {
    each(|_, fixture, dir| {
        let model = open(dir)?;
        let blocks: Vec<Block> = (0..model.spec.blocks.len()).map(|i| model.block(i).unwrap()).collect();
        let embedding = model.embedding().unwrap();
        let (head, ropes) = (model.head(&embedding).unwrap(), model.ropes(64).unwrap());
        let generator = Generator { blocks: &blocks, embedding: &embedding, head: &head, ropes: &ropes };
        let sampling = Sampling {
            max_new_tokens: fixture.greedy.len(),
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            end: vec![],
        };
        let prompt = ids(0..20, fixture.vocabulary());
        let made = generator.generate(&[&prompt], &sampling, u64::MAX, &|_, _| false, |_| Ok(())).unwrap();
        match made.ids[0] == fixture.greedy {
            true => Ok(()),
            false => Err(format!("{:?}, expected {:?} (closest {})", made.ids[0], fixture.greedy, fixture.closest)),
        }
    });
}

const RECIPE: &str = r#"
name = "tiny"
[model]
source = "path:model"
[calibration.ids]
dataset = "path:calibration.jsonl"
windows = 4
length = 64
packing = "single"
[prune]
schedule = "block"
[grid]
method = ["magnitude", "wanda"]
sparsity = [0.5]
[suite.ids]
dataset = "path:test.jsonl"
windows = 1
length = 300
packing = "single"
metrics = ["loss"]
"#;

#[test]
fn pruned_models_have_the_loss_that_the_published_code_leaves_them() {
    let shop = Workshop::new(&Tiny::default());
    each(|name, fixture, dir| {
        let here = shop.path(name);
        std::fs::create_dir_all(&here).unwrap();
        std::fs::rename(dir, here.join("model")).unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::copy(shop.path("model/tokenizer.json"), here.join("model/tokenizer.json")).unwrap();
        let row = |range| json!({"input_ids": ids(range, fixture.vocabulary())}).to_string() + "\n";
        let calibration: String = (0..4).map(|w| row(64 * w..64 * (w + 1))).collect();
        std::fs::write(here.join("calibration.jsonl"), calibration).unwrap();
        std::fs::write(here.join("test.jsonl"), row(0..300)).unwrap();
        std::fs::write(here.join("recipe.toml"), RECIPE).unwrap();
        let output = shop.command(&["run", "recipe.toml"]).current_dir(&here).output().unwrap();
        if !output.status.success() {
            return Err(common::texts(&output).1);
        }
        check_routed(&read_table(&here.join("results/tiny/layers.parquet")), &common::texts(&output).1)?;
        let metrics = read_table(&here.join("results/tiny/metrics.parquet"));
        let loss = |method: &str| {
            let row = metrics.iter().find(|row| row["method"] == method && row["metric"] == "loss").unwrap();
            row["value"].as_f64().unwrap()
        };
        let expected = fixture.pruned.iter().map(|(method, loss)| (method.as_str(), *loss));
        for (method, expected) in expected.chain([("dense", fixture.loss)]) {
            let ours = loss(method);
            if (ours / expected - 1.0).abs() > 2e-5 {
                return Err(format!("{method}: {ours}, expected {expected}"));
            }
        }
        for method in ["magnitude-0.5", "wanda-0.5-ids"] {
            let exported = here.join(method);
            let arguments = ["export", "results/tiny", method, "--to", method];
            let output = shop.command(&arguments).current_dir(&here).output().unwrap();
            if !output.status.success() {
                return Err(common::texts(&output).1);
            }
            let ids = ids(0..300, fixture.vocabulary());
            let logits = open(&exported)?.logits(&ids, std::slice::from_ref(&(0..300))).unwrap();
            let ours = loss_of(&logits.to_vec2::<f32>().unwrap(), &ids);
            let expected = loss(method.split('-').next().unwrap());
            if (ours / expected - 1.0).abs() > 1e-5 {
                return Err(format!("{method}, exported: {ours}, expected {expected}"));
            }
        }
        Ok(())
    });
}

/// Whether the tokens that each expert saw are in the table, and a warning says how many experts saw too few.
fn check_routed(layers: &[Value], log: &str) -> Result<(), String> {
    let of_experts = |row: &&Value| row["linear"].as_str().unwrap().starts_with("experts.");
    let wanda = |row: &&Value| row["method"] == "wanda";
    let routed = |row: &Value| row["routed_tokens"].as_u64();
    if let Some(row) = layers.iter().find(|row| routed(row).is_some() != (of_experts(row) && wanda(row))) {
        return Err(format!("{row}"));
    }
    let downs: Vec<u64> =
        layers.iter().filter(|row| row["linear"].as_str().unwrap().ends_with(".down")).filter_map(routed).collect();
    let idle = downs.iter().filter(|&&routed| routed < 32).count();
    let says = format!("{idle} of {} experts were routed fewer than 32 calibration tokens", downs.len());
    match log.contains(&says) == (idle > 0) {
        true => Ok(()),
        false => Err(format!("{says}, but the log has: {log}")),
    }
}

/// README's list is the registry's, whatever its lines.
#[test]
fn readme_lists_the_models_that_there_are() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let readme = words(&std::fs::read_to_string("README.md").unwrap());
    let models = calipr::internals::models();
    assert!(readme.contains(&words(&models)), "README.md should have:\n{models}");
}

/// The guide's example is a file that there is.
#[test]
fn the_guide_shows_a_file_as_it_is() {
    let guide = std::fs::read_to_string("docs/add-architecture.md").unwrap();
    let (_, rest) = guide.split_once("```rust\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    assert_eq!(shown, std::fs::read_to_string("src/model/arch/olmo.rs").unwrap());
}
