//! Generation: batches against one sequence at a time, and against PyTorch's greedy text.

mod common;

use calipr::internals::{Begun, Block, Continuing, Generation, Generator, Model, ModelFiles, Sampling, Span, Written};
use candle_core::{DType, Device};
use common::Tiny;
use serde_json::Value;

/// A model with all its blocks in memory.
struct Whole {
    model: Model,
    blocks: Vec<Block>,
}

impl Whole {
    fn open(files: &ModelFiles) -> Self {
        let model = Model::open(files, DType::F32, Device::Cpu).unwrap();
        let blocks = (0..model.spec.blocks.len()).map(|i| model.block(i).unwrap()).collect();
        Self { model, blocks }
    }

    fn generate(&self, prompts: &[Vec<u32>], sampling: &Sampling, budget: u64) -> Generation {
        let embedding = self.model.embedding().unwrap();
        let (head, ropes) = (self.model.head(&embedding).unwrap(), self.model.ropes(100).unwrap());
        let generator = Generator { blocks: &self.blocks, embedding: &embedding, head: &head, ropes: &ropes };
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        generator.generate(&prompts, sampling, budget, &|_, _| false, |_| Ok(())).unwrap()
    }
}

/// Continues texts with their losses: each with its index, in the order in which they were finished.
fn continued(whole: &Whole, texts: &[Begun], sampling: &Sampling, budget: u64) -> Vec<(usize, Written)> {
    let embedding = whole.model.embedding().unwrap();
    let (head, ropes) = (whole.model.head(&embedding).unwrap(), whole.model.ropes(100).unwrap());
    let generator = Generator { blocks: &whole.blocks, embedding: &embedding, head: &head, ropes: &ropes };
    let mut all = Vec::new();
    let how = Continuing { sampling, budget, scores: true, begins: &|_| true, ended: &|_, _| false };
    let finished = |index, written| {
        all.push((index, written));
        Ok(())
    };
    generator.continue_texts(texts, &how, |_| Ok(()), finished).unwrap();
    all
}

fn greedy(max_new_tokens: usize, end: Vec<u32>) -> Sampling {
    Sampling { max_new_tokens, temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0, end }
}

/// Prompts of unequal length; with `shared` they begin alike.
fn prompts(count: usize, shared: usize) -> Vec<Vec<u32>> {
    let prompt = |i: usize| {
        let own = (0..3 + i * 5 % 17).map(|j| ((i * 31 + j * 7) % 256) as u32);
        (0..shared as u32).chain(own).collect()
    };
    (0..count).map(prompt).collect()
}

#[test]
fn a_batch_writes_what_each_sequence_writes_alone_whatever_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Tiny { blocks: 2, ..Tiny::default() };
    let whole = Whole::open(&tiny.files(dir.path()));
    for shared in [0, 9] {
        let prompts = prompts(12, shared);
        // Some end early, at different steps.
        let sampling = greedy(20, vec![3, 17, 40, 41, 42, 43, 44, 45, 46, 99, 100, 200]);
        let alone: Vec<Vec<u32>> =
            prompts.iter().map(|p| whole.generate(std::slice::from_ref(p), &sampling, 0).ids.remove(0)).collect();
        assert!(alone.iter().any(|ids| ids.len() < 20) && alone.iter().any(|ids| ids.len() == 20));
        // Room for all, for a few, for none but one.
        for (budget, widest) in [(u64::MAX, 12..=12), (30_000, 2..=11), (0, 1..=1)] {
            let generation = whole.generate(&prompts, &sampling, budget);
            assert_eq!(generation.ids, alone);
            assert!(widest.contains(&generation.widest), "{budget}: {}", generation.widest);
        }
    }
}

#[test]
fn what_is_drawn_depends_on_the_seed_and_not_on_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Whole::open(&Tiny::default().files(dir.path()));
    let prompts = prompts(6, 0);
    let sampling = |seed| Sampling { temperature: 0.8, top_p: 0.95, seed, ..greedy(12, vec![]) };
    let first = whole.generate(&prompts, &sampling(1), u64::MAX).ids;
    assert_eq!(whole.generate(&prompts, &sampling(1), 0).ids, first);
    assert_ne!(whole.generate(&prompts, &sampling(2), u64::MAX).ids, first);
    assert_ne!(whole.generate(&prompts, &greedy(12, vec![]), u64::MAX).ids, first);
}

