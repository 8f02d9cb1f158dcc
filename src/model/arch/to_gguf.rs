//! The metadata of a model that came as a Hugging Face folder, as llama.cpp's converter writes them. Whether they say the
//! same is not believed but read: by the architecture that a GGUF file of it is of.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};

use super::gguf::{Gguf, LONG_ROPE_FACTORS, ROPE_FACTORS, Tensors};
use super::loads::loads;
use super::{ALL, Architecture};
use crate::model::rope::{RopeScaling, RopeSpec, Yarn};
use crate::model::spec::{BlockSpec, FeedForwardSpec, NormKind, Over, Residual, Spec};

/// A model as a GGUF file says it.
pub struct GgufModel {
    /// Keys and values, but for those of the tokenizer.
    pub metadata: Vec<(String, Value)>,
    /// Tensors of the rotary embedding.
    pub factors: Vec<(&'static str, Vec<f32>)>,
    /// What the file says, with its names and shapes of tensors.
    pub spec: Spec,
}

/// What a GGUF file has to say of a model that came from a Hugging Face folder.
///
/// # Errors
/// Where no architecture that llama.cpp has computes the same.
pub fn gguf_model(spec: &Spec) -> Result<GgufModel> {
    let own = |architecture: &&Architecture| architecture.name == spec.architecture;
    let others = ALL.iter().filter(|architecture| !own(architecture));
    // Mistral and Mixtral are Llamas there, and OLMo 3 an OLMo 2.
    for gguf in ALL.iter().filter(own).chain(others).filter_map(|architecture| architecture.gguf) {
        for variant in variants(&gguf) {
            let described = described(spec, &gguf, variant);
            if let Ok(read) = described.read()
                && read.computes_as(spec)
                && read.has_linears_of(spec)
                && loads(gguf.name, &read)
            {
                let Described { metadata, factors, .. } = described;
                return Ok(GgufModel { metadata, factors, spec: read });
            }
        }
    }
    bail!("llama.cpp has no architecture that computes what \"{}\" does here", spec.architecture)
}

/// What keys do not tell of themselves.
#[derive(Clone, Copy)]
struct Variant {
    /// Logits are divided by `logit_scale`, not multiplied.
    divides: bool,
    /// Which blocks have a window is said, not left to llama.cpp's code.
    says_windows: bool,
}

fn variants(gguf: &Gguf) -> impl Iterator<Item = Variant> {
    let has = |key: &str| gguf.keys.contains(&key);
    let (scales, slides) = (has("logit_scale"), has("attention.sliding_window"));
    let all = [(false, false), (false, true), (true, false), (true, true)];
    let known = all.into_iter().filter(move |(divides, says)| (!divides || scales) && (!says || slides));
    known.map(|(divides, says_windows)| Variant { divides, says_windows })
}

/// A header that is to be tried.
struct Described {
    metadata: Vec<(String, Value)>,
    factors: Vec<(&'static str, Vec<f32>)>,
    /// By their names there.
    shapes: HashMap<String, Vec<usize>>,
}

impl Described {
    /// What a reader makes of it.
    fn read(&self) -> Result<Spec> {
        let metadata = self.metadata.iter().cloned().collect();
        let content =
            Content { magic: VersionedMagic::GgufV3, metadata, tensor_infos: HashMap::new(), tensor_data_offset: 0 };
        Spec::from_gguf(&content, self)
    }
}

impl Tensors for Described {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.factors.iter().find(|(known, _)| *known == name);
        found.map(|(_, values)| values.clone()).with_context(|| format!("`{name}` has no values yet"))
    }
}

fn described(spec: &Spec, gguf: &Gguf, variant: Variant) -> Described {
    let block = &*spec.blocks[0];
    let attention = &block.attention;
    let mut metadata: Vec<(String, Value)> = vec![("general.architecture".into(), Value::String(gguf.name.into()))];
    let mut say = |key: &str, value: Value| metadata.push((format!("{}.{key}", gguf.name), value));
    let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    say("block_count", count(spec.blocks.len()));
    say("context_length", count(spec.context));
    say("embedding_length", count(spec.hidden));
    say("vocab_size", count(spec.vocabulary));
    say("feed_forward_length", count(feed_forward_width(spec)));
    say("attention.head_count", count(attention.heads.query));
    say("attention.head_count_kv", count(attention.heads.key_value));
    say("attention.key_length", count(attention.heads.dim));
    say("attention.value_length", count(attention.heads.dim));
    if let Some(norm) = block.norms(spec.hidden).map(|(norm, _)| norm).chain(&spec.head.norm).next() {
        let key = match norm.kind {
            NormKind::Rms | NormKind::RmsPlusOne => "attention.layer_norm_rms_epsilon",
            NormKind::Layer | NormKind::Plain => "attention.layer_norm_epsilon",
        };
        say(key, Value::F32(norm.epsilon as f32));
    }
    let mut factors = Vec::new();
    // Blocks that see everything have the embedding that the keys are about.
    let whole = spec.blocks.iter().find(|block| block.attention.window.is_none() && block.attention.rope.is_some());
    let of_blocks = whole.or(spec.blocks.iter().find(|block| block.attention.rope.is_some()));
    if let Some(rope) = of_blocks.and_then(|block| spec.ropes.get(block.attention.rope?)) {
        say("rope.dimension_count", count(rope.dim));
        say("rope.freq_base", Value::F32(rope.theta));
        for (key, value) in scaling(rope, &mut factors) {
            say(key, value);
        }
        let local = spec.blocks.iter().find(|block| block.attention.window.is_some());
        let local = local.and_then(|block| spec.ropes.get(block.attention.rope?));
        if let Some(local) = local.filter(|_| gguf.keys.contains(&"rope.freq_base_swa")) {
            say("rope.freq_base_swa", Value::F32(local.theta));
        }
    }
    let unusual = [
        ("attention.scale", Some(attention.scale).filter(|&scale| scale != attention.heads.scale())),
        ("attention.clamp_kqv", attention.clip),
        ("attn_logit_softcapping", attention.cap),
        ("final_logit_softcapping", spec.head.cap),
        ("logit_scale", spec.head.scale.map(|scale| if variant.divides { scale.recip() } else { scale })),
        ("embedding_scale", spec.embedding.scale),
        ("residual_scale", block.branch_scale),
    ];
    for (key, value) in unusual.into_iter().filter(|(key, _)| gguf.keys.contains(key)) {
        if let Some(value) = value {
            say(key, Value::F32(value));
        }
    }
    if let Some(window) = spec.blocks.iter().find_map(|block| block.attention.window)
        && gguf.keys.contains(&"attention.sliding_window")
    {
        say("attention.sliding_window", count(window));
        if variant.says_windows {
            let slides = spec.blocks.iter().map(|block| Value::Bool(block.attention.window.is_some()));
            say("attention.sliding_window_pattern", Value::Array(slides.collect()));
        }
    }
    if ["gptneox", "stablelm"].contains(&gguf.name) {
        say("use_parallel_residual", Value::Bool(block.residual == Residual::Parallel));
    }
    for (key, value) in experts(spec) {
        say(key, count(value));
    }
    let mut shapes: HashMap<String, Vec<usize>> =
        spec.tensors().into_iter().map(|(name, shape)| (name.gguf, shape)).collect();
    // Norms that each head has of its own lie in one tensor there.
    for (index, block) in spec.blocks.iter().enumerate() {
        let own = spec.name_of_block(index);
        for (norm, width) in block.norms(spec.hidden) {
            if let Over::HeadsApart(heads) = norm.over {
                shapes.insert(own.under(&norm.name).of("weight").gguf, vec![heads, width / heads]);
            }
        }
    }
    shapes.extend(factors.iter().map(|(name, values): &(&str, Vec<f32>)| ((*name).to_owned(), vec![values.len()])));
    Described { metadata, factors, shapes }
}

/// The width of a feed-forward that is no expert's, where there is one.
fn feed_forward_width(spec: &Spec) -> usize {
    let width = |block: &BlockSpec| {
        let feed = match &block.feed_forward {
            FeedForwardSpec::One(feed) => feed,
            FeedForwardSpec::Experts(experts) => experts.experts.first()?,
        };
        Some(block.linears[feed.down].columns)
    };
    let is_one = |block: &&BlockSpec| matches!(block.feed_forward, FeedForwardSpec::One(_));
    let mut blocks = spec.blocks.iter().map(|block| &**block);
    blocks.clone().find(is_one).or_else(|| blocks.next()).and_then(width).unwrap_or(0)
}

/// Keys of mixtures of experts.
fn experts(spec: &Spec) -> Vec<(&'static str, usize)> {
    let found = spec.blocks.iter().find_map(|block| match &block.feed_forward {
        FeedForwardSpec::Experts(experts) => Some((block, experts)),
        FeedForwardSpec::One(_) => None,
    });
    let Some((block, experts)) = found else { return vec![] };
    let mut keys = vec![("expert_count", experts.count), ("expert_used_count", experts.used)];
    keys.extend(experts.experts.first().map(|feed| ("expert_feed_forward_length", block.linears[feed.down].columns)));
    let shared = experts.shared.as_ref();
    keys.extend(shared.map(|shared| ("expert_shared_feed_forward_length", block.linears[shared.feed.down].columns)));
    keys
}

/// How a rotary embedding is stretched: keys, and tensors of factors.
fn scaling(rope: &RopeSpec, factors: &mut Vec<(&'static str, Vec<f32>)>) -> Vec<(&'static str, Value)> {
    let named = |kind: &str| ("rope.scaling.type", Value::String(kind.into()));
    let original = |tokens: f64| ("rope.scaling.original_context_length", Value::U32(tokens as u32));
    match &rope.scaling {
        RopeScaling::None => vec![],
        RopeScaling::Linear(factor) => vec![named("linear"), ("rope.scaling.factor", Value::F32(*factor))],
        RopeScaling::Yarn(yarn) => {
            let usual = Yarn::sharpness(yarn.factor, None) as f32;
            let mut keys = vec![
                named("yarn"),
                ("rope.scaling.factor", Value::F32(yarn.factor as f32)),
                original(yarn.original_context),
            ];
            if yarn.attention_factor != usual {
                keys.push(("rope.scaling.attn_factor", Value::F32(yarn.attention_factor / usual)));
            }
            keys
        }
        RopeScaling::LongRope { short_factors, long_factors, original_context, attention_factor, .. } => {
            let [long, short] = LONG_ROPE_FACTORS;
            factors.extend([(long, long_factors.clone()), (short, short_factors.clone())]);
            let sharper = ("rope.scaling.attn_factor", Value::F32(*attention_factor));
            // Without the name llama.cpp looks for factors in Phi-3 only.
            vec![named("longrope"), original(*original_context as f64), sharper]
        }
        RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {
            let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.frequencies();
            let stretched = plain.iter().zip(rope.frequencies()).map(|(plain, own)| plain / own);
            factors.push((ROPE_FACTORS, stretched.collect()));
            vec![]
        }
    }
}
