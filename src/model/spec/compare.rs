//! Whether two specs say that the same is computed, whatever its parts are called and however they are stored.

use std::sync::Arc;

use super::{
    AttentionSpec, BlockSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, Inputs, LinearSpec, Name, NormKind, NormSpec,
    Over, Spec, Stored,
};
use crate::model::rope::{RopeScaling, RopeSpec};

impl Spec {
    /// Whether a model of this spec computes what one of the other does, of weights that are called and stored otherwise.
    pub fn computes_as(&self, other: &Self) -> bool {
        self.ropes.len() == other.ropes.len()
            && self.ropes.iter().zip(&other.ropes).all(|(a, b)| turns_as(a, b))
            && self.nameless() == other.nameless()
    }

    /// Whether its linears are those of the other, block by block: weights of the same shapes that read the same sites.
    pub fn has_linears_of(&self, other: &Self) -> bool {
        self.blocks.len() == other.blocks.len()
            && self.blocks.iter().zip(&other.blocks).all(|(a, b)| a.has_linears_of(b))
    }

    /// The same without what only files are about.
    fn nameless(&self) -> Self {
        let EmbeddingSpec { width, scale, norm, projection, positions, .. } = self.embedding.clone();
        let head = self.head.clone();
        Self {
            architecture: String::new(),
            ropes: vec![],
            reach: None,
            embedding: EmbeddingSpec {
                name: Name::default(),
                width,
                scale,
                norm: unnamed(norm),
                projection: projection.map(|_| Name::default()),
                positions: positions.map(|positions| super::PositionsSpec { name: Name::default(), ..positions }),
            },
            layers: Name::default(),
            blocks: self.blocks.iter().map(|block| Arc::new(block.nameless())).collect(),
            head: HeadSpec {
                name: Name::default(),
                norm: unnamed(head.norm),
                projection: head.projection.map(|_| Name::default()),
                ..head
            },
            quantization: None,
            also: &[],
            remarks: vec![],
            ..*self
        }
    }
}

impl BlockSpec {
    fn has_linears_of(&self, other: &Self) -> bool {
        let sites = |block: &Self| -> Vec<_> {
            block.sites.iter().map(|site| (site.place, site.columns, site.linears.clone())).collect()
        };
        let shape = |linear: &LinearSpec| (linear.name.clone(), linear.rows);
        sites(self) == sites(other) && self.linears.iter().map(shape).eq(other.linears.iter().map(shape))
    }

    fn nameless(&self) -> Self {
        let mut block = self.clone();
        for linear in &mut block.linears {
            *linear = LinearSpec { part: Name::default(), stored: Stored::Plain, ..linear.clone() };
        }
        let norms = &mut block.norms;
        for norm in [
            &mut norms.before_attention,
            &mut norms.after_attention,
            &mut norms.before_feed_forward,
            &mut norms.after_feed_forward,
        ] {
            *norm = unnamed(norm.take());
        }
        let AttentionSpec { q_norm, k_norm, inputs, .. } = &mut block.attention;
        (*q_norm, *k_norm) = (unnamed(q_norm.take()), unnamed(k_norm.take()));
        if let Inputs::Fused { groups, .. } = inputs {
            *groups = 1;
        }
        if let FeedForwardSpec::Experts(experts) = &mut block.feed_forward {
            experts.router = Name::default();
            experts.in_gguf = false;
            experts
                .shared
                .iter_mut()
                .for_each(|shared| shared.router = shared.router.as_ref().map(|_| Name::default()));
        }
        block
    }
}

/// A norm by what it computes: how it stores its weights is the files' affair, and ε has 32 bits.
fn unnamed(norm: Option<NormSpec>) -> Option<NormSpec> {
    norm.map(|norm| NormSpec {
        name: Name::default(),
        kind: if norm.kind == NormKind::RmsPlusOne { NormKind::Rms } else { norm.kind },
        epsilon: f64::from(norm.epsilon as f32),
        over: match norm.over {
            Over::HeadsApart(heads) => Over::EachHead(heads),
            over => over,
        },
        ..norm
    })
}

/// Whether two rotary embeddings turn alike: to seven digits, which is what a GGUF file has of a frequency.
fn turns_as(a: &RopeSpec, b: &RopeSpec) -> bool {
    if [a, b].iter().any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. })) {
        // What becomes of a text that outgrows the original context is said by no file.
        let said = |rope: &RopeSpec| {
            let mut rope = rope.clone();
            if let RopeScaling::LongRope { turns_anew, .. } = &mut rope.scaling {
                *turns_anew = false;
            }
            rope
        };
        return said(a) == said(b);
    }
    let near = |x: f32, y: f32| (x - y).abs() <= 1e-6 * x.abs().max(y.abs());
    let of = |rope: &RopeSpec| (rope.dim, rope.frequencies(), rope.scaling.attention_factor());
    let ((dim, ours, factor), (other_dim, theirs, other_factor)) = (of(a), of(b));
    dim == other_dim
        && a.interleaved == b.interleaved
        && near(factor, other_factor)
        && ours.len() == theirs.len()
        && ours.into_iter().zip(theirs).all(|(x, y)| near(x, y))
}
