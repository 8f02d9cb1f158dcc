//! What architectures are translated with: sizes that most have, blocks built site by site.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Quantization;
use super::keys::Keys;
use crate::model::rope::RopeSpec;
use crate::model::spec::{
    Activation, AttentionSpec, BlockSpec, EmbeddingSpec, ExpertsSpec, Feed, FeedForwardSpec, FeedInputs, HeadSpec,
    Heads, Inputs, LinearSpec, Name, NormKind, NormSpec, Norms, Over, Place, Residual, SharedSpec, SiteSpec, Spec,
    Stored,
};

/// The sizes that decoders have in common.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub feed_forward: usize,
    pub blocks: usize,
    pub heads: Heads,
    pub vocabulary: usize,
    pub context: usize,
}

/// What transformers takes where a key is absent (`models/*/configuration_*.py`).
pub struct Defaults {
    pub hidden: usize,
    pub feed_forward: usize,
    pub blocks: usize,
    pub heads: usize,
    /// None: as many as heads.
    pub key_value_heads: Option<usize>,
    /// None: hidden values divided by heads.
    pub head_dim: Option<usize>,
    pub vocabulary: usize,
    pub context: usize,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            hidden: 4096,
            feed_forward: 11_008,
            blocks: 32,
            heads: 32,
            key_value_heads: None,
            head_dim: None,
            vocabulary: 32_000,
            context: 2048,
        }
    }
}

impl Sizes {
    pub fn read(keys: &Keys, defaults: &Defaults) -> Result<Self> {
        let hidden = keys.count("hidden_size", defaults.hidden)?;
        let query = keys.count("num_attention_heads", defaults.heads)?;
        let key_value = keys.optional_count("num_key_value_heads", defaults.key_value_heads.or(Some(query)))?;
        let dim = keys.optional_count("head_dim", defaults.head_dim)?.unwrap_or(hidden / query.max(1));
        Self {
            hidden,
            feed_forward: keys.count("intermediate_size", defaults.feed_forward)?,
            blocks: keys.count("num_hidden_layers", defaults.blocks)?,
            heads: Heads { query, key_value: key_value.unwrap_or(query), dim },
            vocabulary: keys.count("vocab_size", defaults.vocabulary)?,
            context: keys.count("max_position_embeddings", defaults.context)?,
        }
        .checked()
    }

    /// An error where the numbers cannot belong to a model, rather than a panic in the middle of a run.
    pub fn checked(self) -> Result<Self> {
        // Far more than any model has; a claim beyond makes tables that no memory holds.
        for (name, value, most) in [
            ("hidden size", self.hidden, 1 << 20),
            ("feed-forward size", self.feed_forward, 1 << 22),
            ("number of blocks", self.blocks, 1 << 12),
            ("number of heads", self.heads.query, 1 << 14),
            ("number of key-value heads", self.heads.key_value, 1 << 14),
            ("head size", self.heads.dim, 1 << 12),
            ("vocabulary", self.vocabulary, 1 << 24),
            ("context length", self.context, 1 << 28),
        ] {
            ensure!((1..=most).contains(&value), "the {name} is {value}; expected 1 to {most}");
        }
        let Heads { query, key_value, .. } = self.heads;
        ensure!(query.is_multiple_of(key_value), "{query} heads cannot share {key_value} key-value heads evenly");
        Ok(self)
    }
}

/// A norm of this name: a root-mean-square norm over rows.
pub fn norm((hub, gguf): (&str, &str), epsilon: f64) -> Result<NormSpec> {
    ensure!((0.0..1.0).contains(&epsilon), "the norm's epsilon is {epsilon}");
    Ok(NormSpec { name: Name::new(hub, gguf), kind: NormKind::Rms, epsilon, bias: false, over: Over::Row })
}

/// A layer norm of this name, with a bias or without.
pub fn layer_norm(name: (&str, &str), epsilon: f64, bias: bool) -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Layer, bias, ..norm(name, epsilon)? })
}

/// Builds a block site by site.
pub struct Draft {
    sizes: Sizes,
    sites: Vec<SiteSpec>,
    linears: Vec<LinearSpec>,
}

impl Draft {
    /// Of a block whose first linears read the hidden states.
    pub fn new(sizes: &Sizes) -> Self {
        let mut draft = Self { sizes: *sizes, sites: vec![], linears: vec![] };
        draft.site(Place::AttentionInput, sizes.hidden);
        draft
    }

