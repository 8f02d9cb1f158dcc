//! The progress of the cells of one device: a line of the terminal, or, where there is none, lines of the log.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::terminal::{columns_of, is_interrupted};
use crate::pipeline::{Doing, Forecast, Left, Outcome, Status, Watch, resident_bytes};
use crate::size::Size;

/// The progress of one cell after the other; nothing between them.
pub struct Line {
    pub lines: MultiProgress,
    /// None where there are no progress lines.
    pub styles: Option<Styles>,
    pub expected: Expected,
    /// Of the cell that runs.
    bar: Mutex<ProgressBar>,
    cell: Mutex<Current>,
}

/// The cell that runs.
#[derive(Default)]
struct Current {
    number: usize,
    /// Its number, of how many, and its id.
    name: String,
    began: f64,
    rhythm: Rhythm,
}

/// What the study that runs will still take, once it is planned, for all lines.
#[derive(Clone)]
pub struct Expected {
    since: Instant,
    forecast: Arc<Mutex<Option<Forecast>>>,
}

impl Expected {
    pub fn nothing() -> Self {
        Self { since: Instant::now(), forecast: Arc::default() }
    }

    pub fn set(&self, forecast: Forecast) {
        *locked(&self.forecast) = Some(forecast);
    }

    fn now(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    fn tell(&self, change: impl FnOnce(&mut Forecast, f64)) {
        if let Some(forecast) = locked(&self.forecast).as_mut() {
            change(forecast, self.now());
        }
    }

    /// None where nothing was planned.
    fn left(&self, of: impl FnOnce(&Forecast, f64) -> Left) -> Option<Left> {
        locked(&self.forecast).as_ref().map(|forecast| of(forecast, self.now()))
    }
}

/// Nothing that holds these leaves them half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a log gets a line from inside a cell: every half minute, or a tenth of what is counted, whichever is rarer.
#[derive(Default)]
struct Rhythm {
    /// When the last line was, or the cell began, and how much of what was done by then.
    last: f64,
    counted: &'static str,
    done: usize,
}

impl Rhythm {
    const SECONDS: f64 = 30.0;

    fn is_due(&mut self, now: f64, doing: Doing, done: usize, of: usize) -> bool {
        if doing == Doing::Read {
            return false;
        }
        if self.counted != doing.counts() {
            (self.counted, self.done) = (doing.counts(), done);
        }
        let is_due = now - self.last >= Self::SECONDS && done - self.done.min(done) >= of.div_ceil(10);
        if is_due {
            (self.last, self.done) = (now, done);
        }
        is_due
    }
}

/// How progress is drawn: in a line, with a bar or without, or in two where the terminal is too narrow for one.
#[derive(Clone)]
pub struct Styles {
    bar: ProgressStyle,
    one: ProgressStyle,
    two: ProgressStyle,
}

/// Columns of a progress line beside the cell's number and name: 1000/1000, evaluate, 59m, ~23 h 59 min left.
const BESIDE_NAME: usize = 48;

/// Columns of the bar, with a space.
const BAR: usize = 17;

impl Styles {
    pub fn new(expected: &Expected) -> Result<Self> {
        let style = |template: &str| {
            let expected = expected.clone();
            let left = move |_: &ProgressState, f: &mut dyn fmt::Write| {
                if let Some(left) = expected.left(Forecast::left) {
                    let _ = write!(f, "{left} left");
                }
            };
            let style = ProgressStyle::with_template(template).context("the progress line's template")?;
            anyhow::Ok(style.with_key("left", left))
        };
        Ok(Self {
            bar: style("{spinner} {prefix} {bar:16} {pos}/{len} {msg} {elapsed} {left}")?,
            one: style("{spinner} {prefix} {pos}/{len} {msg} {elapsed} {left}")?,
            two: style("{spinner} {prefix}\n  {pos}/{len} {msg} {elapsed} {left}")?,
        })
    }

