//! OLMo 3: OLMo 2 with a window in most blocks, which then have a rotary embedding of their own.

use anyhow::Result;

use super::Architecture;
use super::draft::{Sizes, blocks, model, norm, rms_epsilon, windows};
use super::keys::Keys;
use super::{olmo2, rope};
use crate::model::spec::Spec;

pub const ARCHITECTURE: Architecture = Architecture { name: "olmo3", gguf: None, spec };

/// θ where nothing says it.
const THETA: f64 = 500_000.0;

fn spec(keys: &Keys) -> Result<Spec> {
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
    let ropes = rope::read_two(keys, (sizes.context, sizes.heads), (THETA, THETA), "")?;
    model(keys, &sizes, ropes.to_vec(), blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
