//! The `config.json` of a model that came as a GGUF file. Whether it says the same is not believed but read: by the
//! architecture that a Hugging Face folder of it is of.

use anyhow::{Result, bail};
use candle_core::quantized::gguf_file::Content;
use serde_json::{Map, Value, json};

use super::gguf::{self, Tensors};
use super::{ALL, Architecture};
use crate::model::rope::{RopeScaling, RopeSpec};
use crate::model::spec::{FeedForwardSpec, Spec};

/// Keys that a config has whether or not they say what goes without saying, in this order. Others of an architecture's might
/// be none of transformers' there.
const TOLD: [&str; 8] = [
    "architectures",
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
];

/// The same of architectures with rotary embeddings.
const OF_ROPES: [&str; 3] = ["rope_parameters", "rope_theta", "rope_scaling"];

/// The config that says what a GGUF file says, which computes `spec`; and what it says of a Hugging Face folder.
///
/// # Errors
/// Where no config of an architecture that calipr knows says it.
pub fn hub_config(content: &Content, tensors: &dyn Tensors, spec: &Spec) -> Result<(Value, Spec)> {
    let name = gguf::architecture(content)?;
    let is_own = |architecture: &&Architecture| architecture.gguf.is_some_and(|gguf| gguf.name == name);
    let own = ALL.iter().find(is_own).expect("the file was read");
    let gguf = own.gguf.expect("it was found by its name there");
    let mut config = gguf::read(content, tensors, &gguf, |keys, _| Ok(keys.of.clone()))?;
    config.extend(said_by(spec));
    // llama.cpp's converter makes Mixtral a Llama, and OLMo 3 an OLMo 2.
    let others = ALL.iter().filter(|other| other.name != own.name);
    let mut why = None;
    for architecture in [own].into_iter().chain(others) {
        for (rope, variant) in
            ropes(&config, spec).iter().flat_map(|rope| variants(spec).map(move |v| (rope.clone(), v)))
        {
            let mut config = config.clone();
            config.extend(rope);
            config.extend(variant);
            config.insert("model_type".into(), json!(architecture.name));
            config.insert("architectures".into(), json!([architecture.class]));
            match Spec::from_hub(&Value::Object(config.clone())) {
                Ok(read) if read.computes_as(spec) => return Ok((Value::Object(told(config, spec)), read)),
                Ok(_) => {}
                Err(error) if architecture.name == own.name => why = Some(error),
                Err(_) => {}
            }
        }
    }
    let why = why.map_or(String::new(), |error| format!(" ({error:#})"));
    bail!("no config.json says what the metadata of architecture \"{name}\" do{why}")
}

