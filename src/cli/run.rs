//! `calipr run`

use anyhow::Result;

use super::terminal::columns;
use super::{CellsFailed, StudyArgs, export, print};
use crate::report::formats::summary;
use crate::report::{Report, Wanted};

impl StudyArgs {
    /// Runs the study and prints its result.
    pub fn run(&self) -> Result<()> {
        let (run, terminal) = self.open()?;
        let out = self.results_dir(&run.recipe);
        let ran = run.to_tables(&out, self.replace, &terminal);
        terminal.clear();
        let manifest = ran?;

        print(&summary(&Report::read(&out, &Wanted::default())?, columns()))?;
        let dir = out.display();
        print(&format!("\ntables: {dir}\nplots, samples and comparisons: calipr report {dir} --to report.html\n"))?;
        export::at_the_end(&out, &run, self.replace, &terminal)?;
        match manifest.cells.failed {
            0 => Ok(()),
            cells => Err(CellsFailed { cells, again: "the same command" }.into()),
        }
    }
}
