//! A study as a library call: a recipe in, tables out.
//!
//! [`Run`] is the front door. `queue.rs` says who runs which cell, `board.rs` has the finished ones and writes the tables,
//! `tenant.rs` keeps the study's place in the cache.

mod board;
mod queue;
pub mod room;
mod tenant;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;

use crate::data::Library;
use crate::model::device;
use crate::pipeline::{
    Cache, CellRecord, Forecast, Inputs, Judges, Limit, Outcome, Room, Status, Study, Watch, check_export, plan,
};
use crate::recipe::{Cell, Layers, Recipe, cells};
use crate::results::{Finished, Intended, Manifest, Results};
use crate::source::Fetcher;
use board::Board;
use queue::Worker;
pub use room::{ago, gone};
use tenant::Tenant;

/// What shows a study while it runs.
pub trait Screen: Sync {
    /// Follows one device.
    fn watch(&self) -> Box<dyn Watch>;
    /// Hears what the study will take.
    fn expect(&self, forecast: Forecast);
    /// What was warned of so far.
    fn warnings(&self) -> Vec<String>;
}

/// A study to be run, and where all of it lies.
pub struct Run<'a> {
    pub recipe: &'a Recipe,
    pub layers: &'a Layers,
    /// The recipe's file.
    pub path: &'a Path,
    /// Where its data sets and relative paths are looked for.
    pub library: &'a Library,
    pub fetcher: &'a Fetcher,
    pub cache: &'a Cache,
    /// What the cache may hold.
    pub limit: &'a Limit,
    pub out: &'a Path,
    /// Whether another study's results there are overwritten.
    pub replaces: bool,
    pub screen: &'a dyn Screen,
}

/// A device that runs cells.
struct Working<'a> {
    study: &'a Study<'a>,
    watch: &'a dyn Watch,
    judges: &'a Judges<'a>,
    cells: &'a [Cell],
}

