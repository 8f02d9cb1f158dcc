//! What a run took beside what was expected of it, and what there is to learn from that.

use std::fs;

use serde::{Deserialize, Serialize};

use super::super::cache::Cache;
use super::super::cell::Spent;
use super::super::plan::{Plan, PlannedCell};
use super::{Kind, Machine, Rates, Work};
use crate::prune::MethodName;

/// A run's cells, as they were expected and as they were.
pub struct Accounts {
    machine: Machine,
    width: usize,
    cells: Vec<Expected>,
    /// The processor time of this process when the run began.
    processor: Option<f64>,
    learnt: Rates,
    compared: Compared,
}

/// What was expected of a cell.
struct Expected {
    /// None where that was not known.
    seconds: Option<f64>,
    work: Option<Work>,
    method: Option<MethodName>,
    /// Whether an earlier run had begun it, so that what it took tells nothing.
    begun: bool,
}

/// What was expected of the cells that a run computed, and what they took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Compared {
    /// Of the cells of which something was expected.
    pub expected_seconds: f64,
    pub took_seconds: f64,
    /// The processor time of the whole run, where the system tells: what other programs took is not in it.
    pub processor_seconds: Option<f64>,
}

impl Accounts {
    /// Of a planned study, on a machine with a model of a width, as what is remembered in the cache says.
    pub fn open(plan: &Plan, cache: &Cache, machine: Machine, width: usize) -> Self {
        let rates = Rates::remembered(cache, &machine, width);
        let costs = plan.costs(&rates);
        let cells = plan.cells.iter().zip(costs.cells).map(|(cell, cost)| expected(cell, cost.seconds)).collect();
        let (learnt, compared) = Default::default();
        Self { machine, width, cells, processor: processor_seconds(), learnt, compared }
    }

    /// Adds a cell that has ended, and what it took; nothing where that was in the cache, or failed.
    pub fn add(&mut self, cell: usize, spent: Option<&Spent>) {
        let fresh = self.cells.get(cell).filter(|cell| !cell.begun);
        let (Some(Expected { seconds, work, method, .. }), Some(spent)) = (fresh, spent) else { return };
        self.learnt.peak = self.learnt.peak.max(spent.peak_bytes);
        if let Some(seconds) = seconds {
            self.compared.expected_seconds += seconds;
            self.compared.took_seconds += spent.seconds.total();
        }
        for (kind, amount) in work.iter().flat_map(|work| work.parts(*method)) {
            let took = match kind {
                Kind::Read | Kind::Calibrate(_) => spent.seconds.calibrate,
                Kind::Prune(_) => spent.seconds.prune,
                Kind::Pass => spent.seconds.forward,
                Kind::Score => spent.seconds.score,
                Kind::Generate => spent.seconds.generate,
                // No work of a cell.
                Kind::Judge => 0.0,
            };
            self.learnt.add(kind, amount, took);
        }
    }

    /// What was expected and what it took; None where nothing was computed of which anything was expected.
    pub fn compared(&self) -> Option<Compared> {
        let processor_seconds = processor_seconds().zip(self.processor).map(|(now, then)| now - then);
        (self.compared.took_seconds > 0.0 && self.compared.expected_seconds > 0.0)
            .then_some(Compared { processor_seconds, ..self.compared })
    }

    /// Remembers what was learnt. Where that cannot be written down, the next forecast is as good as this one.
    pub fn remember(self, cache: &Cache) {
        let remembered = self.learnt.remember(cache, &self.machine, self.width);
        let _ = remembered.inspect_err(|e| tracing::debug!("what was learnt of this machine is not kept: {e:#}"));
    }
}

