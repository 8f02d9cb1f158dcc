//! `calipr run`

use anyhow::Result;

use super::terminal::columns;
use super::{CellsFailed, StudyArgs, export, print};
use crate::data::Library;
use crate::recipe::inert;
use crate::report::formats::summary;
use crate::report::{Report, Wanted};
use crate::study::Run;

impl StudyArgs {
    /// Runs the study and prints its result.
    pub fn run(&self) -> Result<()> {
        let (recipe, layers) = self.load()?;
        let terminal = self.machinery.start()?;
        inert(&recipe, &layers).iter().for_each(|problem| tracing::warn!("{problem}"));
        let (cache, out) = (self.machinery.cache(), self.results_dir(&recipe));
        let limit = self.cache_size.limit(&cache)?;
        let fetcher = self.machinery.fetcher(&cache);
        let ran = Run {
            recipe: &recipe,
            layers: &layers,
            path: &self.recipe,
            library: &Library::of_recipe(&self.recipe),
            fetcher: &fetcher,
            cache: &cache,
            limit: &limit,
            screen: &terminal,
        }
        .to_tables(&out, self.replace);
        terminal.clear();
        let manifest = ran?;

        print(&summary(&Report::read(&out, &Wanted::default())?, columns()))?;
        let dir = out.display();
        print(&format!("\ntables: {dir}\nplots, samples and comparisons: calipr report {dir} --to report.html\n"))?;
        export::at_the_end(&out, &Library::of_recipe(&self.recipe), &fetcher, &cache, &terminal)?;
        match manifest.cells.failed {
            0 => Ok(()),
            failed => Err(CellsFailed(failed).into()),
        }
    }
}
