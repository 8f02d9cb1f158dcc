//! What a GPU computes is what the CPU computes, but for rounding. Where there is none, or calipr was built without it,
//! these tests say so and pass; TEST_DEVICE names one other than the first.

mod common;

use calipr::internals::{
    Accumulator, Block, Generator, Head, Linear, MethodName, MethodOptions, Model, Prediction, Sampling, Sparsity,
    Statistic, StatisticKind, device, log_likelihoods, score_positions,
};
use candle_core::{DType, Device, Tensor};
use common::{Tiny, Workshop};
use serde_json::Value;

/// The device to test, and its name; None where there is none.
fn gpu() -> Option<(Device, String)> {
    let named = std::env::var("TEST_DEVICE").ok();
    let names = named.map_or_else(|| vec!["cuda".to_owned(), "metal".to_owned()], |name| vec![name]);
    let found = names.into_iter().find_map(|name| Some((device::open(&name).ok()?, name)));
    if found.is_none() {
        eprintln!("skipped: there is no GPU, or calipr was built without it (--features cuda or metal)");
    }
    found
}

/// Pseudo-random values in (-0.5, 0.5) that are not correlated.
fn noise(shape: (usize, usize), seed: f32) -> Tensor {
    let value = |i: usize| ((i as f32 + seed) * 12.9898).sin() * 43758.547;
    let values: Vec<f32> = (0..shape.0 * shape.1).map(|i| value(i) - value(i).floor() - 0.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Inputs whose columns are correlated, so that SparseGPT has something to compensate.
fn inputs(tokens: usize, columns: usize) -> Tensor {
    let mut rows = noise((tokens, columns), 3.0).to_vec2::<f32>().unwrap();
    rows.iter_mut().for_each(|row| (1..columns).for_each(|j| row[j] += 0.7 * row[j - 1]));
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn on_host(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖a − b‖ / ‖b‖.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let lost = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (lost / squares(&mut b.iter().map(|&b| f64::from(b)))).sqrt()
}

fn statistic(kind: StatisticKind, x: &Tensor) -> Statistic {
    let mut accumulator = Accumulator::new(kind, x.dim(1).unwrap(), x.dtype(), x.device()).unwrap();
    let (tokens, half) = (x.dim(0).unwrap(), x.dim(0).unwrap() / 2);
    for (from, to) in [(0, half), (half, tokens)] {
        let own = 0..to - from;
        accumulator.add(&x.narrow(0, from, own.len()).unwrap(), std::slice::from_ref(&own)).unwrap();
    }
    accumulator.finish().unwrap()
}

#[test]
fn statistics_are_the_cpus() {
    let Some((gpu, _)) = gpu() else { return };
    let x = inputs(1000, 330);
    for kind in [StatisticKind::ColumnNorms, StatisticKind::Gram] {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
            let cpu = statistic(kind, &x);
            let there = statistic(kind, &x.to_device(&gpu).unwrap().to_dtype(dtype).unwrap());
            let gap = apart(&on_host(there.tensor().unwrap()), &on_host(cpu.tensor().unwrap()));
            assert!(gap < tolerance, "{kind:?} in {dtype:?}: {gap}");
        }
    }
}

#[test]
fn methods_prune_what_they_prune_on_the_cpu() {
    let Some((gpu, _)) = gpu() else { return };
    let options = MethodOptions::default();
    // Columns that make several blocks of SparseGPT and halves of its factor, the last block short.
    for (rows, columns) in [(64, 96), (301, 840)] {
        let (x, weight) = (inputs(2 * columns, columns), noise((rows, columns), 11.0));
        for name in [MethodName::Magnitude, MethodName::Wanda, MethodName::SparseGpt] {
            let method = options.get(name);
            for sparsity in [Sparsity::Ratio(0.3), Sparsity::Ratio(0.5), Sparsity::NOfM { n: 2, m: 4 }] {
                let seen = statistic(method.statistic(), &x);
                let there = match seen.tensor() {
                    None => Statistic::None,
                    Some(t) => Statistic::of(method.statistic(), t.to_device(&gpu).unwrap()),
                };
                let cpu = on_host(&method.prune(&weight, &seen, sparsity).unwrap().weight);
                let pruned = method.prune(&weight.to_device(&gpu).unwrap(), &there, sparsity).unwrap();
                let pruned = on_host(&pruned.weight);
                // Where scores are made of products, a few that are nearly equal may fall either way.
                let differ = cpu.iter().zip(&pruned).filter(|(a, b)| (**a == 0.0) != (**b == 0.0)).count();
                let allowed = if name == MethodName::SparseGpt { cpu.len() / 500 } else { 0 };
                assert!(differ <= allowed, "{name:?} {sparsity}: {differ} of {} differ", cpu.len());
                let gap = apart(&pruned, &cpu);
                let tolerance = if name == MethodName::SparseGpt { 0.05 } else { 0.0 };
                assert!(gap <= tolerance, "{name:?} {sparsity}: {gap}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_an_error_as_on_the_cpu() {
    let Some((gpu, _)) = gpu() else { return };
    let options = MethodOptions::default();
    let bad = Tensor::new(&[[1.0, f32::NAN]], &gpu).unwrap();
    let error = options.get(MethodName::Magnitude).prune(&bad, &Statistic::None, Sparsity::Ratio(0.5)).err().unwrap();
    assert!(error.to_string().contains("1 of 2 values of the weight are NaN"), "{error}");
    let indefinite = Statistic::Gram(Tensor::new(&[[1f32, 9.0], [9.0, 1.0]], &gpu).unwrap());
    let weight = Tensor::new(&[[1f32, 2.0]], &gpu).unwrap();
    let error = options.get(MethodName::SparseGpt).prune(&weight, &indefinite, Sparsity::Ratio(0.5)).err().unwrap();
    assert!(error.to_string().contains("not positive definite"), "{error}");
}

#[test]
fn a_model_computes_what_it_computes_on_the_cpu() {
    let Some((gpu, _)) = gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    // More positions than rows of queries whose scores exist at once.
    let tiny = Tiny { hidden: 128, heads: 4, key_value_heads: 2, context: 700, ..Tiny::default() };
    let files = tiny.files(dir.path());
    let ids: Vec<u32> = (0..700u32).map(|i| i * i % 251).collect();
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, 5e-2)] {
        let [cpu, there] = [Device::Cpu, gpu.clone()].map(|device| {
            let model = Model::open(&files, dtype, device).unwrap();
            on_host(&model.logits(&ids, &[0..600, 600..601, 601..700]).unwrap())
        });
        let gap = apart(&there, &cpu);
        assert!(gap < tolerance, "{dtype:?}: {gap}");
    }
}

#[test]
fn scores_are_the_cpus() {
    let Some((gpu, _)) = gpu() else { return };
    let (positions, hidden, vocabulary) = (300, 40, 1000);
    let scaled = |seed: f32| (noise((positions, hidden), seed) * 3.0).unwrap();
    let (dense, pruned, head) = (scaled(1.0), scaled(1.5), noise((vocabulary, hidden), 7.0));
    let predictions: Vec<Prediction> =
        (0..positions).map(|i| Prediction { sample: i / 100, id: (i * 37 % vocabulary) as u32 }).collect();
    let score = |device: &Device| {
        let [pruned, head] = [&pruned, &head].map(|t| t.to_device(device).unwrap());
        let head = Head::of(Linear::new(head, None));
        // The teacher's states come from the cache, on the host.
        let scores = score_positions(&predictions, 3, Some((&dense, &head)), (&pruned, &head)).unwrap();
        (scores, log_likelihoods(&predictions, 3, &pruned, &head).unwrap())
    };
    let ((cpu, cpu_likelihoods), (there, likelihoods)) = (score(&Device::Cpu), score(&gpu));
    for (a, b) in there.iter().zip(&cpu) {
        for (a, b) in [(a.loss, b.loss), (a.js, b.js), (a.kl, b.kl)] {
            assert!((a - b).abs() < 1e-4 * b.abs(), "{a} {b}");
        }
        assert_eq!((a.positions, a.agreement), (b.positions, b.agreement));
    }
    for (a, b) in likelihoods.iter().zip(&cpu_likelihoods) {
        assert!((a - b).abs() < 1e-4 * b.abs(), "{a} {b}");
    }
}

#[test]
fn texts_are_the_cpus() {
    let Some((gpu, _)) = gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = Tiny { hidden: 64, ..Tiny::default() }.files(dir.path());
    let prompt = |i: usize| (0..3 + i * 5 % 17).map(|j| ((i * 31 + j * 7) % 256) as u32).collect::<Vec<u32>>();
    for shared in [0, 9] {
        let prompts: Vec<Vec<u32>> = (0..12).map(|i| (0..shared).chain(prompt(i)).collect()).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let sampling = Sampling {
            max_new_tokens: 20,
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            end: vec![3, 17, 40],
        };
        let write = |device: &Device, budget: u64| {
            let model = Model::open(&files, DType::F32, device.clone()).unwrap();
            let blocks: Vec<Block> = (0..model.spec.blocks.len()).map(|i| model.block(i).unwrap()).collect();
            let embedding = model.embedding().unwrap();
            let (head, ropes) = (model.head(&embedding).unwrap(), model.ropes(100).unwrap());
            let generator = Generator { blocks: &blocks, embedding: &embedding, head: &head, ropes: &ropes };
            generator.generate(&prompts, &sampling, budget, &|_, _| false, |_| Ok(())).unwrap().ids
        };
        let expected = write(&Device::Cpu, u64::MAX);
        for budget in [u64::MAX, 30_000] {
            assert_eq!(write(&gpu, budget), expected);
        }
    }
}

#[test]
fn a_study_finds_what_it_finds_on_the_cpu() {
    let Some((_, name)) = gpu() else { return };
    let shop = Workshop::new(&Tiny { hidden: 64, feed_forward: 96, ..Tiny::default() });
    shop.succeeds(&["run", "recipe.toml", "--set", "model.device=cpu", "--out", "cpu"]);
    let several = format!("model.device=[\"{name}\", \"{name}\"]");
    shop.succeeds(&["run", "recipe.toml", "--set", &several, "--out", "gpu"]);
    let (cpu, gpu) = (shop.tables("cpu"), shop.tables("gpu"));
    for table in 0..2 {
        assert_eq!(cpu[table].len(), gpu[table].len());
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    for (a, b) in gpu[2].iter().zip(&cpu[2]) {
        assert_eq!((text(a, "cell"), text(a, "metric")), (text(b, "cell"), text(b, "metric")));
        let (value, expected) = (a["value"].as_f64().unwrap(), b["value"].as_f64().unwrap());
        // SparseGPT's near ties fall either way, and what comes after them with them.
        let tolerance = if text(a, "method") == "sparsegpt" { 0.05 } else { 2e-3 };
        assert!((value - expected).abs() <= tolerance * expected.abs().max(0.05), "{a} {b}");
    }
}
