//! Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): Llama with biases for q, k and v, and a window in later blocks
//! where it is asked for.

use anyhow::Result;

use super::Architecture;
use super::draft::{Biases, Defaults, Sizes, llama_block, model, reach, unused_window, windows};
use super::keys::Keys;
use super::rope;
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture { name: "qwen2", gguf: Some("qwen2"), spec };

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 4096,
            feed_forward: 22_016,
            blocks: 32,
            heads: 32,
            key_value_heads: Some(32),
            vocabulary: 151_936,
            context: 32_768,
        },
    )?;
    let mut remarks = Vec::new();
    let (rope, longest) = rope::read(keys, sizes.context, sizes.heads.dim, &mut remarks)?;
    let slides = keys.flag("use_sliding_window", false)?;
    let window = keys.optional_count("sliding_window", Some(4096))?.filter(|_| slides);
    let first = keys.count("max_window_layers", 28)?;
    let said = "`use_sliding_window` and `sliding_window`";
    let windows = windows(keys, window, sizes.blocks, |index| index >= first, said)?;
    let epsilon = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    // llama.cpp takes a bias of what follows attention where there is one.
    let feed_forward = keys.gguf.is_some_and(|file| file.has("blk.0.ffn_down.bias"));
    let biases = Biases { attention_inputs: true, attention_output: false, feed_forward };
    let block = llama_block(&sizes, biases, false, epsilon)?;
    let reach = unused_window(keys, sizes.context)?.or_else(|| reach(&windows, longest));
    model(keys, &sizes, (rope, reach), block, epsilon, remarks)
}
