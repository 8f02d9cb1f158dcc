//! How fast this machine's products are, and a study's stages beside them.

use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cache::{Cache, Stage};
use super::cost::Kind;
use super::ends::Ends;
use super::keys::Place;
use super::progress::Progress;
use super::stream::tokens_at_once;
use super::walk::{Pruner, Walk};
use super::{Watch, stop_if_interrupted, work};
use crate::data::Passage;
use crate::digest::Digest;
use crate::metrics::{Prediction, score_positions};
use crate::model::{Generator, Linear, Model, Sampling};
use crate::prune::StatisticKind;
use crate::recipe::{Recipe, Skip};
use crate::tensors;

/// What was done in how many seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub name: String,
    /// What kind of work it is, and how much of that.
    pub kind: Kind,
    pub amount: f64,
    /// Floating-point operations.
    pub work: f64,
    /// What its products are computed in.
    pub dtype: DType,
    pub seconds: f64,
}

impl Measured {
    /// Floating-point operations a second.
    pub fn rate(&self) -> f64 {
        self.work / self.seconds.max(1e-9)
    }
}

/// Blocks of the model that stages are measured on: they are alike.
const BLOCKS: usize = 4;

/// How many answers are decoded side by side, of so many tokens each, to prompts of so many.
const SEQUENCES: usize = 32;
const NEW_TOKENS: usize = 16;
const PROMPT: usize = 64;

/// The best rate of square products as models compute them, in operations a second: what nothing that is made of
/// products can exceed by much.
pub fn matmul_peak(device: &Device, dtype: DType) -> Result<f64> {
    let n = if device.is_cpu() { 2048 } else { 8192 };
    let random = |seed| Ok::<_, anyhow::Error>(Tensor::from_vec(noise(n * n, seed), (n, n), &Device::Cpu)?);
    let on_device = |t: Tensor, dtype| Ok::<_, anyhow::Error>(tensors::to_dtype(&t, dtype)?.to_device(device)?);
    let linear = Linear::new(on_device(random(1)?, dtype)?, None);
    // On the CPU inputs are f32, whatever the weight is.
    let x = on_device(random(2)?, if device.is_cpu() { DType::F32 } else { dtype })?;
    let mut best = f64::INFINITY;
    let started = Instant::now();
    // The first of them packs the weight.
    while started.elapsed().as_secs_f64() < 1.0 || best == f64::INFINITY {
        let product = Instant::now();
        linear.forward(&x)?;
        device.synchronize()?;
        best = best.min(product.elapsed().as_secs_f64());
    }
    Ok(2.0 * (n as f64).powi(3) / best)
}