/// How a config may say what rotary embeddings there are, each with the keys that older readers look for.
fn ropes(config: &Map<String, Value>, spec: &Spec) -> Vec<Map<String, Value>> {
    let object = |value: Value| match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let Some(Value::Object(rope)) = config.get("rope_parameters") else { return vec![Map::new()] };
    let theta = rope.get("rope_theta").cloned().unwrap_or(json!(10_000.0));
    let mut candidates = vec![];
    if rope.get("rope_type").is_some_and(|kind| kind == "factors") {
        candidates.extend(llama3(&spec.ropes[0]).into_iter().map(|(factor, original)| {
            object(json!({"rope_theta": theta, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": original}))
        }));
    } else {
        let mut rope = rope.clone();
        rope.entry("rope_type").or_insert(json!("default"));
        if let Some(part) = config.get("partial_rotary_factor") {
            rope.insert("partial_rotary_factor".into(), part.clone());
        }
        candidates.push(rope);
    }
    let said = |rope: Map<String, Value>| {
        let mut keys = Map::new();
        keys.insert("rope_theta".into(), theta.clone());
        let is_default = rope.get("rope_type").is_some_and(|kind| kind == "default");
        let parameters = match (spec.ropes.len(), config.get("rope_local_base_freq")) {
            (2, local) => {
                let local = local.cloned().unwrap_or(json!(10_000.0));
                json!({"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}})
            }
            _ => {
                // Phi 3's stands outside.
                if rope.get("rope_type").is_some_and(|kind| kind == "longrope") {
                    let original = rope.get("original_max_position_embeddings").cloned();
                    keys.insert("original_max_position_embeddings".into(), original.unwrap_or(Value::Null));
                }
                if !is_default {
                    keys.insert("rope_scaling".into(), Value::Object(rope.clone()));
                }
                Value::Object(rope)
            }
        };
        keys.insert("rope_parameters".into(), parameters);
        keys
    };
    candidates.into_iter().map(said).collect()
}

/// What Llama 3's rope may have been, of which a GGUF file has only the factors that it came to: its factor, and its
/// original context. `low_freq_factor` and `high_freq_factor` are taken to be 1 and 4, as in every published model.
fn llama3(rope: &RopeSpec) -> Vec<(f32, u64)> {
    let RopeScaling::Factors(factors) = &rope.scaling else { return vec![] };
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.frequencies();
    let factor = factors.iter().copied().fold(1.0, f32::max);
    // On the ramp, 1 / f = (1 − s) / factor + s, where s = (original / wavelength − 1) / (4 − 1).
    let of_ramp = plain.iter().zip(factors).filter(|(_, f)| **f > 1.0 && **f < factor).map(|(frequency, f)| {
        let share = (1.0 / f64::from(*f) - 1.0 / f64::from(factor)) / (1.0 - 1.0 / f64::from(factor));
        let wavelength = std::f64::consts::TAU / f64::from(*frequency);
        (wavelength * (3.0 * share + 1.0)).round() as u64
    });
    of_ramp.chain((6..20).map(|power| 1 << power)).map(|original| (factor, original)).collect()
}

/// What a spec says that a GGUF file leaves to llama.cpp's code.
fn said_by(spec: &Spec) -> Map<String, Value> {
    let attention = &spec.blocks[0].attention;
    let mut said = Map::new();
    let mut say = |key: &str, value: Value| drop(said.insert(key.into(), value));
    say("query_pre_attn_scalar", json!((1.0 / f64::from(attention.scale).powi(2)).round() as u64));
    let down = spec.blocks[0].linears.iter().find(|linear| linear.name == "down");
    ["n_inner", "ffn_hidden_size"].iter().for_each(|key| say(key, json!(down.map(|down| down.columns))));
    say("attn_logit_softcapping", json!(attention.cap));
    say("final_logit_softcapping", json!(spec.head.cap));
    let windows: Vec<Option<usize>> = spec.blocks.iter().map(|block| block.attention.window).collect();
    if let Some(window) = windows.iter().flatten().next() {
        say("sliding_window", json!(window));
        let kind = |window: &Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
        say("layer_types", json!(windows.iter().map(kind).collect::<Vec<_>>()));
    }
    let experts = spec.blocks.iter().find_map(|block| match &block.feed_forward {
        FeedForwardSpec::Experts(experts) => Some(experts),
        FeedForwardSpec::One(_) => None,
    });
    if let Some(experts) = experts {
        say("norm_topk_prob", json!(experts.normalised));
        say("num_local_experts", json!(experts.count));
    }
    said
}

/// Keys that some architectures have for how their blocks are laid out, which a GGUF file's tensors tell.
fn variants(spec: &Spec) -> impl Iterator<Item = Map<String, Value>> {
    let heads = spec.blocks[0].attention.heads;
    let falcon = |norms: usize| json!({"new_decoder_architecture": true, "num_kv_heads": heads.key_value, "num_ln_in_parallel_attn": norms});
    [json!({}), falcon(2), falcon(1), json!({"multi_query": false})].into_iter().filter_map(|keys| match keys {
        Value::Object(keys) => Some(keys),
        _ => None,
    })
}

/// Without the keys that say nothing, or nothing that a reader would not take for granted.
fn told(mut config: Map<String, Value>, spec: &Spec) -> Map<String, Value> {
    let is_told = |key: &str| TOLD.contains(&key) || OF_ROPES.contains(&key) && !spec.ropes.is_empty();
    let keys: Vec<String> = config.keys().filter(|key| !is_told(key)).cloned().collect();
    for key in keys {
        let mut without = config.clone();
        without.shift_remove(&key);
        if Spec::from_hub(&Value::Object(without.clone())).is_ok_and(|read| read.computes_as(spec)) {
            config = without;
        }
    }
    let order = |key: &str| TOLD.iter().position(|told| *told == key).unwrap_or(TOLD.len());
    let mut sorted: Vec<(String, Value)> = config.into_iter().collect();
    sorted.sort_by_key(|(key, _)| order(key));
    sorted.into_iter().collect()
}
