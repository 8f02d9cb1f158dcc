//! Who runs which cell: as many at once as there are workers, each the next one that nobody has.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Error, Result};

use crate::guard;
use crate::pipeline::Outcome;

/// What runs cells: a device, or in a test whatever says what became of them.
pub trait Worker: Sync {
    /// Runs the cell of this number.
    ///
    /// # Errors
    /// What is no fault of the cell: no further one begins.
    fn run(&self, cell: usize) -> Result<Outcome>;
}

/// Cells that nobody has taken yet, and why there will be no further one.
struct Queue {
    waiting: VecDeque<usize>,
    error: Option<Error>,
}

/// Has the cells run by the workers, each on a thread of its own, and hands over what each came to as soon as it is known.
///
/// # Errors
/// The first that a worker meets, or that `ended` comes to; then no further cell begins.
pub fn run(
    workers: &[impl Worker],
    cells: impl IntoIterator<Item = usize>,
    ended: impl Fn(usize, Outcome) -> Result<()> + Sync,
) -> Result<()> {
    let queue = Mutex::new(Queue { waiting: cells.into_iter().collect(), error: None });
    let work = |worker: &_| work(worker, &queue, &ended);
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

/// Runs cells until none waits.
fn work(worker: &impl Worker, queue: &Mutex<Queue>, ended: &(impl Fn(usize, Outcome) -> Result<()> + Sync)) {
    loop {
        let Some(cell) = locked(queue).waiting.pop_front() else { return };
        if let Err(error) = worker.run(cell).and_then(|outcome| ended(cell, outcome)) {
            return locked(queue).stop(error);
        }
    }
}

impl Queue {
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use anyhow::bail;

    use super::*;
    use crate::pipeline::{CellRecord, Status};
    use crate::recipe::Cell;

    /// Says of every cell that it is done, after a moment; of some that the run cannot go on.
    struct Fake<'a> {
        ran: &'a AtomicUsize,
        fatal: Option<usize>,
    }

    impl Worker for Fake<'_> {
        fn run(&self, cell: usize) -> Result<Outcome> {
            thread::sleep(Duration::from_millis(1));
            self.ran.fetch_add(1, Ordering::SeqCst);
            if self.fatal == Some(cell) {
                bail!("the disk is full")
            }
            let record = CellRecord { cell: Cell::Dense, status: Status::Done, pruned: None, errors: None };
            Ok(Outcome { record, suites: Default::default(), spent: None })
        }
    }

    #[test]
    fn every_cell_is_run_once_whatever_the_number_of_workers() {
        for workers in [1, 2, 7] {
            let ran = AtomicUsize::new(0);
            let workers: Vec<Fake> = (0..workers).map(|_| Fake { ran: &ran, fatal: None }).collect();
            let ended = Mutex::new(vec![]);
            run(&workers, 0..40, |cell, _| {
                ended.lock().unwrap().push(cell);
                Ok(())
            })
            .unwrap();
            let mut ended = ended.into_inner().unwrap();
            ended.sort_unstable();
            assert_eq!(ended, (0..40).collect::<Vec<_>>());
            assert_eq!(ran.into_inner(), 40);
        }
    }

    #[test]
    fn after_an_error_no_further_cell_begins() {
        let ran = AtomicUsize::new(0);
        let error = run(&[Fake { ran: &ran, fatal: Some(4) }], 0..40, |_, _| Ok(())).unwrap_err();
        assert_eq!((error.to_string().as_str(), ran.into_inner()), ("the disk is full", 5));
    }
}
