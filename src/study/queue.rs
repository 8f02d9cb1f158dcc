//! Who runs which cell: each worker the next one that nobody has, here or in another process that shares the cache.
//!
//! The dense cell is number 0. All others are compared with it, and are run when it has ended; until then whoever cannot run
//! it prunes the others ahead. A cell that another process has is looked at again in a while.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::guard;
use crate::pipeline::{Outcome, Status};

/// What runs cells: a device, or in a test whatever says what became of them.
pub trait Worker: Sync {
    /// What it holds of a cell that nobody else may run.
    type Claim: Send;

    /// Takes a cell for this worker, where nobody has it and it is not finished.
    fn take(&self, cell: usize) -> Taking<Self::Claim>;

    /// Runs a cell.
    ///
    /// # Errors
    /// What is no fault of the cell: no further one begins.
    fn run(&self, cell: usize, claim: Self::Claim) -> Result<Outcome>;

    /// Does of a cell what can be done before the dense one has ended.
    ///
    /// # Errors
    /// As of [`Worker::run`].
    fn prepare(&self, cell: usize, claim: Self::Claim) -> Result<()>;

    /// What a cell comes to that is not run, because the dense one fails.
    fn without_dense(&self, cell: usize) -> Outcome;

    /// Waits a moment.
    ///
    /// # Errors
    /// Where the user wants an end.
    fn idle(&self) -> Result<()>;
}

/// What became of an attempt to take a cell.
pub enum Taking<C> {
    Mine(C),
    /// Another process has it.
    Held,
    /// It is finished: here, or by another process, and seen here.
    Finished(Box<Outcome>),
    /// Another process says that it is finished, which is not seen here yet.
    Done,
    /// Another process says that it has failed.
    Failed,
}

/// Whether a worker waits for what other processes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until all cells have ended: the tables need them.
    ForAll,
    /// Only for what it goes on with.
    ForWork,
}

/// Before a cell that another process has is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Waiting {
    cell: usize,
    /// Not looked at before.
    from: Instant,
    /// What can be done before the dense cell has ended is done.
    is_prepared: bool,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    has_dense: bool,
    /// Why there will be no further cell.
    error: Option<Error>,
}

/// What a worker does next.
enum Next<C> {
    Run(usize, C),
    Prepare(usize, C),
    Ended(usize, Box<Outcome>),
    Wait,
    Nothing,
}

