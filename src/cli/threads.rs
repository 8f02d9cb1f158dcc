//! How many threads compute.

use std::num::NonZeroUsize;
use std::thread;

use anyhow::{Context, Error, Result};

use crate::fault::Fault;
use crate::memory::{self, STACK};

/// A number of threads, and what says so.
#[derive(Debug, PartialEq)]
pub struct Threads {
    pub count: NonZeroUsize,
    /// The variable that says so; None where it is the command line, or the machine.
    pub by: Option<&'static str>,
    /// What is wrong with variables that were passed over.
    pub passed_over: Vec<String>,
}

/// More threads than any machine has processors.
const MOST: usize = 4096;

/// Variables that say how many threads a program may use, the first that is set to a number counts: rayon's own, OpenMP's,
/// and what Slurm gives to a task.
const VARIABLES: [&str; 3] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", SLURM];

/// Slurm sets it, for all that a job starts, wherever it runs: never more threads than there are processors.
const SLURM: &str = "SLURM_CPUS_PER_TASK";

impl Threads {
    /// As many as were asked for; else as a variable says; else one for each processor that this process may use, which
    /// affinity and quotas of control groups narrow down.
    pub fn wanted(asked: Option<NonZeroUsize>) -> Self {
        let available = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::of(asked, available, |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))
    }

    fn of(asked: Option<NonZeroUsize>, available: NonZeroUsize, variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut passed_over = Vec::new();
        if let Some(count) = asked {
            return Self { count, by: None, passed_over };
        }
        for name in VARIABLES {
            let Some(value) = variable(name).filter(|value| !value.trim().is_empty()) else { continue };
            // OpenMP's may be a list, a number for each level of nesting.
            let first = value.split(',').next().unwrap_or_default().trim();
            match first.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST) {
                Some(count) if name == SLURM => {
                    return Self { count: count.min(available), by: Some(name), passed_over };
                }
                Some(count) => return Self { count, by: Some(name), passed_over },
                // As rayon documents it.
                None if name == VARIABLES[0] && first == "0" => {}
                None => passed_over.push(format!("{name} is \"{value}\", which is no number of threads: passed over")),
            }
        }
        Self { count: available, by: None, passed_over }
    }

    /// Gives rayon, and through it candle and gemm, its threads. Called before the first parallel loop.
    ///
    /// # Errors
    /// Where there are too many, or the system does not start them.
    pub fn start(&self) -> Result<()> {
        if self.count.get() > MOST {
            return Err(Fault(format!("--threads {}: expected at most {MOST}", self.count)).into());
        }
        // SAFETY: no other thread has been started yet that could read the environment. candle takes its number of
        // threads from here, not from rayon's pool, and polars from its own variable.
        unsafe {
            std::env::set_var("RAYON_NUM_THREADS", self.count.to_string());
            if std::env::var_os("POLARS_MAX_THREADS").is_none() {
                std::env::set_var("POLARS_MAX_THREADS", self.count.to_string());
            }
        }
        let count = self.count.get();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).stack_size(STACK);
        let started = memory::ensure_room_for_threads(count, STACK).map_err(Error::from);
        let started = started.and_then(|()| Ok(pool.build_global()?));
        started.with_context(|| format!("cannot start {count} threads; --threads N asks for fewer"))
    }

    /// Says what the user may not know.
    pub fn tell(&self) {
        self.passed_over.iter().for_each(|text| tracing::warn!("{text}"));
        if let Some(name) = self.by {
            let threads = if self.count.get() == 1 { "thread" } else { "threads" };
            tracing::info!("{} {threads}, as {name} says; --threads N asks for others", self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(asked: usize, variables: &[(&str, &str)]) -> (usize, Option<&'static str>, usize) {
        let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        let threads = Threads::of(NonZeroUsize::new(asked), NonZeroUsize::new(8).unwrap(), of);
        (threads.count.get(), threads.by, threads.passed_over.len())
    }

    #[test]
    fn what_was_asked_for_comes_first_then_openmp_then_slurm_then_the_machine() {
        let (omp, slurm) = (("OMP_NUM_THREADS", "3"), ("SLURM_CPUS_PER_TASK", "4"));
        assert_eq!(wanted(0, &[]), (8, None, 0));
        assert_eq!(wanted(5, &[omp, slurm]), (5, None, 0));
        assert_eq!(wanted(0, &[omp, slurm]), (3, Some("OMP_NUM_THREADS"), 0));
        assert_eq!(wanted(0, &[slurm]), (4, Some("SLURM_CPUS_PER_TASK"), 0));
        assert_eq!(wanted(0, &[("RAYON_NUM_THREADS", "2"), omp]), (2, Some("RAYON_NUM_THREADS"), 0));
        assert_eq!(wanted(0, &[("OMP_NUM_THREADS", "6,2")]), (6, Some("OMP_NUM_THREADS"), 0));
        assert_eq!(wanted(0, &[("OMP_NUM_THREADS", "16")]), (16, Some("OMP_NUM_THREADS"), 0));
        assert_eq!(wanted(0, &[("SLURM_CPUS_PER_TASK", "64")]), (8, Some("SLURM_CPUS_PER_TASK"), 0));
    }

    #[test]
    fn what_is_no_number_is_told_and_passed_over() {
        for value in ["many", "0", "-2", "1.5", ",", "100000"] {
            assert_eq!(wanted(0, &[("OMP_NUM_THREADS", value)]), (8, None, 1), "{value}");
        }
        assert_eq!(wanted(0, &[("OMP_NUM_THREADS", "x"), ("SLURM_CPUS_PER_TASK", "2")]).0, 2);
        assert_eq!(wanted(0, &[("OMP_NUM_THREADS", ""), ("RAYON_NUM_THREADS", "0")]), (8, None, 0));
    }
}
