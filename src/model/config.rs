//! The shape of a Llama-like model, from a Hugging Face `config.json` or from GGUF metadata.

use std::f32::consts::PI;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file;
use serde::{Deserialize, Serialize};

/// What the forward pass needs to know of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    pub architecture: String,
    pub hidden: usize,
    pub feed_forward: usize,
    pub blocks: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    /// The longest window that the model was made for, in tokens.
    pub context: usize,
    pub norm_epsilon: f64,
    pub rope_theta: f32,
    pub rope_scaling: RopeScaling,
    /// q, k, v and o have a bias (Llama), or q, k and v only (Qwen2).
    pub attention_bias: AttentionBias,
    pub feed_forward_bias: bool,
    /// The head is the embedding.
    pub tied: bool,
}

/// Which attention projections carry a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    None,
    Inputs,
    All,
}

/// How the rotary frequencies differ from θ^(−2i/d).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    /// Every frequency divided by a factor.
    Linear(f32),
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
    /// Each frequency divided by its own factor (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// The head_dim / 2 angles per position.
    pub fn frequencies(&self, theta: f32, head_dim: usize) -> Vec<f32> {
        let base = (0..head_dim / 2).map(|i| theta.powf((2 * i) as f32 / head_dim as f32).recip());
        match self {
            Self::None => base.collect(),
            Self::Linear(factor) => base.map(|f| f / factor).collect(),
            Self::Factors(factors) => base.zip(factors).map(|(f, k)| f / k).collect(),
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => base
                .map(|f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength < original_context / high_freq_factor {
                        f
                    } else if wavelength > original_context / low_freq_factor {
                        f / factor
                    } else {
                        let smooth =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }
}

/// `config.json` as transformers writes it, the older and the newer way.
#[derive(Deserialize)]
struct HubConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    rope_theta: Option<f32>,
    rope_scaling: Option<HubRope>,
    /// transformers 5 puts all of rope here.
    rope_parameters: Option<HubRope>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct HubRope {
    rope_type: Option<String>,
    /// What `rope_type` was called; some files have both.
    r#type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
}

fn default_epsilon() -> f64 {
    1e-6
}

impl HubRope {
    fn scaling(&self) -> Result<RopeScaling> {
        let need = |value: Option<f32>, key| value.with_context(|| format!("rope scaling lacks `{key}`"));
        match self.rope_type.as_deref().or(self.r#type.as_deref()) {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear(need(self.factor, "factor")?)),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: need(self.factor, "factor")?,
                low_freq_factor: need(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, "high_freq_factor")?,
                original_context: need(self.original_max_position_embeddings, "original_max_position_embeddings")?,
            }),
            Some(other) => bail!("rope scaling \"{other}\" is not supported; calipr knows default, linear and llama3"),
        }
    }
}

