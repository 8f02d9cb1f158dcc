//! OLMo 3: OLMo 2 with a window in most blocks, which then have a rotary embedding of their own.

use anyhow::Result;

use super::draft::{Sizes, blocks, model, norm, rms_epsilon, windows};
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use super::{olmo2, rope};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture {
    name: "olmo3",
    class: "Olmo3ForCausalLM",
    models: "OLMo 3",
    gguf: None,
    tokenizer: TokenizerClass::AsItIs,
    spec,
};

/// θ where nothing says it.
const THETA: f64 = 500_000.0;

pub fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &olmo2::DEFAULTS)?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let windows = windows(keys, window, sizes.blocks, |index| !(index + 1).is_multiple_of(4), "`sliding_window`")?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut block = olmo2::block(keys, &sizes, epsilon)?;
        block.attention.window = windows[index];
        block.attention.rope = Some(usize::from(windows[index].is_some()));
        Ok(block)
    })?;
    // In GGUF blocks with a window have the same θ, if no other, and never a scaling.
    let local = match keys.object("rope_parameters", "rope_parameters.")?.filter(|_| keys.gguf.is_some()) {
        Some(rope) => rope.positive("rope_theta")?,
        None => THETA,
    };
    let ropes = rope::read_two(keys, (sizes.context, sizes.heads), (THETA, local), "rope_local_base_freq")?;
    model(keys, &sizes, ropes.to_vec(), blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
