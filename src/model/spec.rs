//! A model as data: what its blocks are made of, in which order things are computed, and what its tensors are called.
//!
//! [`super::arch`] translates a config into it. Reading, pruning, estimates of work and memory, checks and GGUF's names
//! iterate it.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arch::Quantization;
use super::rope::RopeSpec;

/// What the forward pass needs to know of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// As the files call it: `model_type`, `general.architecture`.
    pub architecture: String,
    pub hidden: usize,
    pub vocabulary: usize,
    /// The longest window that the model was made for, in tokens.
    pub context: usize,
    /// Where calipr computes what the model does only of shorter windows.
    pub reach: Option<Reach>,
    /// The rotary embeddings that blocks name by index.
    pub ropes: Vec<RopeSpec>,
    pub embedding: EmbeddingSpec,
    /// In front of a block's own names stands this, and the block's number.
    pub layers: Name,
    /// One a block; blocks of a kind share it.
    pub blocks: Vec<Arc<BlockSpec>>,
    pub head: HeadSpec,
    pub quantization: Option<Quantization>,
    /// What a person should know of how the files are read.
    pub remarks: Vec<String>,
}

impl Spec {
    /// What stands in front of the names of a block's tensors.
    pub fn name_of_block(&self, index: usize) -> Name {
        let number = index.to_string();
        self.layers.under(&Name::new(number.clone(), number))
    }

    /// Every tensor that the model is made of, and its shape.
    pub fn tensors(&self) -> Vec<(Name, Vec<usize>)> {
        let (vocabulary, hidden) = (self.vocabulary, self.hidden);
        let mut tensors = vec![
            (self.embedding.name.of("weight"), vec![vocabulary, hidden]),
            (self.head.norm.name.of("weight"), vec![hidden]),
        ];
        if !self.head.tied {
            tensors.push((self.head.name.of("weight"), vec![vocabulary, hidden]));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let own = self.name_of_block(index);
            let norms = block.norms.iter().map(|norm| (own.under(&norm.name).of("weight"), vec![hidden]));
            tensors.extend(norms);
            for linear in &block.linears {
                let name = own.under(&linear.part);
                tensors.push((name.of("weight"), vec![linear.rows, linear.columns]));
                if linear.bias {
                    tensors.push((name.of("bias"), vec![linear.rows]));
                }
            }
        }
        tensors
    }

    /// For people: what the model computes, with blocks of a kind said once.
    pub fn described(&self) -> Value {
        let kinds = self.blocks.chunk_by(Arc::ptr_eq);
        let described = |first: usize, kind: &[Arc<BlockSpec>]| {
            let block = &kind[0];
            let linears: Map<String, Value> =
                block.linears.iter().map(|l| (l.name.to_owned(), json!([l.rows, l.columns]))).collect();
            json!({
                "blocks": [first, first + kind.len() - 1],
                "attention": block.attention,
                "linears": linears,
                "norm_epsilon": block.norms[0].epsilon,
            })
        };
        let mut first = 0;
        let blocks: Vec<Value> = kinds.map(|kind| (described(first, kind), first += kind.len()).0).collect();
        json!({
            "architecture": self.architecture,
            "hidden": self.hidden,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "reach": self.reach,
            "tied": self.head.tied,
            "ropes": self.ropes,
            "blocks": blocks,
        })
    }

    /// Parameters of all blocks that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        self.blocks.iter().map(|block| block.linear_parameters()).sum()
    }
}

impl BlockSpec {
    /// Parameters that pruning may touch.
    pub fn linear_parameters(&self) -> usize {
        self.linears.iter().map(LinearSpec::parameters).sum()
    }

    /// The linears that read a site.
    pub fn readers(&self, site: usize) -> &[LinearSpec] {
        &self.linears[self.sites[site].linears.clone()]
    }
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

/// What a tensor, or a part of a model, is called in a Hugging Face folder and in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Name {
    pub hub: String,
    pub gguf: String,
}

impl Name {
    pub fn new(hub: impl Into<String>, gguf: impl Into<String>) -> Self {
        Self { hub: hub.into(), gguf: gguf.into() }
    }

    /// What it has under it: `model.layers`, `3` → `model.layers.3`.
    pub fn under(&self, inner: &Self) -> Self {
        Self::new(format!("{}.{}", self.hub, inner.hub), format!("{}.{}", self.gguf, inner.gguf))
    }

    /// Its tensor of this kind, `weight` or `bias`.
    pub fn of(&self, kind: &str) -> Self {
        self.under(&Self::new(kind, kind))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.hub)
    }
}

/// Tokens to hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// (vocabulary, hidden)
    pub name: Name,
}

/// Hidden states to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// (vocabulary, hidden)
    pub name: Name,
    /// The head is the embedding.
    pub tied: bool,
    /// In front of it.
    pub norm: NormSpec,
}

/// A norm over the values of a token, or of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    pub name: Name,
    pub epsilon: f64,
}

/// One decoder block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// The places where linears read, in the order in which a token passes them.
    pub sites: Vec<SiteSpec>,
    /// The weights that pruning may touch, site by site.
    pub linears: Vec<LinearSpec>,
    pub attention: AttentionSpec,
    pub feed_forward: FeedForwardSpec,
    /// In front of attention, and of the feed-forward.
    pub norms: [NormSpec; 2],
}

/// A place in a block whose value one or more linears read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSpec {
    pub place: Place,
    pub columns: usize,
    /// Those of the block's linears that read it.
    pub linears: Range<usize>,
}

/// Which place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The normed residual, read by q, k and v.
    AttentionInput,
    /// The heads' outputs side by side, read by o.
    AttentionOutput,
    /// The normed residual after attention, read by gate and up.
    FeedForwardInput,
    /// activation(gate)·up, read by down.
    FeedForwardOutput,
}

impl Place {
    /// For messages: the model's 576 "hidden" columns.
    pub fn of_columns(self) -> &'static str {
        match self {
            Self::AttentionInput | Self::FeedForwardInput => "hidden",
            Self::AttentionOutput => "attention",
            Self::FeedForwardOutput => "feed-forward",
        }
    }
}

/// A weight matrix that pruning may touch.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearSpec {
    /// As tables spell it.
    pub name: &'static str,
    /// What it is called within the block.
    pub part: Name,
    pub rows: usize,
    pub columns: usize,
    pub bias: bool,
    /// GGUF has the rows of each of so many heads in pairs, (x₀, x_{d/2}), (x₁, x_{d/2+1}) …; None where it has them as
    /// Hugging Face does.
    pub paired_heads: Option<usize>,
}

impl LinearSpec {
    pub fn parameters(&self) -> usize {
        self.rows * self.columns
    }
}

/// How attention is computed, and which linears make its inputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionSpec {
    pub heads: Heads,
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// Which of [`Spec::ropes`] turns queries and keys.
    pub rope: usize,
    /// The linears q, k and v.
    #[serde(skip)]
    pub inputs: [usize; 3],
    /// The linear that reads the heads' outputs.
    #[serde(skip)]
    pub output: usize,
}

/// How the columns of q, k and v divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

impl Heads {
    /// 1/√dim, by which most attention scales.
    pub fn scale(self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }
}

/// silu(gate)·up, through down: the block's linears of these names.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForwardSpec {
    pub gate: usize,
    pub up: usize,
    pub down: usize,
}
