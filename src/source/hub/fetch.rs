//! What of a repository is not in the cache, fetched into it: several files at once, when there is room for all.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, bail};

use super::client::{Client, at_once, escaped, shown};
use super::download::Piece;
use super::failure::{Failure, Refused};
use super::listing::{self, Conversion, INDEX, ModelNames, OfSplit, Within};
use super::messages::Told;
use super::place::Place;
use super::store::Store;
use super::watch::tell;
use super::{TOKENIZER, Wanted, notes};
use crate::disk::Disk;
use crate::size::Size;

/// A repository on the Hub, and its place in the cache.
pub struct Repository<'a> {
    pub wanted: &'a Wanted<'a>,
    pub place: &'a Place,
    pub client: Client,
    pub store: Store,
    /// Whether the commit counts that the cache has noted for a branch.
    heeds: bool,
}

/// How much of a model is fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What says what it is.
    About,
    Whole,
}

impl<'a> Repository<'a> {
    pub fn new(wanted: &'a Wanted<'a>, place: &'a Place, client: Client) -> Self {
        let store = Store::new(&place.folder, wanted.folder(), client.settings.links);
        Self { wanted, place, client, store, heeds: true }
    }

    /// Does something; and once more with the branch as it is on the Hub, where that no longer has the commit that the cache
    /// has noted.
    pub fn up_to_date<T>(&mut self, fetch: impl Fn(&Self) -> Result<T, Told>) -> Result<T, Told> {
        match fetch(self) {
            Err(Told::Failure(Failure::Refused(Refused::NoRevision)))
                if self.noted().is_some_and(|commit| !commit.starts_with(self.wanted.revision)) =>
            {
                tracing::info!("{}: the Hub no longer has the commit that the cache has noted", self.wanted);
                self.heeds = false;
                fetch(self)
            }
            done => done,
        }
    }

    /// Where the Hub's API has it.
    pub fn api(&self) -> String {
        format!("{}/api/{}/{}", self.client.settings.endpoint, self.wanted.kind(), escaped(self.wanted.repo, true))
    }

    /// Where the Hub has a file of it.
    fn address(&self, revision: &str, file: &str) -> String {
        let kind = if self.wanted.dataset { "datasets/" } else { "" };
        let (endpoint, repo) = (&self.client.settings.endpoint, escaped(self.wanted.repo, true));
        format!("{endpoint}/{kind}{repo}/resolve/{}/{}", escaped(revision, false), escaped(file, true))
    }

    /// The commit that the cache has noted for the revision: it counts, so that all files of a repository are of one.
    fn noted(&self) -> Option<String> {
        let full = Some(self.wanted.revision.to_owned()).filter(|commit| is_commit(commit));
        if full.is_some() || !self.heeds {
            return full;
        }
        let root = self.place.folder.join(self.wanted.folder());
        let known = super::names(&root.join("snapshots")).unwrap_or_default();
        let here = self.wanted.commit(&root, &known).ok().flatten();
        here.or_else(|| {
            let noted = fs::read_to_string(root.join("refs").join(self.wanted.revision)).ok()?;
            Some(noted.trim().to_owned()).filter(|commit| is_commit(commit))
        })
    }

    /// The commit that the revision stands for, from the cache or the Hub.
    fn commit(&self) -> Result<String, Failure> {
        if let Some(commit) = self.noted() {
            return Ok(commit);
        }
        let url = format!("{}/revision/{}", self.api(), escaped(self.wanted.revision, false));
        let (about, _) = self.client.json(&url)?;
        let commit = about["sha"].as_str().filter(|sha| is_commit(sha));
        let none = || Failure::Strange(format!("{} names no commit; HF_ENDPOINT names the Hub", shown(&url)));
        commit.map(str::to_owned).ok_or_else(none)
    }

