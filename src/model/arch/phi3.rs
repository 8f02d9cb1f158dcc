//! Phi-3 and Phi-4 (Abdin et al. 2024, arXiv 2404.14219): Llama with one matrix for q, k and v and one for gate and up.

use anyhow::Result;
use serde_json::{Map, Value};

use super::draft::{Defaults, Draft, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::gguf::{Gguf, LONG_ROPE_FACTORS};
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::rope::RopeScaling;
use crate::model::spec::{Activation, FeedForwardSpec, FeedInputs, Place, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "phi3",
    class: "Phi3ForCausalLM",
    models: "Phi 3 and 4",
    gguf: Some(Gguf { name: "phi3", keys: &["rope.dimension_count"], factors: &LONG_ROPE_FACTORS }),
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let renamed = with_longrope(keys);
    let keys = &Keys { of: &renamed, ..*keys };
    let sizes = Sizes::read(
        keys,
        &Defaults { hidden: 3072, feed_forward: 8192, vocabulary: 32_064, context: 4096, ..Defaults::default() },
    )?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let act = activation(keys, "hidden_act", Activation::Silu)?;
    let window = keys.optional_count("sliding_window", None)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = draft.fused(("self_attn.qkv_proj", "attn_qkv"), 1, false);
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), false);
        attention.window = window;
        draft.site(Place::FeedForwardInput, sizes.hidden);
        let gate_up = draft.linear("gate_up", ("mlp.gate_up_proj", "ffn_up"), 2 * sizes.feed_forward, false);
        let feed = draft.down(FeedInputs::Fused { gate_up }, act, ("mlp.down_proj", "ffn_down"), false);
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), llama_norms(epsilon)?))
    })?;
    let mut rope = rope::read(keys, sizes.context, sizes.heads, Turn { part: Some(1.0), ..rope::WHOLE })?;
    // transformers' Phi-3, and no other, takes a text anew that outgrows the original context (`prepare_inputs_for_generation`).
    if let RopeScaling::LongRope { turns_anew, .. } = &mut rope.scaling {
        *turns_anew = true;
    }
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// transformers: "su" and "yarn" are what early files call "longrope", and the original context is 4096 where nothing says
/// it.
fn with_longrope(keys: &Keys) -> Map<String, Value> {
    let mut config = keys.of.clone();
    if keys.gguf.is_some() {
        return config;
    }
    config.entry("original_max_position_embeddings").or_insert(4096.into());
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(rope)) = config.get_mut(key) else { continue };
        for kind in ["type", "rope_type"] {
            if let Some(value) = rope.get_mut(kind).filter(|value| **value == "su" || **value == "yarn") {
                *value = "longrope".into();
            }
        }
    }
    config
}
