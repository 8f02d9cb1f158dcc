//! Which studies used what is in the cache, so that it can be said whose entries make room.
//!
//! A study is a file of its own under a digest of its name and its folder of results: what it is called, and then the
//! entries that it is made of, a line each. The file's time is when it last ran. Nothing but what is said depends on it.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::{Cache, Key};
use crate::digest::Digest;

/// The folder of these files.
pub(super) const STUDIES: &str = "studies";

/// A study of whose entries none is left is forgotten after so long.
const FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);

/// A study that ran with this cache.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownStudy {
    pub name: String,
    /// When it last ran.
    pub ran: SystemTime,
    /// Its file.
    path: PathBuf,
}

impl KnownStudy {
    /// Whether it is the same study, whenever it ran.
    pub fn is(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Cache {
    /// Notes that a study runs, and what it is made of.
    ///
    /// # Errors
    /// Where the file cannot be written; then its entries are nobody's.
    pub fn note_study(&self, name: &str, results: &Path, keys: impl IntoIterator<Item = Key>) -> Result<KnownStudy> {
        let folder = self.dir.join(STUDIES);
        fs::create_dir_all(&folder)?;
        // Of a path that is not UTF-8 its bytes, which JSON has no text for.
        let results = std::path::absolute(results)?;
        let digest = match results.to_str() {
            Some(results) => Digest::of(&(name, results)),
            None => Digest::of(&(name, results.as_os_str().as_encoded_bytes())),
        };
        let path = folder.join(digest.to_string());
        let mut text = format!("{name}\n");
        keys.into_iter().for_each(|key| text += &format!("{}\n", key.name()));
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(&folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path)?;
        Ok(KnownStudy { name: name.to_owned(), ran: SystemTime::now(), path })
    }

    /// The studies that used any of these entries, the one that ran last first. Those of whose entries none is left are
    /// forgotten in time.
    pub(super) fn studies_of(&self, entries: &HashSet<&str>) -> Vec<KnownStudy> {
        let mut found = Vec::new();
        for file in fs::read_dir(self.dir.join(STUDIES)).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(crate::UNFINISHED) {
                continue;
            }
            let (path, ran) = (file.path(), file.metadata().and_then(|m| m.modified()));
            let (Ok(text), Ok(ran)) = (fs::read_to_string(&path), ran) else { continue };
            let mut lines = text.lines();
            let name = lines.next().unwrap_or_default().to_owned();
            if lines.clone().any(|entry| entries.contains(entry)) {
                found.push(KnownStudy { name, ran, path: path.clone() });
            }
            let is_old = ran.elapsed().is_ok_and(|age| age > FORGOTTEN);
            if is_old && !lines.any(|entry| self.dir.join(entry).exists()) {
                let _ = fs::remove_file(&path);
            }
        }
        found.sort_by_key(|study| std::cmp::Reverse(study.ran));
        found
    }

    /// Forgets all studies.
    pub fn forget_studies(&self) {
        let _ = fs::remove_dir_all(self.dir.join(STUDIES));
    }
}