    /// A model: what it is read by, and the weights, if they are to come too.
    pub fn model(&self, extent: Extent) -> Result<PathBuf, Told> {
        let commit = self.commit()?;
        let names = listing::names(&self.client, &self.api(), &commit, Within::All(""))?;
        let ModelNames { about, weights } = ModelNames::of(&names, self.wanted.repo).map_err(Told::Advice)?;
        if !about.iter().any(|name| name == TOKENIZER) {
            self.store.note_absence(&commit, TOKENIZER);
        }
        self.all(&commit, &about)?;
        let index = self.store.pointer(&commit, INDEX);
        let weights = match weights {
            Some(one) => vec![one],
            None => {
                let text = fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()));
                listing::shards(&text.map_err(Failure::Here)?, &names).map_err(Told::Advice)?
            }
        };
        if extent == Extent::Whole {
            self.all(&commit, &weights)?;
        }
        Ok(self.store.pointer(&commit, ""))
    }

    /// A file, and all that it is a part of.
    pub fn file(&self, file: &str) -> Result<PathBuf, Told> {
        let noted = self.noted();
        let commit = match self.about(noted.as_deref().unwrap_or(self.wanted.revision), file) {
            Err(Failure::Refused(Refused::NoFile)) => return Err(self.no_file(file)),
            found => found?.0,
        };
        let parts = if self.wanted.dataset { vec![file.to_owned()] } else { listing::parts(file) };
        self.all(&commit, &parts)?;
        Ok(self.store.pointer(&commit, file))
    }

    /// The files of a pattern, in order.
    pub fn pattern(&self, pattern: &str, kept: &notes::Kept) -> Result<Vec<PathBuf>, Told> {
        let commit = self.commit()?;
        let within = listing::within(pattern);
        let names = match listing::names(&self.client, &self.api(), &commit, within) {
            // A folder that is not there.
            Err(Failure::Refused(Refused::NoFile)) => vec![],
            names => names?,
        };
        let found: Vec<String> = names.iter().filter(|name| listing::matches(pattern, name)).cloned().collect();
        if found.is_empty() {
            return Err(self.no_file(pattern));
        }
        kept.keep(&commit, pattern, &found);
        self.all(&commit, &found)?;
        Ok(found.iter().map(|name| self.store.pointer(&commit, name)).collect())
    }

    /// The files of a split of the Hub's conversion, in order.
    pub fn split(&self, of: OfSplit, kept: &notes::Kept) -> Result<Vec<PathBuf>, Told> {
        let commit = match self.commit() {
            Err(Failure::Refused(Refused::NoRevision)) => {
                let repo = self.wanted.repo;
                return Err(Told::Advice(format!(
                    "has not been converted to Parquet by the Hub; name its files: hf:datasets/{repo}/FILE"
                )));
            }
            commit => commit?,
        };
        let names = listing::names(&self.client, &self.api(), &commit, Within::All(""))?;
        let found = Conversion::of(&names).files(of).map_err(Told::Advice)?;
        kept.keep(&commit, notes::ALL, &names);
        self.all(&commit, &found)?;
        Ok(found.iter().map(|name| self.store.pointer(&commit, name)).collect())
    }

    /// What to say of a file that is not there, with those that are called nearly so.
    fn no_file(&self, file: &str) -> Told {
        let names = self.commit().and_then(|commit| {
            if !listing::is_pattern(file) {
                self.store.note_absence(&commit, file);
            }
            listing::names(&self.client, &self.api(), &commit, Within::All(""))
        });
        Told::NoFile { file: file.to_owned(), names: names.unwrap_or_default() }
    }

    /// What a file of a revision is, and the commit that the revision stands for.
    fn about(&self, revision: &str, file: &str) -> Result<(String, Piece), Failure> {
        let url = self.address(revision, file);
        let answer = self.client.head(&url)?;
        let (Some(commit), Some(etag)) = (
            answer.header("x-repo-commit").filter(|commit| is_commit(commit)),
            answer.header("x-linked-etag").or_else(|| answer.header("etag")).and_then(|etag| normalised(&etag)),
        ) else {
            return Err(Failure::Strange(format!(
                "{} is not answered as the Hub answers: it says no commit or no digest. A proxy may stand between; \
                 HF_ENDPOINT names the Hub",
                shown(&url)
            )));
        };
        let is_redirect = (300..400).contains(&answer.status());
        let size = answer.header("x-linked-size").or_else(|| answer.header("content-length").filter(|_| !is_redirect));
        let url = self.address(&commit, file);
        Ok((commit, Piece { file: file.to_owned(), etag, size: size.and_then(|size| size.parse().ok()), url }))
    }

    /// Has all these files of a commit in the cache.
    fn all(&self, commit: &str, files: &[String]) -> Result<(), Failure> {
        let lacking: Vec<&String> = files.iter().filter(|file| !self.store.pointer(commit, file).exists()).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        self.store.note_revision(self.wanted.revision, commit).map_err(Failure::Here)?;
        let pieces = each(&lacking, |file| self.about(commit, file).map(|(_, piece)| piece))?;
        let (here, missing): (Vec<&Piece>, Vec<&Piece>) =
            pieces.iter().partition(|piece| self.store.blob(&piece.etag).exists());
        for piece in here {
            let _held = self.store.lock(&piece.etag)?;
            self.store.link(&piece.etag, commit, &piece.file, false).map_err(Failure::Here)?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        let left = |piece: &&Piece| piece.size.unwrap_or(0).saturating_sub(self.store.begun(&piece.etag));
        let bytes = missing.iter().map(left).sum();
        self.check_room(bytes).map_err(Failure::Here)?;
        tell(|watch| watch.begins(&self.wanted.to_string(), missing.len(), bytes));
        // Where files are few, parts of them come at once.
        let parts = (at_once() / missing.len()).min(4);
        let done = each(&missing, |piece| self.one(commit, piece, parts));
        tell(|watch| watch.ends(done.is_ok()));
        done.map(drop)
    }

    fn one(&self, commit: &str, piece: &Piece, at_once: usize) -> Result<(), Failure> {
        let begun = self.store.begun(&piece.etag);
        let held = self.store.lock(&piece.etag)?;
        let (blob, partial) = (self.store.blob(&piece.etag), self.store.partial(&piece.etag, &held));
        // Another process may have fetched it, or some of it, while it held the lock.
        if blob.exists() {
            tell(|watch| watch.receives(piece.size.unwrap_or(0).saturating_sub(begun)));
        } else {
            tell(|watch| watch.receives(self.store.begun(&piece.etag).saturating_sub(begun)));
            piece.download(&self.client, &partial, &blob, at_once)?;
        }
        self.store.link(&piece.etag, commit, &piece.file, true).map_err(Failure::Here)
    }

    /// Whether there is room for so many bytes.
    fn check_room(&self, bytes: u64) -> anyhow::Result<()> {
        match Disk::of(&self.place.folder) {
            Some(disk) if disk.free < bytes => bail!(
                "{} are to be fetched, and the disk of the Hugging Face cache has room for {}: {}",
                Size(bytes),
                Size(disk.free),
                self.place
            ),
            _ => Ok(()),
        }
    }
}

