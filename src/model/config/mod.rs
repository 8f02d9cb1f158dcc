//! The shape of a Llama-like model, from a Hugging Face `config.json` or from GGUF metadata.

mod gguf;
mod hub;
mod quantization;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::block::LinearName;
use super::rope::RopeScaling;
pub use quantization::Quantization;

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
    /// Where calipr computes what the model does only of shorter windows.
    pub reach: Option<Reach>,
    pub norm_epsilon: f64,
    pub rope_theta: f32,
    pub rope_scaling: RopeScaling,
    /// q, k, v and o have a bias (Llama), or q, k and v only (Qwen2).
    pub attention_bias: AttentionBias,
    pub feed_forward_bias: bool,
    /// The head is the embedding.
    pub tied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// What a person should know of how the file is read.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

/// The longest window that calipr computes as the model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reach {
    pub tokens: usize,
    /// What ends there, with the key that says so.
    pub because: &'static str,
}

impl Reach {
    /// Why something longer is not computed: `what` is "windows of 9 tokens are", say.
    pub fn refusal(&self, what: &str) -> String {
        format!("{what} longer than {} tokens, the model's {}; calipr computes none beyond", self.tokens, self.because)
    }
}

/// Which attention projections carry a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    None,
    Inputs,
    All,
}

impl Config {
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

    /// A linear's name in a Hugging Face block, its rows and columns, and whether it has a bias.
    pub fn linear(&self, name: LinearName) -> (&'static str, (usize, usize), bool) {
        let (query, key_value) = (self.heads * self.head_dim, self.key_value_heads * self.head_dim);
        let (part, shape) = match name {
            LinearName::Q => ("self_attn.q_proj", (query, self.hidden)),
            LinearName::K => ("self_attn.k_proj", (key_value, self.hidden)),
            LinearName::V => ("self_attn.v_proj", (key_value, self.hidden)),
            LinearName::O => ("self_attn.o_proj", (self.hidden, query)),
            LinearName::Gate => ("mlp.gate_proj", (self.feed_forward, self.hidden)),
            LinearName::Up => ("mlp.up_proj", (self.feed_forward, self.hidden)),
            LinearName::Down => ("mlp.down_proj", (self.hidden, self.feed_forward)),
        };
        let biased = match name {
            LinearName::Q | LinearName::K | LinearName::V => self.attention_bias != AttentionBias::None,
            LinearName::O => self.attention_bias == AttentionBias::All,
            LinearName::Gate | LinearName::Up | LinearName::Down => self.feed_forward_bias,
        };
        (part, shape, biased)
    }

    /// Every tensor that the model is made of: its name in Hugging Face's words, and its shape.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            ("model.embed_tokens.weight".into(), vec![self.vocabulary, self.hidden]),
            ("model.norm.weight".into(), vec![self.hidden]),
        ];
        if !self.tied {
            tensors.push(("lm_head.weight".into(), vec![self.vocabulary, self.hidden]));
        }
        for block in 0..self.blocks {
            let prefix = format!("model.layers.{block}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push((format!("{prefix}.{norm}.weight"), vec![self.hidden]));
            }
            for name in LinearName::ALL {
                let (part, (rows, columns), biased) = self.linear(name);
                tensors.push((format!("{prefix}.{part}.weight"), vec![rows, columns]));
                if biased {
                    tensors.push((format!("{prefix}.{part}.bias"), vec![rows]));
                }
            }
        }
        tensors
    }

    /// Parameters of one block that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        let attention = (2 * self.heads + 2 * self.key_value_heads) * self.head_dim * self.hidden;
        attention + 3 * self.hidden * self.feed_forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn base(keys: Value) -> Value {
        let mut config = json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 256});
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        config
    }

    /// The figures are transformers' own (tests/scripts/config_json.py).
    #[test]
    fn a_config_is_read_as_transformers_reads_it_or_refused() {
        let cases = std::fs::read_to_string("tests/fixtures/config_json.json").unwrap();
        let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let (read, made) = (Config::from_hub(&case["config"]), &case["made"]);
            if made.is_null() {
                assert!(read.is_err(), "{}: transformers cannot make it", case["config"]);
                continue;
            }
            let read = read.unwrap_or_else(|e| panic!("{}: {e:#}", case["config"]));
            let number = |key: &str| made[key].as_u64().map(|n| n as usize);
            let frequencies = read.rope_scaling.frequencies(read.rope_theta, read.head_dim);
            let expected: Vec<f64> =
                made["inverse_frequencies"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
            assert_eq!(frequencies.len(), expected.len(), "{}", case["config"]);
            for (ours, theirs) in frequencies.iter().zip(&expected) {
                let apart = (f64::from(*ours) - theirs).abs();
                assert!(apart <= 1e-6 * theirs, "{}: {frequencies:?} for {expected:?}", case["config"]);
            }
            let scaling = f64::from(read.rope_scaling.attention_factor());
            assert!((scaling - made["attention_scaling"].as_f64().unwrap()).abs() < 1e-6, "{}", case["config"]);
            assert_eq!(Some(read.head_dim), number("head_dim"));
            assert_eq!(Some(read.key_value_heads), number("key_value_heads"), "{}", case["config"]);
            assert_eq!(Some(read.context), number("context"), "{}", case["config"]);
            assert_eq!(Some(read.norm_epsilon), made["norm_epsilon"].as_f64(), "{}", case["config"]);
            assert_eq!(Some(read.tied), made["tied"].as_bool(), "{}", case["config"]);
            let biases = [
                read.attention_bias != AttentionBias::None,
                read.attention_bias == AttentionBias::All,
                read.feed_forward_bias,
            ];
            assert_eq!(json!(biases), made["biases"], "{}", case["config"]);
            if !matches!(read.rope_scaling, RopeScaling::LongRope { .. }) {
                assert_eq!(read.reach.map(|reach| reach.tokens), number("window"), "{}", case["config"]);
            }
        }
    }

    #[test]
    fn longrope_is_computed_up_to_its_original_context() {
        let factors: Vec<f32> = vec![1.5; 8];
        let rope = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                          "original_max_position_embeddings": 32});
        let reach = Config::from_hub(&base(json!({"rope_scaling": rope}))).unwrap().reach.unwrap();
        assert_eq!(reach.tokens, 32);
        assert!(reach.refusal("windows of 33 tokens are").contains("longrope"));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (keys, says) in [
            (json!({"rope_scaling": {"type": "ntk", "factor": 2.0}}), "\"ntk\""),
            (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling` lacks `factor`"),
            (json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}), "full_attention"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}}), "partial_rotary"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "awq"),
            (json!({"head_dim": 15}), "even head size"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"is_causal": false}), "is_causal"),
            (json!({"transformers_weights": "other.safetensors"}), "other.safetensors"),
            (json!({"hidden_size": null}), "`hidden_size` is null; expected a whole number"),
            (json!({"rms_norm_eps": "1e-5"}), "`rms_norm_eps` is \"1e-5\""),
            (json!({"model_type": "gpt2"}), "gpt2"),
            (json!({"model_type": null}), "model_type"),
            (json!({"model_type": "qwen2", "layer_types": ["full_attention", "chunked_attention"]}), "chunked"),
        ] {
            let error = Config::from_hub(&base(keys)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_key_that_the_architecture_ignores_is_remarked_on() {
        let read = Config::from_hub(&base(json!({"partial_rotary_factor": 0.5}))).unwrap();
        assert!(read.remarks[0].contains("partial_rotary_factor"), "{:?}", read.remarks);
        assert!(Config::from_hub(&base(json!({}))).unwrap().remarks.is_empty());
    }
}
