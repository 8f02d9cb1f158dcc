//! Gemma (Gemma Team 2024, arXiv 2403.08295): Llama with scaled embeddings, norms that add 1 to their weights, and GELU.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, norm, rms_epsilon};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, NormKind, NormSpec, Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gemma",
    class: "GemmaForCausalLM",
    models: "Gemma",
    gguf: Some(Gguf { name: "gemma", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GemmaTokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    refuse_both_directions(keys)?;
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 3072,
            feed_forward: 24_576,
            blocks: 28,
            heads: 16,
            key_value_heads: Some(16),
            head_dim: Some(256),
            vocabulary: 256_000,
            context: 8192,
        },
    )?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    // transformers: the published files say "gelu" and mean its approximation.
    let act = match activation(keys, "hidden_act", Activation::GeluTanh)? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        let feed = draft.gated(act, false);
        let norms = Norms {
            before_attention: Some(gemma_norm(keys, ("input_layernorm", "attn_norm"), epsilon)?),
            before_feed_forward: Some(gemma_norm(keys, ("post_attention_layernorm", "ffn_norm"), epsilon)?),
            ..Norms::default()
        };
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    let norm = gemma_norm(keys, ("model.norm", "output_norm"), epsilon)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, true)?;
    model.embedding.scale = Some((sizes.hidden as f32).sqrt());
    Ok(model)
}

/// A norm whose weights are stored less 1; llama.cpp's converter adds it.
pub fn gemma_norm(keys: &Keys, name: (&str, &str), epsilon: f64) -> Result<NormSpec> {
    let kind = if keys.gguf.is_some() { NormKind::Rms } else { NormKind::RmsPlusOne };
    Ok(NormSpec { kind, ..norm(name, epsilon)? })
}

/// An error where each token sees those behind it too.
pub fn refuse_both_directions(keys: &Keys) -> Result<()> {
    let both = keys.get("use_bidirectional_attention").filter(|value| !value.is_null() && **value != false);
    anyhow::ensure!(
        both.is_none(),
        "`use_bidirectional_attention` is {}: each token sees those behind it too; calipr runs models that write from left \
         to right",
        both.unwrap_or(&serde_json::Value::Null)
    );
    Ok(())
}
