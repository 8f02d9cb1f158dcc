//! What the cache holds, and making room in it: the least recently used goes first, and never what a running study
//! still needs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Error, Result};

use super::studies::{KnownStudy, STUDIES};
use super::{Cache, Key, Stage};
use crate::digest;
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

/// What became of making room.
#[derive(Debug, Default)]
pub struct Trimmed {
    /// What went, by stage.
    pub gone: Vec<Usage>,
    /// The studies that had used it, the one that ran last first.
    pub studies: Vec<KnownStudy>,
    /// What is left beyond what was to be left, because running studies need it.
    pub beyond: Size,
    /// Why something could not be removed.
    pub refused: Option<Error>,
}

impl Trimmed {
    /// How many entries went.
    pub fn entries(&self) -> usize {
        self.gone.iter().map(|usage| usage.entries).sum()
    }

    /// What they took.
    pub fn size(&self) -> Size {
        Size(self.gone.iter().map(|usage| usage.size.0).sum())
    }

    /// When one of them was last used.
    pub fn used(&self) -> Option<SystemTime> {
        self.gone.iter().filter_map(|usage| usage.used).max()
    }
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
            [STUDIES, digest::MEMORY].into_iter().for_each(|folder| remove_unfinished(&self.dir.join(folder)));
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
        let stages = Stage::ALL.map(|s| usage(s.as_str(), self.stored(s).map(|file| (file.bytes, file.used))));
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
        stages.into_iter().chain([usage("sources", fetched.into_iter())]).collect()
    }

    /// Where fetched models are.
    pub fn sources(&self) -> PathBuf {
        self.dir.join("sources")
    }

    /// What the stages take, without fetched models.
    pub fn stages_size(&self) -> Size {
        Size(Stage::ALL.into_iter().flat_map(|stage| self.stored(stage)).map(|file| file.bytes).sum())
    }

    /// Removes the least recently used entries until what is left of the stages takes at most `to`, but nothing that a
    /// running study needs.
    pub fn trim(&self, to: Size) -> Trimmed {
        let of_stage = |stage| self.stored(stage).map(move |file| (stage, file));
        let mut stored: Vec<(Stage, Stored)> = Stage::ALL.into_iter().flat_map(of_stage).collect();
        let mut left: u64 = stored.iter().map(|(_, file)| file.bytes).sum();
        let mut trimmed = Trimmed::default();
        if left <= to.0 {
            return trimmed;
        }
        let (held, _) = self.held();
        // What a judge was paid for goes last.
        stored.sort_by_key(|(stage, file)| (*stage == Stage::Replies, file.used));
        let mut gone = Vec::new();
        for (stage, file) in stored.iter().filter(|(_, file)| !held.contains(&file.name)) {
            if left <= to.0 {
                break;
            }
            match fs::remove_file(&file.path) {
                Ok(()) => gone.push((*stage, file)),
                // Another study made room for it.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => {
                    let refused = Error::new(e).context(format!("cannot remove {}", file.path.display()));
                    trimmed.refused.get_or_insert(refused);
                    continue;
                }
            }
            left -= file.bytes;
        }
        if trimmed.refused.is_none() {
            trimmed.beyond = Size(left.saturating_sub(to.0));
        }
        if !gone.is_empty() {
            trimmed.studies = self.studies_of(&gone.iter().map(|(_, file)| file.name.as_str()).collect());
        }
        let of_stage = |stage: Stage| gone.iter().filter(move |(of, _)| *of == stage).map(|(_, f)| (f.bytes, f.used));
        let usage = Stage::ALL.map(|stage| usage(stage.as_str(), of_stage(stage)));
        trimmed.gone = usage.into_iter().filter(|usage| usage.entries > 0).collect();
        trimmed
    }
}

/// What files take together.
fn usage(kind: &'static str, files: impl Iterator<Item = (u64, SystemTime)>) -> Usage {
    let start = Usage { kind, entries: 0, size: Size(0), used: None };
    files.fold(start, |sum, (bytes, used)| Usage {
        entries: sum.entries + 1,
        size: Size(sum.size.0 + bytes),
        used: sum.used.max(Some(used)),
        ..sum
    })
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
        assert_eq!(cache.trim(Size(600)).entries(), 0);
        cache.read(keys[0]).unwrap();
        let size = cache.usage().iter().find(|u| u.kind == "blocks").unwrap().size.0;
        let trimmed = cache.trim(Size(size / 2));
        assert_eq!((trimmed.entries(), trimmed.size(), trimmed.beyond), (2, Size(size / 2), Size(0)));
        assert_eq!((trimmed.gone.len(), trimmed.gone[0].kind), (1, "blocks"));
        // The third was used 998 seconds ago.
        assert_eq!(trimmed.used().unwrap().elapsed().unwrap().as_secs(), 998);
        assert_eq!(there(&cache, &keys), [true, false, false, true]);
    }

    #[test]
    fn what_a_running_study_needs_stays() {
        let (_dir, cache, keys) = cache();
        let mut hold = cache.hold().unwrap();
        hold.keep([keys[0], keys[1]]).unwrap();
        hold.release([keys[1]]).unwrap();
        let trimmed = cache.trim(Size(0));
        let size = fs::metadata(cache.path(keys[0])).unwrap().len();
        assert_eq!((trimmed.entries(), trimmed.beyond), (3, Size(size)));
        assert_eq!(there(&cache, &keys), [true, false, false, false]);
        drop(hold);
        assert_eq!(cache.trim(Size(0)).entries(), 1);
    }

    #[test]
    fn it_is_known_whose_entries_went() {
        let (dir, cache, keys) = cache();
        let [first, second] = [("one", [keys[0], keys[1]]), ("two", [keys[1], keys[3]])]
            .map(|(name, keys)| cache.note_study(name, &dir.path().join(name), keys).unwrap());
        let size = cache.stages_size().0;
        let names = |trimmed: Trimmed| trimmed.studies.into_iter().map(|study| study.name).collect::<Vec<_>>();
        assert_eq!(names(cache.trim(Size(size * 3 / 4))), ["one"]);
        let mut both = names(cache.trim(Size(size / 2)));
        both.sort();
        assert_eq!(both, ["one", "two"]);
        assert_eq!(names(cache.trim(Size(size / 4))), Vec::<String>::new(), "nobody noted the third");
        let again = cache.note_study("two", &dir.path().join("two"), [keys[3]]).unwrap();
        assert!(again.is(&second) && !again.is(&first));
        cache.forget_studies();
        assert_eq!(names(cache.trim(Size(0))), Vec::<String>::new());
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
