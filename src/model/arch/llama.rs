//! Llama (Touvron et al. 2023, arXiv 2302.13971), of which Llama 2 and 3, SmolLM2, TinyLlama and many others are.

use anyhow::Result;

use super::Architecture;
use super::draft::{Biases, Defaults, Sizes, llama_block, model, unused_window};
use super::keys::Keys;
use super::rope;
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture { name: "llama", gguf: Some("llama"), spec };

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 4096,
            feed_forward: 11_008,
            blocks: 32,
            heads: 32,
            key_value_heads: None,
            vocabulary: 32_000,
            context: 2048,
        },
    )?;
    let biases = match keys.gguf {
        // llama.cpp takes what biases there are.
        Some(file) => {
            let all = file.has("blk.0.attn_output.bias");
            let inputs = ["q", "k", "v"].iter().any(|name| file.has(&format!("blk.0.attn_{name}.bias")));
            let feed_forward = file.has("blk.0.ffn_down.bias");
            Biases { attention_inputs: all || inputs, attention_output: all, feed_forward }
        }
        None => {
            let attention = keys.flag("attention_bias", false)?;
            let feed_forward = keys.flag("mlp_bias", false)?;
            Biases { attention_inputs: attention, attention_output: attention, feed_forward }
        }
    };
    let mut remarks = Vec::new();
    let (rope, longest) = rope::read(keys, sizes.context, sizes.heads.dim, &mut remarks)?;
    let epsilon = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    let block = llama_block(&sizes, biases, keys.gguf.is_some(), epsilon)?;
    // transformers' code has no windows.
    let reach = unused_window(keys, sizes.context)?.or(longest);
    model(keys, &sizes, (rope, reach), block, epsilon, remarks)
}