impl Config {
    /// From the text of a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Where it is not the JSON of such a file, or names an architecture or option that calipr lacks.
    pub fn from_hub(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let kind: Kind = serde_json::from_str(json)?;
        let kind = kind.model_type.unwrap_or_default();
        ensure!(
            ["llama", "mistral", "qwen2"].contains(&kind.as_str()),
            "model_type \"{kind}\" is not supported; calipr runs llama, mistral and qwen2"
        );
        let hub: HubConfig = serde_json::from_str(json)?;
        if let Some(act) = hub.hidden_act.as_deref().filter(|&a| a != "silu") {
            bail!("hidden_act \"{act}\" is not supported; calipr runs silu");
        }
        if let Some(quantization) = &hub.quantization_config {
            let method = quantization["quant_method"].as_str().unwrap_or("unknown");
            bail!("the weights are quantised ({method}); calipr prunes unquantised safetensors, or GGUF");
        }
        // Windows no longer than the attention's see all of themselves: the context ends there.
        let slides = hub.use_sliding_window.unwrap_or(hub.model_type == "mistral");
        let context = hub.max_position_embeddings.min(hub.sliding_window.filter(|_| slides).unwrap_or(usize::MAX));
        let rope = hub.rope_parameters.as_ref();
        let scaling = rope.or(hub.rope_scaling.as_ref()).map_or(Ok(RopeScaling::None), HubRope::scaling)?;
        Self {
            hidden: hub.hidden_size,
            feed_forward: hub.intermediate_size,
            blocks: hub.num_hidden_layers,
            heads: hub.num_attention_heads,
            key_value_heads: hub.num_key_value_heads.unwrap_or(hub.num_attention_heads),
            head_dim: hub.head_dim.unwrap_or(hub.hidden_size / hub.num_attention_heads.max(1)),
            vocabulary: hub.vocab_size,
            context,
            norm_epsilon: hub.rms_norm_eps,
            rope_theta: rope.and_then(|r| r.rope_theta).or(hub.rope_theta).unwrap_or(10_000.0),
            rope_scaling: scaling,
            attention_bias: match (hub.model_type.as_str(), hub.attention_bias) {
                ("qwen2", _) => AttentionBias::Inputs,
                (_, Some(true)) => AttentionBias::All,
                _ => AttentionBias::None,
            },
            feed_forward_bias: hub.mlp_bias.unwrap_or(false),
            tied: hub.tie_word_embeddings.unwrap_or(false),
            architecture: hub.model_type,
        }
        .checked()
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// Where a key is missing or of the wrong type, or the architecture is not one that calipr runs.
    pub fn from_gguf(content: &gguf_file::Content) -> Result<Self> {
        let get = |key: &str| content.metadata.get(key);
        let architecture = match get("general.architecture") {
            Some(gguf_file::Value::String(name)) => name.clone(),
            _ => bail!("the metadata lacks `general.architecture`"),
        };
        ensure!(
            ["llama", "qwen2"].contains(&architecture.as_str()),
            "architecture \"{architecture}\" is not supported; calipr runs llama (also mistral) and qwen2"
        );
        let integer = |key: &str| -> Result<Option<usize>> {
            let key = format!("{architecture}.{key}");
            get(&key).map(|v| gguf_integer(v).with_context(|| format!("`{key}`"))).transpose()
        };
        let float = |key: &str| -> Result<Option<f32>> {
            let key = format!("{architecture}.{key}");
            get(&key).map(|v| v.to_f32().with_context(|| format!("`{key}`"))).transpose()
        };
        let need = |key: &str| integer(key)?.with_context(|| format!("the metadata lacks `{architecture}.{key}`"));
        ensure!(integer("expert_count")?.unwrap_or(0) == 0, "mixture-of-experts models are not supported");

        let shape = |name: &str| content.tensor_infos.get(name).map(|t| t.shape.dims().to_vec());
        let embedding = shape("token_embd.weight").context("the file lacks the tensor `token_embd.weight`")?;
        ensure!(embedding.len() == 2, "`token_embd.weight` has the shape {embedding:?}");
        let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let scaling = match get(&format!("{architecture}.rope.scaling.type")) {
            Some(gguf_file::Value::String(kind)) if kind == "linear" => {
                RopeScaling::Linear(float("rope.scaling.factor")?.unwrap_or(1.0))
            }
            Some(gguf_file::Value::String(kind)) if kind != "none" => bail!("rope scaling \"{kind}\" is not supported"),
            _ => RopeScaling::None,
        };
        let has = |tensor: &str| content.tensor_infos.contains_key(tensor);
        Self {
            hidden,
            feed_forward: need("feed_forward_length")?,
            blocks: need("block_count")?,
            heads,
            key_value_heads: integer("attention.head_count_kv")?.unwrap_or(heads),
            head_dim: integer("attention.key_length")?.unwrap_or(hidden / heads.max(1)),
            vocabulary: embedding[0],
            context: need("context_length")?,
            norm_epsilon: f64::from(float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)),
            rope_theta: float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: scaling,
            attention_bias: match (has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias")) {
                (_, true) => AttentionBias::All,
                (true, false) => AttentionBias::Inputs,
                _ => AttentionBias::None,
            },
            feed_forward_bias: has("blk.0.ffn_down.bias"),
            tied: !has("output.weight"),
            architecture,
        }
        .checked()
    }

