//! Claims: who makes what, of all the processes that share a cache, on one machine or many.

mod claimant;
mod protocol;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

pub use claimant::Claimant;
use protocol::{Attempt, Protocol, Rhythm, Shared};
pub use protocol::{Ended, State};

use super::cache::{Cache, Key};
use super::{Watch, stop_if_interrupted};
use crate::clock;
use crate::digest::Digest;
use crate::memory;

/// The claims in a folder, as this process sees them.
pub struct Claims {
    protocol: Arc<Protocol<Folder>>,
    held: Arc<Mutex<BTreeSet<(String, u32)>>>,
    /// Dropping it ends the thread that renews what is held; None where it could not be started.
    beating: OnceLock<Option<Sender<()>>>,
}

/// Something that this process makes, and no other as long as it lives. Dropped, it is left to others.
pub struct Claim {
    claims: Arc<Protocol<Folder>>,
    held: Arc<Mutex<BTreeSet<(String, u32)>>>,
    name: String,
    number: u32,
    is_over: bool,
}

/// What became of an attempt to claim something.
pub enum Taken {
    /// It is this process's; None where nothing can be claimed in this cache.
    Mine(Option<Claim>),
    /// Another has it; None where it cannot be seen yet who.
    Held(Option<Claimant>),
    /// Another has made it, which may not be seen here yet; with what it said.
    Done(Value),
    /// Another has failed, and why.
    Failed(String),
}

/// Clocks may differ by much less.
const OLD: Duration = Duration::from_secs(7 * 86_400);

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the claims in {}", self.protocol.shared.dir.display())
    }
}

impl Claims {
    /// Those in a folder, which is made when something is first claimed.
    pub fn in_dir(dir: &Path) -> Self {
        let shared = Folder { dir: dir.to_owned(), since: Instant::now() };
        let protocol = Arc::new(Protocol::new(shared, Claimant::this(), Rhythm::default()));
        Self { protocol, held: Arc::default(), beating: OnceLock::new() }
    }

    /// Claims what has this digest, which the caller has looked for and not found; what failed where it is to be `retried`.
    pub fn take(&self, what: Digest, retried: bool) -> Taken {
        let name = what.to_string();
        match self.protocol.take(&name, retried) {
            Ok(Attempt::Mine(number)) => Taken::Mine(Some(self.hold(name, number))),
            Ok(Attempt::Held(by)) => Taken::Held(by),
            Ok(Attempt::Done(note)) => Taken::Done(note),
            Ok(Attempt::Failed(why)) => Taken::Failed(why),
            Err(error) => {
                tracing::debug!("nothing is claimed in the cache: {error}");
                Taken::Mine(None)
            }
        }
    }

    /// The claim on what has this digest, as it is seen here; None where nobody has claimed it.
    pub fn state(&self, what: Digest) -> Option<State> {
        self.protocol.state(&what.to_string()).ok().flatten()
    }

    fn hold(&self, name: String, number: u32) -> Claim {
        let _ = self.beating.get_or_init(|| self.beat());
        locked(&self.held).insert((name.clone(), number));
        Claim { claims: self.protocol.clone(), held: self.held.clone(), name, number, is_over: false }
    }

    /// Starts to renew what is held. Without that, others take it over in time, and make it twice.
    fn beat(&self) -> Option<Sender<()>> {
        let (sender, receiver) = mpsc::channel();
        let (protocol, held) = (self.protocol.clone(), self.held.clone());
        let beat = move || {
            while receiver.recv_timeout(protocol.rhythm.beat) == Err(RecvTimeoutError::Timeout) {
                // What is over by now is not to be made longer.
                let held = locked(&held);
                for (name, number) in held.iter() {
                    let _ = protocol.beat(name, *number);
                }
            }
        };
        let started = memory::ensure_room_for_threads(1, memory::STACK)
            .and_then(|()| thread::Builder::new().stack_size(memory::STACK).spawn(beat));
        started.inspect_err(|error| tracing::debug!("claims are not renewed: {error}")).ok().map(|_| sender)
    }