    /// For a name of so many characters, on a terminal of so many columns.
    fn fitting(&self, name: usize, columns: Option<usize>) -> &ProgressStyle {
        match columns {
            Some(columns) if name + BESIDE_NAME > columns => &self.two,
            Some(columns) if name + BAR + BESIDE_NAME > columns => &self.one,
            _ => &self.bar,
        }
    }
}

impl Line {
    pub fn new(lines: &MultiProgress, styles: Option<&Styles>, expected: &Expected) -> Self {
        Self {
            lines: lines.clone(),
            styles: styles.cloned(),
            expected: expected.clone(),
            bar: Mutex::new(ProgressBar::hidden()),
            cell: Mutex::default(),
        }
    }

    /// A cell, or what comes behind it, begins.
    fn begins(&self, number: usize, name: String) {
        let now = self.expected.now();
        let rhythm = Rhythm { last: now, ..Rhythm::default() };
        *locked(&self.cell) = Current { number, name: name.clone(), began: now, rhythm };
        let Some(styles) = &self.styles else { return tracing::info!("{name}") };
        let style = styles.fitting(name.chars().count(), columns_of(&io::stderr()));
        let bar = self.lines.add(ProgressBar::no_length().with_style(style.clone()));
        tracing::debug!("{name} begins");
        bar.set_prefix(name);
        bar.enable_steady_tick(Duration::from_millis(200));
        *locked(&self.bar) = bar;
    }

    /// What a log says of a cell on its way.
    fn said(&self, cell: &Current, (done, of): (usize, usize), doing: Doing) -> String {
        let memory = resident_bytes().map_or(String::new(), |bytes| format!(", {} of memory", Size(bytes)));
        let left = |left: Left| {
            let study = self.expected.left(Forecast::left).unwrap_or(left);
            format!("; {left} left, {study} of the study")
        };
        let left = self.expected.left(|f, now| f.left_of(cell.number - 1, now)).map_or(String::new(), left);
        let seconds = self.expected.now() - cell.began;
        let (name, counts, doing) = (&cell.name, doing.counts(), doing.as_str());
        format!("{name}: {counts} {done}/{of} {doing}, {seconds:.0} s{memory}{left}")
    }
}

impl Watch for Line {
    fn cell_begins(&self, number: usize, of: usize, id: &str) {
        self.expected.tell(|forecast, now| forecast.begins(number - 1, now));
        self.begins(number, format!("[{number}/{of}] {id}"));
    }

    fn judging_begins(&self, number: usize, of: usize, id: &str, questions: usize) {
        self.expected.tell(|forecast, now| forecast.judging_begins(number - 1, questions, now));
        self.begins(number, format!("[{number}/{of}] {id}: {questions} questions to judges"));
        self.progress(0, questions, Doing::Judge);
    }

    fn judging_ends(&self) {
        let number = locked(&self.cell).number;
        self.expected.tell(|forecast, now| forecast.judging_ends(number.wrapping_sub(1), now));
        locked(&self.bar).finish_and_clear();
    }

    fn progress(&self, done: usize, of: usize, doing: Doing) {
        let mut cell = locked(&self.cell);
        self.expected.tell(|forecast, now| forecast.progress(cell.number.wrapping_sub(1), doing, (done, of), now));
        let bar = locked(&self.bar);
        bar.update(|state| {
            state.set_len(of as u64);
            state.set_pos(done as u64);
        });
        bar.set_message(doing.as_str());
        if self.styles.is_none() && cell.rhythm.is_due(self.expected.now(), doing, done, of) {
            tracing::info!("{}", self.said(&cell, (done, of), doing));
        } else {
            tracing::debug!("{} {done}/{of}: {}", doing.counts(), doing.as_str());
        }
    }

    fn texts_begin(&self, name: &str) {
        self.expected.set(Forecast::of_texts());
        self.cell_begins(1, 1, name);
    }

