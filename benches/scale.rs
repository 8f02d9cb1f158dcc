//! What ten thousand cells cost beside their computation: `benches/scale.sh` calls `cargo bench --bench scale -- CELLS FOLDER`.
//!
//! The worker is a fake: what a cell comes to is drawn from a seeded generator and put into the cache as though it had been
//! computed. What follows is what `calipr run` does after each cell: tables, run.json, room in the cache. FOLDER is made anew.
//! Prints a JSON line.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calipr::cli::{Told, settle};
use calipr::internals::{
    Accounts, BlockMasks, Board, Cache, Cell, CellRecord, ErrorsRecord, Fetcher, Inputs, LayerRecord, Library, Limit,
    LimitBy, LinearMask, Machine, Manifest, MaskedLinear, Outcome, PrunedRecord, Results, Scores, ScoresRecord,
    Seconds, Size, Spent, Status, Study, SuiteRecord, Tenant, cells, plan,
};
use calipr::{Recipe, Screen, Unseen};
use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const SAMPLES: usize = 1000;
const POSITIONS: usize = 15;
const SEEDS: usize = 10;
const BLOCKS: usize = 2;
const HIDDEN: usize = 32;

#[global_allocator]
static ALLOCATOR: Told = Told;

fn main() -> Result<()> {
    settle();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [wanted, folder] = arguments.as_slice() else {
        // As `cargo bench` calls all of them.
        println!("scale: expected CELLS and FOLDER");
        return Ok(());
    };
    let (wanted, folder): (usize, &Path) = (wanted.parse().context("CELLS is a number")?, Path::new(folder));
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    write_model(&folder.join("model"))?;
    write_rows(folder)?;
    fs::write(folder.join("recipe.toml"), recipe(wanted))?;
    std::env::set_current_dir(folder)?;
    let measured = run(Path::new("recipe.toml"))?;
    println!("{measured}");
    Ok(())
}

/// Runs the study with the fake worker.
fn run(path: &Path) -> Result<serde_json::Value> {
    let (recipe, layers) = Recipe::load(path, &[]).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let (cache, library) = (Cache::in_dir(Path::new("cache")), Library::of_recipe(path));
    let fetcher = Fetcher { cache: "cache".into(), offline: true };
    let inputs = Inputs::resolve(&recipe, &layers, &library, &fetcher, "cpu")?;
    let study = Study::open(&recipe, &inputs, &cache, Device::Cpu, &Unseen)?;
    let out = Path::new("results");
    let (results, all) = (Results::create(out)?, cells(&recipe));
    let manifest = Manifest::new(&recipe, path, &library, &study, &[Device::Cpu], out)?;
    results.begin(&manifest, false)?;
    let limit = Limit { size: Size(u64::MAX), by: LimitBy::Argument };
    let mut tenant = Tenant::new(&cache, &limit);
    tenant.enters(&study, &all, &vec![false; all.len()], Some(out))?;

    let (started, mut spent, mut slowest) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let finished = all.iter().map(|_| None).collect();
    let screen: &dyn Screen = &Unseen;
    let machine = Machine::here(&Device::Cpu, recipe.model.dtype.into());
    let accounts = Accounts::open(&plan(&recipe, Some(&inputs), &cache), &cache, machine, inputs.spec.hidden);
    let (study_of, is_written) = (&study, false);
    let mut board =
        Board { study: study_of, results, manifest, started, screen, tenant, accounts, finished, is_written };
    for (i, cell) in all.iter().enumerate() {
        let outcome = fake(&study, cell, i)?;
        let began = Instant::now();
        board.add(i, outcome)?;
        spent += began.elapsed();
        slowest = slowest.max(began.elapsed());
    }
    let began = Instant::now();
    board.finish()?;
    let last = began.elapsed();
    spent += last;
    let peak = calipr::internals::peak_bytes().unwrap_or(0);
    Ok(json!({
        "cells": all.len(),
        "milliseconds a cell": spent.as_secs_f64() * 1e3 / all.len() as f64,
        "slowest cell, s": slowest.as_secs_f64(),
        "last writing, s": last.as_secs_f64(),
        "peak GB": peak as f64 / 1e9,
        "seconds in all": started.elapsed().as_secs_f64(),
    }))
}

