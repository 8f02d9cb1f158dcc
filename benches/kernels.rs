//! The kernels that a study's time goes into, at the shape of SmolLM2-135M: `cargo bench --bench kernels`.
//!
//! Each is timed on the batch that a walk gives it (2048 tokens). Throughput is in floating-point operations where
//! products dominate, else in elements.

use calipr::cli::{Told, settle};
use calipr::internals::{
    Accumulator, Block, BlockNorms, Embedding, Flow, Generator, Head, Linear, LinearSpec, MethodName, MethodOptions,
    Norm, Prediction, Ropes, Sampling, Span, Sparsity, Spec, Statistic, StatisticKind, score_positions,
    upper_inverse_factor,
};
use candle_core::{DType, Device, Tensor};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

#[global_allocator]
static ALLOCATOR: Told = Told;

fn main() {
    settle();
    divan::main();
}

const TOKENS: usize = 2048;
const WINDOW: usize = 512;
const HIDDEN: usize = 576;
const FEED_FORWARD: usize = 1536;
const VOCABULARY: usize = 49_152;
const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Values of the size that weights have.
fn random(rows: usize, columns: usize, seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    Tensor::from_vec((0..rows * columns).map(|_| next() * 0.2).collect(), (rows, columns), &Device::Cpu).unwrap()
}

fn model() -> Spec {
    let config = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true}"#;
    Spec::from_hub(&serde_json::from_str(config).unwrap()).unwrap()
}

fn norm() -> Norm {
    Norm::rms(Tensor::ones(HIDDEN, DType::F32, &Device::Cpu).unwrap(), 1e-5)
}

fn block(dtype: DType) -> Block {
    let spec = model().blocks[0].clone();
    let linear = |(index, spec): (usize, &LinearSpec)| {
        Linear::new(random(spec.rows, spec.columns, index as u32 + 1).to_dtype(dtype).unwrap(), None)
    };
    let (before_attention, before_feed_forward) = (Some(norm()), Some(norm()));
    let norms = BlockNorms { before_attention, before_feed_forward, ..BlockNorms::default() };
    Block { linears: spec.linears.iter().enumerate().map(linear).collect(), norms, experts: None, spec }
}

fn ropes() -> Ropes {
    Ropes::new(&model().ropes, WINDOW, &Device::Cpu).unwrap()
}

fn windows() -> Vec<Span> {
    (0..TOKENS / WINDOW).map(|i| Span::window(i * WINDOW..(i + 1) * WINDOW)).collect()
}

/// Floating-point operations of the linears that read a site, or of all.
fn flops(linears: &[LinearSpec]) -> usize {
    linears.iter().map(|linear| 2 * TOKENS * linear.rows * linear.columns).sum()
}

#[divan::bench(args = DTYPES)]
fn block_forward(bencher: Bencher, dtype: DType) {
    let (block, ropes, spans) = (block(dtype), ropes(), windows());
    let hidden = random(TOKENS, HIDDEN, 9);
    bencher
        .counter(ItemsCount::new(flops(&block.spec.linears)))
        .bench_local(|| block.forward(black_box(hidden.clone()), &spans, &ropes).unwrap());
}

/// From a site to the next one: the linears that read it, and what is between.
#[divan::bench_group]
mod site {
    use super::*;

    fn bench(bencher: Bencher, dtype: DType, from: usize) {
        let (block, ropes, to) = (block(dtype), ropes(), from + 1);
        let mut flow = Flow::new(random(TOKENS, HIDDEN, 9), windows());
        for site in 0..to {
            block.advance(site, &mut flow, &ropes).unwrap();
        }
        bencher.counter(ItemsCount::new(flops(block.spec.readers(from)))).bench_local(|| {
            let mut flow = flow.clone();
            block.advance(to, &mut flow, &ropes).unwrap();
            flow
        });
    }

    #[divan::bench(args = DTYPES)]
    fn qkv_and_attention(bencher: Bencher, dtype: DType) {
        bench(bencher, dtype, 0);
    }

    #[divan::bench(args = DTYPES)]
    fn o_and_norm(bencher: Bencher, dtype: DType) {
        bench(bencher, dtype, 1);
    }

    #[divan::bench(args = DTYPES)]
    fn gate_up_and_swiglu(bencher: Bencher, dtype: DType) {
        bench(bencher, dtype, 2);
    }

    #[divan::bench]
    fn norm(bencher: Bencher) {
        let (block, ropes, hidden) = (block(DType::F32), ropes(), random(TOKENS, HIDDEN, 9));
        bencher.counter(ItemsCount::new(TOKENS * HIDDEN)).bench_local(|| {
            let mut flow = Flow::new(hidden.clone(), vec![]);
            block.advance(0, &mut flow, &ropes).unwrap();
            flow
        });
    }
}

#[divan::bench(args = ["q", "k", "v", "o", "gate", "up", "down"])]
fn linear_bf16(bencher: Bencher, name: &str) {
    let model = model();
    let &LinearSpec { rows, columns, .. } = model.blocks[0].linears.iter().find(|linear| linear.name == name).unwrap();
    let linear = Linear::new(random(rows, columns, 1).to_dtype(DType::BF16).unwrap(), None);
    let x = random(TOKENS, columns, 2);
    bencher
        .counter(ItemsCount::new(2 * TOKENS * rows * columns))
        .bench_local(|| linear.forward(black_box(&x)).unwrap());
}

