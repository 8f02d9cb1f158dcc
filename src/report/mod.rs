//! What a study says, read from its tables: a table to decide by and a few sentences, what was run, then all the rest.
//!
//! A [`Report`] holds numbers and no layout; `sheets` lays it out as tables of text, the same for every format; a file of
//! [`formats`] writes it as one format has it.

mod card;
mod compare;
mod comparison;
mod decision;
mod excerpt;
mod facts;
pub mod formats;
mod masks;
mod plots;
mod predictors;
mod published;
mod read;
mod samples;
mod sentences;
mod sheets;
mod tables;
mod text;

#[cfg(test)]
mod sample;

use serde::Serialize;

pub use card::Card;
pub use compare::SideBySide;
pub use comparison::{Comparison, TOLERANCE};
pub use published::PublishedRow;
pub use read::Wanted;
pub use text::with_interval;

use crate::metrics::Kind;
use crate::results::{CellCounts, MetricEntry};
use crate::statistics::{Link, Verdict};

/// A study's results, ready to be shown. `calipr report --format json` prints this.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub study: String,
    pub cells: CellCounts,
    /// What is missing of the study: cells that wait or failed. None where it is whole.
    pub unfinished: Option<String>,
    /// The table to decide by; none where nothing was evaluated.
    pub decision: Option<Decision>,
    /// Five at most, the most important first.
    pub sentences: Vec<String>,
    /// What the run warned of, leaks of test data first.
    pub warnings: Vec<String>,
    /// What was run, where and with what.
    pub facts: Vec<Fact>,
    /// In the order of the recipe.
    pub suites: Vec<SuiteReport>,
    pub contrasts: Vec<Contrast>,
    pub predictors: Vec<Predictor>,
    /// The suite whose samples the errors of `blocks` were measured on.
    pub error_suite: Option<String>,
    pub blocks: Vec<BlockPoint>,
    /// Empty where nothing is set beside anything.
    pub masks: Vec<MaskPoint>,
    pub samples: Vec<Samples>,
    /// Every cell, seeds apart, suite by suite.
    pub cell_rows: Vec<CellRow>,
    pub failed: Vec<FailedCell>,
    /// Figures of papers beside what was found, in the order of the recipe.
    pub published: Vec<PublishedRow>,
}

/// Cells that differ in nothing but the seed that their calibration windows were drawn by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Unique in its study: `dense`, `magnitude-0.5`, `wanda-2:4-task`.
    pub name: String,
    pub method: String,
    /// `dense`, `checkpoint`, `unstructured` or `N:M`.
    pub pattern: String,
    /// Fraction of weights asked to be zero; none of a checkpoint.
    pub sparsity: Option<f64>,
    /// None where the method needs none.
    pub calibration: Option<String>,
}

impl Setting {
    pub fn is_dense(&self) -> bool {
        self.pattern == "dense"
    }

    pub fn is_checkpoint(&self) -> bool {
        self.pattern == "checkpoint"
    }

    /// The sparsity as the recipe has it, `0.5` or `2:4`; of a checkpoint, which has none, its name.
    pub fn strength(&self) -> String {
        match self.sparsity {
            Some(sparsity) => text::strength(&self.pattern, sparsity),
            None => self.name.clone(),
        }
    }
}

/// The settings by the one metric that the report is about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub suite: String,
    pub metric: String,
    pub higher_is_better: bool,
    pub samples: u64,
    /// What a sample is: `windows` or `rows`.
    pub unit: String,
    /// A difference to dense that is smaller counts as none; where values compare by ratios, it is one of logarithms.
    pub margin: f64,
    /// Whether values compare by ratios, as those of perplexity do.
    pub ratio: bool,
    /// How many comparisons the verdicts are corrected for.
    pub comparisons: u64,
    /// How many rows, all alike, would show that the first of these settings is within the margin; None of what is not scored by
    /// rows, from 0 to 1.
    pub enough_rows: Option<u64>,
    /// Dense first, then by sparsity, then in the order of the grid.
    pub rows: Vec<DecisionRow>,
}

impl Decision {
    /// The best of these rows by its metric; of equal ones the first. None where none has a value.
    pub fn best<'a>(&self, rows: impl Iterator<Item = &'a DecisionRow>) -> Option<&'a DecisionRow> {
        let sign = if self.higher_is_better { 1.0 } else { -1.0 };
        let rank = |row: &DecisionRow| sign * row.value.value;
        rows.filter(|row| !row.value.value.is_nan()).reduce(|best, row| if rank(row) > rank(best) { row } else { best })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecisionRow {
    pub setting: Setting,
    /// The row's value, and how it differs from dense.
    pub value: Value,
    /// Whether no other setting of this sparsity has a better mean.
    pub best: bool,
    /// Of one seed, the mean over seeds: what calibrating, pruning and evaluating took. None where all came from the cache.
    pub seconds: Option<f64>,
    /// Parameters of the model that are not zero.
    pub parameters: Option<u64>,
}

/// A mean over seeds with its 95% interval over seeds and samples, and its difference to dense on the same samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Standard deviation over seeds; none with one seed.
    pub spread: Option<f64>,
    pub seeds: u64,
    /// None of dense itself.
    pub to_dense: Option<Difference>,
}

