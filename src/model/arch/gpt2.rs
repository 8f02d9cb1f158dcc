//! GPT-2 (Radford et al. 2019): learned positions, layer norms, biases, q, k and v in one matrix; weights are stored
//! transposed.

use anyhow::{Result, ensure};

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Heads, Name, Norms, PositionsSpec, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gpt2",
    class: "GPT2LMHeadModel",
    models: "GPT-2",
    gguf: Some(Gguf { name: "gpt2", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GPT2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ]);
    let defaults = Defaults {
        hidden: 768,
        feed_forward: 1,
        blocks: 12,
        heads: 12,
        vocabulary: 50_257,
        context: 1024,
        ..Defaults::default()
    };
    let mut sizes = Sizes::read(keys, &defaults)?;
    // transformers takes no others.
    let query = sizes.heads.query;
    sizes.heads = Heads { query, key_value: query, dim: sizes.hidden / query };
    let inner = if keys.gguf.is_some() { "intermediate_size" } else { "n_inner" };
    sizes.feed_forward = keys.optional_count(inner, None)?.unwrap_or(4 * sizes.hidden);
    let sizes = sizes.checked()?;
    ensure!(!keys.flag("add_cross_attention", false)?, "`add_cross_attention` is true: it reads from an encoder");
    let epsilon = keys.number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let act = activation(keys, "activation_function", Activation::GeluTanh)?;
    let scales = keys.flag("scale_attn_weights", true)?;
    let by_block = keys.flag("scale_attn_by_inverse_layer_idx", false)?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut draft = Draft::new(&sizes);
        let inputs = draft.fused(("attn.c_attn", "attn_qkv"), 1, true);
        let mut attention = draft.attention(inputs, ("attn.c_proj", "attn_output"), true);
        attention.rope = None;
        attention.scale = if scales { attention.scale } else { 1.0 };
        if by_block {
            attention.scale /= (index + 1) as f32;
        }
        let feed = draft.plain(act, [("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")], true);
        if keys.gguf.is_none() {
            draft.all_transposed();
        }
        let norms = Norms {
            before_attention: Some(layer_norm(("ln_1", "attn_norm"), epsilon, true)?),
            before_feed_forward: Some(layer_norm(("ln_2", "ffn_norm"), epsilon, true)?),
            ..Norms::default()
        };
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
    })?;
    let norm = layer_norm(("transformer.ln_f", "output_norm"), epsilon, true)?;
    let mut model = model(keys, &sizes, vec![], blocks, norm, true)?;
    model.layers = Name::new("transformer.h", "blk");
    model.embedding.name = Name::new("transformer.wte", "token_embd");
    let name = Name::new("transformer.wpe", "position_embd");
    model.embedding.positions = Some(PositionsSpec { name, rows: sizes.context, first: 0 });
    Ok(model)
}