/// What a cell comes to: nearer to the dense model the less is pruned, by some methods and calibrations more than by others.
fn fake(study: &Study, cell: &Cell, number: usize) -> Result<Outcome> {
    let cache = study.cache();
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    let (method, sparsity) = (cell.setting().method(), cell.setting().ratio().unwrap_or(0.0));
    let name = cell.drawn().map_or(0, |drawn| drawn.name.bytes().map(usize::from).sum::<usize>() % 7);
    let by_method = if method == "sparsegpt" { 0.7 } else { 1.0 };
    let damage = sparsity * by_method * (1.0 + 0.02 * name as f64 + 0.01 * rng.random_range(-1.0..1.0));
    let mut of_samples = ChaCha8Rng::seed_from_u64(u64::MAX);
    let sample = |_| {
        let (hard, noise) = (of_samples.random_range(2.0..4.0), rng.random_range(-0.05..0.05));
        let js = if sparsity == 0.0 { 0.0 } else { damage * (0.2 + 0.1 * rng.random_range(0.0..1.0)) };
        let n = POSITIONS as f64;
        Scores {
            positions: n,
            loss: n * (hard + damage + noise),
            js: n * js,
            kl: n * 3.0 * js,
            agreement: (n * (1.0 - 0.5 * damage * rng.random_range(0.0..1.0))).round(),
        }
    };
    let scores = ScoresRecord { samples: (0..SAMPLES).map(sample).collect(), choices: vec![], greedy: vec![] };
    cache.write_json(study.keys().of_cell(cell).scores("windows"), &scores)?;
    let mut pruned = PrunedRecord::default();
    let mut errors = ErrorsRecord::default();
    for (index, block) in study.model().spec.blocks.iter().enumerate() {
        let mut masks = BlockMasks { linears: vec![] };
        for linear in &block.linears {
            let weights = linear.parameters();
            pruned.layers.push(LayerRecord {
                block: index,
                linear: linear.name.to_string(),
                rows: linear.rows,
                columns: linear.columns,
                sparsity,
                damping: None,
                routed: None,
                skipped: false,
                seconds: rng.random_range(0.0..1.0),
            });
            pruned.weights += weights as u64;
            pruned.zeros += (sparsity * weights as f64) as u64;
            errors.relative.push(Some(damage * rng.random_range(0.9..1.1)));
            let about =
                MaskedLinear { linear: linear.name.to_string(), weights: weights as u64, compared: weights as u64 };
            let mut bits = vec![0; weights.div_ceil(8)];
            rng.fill_bytes(&mut bits);
            masks.linears.push(LinearMask { about, bits });
        }
        if cell.pruning().is_some() {
            masks.write(cache, study.masks_key(cell, index))?;
        }
    }
    if let Some(key) = study.keys().of_cell(cell).errors() {
        cache.write_json(key, &errors)?;
    }
    cache.write_json(study.keys().of_cell(cell).pruned(), &pruned)?;
    let spent = Spent {
        seconds: Seconds { prune: rng.random_range(1.0..2.0), ..Seconds::default() },
        device: "cpu".into(),
        ..Spent::default()
    };
    let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned), errors: Some(errors) };
    let suite = SuiteRecord { scores: Some(scores), ..SuiteRecord::default() };
    Ok(Outcome { record, suites: IndexMap::from([("windows".to_owned(), suite)]), spent: Some(spent) })
}

/// A grid of about so many cells: two methods that are calibrated, with ten seeds each, and one that is not.
fn recipe(cells: usize) -> String {
    let settings = (cells / (2 * SEEDS)).max(1);
    // A quarter more sparsities than calibrations.
    let sparsities = ((settings as f64 * 1.25).sqrt().round() as usize).max(1);
    let calibrations = (settings / sparsities).max(1);
    let mut toml = String::from("name = \"scale\"\n\n[model]\nsource = \"path:model\"\n");
    for i in 0..calibrations {
        toml +=
            &format!("\n[calibration.set{i:02}]\ndataset = \"path:rows.jsonl\"\nwindows = {}\nlength = 16\n", 4 + i);
    }
    let ratios: Vec<String> =
        (0..sparsities).map(|i| format!("{:.3}", 0.3 + 0.6 * i as f64 / sparsities as f64)).collect();
    let seeds: Vec<String> = (0..SEEDS).map(|seed| seed.to_string()).collect();
    toml + &format!(
        "\n[grid]\nmethod = [\"magnitude\", \"wanda\", \"sparsegpt\"]\nsparsity = [{}]\nseed = [{}]\n\n\
             [suite.windows]\ndataset = \"path:rows.jsonl\"\nwindows = {SAMPLES}\nlength = {}\n\
             metrics = [\"loss\", \"perplexity\", \"js_divergence\", \"kl_divergence\", \"top1_agreement\"]\n",
        ratios.join(", "),
        seeds.join(", "),
        POSITIONS + 1
    )
}

fn write_rows(folder: &Path) -> Result<()> {
    let row =
        |i: usize| json!({"text": format!("row {i} says {} and {}", i * 17, "word ".repeat(i % 7))}).to_string() + "\n";
    Ok(fs::write(folder.join("rows.jsonl"), (0..1000).map(row).collect::<String>())?)
}

/// A model that is as small as models can be, with a token for every byte.
fn write_model(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true, "rope_theta": 10000.0,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    // The printable stand-ins that GPT-2 gives to bytes.
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut spare = 256;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..256u32 {
        let code = if plain(byte) { byte } else { spare };
        spare += u32::from(!plain(byte));
        vocabulary.insert(char::from_u32(code).context("a character")?.to_string(), json!(byte));
    }
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "pre_tokenizer": level,
        "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let mut tensors = std::collections::HashMap::new();
    let mut add = |name: String, shape: &[usize]| -> Result<()> {
        tensors.insert(name, Tensor::ones(shape, DType::F32, &Device::Cpu)?);
        Ok(())
    };
    add("model.embed_tokens.weight".into(), &[256, HIDDEN])?;
    add("model.norm.weight".into(), &[HIDDEN])?;
    for block in 0..BLOCKS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{block}.{norm}.weight"), &[HIDDEN])?;
        }
        for linear in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
            add(format!("model.layers.{block}.{linear}_proj.weight"), &[HIDDEN, HIDDEN])?;
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors"))?;
    ensure!(folder.join("model.safetensors").is_file(), "the model was not written");
    Ok(())
}
