//! What a config says of rotary embeddings, as transformers reads it (its `modeling_rope_utils`).

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

use super::keys::Keys;
use crate::model::rope::{RopeScaling, RopeSpec, Yarn};
use crate::model::spec::Reach;

/// θ where nothing says it.
const THETA: f64 = 10_000.0;

/// The rotary embedding of all blocks, whole heads of `dim` values, and the longest sequence for which it is so.
///
/// transformers: `rope_scaling`, where it is there and not empty, replaces `rope_parameters` whole; θ in the one that
/// counts goes before θ beside it.
pub fn read(keys: &Keys, positions: usize, dim: usize, remarks: &mut Vec<String>) -> Result<(RopeSpec, Option<Reach>)> {
    let theta = match keys.get("rope_theta") {
        Some(_) => keys.positive("rope_theta")?,
        None => THETA,
    };
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let parameters = keys.object("rope_parameters", "rope_parameters.")?;
    let none = Map::new();
    let rope = scaling.or(parameters).unwrap_or(Keys { of: &none, prefix: "rope_parameters.", gguf: None });
    if let Some((key, _)) = rope.of.iter().find(|(_, value)| value.is_object()) {
        bail!("`{}{key}` gives some blocks a rotary embedding of their own, which calipr does not run", rope.prefix);
    }
    let theta = if rope.get("rope_theta").is_some() { rope.positive("rope_theta")? } else { theta };
    let kind = match rope.get("rope_type").or(rope.get("type")) {
        None => "default",
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return Err(rope.wrong("rope_type", "a name, such as \"linear\"")),
    };
    // transformers has room for a part of a head in the scaled kinds, but its code for these architectures does not;
    // it turns whole heads where the kind is "default", whatever the factor.
    let partial = rope.optional_number("partial_rotary_factor")?.or(keys.optional_number("partial_rotary_factor")?);
    if let Some(part) = partial.filter(|&part| part != 1.0) {
        ensure!(kind == "default", "`partial_rotary_factor` is {part}; calipr turns whole heads");
        let said =
            format!("`partial_rotary_factor` is {part}, but this architecture turns whole heads, as in transformers");
        remarks.push(said);
    }
    let original = || -> Result<f64> {
        if keys.get("original_max_position_embeddings").is_some() {
            return keys.positive("original_max_position_embeddings");
        }
        match rope.get("original_max_position_embeddings") {
            Some(_) => rope.positive("original_max_position_embeddings"),
            None => Ok(positions as f64),
        }
    };
    let factor = || rope.positive("factor").map(|factor| factor as f32);
    let mut reach = None;
    let scaling = match kind {
        "default" => RopeScaling::None,
        // Up to the context, which windows do not exceed, its base is as it was.
        "dynamic" => factor().map(|_| RopeScaling::None)?,
        "linear" => RopeScaling::Linear(factor()?),
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: rope.positive("low_freq_factor")? as f32,
            high_freq_factor: rope.positive("high_freq_factor")? as f32,
            original_context: original()? as f32,
        },
        "yarn" => RopeScaling::Yarn(yarn(&rope, positions, original()?)?),
        "longrope" => {
            let original = original()?;
            reach = Some(Reach {
                tokens: original as usize,
                because: "original context, up to which longrope has its short factors",
            });
            rope.numbers("long_factor", dim / 2)?;
            let factor = rope.optional_number("factor")?.unwrap_or(positions as f64 / original);
            let sharper = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            RopeScaling::LongRope {
                short_factors: rope.numbers("short_factor", dim / 2)?,
                attention_factor: rope.optional_number("attention_factor")?.unwrap_or_else(sharper) as f32,
            }
        }
        other => bail!(
            "`{}rope_type` \"{other}\" is not supported; calipr knows default, linear, dynamic, yarn, longrope and llama3",
            rope.prefix
        ),
    };
    Ok((RopeSpec { theta: theta as f32, dim, scaling }, reach))
}

fn yarn(rope: &Keys, positions: usize, original_context: f64) -> Result<Yarn> {
    // A factor that is null is the ratio of the two contexts; one that is absent is missing.
    let factor = match rope.get("factor") {
        Some(Value::Null) => positions as f64 / original_context,
        _ => rope.positive("factor")?,
    };
    let some = |key: &str| rope.optional_number(key).map(|x| x.filter(|&x| x != 0.0));
    let scales = some("mscale")?.zip(some("mscale_all_dim")?);
    let given = rope.optional_number("attention_factor")?;
    Ok(Yarn {
        factor,
        attention_factor: given.unwrap_or_else(|| Yarn::sharpness(factor, scales)) as f32,
        original_context,
        beta_fast: some("beta_fast")?.unwrap_or(32.0),
        beta_slow: some("beta_slow")?.unwrap_or(1.0),
        truncate: rope.flag("truncate", true)?,
    })
}