/// Has the cells run by the workers, each on a thread of its own, in the order in which they are given, and hands over what
/// each came to as soon as it is known: the dense one before all others. Where that is not among the cells, it has ended.
///
/// # Errors
/// The first that a worker meets, or that `ended` comes to; then no further cell begins.
pub fn run<W: Worker>(
    workers: &[W],
    cells: impl IntoIterator<Item = usize>,
    patience: Patience,
    ended: impl Fn(usize, Outcome) -> Result<()> + Sync,
) -> Result<()> {
    let from = Instant::now();
    let waiting: VecDeque<Waiting> = cells.into_iter().map(|cell| Waiting { cell, from, is_prepared: false }).collect();
    let has_dense = waiting.iter().all(|waiting| waiting.cell != 0);
    let queue = Mutex::new(Queue { waiting, has_dense, error: None });
    let work = |worker: &W| {
        if let Err(error) = work(worker, &queue, patience, &ended) {
            locked(&queue).stop(error);
        }
    };
    let Some((first, others)) = workers.split_first() else { return Ok(()) };
    thread::scope(|scope| {
        for worker in others {
            let started = guard::thread().and_then(|thread| thread.spawn_scoped(scope, move || work(worker)));
            if let Err(error) = started {
                locked(&queue).stop(Error::new(error).context("a thread for another device"));
            }
        }
        work(first);
    });
    let Queue { error, .. } = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

/// Runs cells until there is nothing left to do.
fn work<W: Worker>(
    worker: &W,
    queue: &Mutex<Queue>,
    patience: Patience,
    ended: &(impl Fn(usize, Outcome) -> Result<()> + Sync),
) -> Result<()> {
    loop {
        let next = locked(queue).next(worker, patience);
        let (cell, outcome) = match next {
            Next::Run(cell, claim) => (cell, worker.run(cell, claim)?),
            Next::Ended(cell, outcome) => (cell, *outcome),
            Next::Prepare(cell, claim) => {
                worker.prepare(cell, claim)?;
                continue;
            }
            Next::Wait => {
                worker.idle()?;
                continue;
            }
            Next::Nothing => return Ok(()),
        };
        let has_failed = matches!(outcome.record.status, Status::Failed(_));
        ended(cell, outcome)?;
        if cell == 0 {
            locked(queue).has_dense = true;
        }
        if cell == 0 && has_failed {
            let others = std::mem::take(&mut locked(queue).waiting);
            others.into_iter().try_for_each(|waiting| ended(waiting.cell, worker.without_dense(waiting.cell)))?;
        }
    }
}

impl Queue {
    fn next<W: Worker>(&mut self, worker: &W, patience: Patience) -> Next<W::Claim> {
        let now = Instant::now();
        let (mut i, mut waits_for_dense) = (0, false);
        while let Some(Waiting { cell, from, is_prepared }) = self.waiting.get_mut(i) {
            let (cell, runs) = (*cell, self.has_dense || *cell == 0);
            if *from > now || (!runs && *is_prepared) {
                waits_for_dense |= !self.has_dense;
                i += 1;
                continue;
            }
            match worker.take(cell) {
                Taking::Mine(claim) if runs => {
                    self.waiting.remove(i);
                    return Next::Run(cell, claim);
                }
                Taking::Mine(claim) => {
                    *is_prepared = true;
                    return Next::Prepare(cell, claim);
                }
                Taking::Finished(outcome) if runs => {
                    self.waiting.remove(i);
                    return Next::Ended(cell, outcome);
                }
                Taking::Finished(_) => *is_prepared = true,
                // Without it, there is nothing to be done.
                Taking::Failed if patience == Patience::ForWork && cell == 0 => {
                    self.waiting.clear();
                    return Next::Nothing;
                }
                Taking::Failed | Taking::Done if patience == Patience::ForWork && cell != 0 => {
                    self.waiting.remove(i);
                    continue;
                }
                Taking::Held | Taking::Done | Taking::Failed => {
                    *from = now + LOOK_AGAIN;
                    waits_for_dense |= cell == 0;
                }
            }
            i += 1;
        }
        let is_all = self.waiting.is_empty();
        match is_all || (patience == Patience::ForWork && !waits_for_dense) {
            true => Next::Nothing,
            false => Next::Wait,
        }
    }

    /// No further cell begins; the first reason is the one to tell.
    fn stop(&mut self, error: Error) {
        self.waiting.clear();
        self.error.get_or_insert(error);
    }
}

/// Nothing that holds the queue leaves it half changed.
fn locked(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::*;
    use crate::pipeline::CellRecord;
    use crate::recipe::Cell;

    /// What is known of cells outside of this process, and what its workers do.
    #[derive(Default)]
    struct World {
        /// How often each was run and prepared here.
        run: Mutex<Vec<usize>>,
        prepared: Mutex<Vec<usize>>,
        /// Those that another process has, and after how many looks it has finished them.
        elsewhere: Mutex<Vec<(usize, usize)>>,
        failed_elsewhere: BTreeSet<usize>,
        fatal: Option<usize>,
        dense_fails: bool,
        idled: AtomicUsize,
    }

    fn outcome(status: Status) -> Outcome {
        let record = CellRecord { cell: Cell::Dense, status, pruned: None, errors: None };
        Outcome { record, suites: Default::default(), spent: None }
    }

    impl Worker for &World {
        type Claim = ();

        fn take(&self, cell: usize) -> Taking<()> {
            if self.failed_elsewhere.contains(&cell) {
                return Taking::Failed;
            }
            match self.elsewhere.lock().unwrap().iter_mut().find(|(known, _)| *known == cell) {
                Some((_, 0)) => Taking::Finished(Box::new(outcome(Status::Done))),
                Some((_, looks)) => {
                    *looks -= 1;
                    Taking::Held
                }
                None => Taking::Mine(()),
            }
        }

        fn run(&self, cell: usize, _: ()) -> Result<Outcome> {
            thread::sleep(Duration::from_millis(1));
            self.run.lock().unwrap().push(cell);
            if self.fatal == Some(cell) {
                bail!("the disk is full")
            }
            let fails = self.dense_fails && cell == 0;
            Ok(outcome(if fails { Status::Failed("no".into()) } else { Status::Done }))
        }

        fn prepare(&self, cell: usize, _: ()) -> Result<()> {
            self.prepared.lock().unwrap().push(cell);
            Ok(())
        }

        fn without_dense(&self, _: usize) -> Outcome {
            outcome(Status::Failed("not run".into()))
        }

        fn idle(&self) -> Result<()> {
            self.idled.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
            Ok(())
        }
    }

    /// Runs so many cells, and gives those that ended, in that order, and what went wrong.
    fn ran(world: &World, workers: usize, cells: usize, patience: Patience) -> (Vec<usize>, Option<String>) {
        let ended = Mutex::new(vec![]);
        let ran = run(&vec![world; workers], 0..cells, patience, |cell, _| {
            ended.lock().unwrap().push(cell);
            Ok(())
        });
        (ended.into_inner().unwrap(), ran.err().map(|error| error.to_string()))
    }

    fn sorted(cells: &[usize]) -> Vec<usize> {
        let mut cells = cells.to_vec();
        cells.sort_unstable();
        cells
    }

    #[test]
    fn every_cell_is_run_once_and_the_dense_one_first() {
        for workers in [1, 2, 7] {
            let world = World::default();
            let (ended, error) = ran(&world, workers, 40, Patience::ForAll);
            assert_eq!((sorted(&ended), error), ((0..40).collect(), None));
            assert_eq!(ended[0], 0);
            assert_eq!(sorted(&world.run.lock().unwrap()), (0..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn while_the_dense_cell_is_another_s_the_others_are_prepared_and_then_run() {
        let world = World { elsewhere: Mutex::new(vec![(0, 1)]), ..World::default() };
        let (ended, _) = ran(&world, 1, 4, Patience::ForWork);
        assert_eq!(*world.prepared.lock().unwrap(), [1, 2, 3]);
        assert_eq!((ended, world.run.lock().unwrap().clone()), (vec![0, 1, 2, 3], vec![1, 2, 3]));
    }

    #[test]
    fn a_worker_goes_when_all_is_taken_and_tables_wait() {
        for (patience, expected) in [(Patience::ForWork, vec![0, 1, 3]), (Patience::ForAll, vec![0, 1, 3, 2])] {
            let world = World { elsewhere: Mutex::new(vec![(2, 1)]), ..World::default() };
            assert_eq!(ran(&world, 1, 4, patience).0, expected, "{patience:?}");
            assert_eq!(world.idled.load(Ordering::SeqCst) > 0, patience == Patience::ForAll);
        }
    }

    #[test]
    fn what_failed_elsewhere_is_left_and_without_the_dense_cell_nothing_is_done() {
        let world = World { failed_elsewhere: BTreeSet::from([2]), ..World::default() };
        assert_eq!(ran(&world, 1, 4, Patience::ForWork), (vec![0, 1, 3], None));
        let world = World { failed_elsewhere: BTreeSet::from([0]), ..World::default() };
        assert_eq!(ran(&world, 1, 4, Patience::ForWork), (vec![], None));
        let world = World { dense_fails: true, ..World::default() };
        assert_eq!(ran(&world, 1, 4, Patience::ForAll), (vec![0, 1, 2, 3], None));
        assert_eq!(*world.run.lock().unwrap(), [0]);
    }

    #[test]
    fn after_an_error_no_further_cell_begins() {
        let world = World { fatal: Some(4), ..World::default() };
        assert_eq!(ran(&world, 1, 40, Patience::ForAll), (vec![0, 1, 2, 3], Some("the disk is full".into())));
        assert_eq!(world.run.lock().unwrap().len(), 5);
    }
}
