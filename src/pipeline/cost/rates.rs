//! How fast a machine is, and what is remembered of that.
//!
//! `rates.json` in the cache's folder has, for each machine (processor, threads, device, precision and version of calipr)
//! and each width of models that was seen there, how much work of each kind was seen, and what it took. Nothing but
//! forecasts depends on it, and it may be removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::super::cache::Cache;
use super::{Kind, Work};
use crate::model::device;
use crate::prune::MethodName;

/// The file in the cache's folder.
const FILE: &str = "rates.json";

/// What rates depend on but for the model: the same machine does the same at the same rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine(String);

impl Machine {
    /// A server that is asked, as far as it says how fast it answers.
    pub fn elsewhere(name: String) -> Self {
        Self(name)
    }

    /// This one, where a device computes in a precision.
    pub fn here(device: &Device, dtype: DType) -> Self {
        let computes = match device::own_name(device) {
            Some(name) => name,
            None => format!("{}, {} threads", processor(), rayon::current_num_threads()),
        };
        Self(format!("{computes}, {}, calipr {}", dtype.as_str(), env!("CARGO_PKG_VERSION")))
    }
}

/// What the processor calls itself, else its kind.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// How much work was seen, and the seconds that it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Seen {
    work: f64,
    seconds: f64,
}

/// What a machine took for work of each kind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rates {
    /// By the name of the kind.
    seen: BTreeMap<String, Seen>,
    /// The most memory that a run held with a model of this width, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Whether models of another width were seen, and none of this.
    #[serde(skip)]
    pub are_of_another_width: bool,
}

/// Machines, and for each the widths of models with what was seen of them.
type Remembered = BTreeMap<String, BTreeMap<usize, Rates>>;

impl Rates {
    /// Adds work that was seen.
    pub fn add(&mut self, kind: Kind, work: f64, seconds: f64) {
        if work > 0.0 && work.is_finite() && seconds > 0.0 && seconds.is_finite() {
            let seen = self.seen.entry(kind.to_string()).or_insert(Seen { work: 0.0, seconds: 0.0 });
            (seen.work, seen.seconds) = (seen.work + work, seen.seconds + seconds);
        }
    }

    /// What work takes, where the pruning is by `method`; None where a kind of it was never seen.
    pub fn seconds(&self, work: Work, method: Option<MethodName>) -> Option<f64> {
        let of =
            |kind: Kind, amount: f64| self.seen.get(&kind.to_string()).map(|seen| seen.seconds / seen.work * amount);
        work.parts(method).try_fold(0.0, |sum, (kind, amount)| Some(sum + of(kind, amount)?))
    }

    /// Seconds for one of a kind; None where it was never seen.
    pub fn each(&self, kind: Kind) -> Option<f64> {
        self.seen.get(&kind.to_string()).map(|seen| seen.seconds / seen.work)
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The faster of two measurements of each kind: whatever else a machine does makes it slower.
    pub fn or_faster(mut self, other: &Self) -> Self {
        for (kind, seen) in &other.seen {
            let own = self.seen.entry(kind.clone()).or_insert(*seen);
            if seen.seconds / seen.work < own.seconds / own.work {
                *own = *seen;
            }
        }
        self
    }

    /// What was seen lately counts in full, and what was seen before as much as that at most: a machine, or the program, may
    /// have become another.
    fn joined(mut self, before: &Self) -> Self {
        for (kind, before) in &before.seen {
            let own = self.seen.entry(kind.clone()).or_insert(Seen { work: 0.0, seconds: 0.0 });
            let share = if own.work > 0.0 { (own.work / before.work).min(1.0) } else { 1.0 };
            (own.work, own.seconds) = (own.work + share * before.work, own.seconds + share * before.seconds);
        }
        self.peak = self.peak.max(before.peak);
        self
    }

    /// What is remembered of a machine and models of a width, else of the width that is nearest by its ratio; of what was
    /// not seen with the one, the other tells.
    pub fn remembered(cache: &Cache, machine: &Machine, width: usize) -> Self {
        let mut widths: Vec<(usize, Self)> =
            read(cache).remove(&machine.0).unwrap_or_default().into_iter().filter(|(width, _)| *width > 0).collect();
        let distance = |other: usize| (other as f64 / width.max(1) as f64).ln().abs();
        widths.sort_by(|(a, _), (b, _)| distance(*a).total_cmp(&distance(*b)));
        let mut found = Self::default();
        for (other, rates) in widths {
            found.are_of_another_width |= found.is_empty() && other != width;
            found.peak = found.peak.or(rates.peak.filter(|_| other == width));
            for (kind, seen) in rates.seen {
                found.seen.entry(kind).or_insert(seen);
            }
        }
        found
    }

    /// Forgets all machines.
    pub fn forget(cache: &Cache) {
        let _ = fs::remove_file(path(cache));
    }

    /// Remembers what was seen on a machine with a model of a width, beside what is remembered.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn remember(self, cache: &Cache, machine: &Machine, width: usize) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut all = read(cache);
        let place = all.entry(machine.0.clone()).or_default().entry(width).or_default();
        *place = self.joined(place);
        fs::create_dir_all(cache.dir())?;
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(cache.dir())?;
        file.write_all(&serde_json::to_vec_pretty(&all)?)?;
        file.persist(path(cache))?;
        Ok(())
    }
}

