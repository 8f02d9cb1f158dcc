//! The stage cache: files named by the digest of all that they depend on.
//!
//! An entry is written under a temporary name, synced and renamed, so that it is whole or absent; it
//! ends in the digest of its content, which is checked when it is read. A damaged entry is dropped
//! and made again.

mod keep;
mod limit;
mod present;
mod studies;
mod tensors;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use memmap2::Mmap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

pub use keep::{Hold, Trimmed, Usage, remove_unfinished};
pub use limit::{Limit, LimitBy};
pub use present::Present;
pub use studies::KnownStudy;

use super::claims::Claims;
use crate::digest::Digest;
use crate::source::expanded;

/// A kind of cached output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Token windows of a calibration set or a suite.
    Windows,
    /// A text that the dense model wrote for a calibration.
    Texts,
    /// The dense model's losses on windows that a calibration chooses from.
    Losses,
    /// Prompts of a suite.
    Prompts,
    /// The dense model's last hidden states on a suite, where it is scored.
    Teacher,
    /// What pruning a cell came to: its layers and times.
    Pruned,
    /// What methods want to know of the inputs of a block's linears, where the dense model feeds them: the same for
    /// every cell of a calibration.
    Statistic,
    /// A pruned block of a cell.
    Block,
    /// Which weights are left of a pruned block, or of a sample of them.
    Mask,
    /// How far a cell has come that is not finished: hidden states between two blocks.
    Walk,
    /// The output errors of a cell's pruned weights on tokens of a suite.
    Errors,
    /// A cell's scores on a suite, sample by sample.
    Scores,
    /// What a cell answers to the prompts of a suite.
    Answers,
    /// What a judge says of an answer.
    Replies,
}

impl Stage {
    pub const ALL: [Self; 14] = [
        Self::Windows,
        Self::Texts,
        Self::Losses,
        Self::Prompts,
        Self::Teacher,
        Self::Pruned,
        Self::Statistic,
        Self::Block,
        Self::Mask,
        Self::Walk,
        Self::Errors,
        Self::Scores,
        Self::Answers,
        Self::Replies,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Texts => "texts",
            Self::Losses => "losses",
            Self::Prompts => "prompts",
            Self::Teacher => "teacher",
            Self::Pruned => "pruned",
            Self::Statistic => "statistics",
            Self::Block => "blocks",
            Self::Mask => "masks",
            Self::Walk => "walks",
            Self::Errors => "errors",
            Self::Scores => "scores",
            Self::Answers => "answers",
            Self::Replies => "replies",
        }
    }

    /// The version of the code that makes it; raised when its output changes, so that old entries
    /// are not taken for new ones.
    fn version(self) -> u32 {
        match self {
            Self::Windows => 4,
            Self::Texts => 1,
            Self::Losses => 2,
            Self::Prompts => 5,
            Self::Teacher => 5,
            Self::Pruned => 5,
            Self::Statistic => 4,
            Self::Block => 2,
            Self::Mask => 1,
            Self::Walk => 3,
            Self::Errors => 1,
            Self::Scores => 6,
            Self::Answers => 5,
            Self::Replies => 1,
        }
    }

    /// Whether an entry has to outlast a power cut. What is one of many is not worth waiting for the disk: torn, it is
    /// found out when it is read, and made again.
    fn is_synced(self) -> bool {
        !matches!(self, Self::Texts | Self::Statistic | Self::Block | Self::Walk)
    }

    /// The key of an output that depends on `on`.
    pub fn key(self, on: &impl Serialize) -> Key {
        Key { stage: self, digest: Digest::of(&(self.as_str(), self.version(), on)) }
    }
}

/// Names one cached output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    stage: Stage,
    digest: Digest,
}

impl Key {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its place below the cache's folder.
    fn name(&self) -> String {
        format!("{}/{}", self.stage.as_str(), self.digest)
    }
}

/// An entry could not be written: no fault of the cell that it belongs to, and no cell after it would fare better.
#[derive(Debug)]
pub struct Unwritable(PathBuf);

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "cannot write the cache entry {}", self.0.display())
    }
}

/// Bytes of the digest at an entry's end.
const TRAILER: usize = 32;

/// The folder of claims.
const CLAIMS: &str = "claims";

/// A folder of entries.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
    claims: Arc<Claims>,
}

/// An entry's content, memory-mapped.
pub struct Entry {
    map: Mmap,
}

impl std::ops::Deref for Entry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.map.len() - TRAILER]
    }
}

