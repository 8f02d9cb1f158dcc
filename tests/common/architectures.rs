//! Tiny models of every architecture, whose weights a formula gives (tests/scripts/architectures.py), with transformers'
//! figures; and what llama.cpp's converter makes of them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use calipr::internals::{Model, ModelFiles};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file of tests/fixtures/architectures.
#[derive(Deserialize)]
pub struct Fixture {
    pub config: Value,
    pub tensors: BTreeMap<String, Vec<usize>>,
    pub loss: f64,
    pub positions: Vec<usize>,
    pub logits: Vec<Vec<f64>>,
    pub greedy: Vec<u32>,
    /// The least by which the most likely token of greedy text was more likely than the next.
    pub closest: f64,
    pub pruned: BTreeMap<String, f64>,
}

pub fn fixtures<T: DeserializeOwned>(folder: &str) -> Vec<(String, T)> {
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
pub fn values(name: &str, shape: &[usize]) -> Tensor {
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

pub fn ids(range: std::ops::Range<usize>, vocabulary: usize) -> Vec<u32> {
    range.map(|i| ((i * 7919 + 13 + i * i % 31) % vocabulary) as u32).collect()
}

impl Fixture {
    /// Writes config and weights.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        let tensors: HashMap<String, Tensor> =
            self.tensors.iter().map(|(name, shape)| (name.clone(), values(name, shape))).collect();
        candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    }

    pub fn vocabulary(&self) -> usize {
        self.logits[0].len()
    }
}

/// The mean loss of predicting each token from those before it.
pub fn loss_of(logits: &[Vec<f32>], ids: &[u32]) -> f64 {
    let of = |(logits, id): (&Vec<f32>, &u32)| {
        let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[*id as usize]
    };
    logits.iter().zip(&ids[1..]).map(of).sum::<f64>() / (ids.len() - 1) as f64
}

/// What is wrong, of all fixtures at once.
pub fn each(check: impl Fn(&str, &Fixture, &Path) -> Result<(), String> + Sync) {
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

pub fn open(dir: &Path) -> Result<Model, String> {
    let model = ModelFiles::at(dir).and_then(|files| Model::open(&files, DType::F32, Device::Cpu));
    model.map_err(|error| format!("{error:#}"))
}

/// Whether a model has this loss, and these logits at these positions.
pub fn compare(model: &Model, expected: f64, positions: &[usize], expected_logits: &[Vec<f64>]) -> Result<(), String> {
    let ids = ids(0..300, expected_logits[0].len());
    let logits = model.logits(&ids, std::slice::from_ref(&(0..300))).map_err(|error| format!("{error:#}"))?;
    let logits = logits.to_vec2::<f32>().unwrap();
    let loss = loss_of(&logits, &ids);
    let rows = positions.iter().zip(expected_logits).flat_map(|(&at, row)| logits[at].iter().zip(row));
    let furthest = rows.map(|(ours, theirs)| (f64::from(*ours) - theirs).abs()).fold(0.0, f64::max);
    match (loss / expected - 1.0).abs() < 2e-6 && furthest < 2e-4 {
        true => Ok(()),
        false => Err(format!("loss {loss}, expected {expected}; logits up to {furthest} apart")),
    }
}

/// A file of tests/fixtures/architectures_gguf: what llama.cpp's converter makes of a model.
#[derive(Deserialize)]
pub struct GgufFixture {
    /// By key: the type, and the value.
    pub metadata: BTreeMap<String, (Value, Value)>,
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// Tensors that are made of the config, not of weights.
    pub factors: BTreeMap<String, Vec<f32>>,
    pub loss: f64,
    pub positions: Vec<usize>,
    pub logits: Vec<Vec<f64>>,
}

impl GgufFixture {
    pub fn write(&self, path: &Path) {
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
