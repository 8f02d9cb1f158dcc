//! The metadata of a GGUF file, read as llama.cpp reads it (`llama_model::load_hparams`), and put into the words of a
//! `config.json`.

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};

use serde_json::{Map, Value as Json, json};

use super::keys;
use crate::model::rope::Yarn;

/// The keys of one architecture.
struct Keys<'a> {
    content: &'a Content,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(&self.name(key))
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn integer(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|v| integer(v).with_context(|| format!("`{}`", self.name(key)))).transpose()
    }

    fn float(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(*value)),
            Some(other) => bail!("`{}` is {other:?}; expected a float of 32 bits, as llama.cpp does", self.name(key)),
        }
    }

    /// An integer or a float.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            Some(Value::F32(_)) => Ok(self.float(key)?.map(f64::from)),
            _ => Ok(self.integer(key)?.map(|n| n as f64)),
        }
    }

    fn need<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.with_context(|| format!("the metadata lacks `{}`", self.name(key)))
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.need(key, self.integer(key))
    }
}

/// What an architecture is called in GGUF, and which of [`UNUSUAL`] keys it is computed with.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`
    pub name: &'static str,
    pub keys: &'static [&'static str],
    /// Tensors of the rotary embedding that it takes.
    pub factors: &'static [&'static str],
}

/// Divides the frequencies of the rotary embedding.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The same in windows longer than the original context, and in others.
pub const LONG_ROPE_FACTORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// Keys that only some architectures are computed with, and what a `config.json` calls them. Where another has one, with
/// another value than 0, it is refused.
const UNUSUAL: [(&str, &[&str]); 14] = [
    ("attention.scale", &["attention_multiplier"]),
    ("attention.clamp_kqv", &["clip_qkv"]),
    ("attn_logit_softcapping", &["attn_logit_softcapping"]),
    ("final_logit_softcapping", &["final_logit_softcapping"]),
    ("logit_scale", &["logit_scale", "logits_scaling"]),
    ("embedding_scale", &["embedding_multiplier"]),
    ("residual_scale", &["residual_multiplier"]),
    ("rope.freq_base_swa", &["rope_local_base_freq"]),
    ("expert_count", &["num_experts"]),
    ("expert_used_count", &["num_experts_per_tok"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
    ("attention.temperature_scale", &[]),
    ("expert_group_count", &[]),
];

/// The keys of mixtures of experts.
pub const EXPERTS: [&str; 4] =
    ["expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"];

/// The tensors of a GGUF file.
pub trait Tensors {
    /// The shape of the tensor of this name; None where there is none.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Its numbers.
    fn values(&self, name: &str) -> Result<Vec<f32>>;
}

/// What a GGUF file has beside its metadata.
pub struct Header<'a> {
    tensors: &'a dyn Tensors,
}

impl Header<'_> {
    /// Whether the file has a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.shape(tensor).is_some()
    }

    /// Whether the first block has a tensor of this name.
    pub fn first_block_has(&self, tensor: &str) -> bool {
        self.has(&format!("blk.0.{tensor}"))
    }
}

/// The architecture that a file says it is of.
pub fn architecture(content: &Content) -> Result<&str> {
    match content.metadata.get("general.architecture") {
        Some(Value::String(name)) => Ok(name),
        _ => bail!("the metadata lacks `general.architecture`"),
    }
}

/// Hands what the file says, in the words of a `config.json`, to `read`, and the window that llama.cpp's code for the
/// architecture passes over, where there is one.
///
/// # Errors
/// Where a key is missing, of the wrong type, or of a value that calipr does not compute with; those of `read`.
pub fn read<T>(
    content: &Content,
    tensors: &dyn Tensors,
    gguf: &Gguf,
    read: impl FnOnce(&keys::Keys, Option<usize>) -> Result<T>,
) -> Result<T> {
    let header = Header { tensors };
    let keys = Keys { content, architecture: gguf.name };
    let (config, unused_window) = as_config(&header, &keys, gguf)?;
    read(&keys::Keys { of: &config, prefix: "", aliases: &[], gguf: Some(&header) }, unused_window)
}

