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

    fn need<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.with_context(|| format!("the metadata lacks `{}`", self.name(key)))
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.need(key, self.integer(key))
    }
}

/// A GGUF file's metadata, and the names and shapes of its tensors.
pub struct Header<'a> {
    content: &'a Content,
    architecture: &'a str,
    shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
}

impl Header<'_> {
    /// Whether the file has a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        (self.shape)(tensor).is_some()
    }
}

/// The architecture that a file says it is of.
pub fn architecture(content: &Content) -> Result<&str> {
    match content.metadata.get("general.architecture") {
        Some(Value::String(name)) => Ok(name),
        _ => bail!("the metadata lacks `general.architecture`"),
    }
}

/// Hands what the file says, in the words of a `config.json`, to `read`.
///
/// # Errors
/// Where a key is missing, of the wrong type, or of a value that calipr does not compute with; those of `read`.
pub fn read<T>(
    content: &Content,
    shape: &dyn Fn(&str) -> Option<Vec<usize>>,
    read: impl FnOnce(&keys::Keys) -> Result<T>,
) -> Result<T> {
    let header = Header { content, architecture: architecture(content)?, shape };
    let config = as_config(&header)?;
    read(&keys::Keys { of: &config, prefix: "", aliases: &[], gguf: Some(&header) })
}

/// The metadata as `config.json` would have it. What llama.cpp needs is there, so that no default of transformers counts.
fn as_config(header: &Header) -> Result<Map<String, Json>> {
    let keys = Keys { content: header.content, architecture: header.architecture };
    refuse_what_is_not_computed(&keys)?;
    let embedding = (header.shape)("token_embd.weight").context("the file lacks the tensor `token_embd.weight`")?;
    ensure!(embedding.len() == 2, "`token_embd.weight` has the shape {embedding:?}");
    let (hidden, heads) = (keys.count("embedding_length")?, keys.count("attention.head_count")?);
    let head_dim = keys.integer("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.integer(key)?.filter(|&n| n != head_dim) {
            bail!("`{}` is {other} where heads have {head_dim} values, which calipr does not run", keys.name(key));
        }
    }
    let context = keys.count("context_length")?;
    let epsilon = "attention.layer_norm_rms_epsilon";
    let epsilon = keys.need(epsilon, keys.float(epsilon))?;
    let config = json!({
        "model_type": header.architecture,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length")?,
        "num_hidden_layers": keys.count("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "vocab_size": vocabulary(&keys, embedding[0])?,
        "max_position_embeddings": context,
        "sliding_window": keys.integer("attention.sliding_window")?,
        "rms_norm_eps": epsilon,
        "rope_parameters": rope(&keys, context)?,
        "tie_word_embeddings": !header.has("output.weight"),
    });
    match config {
        Json::Object(config) => Ok(config),
        _ => unreachable!("it was just made as an object"),
    }
}

/// Keys of other values than calipr computes with.
fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
    ensure!(keys.integer("expert_count")?.unwrap_or(0) == 0, "mixture-of-experts models are not supported");
    for key in [
        "attention.scale",
        "attention.clamp_kqv",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "logit_scale",
        "embedding_scale",
        "residual_scale",
    ] {
        ensure!(
            keys.float(key)?.is_none_or(|value| value == 0.0),
            "`{}` is {}, which calipr does not compute with",
            keys.name(key),
            keys.float(key)?.unwrap_or_default()
        );
    }
    ensure!(
        !matches!(keys.get("attention.causal"), Some(Value::Bool(false))),
        "`{}` is false: each token sees those behind it too; calipr runs models that write from left to right",
        keys.name("attention.causal")
    );
    Ok(())
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

/// llama.cpp: a factor without a type is linear, and a factor of 0 is none.
fn rope(keys: &Keys, context: usize) -> Result<Json> {
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
    match kind {
        "yarn" => {
            let original = keys.integer("rope.scaling.original_context_length")?.unwrap_or(context);
            let attention_factor = Yarn::sharpness(f64::from(factor), None) as f32 * sharper;
            Ok(json!({"rope_theta": theta, "rope_type": "yarn", "factor": factor, "attention_factor": attention_factor,
                      "original_max_position_embeddings": original}))
        }
        "none" | "linear" => {
            ensure!(
                sharper == 1.0,
                "`{}` is {sharper}; calipr knows it with yarn",
                keys.name("rope.scaling.attn_factor")
            );
            Ok(match kind == "none" || factor == 1.0 {
                true => json!({"rope_theta": theta}),
                false => json!({"rope_theta": theta, "rope_type": "linear", "factor": factor}),
            })
        }
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
