//! Phi 1, 1.5 and 2 (Gunasekar et al. 2023, arXiv 2306.11644): attention and feed-forward side by side, layer norms,
//! biases, and a part of each head turned.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{
    Activation, BlockSpec, FeedForwardSpec, FeedInputs, Inputs, Name, NormSpec, Norms, Over, Residual, Spec,
};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "phi",
    class: "PhiForCausalLM",
    models: "Phi 1 to 2",
    gguf: Some(Gguf { name: "phi2", keys: &["rope.dimension_count"], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GPT2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults { hidden: 2048, feed_forward: 8192, blocks: 24, vocabulary: 51_200, ..Defaults::default() },
    )?;
    let epsilon = keys.number("layer_norm_eps")?.unwrap_or(1e-5);
    let act = activation(keys, "hidden_act", Activation::GeluTanh)?;
    let norms_heads = keys.flag("qk_layernorm", false)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        // Older GGUF files have the three in one.
        let inputs = match keys.gguf.is_some_and(|file| file.first_block_has("attn_qkv.weight")) {
            true => draft.fused(("self_attn.qkv_proj", "attn_qkv"), 1, true),
            false => Inputs::Separate(draft.queries_keys_values(true)),
        };
        let up = draft.linear("up", ("mlp.fc1", "ffn_up"), sizes.feed_forward, true);
        let mut attention = draft.attention(inputs, ("self_attn.dense", "attn_output"), true);
        if norms_heads {
            let of = |name: (&str, &str)| {
                Ok::<_, anyhow::Error>(NormSpec { over: Over::Head, ..layer_norm(name, epsilon, true)? })
            };
            attention.q_norm = Some(of(("self_attn.q_layernorm", "attn_q_norm"))?);
            attention.k_norm = Some(of(("self_attn.k_layernorm", "attn_k_norm"))?);
        }
        let feed = draft.down(FeedInputs::Plain { up }, act, ("mlp.fc2", "ffn_down"), true);
        let before_attention = Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, true)?);
        let norms = Norms { before_attention, ..Norms::default() };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
        Ok(BlockSpec { residual: Residual::Parallel, ..block })
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { part: Some(0.5), ..rope::WHOLE })?;
    let norm = layer_norm(("model.final_layernorm", "output_norm"), epsilon, true)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, false)?;
    model.head.bias = true;
    model.head.name = Name::new("lm_head", "output");
    Ok(model)
}