/// The stages of a recipe's study on a few blocks of its model: each method with its calibration, the suites' way
/// through the blocks, scores, and answers. Text is random tokens, `windows` of `length`; nothing is kept.
pub fn stages(
    recipe: &Recipe,
    mut model: Model,
    (windows, length): (usize, usize),
    watch: &dyn Watch,
) -> Result<Vec<Measured>> {
    model.spec.blocks.truncate(BLOCKS);
    let spec = model.spec.clone();
    let skip = Skip::of(&spec, &[]).map_err(|_| anyhow!("a model without linears"))?;
    let folder = tempfile::tempdir().context("cannot make a folder for what stages cache")?;
    let cache = Cache::in_dir(folder.path());
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let passages: Vec<Passage> = (0..windows)
        .map(|_| (0..length).map(|_| random.random_range(0..spec.vocabulary as u32)).collect::<Vec<u32>>())
        .map(|ids| Passage::window(&ids))
        .collect();
    let tokens = windows * length;
    let ends = Ends::of(&model, length)?;
    let walk = |name: &str| Walk {
        model: &model,
        beside: None,
        ends: &ends,
        watch,
        pruner: None,
        calibration: None,
        suites: vec![],
        keep: false,
        errors_on: None,
        progress: Progress::of(&cache, Place { pruned: Stage::Pruned.key(&name), statistics: None }),
    };

    let dtype = model.computed_in();
    // What a study does once is done before its stages are timed: a device compiles its kernels when they are first needed, and
    // memory is touched for the first time by the first batch.
    let is_device = !model.device.is_cpu();
    let batch = &passages[..(tokens_at_once(&model.device) / length.max(1)).max(1).min(windows)];
    let warms_up = is_device || batch.len() < windows;
    let mut measured = Vec::new();
    let mut methods = recipe.grid.method.clone();
    methods.dedup();
    for of_method in methods {
        let (method, name) = (recipe.method.get(of_method), of_method.as_str());
        let kind = method.statistic();
        let Some(&sparsity) = recipe.grid.sparsity.first() else { continue };
        let pruner = || Some(Pruner { method, sparsity, spec: &recipe.prune, skip: &skip });
        let of = |passages| (kind != StatisticKind::None).then_some(passages);
        if warms_up {
            Walk { pruner: pruner(), calibration: of(batch), ..walk(&format!("first {name}")) }.run()?;
        }
        let calibration = of(passages.as_slice());
        let seconds = Walk { pruner: pruner(), calibration, ..walk(name) }.run()?.seconds;
        let way = match kind {
            StatisticKind::None => "reading weights",
            StatisticKind::ColumnNorms => "pass, norms of inputs",
            StatisticKind::Gram => "pass, Gram matrices",
        };
        let passing = calibration.map_or(0.0, |_| work::calibration(&spec, &recipe.prune, kind, tokens, length));
        let solving = work::solving(&spec, kind);
        let (pass, prune) = (format!("{name}: {way}"), format!("{name}: pruning to {sparsity}"));
        let weights = spec.linear_parameters() as f64;
        let (kind, amount) = match kind {
            StatisticKind::None => (Kind::Read, weights),
            _ => (Kind::Calibrate(of_method), passing),
        };
        measured.push(Measured { name: pass, kind, amount, work: passing, dtype, seconds: seconds.calibrate });
        // Factors and compensation are computed in f32, whatever the model is.
        let (kind, amount) = (Kind::Prune(of_method), if solving > 0.0 { solving } else { weights });
        let (work, dtype, seconds) = (solving, DType::F32, seconds.prune);
        measured.push(Measured { name: prune, kind, amount, work, dtype, seconds });
    }

    let suite = |passages| vec![(Digest::of(&"bench"), passages)];
    if warms_up {
        Walk { suites: suite(batch), ..walk("first dense") }.run()?;
    }
    let suites = suite(passages.as_slice());
    let walked = Walk { suites, keep: true, ..walk("dense") }.run()?;
    let (suite, blocks) = (walked.suites.into_iter().next().context("a suite went along")?, walked.blocks);
    let forward = work::forward(&spec, tokens, length);
    let (name, kind, work) = ("suites: pass".into(), Kind::Pass, forward);
    measured.push(Measured { name, kind, amount: work, work, dtype, seconds: suite.seconds });

    let head = ends.head(&model)?;
    let positions = tokens.min(4096);
    let states: Vec<Tensor> = suite.stream.hidden().map(|h| Ok(head.normed(h)?)).collect::<Result<_>>()?;
    let states = Tensor::cat(&states, 0)?.narrow(0, 0, positions)?;
    let predictions: Vec<Prediction> =
        (0..positions).map(|row| Prediction { sample: 0, id: row as u32 % spec.vocabulary as u32 }).collect();
    let score = |count: usize| {
        let states = states.narrow(0, 0, count)?;
        score_positions(&predictions[..count], 1, Some((&states, &head)), (&states, &head))
    };
    // Packs the head, as a study does once.
    score(if is_device { positions } else { 1 })?;
    let started = Instant::now();
    score(positions)?;
    let seconds = started.elapsed().as_secs_f64();
    let work = work::scoring(&spec, positions);
    let (name, kind) = ("suites: scores".into(), Kind::Score);
    measured.push(Measured { name, kind, amount: work, work, dtype, seconds });

    let (prompt, new) = ((length / 2).clamp(1, PROMPT), (length / 2).clamp(1, NEW_TOKENS));
    let prompts: Vec<&[u32]> = passages.iter().cycle().take(SEQUENCES).map(|p| &p.ids[..prompt]).collect();
    let sampling = Sampling {
        max_new_tokens: new,
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 0,
        end: vec![],
    };
    let embedding = ends.embedding(&model)?;
    let generator = Generator { blocks: &blocks, embedding: &embedding, head: &head, ropes: &ends.ropes };
    let generate = |prompts: &[&[u32]]| {
        generator.generate(prompts, &sampling, 1 << 30, &|_, _| false, |_| stop_if_interrupted(watch))
    };
    if is_device {
        generate(&prompts[..1])?;
    }
    let started = Instant::now();
    generate(&prompts)?;
    let seconds = started.elapsed().as_secs_f64();
    let heads = (SEQUENCES * new * 2 * spec.vocabulary * spec.hidden) as f64;
    let work = work::forward(&spec, SEQUENCES * (prompt + new), prompt + new) + heads;
    let (name, kind) = ("suites: answers".into(), Kind::Generate);
    measured.push(Measured { name, kind, amount: work, work, dtype, seconds });
    Ok(measured)
}

/// Values of the size of weights.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-0.1f32..0.1)).collect()
}
