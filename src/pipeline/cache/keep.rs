//! What the cache holds, and making room in it: the least recently used goes first, and never what a running study
//! still needs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;

use super::{Cache, Key, Stage};
use crate::lock::{Attempt, Lock};
use crate::size::Size;

/// The folder of running studies, each with a lock that lists what it needs.
const RUNNING: &str = "running";

/// The file that is locked while a run begins.
const GATE: &str = "running.lock";

/// Keeps entries from being trimmed while it lives.
pub struct Hold {
    lock: Lock,
}

/// What one kind of entries takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub kind: &'static str,
    pub entries: usize,
    pub size: Size,
    /// When one was last used.
    pub used: Option<SystemTime>,
}

/// One file of the cache.
struct Stored {
    /// `stage/digest`, as holds list it.
    name: String,
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Hold {
    /// Keeps these entries, whether they are there yet or not.
    pub fn keep(&mut self, keys: impl IntoIterator<Item = Key>) -> Result<()> {
        self.lock.note(&keys.into_iter().map(|key| format!("+{}\n", key.name())).collect::<String>())
    }

    /// These entries may go.
    pub fn release(&mut self, keys: impl IntoIterator<Item = Key>) -> Result<()> {
        self.lock.note(&keys.into_iter().map(|key| format!("-{}\n", key.name())).collect::<String>())
    }
}

impl Cache {
    /// A hold for this process, which as yet keeps nothing. It comes before anything is written: what crashed runs left
    /// half-written is removed where no other run is at work.
    pub fn hold(&self) -> Result<Hold> {
        let folder = self.dir.join(RUNNING);
        fs::create_dir_all(&folder)?;
        // One at a time, so that no run begins between another's look around and its sweeping up. Where the file system
        // has no locks, this is as good as it gets.
        let gate = File::create(self.dir.join(GATE))?;
        let _ = gate.lock();
        if self.held().1 == 0 {
            remove_unfinished(&self.dir);
            Stage::ALL.into_iter().for_each(|stage| remove_unfinished(&self.dir.join(stage.as_str())));
        }
        loop {
            // A name of its own for each, also on a file system that several machines share. Whoever looks for holds
            // may have it for a moment.
            let (_, path) = tempfile::Builder::new().prefix("study-").tempfile_in(&folder)?.keep()?;
            if let Attempt::Taken(lock) = Lock::take(&path)? {
                return Ok(Hold { lock });
            }
        }
    }

    /// What running studies keep, and how many studies these are. The holds of those that crashed are removed.
    fn held(&self) -> (HashSet<String>, usize) {
        let (mut held, mut running) = (HashSet::new(), 0);
        for file in fs::read_dir(self.dir.join(RUNNING)).into_iter().flatten().flatten() {
            // Taking a lock that nobody has and dropping it removes its file. What cannot be tried may be another user's.
            if matches!(Lock::take(&file.path()), Ok(Attempt::Taken(_))) {
                continue;
            }
            running += 1;
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let mut own = HashSet::new();
            for line in text.lines() {
                match line.split_at_checked(1) {
                    Some(("+", name)) => own.insert(name.to_owned()),
                    Some(("-", name)) => own.remove(name),
                    _ => continue,
                };
            }
            held.extend(own);
        }
        (held, running)
    }

    fn stored(&self, stage: Stage) -> impl Iterator<Item = Stored> {
        let files = fs::read_dir(self.dir.join(stage.as_str())).into_iter().flatten().flatten();
        files.filter_map(move |file| {
            let metadata = file.metadata().ok().filter(|m| m.is_file())?;
            let name = file.file_name().into_string().ok().filter(|name| !name.starts_with(crate::UNFINISHED))?;
            let name = format!("{}/{name}", stage.as_str());
            Some(Stored { name, path: file.path(), bytes: metadata.len(), used: metadata.modified().ok()? })
        })
    }

