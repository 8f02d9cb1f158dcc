//! A device that runs cells, each as soon as no other process has it.

use anyhow::Result;
use serde_json::Value;

use super::queue::{Patience, Taking, Worker};
use crate::pipeline::{CellRecord, Claim, Ended, Outcome, Pause, Status, Study, Taken, Watch, done};
use crate::recipe::Cell;

pub struct Working<'a> {
    pub study: &'a Study<'a>,
    pub watch: &'a dyn Watch,
    pub cells: &'a [Cell],
    pub patience: Patience,
}

/// A cell that is finished, here or in another process, whose claim tells what it took as long as the study runs.
pub fn finished(study: &Study, cell: &Cell) -> Option<Outcome> {
    let outcome = study.finished(cell)?;
    let spent = match study.cache().claims().state(study.claimed_as(cell)).and_then(|state| state.ended) {
        Some(Ended::Done { note }) => serde_json::from_value(note).ok(),
        _ => None,
    };
    Some(Outcome { spent, ..outcome })
}

impl Worker for Working<'_> {
    type Claim = Option<Claim>;

    fn take(&self, cell: usize) -> Taking<Self::Claim> {
        let finished = || {
            let mut outcome = finished(self.study, &self.cells[cell])?;
            if self.patience == Patience::ForWork {
                // Who works counts what was spent here.
                outcome.spent = None;
            }
            self.watch.cell_ends(cell + 1, self.cells.len(), &outcome, true);
            Some(Taking::Finished(Box::new(outcome)))
        };
        if let Some(finished) = finished() {
            return finished;
        }
        let claims = self.study.cache().claims();
        let claimed = self.study.claimed_as(&self.cells[cell]);
        match claims.take(claimed, self.patience == Patience::ForAll) {
            Taken::Mine(claim) => match finished() {
                // It was finished between the two looks.
                Some(finished) => {
                    done(claim, Value::Null);
                    finished
                }
                None => Taking::Mine(claim),
            },
            Taken::Held(_) => Taking::Held,
            Taken::Done(_) => Taking::Done,
            Taken::Failed(_) => Taking::Failed,
        }
    }

    fn run(&self, cell: usize, claim: Self::Claim) -> Result<Outcome> {
        self.watch.cell_begins(cell + 1, self.cells.len(), &self.cells[cell].id());
        let outcome = self.study.run(&self.cells[cell])?;
        self.watch.cell_ends(cell + 1, self.cells.len(), &outcome, false);
        match &outcome.record.status {
            Status::Done => done(claim, serde_json::to_value(&outcome.spent)?),
            Status::Failed(why) => claim.into_iter().for_each(|claim| claim.end(&Ended::Failed { why: why.clone() })),
        }
        Ok(outcome)
    }

    fn prepare(&self, cell: usize, claim: Self::Claim) -> Result<()> {
        let pruned = self.study.prune_ahead(&self.cells[cell], (cell + 1, self.cells.len()));
        // Nothing of it is over: whoever is first runs it when the dense cell has ended.
        drop(claim);
        pruned
    }

    fn without_dense(&self, cell: usize) -> Outcome {
        let status = Status::Failed("not run: the dense model fails, and nothing can be compared with it".into());
        let record = CellRecord { cell: self.cells[cell].clone(), status, pruned: None, errors: None };
        Outcome { record, suites: Default::default(), spent: None }
    }

    fn idle(&self) -> Result<()> {
        Pause::default().wait(self.watch)
    }
}