/// The metadata as `config.json` would have it. What llama.cpp needs is there, so that no default of transformers counts.
fn as_config(header: &Header, keys: &Keys, gguf: &Gguf) -> Result<(Map<String, Json>, Option<usize>)> {
    ensure!(
        !matches!(keys.get("attention.causal"), Some(Value::Bool(false))),
        "`{}` is false: each token sees those behind it too; calipr runs models that write from left to right",
        keys.name("attention.causal")
    );
    let embedding =
        header.tensors.shape("token_embd.weight").context("the file lacks the tensor `token_embd.weight`")?;
    ensure!(embedding.len() == 2, "`token_embd.weight` has the shape {embedding:?}");
    let (hidden, heads) = (keys.count("embedding_length")?, keys.count("attention.head_count")?);
    let head_dim = keys.integer("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    let other = |key: &str| Ok::<_, anyhow::Error>(keys.integer(key)?.filter(|&n| n != head_dim));
    if let Some(other) = other("attention.value_length")? {
        let key = keys.name("attention.value_length");
        bail!("`{key}` is {other} where heads have {head_dim} values, which calipr does not run");
    }
    let context = keys.count("context_length")?;
    let turned = keys.integer("rope.dimension_count")?.unwrap_or(head_dim);
    let (rms, layer) = (keys.float("attention.layer_norm_rms_epsilon")?, keys.float("attention.layer_norm_epsilon")?);
    let epsilon = keys.need("attention.layer_norm_rms_epsilon", Ok(rms.or(layer)))?;
    let bias = |tensor: &str| header.first_block_has(&format!("{tensor}.bias"));
    let (of_inputs, of_feed_forward) = (bias("attn_q") || bias("attn_qkv"), bias("ffn_down"));
    let mut config = json!({
        "model_type": gguf.name,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length")?,
        "num_hidden_layers": keys.count("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "vocab_size": vocabulary(keys, embedding[0])?,
        "max_position_embeddings": context,
        "rms_norm_eps": epsilon,
        "layer_norm_eps": epsilon,
        "layer_norm_epsilon": epsilon,
        "norm_epsilon": epsilon,
        "rope_parameters": rope(keys, header, gguf, (context, turned))?,
        "tie_word_embeddings": !header.has("output.weight"),
        "attention_bias": of_inputs,
        "qkv_bias": of_inputs,
        "use_qkv_bias": of_inputs,
        "bias": of_inputs,
        "use_bias": of_inputs,
        "mlp_bias": of_feed_forward,
        "use_qk_norm": header.first_block_has("attn_q_norm.weight"),
        "qk_layernorm": header.first_block_has("attn_q_norm.weight"),
    });
    let Json::Object(config) = &mut config else { unreachable!("it was just made as an object") };
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    match (gguf.keys.contains(&"rope.dimension_count"), other("rope.dimension_count")?) {
        (true, turned) => {
            set("partial_rotary_factor", json!(turned.unwrap_or(head_dim) as f64 / head_dim.max(1) as f64));
        }
        (false, Some(other)) => {
            let key = keys.name("rope.dimension_count");
            bail!("`{key}` is {other} where heads have {head_dim} values, which calipr does not run");
        }
        (false, None) => {}
    }
    for (key, names) in UNUSUAL {
        let Some(value) = keys.number(key)?.filter(|&value| value != 0.0) else { continue };
        ensure!(
            gguf.keys.contains(&key),
            "`{}` is {value}, which calipr does not compute with in architecture \"{}\"",
            keys.name(key),
            gguf.name
        );
        let is_whole = value.fract() == 0.0 && key.starts_with("expert");
        names.iter().for_each(|name| drop(set(name, if is_whole { json!(value as u64) } else { json!(value) })));
    }
    if keys.integer("expert_count")?.unwrap_or(0) > 0 {
        keys.count("expert_used_count")?;
    }
    if let Some(Value::Bool(parallel)) = keys.get("use_parallel_residual") {
        set("use_parallel_residual", json!(parallel));
    }
    let window = keys.integer("attention.sliding_window")?.filter(|&tokens| tokens > 0);
    if !gguf.keys.contains(&"attention.sliding_window") {
        return Ok((std::mem::take(config), window.filter(|&tokens| tokens < context)));
    }
    if window.is_some() {
        set("sliding_window", json!(window));
    }
    match keys.get("attention.sliding_window_pattern") {
        None => {}
        Some(Value::Array(blocks)) => {
            let kind = |slides: &Value| match slides {
                Value::Bool(true) => Ok("sliding_attention"),
                Value::Bool(false) => Ok("full_attention"),
                other => bail!(
                    "`{}` has {other:?}; expected true or false for each block",
                    keys.name("attention.sliding_window_pattern")
                ),
            };
            set("layer_types", json!(blocks.iter().map(kind).collect::<Result<Vec<_>>>()?));
        }
        Some(_) => {
            set("sliding_window_pattern", json!(keys.integer("attention.sliding_window_pattern")?));
        }
    }
    Ok((std::mem::take(config), None))
}

/// The size of the vocabulary, which has to be the embedding's.
fn vocabulary(keys: &Keys, rows: usize) -> Result<usize> {
    let tokens = match keys.content.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => Some(tokens.len()),
        _ => None,
    };
    // llama.cpp goes by the tokens, where there are any.
    if let Some(claimed) = tokens.or(keys.integer("vocab_size")?).filter(|&claimed| claimed != rows) {
        bail!("the vocabulary has {claimed} tokens, but `token_embd.weight` has {rows} rows");
    }
    Ok(rows)
}

/// llama.cpp: a factor without a type is linear, and a factor of 0 is none; what cos and sin are multiplied by stands
/// beside any type. `turned` values of a head are turned.
fn rope(keys: &Keys, header: &Header, gguf: &Gguf, (context, turned): (usize, usize)) -> Result<Json> {
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let kind = match keys.get("rope.scaling.type") {
        None => "linear",
        Some(Value::String(kind)) => kind,
        Some(other) => bail!("`{}` is {other:?}; expected a name", keys.name("rope.scaling.type")),
    };
    let factor = match keys.float("rope.scaling.factor")? {
        None => keys.float("rope.scale_linear")?,
        given => given,
    };
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    ensure!(factor > 0.0 && factor.is_finite(), "`{}` is {factor}", keys.name("rope.scaling.factor"));
    let sharper = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
    for key in ["yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_log_multiplier"] {
        let key = format!("rope.scaling.{key}");
        ensure!(keys.get(&key).is_none(), "`{}` is there, which calipr does not compute with", keys.name(&key));
    }
    let original = keys.integer("rope.scaling.original_context_length")?.unwrap_or(context);
    let factors = |name: &str| -> Result<Option<Vec<f32>>> {
        if !gguf.factors.contains(&name) || !header.has(name) {
            return Ok(None);
        }
        let factors = header.tensors.values(name)?;
        let said = format!("`{name}` has {} values, not half of the {turned} that are turned of a head", factors.len());
        ensure!(factors.len() == turned / 2, said);
        ensure!(
            (kind == "none" || kind == "linear" || kind == "longrope") && factor == 1.0,
            "the file has both `{name}` and a rope scaling; calipr runs one of them"
        );
        Ok(Some(factors))
    };
    let [long, short] = LONG_ROPE_FACTORS;
    if let (Some(long), Some(short)) = (factors(long)?, factors(short)?) {
        return Ok(json!({"rope_theta": theta, "rope_type": "longrope", "long_factor": long, "short_factor": short,
                         "original_max_position_embeddings": original, "attention_factor": sharper}));
    }
    if kind != "yarn" {
        ensure!(
            sharper == 1.0,
            "`{}` is {sharper}; calipr knows it with yarn, and beside tensors of factors",
            keys.name("rope.scaling.attn_factor")
        );
    }
    if let Some(factors) = factors(ROPE_FACTORS)? {
        return Ok(json!({"rope_theta": theta, "rope_type": "factors", "factors": factors}));
    }
    match kind {
        "yarn" => {
            let attention_factor = Yarn::sharpness(f64::from(factor), None) as f32 * sharper;
            Ok(json!({"rope_theta": theta, "rope_type": "yarn", "factor": factor, "attention_factor": attention_factor,
                      "original_max_position_embeddings": original}))
        }
        "none" | "linear" => Ok(match kind == "none" || factor == 1.0 {
            true => json!({"rope_theta": theta}),
            false => json!({"rope_theta": theta, "rope_type": "linear", "factor": factor}),
        }),
        other => bail!(
            "`{}` \"{other}\" is not supported; calipr knows none, linear and yarn",
            keys.name("rope.scaling.type")
        ),
    }
}

fn integer(value: &Value) -> Result<usize> {
    use Value::*;
    Ok(match value {
        U8(v) => usize::from(*v),
        U16(v) => usize::from(*v),
        U32(v) => *v as usize,
        U64(v) => usize::try_from(*v)?,
        I8(v) => usize::try_from(*v)?,
        I16(v) => usize::try_from(*v)?,
        I32(v) => usize::try_from(*v)?,
        I64(v) => usize::try_from(*v)?,
        Array(_) => bail!("expected an integer, found a list: blocks of unequal shape are not supported"),
        other => bail!("expected an integer, found {:?}", other.value_type()),
    })
}