    /// What each stage takes, and the fetched files under `sources`.
    pub fn usage(&self) -> Vec<Usage> {
        let usage = |kind, files: &mut dyn Iterator<Item = (u64, SystemTime)>| {
            let start = Usage { kind, entries: 0, size: Size(0), used: None };
            files.fold(start, |sum, (bytes, used)| Usage {
                entries: sum.entries + 1,
                size: Size(sum.size.0 + bytes),
                used: sum.used.max(Some(used)),
                ..sum
            })
        };
        let stages = Stage::ALL.map(|s| usage(s.as_str(), &mut self.stored(s).map(|file| (file.bytes, file.used))));
        let mut fetched = Vec::new();
        let mut folders = vec![self.sources()];
        while let Some(folder) = folders.pop() {
            for file in fs::read_dir(folder).into_iter().flatten().flatten() {
                match file.metadata() {
                    Ok(m) if m.is_dir() => folders.push(file.path()),
                    Ok(m) => fetched.push((m.len(), m.modified().unwrap_or(SystemTime::UNIX_EPOCH))),
                    Err(_) => {}
                }
            }
        }
        stages.into_iter().chain([usage("sources", &mut fetched.into_iter())]).collect()
    }

    /// Where fetched models are.
    pub fn sources(&self) -> PathBuf {
        self.dir.join("sources")
    }

    /// Removes the least recently used entries until what is left of the stages takes at most `to`, but nothing that a
    /// running study needs; how many entries went, and their size.
    pub fn trim(&self, to: Size) -> (usize, Size) {
        let mut stored: Vec<Stored> = Stage::ALL.into_iter().flat_map(|stage| self.stored(stage)).collect();
        let mut left: u64 = stored.iter().map(|file| file.bytes).sum();
        if left <= to.0 {
            return (0, Size(0));
        }
        let (held, _) = self.held();
        stored.sort_by_key(|file| file.used);
        let (mut entries, mut bytes) = (0, 0);
        for file in stored.iter().filter(|file| !held.contains(&file.name)) {
            if left <= to.0 {
                break;
            }
            if fs::remove_file(&file.path).is_ok() {
                (entries, bytes, left) = (entries + 1, bytes + file.bytes, left - file.bytes);
            }
        }
        (entries, Size(bytes))
    }
}

/// Removes what a crash left under temporary names.
pub fn remove_unfinished(folder: &Path) {
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_name().to_str().is_some_and(|name| name.starts_with(crate::UNFINISHED)) {
            let _ = fs::remove_file(file.path()).or_else(|_| fs::remove_dir_all(file.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A cache of four entries of like size, the first the least recently used.
    fn cache() -> (tempfile::TempDir, Cache, Vec<Key>) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let keys: Vec<Key> = (0..4).map(|i| Stage::Block.key(&i)).collect();
        for (i, &key) in keys.iter().enumerate() {
            cache.write_json(key, &"x".repeat(100)).unwrap();
            let used = SystemTime::now() - Duration::from_secs(1000 - i as u64);
            fs::File::open(cache.path(key)).unwrap().set_modified(used).unwrap();
        }
        (dir, cache, keys)
    }

    fn there(cache: &Cache, keys: &[Key]) -> Vec<bool> {
        keys.iter().map(|&key| cache.contains(key)).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_reading_is_using() {
        let (_dir, cache, keys) = cache();
        assert_eq!(cache.trim(Size(600)).0, 0);
        cache.read(keys[0]).unwrap();
        let size = cache.usage().iter().find(|u| u.kind == "blocks").unwrap().size.0;
        assert_eq!(cache.trim(Size(size / 2)), (2, Size(size / 2)));
        assert_eq!(there(&cache, &keys), [true, false, false, true]);
    }

    #[test]
    fn what_a_running_study_needs_stays() {
        let (_dir, cache, keys) = cache();
        let mut hold = cache.hold().unwrap();
        hold.keep([keys[0], keys[1]]).unwrap();
        hold.release([keys[1]]).unwrap();
        assert_eq!(cache.trim(Size(0)).0, 3);
        assert_eq!(there(&cache, &keys), [true, false, false, false]);
        drop(hold);
        assert_eq!(cache.trim(Size(0)).0, 1);
    }

    #[test]
    fn what_a_crash_left_half_written_goes_when_no_study_runs() {
        let (_dir, cache, keys) = cache();
        let folder = cache.path(keys[0]).parent().unwrap().to_owned();
        let left = folder.join(format!("{}abc", crate::UNFINISHED));
        fs::write(&left, "half").unwrap();
        let first = cache.hold().unwrap();
        assert!(!left.exists());
        fs::write(&left, "half").unwrap();
        let second = cache.hold().unwrap();
        assert!(left.exists(), "it may be the other study's");
        drop((first, second));
        assert!(cache.dir.join(RUNNING).read_dir().unwrap().next().is_none());
    }
}
