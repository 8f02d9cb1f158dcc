//! Our forward pass against candle-transformers' models on the same weights, and against the figures
//! that PyTorch gives for SmolLM2-135M-Instruct.

mod common;

use std::ops::Range;

use calipr::internals::{Conversation, Model, ModelFiles};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::{llama, qwen2};
use common::{Tiny, write_gguf};
use serde_json::{Value, json};

fn open(files: &ModelFiles) -> Model {
    Model::open(files, DType::F32, Device::Cpu).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn ids(n: usize, vocabulary: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 13) % vocabulary) as u32).collect()
}

const WINDOWS: [Range<usize>; 3] = [0..50, 50..51, 51..120];

/// Logits of every position by a model that returns those of the last one.
fn position_by_position(windows: &[Range<usize>], mut last: impl FnMut(Range<usize>) -> Tensor) -> Tensor {
    let ends = windows.iter().flat_map(|w| (w.start + 1..=w.end).map(move |end| w.start..end));
    let rows: Vec<Tensor> = ends.map(|prefix| last(prefix).flatten_all().unwrap()).collect();
    Tensor::stack(&rows, 0).unwrap()
}

#[test]
fn a_llama_computes_what_candles_llama_computes() {
    let llama3 = json!({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
    for tiny in [
        Tiny::default(),
        Tiny { tied: true, key_value_heads: 1, shards: 3, ..Tiny::default() },
        Tiny { rope: llama3, key_value_heads: 4, ..Tiny::default() },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let model = open(&tiny.files(dir.path()));
        let ids = ids(120, tiny.vocabulary);
        let ours = model.logits(&ids, &WINDOWS).unwrap();

        let config: llama::LlamaConfig = serde_json::from_value(tiny.config_json()).unwrap();
        let config = config.into_config(false);
        let weights = candle_nn::VarBuilder::from_tensors(tiny.tensors(), DType::F32, &Device::Cpu);
        let theirs = llama::Llama::load(weights, &config).unwrap();
        let theirs = position_by_position(&WINDOWS, |prefix| {
            let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
            theirs
                .forward(&Tensor::new(&ids[prefix], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), 0, &mut cache)
                .unwrap()
        });
        let difference = largest_difference(&ours, &theirs);
        assert!(difference < 2e-4, "{difference}");
    }
}

#[test]
fn biases_count_as_in_candles_qwen2() {
    let tiny = Tiny { model_type: "qwen2", ..Tiny::default() };
    let dir = tempfile::tempdir().unwrap();
    let model = open(&tiny.files(dir.path()));
    let ids = ids(120, tiny.vocabulary);
    let ours = model.logits(&ids, &WINDOWS).unwrap();

    let mut config = tiny.config_json();
    let more = json!({"sliding_window": 128, "max_window_layers": 3, "use_sliding_window": false});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: qwen2::Config = serde_json::from_value(config).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(tiny.tensors(), DType::F32, &Device::Cpu);
    let mut theirs = qwen2::ModelForCausalLM::new(&config, weights).unwrap();
    let theirs = position_by_position(&WINDOWS, |prefix| {
        theirs.clear_kv_cache();
        theirs.forward(&Tensor::new(&ids[prefix], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), 0).unwrap()
    });
    let difference = largest_difference(&ours, &theirs);
    assert!(difference < 2e-4, "{difference}");
}

#[test]
fn a_gguf_file_of_any_quantisation_is_the_model_it_was_made_from() {
    // K-quants have blocks of 256 columns.
    let tiny = Tiny { hidden: 256, feed_forward: 256, blocks: 1, ..Tiny::default() };
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(40, tiny.vocabulary);
    let windows = std::slice::from_ref(&(0..40));
    let exact = open(&tiny.files(&dir.path().join("hub"))).logits(&ids, windows).unwrap();
    let scale = exact.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    use GgmlDType::*;
    for (dtype, tolerance) in [
        (F32, 1e-5),
        (F16, 0.01),
        (BF16, 0.05),
        (Q8_0, 0.05),
        (Q6K, 0.2),
        (Q5_0, 0.4),
        (Q5_1, 0.4),
        (Q5K, 0.4),
        (Q4_0, 1.0),
        (Q4_1, 1.0),
        (Q4K, 1.0),
        (Q3K, 2.0),
        (Q2K, 3.0),
    ] {
        let path = dir.path().join(format!("{dtype:?}.gguf"));
        write_gguf(&tiny, dtype, &path);
        let logits = open(&ModelFiles::at(&path).unwrap()).logits(&ids, windows).unwrap();
        let rms = (&logits - &exact).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!(rms / scale < tolerance, "{dtype:?}: {}", rms / scale);
    }
}

#[test]
fn the_real_models_logits_are_pytorchs() {
    let fixture = candle_core::safetensors::load("tests/fixtures/dense_logits.safetensors", &Device::Cpu).unwrap();
    let ids: Vec<u32> = fixture["input_ids"].to_vec1().unwrap();
    let logits = open(common::real_model()).logits(&ids, std::slice::from_ref(&(0..ids.len()))).unwrap();
    let logits = logits.index_select(&fixture["positions"], 0).unwrap();
    let difference = largest_difference(&logits, &fixture["logits"]);
    assert!(difference < 2e-3, "{difference}");
}

#[test]
fn the_real_model_in_bf16_predicts_as_well_as_in_f32() {
    let texts = std::fs::read_to_string("tests/fixtures/general_evaluation.jsonl").unwrap();
    let row: Value = serde_json::from_str(texts.lines().next().unwrap()).unwrap();
    let ids: Vec<u32> = serde_json::from_value(row["input_ids"].clone()).unwrap();
    let perplexity = |dtype| {
        let model = Model::open(common::real_model(), dtype, Device::Cpu).unwrap();
        let logits = model.logits(&ids, std::slice::from_ref(&(0..ids.len()))).unwrap();
        let targets = Tensor::new(&ids[1..], &Device::Cpu).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits.narrow(0, 0, ids.len() - 1).unwrap(), &targets).unwrap();
        loss.to_scalar::<f32>().unwrap().exp()
    };
    let (full, brain) = (perplexity(DType::F32), perplexity(DType::BF16));
    assert!(full != brain && (brain / full - 1.0).abs() < 0.01, "{full} {brain}");
}

fn fixture(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("tests/fixtures/{name}")).unwrap()).unwrap()
}

