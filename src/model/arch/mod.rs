//! The architectures that calipr runs: a file each, which translates a config into a [`Spec`].
//!
//! To add one, write the file and add its line to `architectures!` below.

mod draft;
mod gguf;
mod keys;
mod loads;
mod quantization;
mod rope;
mod to_gguf;
mod to_hub;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Content;
use serde_json::Value;

use super::spec::{Reach, Spec};
use gguf::Gguf;
pub use gguf::Tensors;
use keys::Keys;
pub use quantization::Quantization;
pub use to_gguf::{GgufModel, gguf_model};
pub use to_hub::hub_config;

/// A family of models that are computed alike.
pub struct Architecture {
    /// `model_type` in a `config.json`.
    pub name: &'static str,
    /// Its class in transformers, which a `config.json` names under `architectures`.
    pub class: &'static str,
    /// What people know the models by.
    pub models: &'static str,
    /// What it is in GGUF; None where calipr does not read it from there.
    pub gguf: Option<Gguf>,
    /// What transformers reads a folder's tokenizer with.
    pub tokenizer: TokenizerClass,
    /// What a config says.
    pub spec: fn(&Keys) -> Result<Spec>,
}

/// The class that transformers' `AutoTokenizer` has for an architecture (its `TOKENIZER_MAPPING_NAMES`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerClass {
    /// None: the one that the folder names, else `tokenizer.json` as it stands.
    OfFolder,
    /// `TokenizersBackend`: `tokenizer.json` as it stands, whatever the folder names.
    AsItIs,
    /// This one, unless the folder names another.
    Usually(&'static str),
    /// This one, whatever the folder names (its `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`).
    Always(&'static str),
}

impl TokenizerClass {
    /// That of a `model_type`.
    pub fn of(model_type: &str) -> Self {
        let architecture = ALL.iter().find(|architecture| architecture.name == model_type);
        architecture.map_or(Self::OfFolder, |architecture| architecture.tokenizer)
    }
}

/// Declares the architectures.
macro_rules! architectures {
    ($($module:ident),+ $(,)?) => {
        $(mod $module;)+

        /// All of them.
        pub const ALL: &[Architecture] = &[$($module::ARCHITECTURE),+];
    };
}

architectures! {
    arcee,
    bloom,
    cohere,
    cohere2,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gemma3_text,
    glm,
    glm4,
    gpt2,
    gpt_neox,
    granite,
    llama,
    ministral,
    mistral,
    mixtral,
    olmo,
    olmo2,
    olmo3,
    opt,
    phi,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
    stablelm,
    starcoder2,
}

/// The models that calipr runs, for README; with a star those that it reads from GGUF too.
pub fn models() -> String {
    let star = |architecture: &Architecture| if architecture.gguf.is_some() { "*" } else { "" };
    let mut models: Vec<String> = ALL.iter().map(|a| format!("{}{}", a.models, star(a))).collect();
    models.sort_by_key(|models| models.to_lowercase());
    models.join(", ")
}

/// "a, b and c"
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

impl Spec {
    /// From a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Where it is not what such a file holds, or names an architecture or option that calipr lacks.
    pub fn from_hub(config: &Value) -> Result<Spec> {
        let Value::Object(of) = config else { bail!("it is no JSON object") };
        let keys = Keys { of, prefix: "", aliases: &[], gguf: None };
        let runs = || listed(ALL.iter().map(|architecture| architecture.name));
        let Some(name) = of.get("model_type").and_then(Value::as_str) else {
            bail!("it has no `model_type`, which says what the model computes; calipr runs {}", runs())
        };
        let architecture = ALL.iter().find(|architecture| architecture.name == name);
        let architecture =
            architecture.with_context(|| format!("model_type \"{name}\" is not supported; calipr runs {}", runs()))?;
        draft::refuse_what_is_not_computed(&keys)?;
        ensure!(
            name == "gemma3" || of.get("text_config").is_none_or(Value::is_null),
            "`text_config` makes it the config of a model around a language model; give the language model a folder of its own"
        );
        let mut spec = (architecture.spec)(&keys)?;
        let turns_all = spec.ropes.iter().all(|rope| rope.dim == spec.blocks[0].attention.heads.dim);
        spec.remarks.extend(rope::ignored_part(&keys).filter(|_| turns_all));
        Ok(spec)
    }

    /// From the metadata of a GGUF file, and its tensors.
    ///
    /// # Errors
    /// Where a key is missing or of the wrong type, or the architecture is not one that calipr runs.
    pub fn from_gguf(content: &Content, tensors: &dyn Tensors) -> Result<Spec> {
        let name = gguf::architecture(content)?;
        let of = |architecture: &'static Architecture| Some((architecture, architecture.gguf?));
        let found = ALL.iter().filter_map(of).find(|(_, gguf)| gguf.name == name);
        let (architecture, gguf) = found.with_context(|| {
            let runs = listed(ALL.iter().filter_map(|architecture| Some(architecture.gguf?.name)));
            format!("architecture \"{name}\" is not supported; calipr runs {runs}")
        })?;
        gguf::read(content, tensors, &gguf, |keys, unused_window| {
            let mut spec = (architecture.spec)(keys)?;
            let because = "sliding window (`attention.sliding_window`)";
            spec.reach = unused_window.map(|tokens| Reach { tokens, because });
            spec.also = gguf.factors;
            Ok(spec)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            let (read, made) = (Spec::from_hub(&case["config"]), &case["made"]);
            if made.is_null() {
                assert!(read.is_err(), "{}: transformers cannot make it", case["config"]);
                continue;
            }
            let read = read.unwrap_or_else(|e| panic!("{}: {e:#}", case["config"]));
            let number = |key: &str| made[key].as_u64().map(|n| n as usize);
            let (rope, block) = (&read.ropes[0], &read.blocks[0]);
            let frequencies = rope.frequencies();
            let expected: Vec<f64> =
                made["inverse_frequencies"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
            assert_eq!(frequencies.len(), expected.len(), "{}", case["config"]);
            for (ours, theirs) in frequencies.iter().zip(&expected) {
                let apart = (f64::from(*ours) - theirs).abs();
                assert!(apart <= 1e-6 * theirs, "{}: {frequencies:?} for {expected:?}", case["config"]);
            }
            let scaling = f64::from(rope.scaling.attention_factor());
            assert!((scaling - made["attention_scaling"].as_f64().unwrap()).abs() < 1e-6, "{}", case["config"]);
            assert_eq!(Some(block.attention.heads.dim), number("head_dim"));
            assert_eq!(Some(block.attention.heads.key_value), number("key_value_heads"), "{}", case["config"]);
            assert_eq!(Some(read.context), number("context"), "{}", case["config"]);
            assert_eq!(
                block.norms.before_attention.as_ref().map(|norm| norm.epsilon),
                made["norm_epsilon"].as_f64(),
                "{}",
                case["config"]
            );
            assert_eq!(Some(read.head.tied), made["tied"].as_bool(), "{}", case["config"]);
            let has_bias = |names: [&str; 2]| block.linears.iter().any(|l| l.bias && names.contains(&l.name.as_str()));
            let biases = [["q", "qkv"], ["o", "o"], ["down", "down"]].map(has_bias);
            assert_eq!(json!(biases), made["biases"], "{}", case["config"]);
            let window = read.blocks.iter().filter_map(|block| block.attention.window).min();
            assert_eq!(window, number("window"), "{}", case["config"]);
        }
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
            (json!({"hidden_act": "mish"}), "mish"),
            (json!({"is_causal": false}), "is_causal"),
            (json!({"transformers_weights": "other.safetensors"}), "other.safetensors"),
            (json!({"hidden_size": null}), "`hidden_size` is null; expected a whole number"),
            (json!({"rms_norm_eps": "1e-5"}), "`rms_norm_eps` is \"1e-5\""),
            (json!({"model_type": "mamba"}), "mamba"),
            (json!({"text_config": {}}), "text_config"),
            (json!({"sliding_window": 0, "model_type": "mistral", "num_key_value_heads": 4}), "`sliding_window` is 0"),
            (json!({"model_type": null}), "model_type"),
            (
                json!({"model_type": "qwen2", "num_key_value_heads": 4, "layer_types": ["full_attention", "chunked_attention"]}),
                "chunked",
            ),
        ] {
            let error = Spec::from_hub(&base(keys)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_key_that_the_architecture_ignores_is_remarked_on() {
        let read = Spec::from_hub(&base(json!({"partial_rotary_factor": 0.5}))).unwrap();
        assert!(read.remarks[0].contains("partial_rotary_factor"), "{:?}", read.remarks);
        assert!(Spec::from_hub(&base(json!({}))).unwrap().remarks.is_empty());
    }
}
