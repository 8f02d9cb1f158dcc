//! SmolLM3: Llama, of which every fourth block turns nothing by its position.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::draft::{Defaults, Sizes, blocks, model, norm, rms_epsilon, windows};
use super::gguf::Gguf;
use super::keys::Keys;
use super::llama::{self, Biases};
use super::rope::{self, Turn};
use super::{Architecture, TokenizerClass};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "smollm3",
    class: "SmolLM3ForCausalLM",
    models: "SmolLM3",
    gguf: Some(Gguf { name: "smollm3", keys: &[], factors: &[] }),
    tokenizer: TokenizerClass::OfFolder,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2048,
            blocks: 36,
            heads: 16,
            key_value_heads: Some(4),
            vocabulary: 128_256,
            context: 32_768,
            ..Defaults::default()
        },
    )?;
    let turns = turns(keys, sizes.blocks)?;
    let slides = keys.flag("use_sliding_window", false)?;
    let window = keys.optional_count("sliding_window", None)?;
    // Blocks that `layer_types` names have their window whatever `use_sliding_window` says.
    let windows = windows(keys, window, sizes.blocks, |index| slides && !turns[index], "`sliding_window`")?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    let biases = Biases { inputs: bias, output: bias, feed_forward: keys.flag("mlp_bias", false)? };
    let blocks = blocks(sizes.blocks, |index| {
        let mut block = llama::block(keys, &sizes, biases, epsilon)?;
        block.attention.window = windows[index];
        block.attention.rope = turns[index].then_some(0);
        Ok(block)
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, Turn { theta: 2e6, ..rope::WHOLE })?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, true)
}

/// Which blocks turn queries and keys: those with 1 in `no_rope_layers`, else all but every `no_rope_layer_interval`-th.
fn turns(keys: &Keys, blocks: usize) -> Result<Vec<bool>> {
    let every = keys.count("no_rope_layer_interval", 4)?;
    match keys.get("no_rope_layers") {
        None | Some(Value::Null) => {
            ensure!(every > 0, "`no_rope_layer_interval` is 0");
            Ok((1..=blocks).map(|number| !number.is_multiple_of(every)).collect())
        }
        Some(Value::Array(flags)) if flags.len() >= blocks => {
            let flag = |flag: &Value| match flag.as_u64() {
                Some(flag @ (0 | 1)) => Ok(flag == 1),
                _ => Err(keys.wrong("no_rope_layers", "a list of 0 and 1")),
            };
            flags[..blocks].iter().map(flag).collect()
        }
        Some(_) => Err(keys.wrong("no_rope_layers", "a list with an entry for each block")),
    }
}
