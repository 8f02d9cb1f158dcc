//! calipr: pruning studies of language models, from a TOML recipe to Parquet tables.
//!
//! [`Run`] is a study: a recipe in, tables out. [`Report`] reads what the tables say.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use calipr::{Place, Report, Run, Unseen, Wanted};
//!
//! # fn main() -> anyhow::Result<()> {
//! let set = ["grid.sparsity=[0.5, 0.6]".to_owned()];
//! let study = Run::of(Path::new("quickstart"), &set, &Place::default())?;
//! let out = Path::new("results/quickstart");
//! let manifest = study.to_tables(out, false, &Unseen)?;
//! println!("{} of {} cells failed", manifest.cells.failed, manifest.cells.planned);
//! let report = Report::read(out, &Wanted::default())?;
//! for suite in &report.suites {
//!     println!("{}: {} metrics", suite.suite, suite.metrics.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! All else is the inside. From the ground up, each module importing only from those before it: `memory`, `disk`, `guard`,
//! `fault`, `warnings`, `pace`, `table`, `digest`, `size`, `lock`, `bundled`, `templates`, `gpu`, `linalg`, `statistics`,
//! `tensors` and `source`; `model`, `data`, `prune`, `judge` and `metrics`; `recipe`, which is made of their names and options;
//! `pipeline` with `calibration`, whose sources it calls and which work with its cache and its model; `results`, `study`,
//! `report`, `cluster` and `cli`.

mod bundled;
mod calibration;
#[doc(hidden)]
pub mod cli;
mod clock;
mod cluster;
mod data;
mod digest;
mod disk;
mod fault;
#[cfg(any(feature = "cuda", test))]
mod gpu;
mod guard;
mod judge;
mod linalg;
mod lock;
mod memory;
mod metrics;
mod model;
mod pace;
mod pipeline;
mod prune;
mod recipe;
mod report;
mod results;
mod size;
mod source;
mod statistics;
mod study;
mod table;
mod templates;
mod tensors;
mod warnings;
mod words;

pub use pipeline::Unseen;
pub use recipe::Recipe;
pub use report::{Report, Wanted};
pub use study::{Place, Run, Screen};

/// What calipr's own tests and benches reach into; it may change with any version.
#[doc(hidden)]
pub mod internals {
    pub use crate::bundled::{datasets, recipe_named, recipes};
    pub use crate::data::{Content, Format, Library, Shape, Templates};
    pub use crate::digest::Digest;
    pub use crate::linalg::bf16::Packed;
    pub use crate::linalg::upper_inverse_factor;
    pub use crate::metrics::{Prediction, Scores, log_likelihoods, score_positions};
    pub use crate::model::{
        Begun, Block, BlockNorms, Continuing, Conversation, Embedding, Flow, Generation, Generator, Head, Linear,
        LinearSpec, Model, ModelFiles, Norm, Ropes, Sampling, Saving, Span, Spec, Written, device, models,
    };
    pub use crate::pipeline::{
        Accounts, BlockMasks, Cache, CellRecord, ErrorsRecord, Inputs, LayerRecord, Limit, LimitBy, LinearMask,
        Machine, MaskedLinear, Outcome, PrunedRecord, ScoresRecord, Seconds, Spent, Status, Study, SuiteRecord,
        peak_bytes, plan,
    };
    pub use crate::prune::{Accumulator, MethodName, MethodOptions, Sparsity, Statistic, StatisticKind};
    pub use crate::recipe::{Cell, Dtype, cells};
    pub use crate::results::{Manifest, Results};
    pub use crate::size::Size;
    pub use crate::source::{Fetcher, Source, unpack};
    pub use crate::study::{Board, Tenant};
    pub use crate::tensors::values;
}

/// How the names of files begin that are not yet whole.
const UNFINISHED: &str = ".calipr-unfinished-";
