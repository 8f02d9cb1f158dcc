//! The progress of downloads: a line of the terminal, or, where there is none, lines of the log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::terminal::is_interrupted;
use crate::pipeline::Left;
use crate::size::Size;
use crate::source::Watch;

/// What is downloaded; one source after the other.
pub struct Downloads {
    lines: MultiProgress,
    /// None where there are no progress lines.
    style: Option<ProgressStyle>,
    current: Mutex<Option<Current>>,
}

/// A source that comes.
struct Current {
    source: String,
    /// How many bytes are to come, and how many have.
    bytes: u64,
    done: u64,
    began: Instant,
    /// When the log had its last line.
    said: Instant,
    bar: ProgressBar,
}

/// How often a log gets a line.
const RHYTHM: Duration = Duration::from_secs(30);

impl Downloads {
    pub fn new(lines: &MultiProgress, is_drawn: bool) -> Result<Self> {
        let style = ProgressStyle::with_template("{spinner} {prefix} {bar:16} {msg}");
        let style = is_drawn.then_some(style).transpose().context("the template of the progress of downloads")?;
        Ok(Self { lines: lines.clone(), style, current: Mutex::default() })
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// How far it is: `1.2 GB of 13.5 GB, 85.0 MB/s, 2 min left`.
    fn state(&self, seconds: f64) -> String {
        let state = format!("{} of {}", Size(self.done), Size(self.bytes));
        if self.done == 0 || seconds < 0.5 {
            return state;
        }
        let rate = self.done as f64 / seconds;
        let left = Left { seconds: self.bytes.saturating_sub(self.done) as f64 / rate, is_rough: false };
        format!("{state}, {}/s, {left} left", Size(rate as u64))
    }

    fn show(&mut self, is_drawn: bool) {
        let state = self.state(self.began.elapsed().as_secs_f64());
        self.bar.set_position(self.done.min(self.bytes));
        self.bar.set_message(state.clone());
        if !is_drawn && self.said.elapsed() >= RHYTHM {
            self.said = Instant::now();
            tracing::info!("{}: {state}", self.source);
        }
    }
}

impl Watch for Downloads {
    fn begins(&self, source: &str, files: usize, bytes: u64) {
        let of = if files == 1 { "1 file".into() } else { format!("{files} files") };
        tracing::info!("fetching {source}: {of}, {}", Size(bytes));
        let bar = match &self.style {
            Some(style) => self.lines.add(ProgressBar::new(bytes).with_style(style.clone())),
            None => ProgressBar::hidden(),
        };
        bar.set_prefix(source.to_owned());
        let now = Instant::now();
        *self.current() = Some(Current { source: source.to_owned(), bytes, done: 0, began: now, said: now, bar });
    }

    fn receives(&self, bytes: u64) {
        if let Some(current) = self.current().as_mut() {
            current.done += bytes;
            current.show(self.style.is_some());
        }
    }

    fn loses(&self, bytes: u64) {
        if let Some(current) = self.current().as_mut() {
            // What was there before is to come as well.
            current.bytes += bytes.saturating_sub(current.done);
            current.done = current.done.saturating_sub(bytes);
            current.show(self.style.is_some());
        }
    }

    fn ends(&self, whole: bool) {
        let Some(current) = self.current().take() else { return };
        current.bar.finish_and_clear();
        let seconds = current.began.elapsed().as_secs_f64();
        if whole && seconds >= 1.0 {
            tracing::info!("fetched {}: {} in {seconds:.0} s", current.source, Size(current.done));
        }
    }

    fn interrupted(&self) -> bool {
        is_interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_tells_its_rate_and_what_is_left() {
        let downloads = Downloads::new(&MultiProgress::new(), false).unwrap();
        downloads.begins("hf:a/b", 3, 2_000_000_000);
        let state = |seconds| downloads.current().as_ref().unwrap().state(seconds);
        assert_eq!(state(3.0), "0 B of 2.0 GB");
        downloads.receives(500_000_000);
        assert_eq!(state(10.0), "500.0 MB of 2.0 GB, 50.0 MB/s, 30 s left");
        downloads.loses(100_000_000);
        assert_eq!(state(10.0), "400.0 MB of 2.0 GB, 40.0 MB/s, 40 s left");
        downloads.ends(false);
        assert!(downloads.current().is_none());
    }
}
