//! What architectures are translated with: sizes that most have, blocks built site by site.

use std::iter::repeat_n;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Quantization;
use super::keys::Keys;
use crate::model::rope::RopeSpec;
use crate::model::spec::{
    AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, Heads, LinearSpec, Name, NormSpec, Place,
    Reach, SiteSpec, Spec,
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
    pub vocabulary: usize,
    pub context: usize,
}

impl Sizes {
    pub fn read(keys: &Keys, defaults: &Defaults) -> Result<Self> {
        let hidden = keys.count("hidden_size", defaults.hidden)?;
        let query = keys.count("num_attention_heads", defaults.heads)?;
        let key_value = keys.optional_count("num_key_value_heads", defaults.key_value_heads.or(Some(query)))?;
        let dim = keys.optional_count("head_dim", None)?.unwrap_or(hidden / query.max(1));
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
    fn checked(self) -> Result<Self> {
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
        let Heads { query, key_value, dim } = self.heads;
        ensure!(query.is_multiple_of(key_value), "{query} heads cannot share {key_value} key-value heads evenly");
        ensure!(dim.is_multiple_of(2), "rotary embedding needs an even head size, not {dim}");
        Ok(self)
    }
}

/// A norm of this name.
pub fn norm((hub, gguf): (&str, &str), epsilon: f64) -> Result<NormSpec> {
    ensure!((0.0..1.0).contains(&epsilon), "the norm's epsilon is {epsilon}");
    Ok(NormSpec { name: Name::new(hub, gguf), epsilon })
}

/// Builds a block site by site.
#[derive(Default)]
pub struct Draft {
    sites: Vec<SiteSpec>,
    linears: Vec<LinearSpec>,
}

impl Draft {
    /// The next place where linears read.
    pub fn site(&mut self, place: Place, columns: usize) {
        let at = self.linears.len();
        self.sites.push(SiteSpec { place, columns, linears: at..at });
    }

    /// A linear that reads the last site: what tables, Hugging Face and GGUF call it, its rows, and whether it has a
    /// bias. Its index in the block.
    pub fn linear(&mut self, name: &'static str, (hub, gguf): (&str, &str), rows: usize, bias: bool) -> usize {
        let site = self.sites.last_mut().expect("a linear reads a site");
        let index = self.linears.len();
        site.linears.end = index + 1;
        let part = Name::new(hub, gguf);
        self.linears.push(LinearSpec { name, part, rows, columns: site.columns, bias, paired_heads: None });
        index
    }

    /// As GGUF has the rows of this linear's heads: in pairs.
    pub fn paired(&mut self, index: usize, heads: usize) {
        self.linears[index].paired_heads = Some(heads);
    }

    pub fn finish(self, attention: AttentionSpec, feed_forward: FeedForwardSpec, norms: [NormSpec; 2]) -> BlockSpec {
        BlockSpec { sites: self.sites, linears: self.linears, attention, feed_forward, norms }
    }
}

/// What the linears of a Llama-like block have beyond their weights.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases {
    pub attention_inputs: bool,
    pub attention_output: bool,
    pub feed_forward: bool,
}

/// Llama's block, which others have taken over: `h += o(attention(norm h)); h += down(silu(gate) · up)` of the norm of that.
pub fn llama_block(sizes: &Sizes, biases: Biases, paired: bool, epsilon: f64) -> Result<BlockSpec> {
    let Sizes { hidden, feed_forward, heads, .. } = *sizes;
    let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
    let mut draft = Draft::default();
    draft.site(Place::AttentionInput, hidden);
    let q = draft.linear("q", ("self_attn.q_proj", "attn_q"), query, biases.attention_inputs);
    let k = draft.linear("k", ("self_attn.k_proj", "attn_k"), key_value, biases.attention_inputs);
    let v = draft.linear("v", ("self_attn.v_proj", "attn_v"), key_value, biases.attention_inputs);
    if paired {
        draft.paired(q, heads.query);
        draft.paired(k, heads.key_value);
    }
    draft.site(Place::AttentionOutput, query);
    let output = draft.linear("o", ("self_attn.o_proj", "attn_output"), hidden, biases.attention_output);
    draft.site(Place::FeedForwardInput, hidden);
    let gate = draft.linear("gate", ("mlp.gate_proj", "ffn_gate"), feed_forward, biases.feed_forward);
    let up = draft.linear("up", ("mlp.up_proj", "ffn_up"), feed_forward, biases.feed_forward);
    draft.site(Place::FeedForwardOutput, feed_forward);
    let down = draft.linear("down", ("mlp.down_proj", "ffn_down"), hidden, biases.feed_forward);
    Ok(draft.finish(
        AttentionSpec { heads, scale: heads.scale(), rope: 0, inputs: [q, k, v], output },
        FeedForwardSpec { gate, up, down },
        [norm(("input_layernorm", "attn_norm"), epsilon)?, norm(("post_attention_layernorm", "ffn_norm"), epsilon)?],
    ))
}

/// A model of `sizes.blocks` equal blocks, with the names that Llama gave what is around them.
pub fn model(
    keys: &Keys,
    sizes: &Sizes,
    (rope, reach): (RopeSpec, Option<Reach>),
    block: BlockSpec,
    epsilon: f64,
    mut remarks: Vec<String>,
) -> Result<Spec> {
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
        reach,
        ropes: vec![rope],
        embedding: EmbeddingSpec { name: Name::new("model.embed_tokens", "token_embd") },
        layers: Name::new("model.layers", "blk"),
        blocks: repeat_n(Arc::new(block), sizes.blocks).collect(),
        head: HeadSpec {
            name: Name::new("lm_head", "output"),
            tied: keys.flag("tie_word_embeddings", false)?,
            norm: norm(("model.norm", "output_norm"), epsilon)?,
        },
        quantization,
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
    match keys.get("layer_types") {
        None | Some(Value::Null) => Ok((0..blocks).map(|index| window.filter(|_| slides(index))).collect()),
        Some(Value::Array(types)) => {
            ensure!(types.len() == blocks, "`layer_types` has {} entries for {blocks} blocks", types.len());
            let of = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => window
                    .map(Some)
                    .with_context(|| format!("`layer_types` has \"sliding_attention\", but {said} give it no window")),
                _ => bail!("`layer_types` has {kind}; calipr runs \"full_attention\" and \"sliding_attention\""),
            };
            types.iter().map(of).collect()
        }
        Some(_) => Err(keys.wrong("layer_types", "a list with an entry for each block")),
    }
}

/// The longest sequence that no window of a block's attention cuts, and that the rotary embedding allows.
pub fn reach(windows: &[Option<usize>], longest: Option<Reach>) -> Option<Reach> {
    let window = windows.iter().flatten().min();
    let window = window.map(|&tokens| Reach { tokens, because: "sliding window (`sliding_window`)" });
    [window, longest].into_iter().flatten().min_by_key(|reach| reach.tokens)
}

/// llama.cpp's code of Llama, which reads Mistral's files too, and of Qwen2 knows no window, of whichever a file speaks.
pub fn unused_window(keys: &Keys, context: usize) -> Result<Option<Reach>> {
    let window = keys.optional_count("sliding_window", None)?.filter(|&tokens| tokens > 0 && tokens < context);
    let because = "sliding window (`attention.sliding_window`)";
    Ok(window.filter(|_| keys.gguf.is_some()).map(|tokens| Reach { tokens, because }))
}

/// Keys of other values than any of calipr's models is computed with.
pub fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
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
