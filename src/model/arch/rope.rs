//! What a config says of rotary embeddings, as transformers reads it (its `modeling_rope_utils`).

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

use super::keys::Keys;
use crate::model::rope::{RopeScaling, RopeSpec, Yarn};
use crate::model::spec::Heads;

/// How the code of an architecture turns heads.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// θ where nothing says it.
    pub theta: f64,
    /// The part of a head that is turned where nothing says it; None where the code turns whole heads whatever a config
    /// says.
    pub part: Option<f64>,
    /// Neighbours are turned together, instead of the halves.
    pub interleaved: bool,
}

/// As Llama's code does.
pub const WHOLE: Turn = Turn { theta: 10_000.0, part: None, interleaved: false };

/// The rotary embedding of all blocks.
///
/// transformers: `rope_scaling`, where it is there and not empty, replaces `rope_parameters` whole; θ in the one that
/// counts goes before θ beside it.
pub fn read(keys: &Keys, context: usize, heads: Heads, turn: Turn) -> Result<RopeSpec> {
    let none = Map::new();
    let rope = parameters(keys, &none)?;
    if let Some((key, _)) = rope.of.iter().find(|(_, value)| value.is_object()) {
        bail!("`{}{key}` gives some blocks a rotary embedding of their own, which calipr does not run", rope.prefix);
    }
    of(keys, &rope, (context, heads), turn)
}

/// The rotary embeddings of blocks that see all, and of those with a window, each with its θ where nothing says it.
///
/// transformers' Gemma 3 and OLMo 3: what is not nested in `rope_parameters` is of blocks that see all.
pub fn read_two(
    keys: &Keys,
    (context, heads): (usize, Heads),
    (theta, local_theta): (f64, f64),
    local_key: &str,
) -> Result<[RopeSpec; 2]> {
    let none = Map::new();
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let nested = keys.object("rope_parameters", "rope_parameters.")?;
    let of_kind = |kind: &'static str, prefix: &'static str| match &nested {
        Some(nested) if nested.of.values().any(Value::is_object) => nested.object(kind, prefix),
        _ => Ok(None),
    };
    let full = of_kind("full_attention", "rope_parameters.full_attention.")?;
    let flat = nested.as_ref().filter(|nested| !nested.of.values().any(Value::is_object));
    ensure!(
        flat.is_none() || keys.gguf.is_some(),
        "`rope_parameters` says nothing of \"full_attention\" and \"sliding_attention\", each of which has its own"
    );
    // `rope_scaling` comes on top of what the blocks that see all have.
    let mut global: Map<String, Value> = full.iter().chain(flat).flat_map(|keys| keys.of.clone()).collect();
    global.extend(scaling.iter().flat_map(|keys| keys.of.clone()));
    let global = Keys { of: &global, prefix: "rope_parameters.full_attention.", aliases: &[], gguf: keys.gguf };
    let local = of_kind("sliding_attention", "rope_parameters.sliding_attention.")?;
    let local = local.unwrap_or(Keys {
        of: &none,
        prefix: "rope_parameters.sliding_attention.",
        aliases: &[],
        gguf: keys.gguf,
    });
    let local_theta = match keys.get(local_key) {
        Some(_) => keys.positive(local_key)?,
        None => local_theta,
    };
    let without: Map<String, Value> =
        keys.of.iter().filter(|(key, _)| *key != "rope_theta").map(|(k, v)| (k.clone(), v.clone())).collect();
    let beside = Keys { of: &without, ..*keys };
    Ok([
        of(keys, &global, (context, heads), Turn { theta, ..WHOLE })?,
        of(&beside, &local, (context, heads), Turn { theta: local_theta, ..WHOLE })?,
    ])
}

/// What a person should know where a config turns parts of heads, and the architecture's code whole ones.
pub fn ignored_part(keys: &Keys) -> Option<String> {
    let none = Map::new();
    let rope = parameters(keys, &none).ok()?;
    let part = rope
        .optional_number("partial_rotary_factor")
        .ok()?
        .or(keys.optional_number("partial_rotary_factor").ok()?)?;
    (part != 1.0).then(|| {
        format!("`partial_rotary_factor` is {part}, but this architecture turns whole heads, as in transformers")
    })
}

/// The object that counts.
fn parameters<'a>(keys: &'a Keys, none: &'a Map<String, Value>) -> Result<Keys<'a>> {
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let parameters = keys.object("rope_parameters", "rope_parameters.")?;
    Ok(scaling.or(parameters).unwrap_or(Keys { of: none, prefix: "rope_parameters.", aliases: &[], gguf: keys.gguf }))
}

/// The rotary embedding that `rope` describes, with θ beside it.
fn of(keys: &Keys, rope: &Keys, (context, heads): (usize, Heads), turn: Turn) -> Result<RopeSpec> {
    let theta = match (rope.get("rope_theta"), keys.get("rope_theta")) {
        (Some(_), _) => rope.positive("rope_theta")?,
        (None, Some(_)) => keys.positive("rope_theta")?,
        (None, None) => turn.theta,
    };
    let kind = match rope.get("rope_type").or(rope.get("type")) {
        None => "default",
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return Err(rope.wrong("rope_type", "a name, such as \"linear\"")),
    };
    let given = rope.optional_number("partial_rotary_factor")?.or(keys.optional_number("partial_rotary_factor")?);
    let part = match turn.part {
        Some(part) => given.unwrap_or(part),
        // transformers has room for a part of a head in the scaled kinds, but this code does not; it turns whole heads where
        // the kind is "default", whatever the factor.
        None => {
            let part = given.filter(|&part| part != 1.0 && kind != "default");
            ensure!(
                part.is_none(),
                "`partial_rotary_factor` is {}; calipr turns whole heads",
                part.unwrap_or_default()
            );
            1.0
        }
    };
    let dim = (heads.dim as f64 * part) as usize;
    ensure!(dim.is_multiple_of(2), "rotary embedding needs an even head size, not {dim}");
    ensure!((2..=heads.dim).contains(&dim), "rotary embedding of {dim} of a head's {} values", heads.dim);
    let original = || -> Result<f64> {
        if keys.get("original_max_position_embeddings").is_some() {
            return keys.positive("original_max_position_embeddings");
        }
        match rope.get("original_max_position_embeddings") {
            Some(_) => rope.positive("original_max_position_embeddings"),
            None => Ok(context as f64),
        }
    };
    let factor = || rope.positive("factor").map(|factor| factor as f32);
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
        "yarn" => RopeScaling::Yarn(yarn(rope, context, original()?)?),
        // A GGUF file's tensor.
        "factors" if keys.gguf.is_some() => RopeScaling::Factors(rope.numbers("factors", dim / 2)?),
        "longrope" => {
            let original = original()?;
            let factor = rope.optional_number("factor")?.unwrap_or(context as f64 / original);
            let sharper = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            RopeScaling::LongRope {
                short_factors: rope.numbers("short_factor", dim / 2)?,
                long_factors: rope.numbers("long_factor", dim / 2)?,
                original_context: original as usize,
                attention_factor: rope.optional_number("attention_factor")?.unwrap_or_else(sharper) as f32,
                // llama.cpp takes the same factors for all of a context.
                turns_anew: keys.gguf.is_some(),
            }
        }
        other => bail!(
            "`{}rope_type` \"{other}\" is not supported; calipr knows default, linear, dynamic, yarn, longrope and llama3",
            rope.prefix
        ),
    };
    Ok(RopeSpec { theta: theta as f32, dim, interleaved: turn.interleaved, scaling })
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
