//! What a study takes: seconds, memory and disk of its cells, before it runs.
//!
//! A stage's work ([`Work`]) is a few amounts, each of a [`Kind`] that a machine does at a rate of its own. Rates are measured
//! once on a model of random weights (`measure.rs`), remembered by machine and width of the model (`rates.rs`), and refined
//! by what runs took (`accounts.rs`). What no rate is known of has no time.

mod accounts;
mod measure;
mod rates;

use std::fmt;

pub use accounts::{Accounts, Compared};
pub use measure::measured;
pub use rates::{Machine, Rates};

use super::plan::{Plan, PlannedCell, PlannedStage};
use crate::prune::MethodName;

/// What is yet to be done, of which a machine does each kind at a rate of its own. Where nothing else is said, in
/// floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Weights that are read from files, where nothing but that is done for a statistic.
    pub reading: f64,
    /// The calibration windows' way through the blocks, with the statistics of their inputs.
    pub calibrating: f64,
    /// Weights among which a method selects that computes no more than that.
    pub selecting: f64,
    /// The method itself, where it compensates.
    pub solving: f64,
    /// The suites' way through the blocks.
    pub passing: f64,
    /// Logits, and what is made of them.
    pub scoring: f64,
    /// Prompts and new tokens.
    pub generating: f64,
}

impl Work {
    /// Floating-point operations on the walk over the blocks.
    pub fn walking(self) -> f64 {
        self.calibrating + self.solving + self.passing
    }

    /// Floating-point operations when the walk is over.
    pub fn after(self) -> f64 {
        self.scoring + self.generating
    }

    /// All floating-point operations.
    pub fn total(self) -> f64 {
        self.walking() + self.after()
    }

    /// The amounts, where the pruning is by `method`.
    pub fn parts(self, method: Option<MethodName>) -> impl Iterator<Item = (Kind, f64)> {
        let of_method = |kind: fn(MethodName) -> Kind, amount: f64| method.map(|method| (kind(method), amount));
        let parts = [
            Some((Kind::Read, self.reading)),
            of_method(Kind::Calibrate, self.calibrating),
            // A method does one or the other.
            of_method(Kind::Prune, self.selecting + self.solving),
            Some((Kind::Pass, self.passing)),
            Some((Kind::Score, self.scoring)),
            Some((Kind::Generate, self.generating)),
        ];
        parts.into_iter().flatten().filter(|(_, amount)| *amount > 0.0)
    }
}

/// What is done at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Read,
    Calibrate(MethodName),
    Prune(MethodName),
    Pass,
    Score,
    Generate,
    /// A judge's answers, one by one.
    Judge,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Calibrate(method) => write!(f, "calibrate {}", method.as_str()),
            Self::Prune(method) => write!(f, "prune {}", method.as_str()),
            Self::Pass => f.write_str("pass"),
            Self::Score => f.write_str("score"),
            Self::Generate => f.write_str("generate"),
            Self::Judge => f.write_str("judge"),
        }
    }
}

/// What a cell, or a study, is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// None where some of its work or a rate is not known.
    pub seconds: Option<f64>,
    /// Bytes that it cannot do without at once: a lower bound; [`Rates::peak`] is what runs have held. None where the model is not known, or a device computes.
    pub memory: Option<u64>,
    /// Bytes that it adds to the cache, as far as they are known.
    pub disk: u64,
}

/// What a plan is expected to take of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// One cell after the other: seconds and disk of all, memory of the largest.
    pub all: Cost,
    /// The most of each that any one cell takes.
    pub cell: Cost,
    /// Of each, as the plan lists them.
    pub cells: Vec<Cost>,
}

impl Plan {
    /// What is still to be done takes so much, at these rates.
    pub fn costs(&self, rates: &Rates) -> Costs {
        let cells: Vec<Cost> = self.cells.iter().map(|cell| cost(cell, rates)).collect();
        let seconds =
            |join: fn(f64, f64) -> f64| cells.iter().try_fold(0.0, |joined, cost| Some(join(joined, cost.seconds?)));
        let memory = cells.iter().try_fold(0, |most: u64, cost| Some(most.max(cost.memory?)));
        let disk = cells.iter().map(|cost| cost.disk);
        let all = Cost { seconds: seconds(|a, b| a + b), memory, disk: disk.clone().fold(0, u64::saturating_add) };
        let cell = Cost { seconds: seconds(f64::max), memory, disk: disk.max().unwrap_or(0) };
        Costs { all, cell, cells }
    }
}

