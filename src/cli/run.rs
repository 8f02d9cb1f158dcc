//! `calipr run`

use anyhow::Result;

use super::terminal::Terminal;
use super::{CellsFailed, StudyArgs, print, table};
use crate::data::Library;
use crate::model::device;
use crate::pipeline::{Inputs, Status, Study, Watch};
use crate::recipe::{cells, check_against_model};
use crate::results::{Finished, Manifest, Results, summarize};

impl StudyArgs {
    /// Runs the study and prints its result.
    pub fn run(&self) -> Result<()> {
        let (recipe, layers) = self.load()?;
        self.start_threads()?;
        let terminal = Terminal::start(self.quiet, self.verbose)?;
        let cache = self.cache()?;
        let device = device::open(&recipe.model.device)?;
        let device_name = device::name(&device);

        let library = Library::of_recipe(&self.recipe);
        let inputs = Inputs::resolve(&recipe, &library, &self.fetcher(&cache), device_name.clone())?;
        check_against_model(&recipe, &inputs.config, &layers)?;

        let cells = cells(&recipe);
        let study = Study::open(&recipe, &inputs, &cache, device, &terminal)?;
        study.prepare(&cells)?;

        let results = Results::create(&self.results_dir(&recipe))?;
        let mut manifest = Manifest::new(&recipe, &inputs, device_name, cells.len());
        results.write_manifest(&manifest)?;
        let mut finished = Vec::new();
        for (i, cell) in cells.iter().enumerate() {
            terminal.cell_begins(i + 1, cells.len(), &cell.id());
            let (record, suites, reused) = match study.run(cell) {
                Ok(outcome) => outcome,
                Err(interrupted) => {
                    terminal.clear();
                    return Err(interrupted.context(format!(
                        "{i} of {} cells are done and in {}; the same command goes on from there",
                        cells.len(),
                        results.dir().display()
                    )));
                }
            };
            terminal.cell_ends(&record, reused);
            match record.status {
                Status::Done => manifest.cells.done += 1,
                Status::Failed(_) => manifest.cells.failed += 1,
            }
            finished.push(Finished { record, suites });
            results.write(&recipe, &finished)?;
            results.write_manifest(&manifest)?;
        }
        manifest.finish();
        results.write_manifest(&manifest)?;
        terminal.clear();

        print(&table::summaries(&recipe.name, &summarize(&results.table("metrics"))?))?;
        print(&format!("\ntables: {}\n", results.dir().display()))?;
        match manifest.cells.failed {
            0 => Ok(()),
            failed => Err(CellsFailed(failed).into()),
        }
    }
}