/// A difference with its 95% interval, and what is to be made of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub delta: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Of no difference, two-sided.
    pub p_value: Option<f64>,
    /// Holm's, within the family of comparisons.
    pub p_adjusted: Option<f64>,
    pub verdict: Verdict,
    /// Where the samples are too few to tell anything: how many could.
    pub needed: Option<u64>,
}

/// One line of what was run: `model` / `SmolLM2-135M-Instruct …`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// The values of one suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteReport {
    pub suite: String,
    pub samples: u64,
    /// What a sample is: `windows` or `rows`.
    pub unit: String,
    /// In the order of the recipe.
    pub metrics: Vec<MetricColumn>,
    /// Dense first, then in the order of the grid.
    pub rows: Vec<SettingRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricColumn {
    pub name: String,
    pub higher_is_better: bool,
    /// What it is made of: `language`, `text`, `choice` or `judge`.
    pub family: String,
    /// "" where it has none.
    pub unit: String,
    /// Whether it judges answers or choices, not next-token distributions.
    pub downstream: bool,
    /// Whether it judges generated answers.
    pub of_answers: bool,
    /// Whether it is itself a comparison with the dense model: divergences, agreement.
    pub of_dense: bool,
    /// Whether its values compare by ratios, as those of perplexity do.
    pub ratio: bool,
    pub kind: Kind,
    /// The metric that says what this one says, and ranks settings as it does: itself, or loss of perplexity.
    pub finding: String,
    /// Whether it stands for others of the model's where only some are shown.
    pub headline: bool,
}

impl MetricColumn {
    fn new(name: &str, entry: &MetricEntry) -> Self {
        Self {
            name: name.to_owned(),
            higher_is_better: entry.higher_is_better,
            family: entry.family.clone(),
            unit: entry.unit.clone(),
            downstream: entry.downstream,
            of_answers: entry.of_answers,
            of_dense: entry.of_dense,
            ratio: entry.link == Link::Exp,
            kind: entry.kind,
            finding: entry.finding.clone(),
            headline: entry.headline,
        }
    }
}

/// A setting's values on a suite, one a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingRow {
    pub setting: Setting,
    pub values: Vec<Value>,
}

/// Two settings that differ in one thing, on one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    /// In what they differ: `dense` (from it), `method`, `calibration`, `sparsity`, `checkpoint`.
    pub axis: String,
    /// The comparisons that `p_adjusted` was corrected for, in words.
    pub family: String,
    pub suite: String,
    pub metric: String,
    pub setting: Setting,
    pub other: Setting,
    pub value: f64,
    pub other_value: f64,
    pub seeds: u64,
    pub other_seeds: u64,
    /// `value - other_value`; its verdict is of `setting`.
    pub difference: Difference,
}

/// How well a metric of the model ranks the pruned settings as a downstream score does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictor {
    pub suite: String,
    pub metric: String,
    pub downstream_suite: String,
    pub downstream_metric: String,
    /// The sparsity within which settings were ranked; none: over all of them.
    pub within: Option<String>,
    pub settings: u64,
    /// Spearman's rank correlation, turned so that 1 is a perfect prediction.
    pub spearman: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Of no correlation, two-sided, by Holm's correction over the metrics that were tried.
    pub p_adjusted: Option<f64>,
    /// Of this correlation and the best one of the same score being equal, adjusted for the number of such comparisons;
    /// none of the best itself.
    pub p_to_best: Option<f64>,
}

/// What pruning made of a block: means over its linears, weighted by their sizes, and over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockPoint {
    pub setting: Setting,
    pub block: u64,
    /// Fraction of zeros.
    pub achieved: f64,
    pub relative_error: Option<f64>,
}

/// How many of the weights that a setting keeps in a block another one keeps, too: means over pairs of cells, and over the
/// block's linears, weighted by their sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskPoint {
    /// In what the two differ: `calibration`, `seed` (then they are one setting), `method`.
    pub axis: String,
    pub setting: Setting,
    pub other: Setting,
    pub block: u64,
    /// Of the linears that both prune.
    pub weights: u64,
    /// Pairs of cells.
    pub pairs: u64,
    /// Share of the kept weights that both keep.
    pub overlap: f64,
    /// The same of two choices that know nothing of each other.
    pub chance: f64,
}

/// Samples of a suite under two cells, side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples {
    pub suite: String,
    /// What `score` is.
    pub metric: String,
    /// The two cells.
    pub cells: [String; 2],
    /// How these samples were chosen, in words.
    pub how: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    pub sample: u64,
    pub prompt: String,
    pub reference: String,
    /// The answers to choose from; empty where the row has none.
    pub choices: Vec<String>,
    /// The right one of them.
    pub answer: Option<u64>,
    pub sides: [Side; 2],
}

/// What one cell made of a sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// What it answered; none where nothing was generated.
    pub prediction: Option<String>,
    /// Of each choice, in nats.
    pub log_likelihoods: Vec<f64>,
    /// The choice with the largest.
    pub chosen: Option<u64>,
    pub score: f64,
}

/// A cell's values on a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellRow {
    pub cell: String,
    pub setting: String,
    pub seed: Option<u64>,
    pub suite: String,
    /// One for each metric of the suite, in its order.
    pub values: Vec<CellValue>,
}

/// With its 95% interval over samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellValue {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedCell {
    pub cell: String,
    pub error: String,
}
