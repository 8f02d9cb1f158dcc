//! Running a study to its tables, for every command that does.

use std::path::Path;

use anyhow::{Context, Result};

use super::terminal::Terminal;
use crate::data::Library;
use crate::model::device;
use crate::pipeline::{Cache, CellRecord, Inputs, Outcome, Status, Study, Watch};
use crate::recipe::{Cell, Layers, Recipe, cells};
use crate::results::{CellCounts, Finished, Manifest, Results};
use crate::source::Fetcher;

/// A study, and where all of it lies.
pub struct Runner<'a> {
    pub recipe: &'a Recipe,
    pub layers: &'a Layers,
    /// The recipe's file, beside which data sets are looked for.
    pub path: &'a Path,
    pub fetcher: &'a Fetcher,
    pub cache: &'a Cache,
    pub out: &'a Path,
    pub terminal: &'a Terminal,
}

impl Runner<'_> {
    /// Runs what is not done, cell by cell, and writes the tables after each.
    ///
    /// # Errors
    /// What is no fault of a cell. Cells that fail are counted in the manifest.
    pub fn run(&self) -> Result<Manifest> {
        let Self { recipe, cache, terminal, .. } = *self;
        // A cache that cannot be written to holds nothing; whether that matters shows where something is to be kept.
        let mut hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        let device = device::open(&recipe.model.device)?;
        let device_name = device::name(&device);
        let library = Library::of_recipe(self.path);
        let inputs = Inputs::resolve(recipe, self.layers, &library, self.fetcher, device_name.clone())?;
        let cells = cells(recipe);
        let study = Study::open(recipe, &inputs, cache, device, terminal)?;
        let results = Results::create(self.out)?;
        let mut manifest = Manifest::new(recipe, self.path, &inputs, device_name, cells.len());

        // What is finished goes into the tables first, so that going on with a study never shrinks them.
        let mut outcomes: Vec<Option<Outcome>> = cells.iter().map(|cell| study.finished(cell)).collect();
        outcomes.iter().flatten().for_each(|outcome| terminal.cell_ends(outcome, true));
        if let Some(hold) = &mut hold {
            let unfinished = cells.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_none());
            hold.keep(study.entries())?;
            hold.keep(unfinished.flat_map(|(cell, _)| study.progress_entries(cell)))?;
        }
        cache.trim(recipe.cache_size);

        let dense = match outcomes[0].take() {
            Some(dense) => dense,
            None => self.run_cell(&study, &cells, 0, 0)?,
        };
        let dense_failed = matches!(dense.record.status, Status::Failed(_));
        let dense = Finished::new(recipe, study.materials(), dense, None);
        let finish = |outcome, dense: &Finished| Finished::new(recipe, study.materials(), outcome, Some(dense));
        let mut finished: Vec<Option<Finished>> =
            outcomes.drain(..).map(|outcome| Some(finish(outcome?, &dense))).collect();
        finished[0] = Some(dense);

        let write = |finished: &[Option<Finished>], manifest: &mut Manifest| -> Result<()> {
            let done: Vec<&Finished> = finished.iter().flatten().collect();
            results.write(recipe, study.materials(), &done)?;
            manifest.cells = CellCounts::of(&done, cells.len());
            results.write_manifest(manifest)
        };
        write(&finished, &mut manifest)?;
        for i in 1..cells.len() {
            if finished[i].is_some() {
                continue;
            }
            let done = finished.iter().flatten().count();
            let outcome = if dense_failed { not_run(&cells[i]) } else { self.run_cell(&study, &cells, i, done)? };
            let dense = finished[0].as_ref().expect("the dense cell came first");
            finished[i] = Some(finish(outcome, dense));
            write(&finished, &mut manifest)?;
            if let Some(hold) = &mut hold {
                hold.release(study.progress_entries(&cells[i]))?;
            }
            cache.trim(recipe.cache_size);
        }
        manifest.finish();
        results.write_manifest(&manifest)?;
        Ok(manifest)
    }

    fn run_cell(&self, study: &Study, cells: &[Cell], i: usize, done: usize) -> Result<Outcome> {
        self.terminal.cell_begins(i + 1, cells.len(), &cells[i].id());
        let outcome = study.run(&cells[i]).with_context(|| {
            self.terminal.clear();
            format!("{done} of {} cells are done; the same command goes on from there", cells.len())
        })?;
        self.terminal.cell_ends(&outcome, false);
        Ok(outcome)
    }
}

/// A cell of a study whose dense model fails.
fn not_run(cell: &Cell) -> Outcome {
    let status = Status::Failed("not run: the dense model fails, and nothing can be compared with it".into());
    Outcome { record: CellRecord { cell: cell.clone(), status, pruned: None }, suites: Default::default() }
}
