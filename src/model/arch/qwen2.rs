//! Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): Llama with biases for q, k and v, and a window in later blocks
//! where it is asked for.

use anyhow::Result;

use super::draft::{Defaults, Sizes, blocks, model, norm, rms_epsilon, windows};
use super::gguf::Gguf;
use super::keys::Keys;
use super::llama::{self, Biases};
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    class: "Qwen2ForCausalLM",
    models: "Qwen2 and Qwen2.5",
    gguf: Some(Gguf { name: "qwen2", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::Always("Qwen2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            feed_forward: 22_016,
            key_value_heads: Some(32),
            vocabulary: 151_936,
            context: 32_768,
            ..Defaults::default()
        },
    )?;
    let windows = later_windows(keys, sizes.blocks)?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    // llama.cpp takes a bias of what follows attention where there is one.
    let feed_forward = keys.gguf.is_some_and(|file| file.has("blk.0.ffn_down.bias"));
    let biases = Biases { inputs: true, output: false, feed_forward };
    let blocks = blocks(sizes.blocks, |index| {
        let mut block = llama::block(keys, &sizes, biases, epsilon)?;
        block.attention.window = windows[index];
        Ok(block)
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// The window of each block, where `use_sliding_window` asks for windows: without `layer_types`, of the blocks from
/// `max_window_layers` on.
pub fn later_windows(keys: &Keys, blocks: usize) -> Result<Vec<Option<usize>>> {
    let slides = keys.flag("use_sliding_window", false)?;
    let window = keys.optional_count("sliding_window", Some(4096))?.filter(|_| slides);
    let first = keys.count("max_window_layers", 28)?;
    windows(keys, window, blocks, |index| index >= first, "`use_sliding_window` and `sliding_window`")
}