#[test]
fn an_empty_prompt_and_no_new_tokens_are_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Whole::open(&Tiny::default().files(dir.path()));
    assert_eq!(whole.generate(&[vec![1]], &greedy(0, vec![]), 0).ids, [Vec::<u32>::new()]);
    assert_eq!(whole.generate(&[], &greedy(5, vec![]), 0).ids.len(), 0);
    let embedding = whole.model.embedding().unwrap();
    let (head, ropes) = (whole.model.head(&embedding).unwrap(), whole.model.ropes(100).unwrap());
    let generator = Generator { blocks: &whole.blocks, embedding: &embedding, head: &head, ropes: &ropes };
    let empty: [&[u32]; 1] = [&[]];
    assert!(generator.generate(&empty, &greedy(5, vec![]), 0, &|_, _| false, |_| Ok(())).is_err());
}

#[test]
fn the_real_models_greedy_text_is_pytorchs_in_one_batch() {
    let files = common::real_model();
    let (whole, tokenizer) = (Whole::open(files), files.tokenizer().unwrap());
    let cases: Value = serde_json::from_str(&std::fs::read_to_string("tests/fixtures/greedy.json").unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    let prompts: Vec<Vec<u32>> =
        cases.iter().map(|c| tokenizer.encode(c["prompt"].as_str().unwrap(), false).unwrap()).collect();
    let generation = whole.generate(&prompts, &greedy(24, tokenizer.end().to_vec()), u64::MAX);
    for (ids, case) in generation.ids.iter().zip(cases) {
        let theirs: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(*ids, theirs, "{}", case["prompt"]);
    }
}

/// To the bit, and so whatever is computed of it.
#[test]
fn a_text_and_its_loss_are_the_same_among_any_others() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let mut whole = Whole::open(&Tiny { blocks: 3, ..Tiny::default() }.files(dir.path()));
        whole.model =
            Model::open(&Tiny { blocks: 3, ..Tiny::default() }.files(dir.path()), dtype, Device::Cpu).unwrap();
        whole.blocks = (0..3).map(|i| whole.model.block(i).unwrap()).collect();
        let prompts = prompts(23, 2);
        let texts: Vec<Begun> = prompts.iter().zip(100..).map(|(ids, stream)| Begun { ids, stream }).collect();
        let drawn = Sampling {
            temperature: 0.9,
            top_k: Some(30),
            top_p: 0.9,
            repetition_penalty: 1.2,
            ..greedy(40, vec![7, 9])
        };
        let by_index = |mut all: Vec<(usize, Written)>| {
            all.sort_by_key(|(index, _)| *index);
            all.into_iter().map(|(_, written)| written).collect::<Vec<_>>()
        };
        let all = by_index(continued(&whole, &texts, &drawn, u64::MAX));
        assert!(all.iter().any(|text| text.ids.len() < 40) && all.iter().any(|text| text.ids.len() == 40));
        assert_eq!(by_index(continued(&whole, &texts, &drawn, 0)), all);
        assert_eq!(by_index(continued(&whole, &texts, &drawn, 40_000)), all);
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(continued(&whole, std::slice::from_ref(text), &drawn, 0)[0].1, all[i], "text {i}");
        }
        assert_eq!(by_index(continued(&whole, &texts[5..19], &drawn, u64::MAX)), all[5..19]);
    }
}

#[test]
fn the_loss_of_a_text_is_what_the_model_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Whole::open(&Tiny::default().files(dir.path()));
    let drawn = Sampling { temperature: 1.5, top_k: Some(9), repetition_penalty: 1.5, ..greedy(20, vec![3]) };
    for (i, ids) in prompts(4, 0).iter().enumerate() {
        let written = continued(&whole, &[Begun { ids, stream: i as u64 }], &drawn, 0).remove(0).1;
        let mut text = [ids.as_slice(), &written.ids].concat();
        if text.last() == Some(&3) {
            text.pop();
        }
        let embedding = whole.model.embedding().unwrap();
        let (head, ropes) = (whole.model.head(&embedding).unwrap(), whole.model.ropes(100).unwrap());
        let mut hidden = embedding.embed(&text, 0..text.len()).unwrap();
        for block in &whole.blocks {
            hidden = block.forward(hidden, &[Span::window(0..text.len())], &ropes).unwrap();
        }
        let logits = head.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
        let loss = |row: usize| {
            let sum: f64 = logits[row].iter().map(|&z| f64::from(z).exp()).sum();
            sum.ln() - f64::from(logits[row][text[row + 1] as usize])
        };
        let expected: f64 = (0..text.len() - 1).map(loss).sum();
        assert!((written.loss - expected).abs() < 1e-3 * expected, "{} {expected}", written.loss);
    }
}
