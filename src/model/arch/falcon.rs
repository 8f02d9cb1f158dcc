//! Falcon (Almazrouei et al. 2023, arXiv 2311.16867): q, k and v in one matrix; attention and feed-forward side by side,
//! behind one norm (7B) or two (40B); or one after the other with biases by position (RW).

use anyhow::{Result, ensure};

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{
    Activation, Alibi, BlockSpec, FeedForwardSpec, FeedInputs, Heads, Name, Norms, Residual, Spec,
};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "falcon",
    class: "FalconForCausalLM",
    models: "Falcon",
    gguf: Some(Gguf { name: "falcon", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::OfFolder,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[
        ("hidden_size", "n_embed"),
        ("num_key_value_heads", "num_kv_heads"),
        ("intermediate_size", "ffn_hidden_size"),
    ]);
    // Where a value is null, as good as absent.
    let given = |key: &str| keys.get(key).is_some_and(|value| !value.is_null());
    let flag = |key: &str, default: bool| if given(key) { keys.flag(key, default) } else { Ok(default) };
    let hidden = keys.count("hidden_size", 4544)?;
    let defaults = Defaults { hidden, feed_forward: 4 * hidden, heads: 71, vocabulary: 65_024, ..Defaults::default() };
    let mut sizes = Sizes::read(keys, &defaults)?;
    // GGUF says how many key-value heads there are, whatever made them so.
    let grouped = flag("new_decoder_architecture", keys.gguf.is_some())?;
    let multi_query = flag("multi_query", true)?;
    let (parallel, alibi) = (flag("parallel_attn", true)?, flag("alibi", false)?);
    let query = sizes.heads.query;
    let key_value = match (grouped, multi_query) {
        (true, _) => sizes.heads.key_value,
        (false, true) => 1,
        (false, false) => query,
    };
    sizes.heads = Heads { query, key_value, dim: sizes.hidden / query };
    let two_norms = keys.gguf.map_or(grouped, |file| file.first_block_has("attn_norm_2.weight"));
    let norms = keys.optional_count("num_ln_in_parallel_attn", None)?.unwrap_or(if two_norms { 2 } else { 1 });
    ensure!(
        parallel || !grouped,
        "`new_decoder_architecture` without `parallel_attn` is not supported; no published Falcon is so"
    );
    ensure!(
        !parallel || norms == 1 || (norms == 2 && grouped),
        "`num_ln_in_parallel_attn` is {norms}; expected 1, or 2 with `new_decoder_architecture`"
    );
    let epsilon = keys.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let act = if given("activation") { activation(keys, "activation", Activation::Gelu)? } else { Activation::Gelu };
    let bias = flag("bias", false)?;
    let (up, down) = (("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down"));
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        // llama.cpp's converter puts all queries first, then all keys, then all values.
        let groups = if keys.gguf.is_some() { 1 } else { key_value };
        let inputs = draft.fused(("self_attention.query_key_value", "attn_qkv"), groups, bias);
        let shares = parallel && norms == 1;
        let beside = shares.then(|| draft.linear("up", up, sizes.feed_forward, bias));
        let mut attention = draft.attention(inputs, ("self_attention.dense", "attn_output"), bias);
        if alibi {
            (attention.rope, attention.alibi) = (None, Some(Alibi { falcon: true }));
        }
        let feed = match beside {
            Some(up) => draft.down(FeedInputs::Plain { up }, act, down, bias),
            None => draft.plain(act, [up, down], bias),
        };
        let norm = |name: (&str, &str)| layer_norm(name, epsilon, true).map(Some);
        let (before_attention, before_feed_forward) = match (parallel, norms) {
            (true, 2) => (norm(("ln_attn", "attn_norm_2"))?, norm(("ln_mlp", "attn_norm"))?),
            (true, _) => (norm(("input_layernorm", "attn_norm"))?, None),
            (false, _) => (norm(("input_layernorm", ""))?, norm(("post_attention_layernorm", ""))?),
        };
        let around = Norms { before_attention, before_feed_forward, ..Norms::default() };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), around);
        Ok(if parallel { BlockSpec { residual: Residual::Parallel, ..block } } else { block })
    })?;
    let ropes = if alibi { vec![] } else { vec![rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?] };
    let norm = layer_norm(("transformer.ln_f", "output_norm"), epsilon, true)?;
    let mut model = model(keys, &sizes, ropes, blocks, norm, true)?;
    model.layers = Name::new("transformer.h", "blk");
    model.embedding.name = Name::new("transformer.word_embeddings", "token_embd");
    Ok(model)
}
