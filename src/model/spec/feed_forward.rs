//! What each token goes through on its own.

use serde::Serialize;

use super::Name;

/// What is between attention's output and the next block, by the block's linears.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardSpec {
    One(Feed),
    Experts(ExpertsSpec),
}

/// activation(gate)·up, or activation(up), through down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Feed {
    pub activation: Activation,
    #[serde(skip)]
    pub inputs: FeedInputs,
    #[serde(skip)]
    pub down: usize,
}

/// The linears in front of the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedInputs {
    Gated {
        gate: usize,
        up: usize,
    },
    /// One for both: the rows of gate, then those of up.
    Fused {
        gate_up: usize,
    },
    /// Without a gate.
    Plain {
        up: usize,
    },
}

/// The functions that a feed-forward may apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x·Φ(x)
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// x / (1 + e^(−1.702·x))
    QuickGelu,
    Relu,
    /// max(x, 0)²
    Relu2,
}

/// A mixture of experts: each token goes through the few that a router finds it, and through one for all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpertsSpec {
    pub count: usize,
    /// How many a token is routed to.
    pub used: usize,
    /// The weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// (count, hidden)
    #[serde(skip)]
    pub router: Name,
    #[serde(skip)]
    pub experts: Vec<Feed>,
    pub shared: Option<SharedSpec>,
    /// The files are GGUF.
    #[serde(skip)]
    pub in_gguf: bool,
}

impl ExpertsSpec {
    /// The shape of the router of the expert that all tokens go through: (1, hidden), or (hidden) in GGUF.
    pub fn shared_router_shape(&self, hidden: usize) -> Vec<usize> {
        if self.in_gguf { vec![hidden] } else { vec![1, hidden] }
    }
}

/// The expert that all tokens go through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharedSpec {
    pub feed: Feed,
    /// (1, hidden): its sigmoid multiplies what the expert makes.
    #[serde(skip)]
    pub router: Option<Name>,
}