/// A commit in full.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// A digest out of a header; None of what could not name a file.
fn normalised(etag: &str) -> Option<String> {
    let etag = etag.trim().trim_start_matches(['W', '/']).trim_matches('"');
    (!etag.is_empty() && etag.len() < 200 && listing::is_plain(etag) && !etag.contains('/')).then(|| etag.to_owned())
}

/// Does something with each of several, some at once, until one fails.
fn each<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> Result<R, Failure> + Sync) -> Result<Vec<R>, Failure> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Result<R, Failure>)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once().min(all.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = all.get(i) else { return };
                    let result = work(item);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_come_out_of_headers_as_in_huggingface_hub() {
        for (header, expected) in [
            ("\"abc\"", Some("abc")),
            ("W/\"abc\"", Some("abc")),
            ("abc", Some("abc")),
            ("\"../x\"", None),
            ("\"\"", None),
        ] {
            assert_eq!(normalised(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn work_is_shared_and_ends_with_the_first_that_fails() {
        let all: Vec<usize> = (0..50).collect();
        assert_eq!(each(&all, |i| Ok(i * 2)).unwrap(), all.iter().map(|i| i * 2).collect::<Vec<_>>());
        let counted = AtomicUsize::new(0);
        let failing = each(&all, |i| {
            counted.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err(Failure::Strange("three".into())) } else { Ok(()) }
        });
        assert!(matches!(failing, Err(Failure::Strange(said)) if said == "three"));
    }
}