fn path(cache: &Cache) -> PathBuf {
    cache.dir().join(FILE)
}

/// What the file has; nothing where it cannot be read, or says what cannot be.
fn read(cache: &Cache) -> Remembered {
    let text = fs::read_to_string(path(cache)).unwrap_or_default();
    let mut all: Remembered = serde_json::from_str(&text).unwrap_or_default();
    let is_sound =
        |seen: &Seen| seen.work > 0.0 && seen.work.is_finite() && seen.seconds > 0.0 && seen.seconds.is_finite();
    for rates in all.values_mut().flat_map(BTreeMap::values_mut) {
        rates.seen.retain(|_, seen| is_sound(seen));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(passing: f64, scoring: f64) -> Work {
        Work { passing, scoring, ..Work::default() }
    }

    fn rates(passing: f64, seconds: f64) -> Rates {
        let mut rates = Rates::default();
        rates.add(Kind::Pass, passing, seconds);
        rates
    }

    #[test]
    fn seconds_are_work_at_the_rate_that_was_seen() {
        let mut rates = rates(100.0, 4.0);
        rates.add(Kind::Pass, 100.0, 6.0);
        rates.add(Kind::Score, 10.0, 1.0);
        rates.add(Kind::Score, 0.0, 1.0);
        // 200 operations in 10 s, and 10 in 1 s.
        assert_eq!(rates.seconds(work(50.0, 30.0), None), Some(2.5 + 3.0));
        assert_eq!(rates.seconds(Work { generating: 1.0, ..Work::default() }, None), None);
        assert_eq!(Rates::default().seconds(Work::default(), None), Some(0.0));
    }

    #[test]
    fn what_was_seen_lately_counts_at_least_as_much_as_all_before() {
        let seconds = |rates: Rates| rates.seconds(work(1.0, 0.0), None).unwrap();
        // As much as before, at 0.1 and 0.3 s; a thousandth of it, which yet counts half; and a thousand times as much.
        assert!((seconds(rates(10.0, 1.0).joined(&rates(10.0, 3.0))) - 0.2).abs() < 1e-12);
        assert!((seconds(rates(10.0, 1.0).joined(&rates(1e4, 3e3))) - 0.2).abs() < 1e-12);
        assert!((seconds(rates(1e4, 1e3).joined(&rates(10.0, 3.0))) - 1003.0 / 10010.0).abs() < 1e-12);
        assert!((seconds(rates(10.0, 3.0).or_faster(&rates(2.0, 0.2))) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn rates_are_remembered_by_machine_and_width_and_the_nearest_width_stands_in() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(&dir.path().join("cache"));
        let (here, other) = (Machine("here".into()), Machine("there".into()));
        let seconds = |width| {
            let found = Rates::remembered(&cache, &here, width);
            (found.seconds(work(1.0, 0.0), None), found.are_of_another_width)
        };
        assert_eq!(seconds(512), (None, false));
        rates(10.0, 5.0).remember(&cache, &here, 512).unwrap();
        rates(10.0, 2.0).remember(&cache, &here, 4096).unwrap();
        rates(10.0, 90.0).remember(&cache, &other, 1024).unwrap();
        assert_eq!((seconds(512), seconds(4096)), ((Some(0.5), false), (Some(0.2), false)));
        // 1400 is 2.7 times 512, and a third of 4096.
        assert_eq!((seconds(1400), seconds(1600)), ((Some(0.5), true), (Some(0.2), true)));
        rates(10.0, 1.0).remember(&cache, &here, 512).unwrap();
        assert_eq!(seconds(512), (Some(0.3), false));
        // What was held with one width says nothing of another.
        for peak in [70, 50] {
            Rates { peak: Some(peak), ..rates(10.0, 3.0) }.remember(&cache, &here, 512).unwrap();
        }
        let peak = |width| Rates::remembered(&cache, &here, width).peak;
        assert_eq!((peak(512), peak(4096), peak(600)), (Some(70), None, None));
        fs::write(path(&cache), "{\"here\": {\"512\": {\"seen\": {\"pass\": {\"work\": 0.0, \"seconds\": 1.0}}}}}")
            .unwrap();
        assert_eq!(seconds(512).0, None);
        fs::write(path(&cache), "damaged").unwrap();
        assert_eq!(seconds(512), (None, false));
    }
}
