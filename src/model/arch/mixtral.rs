//! Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral with experts.

use anyhow::Result;

use super::draft::{Defaults, Draft, Mixture, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "mixtral",
    class: "MixtralForCausalLM",
    models: "Mixtral",
    gguf: None,
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[("num_experts", "num_local_experts")]);
    let sizes = Sizes::read(
        keys,
        &Defaults { feed_forward: 14_336, key_value_heads: Some(8), context: 131_072, ..Defaults::default() },
    )?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let window = keys.optional_count("sliding_window", None)?;
    let block = block(keys, &sizes, window, epsilon)?;
    let blocks = blocks(sizes.blocks, |_| Ok(block.clone()))?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { theta: 1e6, ..rope::WHOLE })?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// Mixtral's block, which in GGUF is one of Llama's.
pub fn block(keys: &Keys, sizes: &Sizes, window: Option<usize>, epsilon: f64) -> Result<BlockSpec> {
    let experts = Mixture {
        count: keys.count("num_experts", 8)?,
        used: keys.count("num_experts_per_tok", 2)?,
        normalised: true,
        columns: sizes.feed_forward,
        activation: activation(keys, "hidden_act", Activation::Silu)?,
        router: "block_sparse_moe.gate",
        name: "block_sparse_moe.experts",
        parts: ["w1", "w3", "w2"],
        shared: None,
    }
    .checked()?;
    let mut draft = Draft::new(sizes);
    let inputs = draft.queries_keys_values(false);
    if keys.gguf.is_some() {
        draft.paired(inputs);
    }
    let mut attention = draft.attention(Inputs::Separate(inputs), ("self_attn.o_proj", "attn_output"), false);
    attention.window = window;
    let experts = FeedForwardSpec::Experts(draft.experts(&experts, keys.gguf.is_some()));
    Ok(draft.finish(attention, experts, llama_norms(epsilon)?))
}
