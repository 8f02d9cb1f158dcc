//! What a cell came to.

use serde::{Deserialize, Serialize};

use super::Outcome;
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
}

impl PrunedRecord {
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
}

impl Seconds {
    /// None where the cell failed.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        let pruned = outcome.record.pruned.as_ref()?;
        Some(Self {
            calibrate: pruned.calibrate_seconds,
            prune: pruned.prune_seconds,
            forward: outcome.suites.values().map(|s| s.forward_seconds).sum(),
            score: outcome.suites.values().map(|s| s.score_seconds).sum(),
        })
    }

    pub fn total(&self) -> f64 {
        self.calibrate + self.prune + self.forward + self.score
    }
}

/// The most memory that this process has held, in bytes, where the system tells.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
