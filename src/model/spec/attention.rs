//! How a token sees those before it.

use serde::Serialize;

use super::NormSpec;

/// How attention is computed, and which linears make its inputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionSpec {
    pub heads: Heads,
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// Scores s become cap·tanh(s/cap).
    pub cap: Option<f32>,
    /// A token sees so many positions, its own among them; None where it sees all up to its own.
    pub window: Option<usize>,
    /// Which of [`Spec::ropes`] turns queries and keys.
    pub rope: Option<usize>,
    /// What the distance of a key adds to its score.
    pub alibi: Option<Alibi>,
    /// Of queries and keys, before they are turned.
    #[serde(skip)]
    pub q_norm: Option<NormSpec>,
    #[serde(skip)]
    pub k_norm: Option<NormSpec>,
    /// q, k and v are held within ± this.
    pub clip: Option<f32>,
    #[serde(skip)]
    pub inputs: Inputs,
    /// The linear that reads the heads' outputs.
    #[serde(skip)]
    pub output: usize,
}

/// A score's bias by position (Press et al. 2022, arXiv 2108.12409): slope · position of the key, head by head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Alibi {
    /// Slopes and products are rounded to bf16, and scaled as scores are: Falcon's.
    pub falcon: bool,
}

impl Alibi {
    /// 2^(−8·i/n) for head i of n, a power of two; of other n, those of the next lower power and every other of the next
    /// higher one's.
    pub fn slopes(heads: usize) -> Vec<f32> {
        let of = |count: usize| 2f64.powf(-(2f64.powf(3.0 - (count as f64).log2()))) as f32;
        let lower = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        let (base, between) = (of(lower), of(2 * lower));
        let own = (1..=lower).map(|i| base.powi(i as i32));
        own.chain((0..heads - lower).map(|i| between.powi(2 * i as i32 + 1))).collect()
    }
}

/// The linears that make queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// One each.
    Separate([usize; 3]),
    /// One for all three, whose rows are in so many groups: the queries of some heads, the keys of the head that they
    /// share, its values. Of one group, all queries, all keys, all values.
    Fused { linear: usize, groups: usize },
}

impl Inputs {
    /// The first linear.
    pub fn first(self) -> usize {
        match self {
            Self::Separate([q, ..]) => q,
            Self::Fused { linear, .. } => linear,
        }
    }
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
