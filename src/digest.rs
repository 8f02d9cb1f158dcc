//! Content digests: what a result depends on, as 32 bytes of BLAKE3.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

/// The folder of the cache in which digests of large files are remembered.
pub const MEMORY: &str = "digests";

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Of a value, through its JSON. Equal values of one type have equal digests.
    pub fn of(value: &impl Serialize) -> Self {
        Self::of_bytes(&serde_json::to_vec(value).expect("keys are plain data, which JSON can hold"))
    }

    /// Of its digits, as it is displayed; None of any other text.
    pub fn parsed(text: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(text).ok()?;
        (hash.to_hex().as_str() == text).then_some(Self(*hash.as_bytes()))
    }

    /// Of a file's content.
    pub fn of_file(path: &Path) -> Result<Self> {
        // Read, not mapped: pages of a mapping would count as this process's memory.
        let hash = || -> io::Result<blake3::Hash> {
            let (mut file, mut hasher) = (fs::File::open(path)?, blake3::Hasher::new());
            let mut buffer = vec![0; 1 << 23];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finalize()),
                    count => hasher.update_rayon(&buffer[..count]),
                };
            }
        };
        Ok(Self(*hash().with_context(|| format!("cannot read {}", path.display()))?.as_bytes()))
    }

    /// As [`Digest::of_file`], of a file that may be large: what was found is remembered in the folder `memory`, and
    /// holds as long as the file's size, times and inode are the same.
    pub fn of_large_file(path: &Path, memory: &Path) -> Result<Self> {
        let stamp = Stamp::of(path).with_context(|| format!("cannot read {}", path.display()))?;
        let place = memory.join(Self::of(&stamp).to_string());
        if let Ok(noted) = fs::read_to_string(&place)
            && let Ok(hash) = blake3::Hash::from_hex(noted)
        {
            return Ok(Self(*hash.as_bytes()));
        }
        let digest = Self::of_file(path)?;
        if stamp.is_settled() && Stamp::of(path).is_ok_and(|after| after == stamp) {
            // Where it cannot be remembered, it is computed again.
            let _ = write_whole(&place, &digest.to_string());
        }
        Ok(digest)
    }

    /// Of each of several files, which may be large, with its name. The digest of the list is one of all of them.
    pub fn of_large_files(paths: &[PathBuf], memory: &Path) -> Result<Vec<(String, Self)>> {
        let of_file = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, Self::of_large_file(path, memory)?))
        };
        paths.iter().map(of_file).collect()
    }
}

/// Checks what has this digest, in the way that `what` names, unless that was done before: like digests it is noted in
/// the folder `memory`, which may be lost.
pub fn check_once(memory: &Path, what: &str, digest: Digest, check: impl FnOnce() -> Result<()>) -> Result<()> {
    let note = memory.join(format!("{what}-{digest}"));
    if !note.is_file() {
        check()?;
        let _ = write_whole(&note, "");
    }
    Ok(())
}

/// What of a file changes when its content does.
#[derive(PartialEq, Serialize)]
struct Stamp {
    #[serde(serialize_with = "path_as_it_is")]
    path: PathBuf,
    size: u64,
    modified: Duration,
    /// The time of the last change of content or status, and the inode, where there are such.
    changed: (i64, i64, u64),
}

/// A path as text; of one that is not UTF-8 its bytes, which JSON has no text for.
fn path_as_it_is<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => serializer.collect_seq(path.as_os_str().as_encoded_bytes()),
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let about = fs::metadata(path)?;
        let modified = about.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        #[cfg(unix)]
        let changed = {
            use std::os::unix::fs::MetadataExt;
            (about.ctime(), about.ctime_nsec(), about.ino())
        };
        #[cfg(not(unix))]
        let changed = (0, 0, 0);
        Ok(Self { path: path.canonicalize()?, size: about.len(), modified, changed })
    }

    /// Whether a change from now on would show: clocks of file systems may be coarse.
    fn is_settled(&self) -> bool {
        let now = crate::clock::now();
        now.saturating_sub(self.modified) > Duration::from_secs(2)
    }
}

/// Writes a file that is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_files_digest_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = (folder.path().join("model"), folder.path().join("digests"));
        let of = || Digest::of_large_file(&path, &memory).unwrap();
        fs::write(&path, "one").unwrap();
        assert_eq!(of(), Digest::of_bytes(b"one"));
        assert!(!memory.exists(), "a file that was just written may change within its clock's tick");

        let settle = |seconds: u64| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            fs::File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        settle(60);
        assert_eq!((of(), of()), (Digest::of_bytes(b"one"), Digest::of_bytes(b"one")));
        let noted = fs::read_dir(&memory).unwrap().next().unwrap().unwrap().path();
        fs::write(&noted, Digest::of_bytes(b"noted").to_string()).unwrap();
        assert_eq!(of(), Digest::of_bytes(b"noted"), "it was remembered");
        fs::write(&path, "two").unwrap();
        settle(50);
        assert_eq!(of(), Digest::of_bytes(b"two"));
    }

    #[test]
    fn what_was_found_good_once_is_not_checked_again() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join("digests");
        let check = |what: &str, good: bool| {
            let mut asked = false;
            let found = check_once(&memory, what, Digest::of_bytes(b"model"), || {
                asked = true;
                anyhow::ensure!(good, "bad");
                Ok(())
            });
            (asked, found.is_ok())
        };
        assert_eq!(check("finite", false), (true, false));
        assert_eq!(check("finite", true), (true, true));
        assert_eq!(check("finite", false), (false, true));
        assert_eq!(check("other", true), (true, true));
    }

    #[test]
    fn a_digest_is_blake3_in_hex() {
        // From the BLAKE3 paper's test vectors: the empty input.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of_bytes(b"").to_string(), empty);
    }
}
