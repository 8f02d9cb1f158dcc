//! StarCoder 2 (Lozhkov et al. 2024, arXiv 2402.19173): layer norms, biases, GELU without a gate.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "starcoder2",
    class: "Starcoder2ForCausalLM",
    models: "StarCoder 2",
    gguf: Some(Gguf { name: "starcoder2", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GPT2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 3072,
            feed_forward: 12_288,
            blocks: 30,
            heads: 24,
            key_value_heads: Some(2),
            vocabulary: 49_152,
            context: 4096,
            ..Defaults::default()
        },
    )?;
    let epsilon = keys.number("norm_epsilon")?.unwrap_or(1e-5);
    let act = activation(keys, "hidden_act", Activation::GeluTanh)?;
    let bias = keys.flag("use_bias", true)?;
    let window = keys.optional_count("sliding_window", None)?;
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        attention.window = window;
        let feed = draft.plain(act, [("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")], bias);
        let norms = Norms {
            before_attention: Some(layer_norm(("input_layernorm", "attn_norm"), epsilon, true)?),
            before_feed_forward: Some(layer_norm(("post_attention_layernorm", "ffn_norm"), epsilon, true)?),
            ..Norms::default()
        };
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, layer_norm(("model.norm", "output_norm"), epsilon, true)?, true)
}