    /// Forgets what nobody has touched for so long that whoever made it is surely gone.
    pub fn forget_old(&self) {
        for entry in fs::read_dir(&self.protocol.shared.dir).into_iter().flatten().flatten() {
            let touched = entry.metadata().and_then(|metadata| metadata.modified());
            if touched.is_ok_and(|touched| touched.elapsed().unwrap_or_default() > OLD) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Forgets the claims on these, which are made now.
    pub fn forget(&self, made: &HashSet<Digest>) {
        for entry in fs::read_dir(&self.protocol.shared.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::parsed(name.split_once('.')?.0));
            if digest.is_some_and(|digest| made.contains(&digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Claim {
    /// Says how it ended.
    pub fn end(mut self, ended: &Ended) {
        self.over(ended);
    }

    fn over(&mut self, ended: &Ended) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        locked(&self.held).remove(&(self.name.clone(), self.number));
        let said = self.claims.end(&self.name, self.number, ended);
        let _ = said.inspect_err(|error| tracing::debug!("how a claim ended is not said: {error}"));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.over(&Ended::Left);
    }
}

/// Says that something claimed is made, with what is to be said of it.
pub fn done(claim: Option<Claim>, note: Value) {
    claim.into_iter().for_each(|claim| claim.end(&Ended::Done { note: note.clone() }));
}

/// Nothing that holds it leaves it half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pauses between two looks at what another makes: short first, for what takes a moment.
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Self::SHORTEST)
    }
}

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(500);

    /// Waits a moment.
    ///
    /// # Errors
    /// Where the user wants an end.
    pub fn wait(&mut self, watch: &dyn Watch) -> Result<()> {
        stop_if_interrupted(watch)?;
        thread::sleep(self.0);
        self.0 = (2 * self.0).min(Self::LONGEST);
        stop_if_interrupted(watch)
    }
}

impl Cache {
    /// What lies under a key: found, or made by whoever of all that share the cache comes first.
    ///
    /// # Errors
    /// Where making it fails here, or the user wants an end while another makes it.
    pub fn once<T>(
        &self,
        key: Key,
        watch: &dyn Watch,
        found: impl Fn() -> Result<Option<T>>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut pause = Pause::default();
        loop {
            if let Some(found) = found()? {
                return Ok(found);
            }
            let Taken::Mine(claim) = self.claims().take(key.digest(), true) else {
                pause.wait(watch)?;
                continue;
            };
            // Whoever had it may have made it between the two looks.
            let made = match found()? {
                Some(found) => found,
                None => make()?,
            };
            done(claim, Value::Null);
            return Ok(made);
        }
    }
}

impl Cache {
    /// Has all made that lies under these keys, each by whoever of all that share the cache comes first: what others are at is
    /// left to them, and waited for at the end.
    ///
    /// # Errors
    /// As of [`Cache::once`].
    pub fn each_once(&self, keys: &[Key], watch: &dyn Watch, mut make: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let mut pause = Pause::default();
        loop {
            let missing: Vec<usize> = (0..keys.len()).filter(|&i| !self.contains(keys[i])).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let mut is_idle = true;
            for i in missing {
                let Taken::Mine(claim) = self.claims().take(keys[i].digest(), true) else { continue };
                if !self.contains(keys[i]) {
                    make(i)?;
                    is_idle = false;
                }
                done(claim, Value::Null);
            }
            if is_idle {
                pause.wait(watch)?;
            }
        }
    }
}

/// A folder of a file system that machines may share.
struct Folder {
    dir: PathBuf,
    since: Instant,
}

impl Folder {
    /// A file of this content under a name of its own, then made known under `name`, where nothing has it: a link is made by the
    /// server, whole. A reply that was lost on the way is found out by the number of links.
    fn link(&self, name: &str, content: &str) -> io::Result<bool> {
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(content.as_bytes())?;
        let linked = fs::hard_link(file.path(), self.dir.join(name));
        #[cfg(unix)]
        if linked.is_err() {
            use std::os::unix::fs::MetadataExt;
            if fs::metadata(file.path()).is_ok_and(|metadata| metadata.nlink() > 1) {
                return Ok(true);
            }
        }
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same where the file system has no links.
    fn create_new(&self, name: &str, content: &str) -> io::Result<bool> {
        match OpenOptions::new().write(true).create_new(true).open(self.dir.join(name)) {
            Ok(mut file) => file.write_all(content.as_bytes()).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Shared for Folder {
    fn create(&self, name: &str, content: &str) -> io::Result<bool> {
        match self.link(name, content) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir)?;
                self.link(name, content).or_else(|_| self.create_new(name, content))
            }
            Err(_) => self.create_new(name, content),
            linked => linked,
        }
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        // Opening it is what makes a network file system ask the server.
        match File::open(self.dir.join(name)).and_then(io::read_to_string) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&self, name: &str, text: &str) -> io::Result<()> {
        OpenOptions::new().append(true).open(self.dir.join(name))?.write_all(text.as_bytes())
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    fn date(&self) -> u64 {
        clock::now().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine(taken: Taken) -> Claim {
        match taken {
            Taken::Mine(Some(claim)) => claim,
            _ => panic!("it is not this process's"),
        }
    }

    #[test]
    fn what_is_claimed_is_one_s_and_what_is_left_another_s() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [(); 2].map(|()| Claims::in_dir(&dir.path().join("claims")));
        let what = Digest::of(&1);
        let claim = mine(a.take(what, false));
        for other in [&a, &b] {
            assert!(matches!(other.take(what, false), Taken::Held(Some(by)) if by.pid == std::process::id()));
        }
        drop(claim);
        let claim = mine(b.take(what, false));
        claim.end(&Ended::Failed { why: "too large".into() });
        assert!(matches!(a.take(what, false), Taken::Failed(why) if why == "too large"));
        let claim = mine(a.take(what, true));
        claim.end(&Ended::Done { note: Value::from(7) });
        assert_eq!(b.state(what).unwrap().ended, Some(Ended::Done { note: Value::from(7) }));
        // Of this machine, whose files are seen at once: what is done and not there has gone, and is made again.
        mine(b.take(what, false));
        let (folder, files) = (dir.path().join("claims"), || fs::read_dir(dir.path().join("claims")).unwrap());
        a.forget_old();
        assert!(files().count() > 1);
        a.forget(&HashSet::from([what]));
        assert_eq!(files().count(), 0);
        mine(b.take(what, false)).end(&Ended::Left);
        for file in files() {
            let long_ago = std::time::SystemTime::now() - 2 * OLD;
            File::open(folder.join(file.unwrap().path())).unwrap().set_modified(long_ago).unwrap();
        }
        a.forget_old();
        assert_eq!(files().count(), 0);
    }

    #[test]
    fn a_claim_says_since_when_it_is_held_and_not_since_when_its_process_runs() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::in_dir(dir.path());
        let since = |what| claims.state(what).unwrap().by.unwrap().since;
        let [first, second] = [Digest::of(&1), Digest::of(&2)];
        let _first = mine(claims.take(first, false));
        thread::sleep(Duration::from_millis(1100));
        let _second = mine(claims.take(second, false));
        assert!(since(second) > since(first), "{} {}", since(first), since(second));
    }

    #[test]
    fn what_a_killed_process_of_this_machine_had_is_free_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::in_dir(dir.path());
        let what = Digest::of(&1);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = Claimant { pid: child.id(), ..Claimant::this() };
        fs::write(
            dir.path().join(protocol::file(&what.to_string(), 1)),
            format!("{}\n..", serde_json::to_string(&dead).unwrap()),
        )
        .unwrap();
        if cfg!(target_os = "linux") {
            mine(claims.take(what, false));
        }
    }

    #[test]
    fn a_cache_in_which_nothing_can_be_claimed_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Claims::in_dir(&file.join("claims")).take(Digest::of(&1), false), Taken::Mine(None)));
    }
}
