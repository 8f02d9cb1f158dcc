//! Qwen3 (Yang et al. 2025, arXiv 2505.09388): Llama with norms of the heads of q and k.

use anyhow::Result;

use super::draft::{Defaults, Sizes, blocks, model, norm, rms_epsilon};
use super::gguf::Gguf;
use super::keys::Keys;
use super::llama::{self, Biases};
use super::{Architecture, TokenizerClass};
use super::{qwen2, rope};
use crate::model::spec::{AttentionSpec, NormSpec, Over, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    models: "Qwen3",
    gguf: Some(Gguf { name: "qwen3", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::Usually("Qwen2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            feed_forward: 22_016,
            key_value_heads: Some(32),
            head_dim: Some(128),
            vocabulary: 151_936,
            context: 32_768,
            ..Defaults::default()
        },
    )?;
    let windows = qwen2::later_windows(keys, sizes.blocks)?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut block =
            llama::block(keys, &sizes, Biases { inputs: bias, output: bias, feed_forward: false }, epsilon)?;
        norm_heads(&mut block.attention, epsilon)?;
        block.attention.window = windows[index];
        Ok(block)
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// Norms of each head of q and k, before they are turned.
pub fn norm_heads(attention: &mut AttentionSpec, epsilon: f64) -> Result<()> {
    let of = |name: (&str, &str)| Ok::<_, anyhow::Error>(NormSpec { over: Over::Head, ..norm(name, epsilon)? });
    attention.q_norm = Some(of(("self_attn.q_norm", "attn_q_norm"))?);
    attention.k_norm = Some(of(("self_attn.k_norm", "attn_k_norm"))?);
    Ok(())
}