    /// The next place where linears read.
    pub fn site(&mut self, place: Place, columns: usize) {
        let at = self.linears.len();
        self.sites.push(SiteSpec { place, columns, linears: at..at });
    }

    /// A linear that reads the last site: what tables, Hugging Face and GGUF call it, its rows, and whether it has a
    /// bias. Its index in the block.
    pub fn linear(&mut self, name: impl Into<String>, (hub, gguf): (&str, &str), rows: usize, bias: bool) -> usize {
        let site = self.sites.last_mut().expect("a linear reads a site");
        let index = self.linears.len();
        site.linears.end = index + 1;
        let (part, stored) = (Name::new(hub, gguf), Stored::Plain);
        self.linears.push(LinearSpec { name: name.into(), part, rows, columns: site.columns, bias, stored });
        index
    }

    /// How the files hold a linear.
    pub fn stored(&mut self, index: usize, stored: Stored) {
        self.linears[index].stored = stored;
    }

    /// The rows of q's and k's heads are in pairs, as llama.cpp's converter leaves them for architectures of which it turns
    /// neighbours.
    pub fn paired(&mut self, [q, k, _]: [usize; 3]) {
        self.stored(q, Stored::Paired(self.sizes.heads.query));
        self.stored(k, Stored::Paired(self.sizes.heads.key_value));
    }

    /// All linears so far are held transposed.
    pub fn all_transposed(&mut self) {
        self.linears.iter_mut().for_each(|linear| linear.stored = Stored::Transposed);
    }

    /// q, k and v, under `self_attn`.
    pub fn queries_keys_values(&mut self, bias: bool) -> [usize; 3] {
        let Heads { query, key_value, dim } = self.sizes.heads;
        let q = self.linear("q", ("self_attn.q_proj", "attn_q"), query * dim, bias);
        let k = self.linear("k", ("self_attn.k_proj", "attn_k"), key_value * dim, bias);
        let v = self.linear("v", ("self_attn.v_proj", "attn_v"), key_value * dim, bias);
        [q, k, v]
    }

    /// q, k and v in one, in so many groups.
    pub fn fused(&mut self, name: (&str, &str), groups: usize, bias: bool) -> Inputs {
        let Heads { query, key_value, dim } = self.sizes.heads;
        Inputs::Fused { linear: self.linear("qkv", name, (query + 2 * key_value) * dim, bias), groups }
    }

    /// What reads the heads' outputs, at a site of its own, and attention as it mostly is: scaled by 1/√dim, turned by the
    /// first rotary embedding, all before a token seen.
    pub fn attention(&mut self, inputs: Inputs, output: (&str, &str), bias: bool) -> AttentionSpec {
        let heads = self.sizes.heads;
        self.site(Place::AttentionOutput, heads.query * heads.dim);
        AttentionSpec {
            heads,
            scale: heads.scale(),
            cap: None,
            window: None,
            rope: Some(0),
            alibi: None,
            q_norm: None,
            k_norm: None,
            clip: None,
            inputs,
            output: self.linear("o", output, self.sizes.hidden, bias),
        }
    }

    /// gate and up, under `mlp`.
    pub fn gate_and_up(&mut self, bias: bool) -> FeedInputs {
        let rows = self.sizes.feed_forward;
        let gate = self.linear("gate", ("mlp.gate_proj", "ffn_gate"), rows, bias);
        FeedInputs::Gated { gate, up: self.linear("up", ("mlp.up_proj", "ffn_up"), rows, bias) }
    }

    /// What ends a feed-forward, at a site of its own.
    pub fn down(&mut self, inputs: FeedInputs, activation: Activation, name: (&str, &str), bias: bool) -> Feed {
        self.site(Place::FeedForwardOutput, self.sizes.feed_forward);
        Feed { activation, inputs, down: self.linear("down", name, self.sizes.hidden, bias) }
    }

    /// A gated feed-forward under `mlp`, which reads a site of its own.
    pub fn gated(&mut self, activation: Activation, bias: bool) -> Feed {
        self.site(Place::FeedForwardInput, self.sizes.hidden);
        let inputs = self.gate_and_up(bias);
        self.down(inputs, activation, ("mlp.down_proj", "ffn_down"), bias)
    }

    /// One without a gate, which reads a site of its own.
    pub fn plain(&mut self, activation: Activation, [up, down]: [(&str, &str); 2], bias: bool) -> Feed {
        self.site(Place::FeedForwardInput, self.sizes.hidden);
        let inputs = FeedInputs::Plain { up: self.linear("up", up, self.sizes.feed_forward, bias) };
        self.down(inputs, activation, down, bias)
    }