    /// An error where the numbers cannot belong to a model, rather than a panic in the middle of a run.
    fn checked(self) -> Result<Self> {
        // Far more than any model has; a claim beyond makes tables that no memory holds.
        for (name, value, most) in [
            ("hidden size", self.hidden, 1 << 20),
            ("feed-forward size", self.feed_forward, 1 << 22),
            ("number of blocks", self.blocks, 1 << 12),
            ("number of heads", self.heads, 1 << 14),
            ("number of key-value heads", self.key_value_heads, 1 << 14),
            ("head size", self.head_dim, 1 << 12),
            ("vocabulary", self.vocabulary, 1 << 24),
            ("context length", self.context, 1 << 28),
        ] {
            ensure!((1..=most).contains(&value), "the {name} is {value}; expected 1 to {most}");
        }
        let epsilon = self.norm_epsilon;
        ensure!((0.0..1.0).contains(&epsilon), "the norm's epsilon is {epsilon}");
        ensure!(
            self.heads.is_multiple_of(self.key_value_heads),
            "{} heads cannot share {} key-value heads evenly",
            self.heads,
            self.key_value_heads
        );
        ensure!(self.head_dim.is_multiple_of(2), "rotary embedding needs an even head size, not {}", self.head_dim);
        Ok(self)
    }

    /// Parameters of one block that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        let attention = (2 * self.heads + 2 * self.key_value_heads) * self.head_dim * self.hidden;
        attention + 3 * self.hidden * self.feed_forward
    }
}

fn gguf_integer(value: &gguf_file::Value) -> Result<usize> {
    use gguf_file::Value::*;
    Ok(match value {
        U8(v) => usize::from(*v),
        U16(v) => usize::from(*v),
        U32(v) => *v as usize,
        U64(v) => usize::try_from(*v)?,
        I8(v) => usize::try_from(*v)?,
        I16(v) => usize::try_from(*v)?,
        I32(v) => usize::try_from(*v)?,
        I64(v) => usize::try_from(*v)?,
        other => bail!("expected an integer, found {:?}", other.value_type()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", ROPE}"#;

    #[test]
    fn rope_is_read_the_older_and_the_newer_way() {
        let old = r#""rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#;
        let new = r#""rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#;
        let old = Config::from_hub(&LLAMA.replace("ROPE", old)).unwrap();
        assert_eq!(old, Config::from_hub(&LLAMA.replace("ROPE", new)).unwrap());
        assert_eq!(old.rope_theta, 500_000.0);
    }

    #[test]
    fn a_sliding_window_ends_the_context() {
        let mistral = LLAMA.replace("\"llama\"", "\"mistral\"").replace("ROPE", r#""sliding_window": 128"#);
        assert_eq!(Config::from_hub(&mistral).unwrap().context, 128);
        let qwen = LLAMA.replace("\"llama\"", "\"qwen2\"").replace("ROPE", r#""sliding_window": 128"#);
        assert_eq!(Config::from_hub(&qwen).unwrap().context, 256);
    }

    #[test]
    fn both_names_of_the_rope_type_may_stand_side_by_side() {
        let both = r#""rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}"#;
        assert_eq!(Config::from_hub(&LLAMA.replace("ROPE", both)).unwrap().rope_scaling, RopeScaling::Linear(2.0));
    }

    #[test]
    fn what_the_forward_pass_lacks_is_refused() {
        for (with, says) in [
            (r#""rope_scaling": {"type": "yarn", "factor": 2.0}"#, "yarn"),
            (r#""quantization_config": {"quant_method": "fp8"}"#, "fp8"),
            (r#""head_dim": 15"#, "even head size"),
        ] {
            let error = Config::from_hub(&LLAMA.replace("ROPE", with)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = Config::from_hub(r#"{"model_type": "gpt2"}"#).unwrap_err().to_string();
        assert!(error.contains("gpt2"), "{error}");
    }
}