impl Cache {
    /// The cache in a folder, which is made when something is first written.
    pub fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), claims: Arc::new(Claims::in_dir(&dir.join(CLAIMS))) }
    }

    /// The default place: `calipr` in the user's cache folder.
    pub fn default_dir() -> PathBuf {
        // Of a path that is not absolute the specification says that it is to be ignored.
        let named = std::env::var_os("XDG_CACHE_HOME").map(|path| expanded(&path)).filter(|path| path.is_absolute());
        let base =
            named.or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache")));
        base.unwrap_or_else(std::env::temp_dir).join("calipr")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who makes what of it.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    fn path(&self, key: Key) -> PathBuf {
        self.dir.join(key.name())
    }

    /// Whether there is an entry; its content is not looked at.
    pub fn contains(&self, key: Key) -> bool {
        self.path(key).is_file()
    }

    /// The content of an entry, if there is one and it is whole.
    pub fn read(&self, key: Key) -> Option<Entry> {
        let path = self.path(key);
        if !path.is_file() {
            return None; // not even opened: it may be a pipe
        }
        let file = File::open(&path).ok()?;
        // SAFETY: entries are never changed, only made and removed whole; a removed file stays mapped.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let whole = map.len() >= TRAILER && {
            let (content, trailer) = map.split_at(map.len() - TRAILER);
            blake3::Hasher::new().update_rayon(content).finalize().as_bytes() == trailer
        };
        if !whole {
            tracing::warn!("dropping the damaged cache entry {}", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        // What was used last is trimmed last.
        let _ = file.set_modified(SystemTime::now());
        Some(Entry { map })
    }

    /// A JSON entry.
    pub fn read_json<T: DeserializeOwned>(&self, key: Key) -> Option<T> {
        serde_json::from_slice(&self.read(key)?).ok()
    }

    /// Writes an entry; `content` writes what is in it.
    ///
    /// # Errors
    /// [`Unwritable`], and why.
    fn write(&self, key: Key, content: impl FnOnce(&mut BufWriter<Hashed>) -> Result<()>) -> Result<()> {
        let path = self.path(key);
        let write = || -> Result<()> {
            let folder = path.parent().expect("an entry lies in its stage's folder");
            fs::create_dir_all(folder)?;
            let file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
            let mut out = BufWriter::with_capacity(1 << 16, Hashed { file, hasher: blake3::Hasher::new() });
            content(&mut out)?;
            let Hashed { mut file, hasher } = out.into_inner().map_err(|e| e.into_error())?;
            file.write_all(hasher.finalize().as_bytes())?;
            if key.stage.is_synced() {
                file.as_file().sync_all()?;
            }
            file.persist(&path)?;
            Ok(())
        };
        write().context(Unwritable(path))
    }

    /// Writes a JSON entry.
    pub fn write_json(&self, key: Key, value: &impl Serialize) -> Result<()> {
        self.write(key, |out| Ok(out.write_all(&serde_json::to_vec(value)?)?))
    }

    /// Writes a file for people beside entries, under a key's name with this ending; where it is in the cache.
    ///
    /// # Errors
    /// [`Unwritable`], and why.
    pub fn write_beside(&self, key: Key, ending: &str, content: &[u8]) -> Result<String> {
        let name = format!("{}.{ending}", key.name());
        let path = self.dir.join(&name);
        let write = || -> Result<()> {
            let folder = path.parent().expect("it lies in its stage's folder");
            fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
            file.write_all(content)?;
            file.persist(&path)?;
            Ok(())
        };
        write().context(Unwritable(path.clone()))?;
        Ok(name)
    }

    /// Removes an entry, where there is one.
    pub fn remove(&self, key: Key) {
        let _ = fs::remove_file(self.path(key));
    }
}

/// An entry on its way to the disk.
struct Hashed {
    file: NamedTempFile,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update_rayon(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let key = Stage::Windows.key(&"a");
        assert!(cache.read(key).is_none());
        cache.write(key, |out| Ok(out.write_all(b"some ").and(out.write_all(b"bytes"))?)).unwrap();
        assert_eq!(&cache.read(key).unwrap()[..], b"some bytes");
        assert!(!cache.contains(Stage::Windows.key(&"b")));
        assert!(!cache.contains(Stage::Scores.key(&"a")));
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let key = Stage::Scores.key(&1);
        cache.write(key, |out| Ok(out.write_all(b"content")?)).unwrap();
        let path = cache.path(key);
        let whole = fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(cache.read(key).is_none(), "byte {i}");
            assert!(!cache.contains(key));
            fs::write(&path, &whole[..i]).unwrap();
            assert!(cache.read(key).is_none(), "cut at {i}");
        }
    }
}
