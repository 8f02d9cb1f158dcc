//! Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama, of which some see a window of positions only.

use anyhow::Result;

use super::Architecture;
use super::draft::{Biases, Defaults, Sizes, llama_block, model, reach, windows};
use super::keys::Keys;
use super::rope;
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture { name: "mistral", gguf: None, spec };

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 4096,
            feed_forward: 14_336,
            blocks: 32,
            heads: 32,
            key_value_heads: Some(8),
            vocabulary: 32_000,
            context: 131_072,
        },
    )?;
    let mut remarks = Vec::new();
    let (rope, longest) = rope::read(keys, sizes.context, sizes.heads.dim, &mut remarks)?;
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let windows = windows(keys, window, sizes.blocks, |_| true, "`sliding_window`")?;
    let epsilon = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    let block = llama_block(&sizes, Biases::default(), false, epsilon)?;
    model(keys, &sizes, (rope, reach(&windows, longest)), block, epsilon, remarks)
}
