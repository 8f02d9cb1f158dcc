//! Where an export goes: a folder or a file that is not there until it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::disk::Disk;
use crate::fault::Fault;
use crate::lock::{Attempt, Lock};
use crate::recipe::ModelFormat;
use crate::size::Size;

/// Where an export goes.
pub struct Target {
    path: PathBuf,
    pub format: ModelFormat,
    /// Whether it is a file by itself.
    is_file: bool,
}

/// What is being written, beside its place. It is gone unless it is put there.
pub struct Unfinished {
    pub dir: PathBuf,
    _lock: Lock,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Target {
    /// At a path that nothing has.
    pub fn of(path: &Path, format: Option<ModelFormat>) -> Result<Self> {
        let is_file = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        let format = format.unwrap_or(if is_file { ModelFormat::Gguf } else { ModelFormat::Hub });
        if is_file && format == ModelFormat::Hub {
            return Err(Fault(format!("--to {}: a Hugging Face folder is no .gguf file", path.display())).into());
        }
        ensure!(path.file_name().is_some(), Fault(format!("--to {}: it has no name", path.display())));
        let target = Self { path: path.to_owned(), format, is_file };
        let refused =
            || Fault(format!("--to {}: it is there already; give another name, or remove it", path.display()));
        ensure!(!target.is_taken(), refused());
        Ok(target)
    }

    /// Whether there is something.
    fn is_taken(&self) -> bool {
        match self.path.is_dir() && !self.is_file {
            true => fs::read_dir(&self.path).map(|mut entries| entries.next().is_some()).unwrap_or(true),
            false => self.path.symlink_metadata().is_ok(),
        }
    }

    /// The folder that it will lie in.
    fn parent(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// An error where its disk has no room for so many bytes.
    pub fn ensure_room(&self, bytes: u64) -> Result<()> {
        let Some(free) = Disk::of(self.parent()).map(|disk| disk.free).filter(|free| *free < bytes) else {
            return Ok(());
        };
        bail!("{} needs {}, and its disk has {}", self.path.display(), Size(bytes), Size(free))
    }

    /// An empty folder beside it. What a run that was killed has left there is gone.
    pub fn begin(&self) -> Result<Unfinished> {
        let parent = self.parent();
        let cannot = || format!("cannot write into {}", parent.display());
        fs::create_dir_all(parent).with_context(cannot)?;
        let name = format!("{}{}", crate::UNFINISHED, self.path.file_name().unwrap_or_default().to_string_lossy());
        let lock = match Lock::take(&parent.join(format!("{name}.lock"))).with_context(cannot)? {
            Attempt::Taken(lock) => lock,
            Attempt::Held(holder) => bail!(
                "{} is being written by {}",
                self.path.display(),
                holder.map_or("another process".into(), |holder| holder.to_string())
            ),
        };
        let dir = parent.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).with_context(cannot)?;
        Ok(Unfinished { dir, _lock: lock })
    }

    /// Puts what was written in its place; a single file is called `name` there.
    pub fn put(&self, unfinished: Unfinished, name: &str) -> Result<&Path> {
        let cannot = || format!("cannot write {}", self.path.display());
        ensure!(!self.is_taken(), "{} has come to be in the meantime", self.path.display());
        let from = if self.is_file { unfinished.dir.join(format!("{name}.gguf")) } else { unfinished.dir.clone() };
        if !self.is_file {
            // An empty folder gives way.
            let _ = fs::remove_dir(&self.path);
        }
        fs::rename(from, &self.path).with_context(cannot)?;
        Ok(&self.path)
    }
}
