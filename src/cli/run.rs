//! `calipr run`

use anyhow::{Context, Result, bail};

use super::terminal::Terminal;
use super::{CellsFailed, StudyArgs, print, report};
use crate::data::Library;
use crate::model::device;
use crate::pipeline::{Inputs, Outcome, Status, Study, Watch};
use crate::recipe::{Cell, cells, inert};
use crate::report::Report;
use crate::results::{CellCounts, Finished, Manifest, Results};

impl StudyArgs {
    /// Runs the study and prints its result.
    pub fn run(&self) -> Result<()> {
        let (recipe, layers) = self.load()?;
        self.start_threads()?;
        let terminal = Terminal::start(self.quiet, self.verbose)?;
        inert(&recipe, &layers).iter().for_each(|problem| tracing::warn!("{problem}"));
        let cache = self.cache();
        let device = device::open(&recipe.model.device)?;
        let device_name = device::name(&device);

        let library = Library::of_recipe(&self.recipe);
        let inputs = Inputs::resolve(&recipe, &layers, &library, &self.fetcher(&cache), device_name.clone())?;
        let cells = cells(&recipe);
        // A cache that cannot be written to holds nothing; whether that matters shows where something is to be kept.
        let mut hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        let study = Study::open(&recipe, &inputs, &cache, device, &terminal)?;
        let materials = study.materials();

        let results = Results::create(&self.results_dir(&recipe))?;
        let mut manifest = Manifest::new(&recipe, &inputs, device_name, cells.len());

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
            None => self.run_cell(&study, &terminal, &cells, 0, 0)?,
        };
        if let Status::Failed(error) = &dense.record.status {
            bail!("the dense model fails, and nothing can be compared with it: {error}");
        }
        let dense = Finished::new(&recipe, materials, dense, None);
        let mut release = |cell: &Cell| hold.as_mut().map_or(Ok(()), |hold| hold.release(study.progress_entries(cell)));
        let mut finished: Vec<Option<Finished>> = (outcomes.drain(..))
            .map(|outcome| Some(Finished::new(&recipe, materials, outcome?, Some(&dense))))
            .collect();
        finished[0] = Some(dense);

        let write = |finished: &[Option<Finished>], manifest: &mut Manifest| -> Result<()> {
            let done: Vec<&Finished> = finished.iter().flatten().collect();
            results.write(&recipe, materials, &done)?;
            manifest.cells = CellCounts::of(&done, cells.len());
            results.write_manifest(manifest)
        };
        write(&finished, &mut manifest)?;
        for i in 1..cells.len() {
            if finished[i].is_none() {
                let done = finished.iter().flatten().count();
                let outcome = self.run_cell(&study, &terminal, &cells, i, done)?;
                finished[i] = Some(Finished::new(&recipe, materials, outcome, finished[0].as_ref()));
                write(&finished, &mut manifest)?;
                release(&cells[i])?;
                cache.trim(recipe.cache_size);
            }
        }
        manifest.finish();
        results.write_manifest(&manifest)?;
        terminal.clear();

        print(&report::summary(&Report::read(results.dir())?))?;
        let dir = results.dir().display();
        print(&format!(
            "\ntables: {dir}\nplots, samples and comparisons: calipr report {dir} --format html --to report.html\n"
        ))?;
        match manifest.cells.failed {
            0 => Ok(()),
            failed => Err(CellsFailed(failed).into()),
        }
    }

    fn run_cell(&self, study: &Study, terminal: &Terminal, cells: &[Cell], i: usize, done: usize) -> Result<Outcome> {
        terminal.cell_begins(i + 1, cells.len(), &cells[i].id());
        let outcome = study.run(&cells[i]).with_context(|| {
            terminal.clear();
            format!("{done} of {} cells are done; the same command goes on from there", cells.len())
        })?;
        terminal.cell_ends(&outcome, false);
        Ok(outcome)
    }
}
