//! Tiny models of every architecture against transformers: logits, loss, greedy text, and the loss after pruning.
//! The figures and the formula of the weights are of tests/scripts/architectures.py.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use calipr::model::{Block, Generator, Model, ModelFiles, Sampling};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use common::{Tiny, Workshop, read_table};
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A file of tests/fixtures/architectures.
#[derive(Deserialize)]
struct Fixture {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    loss: f64,
    positions: Vec<usize>,
    logits: Vec<Vec<f64>>,
    greedy: Vec<u32>,
    /// The least by which the most likely token of greedy text was more likely than the next.
    closest: f64,
    pruned: BTreeMap<String, f64>,
}

fn fixtures<T: DeserializeOwned>(folder: &str) -> Vec<(String, T)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut fixtures: Vec<_> = files
        .map(|path| {
            let fixture = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fixture)
        })
        .collect();
    fixtures.sort_by(|(a, _), (b, _)| a.cmp(b));
    fixtures
}

/// The formula of the script.
fn values(name: &str, shape: &[usize]) -> Tensor {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let value = |i: usize| {
        let mut z = hash.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let u = (z >> 40) as f32 / (1 << 24) as f32 - 0.5;
        match shape {
            [_] if name.ends_with("weight") => 1.0 + u / 2.0,
            [_] => u / 2.0,
            _ => u * 0.6,
        }
    };
    let count = shape.iter().product();
    Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

fn ids(range: std::ops::Range<usize>, vocabulary: usize) -> Vec<u32> {
    range.map(|i| ((i * 7919 + 13 + i * i % 31) % vocabulary) as u32).collect()
}

impl Fixture {
    /// Writes config and weights.
    fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        let tensors: HashMap<String, Tensor> =
            self.tensors.iter().map(|(name, shape)| (name.clone(), values(name, shape))).collect();
        candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    }

    fn vocabulary(&self) -> usize {
        self.logits[0].len()
    }
}

/// The mean loss of predicting each token from those before it.
fn loss(logits: &[Vec<f32>], ids: &[u32]) -> f64 {
    let of = |(logits, id): (&Vec<f32>, &u32)| {
        let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[*id as usize]
    };
    logits.iter().zip(&ids[1..]).map(of).sum::<f64>() / (ids.len() - 1) as f64
}

/// What is wrong, of all fixtures at once.
fn each(check: impl Fn(&str, &Fixture, &Path) -> Result<(), String> + Sync) {
    let wrong: Vec<String> = fixtures::<Fixture>("tests/fixtures/architectures")
        .par_iter()
        .filter_map(|(name, fixture)| {
            let dir = tempfile::tempdir().unwrap();
            fixture.write(dir.path());
            check(name, fixture, dir.path()).err().map(|error| format!("{name}: {error}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn open(dir: &Path) -> Result<Model, String> {
    let model = ModelFiles::at(dir).and_then(|files| Model::open(&files, DType::F32, Device::Cpu));
    model.map_err(|error| format!("{error:#}"))
}

#[test]
fn logits_are_those_of_transformers() {
    each(|_, fixture, dir| compare(&open(dir)?, fixture.loss, &fixture.positions, &fixture.logits));
}

/// Whether a model has this loss, and these logits at these positions.
fn compare(model: &Model, expected: f64, positions: &[usize], expected_logits: &[Vec<f64>]) -> Result<(), String> {
    let ids = ids(0..300, expected_logits[0].len());
    let logits = model.logits(&ids, std::slice::from_ref(&(0..300))).map_err(|error| format!("{error:#}"))?;
    let logits = logits.to_vec2::<f32>().unwrap();
    let loss = loss(&logits, &ids);
    let rows = positions.iter().zip(expected_logits).flat_map(|(&at, row)| logits[at].iter().zip(row));
    let furthest = rows.map(|(ours, theirs)| (f64::from(*ours) - theirs).abs()).fold(0.0, f64::max);
    match (loss / expected - 1.0).abs() < 2e-6 && furthest < 2e-4 {
        true => Ok(()),
        false => Err(format!("loss {loss}, expected {expected}; logits up to {furthest} apart")),
    }
}

/// A file of tests/fixtures/architectures_gguf: what llama.cpp's converter makes of a model.
#[derive(Deserialize)]
struct GgufFixture {
    /// By key: the type, and the value.
    metadata: BTreeMap<String, (Value, Value)>,
    tensors: BTreeMap<String, Vec<usize>>,
    /// Tensors that are made of the config, not of weights.
    factors: BTreeMap<String, Vec<f32>>,
    loss: f64,
    positions: Vec<usize>,
    logits: Vec<Vec<f64>>,
}

impl GgufFixture {
    fn write(&self, path: &Path) {
        let tensor = |(name, shape): (&String, &Vec<usize>)| {
            let values = match self.factors.get(name) {
                Some(factors) => Tensor::new(factors.as_slice(), &Device::Cpu).unwrap(),
                None => values(name, shape),
            };
            (name.clone(), QTensor::quantize(&values, GgmlDType::F32).unwrap())
        };
        let tensors: Vec<(String, QTensor)> = self.tensors.iter().map(tensor).collect();
        let value = |kind: &str, value: &Value| match kind {
            "STRING" => gguf_file::Value::String(value.as_str().unwrap().to_owned()),
            "UINT32" => gguf_file::Value::U32(value.as_u64().unwrap() as u32),
            "INT32" => gguf_file::Value::I32(value.as_i64().unwrap() as i32),
            "FLOAT32" => gguf_file::Value::F32(value.as_f64().unwrap() as f32),
            "BOOL" => gguf_file::Value::Bool(value.as_bool().unwrap()),
            other => panic!("{other}"),
        };
        let metadata = self.metadata.iter().map(|(key, (kind, given))| {
            let value = match kind {
                Value::String(kind) => value(kind, given),
                kinds => {
                    let of = kinds[1].as_str().unwrap();
                    gguf_file::Value::Array(given.as_array().unwrap().iter().map(|one| value(of, one)).collect())
                }
            };
            (key.clone(), value)
        });
        let metadata: Vec<(String, gguf_file::Value)> = metadata.collect();
        let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
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
    let models = calipr::model::models();
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