fn expected(cell: &PlannedCell, seconds: Option<f64>) -> Expected {
    let to_do = cell.stages.iter().filter(|stage| stage.is_to_do());
    let work = to_do.map(|stage| stage.work).try_fold(Work::default(), |sum, work| Some(sum + work?));
    Expected { seconds, work, method: cell.method(), begun: cell.begun }
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reading: self.reading + other.reading,
            calibrating: self.calibrating + other.calibrating,
            selecting: self.selecting + other.selecting,
            solving: self.solving + other.solving,
            passing: self.passing + other.passing,
            scoring: self.scoring + other.scoring,
            generating: self.generating + other.generating,
        }
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (expected, took) = (self.expected_seconds, self.took_seconds);
        let off = 100.0 * (took / expected - 1.0);
        write!(f, "the cells took {took:.0} s, and {expected:.0} s were expected ({off:+.0}%)")?;
        match self.processor_seconds {
            Some(seconds) => write!(f, "; {seconds:.0} s of processor time"),
            None => Ok(()),
        }
    }
}

/// The time that processors have worked for this process, in seconds, where the system tells.
fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // User and system time, in the kernel's ticks, of which a second has 100: the 14th and 15th word, the 2nd of which is
    // in parentheses and may have spaces.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || words.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::super::cache::Stage;
    use super::super::super::cell::Seconds;
    use super::super::super::plan::PlannedStage;
    use super::*;
    use crate::prune::Sparsity;
    use crate::recipe::{Cell, Pruning};

    fn spent(seconds: Seconds) -> Spent {
        Spent {
            seconds,
            generated: 0,
            peak_bytes: None,
            device: String::new(),
            device_peak_bytes: None,
            batch_tokens: None,
        }
    }

    /// Wanda with 100 operations of calibration, 10 of weights, 50 of a pass and 20 of scores.
    fn cell(begun: bool) -> PlannedCell {
        let pruning = Pruning { method: MethodName::Wanda, sparsity: Sparsity::Ratio(0.5), calibration: None };
        let stage = |stage, work| PlannedStage {
            name: String::new(),
            stage,
            cached: Some(false),
            bytes: None,
            work: Some(work),
        };
        let stages = vec![
            stage(Stage::Pruned, Work { calibrating: 100.0, selecting: 10.0, ..Work::default() }),
            stage(Stage::Scores, Work { passing: 50.0, scoring: 20.0, ..Work::default() }),
        ];
        PlannedCell { id: String::new(), cell: Cell::Pruned(pruning), stages, memory: None, begun }
    }

    #[test]
    fn what_a_run_took_is_what_the_next_one_is_expected_to_take() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let machine = Machine::here(&Device::Cpu, DType::F32);
        let plan = Plan { cells: vec![cell(false), cell(true), cell(false)] };
        let mut first = Accounts::open(&plan, &cache, machine.clone(), 64);
        let took = Seconds { calibrate: 10.0, prune: 1.0, forward: 4.0, score: 5.0, generate: 0.0 };
        first.add(0, Some(&spent(took)));
        // An earlier run had done most of it.
        first.add(1, Some(&spent(Seconds { calibrate: 0.1, ..took })));
        first.add(2, None);
        assert_eq!(first.compared(), None);
        first.remember(&cache);

        let mut second = Accounts::open(&plan, &cache, machine.clone(), 64);
        second.add(2, Some(&spent(Seconds { calibrate: 15.0, ..took })));
        let compared = second.compared().unwrap();
        assert!((compared.expected_seconds - 20.0).abs() < 1e-9 && (compared.took_seconds - 25.0).abs() < 1e-9);
        let said = Compared { processor_seconds: Some(48.2), ..compared }.to_string();
        assert_eq!(said, "the cells took 25 s, and 20 s were expected (+25%); 48 s of processor time");
        second.remember(&cache);
        // Ten and fifteen seconds for 100 operations each.
        let third = Accounts::open(&plan, &cache, machine, 64);
        assert!((third.cells[2].seconds.unwrap() - 22.5).abs() < 1e-9);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_takes_processor_time() {
        let before = processor_seconds().unwrap();
        let started = std::time::Instant::now();
        let mut x = 1.0f64;
        while started.elapsed().as_secs_f64() < 0.3 {
            x = (x * 1.000_001).sin();
        }
        assert!(x.is_finite() && processor_seconds().unwrap() - before >= 0.05);
    }
}
