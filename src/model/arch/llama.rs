//! Llama (Touvron et al. 2023, arXiv 2302.13971), of which Llama 2 and 3, SmolLM2, TinyLlama and many others are.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::gguf::{EXPERTS, Gguf, LONG_ROPE_FACTORS, ROPE_FACTORS};
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use super::{mixtral, rope};
use crate::model::spec::{Activation, BlockSpec, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    models: "Llama 1 to 3 and their like (TinyLlama, SmolLM2, Yi; in GGUF Mistral and Mixtral too)",
    gguf: Some(Gguf {
        name: "llama",
        keys: &EXPERTS,
        factors: &[ROPE_FACTORS, LONG_ROPE_FACTORS[0], LONG_ROPE_FACTORS[1]],
    }),
    tokenizer: TokenizerClass::OfFolder,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &Defaults::default())?;
    let biases = match keys.gguf {
        // llama.cpp takes what biases there are.
        Some(file) => {
            let output = file.has("blk.0.attn_output.bias");
            let inputs = output || ["q", "k", "v"].iter().any(|name| file.has(&format!("blk.0.attn_{name}.bias")));
            Biases { inputs, output, feed_forward: file.has("blk.0.ffn_down.bias") }
        }
        None => {
            let attention = keys.flag("attention_bias", false)?;
            Biases { inputs: attention, output: attention, feed_forward: keys.flag("mlp_bias", false)? }
        }
    };
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let block = match keys.count("num_experts", 0)? > 0 && keys.gguf.is_some() {
        // llama.cpp's converter makes Mixtral a Llama.
        true => mixtral::block(keys, &sizes, None, epsilon)?,
        false => block(keys, &sizes, biases, epsilon)?,
    };
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    let blocks = blocks(sizes.blocks, |_| Ok(block.clone()))?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// What llama.cpp turns by neighbours of those that have this block.
const PAIRED: [&str; 3] = ["llama", "smollm3", "granite"];

/// What linears have beyond their weights.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases {
    /// Of q, k and v.
    pub inputs: bool,
    /// Of o.
    pub output: bool,
    pub feed_forward: bool,
}

/// Llama's block, which others have taken over.
pub fn block(keys: &Keys, sizes: &Sizes, biases: Biases, epsilon: f64) -> Result<BlockSpec> {
    let mut draft = Draft::new(sizes);
    let inputs = draft.queries_keys_values(biases.inputs);
    if keys.gguf.is_some() && PAIRED.contains(&keys.architecture()?) {
        draft.paired(inputs);
    }
    let attention = draft.attention(Inputs::Separate(inputs), ("self_attn.o_proj", "attn_output"), biases.output);
    let feed = draft.gated(activation(keys, "hidden_act", Activation::Silu)?, biases.feed_forward);
    Ok(draft.finish(attention, FeedForwardSpec::One(feed), llama_norms(epsilon)?))
}
