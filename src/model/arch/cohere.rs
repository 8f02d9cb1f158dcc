//! Command R (Cohere): attention and feed-forward side by side behind one layer norm, neighbours turned together, scaled
//! logits.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Inputs, NormSpec, Norms, Over, Residual, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "cohere",
    class: "CohereForCausalLM",
    models: "Command R",
    gguf: Some(Gguf { name: "command-r", keys: &["logit_scale"], factors: &[] }),
    tokenizer: TokenizerClass::Usually("CohereTokenizer"),
    spec,
};

pub const DEFAULTS: Defaults = Defaults {
    hidden: 8192,
    feed_forward: 22_528,
    blocks: 40,
    heads: 64,
    key_value_heads: None,
    head_dim: None,
    vocabulary: 256_000,
    context: 8192,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &DEFAULTS)?;
    let epsilon = keys.optional_number("layer_norm_eps")?.unwrap_or(1e-5);
    let norms_heads = keys.flag("use_qk_norm", false)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut block = block(keys, &sizes, epsilon)?;
        if norms_heads {
            let of = |name: (&str, &str), heads: usize| {
                Ok::<_, anyhow::Error>(NormSpec { over: Over::EachHead(heads), ..layer_norm(name, epsilon, false)? })
            };
            block.attention.q_norm = Some(of(("self_attn.q_norm", "attn_q_norm"), sizes.heads.query)?);
            block.attention.k_norm = Some(of(("self_attn.k_norm", "attn_k_norm"), sizes.heads.key_value)?);
        }
        Ok(block)
    })?;
    let turn = Turn { theta: 500_000.0, interleaved: true, ..rope::WHOLE };
    let rope = rope::read(keys, sizes.context, sizes.heads, turn)?;
    let norm = layer_norm(("model.norm", "output_norm"), epsilon, false)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, true)?;
    model.head.scale =
        Some(keys.optional_number("logit_scale")?.unwrap_or(if keys.gguf.is_some() { 1.0 } else { 0.0625 }) as f32);
    Ok(model)
}

/// Command R's block, which Command R7B has taken over.
pub fn block(keys: &Keys, sizes: &Sizes, epsilon: f64) -> Result<BlockSpec> {
    let bias = keys.flag("attention_bias", false)?;
    let mut draft = Draft::new(sizes);
    let inputs = Inputs::Separate(draft.queries_keys_values(bias));
    let beside = draft.gate_and_up(false);
    let attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
    let act = activation(keys, "hidden_act", Activation::Silu)?;
    let feed = draft.down(beside, act, ("mlp.down_proj", "ffn_down"), false);
    let before_attention = Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, false)?);
    let norms = Norms { before_attention, ..Norms::default() };
    let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
    Ok(BlockSpec { residual: Residual::Parallel, ..block })
}
