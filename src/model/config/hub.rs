//! A Hugging Face `config.json`, read as transformers 5 reads it: its defaults, its precedence, and no key silently
//! passed over that its code for the architecture looks at.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::{AttentionBias, Config, Quantization, Reach};
use crate::model::rope::{RopeScaling, Yarn};

/// What transformers takes where a key is absent (`models/*/configuration_*.py`).
struct Defaults {
    vocabulary: usize,
    hidden: usize,
    feed_forward: usize,
    blocks: usize,
    heads: usize,
    /// None: as many as heads.
    key_value_heads: Option<usize>,
    context: usize,
    sliding_window: Option<usize>,
}

fn defaults(model_type: &str) -> Option<Defaults> {
    let (vocabulary, feed_forward, key_value_heads, context, sliding_window) = match model_type {
        "llama" => (32_000, 11_008, None, 2048, None),
        "mistral" => (32_000, 14_336, Some(8), 131_072, Some(4096)),
        "qwen2" => (151_936, 22_016, Some(32), 32_768, Some(4096)),
        _ => return None,
    };
    let (hidden, blocks, heads) = (4096, 32, 32);
    Some(Defaults { vocabulary, hidden, feed_forward, blocks, heads, key_value_heads, context, sliding_window })
}

/// θ where nothing says it.
const THETA: f64 = 10_000.0;

/// A JSON object, read key by key.
struct Keys<'a> {
    of: &'a Map<String, Value>,
    /// What the object is called in messages, with a dot behind it.
    prefix: &'static str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.of.get(key)
    }

    /// What a key holds is not what it should.
    fn wrong(&self, key: &str, expected: &str) -> anyhow::Error {
        let found = self.get(key).map_or("nothing".into(), Value::to_string);
        anyhow::anyhow!("`{}{key}` is {found}; expected {expected}", self.prefix)
    }

    fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// null where there is none.
    fn optional_count(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.count(key, 0).map(Some).map_err(|_| self.wrong(key, "a whole number, or null")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// null as if the key were absent.
    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        if self.get(key).is_some_and(Value::is_null) { Ok(None) } else { self.number(key) }
    }

    fn positive(&self, key: &str) -> Result<f64> {
        let lacks = || format!("`{}` lacks `{key}`", self.prefix.trim_end_matches('.'));
        let value = self.number(key)?.with_context(lacks)?;
        if value > 0.0 { Ok(value) } else { Err(self.wrong(key, "a number above 0")) }
    }

    fn object(&self, key: &'static str, prefix: &'static str) -> Result<Option<Keys<'_>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(of)) => Ok(Some(Keys { of, prefix }).filter(|keys| !keys.of.is_empty())),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    fn numbers(&self, key: &str, count: usize) -> Result<Vec<f32>> {
        let numbers = |value: &Value| -> Option<Vec<f32>> {
            let list: Option<Vec<f32>> = value.as_array()?.iter().map(|x| Some(x.as_f64()? as f32)).collect();
            list.filter(|list| list.len() == count && list.iter().all(|x| x.is_finite() && *x != 0.0))
        };
        self.get(key).and_then(numbers).ok_or_else(|| self.wrong(key, &format!("a list of {count} numbers")))
    }
}

impl Config {
    /// From a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Where it is not what such a file holds, or names an architecture or option that calipr lacks.
    pub fn from_hub(config: &Value) -> Result<Self> {
        let Value::Object(of) = config else { bail!("it is no JSON object") };
        let keys = Keys { of, prefix: "" };
        let architecture = match keys.get("model_type") {
            Some(Value::String(name)) => name.as_str(),
            _ => bail!(
                "it has no `model_type`, which says what the model computes; calipr runs llama, mistral and qwen2"
            ),
        };
        let Some(defaults) = defaults(architecture) else {
            bail!("model_type \"{architecture}\" is not supported; calipr runs llama, mistral and qwen2")
        };
        refuse_what_is_not_computed(&keys)?;

        let hidden = keys.count("hidden_size", defaults.hidden)?;
        let heads = keys.count("num_attention_heads", defaults.heads)?;
        let key_value_heads = keys.optional_count("num_key_value_heads", defaults.key_value_heads.or(Some(heads)))?;
        let head_dim = keys.optional_count("head_dim", None)?.unwrap_or(hidden / heads.max(1));
        let positions = keys.count("max_position_embeddings", defaults.context)?;
        let blocks = keys.count("num_hidden_layers", defaults.blocks)?;
        let mut remarks = Vec::new();
        let (rope_theta, rope_scaling, longest) = rope(&keys, positions, head_dim, &mut remarks)?;
        let window = sliding_window(&keys, architecture, &defaults, blocks)?;
        let quantization = keys.get("quantization_config").filter(|config| !config.is_null());
        let quantization = quantization.map(Quantization::of).transpose()?;
        if let Some(Quantization { method, .. }) = &quantization {
            remarks.push(format!(
                "the weights are stored in 8 bits ({method}) and read as value × scale; activations are not quantised"
            ));
        }
        Self {
            hidden,
            feed_forward: keys.count("intermediate_size", defaults.feed_forward)?,
            blocks,
            heads,
            key_value_heads: key_value_heads.unwrap_or(heads),
            head_dim,
            vocabulary: keys.count("vocab_size", defaults.vocabulary)?,
            context: positions,
            reach: [window, longest].into_iter().flatten().min_by_key(|reach| reach.tokens),
            norm_epsilon: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: rope_theta as f32,
            rope_scaling,
            // Only Llama's code looks at the keys; Qwen2's has these biases always, Mistral's never.
            attention_bias: match architecture {
                "qwen2" => AttentionBias::Inputs,
                "llama" if keys.flag("attention_bias", false)? => AttentionBias::All,
                _ => AttentionBias::None,
            },
            feed_forward_bias: architecture == "llama" && keys.flag("mlp_bias", false)?,
            tied: keys.flag("tie_word_embeddings", false)?,
            quantization,
            remarks,
            architecture: architecture.to_owned(),
        }
        .checked()
    }
}

