//! What a person sees while a study runs: a progress line for each device on a terminal, plain log lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::pipeline::{Outcome, Seconds, Status, Watch};

/// Set by Ctrl-C or a request to terminate.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The progress lines, the log and the interrupt.
pub struct Terminal {
    lines: MultiProgress,
    style: Option<ProgressStyle>,
}

/// A line of the terminal: the progress of one cell after the other; nothing between them.
pub struct Line {
    lines: MultiProgress,
    style: Option<ProgressStyle>,
    /// Of the cell that runs.
    bar: Mutex<ProgressBar>,
}

impl Terminal {
    /// Starts logging to stderr and listening for Ctrl-C.
    pub fn start(quiet: bool, verbose: bool) -> Result<Self> {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut style = None;
        if !quiet && io::stderr().is_terminal() {
            lines.set_draw_target(ProgressDrawTarget::stderr());
            let template = ProgressStyle::with_template("{spinner} {prefix} {bar:24} {pos}/{len} {msg} {elapsed}");
            style = Some(template.context("the progress line's template")?);
        }
        let level = match (quiet, verbose) {
            (true, _) => LevelFilter::WARN,
            (_, true) => LevelFilter::DEBUG,
            _ => LevelFilter::INFO,
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .without_time()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(AboveLines(lines.clone()))
            .init();
        let mut first = None;
        ctrlc::set_handler(move || {
            INTERRUPTED.store(true, Ordering::SeqCst);
            // Asked again: do not even end cleanly. What sends a signal to a group of processes and to each of them
            // asks once.
            if first.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(1) {
                std::process::exit(130);
            }
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(Self { lines, style })
    }

    /// Another line.
    pub fn line(&self) -> Line {
        Line { lines: self.lines.clone(), style: self.style.clone(), bar: Mutex::new(ProgressBar::hidden()) }
    }

    /// Takes the progress lines away.
    pub fn clear(&self) {
        // What cannot be cleared was not shown.
        let _ = self.lines.clear();
        self.lines.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Line {
    fn bar(&self) -> MutexGuard<'_, ProgressBar> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Line {
    fn cell_begins(&self, number: usize, of: usize, id: &str) {
        if let Some(style) = &self.style {
            let bar = self.lines.add(ProgressBar::no_length().with_style(style.clone()));
            bar.set_prefix(format!("[{number}/{of}] {id}"));
            bar.enable_steady_tick(Duration::from_millis(200));
            *self.bar() = bar;
        }
        tracing::debug!("[{number}/{of}] {id} begins");
    }

    fn progress(&self, done: usize, of: usize, what: &str) {
        let bar = self.bar();
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
        tracing::debug!("block {done}/{of}: {what}");
    }

    fn cell_ends(&self, outcome: &Outcome, reused: bool) {
        self.bar().finish_and_clear();
        let record = &outcome.record;
        let id = record.cell.id();
        match (&record.status, record.pruned.as_ref().zip(Seconds::of(outcome))) {
            (Status::Failed(error), _) => tracing::error!("{id} failed: {error}"),
            (Status::Done, Some(_)) if reused => tracing::info!("{id}: finished before"),
            (Status::Done, Some((pruned, s))) => {
                let mut stages = format!(
                    "calibrate {:.1}, prune {:.1}, forward {:.1}, score {:.1}",
                    s.calibrate, s.prune, s.forward, s.score
                );
                if let Some(rate) = outcome.tokens_per_second() {
                    stages += &format!(", generate {:.1}: {rate:.0} tokens/s", s.generate);
                }
                tracing::info!("{id}: sparsity {:.4}, {:.1} s ({stages})", pruned.achieved_sparsity(), s.total());
            }
            (Status::Done, None) => {}
        }
    }

    fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

/// Writes log lines to stderr, above the progress lines where there are any.
#[derive(Clone)]
struct AboveLines(MultiProgress);

impl Write for AboveLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AboveLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
