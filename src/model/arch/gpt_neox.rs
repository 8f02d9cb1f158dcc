//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia: q, k and v in one matrix, head by head; layer norms, biases,
//! a part of each head turned; attention and feed-forward side by side, each behind a norm of its own.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Heads, Name, Norms, Residual, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    models: "GPT-NeoX and Pythia",
    gguf: Some(Gguf { name: "gptneox", keys: &["rope.dimension_count"], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GPTNeoXTokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let mut of = keys.of.clone();
    if keys.gguf.is_none() {
        // transformers reads the names that this architecture has for them, and nothing under those that others have.
        of.retain(|key, _| !matches!(key.as_str(), "rope_theta" | "partial_rotary_factor"));
    }
    let aliases = &[("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")];
    let keys = &Keys { of: &of, aliases, ..*keys };
    let defaults = Defaults {
        hidden: 6144,
        feed_forward: 24_576,
        blocks: 44,
        heads: 64,
        vocabulary: 50_432,
        ..Defaults::default()
    };
    let mut sizes = Sizes::read(keys, &defaults)?;
    // transformers takes no others.
    let query = sizes.heads.query;
    sizes.heads = Heads { query, key_value: query, dim: sizes.hidden / query };
    let epsilon = keys.number("layer_norm_eps")?.unwrap_or(1e-5);
    let act = activation(keys, "hidden_act", Activation::Gelu)?;
    let (bias, parallel) = (keys.flag("attention_bias", true)?, keys.flag("use_parallel_residual", true)?);
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        // llama.cpp's converter puts all queries first, then all keys, then all values.
        let groups = if keys.gguf.is_some() { 1 } else { query };
        let inputs = draft.fused(("attention.query_key_value", "attn_qkv"), groups, bias);
        let attention = draft.attention(inputs, ("attention.dense", "attn_output"), bias);
        let feed = draft.plain(act, [("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down")], true);
        let norms = Norms {
            before_attention: Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, true)?),
            before_feed_forward: Some(layer_norm(("post_attention_layernorm", "ffn_norm"), epsilon, true)?),
            ..Norms::default()
        };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
        Ok(if parallel { BlockSpec { residual: Residual::Parallel, ..block } } else { block })
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { part: Some(0.25), ..rope::WHOLE })?;
    let norm = layer_norm(("gpt_neox.final_layer_norm", "output_norm"), epsilon, true)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, false)?;
    model.embedding.name = Name::new("gpt_neox.embed_in", "token_embd");
    model.layers = Name::new("gpt_neox.layers", "blk");
    model.head.name = Name::new("embed_out", "output");
    Ok(model)
}
