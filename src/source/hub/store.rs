//! The cache as huggingface_hub lays it out (file_download.py): blobs by their digests, a folder of links for each commit,
//! and what branches and tags stood for.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::failure::Failure;
use super::watch::sleep;

/// What the cache has of a repository.
pub struct Store {
    cache: PathBuf,
    /// `models--OWNER--NAME`
    folder: String,
    /// Whether snapshots are links.
    links: bool,
}

/// A blob's lock; None where the file system has none.
pub struct Held(Option<File>);

impl Held {
    /// Whether nobody else writes the same blob.
    pub fn is_alone(&self) -> bool {
        self.0.is_some()
    }
}

/// What tells backups to pass the folder over: https://bford.info/cachedir/
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";

impl Store {
    pub fn new(cache: &Path, folder: String, links: bool) -> Self {
        Self { cache: cache.to_owned(), folder, links }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(etag)
    }

    /// Where a file of a commit is looked for.
    pub fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.root().join("snapshots").join(commit).join(file)
    }

    /// Where a blob grows.
    pub fn partial(&self, etag: &str, held: &Held) -> PathBuf {
        match held.is_alone() {
            // What older versions of huggingface_hub go on from, too.
            true => self.blob(&format!("{etag}.incomplete")),
            // As newer ones name what no other process knows of.
            false => self.blob(&format!("{etag}.{:08x}.incomplete", std::process::id())),
        }
    }

    /// How much of a blob is there.
    pub fn begun(&self, etag: &str) -> u64 {
        self.blob(&format!("{etag}.incomplete")).metadata().map_or(0, |about| about.len())
    }

    /// Notes which commit a branch or tag stands for.
    pub fn note_revision(&self, revision: &str, commit: &str) -> anyhow::Result<()> {
        let path = self.root().join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|noted| noted == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        self.make(folder)?;
        let cannot = || format!("cannot write {}", path.display());
        let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder).with_context(cannot)?;
        io::Write::write_all(&mut file, commit.as_bytes()).with_context(cannot)?;
        readable(file.as_file()).with_context(cannot)?;
        file.persist(&path).with_context(cannot)?;
        Ok(())
    }

    /// Notes that a commit has no such file, for huggingface_hub not to ask again.
    pub fn note_absence(&self, commit: &str, file: &str) {
        let path = self.root().join(".no_exist").join(commit).join(file);
        let made = path.parent().map_or(Ok(()), |folder| self.make(folder));
        if made.is_err() || File::create(&path).is_err() {
            tracing::debug!("{} is not written", path.display());
        }
    }

    /// Makes a folder in the cache.
    fn make(&self, folder: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot make {}; HF_HUB_CACHE or HF_HOME names another cache", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            // It only tells backups to pass the folder over.
            let _ = fs::write(tag, TAG);
        }
        Ok(())
    }

    /// Waits until no other process writes this blob.
    pub fn lock(&self, etag: &str) -> Result<Held, Failure> {
        let blobs = self.root().join("blobs");
        self.make(&blobs).map_err(Failure::Here)?;
        let locks = self.cache.join(".locks").join(&self.folder);
        self.make(&locks).map_err(Failure::Here)?;
        let path = locks.join(format!("{etag}.lock"));
        let (began, mut said) = (Instant::now(), 0);
        loop {
            let open = options().read(true).write(true).create(true).truncate(false).open(&path);
            let file =
                open.with_context(|| format!("cannot make the lock {}", path.display())).map_err(Failure::Here)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Held(Some(file))),
                // Its last holder has removed it.
                Ok(()) => continue,
                Err(TryLockError::Error(_)) => return Ok(Held(None)),
                Err(TryLockError::WouldBlock) => {}
            }
            if began.elapsed().as_secs() / 10 > said {
                said += 1;
                tracing::info!("another process holds {}; waiting for it", path.display());
            }
            sleep(Duration::from_millis(100))?;
        }
    }

    /// Has a file of a commit be a blob. `is_new` is one that no other file is.
    pub fn link(&self, etag: &str, commit: &str, file: &str, is_new: bool) -> anyhow::Result<()> {
        let (blob, pointer) = (self.blob(etag), self.pointer(commit, file));
        if pointer.exists() {
            return Ok(());
        }
        let cannot = || format!("cannot make {}", pointer.display());
        self.make(pointer.parent().unwrap_or(Path::new(".")))?;
        // A link to nothing, of a download that did not end.
        if pointer.is_symlink() {
            fs::remove_file(&pointer).with_context(cannot)?;
        }
        // Up from the file's folder, out of the commit's and out of `snapshots`.
        let up = "../".repeat(file.matches('/').count() + 2);
        if self.links && symlink(format!("{up}blobs/{etag}").as_ref(), &pointer).is_ok() {
            return Ok(());
        }
        if pointer.exists() {
            return Ok(());
        }
        match is_new {
            true => fs::rename(&blob, &pointer),
            false => fs::copy(&blob, &pointer).map(drop),
        }
        .with_context(cannot)
    }
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Locks are for all users of a cache that several share, as far as the umask lets them.
#[cfg(unix)]
fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o664);
    options
}

#[cfg(not(unix))]
fn options() -> OpenOptions {
    OpenOptions::new()
}

/// Gives a temporary file, which only its owner may read, the permissions of others.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |about: fs::Metadata| (about.dev(), about.ino());
    file.metadata().map(id).ok() == path.metadata().map(id).ok()
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_commit_is_a_link_to_its_blob_from_any_folder() {
        let dir = tempfile::tempdir().unwrap();
        for (links, files) in [(true, ["a.json", "b/c/d.json"]), (false, ["e.json", "f/g.json"])] {
            let store = Store::new(dir.path(), "models--o--n".into(), links);
            let held = store.lock("e1").unwrap();
            assert!(held.is_alone());
            fs::write(store.blob("e1"), "content").unwrap();
            for file in files {
                store.link("e1", "abc", file, false).unwrap();
                let pointer = store.pointer("abc", file);
                assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
                assert_eq!(pointer.is_symlink(), links);
            }
        }
        let link = fs::read_link(dir.path().join("models--o--n/snapshots/abc/b/c/d.json")).unwrap();
        assert_eq!(link, Path::new("../../../../blobs/e1"));
        assert!(dir.path().join("CACHEDIR.TAG").is_file() && dir.path().join(".locks/models--o--n/e1.lock").is_file());
    }

    #[test]
    fn a_branch_is_noted_with_its_commit_and_a_commit_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "models--o--n".into(), true);
        for (revision, commit) in [("main", "a1"), ("main", "b2"), ("refs/convert/parquet", "c3"), ("d4", "d4")] {
            store.note_revision(revision, commit).unwrap();
        }
        let noted = |name: &str| fs::read_to_string(dir.path().join("models--o--n/refs").join(name)).ok();
        assert_eq!(noted("main").as_deref(), Some("b2"));
        assert_eq!((noted("refs/convert/parquet").as_deref(), noted("d4")), (Some("c3"), None));
    }
}
