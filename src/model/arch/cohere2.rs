//! Command R7B and A (Cohere): Command R, of which most blocks have a window, and the others turn nothing.

use anyhow::Result;

use super::cohere::{DEFAULTS, block};
use super::draft::{Sizes, blocks, layer_norm, model, windows};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "cohere2",
    class: "Cohere2ForCausalLM",
    models: "Command R7B and Command A",
    gguf: Some(Gguf { name: "cohere2", keys: &["logit_scale", "attention.sliding_window"], factors: &[] }),
    tokenizer: TokenizerClass::Usually("CohereTokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &DEFAULTS)?;
    let epsilon = keys.number("layer_norm_eps")?.unwrap_or(1e-5);
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let every = keys.count("sliding_window_pattern", 4)?.max(1);
    let windows = windows(keys, window, sizes.blocks, |index| !(index + 1).is_multiple_of(every), "`sliding_window`")?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut block = block(keys, &sizes, epsilon)?;
        block.attention.window = windows[index];
        block.attention.rope = windows[index].map(|_| 0);
        Ok(block)
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { interleaved: true, ..rope::WHOLE })?;
    let norm = layer_norm(("model.norm", "output_norm"), epsilon, false)?;
    let mut model = model(keys, &sizes, vec![rope], blocks, norm, true)?;
    model.head.scale =
        Some(keys.number("logit_scale")?.unwrap_or(if keys.gguf.is_some() { 1.0 } else { 0.0625 }) as f32);
    Ok(model)
}
