//! Mistral (Jiang et al. 2023, arXiv 2310.06825) and Ministral: Llama, of which some blocks see a window of positions only.

use anyhow::Result;

use super::draft::{Defaults, Sizes, blocks, model, norm, rms_epsilon, windows};
use super::keys::Keys;
use super::llama::{self, Biases};
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "mistral",
    class: "MistralForCausalLM",
    models: "Mistral",
    gguf: None,
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

pub fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults { feed_forward: 14_336, key_value_heads: Some(8), context: 131_072, ..Defaults::default() },
    )?;
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let windows = windows(keys, window, sizes.blocks, |_| true, "`sliding_window`")?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut block = llama::block(keys, &sizes, Biases::default(), epsilon)?;
        block.attention.window = windows[index];
        Ok(block)
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
