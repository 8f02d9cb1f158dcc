//! StableLM 2 (Bellagente et al. 2024, arXiv 2402.17834): Llama with layer norms and a part of each head turned; some with
//! norms of heads, and attention and feed-forward side by side.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Inputs, NormSpec, Norms, Over, Residual, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "stablelm",
    class: "StableLmForCausalLM",
    models: "StableLM",
    gguf: Some(Gguf { name: "stablelm", keys: &["rope.dimension_count"], factors: &[] }),
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2560,
            feed_forward: 6912,
            key_value_heads: Some(32),
            vocabulary: 50_304,
            context: 4096,
            ..Defaults::default()
        },
    )?;
    let epsilon = keys.number("layer_norm_eps")?.unwrap_or(1e-5);
    let act = activation(keys, "hidden_act", Activation::Silu)?;
    let bias = keys.flag("use_qkv_bias", false)?;
    let (norms_heads, parallel) = (keys.flag("qk_layernorm", false)?, is_parallel(keys)?);
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let beside = parallel.then(|| draft.gate_and_up(false));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), false);
        if norms_heads {
            // Each head has a norm of its own, whose weights lie in tensors of their own.
            let of = |name: (&str, &str), heads: usize| {
                let over = if keys.gguf.is_some() { Over::EachHead(heads) } else { Over::HeadsApart(heads) };
                Ok::<_, anyhow::Error>(NormSpec { over, ..layer_norm(name, epsilon, false)? })
            };
            attention.q_norm = Some(of(("self_attn.q_layernorm.norms", "attn_q_norm"), sizes.heads.query)?);
            attention.k_norm = Some(of(("self_attn.k_layernorm.norms", "attn_k_norm"), sizes.heads.key_value)?);
        }
        let before_attention = Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, true)?);
        let mut norms = Norms { before_attention, ..Norms::default() };
        let feed = match beside {
            Some(inputs) => draft.down(inputs, act, ("mlp.down_proj", "ffn_down"), false),
            None => {
                norms.before_feed_forward = Some(layer_norm(("post_attention_layernorm", "ffn_norm"), epsilon, true)?);
                draft.gated(act, false)
            }
        };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
        Ok(if parallel { BlockSpec { residual: Residual::Parallel, ..block } } else { block })
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { part: Some(0.25), ..rope::WHOLE })?;
    let norm = layer_norm(("model.norm", "output_norm"), epsilon, true)?;
    model(keys, &sizes, vec![rope], blocks, norm, false)
}

/// Whether attention and feed-forward are side by side; in GGUF, whether the latter has no norm of its own.
fn is_parallel(keys: &Keys) -> Result<bool> {
    match keys.gguf {
        Some(file) => Ok(!file.first_block_has("ffn_norm.weight")),
        None => keys.flag("use_parallel_residual", false),
    }
}
