//! The recipe: one TOML file that says what a study does.

mod calibrations;
mod check;
mod devices;
mod export;
mod file;
mod generate;
mod grid;
mod judge;
pub mod keys;
mod layers;
mod meant;
mod problem;
mod published;
mod reference;
mod report;
mod skip;
mod suite;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use calibrations::unsound;
pub use check::{check_against_author, check_against_checkpoint, check_against_model, inert};
pub use devices::Devices;
pub use export::{ExportSpec, Exported, ModelFormat};
pub use file::found;
pub use grid::{Axis, Cell, Drawn, Pruning, Setting, cells};
pub use judge::judged;
pub use layers::Layers;
pub use problem::Problems;
pub use published::Published;
pub use reference::reference;
pub use report::ReportSpec;
pub use skip::{Skip, Unskippable};
pub use suite::{RowUnit, Suite, Unit, WindowUnit};

use crate::calibration::{Generate, InContext, Select};
use crate::data::{Library, Packing};
use crate::prune::{MethodName, MethodOptions, Sparsity};
use crate::source::Source;
use crate::templates::Date;

/// A study: a model, calibration sets, a grid of prunings, and suites to judge them by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the folder of results.
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Decides everything random that the grid does not: shots, sampled answers, and calibration where
    /// the grid names no seeds.
    #[serde(default)]
    pub seed: u64,
    pub model: ModelSpec,
    /// Models that others made of it, by name: a quantised, a fine-tuned or a pruned one, or a smaller one of the same
    /// tokenizer. Each is a cell beside the grid's, and judged against the same dense model.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub checkpoint: IndexMap<String, Checkpoint>,
    /// The sets of windows that statistics are gathered on, by name, in the order of the file.
    #[serde(default)]
    pub calibration: IndexMap<String, Calibration>,
    /// None prunes nothing: then only checkpoints are judged.
    #[serde(default, skip_serializing_if = "Grid::is_empty")]
    pub grid: Grid,
    #[serde(default)]
    pub prune: PruneSpec,
    /// Options of the methods, where they differ from the published ones.
    #[serde(default)]
    pub method: MethodOptions,
    /// What every cell is judged by, by name, in the order of the file.
    pub suite: IndexMap<String, Suite>,
    /// What the report is about, and what it takes for near enough.
    #[serde(default)]
    pub report: ReportSpec,
    /// Models that are written when all cells are done, to `models` in the folder of results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportSpec>,
    /// Figures of a paper, which the report sets beside what is found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
}

/// The model to prune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    pub source: Source,
    /// The day that chat templates take for today, such as "2025-01-31"; needed where a template prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
    /// The precision that weights are held in. In bf16 products are computed in it too, with sums in f32; f16 is
    /// computed in f32 on the CPU.
    #[serde(default)]
    pub dtype: Dtype,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal; or several of a kind, which run cells side by side.
    #[serde(default)]
    pub device: Devices,
}

/// A floating-point format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    #[default]
    F32,
    Bf16,
    F16,
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(DType::from(*self).as_str())
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// A model to judge beside those that the grid prunes. It is held in the precision of the model, on its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub source: Source,
}

/// Token windows that statistics are gathered on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// A name in datasets/, `path:` to such a TOML, or a source of rows (`path:my.jsonl`, `hf:datasets/OWNER/NAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Texts that the dense model writes itself, or another model: it continues the first tokens of a data set's rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<Generate>,
    /// By default `train`, where the data set has it.
    pub split: Option<String>,
    /// With a data set: its rows as solved examples, as they stand in front of a suite's prompts; needs packing = "pack".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_context: Option<InContext>,
    /// In place of a data set, other calibrations of the recipe, each with its share of the windows: { c4 = 0.75, task =
    /// 0.25 }. They are drawn by the same seed, in windows of this calibration's length, and shuffled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<BTreeMap<String, f64>>,
    /// In place of a data set, windows that are chosen from many of another calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// How many windows.
    #[serde(default = "published_windows")]
    #[schemars(range(min = 1))]
    pub windows: usize,
    /// Tokens in a window.
    #[serde(default = "published_length")]
    #[schemars(range(min = 2))]
    pub length: usize,
    /// How a data set's rows are made into windows.
    #[serde(default = "concat")]
    pub packing: Packing,
}

impl Calibration {
    /// The data set whose rows it reads.
    pub fn rows_of(&self) -> Option<&String> {
        self.dataset.as_ref().or(self.generate.as_ref().map(|how| &how.from))
    }
}

fn published_windows() -> usize {
    128
}

fn published_length() -> usize {
    2048
}

fn concat() -> Packing {
    Packing::Concat
}

/// The axes of the grid; every combination is a cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// The pruning methods.
    pub method: Vec<MethodName>,
    /// Fractions of weights to remove, or "N:M": keep N of every M.
    pub sparsity: Vec<Sparsity>,
    /// Names of calibration sets; by default all.
    pub calibration: Option<Vec<String>>,
    /// Seeds that calibration windows are drawn by; by default the recipe's.
    pub seed: Option<Vec<u64>>,
}

/// How the blocks of a model are walked, and what is pruned of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneSpec {
    pub schedule: Schedule,
    pub propagation: Propagation,
    /// Linears that stay dense, by patterns of their names: "block.0", "block.3.q", "*.down_proj".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<String>,
}

/// Which inputs a linear is pruned from, within its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// From what its pruned predecessors in the block produce: q, k, v, then o, then gate, up, then down.
    #[default]
    Linear,
    /// From what the dense block produces, as SparseGPT and Wanda were published.
    Block,
}

/// Which model feeds the next block's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// The blocks as pruned so far.
    #[default]
    Pruned,
    /// The dense model.
    Dense,
}

impl Recipe {
    /// Reads and checks a recipe: the file, then `CALIPR_…` of the environment, then `sets` (`KEY=VALUE`).
    ///
    /// # Errors
    /// All that is wrong with it, each with its place.
    pub fn load(path: &Path, sets: &[String]) -> Result<(Self, Layers), Problems> {
        let layers = Layers::read(path, sets)?;
        let mut recipe = layers.extract()?;
        published::settle(&mut recipe, &layers);
        check::check(&recipe, &Library::of_recipe(path), &layers)?;
        Ok((recipe, layers))
    }
}

/// The JSON Schema of recipes, for editors.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(Recipe)).expect("a schema is JSON");
    text.push('\n');
    text
}
