//! Gemma 2 (Gemma Team 2024, arXiv 2408.00118): Gemma with norms behind attention and feed-forward too, capped scores and
//! logits, and a window in every other block.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, rms_epsilon, windows};
use super::gemma::{gemma_norm, refuse_both_directions};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gemma2",
    class: "Gemma2ForCausalLM",
    models: "Gemma 2",
    gguf: Some(Gguf {
        name: "gemma2",
        keys: &["attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"],
        factors: &[],
    }),
    tokenizer: TokenizerClass::Usually("GemmaTokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    refuse_both_directions(keys)?;
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2304,
            feed_forward: 9216,
            blocks: 26,
            heads: 8,
            key_value_heads: Some(4),
            head_dim: Some(256),
            vocabulary: 256_000,
            context: 8192,
        },
    )?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    let act = activation(keys, "hidden_activation", Activation::GeluTanh)?;
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let windows = windows(keys, window, sizes.blocks, |index| index.is_multiple_of(2), "`sliding_window`")?;
    let (scale, cap) = (attention_scale(keys, &sizes, 46)?, cap(keys, "attn_logit_softcapping", Some(50.0))?);
    let blocks = blocks(sizes.blocks, |index| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        (attention.scale, attention.cap, attention.window) = (scale, cap, windows[index]);
        let feed = draft.gated(act, false);
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms(keys, epsilon)?))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    let norm = gemma_norm(keys, ("model.norm", "output_norm"), epsilon)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, true)?;
    model.embedding.scale = Some((sizes.hidden as f32).sqrt());
    model.head.cap = self::cap(keys, "final_logit_softcapping", Some(30.0))?;
    Ok(model)
}

/// 1/√(`query_pre_attn_scalar`); in GGUF, which does not say it, as llama.cpp has it: by the size of heads, but for the
/// model of 27B, which is known by its number of blocks.
pub fn attention_scale(keys: &Keys, sizes: &Sizes, blocks_of_27b: usize) -> Result<f32> {
    let scalar = match keys.get("query_pre_attn_scalar") {
        Some(_) => keys.positive("query_pre_attn_scalar")?,
        None if keys.gguf.is_none() => 256.0,
        None if sizes.blocks == blocks_of_27b => (sizes.hidden / sizes.heads.query) as f64,
        None => sizes.heads.dim as f64,
    };
    Ok(scalar.powf(-0.5) as f32)
}

/// What scores or logits are held within; null where they are not.
pub fn cap(keys: &Keys, key: &str, default: Option<f32>) -> Result<Option<f32>> {
    match keys.get(key) {
        None => Ok(default),
        Some(value) if value.is_null() => Ok(None),
        Some(_) => Ok(Some(keys.positive(key)? as f32)),
    }
}

/// The norms around attention and feed-forward.
pub fn norms(keys: &Keys, epsilon: f64) -> Result<Norms> {
    let norm = |name: (&str, &str)| gemma_norm(keys, name, epsilon).map(Some);
    Ok(Norms {
        before_attention: norm(("input_layernorm", "attn_norm"))?,
        after_attention: norm(("post_attention_layernorm", "post_attention_norm"))?,
        before_feed_forward: norm(("pre_feedforward_layernorm", "ffn_norm"))?,
        after_feed_forward: norm(("post_feedforward_layernorm", "post_ffw_norm"))?,
    })
}
