//! A model as data: what its blocks are made of, in which order things are computed, and what its tensors are called.
//!
//! [`super::arch`] translates a config into it. Reading, pruning, estimates of work and memory, checks and GGUF's names
//! iterate it.

mod attention;
mod block;
mod compare;
mod feed_forward;
mod name;
mod norm;

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arch::Quantization;
use super::rope::RopeSpec;
pub use attention::{Alibi, AttentionSpec, Heads, Inputs};
pub use block::{BlockSpec, LinearSpec, Norms, Place, Residual, SiteSpec, Stored};
pub use feed_forward::{Activation, ExpertsSpec, Feed, FeedForwardSpec, FeedInputs, SharedSpec};
pub use name::Name;
pub use norm::{NormKind, NormSpec, Over};

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
    /// Tensors of a GGUF file that were taken beside those of weights.
    pub also: &'static [&'static str],
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
        let (embedding, head) = (&self.embedding, &self.head);
        let mut tensors = vec![(embedding.name.of("weight"), vec![vocabulary, embedding.width])];
        if let Some(positions) = &embedding.positions {
            tensors.push((positions.name.of("weight"), vec![positions.rows, hidden]));
        }
        tensors.extend(embedding.norm.iter().flat_map(|norm| norm.tensors(&Name::default(), embedding.width)));
        tensors.extend(embedding.projection.iter().map(|name| (name.of("weight"), vec![hidden, embedding.width])));
        tensors.extend(head.norm.iter().flat_map(|norm| norm.tensors(&Name::default(), hidden)));
        tensors.extend(head.projection.iter().map(|name| (name.of("weight"), vec![embedding.width, hidden])));
        if !head.tied {
            tensors.push((head.name.of("weight"), vec![vocabulary, embedding.width]));
        }
        if head.bias {
            tensors.push((head.name.of("bias"), vec![vocabulary]));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let own = self.name_of_block(index);
            for (norm, width) in block.norms(hidden) {
                tensors.extend(norm.tensors(&own, width));
            }
            if let FeedForwardSpec::Experts(experts) = &block.feed_forward {
                tensors.push((own.under(&experts.router).of("weight"), vec![experts.count, hidden]));
                let gate = experts.shared.iter().filter_map(|shared| shared.router.as_ref());
                tensors.extend(gate.map(|name| (own.under(name).of("weight"), experts.shared_router_shape(hidden))));
            }
            // What several experts have in one tensor stands with the first of them.
            let is_first = |linear: &&LinearSpec| !matches!(linear.stored, Stored::Expert { index: 1.., .. });
            for linear in block.linears.iter().filter(is_first) {
                let name = own.under(&linear.part);
                tensors.push((name.of("weight"), linear.stored_shape()));
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
                block.linears.iter().map(|l| (l.name.clone(), json!([l.rows, l.columns]))).collect();
            json!({
                "blocks": [first, first + kind.len() - 1],
                "attention": block.attention,
                "linears": linears,
                "feed_forward": block.feed_forward,
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

/// Tokens to hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// (vocabulary, width)
    pub name: Name,
    /// Values of a token, which are the hidden ones where there is no projection.
    pub width: usize,
    /// What rows are multiplied by.
    pub scale: Option<f32>,
    /// Over a token's values.
    pub norm: Option<NormSpec>,
    /// (hidden, width)
    pub projection: Option<Name>,
    /// What each position adds.
    pub positions: Option<PositionsSpec>,
}

/// A learned vector for each position: (rows, hidden).
#[derive(Debug, Clone, PartialEq)]
pub struct PositionsSpec {
    pub name: Name,
    pub rows: usize,
    /// The row of position 0.
    pub first: usize,
}

/// Hidden states to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// (vocabulary, width)
    pub name: Name,
    /// The head is the embedding.
    pub tied: bool,
    pub bias: bool,
    /// In front of it.
    pub norm: Option<NormSpec>,
    /// (width, hidden), in front of the head.
    pub projection: Option<Name>,
    /// What logits are multiplied by.
    pub scale: Option<f32>,
    /// Logits z become cap·tanh(z/cap).
    pub cap: Option<f32>,
}
