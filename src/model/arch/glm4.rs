//! GLM-4 0414: norms behind attention and feed-forward too, one matrix for gate and up, and neighbours of half a head
//! turned together.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, norm, rms_epsilon};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, FeedInputs, Inputs, Norms, Place, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "glm4",
    class: "Glm4ForCausalLM",
    models: "GLM-4 0414",
    gguf: Some(Gguf { name: "glm4", keys: &["rope.dimension_count"], factors: &[] }),
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let behind = |epsilon: f64| {
        Ok(Norms {
            after_attention: Some(norm(("post_self_attn_layernorm", "post_attention_norm"), epsilon)?),
            after_feed_forward: Some(norm(("post_mlp_layernorm", "post_ffw_norm"), epsilon)?),
            ..Norms::default()
        })
    };
    of_norms(keys, behind)
}

/// A GLM with further norms.
pub fn of_norms(keys: &Keys, further: impl Fn(f64) -> Result<Norms>) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 4096,
            feed_forward: 13_696,
            blocks: 40,
            heads: 32,
            key_value_heads: Some(2),
            head_dim: Some(128),
            vocabulary: 151_552,
            context: 131_072,
        },
    )?;
    let epsilon = rms_epsilon(keys, 1.5625e-7)?;
    let act = activation(keys, "hidden_act", Activation::Silu)?;
    let bias = keys.flag("attention_bias", true)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), false);
        draft.site(Place::FeedForwardInput, sizes.hidden);
        let gate_up = draft.linear("gate_up", ("mlp.gate_up_proj", "ffn_up"), 2 * sizes.feed_forward, false);
        let feed = draft.down(FeedInputs::Fused { gate_up }, act, ("mlp.down_proj", "ffn_down"), false);
        let norms = Norms {
            before_attention: Some(norm(("input_layernorm", "attn_norm"), epsilon)?),
            before_feed_forward: Some(norm(("post_attention_layernorm", "ffn_norm"), epsilon)?),
            ..further(epsilon)?
        };
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
    })?;
    let turn = Turn { part: Some(0.5), interleaved: true, ..rope::WHOLE };
    let rope = rope::read(keys, sizes.context, sizes.heads, turn)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
