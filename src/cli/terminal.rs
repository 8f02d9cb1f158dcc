//! What a person sees while a study runs: a progress line for each device on a terminal, plain log lines elsewhere.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
#[cfg(unix)]
use std::os::fd::AsFd as Stream;
#[cfg(windows)]
use std::os::windows::io::AsHandle as Stream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use terminal_size::{Width, terminal_size_of};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::pipeline::{Outcome, Seconds, Status, Watch};

/// Set by Ctrl-C or a request to terminate.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The progress lines, the log and the interrupt.
pub struct Terminal {
    lines: MultiProgress,
    styles: Option<Styles>,
}

/// How progress is drawn: in a line, or in two where the terminal is too narrow for one.
#[derive(Clone)]
struct Styles {
    one: ProgressStyle,
    two: ProgressStyle,
}

/// Columns of a progress line beside the cell's number and name.
const BESIDE_NAME: usize = 60;

/// A line of the terminal: the progress of one cell after the other; nothing between them.
pub struct Line {
    lines: MultiProgress,
    styles: Option<Styles>,
    /// Of the cell that runs.
    bar: Mutex<ProgressBar>,
}

impl Terminal {
    /// Starts logging to stderr and listening for Ctrl-C.
    pub fn start(quiet: bool, verbose: bool) -> Result<Self> {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut styles = None;
        if !quiet && io::stderr().is_terminal() {
            lines.set_draw_target(ProgressDrawTarget::stderr());
            let style = |template| ProgressStyle::with_template(template).context("the progress line's template");
            styles = Some(Styles {
                one: style("{spinner} {prefix} {bar:24} {pos}/{len} {msg} {elapsed}")?,
                two: style("{spinner} {prefix}\n  {pos}/{len} {elapsed} {msg}")?,
            });
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
            .with_ansi(is_coloured(io::stderr().is_terminal(), |name| std::env::var_os(name)))
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
        .map_err(|error| match error {
            // What the system said tells what to do.
            ctrlc::Error::System(error) => Error::new(error),
            other => other.into(),
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(Self { lines, styles })
    }

    /// Another line.
    pub fn line(&self) -> Line {
        Line { lines: self.lines.clone(), styles: self.styles.clone(), bar: Mutex::new(ProgressBar::hidden()) }
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
        if let Some(styles) = &self.styles {
            let name = format!("[{number}/{of}] {id}");
            let fits = columns_of(&io::stderr()).is_none_or(|columns| name.chars().count() + BESIDE_NAME <= columns);
            let style = if fits { &styles.one } else { &styles.two };
            let bar = self.lines.add(ProgressBar::no_length().with_style(style.clone()));
            bar.set_prefix(name);
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

/// Whether to colour what goes to a terminal, or does not: by NO_COLOR, CLICOLOR_FORCE, FORCE_COLOR, CLICOLOR and TERM,
/// in this order, as https://no-color.org and https://bixense.com/clicolors say.
fn is_coloured(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let forces = |name: &str| set(name).is_some_and(|value| value != "0" && value != "false");
    if set("NO_COLOR").is_some() {
        return false;
    }
    if forces("CLICOLOR_FORCE") || forces("FORCE_COLOR") {
        return true;
    }
    let forbids = |name: &str| set(name).is_some_and(|value| value == "0" || value == "false");
    let is_dumb = variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    is_terminal && !forbids("CLICOLOR") && !forbids("FORCE_COLOR") && !is_dumb
}

/// How many columns a terminal has; None of what is none.
fn columns_of(stream: &impl Stream) -> Option<usize> {
    let (Width(columns), _) = terminal_size_of(stream)?;
    (columns > 0).then_some(usize::from(columns))
}

/// How many columns standard output has, where it is a terminal.
pub fn columns() -> Option<usize> {
    columns_of(&io::stdout())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_as_the_conventions_say() {
        let coloured = |is_terminal, variables: &[(&str, &str)]| {
            is_coloured(is_terminal, |name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let term = ("TERM", "xterm");
        assert!(coloured(true, &[term]) && !coloured(false, &[term]));
        for variables in [
            &[term, ("NO_COLOR", "1")][..],
            &[term, ("NO_COLOR", "0")],
            &[term, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
            &[term, ("CLICOLOR", "0")],
            &[term, ("FORCE_COLOR", "0")],
            &[("TERM", "dumb")],
            &[],
        ] {
            assert!(!coloured(true, variables), "{variables:?}");
        }
        assert!(coloured(true, &[term, ("NO_COLOR", "")]), "set to nothing is not set");
        assert!(coloured(true, &[term, ("CLICOLOR", "1")]));
        for forced in [("CLICOLOR_FORCE", "1"), ("FORCE_COLOR", "3"), ("FORCE_COLOR", "true")] {
            assert!(coloured(false, &[("TERM", "dumb"), forced]), "{forced:?}");
        }
        assert!(!coloured(false, &[term, ("CLICOLOR_FORCE", "0")]));
    }
}
