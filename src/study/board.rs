//! The finished cells of a study, and its tables.

use std::time::Instant;

use anyhow::Result;

use super::Screen;
use super::tenant::Tenant;
use crate::pipeline::{Outcome, Study};
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
    /// By their numbers.
    pub finished: Vec<Option<Finished>>,
}

impl Board<'_> {
    /// Cells that have ended.
    pub fn ended(&self) -> usize {
        self.finished.iter().flatten().count()
    }

    /// Adds a cell that has ended, to the tables too.
    pub fn add(&mut self, i: usize, outcome: Outcome) -> Result<()> {
        let cell = outcome.record.cell.clone();
        self.note(i, outcome);
        self.write()?;
        self.tenant.leaves(self.study, &cell)
    }

    /// Adds a cell that has ended, for when the tables are next written.
    pub fn note(&mut self, i: usize, outcome: Outcome) {
        self.finished[i] = Some(Finished::new(self.study.recipe(), self.study.materials(), outcome));
    }

    /// Writes the tables.
    pub fn write(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.results.write(self.study, &done)?;
        self.write_manifest()
    }

    /// Writes the end of the run.
    pub fn finish(mut self) -> Result<Manifest> {
        self.manifest.finish();
        self.write_manifest()?;
        Ok(self.manifest)
    }

    fn write_manifest(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.manifest.note(&done, self.started.elapsed().as_secs_f64(), self.screen.warnings());
        self.results.write_manifest(&self.manifest)
    }
}