/// Keys of other values than calipr computes with.
fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
    match keys.get("hidden_act") {
        None => {}
        Some(Value::String(act)) if act == "silu" || act == "swish" => {}
        Some(act) => bail!("`hidden_act` is {act}, which is not supported; calipr runs \"silu\""),
    }
    if !keys.flag("is_causal", true)? {
        bail!(
            "`is_causal` is false: each token sees those behind it too; calipr runs models that write from left to right"
        );
    }
    if let Some(file) = keys.get("transformers_weights").filter(|file| !file.is_null()) {
        bail!("`transformers_weights` names {file}; calipr reads model.safetensors, or what its index names");
    }
    ensure!(
        keys.get("text_config").is_none_or(Value::is_null),
        "`text_config` makes it the config of a model around a language model; give the language model a folder of its own"
    );
    // Layers of unequal shape.
    for key in ["per_layer_config", "block_configs"] {
        ensure!(
            keys.get(key).is_none_or(|value| value.is_null() || value == &Value::Array(vec![])),
            "`{key}` makes blocks of unequal shape, which calipr does not run"
        );
    }
    Ok(())
}

/// The window that some block's attention is limited to, where there is such a block.
fn sliding_window(keys: &Keys, architecture: &str, defaults: &Defaults, blocks: usize) -> Result<Option<Reach>> {
    let reach = |tokens: usize| Reach { tokens, because: "sliding window (`sliding_window`)" };
    let window = keys.optional_count("sliding_window", defaults.sliding_window)?;
    let slides = match architecture {
        "llama" => return Ok(None), // its code has no windows
        "qwen2" => keys.flag("use_sliding_window", false)?,
        _ => true,
    };
    let window = window.filter(|_| slides);
    match keys.get("layer_types") {
        None | Some(Value::Null) => {
            let first = if architecture == "qwen2" { keys.count("max_window_layers", 28)? } else { 0 };
            Ok(window.filter(|_| first < blocks).map(reach))
        }
        Some(Value::Array(types)) => {
            ensure!(types.len() == blocks, "`layer_types` has {} entries for {blocks} blocks", types.len());
            let known = |kind: &&Value| *kind == "full_attention" || *kind == "sliding_attention";
            if let Some(other) = types.iter().find(|kind| !known(kind)) {
                bail!("`layer_types` has {other}; calipr runs \"full_attention\" and \"sliding_attention\"");
            }
            if types.iter().all(|kind| kind == "full_attention") {
                return Ok(None);
            }
            let said =
                if architecture == "qwen2" { "`use_sliding_window` and `sliding_window`" } else { "`sliding_window`" };
            let lacking = || format!("`layer_types` has \"sliding_attention\", but {said} give it no window");
            window.map(|tokens| Some(reach(tokens))).with_context(lacking)
        }
        Some(_) => Err(keys.wrong("layer_types", "a list with an entry for each block")),
    }
}

/// θ and how frequencies are scaled, and the longest sequence for which they are so.
///
/// transformers: `rope_scaling`, where it is there and not empty, replaces `rope_parameters` whole; θ in the one that
/// counts goes before θ beside it.
fn rope(
    keys: &Keys,
    positions: usize,
    head_dim: usize,
    remarks: &mut Vec<String>,
) -> Result<(f64, RopeScaling, Option<Reach>)> {
    let theta = match keys.get("rope_theta") {
        Some(_) => keys.positive("rope_theta")?,
        None => THETA,
    };
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let parameters = keys.object("rope_parameters", "rope_parameters.")?;
    let none = Map::new();
    let rope = scaling.or(parameters).unwrap_or(Keys { of: &none, prefix: "rope_parameters." });
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
            rope.numbers("long_factor", head_dim / 2)?;
            let factor = rope.optional_number("factor")?.unwrap_or(positions as f64 / original);
            let sharper = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            RopeScaling::LongRope {
                short_factors: rope.numbers("short_factor", head_dim / 2)?,
                attention_factor: rope.optional_number("attention_factor")?.unwrap_or_else(sharper) as f32,
            }
        }
        other => bail!(
            "`{}rope_type` \"{other}\" is not supported; calipr knows default, linear, dynamic, yarn, longrope and llama3",
            rope.prefix
        ),
    };
    Ok((theta, scaling, reach))
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