    /// A mixture of experts. GGUF has each kind of weight of all experts in one tensor.
    pub fn experts(&mut self, experts: &Mixture, in_gguf: bool) -> ExpertsSpec {
        let (hidden, activation, count) = (self.sizes.hidden, experts.activation, experts.count);
        self.site(Place::FeedForwardInput, hidden);
        let shared = experts.shared.as_ref().map(|shared| {
            let name = |part: &str| format!("{}.{part}_proj", shared.name);
            let gate = self.linear("shared.gate", (&name("gate"), "ffn_gate_shexp"), shared.columns, false);
            let up = self.linear("shared.up", (&name("up"), "ffn_up_shexp"), shared.columns, false);
            self.site(Place::SharedOutput, shared.columns);
            let down = self.linear("shared.down", (&name("down"), "ffn_down_shexp"), hidden, false);
            let feed = Feed { activation, inputs: FeedInputs::Gated { gate, up }, down };
            SharedSpec { feed, router: Some(Name::new(shared.router, "ffn_gate_inp_shexp")) }
        });
        let expert = |index: usize| {
            let name = |part: &str| format!("{}.{index}.{part}", experts.name);
            let own = |part: &str| format!("experts.{index}.{part}");
            let [gate, up, down] = experts.parts;
            self.site(Place::ExpertInput(index), hidden);
            let gate = self.linear(own("gate"), (&name(gate), "ffn_gate_exps"), experts.columns, false);
            let up = self.linear(own("up"), (&name(up), "ffn_up_exps"), experts.columns, false);
            self.site(Place::ExpertOutput(index), experts.columns);
            let down = self.linear(own("down"), (&name(down), "ffn_down_exps"), hidden, false);
            if in_gguf {
                [gate, up, down].iter().for_each(|&linear| self.stored(linear, Stored::Expert { index, count }));
            }
            Feed { activation, inputs: FeedInputs::Gated { gate, up }, down }
        };
        ExpertsSpec {
            count: experts.count,
            used: experts.used,
            normalised: experts.normalised,
            router: Name::new(experts.router, "ffn_gate_inp"),
            in_gguf,
            experts: (0..experts.count).map(expert).collect(),
            shared,
        }
    }

    /// A block that adds what attention makes of its normed input, then what the feed-forward makes of that, normed.
    pub fn finish(self, attention: AttentionSpec, feed_forward: FeedForwardSpec, norms: Norms) -> BlockSpec {
        let (sites, linears) = (self.sites, self.linears);
        let (residual, branch_scale) = (Residual::Sequential, None);
        BlockSpec { sites, linears, attention, feed_forward, norms, residual, branch_scale }
    }
}

/// A mixture of experts as a config has it.
pub struct Mixture<'a> {
    pub count: usize,
    pub used: usize,
    /// The weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// Columns between the linears of an expert.
    pub columns: usize,
    pub activation: Activation,
    pub router: &'a str,
    /// In front of an expert's number.
    pub name: &'a str,
    /// What gate, up and down are called.
    pub parts: [&'a str; 3],
    pub shared: Option<SharedExpert<'a>>,
}

/// The expert that all tokens go through.
pub struct SharedExpert<'a> {
    pub columns: usize,
    pub name: &'a str,
    pub router: &'a str,
}

impl Mixture<'_> {
    /// An error where the numbers cannot be.
    pub fn checked(self) -> Result<Self> {
        // More than any model has.
        ensure!((1..=1 << 12).contains(&self.count), "the number of experts is {}", self.count);
        ensure!((1..=self.count).contains(&self.used), "{} of {} experts are used", self.used, self.count);
        ensure!((1..=1 << 22).contains(&self.columns), "the experts' size is {}", self.columns);
        Ok(self)
    }
}

/// The blocks of a model, one for each number; equal ones are one.
pub fn blocks(count: usize, of: impl Fn(usize) -> Result<BlockSpec>) -> Result<Vec<Arc<BlockSpec>>> {
    let mut blocks: Vec<Arc<BlockSpec>> = Vec::with_capacity(count);
    for index in 0..count {
        let block = of(index)?;
        let known = blocks.iter().rev().find(|known| ***known == block).cloned();
        blocks.push(known.unwrap_or_else(|| Arc::new(block)));
    }
    Ok(blocks)
}

