//! What a person sees while a study runs: a progress line for each device on a terminal, log lines with their time elsewhere.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
#[cfg(unix)]
use std::os::fd::AsFd as Stream;
#[cfg(windows)]
use std::os::windows::io::AsHandle as Stream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use indicatif::{MultiProgress, ProgressDrawTarget};
use terminal_size::{Width, terminal_size_of};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::prelude::*;

use super::downloads::Downloads;
use super::line::{Expected, Line, Styles};
use crate::pipeline::{Forecast, Watch};
use crate::source::watched_by;
use crate::study::Screen;
use crate::warnings::Warnings;

/// Set by Ctrl-C or a request to terminate.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The progress lines, the log and the interrupt.
pub struct Terminal {
    lines: MultiProgress,
    /// None where there are no progress lines.
    styles: Option<Styles>,
    expected: Expected,
    warnings: Warnings,
}

impl Terminal {
    /// Starts logging to stderr and listening for Ctrl-C.
    pub fn start(quiet: bool, verbose: bool) -> Result<Self> {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let expected = Expected::nothing();
        let is_terminal = io::stderr().is_terminal();
        if !quiet && is_terminal {
            lines.set_draw_target(ProgressDrawTarget::stderr());
        }
        // Some terminals cannot draw over what they have shown.
        let styles = if lines.is_hidden() { None } else { Some(Styles::new(&expected)?) };
        watched_by(Box::new(Downloads::new(&lines, styles.is_some() && shows_bars())?));
        let level = match (quiet, verbose) {
            (true, _) => LevelFilter::WARN,
            (_, true) => LevelFilter::DEBUG,
            _ => LevelFilter::INFO,
        };
        let log = tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(is_coloured(is_terminal, |name| std::env::var_os(name)))
            .with_writer(AboveLines(lines.clone()));
        let warnings = Warnings::default();
        let log = if is_terminal { log.without_time().boxed() } else { log.with_timer(Stamp).boxed() };
        tracing_subscriber::registry().with(log).with(level).with(warnings.clone()).init();
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
        Ok(Self { lines, styles, expected, warnings })
    }

    /// Another line.
    pub fn line(&self) -> Line {
        Line::new(&self.lines, self.styles.as_ref(), &self.expected)
    }

    /// Takes the progress lines away.
    pub fn clear(&self) {
        // What cannot be cleared was not shown.
        let _ = self.lines.clear();
        self.lines.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Screen for Terminal {
    fn watch(&self) -> Box<dyn Watch> {
        Box::new(self.line())
    }

    fn expect(&self, forecast: Forecast) {
        self.expected.set(forecast);
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.all()
    }
}

/// Whether Hugging Face's tools may draw progress, and so downloads from its Hub.
fn shows_bars() -> bool {
    let set = std::env::var("HF_HUB_DISABLE_PROGRESS_BARS").unwrap_or_default().to_uppercase();
    !["1", "ON", "YES", "TRUE"].contains(&set.as_str())
}

/// Whether the program was asked to end.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The time of a log line: UTC, to the second.
struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut text = String::new();
        SystemTime.format_time(&mut Writer::new(&mut text))?;
        write!(writer, "{}Z", text.split(['.', 'Z']).next().unwrap_or_default())
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
pub fn columns_of(stream: &impl Stream) -> Option<usize> {
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
    /// A whole event, which the log writes at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| match (columns_of(&io::stderr()), str::from_utf8(bytes)) {
            (Some(columns), Ok(text)) => {
                io::stderr().write_all(hanging(text, columns).as_bytes()).map(|()| bytes.len())
            }
            _ => io::stderr().write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What stands before the text of a log line, in columns: its level.
const LEVEL: usize = 6;

/// A log line in lines of at most so many columns, broken between words, those after the first indented. What is indented
/// already, such as a line of a recipe, is as it is.
fn hanging(text: &str, columns: usize) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        // A log line begins with its level, which is padded to five columns, and perhaps with a colour.
        if line.starts_with("  ") || columns < 4 * LEVEL {
            out += line;
            continue;
        }
        let mut at = 0;
        for (i, word) in line.split(' ').enumerate() {
            let width = visible(word);
            if i > 0 && at > LEVEL && at + 1 + width > columns {
                out += "\n      ";
                at = LEVEL;
            } else if i > 0 {
                out.push(' ');
                at += 1;
            }
            out += word;
            at += width;
        }
    }
    out
}

/// The columns of a word, without line ends and the sequences that colour it.
fn visible(word: &str) -> usize {
    let mut is_escape = false;
    let shows = |c: &char| {
        let hidden = is_escape || *c == '\x1b' || *c == '\n';
        is_escape = *c == '\x1b' || (is_escape && *c != 'm');
        !hidden
    };
    word.chars().filter(shows).count()
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
    fn long_log_lines_are_broken_between_words() {
        let text = " INFO one two three four five six seven\n";
        assert_eq!(hanging(text, 100), text);
        assert_eq!(hanging(text, 39), text);
        assert_eq!(hanging(text, 30), " INFO one two three four five\n      six seven\n");
        assert_eq!(hanging(text, 28), " INFO one two three four\n      five six seven\n");
        let coloured = "\x1b[32m INFO\x1b[0m one two three four five six seven\n";
        assert_eq!(hanging(coloured, 30), "\x1b[32m INFO\x1b[0m one two three four five\n      six seven\n");
        // A word that fits nowhere, a line of a file, and a terminal of hardly any columns.
        let long = format!("ERROR {} and\n", "x".repeat(40));
        assert_eq!(hanging(&long, 30), format!("ERROR {}\n      and\n", "x".repeat(40)));
        let cited = " WARN a.toml:1:1\n     1 | a line of the recipe that is wide as it stands there\n";
        assert_eq!(hanging(cited, 30), cited);
        assert_eq!(hanging(text, 10), text);
    }

    #[test]
    fn a_stamp_is_the_time_to_the_second() {
        let mut text = String::new();
        Stamp.format_time(&mut Writer::new(&mut text)).unwrap();
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z");
    }

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