/// A bf16 weight in the form that products want.
#[divan::bench]
fn pack_gate(bencher: Bencher) {
    let weight = vec![half::bf16::ONE; FEED_FORWARD * HIDDEN];
    bencher
        .counter(ItemsCount::new(weight.len()))
        .bench_local(|| calipr::internals::Packed::new(black_box(&weight), FEED_FORWARD, HIDDEN));
}

fn accumulate(kind: StatisticKind, columns: usize, dtype: DType, x: &Tensor) -> Statistic {
    let windows: Vec<_> = windows().into_iter().map(|span| span.own).collect();
    let mut accumulator = Accumulator::new(kind, columns, dtype, &Device::Cpu).unwrap();
    accumulator.add(x, &windows).unwrap();
    accumulator.finish().unwrap()
}

#[divan::bench(args = DTYPES)]
fn gram(bencher: Bencher, dtype: DType) {
    let x = random(TOKENS, FEED_FORWARD, 3);
    bencher
        .counter(ItemsCount::new(TOKENS * FEED_FORWARD * FEED_FORWARD)) // half of the square's
        .bench_local(|| accumulate(StatisticKind::Gram, FEED_FORWARD, dtype, black_box(&x)));
}

#[divan::bench]
fn column_norms(bencher: Bencher) {
    let x = random(TOKENS, FEED_FORWARD, 3);
    bencher
        .counter(ItemsCount::new(TOKENS * FEED_FORWARD))
        .bench_local(|| accumulate(StatisticKind::ColumnNorms, FEED_FORWARD, DType::F32, black_box(&x)));
}

#[divan::bench(args = [576, 1536])]
fn inverse_factor(bencher: Bencher, d: usize) {
    let Statistic::Gram(gram) = accumulate(StatisticKind::Gram, d, DType::F32, &random(TOKENS, d, 3)) else {
        unreachable!("a Gram matrix was asked for")
    };
    let gram = calipr::internals::values(&gram).unwrap();
    let diagonal: Vec<f32> = (0..d).map(|i| gram[i * d + i]).collect();
    bencher
        .counter(ItemsCount::new(2 * d * d * d / 3))
        .bench_local(|| upper_inverse_factor(black_box(&gram), &diagonal).unwrap());
}

/// A whole weight by a method: for SparseGPT with its factorisation, for the others the selection alone.
#[divan::bench(args = [MethodName::Magnitude, MethodName::Wanda, MethodName::SparseGpt], consts = [false, true])]
fn prune_gate<const IS_PATTERN: bool>(bencher: Bencher, method: MethodName) {
    let options = MethodOptions::default();
    let method = options.get(method);
    let sparsity = if IS_PATTERN { Sparsity::NOfM { n: 2, m: 4 } } else { Sparsity::Ratio(0.5) };
    let statistic = accumulate(method.statistic(), HIDDEN, DType::F32, &random(TOKENS, HIDDEN, 3));
    let weight = random(FEED_FORWARD, HIDDEN, 4);
    bencher
        .counter(ItemsCount::new(FEED_FORWARD * HIDDEN))
        .bench_local(|| method.prune(black_box(&weight), &statistic, sparsity).unwrap());
}

/// Loss, divergences and agreement of 256 positions, with both models' logits.
#[divan::bench(args = DTYPES)]
fn scores(bencher: Bencher, dtype: DType) {
    const POSITIONS: usize = 256;
    let head = Head::of(Linear::new(random(VOCABULARY, HIDDEN, 5).to_dtype(dtype).unwrap(), None));
    let (dense, pruned) = (random(POSITIONS, HIDDEN, 6), random(POSITIONS, HIDDEN, 7));
    let predictions: Vec<Prediction> = (0..POSITIONS).map(|i| Prediction { sample: 0, id: i as u32 }).collect();
    bencher
        .counter(ItemsCount::new(2 * 2 * POSITIONS * HIDDEN * VOCABULARY))
        .bench_local(|| score_positions(&predictions, 1, Some((&dense, &head)), (black_box(&pruned), &head)).unwrap());
}

/// Tokens of 32 sequences decoded together, after prompts of 32.
#[divan::bench(args = DTYPES, sample_count = 10)]
fn decode(bencher: Bencher, dtype: DType) {
    const SEQUENCES: usize = 32;
    let blocks = [block(dtype), block(dtype)];
    let embedding = Embedding::plain(random(VOCABULARY, HIDDEN, 5).to_dtype(dtype).unwrap());
    let head = Head { norm: Some(norm()), ..Head::of(Linear::new(embedding.table.clone(), None)) };
    let generator = Generator { blocks: &blocks, embedding: &embedding, head: &head, ropes: &ropes() };
    let prompts: Vec<Vec<u32>> = (0..SEQUENCES as u32).map(|i| (0..32).map(|t| i * 97 + t).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let sampling = Sampling {
        max_new_tokens: 8,
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        seed: 0,
        end: vec![],
        repetition_penalty: 1.0,
    };
    bencher
        .counter(ItemsCount::new(SEQUENCES * sampling.max_new_tokens))
        .bench_local(|| generator.generate(&prompts, &sampling, u64::MAX, &|_, _| false, |_| Ok(())).unwrap());
}
