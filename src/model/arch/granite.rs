//! Granite 3 (IBM): Llama with a factor each for embeddings, scores, what blocks add, and logits.

use anyhow::Result;

use super::draft::{Defaults, Sizes, blocks, model, norm, rms_epsilon};
use super::gguf::{Gguf, LONG_ROPE_FACTORS, ROPE_FACTORS};
use super::keys::Keys;
use super::llama::{self, Biases};
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    class: "GraniteForCausalLM",
    models: "Granite 3",
    gguf: Some(Gguf {
        name: "granite",
        keys: &["attention.scale", "logit_scale", "embedding_scale", "residual_scale"],
        factors: &[ROPE_FACTORS, LONG_ROPE_FACTORS[0], LONG_ROPE_FACTORS[1]],
    }),
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &Defaults::default())?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    let biases = Biases { inputs: bias, output: bias, feed_forward: keys.flag("mlp_bias", false)? };
    let factor = |key: &str| Ok::<_, anyhow::Error>(keys.number(key)?.unwrap_or(1.0) as f32);
    let mut block = llama::block(keys, &sizes, biases, epsilon)?;
    // llama.cpp scales as others do where a file does not say it.
    if keys.gguf.is_none() || keys.get("attention_multiplier").is_some() {
        block.attention.scale = factor("attention_multiplier")?;
    }
    block.branch_scale = Some(factor("residual_multiplier")?);
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    let blocks = blocks(sizes.blocks, |_| Ok(block.clone()))?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)?;
    model.embedding.scale = Some(factor("embedding_multiplier")?);
    let divisor = if keys.get("logits_scaling").is_some() { keys.positive("logits_scaling")? } else { 1.0 };
    model.head.scale = Some(divisor.recip() as f32);
    Ok(model)
}