/// The norms in front of attention and of the feed-forward, as Llama calls them.
pub fn llama_norms(epsilon: f64) -> Result<Norms> {
    Ok(Norms {
        before_attention: Some(norm(("input_layernorm", "attn_norm"), epsilon)?),
        before_feed_forward: Some(norm(("post_attention_layernorm", "ffn_norm"), epsilon)?),
        ..Norms::default()
    })
}

/// ε of root-mean-square norms.
pub fn rms_epsilon(keys: &Keys, default: f64) -> Result<f64> {
    Ok(keys.number("rms_norm_eps")?.unwrap_or(default))
}

/// The activation that a key names, of those that transformers knows (`ACT2FN`).
pub fn activation(keys: &Keys, key: &str, default: Activation) -> Result<Activation> {
    match keys.get(key) {
        None => Ok(default),
        Some(Value::String(name)) => match name.as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::Relu2),
            _ => bail!(
                "`{key}` is \"{name}\", which is not supported; calipr runs silu, gelu, gelu_new, gelu_pytorch_tanh, \
                 quick_gelu, relu and relu2"
            ),
        },
        Some(_) => Err(keys.wrong(key, "a name, such as \"silu\"")),
    }
}

/// A model of these blocks, with the names that Llama gave what is around them.
pub fn model(
    keys: &Keys,
    sizes: &Sizes,
    ropes: Vec<RopeSpec>,
    blocks: Vec<Arc<BlockSpec>>,
    norm: NormSpec,
    tied: bool,
) -> Result<Spec> {
    let mut remarks = Vec::new();
    let quantization = keys.get("quantization_config").filter(|config| !config.is_null());
    let quantization = quantization.map(Quantization::of).transpose()?;
    if let Some(Quantization { method, .. }) = &quantization {
        remarks.push(format!(
            "the weights are stored in 8 bits ({method}) and read as value × scale; activations are not quantised"
        ));
    }
    Ok(Spec {
        architecture: keys.architecture()?.to_owned(),
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        reach: None,
        ropes,
        embedding: EmbeddingSpec {
            name: Name::new("model.embed_tokens", "token_embd"),
            width: sizes.hidden,
            scale: None,
            norm: None,
            projection: None,
            positions: None,
        },
        layers: Name::new("model.layers", "blk"),
        blocks,
        head: HeadSpec {
            name: Name::new("lm_head", "output"),
            tied: keys.flag("tie_word_embeddings", tied)?,
            bias: false,
            norm: Some(norm),
            projection: None,
            scale: None,
            cap: None,
        },
        quantization,
        also: &[],
        remarks,
    })
}

/// The window of each block's attention, None where it sees all before it: by `layer_types`, or, where these are not
/// given, in the blocks that `slides` names. `said` is the keys that give a window.
pub fn windows(
    keys: &Keys,
    window: Option<usize>,
    blocks: usize,
    slides: impl Fn(usize) -> bool,
    said: &str,
) -> Result<Vec<Option<usize>>> {
    if let Some(0) = window {
        bail!("`sliding_window` is 0; expected the positions that a token sees, or null");
    }
    match keys.get("layer_types") {
        None | Some(Value::Null) => Ok((0..blocks).map(|index| window.filter(|_| slides(index))).collect()),
        Some(Value::Array(types)) => {
            ensure!(types.len() == blocks, "`layer_types` has {} entries for {blocks} blocks", types.len());
            let of = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => window.map(Some).with_context(|| {
                    format!("`layer_types` has \"sliding_attention\", but there is no window in {said}")
                }),
                _ => bail!("`layer_types` has {kind}; calipr runs \"full_attention\" and \"sliding_attention\""),
            };
            types.iter().map(of).collect()
        }
        Some(_) => Err(keys.wrong("layer_types", "a list with an entry for each block")),
    }
}

/// Keys of other values than any of calipr's models is computed with.
pub fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
    if !keys.flag("is_causal", true)? {
        bail!(
            "`is_causal` is false: each token sees those behind it too; calipr runs models that write from left to right"
        );
    }
    if let Some(file) = keys.get("transformers_weights").filter(|file| !file.is_null()) {
        bail!("`transformers_weights` names {file}; calipr reads model.safetensors, or what its index names");
    }
    // Layers of unequal shape.
    for key in ["per_layer_config", "block_configs"] {
        ensure!(
            keys.get(key).is_none_or(|value| value.is_null() || value == &Value::Array(vec![])),
            "`{key}` makes blocks of unequal shape, which calipr does not run"
        );
    }
    Ok(())
}
