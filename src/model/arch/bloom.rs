//! BLOOM (BigScience 2022, arXiv 2211.05100): biases by position instead of positions, a norm of embeddings, q, k and v in
//! one matrix, head by head.

use anyhow::{Result, ensure};

use super::draft::{Defaults, Draft, Sizes, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, Alibi, BlockSpec, FeedForwardSpec, Heads, Name, Norms, Residual, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "bloom",
    class: "BloomForCausalLM",
    models: "BLOOM",
    gguf: Some(Gguf { name: "bloom", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::OfFolder,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[
        ("hidden_size", "n_embed"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("max_position_embeddings", "seq_length"),
    ]);
    let hidden = keys.count("hidden_size", 64)?;
    let defaults =
        Defaults { hidden, feed_forward: 4 * hidden, blocks: 2, heads: 8, vocabulary: 250_880, ..Defaults::default() };
    let mut sizes = Sizes::read(keys, &defaults)?;
    // transformers takes no others.
    let query = sizes.heads.query;
    sizes.heads = Heads { query, key_value: query, dim: hidden / query };
    sizes.feed_forward = 4 * hidden;
    ensure!(
        !keys.flag("slow_but_exact", false)? || keys.count("pretraining_tp", 1)? <= 1,
        "`slow_but_exact` with `pretraining_tp` above 1 is not supported"
    );
    let epsilon = keys.number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let of_normed = keys.flag("apply_residual_connection_post_layernorm", false)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        // llama.cpp's converter puts all queries first, then all keys, then all values.
        let groups = if keys.gguf.is_some() { 1 } else { query };
        let inputs = draft.fused(("self_attention.query_key_value", "attn_qkv"), groups, true);
        let mut attention = draft.attention(inputs, ("self_attention.dense", "attn_output"), true);
        (attention.rope, attention.alibi) = (None, Some(Alibi { falcon: false }));
        let names = [("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down")];
        let feed = draft.plain(Activation::GeluTanh, names, true);
        let norms = Norms {
            before_attention: Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, true)?),
            before_feed_forward: Some(layer_norm(("post_attention_layernorm", "ffn_norm"), epsilon, true)?),
            ..Norms::default()
        };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
        Ok(if of_normed { BlockSpec { residual: Residual::OfNormed, ..block } } else { block })
    })?;
    let norm = layer_norm(("transformer.ln_f", "output_norm"), epsilon, true)?;
    let mut model = model(keys, &sizes, vec![], blocks, norm, true)?;
    model.layers = Name::new("transformer.h", "blk");
    model.embedding.name = Name::new("transformer.word_embeddings", "token_embd");
    model.embedding.norm =
        Some(layer_norm(("transformer.word_embeddings_layernorm", "token_embd_norm"), epsilon, true)?);
    Ok(model)
}