    fn texts_end(&self) {
        locked(&self.bar).finish_and_clear();
    }

    fn cell_ends(&self, number: usize, of: usize, outcome: &Outcome, reused: bool) {
        let record = &outcome.record;
        if !reused {
            let is_done = record.status == Status::Done;
            self.expected.tell(|forecast, now| forecast.ends(number - 1, is_done, now));
        }
        locked(&self.bar).finish_and_clear();
        let name = format!("[{number}/{of}] {}", record.cell.id());
        // A terminal shows it below.
        let left = self.expected.left(Forecast::left).filter(|left| self.styles.is_none() && *left != Left::NOTHING);
        let left = left.map_or(String::new(), |left| format!("; {left} left of the study"));
        match (&record.status, record.pruned.as_ref().zip(outcome.spent.as_ref())) {
            (Status::Failed(error), _) => tracing::error!("{name} failed: {error}"),
            (Status::Done, _) if reused => tracing::info!("{name}: finished before"),
            (Status::Done, Some((pruned, spent))) => {
                let s = &spent.seconds;
                let mut stages = format!(
                    "calibrate {:.1}, prune {:.1}, forward {:.1}, score {:.1}",
                    s.calibrate, s.prune, s.forward, s.score
                );
                if let Some(rate) = spent.tokens_per_second() {
                    stages += &format!(", generate {:.1}: {rate:.0} tokens/s", s.generate);
                }
                let sparsity = pruned.achieved_sparsity();
                tracing::info!("{name}: sparsity {sparsity:.4}, {:.1} s ({stages}){left}", s.total());
            }
            (Status::Done, None) => {}
        }
    }

    fn interrupted(&self) -> bool {
        is_interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a cell after which a log has a line, where each takes so many seconds.
    fn lines(blocks: usize, seconds: f64) -> Vec<usize> {
        let mut rhythm = Rhythm::default();
        let due = |&k: &usize| {
            rhythm.is_due(k as f64 * seconds, Doing::Prune, k, blocks)
                | rhythm.is_due((k as f64 + 0.9) * seconds, Doing::Evaluate, k, blocks)
        };
        (0..blocks).filter(due).collect()
    }

    #[test]
    fn a_log_gets_few_lines_of_a_cell() {
        assert_eq!(lines(30, 0.4), Vec::<usize>::new());
        assert_eq!(lines(30, 2.0), [15]);
        assert_eq!(lines(32, 8.0), [4, 8, 12, 16, 20, 24, 28]);
        assert_eq!(lines(32, 600.0), [4, 8, 12, 16, 20, 24, 28]);
        assert_eq!(lines(4, 100.0), [1, 2, 3]);
        // Going on in the middle, and then with what is counted otherwise.
        let mut rhythm = Rhythm::default();
        assert!(!rhythm.is_due(40.0, Doing::Read, 19, 30) && !rhythm.is_due(40.0, Doing::Prune, 20, 30));
        assert!(!rhythm.is_due(50.0, Doing::Evaluate, 22, 30) && rhythm.is_due(50.0, Doing::Evaluate, 23, 30));
        assert!(!rhythm.is_due(90.0, Doing::Score, 0, 1) && !rhythm.is_due(100.0, Doing::Generate, 5, 60));
        assert!(rhythm.is_due(100.0, Doing::Generate, 11, 60));
    }

    #[test]
    fn a_progress_line_gives_way_to_its_name() {
        let styles = Styles::new(&Expected::nothing()).unwrap();
        let fitting = |name, columns| {
            let style = styles.fitting(name, columns);
            [&styles.bar, &styles.one, &styles.two].iter().position(|other| std::ptr::eq(*other, style)).unwrap()
        };
        assert_eq!(
            (fitting(80, None), fitting(24, Some(100)), fitting(24, Some(80)), fitting(40, Some(80))),
            (0, 0, 1, 2)
        );
    }
}