#[test]
fn the_real_models_tokens_are_its_own() {
    let tokenizer = common::real_model().tokenizer().unwrap();
    for (name, case) in fixture("tokens.json").as_object().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(json!(ids), case["ids"], "{name}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}");
    }
}

#[test]
fn the_real_models_chat_template_comes_with_its_file() {
    let tokenizer = common::real_model().tokenizer().unwrap();
    let messages = vec![json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Hello"})];
    let text = tokenizer.chat(&Conversation { messages, ..Conversation::default() }, false).unwrap();
    assert!(text.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"), "{text}");
    // Special tokens of the template are one token each.
    assert!(tokenizer.encode("<|im_start|>", false).unwrap().len() == 1);
}

#[test]
fn the_real_models_greedy_text_is_pytorchs() {
    let files = common::real_model();
    let (model, tokenizer) = (open(files), files.tokenizer().unwrap());
    for case in fixture("greedy.json").as_array().unwrap() {
        let mut ids = tokenizer.encode(case["prompt"].as_str().unwrap(), false).unwrap();
        // Each position predicts the next, so one pass over prompt and answer checks every step.
        let answer: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let prompt = ids.len();
        ids.extend(&answer);
        let logits = model.logits(&ids, std::slice::from_ref(&(0..ids.len()))).unwrap();
        let best: Vec<u32> = logits.argmax(1).unwrap().to_vec1().unwrap();
        assert_eq!(best[prompt - 1..ids.len() - 1], answer, "{}", case["prompt"]);
    }
}