impl Run<'_> {
    /// Runs what is not done, cell by cell, as many at once as there are devices, and writes the tables after each.
    ///
    /// # Errors
    /// What is no fault of a cell. Cells that fail are counted in the manifest.
    pub fn to_tables(&self) -> Result<Manifest> {
        let Self { recipe, library, cache, limit, screen, .. } = *self;
        let started = Instant::now();
        let results = Results::create(self.out)?;
        let mut tenant = Tenant::new(cache, limit);
        let devices = recipe.model.device.open()?;
        let inputs = self.inputs(&devices)?;
        let judges = Judges::open(recipe, cache, self.fetcher.offline)?;
        if !self.replaces {
            Intended { recipe, library, inputs: Some(&inputs) }.check(self.out)?;
        }
        let cells = cells(recipe);
        let watches: Vec<Box<dyn Watch>> = devices.iter().map(|_| screen.watch()).collect();
        let studies = self.studies(&inputs, &devices, &watches)?;
        let study = &studies[0];
        let manifest = Manifest::new(recipe, self.path, library, study, &devices, self.out)?;
        results.begin(&manifest, self.replaces)?;

        // What is finished goes into the tables first, so that going on with a study never shrinks them.
        let mut outcomes: Vec<Option<Outcome>> = cells.iter().map(|cell| study.finished(cell)).collect();
        let is_done: Vec<bool> = outcomes.iter().map(Option::is_some).collect();
        for (i, outcome) in outcomes.iter().enumerate() {
            outcome.iter().for_each(|outcome| watches[0].cell_ends(i + 1, cells.len(), outcome, true));
        }
        let plan = plan(recipe, Some(&inputs), cache);
        room::warn(&Room::of(&plan, cache, limit, self.out), cache);
        screen.expect(Forecast::new(&plan, &is_done, devices.len()));
        let unfinished = cells.iter().zip(&is_done).filter(|(_, is_done)| !**is_done).map(|(cell, _)| cell);
        tenant.enters(study, recipe, (&cells, unfinished), self.out)?;

        // Better now than when the first cell is computed; a study that is finished may have no questions left.
        if is_done.contains(&false) {
            judges.reach()?;
        }
        let working = |(study, watch)| Working { study, watch, judges: &judges, cells: &cells };
        let workers: Vec<Working> = studies.iter().zip(watches.iter().map(|watch| &**watch)).map(working).collect();
        // All others are compared with the dense cell.
        let mut dense = match outcomes[0].take() {
            Some(dense) => dense,
            None => workers[0].compute(0).with_context(|| progress(0, &cells))?,
        };
        let dense_failed = matches!(dense.record.status, Status::Failed(_));
        judges.judge(study.materials(), &mut dense)?;
        outcomes.iter_mut().flatten().try_for_each(|outcome| judges.judge(study.materials(), outcome))?;
        let finish = |outcome| Finished::new(recipe, study.materials(), outcome);
        let mut finished: Vec<Option<Finished>> = outcomes.drain(..).map(|outcome| Some(finish(outcome?))).collect();
        finished[0] = Some(finish(dense));
        let waiting: Vec<usize> = (1..cells.len()).filter(|&i| finished[i].is_none()).collect();
        let mut board = Board { study, results, manifest, started, screen, tenant, finished };
        board.write()?;
        if dense_failed {
            waiting.into_iter().try_for_each(|i| board.add(i, not_run(&cells[i])))?;
            return board.finish();
        }

        let board = Mutex::new(board);
        let board_now = || board.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = queue::run(&workers, waiting, |i, outcome| board_now().add(i, outcome));
        let ended = board_now().ended();
        ran.with_context(|| progress(ended, &cells))?;
        board.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }

    /// The model and the data, which are all here then and fit together.
    fn inputs(&self, devices: &[Device]) -> Result<Inputs> {
        let Self { recipe, layers, library, fetcher, .. } = *self;
        let inputs = Inputs::resolve(recipe, layers, library, fetcher, device::kind(&devices[0]))?;
        check_export(recipe, &inputs.model)?;
        Ok(inputs)
    }

    /// The study on each device: the first reads what all share.
    fn studies<'a>(
        &'a self,
        inputs: &'a Inputs,
        devices: &[Device],
        watches: &'a [Box<dyn Watch>],
    ) -> Result<Vec<Study<'a>>> {
        let mut studies: Vec<Study> = Vec::new();
        for (device, watch) in devices.iter().zip(watches) {
            let study = match studies.first() {
                None => Study::open(self.recipe, inputs, self.cache, device.clone(), &**watch)?,
                Some(first) => first.on(device.clone(), &**watch)?,
            };
            studies.push(study);
        }
        Ok(studies)
    }
}

impl Working<'_> {
    /// Runs a cell, which nobody has judged yet.
    fn compute(&self, cell: usize) -> Result<Outcome> {
        self.watch.cell_begins(cell + 1, self.cells.len(), &self.cells[cell].id());
        let outcome = self.study.run(&self.cells[cell])?;
        self.watch.cell_ends(cell + 1, self.cells.len(), &outcome, false);
        Ok(outcome)
    }
}

impl Worker for Working<'_> {
    fn run(&self, cell: usize) -> Result<Outcome> {
        let mut outcome = self.compute(cell)?;
        self.judges.judge(self.study.materials(), &mut outcome)?;
        Ok(outcome)
    }
}

/// How far a study is that ends early.
fn progress(ended: usize, cells: &[Cell]) -> String {
    format!("{ended} of {} cells are done; the same command goes on from there", cells.len())
}

/// A cell of a study whose dense model fails.
fn not_run(cell: &Cell) -> Outcome {
    let status = Status::Failed("not run: the dense model fails, and nothing can be compared with it".into());
    let record = CellRecord { cell: cell.clone(), status, pruned: None, errors: None };
    Outcome { record, suites: Default::default(), spent: None }
}
