//! What a cell came to.

use serde::{Deserialize, Serialize};

use crate::metrics::{JudgeScores, Scores};
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
    /// On [`Recipe::error_suite`]; None of the dense model, where the cell failed, and where no suite is scored.
    ///
    /// [`Recipe::error_suite`]: crate::recipe::Recipe::error_suite
    pub errors: Option<ErrorsRecord>,
}

/// The output errors of a cell's pruned weights on the same held-out tokens as every other cell's; cached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ErrorsRecord {
    /// ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² of each of [`PrunedRecord::layers`], on what the weight reads in the pruned model;
    /// None where it is no number.
    pub relative: Vec<Option<f64>>,
}

/// What pruning came to; cached. What it took is a fact of a run, and is not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PrunedRecord {
    pub layers: Vec<LayerRecord>,
    /// Zeros among the weights of all linears, and how many weights these are.
    pub zeros: u64,
    pub weights: u64,
}

/// What pruning a block came to, or reading a dense one; cached beside the block's weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BlockRecord {
    pub layers: Vec<LayerRecord>,
    pub zeros: u64,
    pub weights: u64,
}

impl PrunedRecord {
    /// Adds a block.
    pub fn add(&mut self, block: BlockRecord) {
        self.layers.extend(block.layers);
        self.zeros += block.zeros;
        self.weights += block.weights;
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
    /// The damping that the factorisation took.
    pub damping: Option<f64>,
    /// Calibration tokens that were routed to it, where it is an expert's and was pruned from inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<u64>,
    /// The recipe leaves it dense.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Time of the method itself, without statistics and forward passes, when the weight was pruned.
    pub seconds: f64,
}

/// What a cell took of the run that computed it, or what the cache lacked of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spent {
    pub seconds: Seconds,
    /// Tokens that were generated.
    pub generated: u64,
    /// The most memory that the process had held by the time the cell ended, where the system tells.
    pub peak_bytes: Option<u64>,
    /// Where it was computed.
    pub device: String,
    /// The most memory of the device that the cell held at once; None on the CPU.
    pub device_peak_bytes: Option<u64>,
    /// The most tokens that went through a block at once; None where none did.
    pub batch_tokens: Option<u64>,
}

impl Spent {
    /// The rate at which answers were generated; None where none were.
    pub fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds.generate > 0.0).then(|| self.generated as f64 / self.seconds.generate)
    }
}

/// Where a cell's time went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading weights, statistics, and the calibration windows' way through the blocks.
    pub calibrate: f64,
    /// The method itself.
    pub prune: f64,
    /// The suites' way through the blocks, and output errors on it.
    pub forward: f64,
    /// Logits and scores.
    pub score: f64,
    /// Generating answers.
    pub generate: f64,
}

impl Seconds {
    pub fn total(&self) -> f64 {
        self.calibrate + self.prune + self.forward + self.score + self.generate
    }
}

/// A cell's results on a suite; None what the suite's metrics do not need.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SuiteRecord {
    pub scores: Option<ScoresRecord>,
    pub answers: Option<AnswersRecord>,
    /// What the suite's judge made of each answer; not cached itself, but made of replies, which are.
    pub judged: Option<Vec<JudgeScores>>,
}

/// Scores of a suite's samples; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoresRecord {
    /// One a sample; without positions where it has no target.
    pub samples: Vec<Scores>,
    /// The log-likelihood of each choice of each sample, of one without choices that of its target, in nats; empty where they
    /// were not asked for.
    pub choices: Vec<Vec<f64>>,
    /// Of each sample whether greedy decoding would write its target; empty where all have choices, or nobody asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub greedy: Vec<bool>,
}

/// Generated answers to a suite's prompts; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswersRecord {
    /// One a sample, cut where a stop text begins.
    pub texts: Vec<String>,
    /// Tokens that were generated.
    pub tokens: u64,
    /// The most sequences that were decoded together.
    pub widest: usize,
}
