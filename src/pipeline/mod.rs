//! From a recipe to scores: inputs and their digests, cached stages, and the walk over the blocks.

mod answers;
mod author;
pub mod bench;
mod cache;
mod cell;
mod checkpoint;
mod claims;
mod cost;
mod ends;
mod errors;
mod export;
mod inputs;
mod judging;
mod keys;
mod masks;
mod material;
mod memory;
mod plan;
mod progress;
mod room;
mod shelf;
mod stops;
mod stream;
mod study;
mod time_left;
mod walk;
mod work;
mod writing;

pub use author::Author;
pub use cache::{Cache, Hold, Key, KnownStudy, Limit, LimitBy, Stage, Trimmed, Unwritable, Usage, remove_unfinished};
pub use cell::{
    AnswersRecord, CellRecord, ErrorsRecord, LayerRecord, PrunedRecord, ScoresRecord, Seconds, Spent, Status,
    SuiteRecord,
};
pub use checkpoint::InputCheckpoint;
pub use claims::{Claim, Claimant, Ended, Pause, Taken, done};
pub use cost::{Accounts, Compared, Cost, Costs, Machine, Rates, measured};
pub use export::{check_export, export, saving};
pub use inputs::{InputPart, Inputs};
pub use judging::{Judges, JudgingPlan};
pub use keys::{CellKeys, Keys};
pub use masks::{BlockMasks, LinearMask, MaskedLinear};
pub use material::Material;
pub use memory::{peak_bytes, resident_bytes, total_bytes};
pub use plan::{Plan, PlannedCell, PlannedStage, Planner, Work, check_data, plan, plan_of, work_of_texts};
pub use room::Room;
pub use study::{DrawnWindows, Outcome, Study};
pub use time_left::{Doing, Forecast, Left};
pub use writing::Writer;

/// Who follows a run: told what happens, asked whether to stop.
pub trait Watch: Sync {
    /// A cell begins: its number (from 1), of how many, and its id.
    fn cell_begins(&self, number: usize, of: usize, id: &str);
    /// Within the cell: what is being done, and how many blocks, suites or prompts of how many are done.
    fn progress(&self, done: usize, of: usize, doing: Doing);
    /// A cell ended, that number of so many; `reused` where nothing had to be computed.
    fn cell_ends(&self, number: usize, of: usize, outcome: &Outcome, reused: bool);
    /// Before the cells: texts begin to be written, which are these. [`Watch::progress`] tells how many are complete.
    fn texts_begin(&self, _name: &str) {}
    /// They are written, or the run ends.
    fn texts_end(&self) {}
    /// So many questions about a cell that has ended, that number of so many, begin to be put to judges. [`Watch::progress`] tells
    /// how many are answered.
    fn judging_begins(&self, _number: usize, _of: usize, _id: &str, _questions: usize) {}
    /// They are answered, or will not be.
    fn judging_ends(&self) {}
    /// Whether the run should end now.
    fn interrupted(&self) -> bool;
}

/// Shows nothing, and never stops: for programs that look at tables only.
pub struct Unseen;

impl Watch for Unseen {
    fn cell_begins(&self, _: usize, _: usize, _: &str) {}

    fn progress(&self, _: usize, _: usize, _: Doing) {}

    fn cell_ends(&self, _: usize, _: usize, _: &Outcome, _: bool) {}

    fn interrupted(&self) -> bool {
        false
    }
}

/// The run was asked to end; what was finished is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

fn stop_if_interrupted(watch: &dyn Watch) -> anyhow::Result<()> {
    if watch.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}
