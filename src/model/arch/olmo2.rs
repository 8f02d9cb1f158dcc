//! OLMo 2 (OLMo Team 2024, arXiv 2501.00656): norms behind attention and feed-forward instead of in front of them, and of
//! q and k as a whole.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, norm, rms_epsilon};
use super::gguf::Gguf;
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use super::{olmo3, rope};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Inputs, Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "olmo2",
    class: "Olmo2ForCausalLM",
    models: "OLMo 2 (in GGUF OLMo 3 too)",
    gguf: Some(Gguf { name: "olmo2", keys: &["attention.sliding_window", "rope.freq_base_swa"], factors: &[] }),
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

pub const DEFAULTS: Defaults = Defaults {
    hidden: 4096,
    feed_forward: 11_008,
    blocks: 32,
    heads: 32,
    key_value_heads: None,
    head_dim: None,
    vocabulary: 50_304,
    context: 2048,
};

fn spec(keys: &Keys) -> Result<Spec> {
    // llama.cpp has one architecture for both.
    if keys.gguf.is_some() && keys.get("sliding_window").is_some() {
        return olmo3::spec(keys);
    }
    let sizes = Sizes::read(keys, &DEFAULTS)?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let blocks = blocks(sizes.blocks, |_| block(keys, &sizes, epsilon))?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// OLMo 2's block, which OLMo 3 has taken over.
pub fn block(keys: &Keys, sizes: &Sizes, epsilon: f64) -> Result<BlockSpec> {
    let bias = keys.flag("attention_bias", false)?;
    let mut draft = Draft::new(sizes);
    let inputs = Inputs::Separate(draft.queries_keys_values(bias));
    let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
    attention.q_norm = Some(norm(("self_attn.q_norm", "attn_q_norm"), epsilon)?);
    attention.k_norm = Some(norm(("self_attn.k_norm", "attn_k_norm"), epsilon)?);
    let feed = draft.gated(activation(keys, "hidden_act", Activation::Silu)?, false);
    let norms = Norms {
        after_attention: Some(norm(("post_attention_layernorm", "post_attention_norm"), epsilon)?),
        after_feed_forward: Some(norm(("post_feedforward_layernorm", "post_ffw_norm"), epsilon)?),
        ..Norms::default()
    };
    Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
}
