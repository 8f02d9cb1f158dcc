//! The finished cells of a study, and its tables.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Screen;
use super::tenant::Tenant;
use crate::pipeline::{Accounts, Outcome, Study};
use crate::results::{Finished, Manifest, Results};

/// What is done of a study, and its tables.
pub struct Board<'a> {
    pub study: &'a Study<'a>,
    pub results: Results,
    pub manifest: Manifest,
    /// When the run began.
    pub started: Instant,
    pub screen: &'a dyn Screen,
    pub tenant: Tenant<'a>,
    /// What cells were expected to take, and took.
    pub accounts: Accounts,
    /// By their numbers.
    pub finished: Vec<Option<Finished>>,
    /// Whether the tables have all of these.
    pub is_written: bool,
}

/// Tables that are written as quickly as this are written once more when a run is interrupted: the next may be long in coming.
const AT_THE_END: Duration = Duration::from_secs(5);

impl Board<'_> {
    /// Cells that have ended.
    pub fn ended(&self) -> usize {
        self.finished.iter().flatten().count()
    }

    /// Adds a cell that has ended; to the tables, too, where these are written quickly or long ago.
    pub fn add(&mut self, i: usize, outcome: Outcome) -> Result<()> {
        let cell = outcome.record.cell.clone();
        self.accounts.add(i, outcome.spent.as_ref());
        self.note(i, outcome);
        if self.results.is_due(self.ended()) {
            self.write()?;
        }
        self.tenant.leaves(self.study, &cell)
    }

    /// Adds a cell that has ended, for when the tables are next written.
    pub fn note(&mut self, i: usize, outcome: Outcome) {
        let beside = self.finished.iter().flatten().next();
        self.finished[i] = Some(Finished::new(self.study.recipe(), self.study.materials(), outcome, beside));
        self.is_written = false;
    }

    /// Writes the tables.
    pub fn write(&mut self) -> Result<()> {
        self.write_tables()?;
        self.write_manifest()
    }

    /// Writes the end of the run, and the tables, where they lack a cell.
    pub fn finish(mut self) -> Result<Manifest> {
        if !self.is_written {
            self.write_tables()?;
        }
        self.manifest.finish();
        self.manifest.forecast = self.accounts.compared();
        self.write_manifest()?;
        self.manifest.forecast.iter().for_each(|compared| tracing::info!("{compared}"));
        self.accounts.remember(self.study.cache());
        Ok(self.manifest)
    }

    /// Leaves the tables of a run that is interrupted: whatever they lack is in the cache, and in the tables of the next run.
    pub fn leave(mut self) {
        if !self.is_written && self.results.last_took() <= AT_THE_END {
            let _ = self.write().inspect_err(|error| tracing::debug!("the tables are as they were: {error:#}"));
        }
    }

    fn write_tables(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.results.write(self.study, &done)?;
        self.is_written = true;
        Ok(())
    }

    fn write_manifest(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.manifest.note(&done, self.started.elapsed().as_secs_f64(), self.screen.warnings());
        self.results.write_manifest(&self.manifest)
    }
}