fn cost(cell: &PlannedCell, rates: &Rates) -> Cost {
    let to_do = || cell.stages.iter().filter(|stage| stage.is_to_do());
    let seconds = |stage: &PlannedStage| rates.seconds(stage.work?, cell.method());
    Cost {
        seconds: to_do().try_fold(0.0, |sum, stage| Some(sum + seconds(stage)?)),
        memory: if to_do().next().is_some() { cell.memory } else { Some(0) },
        disk: to_do().filter_map(|stage| stage.bytes).fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::Stage;
    use super::*;
    use crate::prune::Sparsity;
    use crate::recipe::{Cell, Pruning};

    fn stage(stage: Stage, cached: bool, bytes: u64, work: Option<Work>) -> PlannedStage {
        PlannedStage { name: String::new(), stage, cached: Some(cached), bytes: Some(bytes), work }
    }

    fn cell(method: Option<MethodName>, memory: u64, stages: Vec<PlannedStage>) -> PlannedCell {
        let pruning = method.map(|method| Pruning { method, sparsity: Sparsity::Ratio(0.5), calibration: None });
        let cell = pruning.map_or(Cell::Dense, Cell::Pruned);
        PlannedCell { id: String::new(), cell, stages, memory: Some(memory), begun: false }
    }

    /// Ten operations a second pass, five score, two prune; of generating nothing is known.
    fn rates() -> Rates {
        let mut rates = Rates::default();
        rates.add(Kind::Pass, 100.0, 10.0);
        rates.add(Kind::Score, 10.0, 2.0);
        rates.add(Kind::Prune(MethodName::Wanda), 1.0, 0.5);
        rates
    }

    #[test]
    fn a_plans_cost_is_the_sum_of_its_stages_work_at_their_rates() {
        let pass = |passing, scoring| Some(Work { passing, scoring, ..Work::default() });
        let pruning = Some(Work { selecting: 8.0, ..Work::default() });
        let plan = Plan {
            cells: vec![
                cell(
                    None,
                    7,
                    vec![
                        stage(Stage::Teacher, true, 100, pass(1e9, 0.0)),
                        stage(Stage::Scores, false, 1, pass(0.0, 5.0)),
                    ],
                ),
                cell(
                    Some(MethodName::Wanda),
                    9,
                    vec![stage(Stage::Pruned, false, 20, pruning), stage(Stage::Scores, false, 3, pass(30.0, 20.0))],
                ),
                cell(None, 1000, vec![stage(Stage::Scores, true, 50, pass(1.0, 1.0))]),
            ],
        };
        // 5/5; 8/2 + 30/10 + 20/5; nothing is left of the third.
        let costs = plan.costs(&rates());
        assert_eq!(costs.all, Cost { seconds: Some(12.0), memory: Some(9), disk: 24 });
        assert_eq!(costs.cell, Cost { seconds: Some(11.0), memory: Some(9), disk: 23 });
        assert_eq!(costs.cells[0], Cost { seconds: Some(1.0), memory: Some(7), disk: 1 });
        assert_eq!(costs.cells[2], Cost { seconds: Some(0.0), memory: Some(0), disk: 0 });
    }

    #[test]
    fn work_of_which_no_rate_is_known_has_no_time() {
        let generating = Some(Work { generating: 1.0, ..Work::default() });
        let plan = |work| Plan { cells: vec![cell(None, 1, vec![stage(Stage::Answers, false, 2, work)])] };
        for work in [generating, None] {
            let costs = plan(work).costs(&rates());
            assert_eq!((costs.all.seconds, costs.cell.seconds, costs.all.disk), (None, None, 2));
        }
        assert_eq!(plan(Some(Work::default())).costs(&Rates::default()).all.seconds, Some(0.0));
        // Another method's rate is not taken for this one's.
        let pruned = cell(
            Some(MethodName::SparseGpt),
            1,
            vec![stage(Stage::Pruned, false, 2, Some(Work { solving: 1.0, ..Work::default() }))],
        );
        assert_eq!(Plan { cells: vec![pruned] }.costs(&rates()).all.seconds, None);
    }
}
