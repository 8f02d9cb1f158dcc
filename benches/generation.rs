//! Texts that a model continues, and how many tokens a second that makes: what `benches/generation.py` sets beside
//! transformers, and `cargo bench --bench generation -- MODEL f32 NEW_TOKENS FILE` alone.
//!
//! FILE has the tokens that a text begins with, a JSON list a line. Prints a JSON line.

use std::path::Path;
use std::time::Instant;

use calipr::cli::{Told, settle};
use calipr::internals::{Begun, Block, Continuing, Generator, Model, ModelFiles, Sampling};
use candle_core::{DType, Device};

#[global_allocator]
static ALLOCATOR: Told = Told;

fn main() {
    settle();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [model, dtype, new_tokens, file] = arguments.as_slice() else {
        // As `cargo bench` calls all of them.
        return println!("generation: expected MODEL, f32 or bf16, NEW_TOKENS and FILE");
    };
    let dtype = if dtype == "bf16" { DType::BF16 } else { DType::F32 };
    let max_new_tokens = new_tokens.parse().expect("a number of tokens");
    let lines = std::fs::read_to_string(file).expect("a file of beginnings");
    let beginnings: Vec<Vec<u32>> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a list of tokens")).collect();

    let model = Model::open(&ModelFiles::at(Path::new(model)).expect("a model"), dtype, Device::Cpu).expect("a model");
    let embedding = model.embedding().expect("an embedding");
    let longest = beginnings.iter().map(Vec::len).max().unwrap_or(0) + max_new_tokens;
    let (head, ropes) = (model.head(&embedding).expect("a head"), model.ropes(longest).expect("rotary tables"));
    let blocks: Vec<Block> = (0..model.spec.blocks.len()).map(|i| model.block(i).expect("a block")).collect();
    let generator = Generator { blocks: &blocks, embedding: &embedding, head: &head, ropes: &ropes };

    // The published setting of calibrations of generated texts, but for ends: all texts are of one length, as in a batch of
    // transformers that waits for its longest.
    let sampling = Sampling {
        max_new_tokens,
        temperature: 0.6,
        top_k: Some(50),
        top_p: 0.95,
        repetition_penalty: 1.2,
        seed: 0,
        end: vec![],
    };
    let texts: Vec<Begun> = beginnings.iter().zip(0..).map(|(ids, stream)| Begun { ids, stream }).collect();
    let how =
        Continuing { sampling: &sampling, budget: 4 << 30, scores: false, begins: &|_| true, ended: &|_, _| false };
    let (started, mut tokens) = (Instant::now(), 0);
    let widest = generator
        .continue_texts(
            &texts,
            &how,
            |_| Ok(()),
            |_, written| {
                tokens += written.ids.len();
                Ok(())
            },
        )
        .expect("texts");
    let seconds = started.elapsed().as_secs_f64();
    let rate = tokens as f64 / seconds;
    println!(
        "{}",
        serde_json::json!({"tokens": tokens, "seconds": seconds, "tokens_per_second": rate, "widest": widest})
    );
}
