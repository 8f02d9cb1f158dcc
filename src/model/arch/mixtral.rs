//! Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral with experts.

use anyhow::Result;

use super::Architecture;
use super::draft::{Defaults, Draft, Mixture, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::keys::Keys;
use super::rope::{self, Turn};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture { name: "mixtral", gguf: None, spec };

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[("num_experts", "num_local_experts")]);
    let sizes = Sizes::read(
        keys,
        &Defaults { feed_forward: 14_336, key_value_heads: Some(8), context: 131_072, ..Defaults::default() },
    )?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let window = keys.optional_count("sliding_window", None)?;
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
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(false));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), false);
        attention.window = window;
        let experts = FeedForwardSpec::Experts(draft.experts(&experts));
        Ok(draft.finish(attention, experts, llama_norms(epsilon)?))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { theta: 1e6, ..rope::WHOLE })?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
