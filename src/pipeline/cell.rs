//! What a cell came to.

use std::ops::Add;

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::metrics::Scores;
use crate::recipe::Cell;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    Done,
    /// With the error, in full.
    Failed(String),
}

/// A cell and what it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CellRecord {
    pub cell: Cell,
    pub status: Status,
    /// None where the cell failed.
    pub pruned: Option<PrunedRecord>,
}

/// What pruning came to; cached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PrunedRecord {
    pub layers: Vec<LayerRecord>,
    /// Zeros among the weights of all linears, and how many weights these are.
    pub zeros: u64,
    pub weights: u64,
    /// Seconds of reading weights, of statistics, and of the calibration windows' way through the blocks.
    pub calibrate_seconds: f64,
    /// Seconds of the method itself.
    pub prune_seconds: f64,
    /// The most memory that the process had held by the time the cell ended, where the system tells.
    pub peak_bytes: Option<u64>,
    pub device: String,
    /// The most memory of the device that the cell held at once; None on the CPU.
    #[serde(default)]
    pub device_peak_bytes: Option<u64>,
    /// The most tokens that went through a block at once; None where none did.
    #[serde(default)]
    pub batch_tokens: Option<u64>,
}

/// What pruning a block came to, or reading a dense one; cached beside the block's weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BlockRecord {
    pub layers: Vec<LayerRecord>,
    pub zeros: u64,
    pub weights: u64,
    pub calibrate_seconds: f64,
    pub prune_seconds: f64,
}

impl PrunedRecord {
    /// Adds a block.
    pub fn add(&mut self, block: BlockRecord) {
        self.layers.extend(block.layers);
        self.zeros += block.zeros;
        self.weights += block.weights;
        self.calibrate_seconds += block.calibrate_seconds;
        self.prune_seconds += block.prune_seconds;
    }

    /// The fraction of zeros among the weights of all linears.
    pub fn achieved_sparsity(&self) -> f64 {
        self.zeros as f64 / self.weights.max(1) as f64
    }
}

/// One pruned weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub block: usize,
    pub linear: String,
    pub rows: usize,
    pub columns: usize,
    /// The fraction of zeros.
    pub sparsity: f64,
    /// ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² on a sample of the calibration inputs.
    pub relative_error: Option<f64>,
    /// The damping that the factorisation took.
    pub damping: Option<f64>,
    /// Time of the method itself, without statistics and forward passes.
    pub seconds: f64,
}

/// Where a cell's time went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// Reading weights, statistics, and the calibration windows' way through the blocks.
    pub calibrate: f64,
    /// The method itself.
    pub prune: f64,
    /// The suites' way through the blocks.
    pub forward: f64,
    /// Logits and scores.
    pub score: f64,
    /// Generating answers.
    pub generate: f64,
}

impl Seconds {
    /// None where the cell failed.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        let pruned = outcome.record.pruned.as_ref()?;
        let scores = || outcome.suites.values().filter_map(|s| s.scores.as_ref());
        Some(Self {
            calibrate: pruned.calibrate_seconds,
            prune: pruned.prune_seconds,
            forward: scores().map(|s| s.forward_seconds).fold(0.0, Add::add),
            score: scores().map(|s| s.score_seconds).fold(0.0, Add::add),
            generate: outcome.suites.values().filter_map(|s| Some(s.answers.as_ref()?.seconds)).fold(0.0, Add::add),
        })
    }

    pub fn total(&self) -> f64 {
        self.calibrate + self.prune + self.forward + self.score + self.generate
    }
}

/// A cell's results on a suite; None what the suite's metrics do not need.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SuiteRecord {
    pub scores: Option<ScoresRecord>,
    pub answers: Option<AnswersRecord>,
}

/// Scores of a suite's samples; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoresRecord {
    /// One a sample; without positions where it has no target.
    pub samples: Vec<Scores>,
    /// The log-likelihood of each choice of each sample, in nats; empty where they were not asked for.
    pub choices: Vec<Vec<f64>>,
    /// Seconds of the suite's way through the blocks.
    pub forward_seconds: f64,
    /// Seconds of logits and scores.
    pub score_seconds: f64,
}

/// Generated answers to a suite's prompts; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswersRecord {
    /// One a sample, cut where a stop text begins.
    pub texts: Vec<String>,
    /// Tokens that were generated.
    pub tokens: u64,
    pub seconds: f64,
    /// The most sequences that were decoded together.
    pub widest: usize,
}
