//! Locks between processes: a file that says who holds it, and that a crash lets go of.
//!
//! On one machine the system's file lock tells whether the holder lives, and ends with it. Between machines that
//! share a file system not every one passes such locks on; there the file's time tells, which its holder renews.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::memory;

/// A lock that is held until this is dropped, when the file goes away.
pub struct Lock {
    file: File,
    path: PathBuf,
    /// Dropping it ends the thread that renews the file's time.
    _beat: Sender<()>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
}

/// How often a holder renews its file's time.
const BEAT: Duration = Duration::from_secs(20);

/// A holder on another machine whose file is older than this has crashed.
const SILENCE: Duration = Duration::from_secs(90);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

impl Holder {
    fn this() -> Self {
        Self { pid: std::process::id(), host: host() }
    }

    /// The holder that a lock's file names in its first line.
    fn of(text: &str) -> Option<Self> {
        serde_json::from_str(text.lines().next()?).ok()
    }
}

/// What this machine is called.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).unwrap_or_else(|| "this machine".into())
}

/// What became of an attempt to take a lock.
pub enum Attempt {
    Taken(Lock),
    /// None where the holder has not written its name yet.
    Held(Option<Holder>),
}

impl Lock {
    /// Takes the lock that a file stands for, if nobody has it. What a crash left behind is taken over.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn take(path: &Path) -> Result<Attempt> {
        let cannot = || format!("cannot make the lock {}", path.display());
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let mut file = open.with_context(cannot)?;
            let tells = match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Held(named(&mut file))),
                // A file system without locks.
                Err(TryLockError::Error(_)) => false,
                Ok(()) => true,
            };
            // The last holder may have removed the file between our opening and our locking it.
            if !is_at(&file, path) {
                continue;
            }
            let this = Holder::this();
            if let Some(holder) = Holder::of(&read(&mut file)) {
                // A time that lies ahead is another machine's clock.
                let age =
                    file.metadata().and_then(|m| m.modified()).map_or(SILENCE, |m| m.elapsed().unwrap_or_default());
                // Where the system's lock tells of this machine's processes, whoever let go of it has ended.
                let may_live = holder.host != this.host || !tells;
                if may_live && age < SILENCE {
                    return Ok(Attempt::Held(Some(holder)));
                }
                tracing::info!("{holder} ended without a word; going on from what it left");
            }
            file.set_len(0).with_context(cannot)?;
            file.rewind().with_context(cannot)?;
            writeln!(file, "{}", serde_json::to_string(&this)?).with_context(cannot)?;
            let beat = file.try_clone().and_then(renew).with_context(cannot)?;
            return Ok(Attempt::Taken(Self { file, path: path.to_owned(), _beat: beat }));
        }
    }

    /// Adds lines to the lock's file, for other processes to read.
    pub fn note(&mut self, lines: &str) -> Result<()> {
        self.file.write_all(lines.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever found this process silent for too long may have taken it over.
        let holder = fs::read_to_string(&self.path).ok().and_then(|text| Holder::of(&text));
        if is_at(&self.file, &self.path) && holder == Some(Holder::this()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The holder of a locked file. It writes its name right after it has taken the lock, and is waited for as long.
fn named(file: &mut File) -> Option<Holder> {
    const WAITS: usize = 100;
    const WAIT: Duration = Duration::from_millis(10);
    (0..WAITS).find_map(|wait| {
        if wait > 0 {
            thread::sleep(WAIT);
        }
        Holder::of(&read(file))
    })
}

/// All that is in the file.
fn read(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    text
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().map(id).ok() == path.metadata().map(id).ok()
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Renews a file's time until the sender is dropped.
fn renew(file: File) -> io::Result<Sender<()>> {
    let (sender, receiver) = mpsc::channel();
    memory::ensure_room_for_threads(1, memory::STACK)?;
    thread::Builder::new().spawn(move || {
        while receiver.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            let _ = file.set_modified(SystemTime::now());
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &Path) -> Option<Lock> {
        match Lock::take(path).unwrap() {
            Attempt::Taken(lock) => Some(lock),
            Attempt::Held(_) => None,
        }
    }

    #[test]
    fn a_lock_is_held_by_one_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = taken(&path).unwrap();
        let Attempt::Held(holder) = Lock::take(&path).unwrap() else { panic!("taken twice") };
        assert_eq!(holder, Some(Holder::this()));
        drop(lock);
        assert!(!path.exists());
        assert!(taken(&path).is_some());
    }

    #[test]
    fn a_holder_that_has_not_written_its_name_yet_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.lock().unwrap();
        let writing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            writeln!(file, "{}", serde_json::to_string(&Holder::this()).unwrap()).unwrap();
            file
        });
        let Attempt::Held(holder) = Lock::take(&path).unwrap() else { panic!("taken twice") };
        assert_eq!(holder, Some(Holder::this()));
        drop(writing.join());
    }

    #[test]
    fn what_a_crash_left_is_taken_over_and_what_another_machine_renews_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let write = |holder: Holder| fs::write(&path, serde_json::to_string(&holder).unwrap()).unwrap();
        write(Holder { pid: 1, ..Holder::this() });
        assert!(taken(&path).is_some());
        write(Holder { pid: 1, host: "elsewhere".into() });
        assert!(taken(&path).is_none());
        File::open(&path).unwrap().set_modified(SystemTime::now() - 2 * SILENCE).unwrap();
        assert!(taken(&path).is_some());
        fs::write(&path, "half a na").unwrap();
        assert!(taken(&path).is_some());
    }
}
