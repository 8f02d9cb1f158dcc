//! What a study leaves: Parquet tables and `run.json`.

mod changes;
mod contrasts;
mod differences;
mod earlier;
mod entries;
mod machine;
mod manifest;
mod masks;
mod measures;
mod place;
mod published;
mod schema;
mod shares;
mod tables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indexmap::IndexMap;

pub use differences::Difference;
pub use earlier::Intended;
pub use entries::{
    CalibrationEntry, DataEntry, DatasetEntry, DrawnEntry, MetricEntry, ModelEntry, SampleUnit, SuiteEntry,
    TokenizerEntry,
};
pub use machine::Machine;
pub use manifest::{CellCounts, Manifest};

use crate::lock::{Attempt, Lock};
use crate::pipeline::{Material, Outcome, Study, remove_unfinished};
use crate::recipe::Recipe;
use measures::Memory;
use shares::{Shares, shares};

/// The tables, in the order in which they are written. Metrics come last: a report that is read between two writes has
/// all else for every cell that it names.
pub const TABLES: [&str; 7] = ["samples", "layers", "masks", "cells", "contrasts", "settings", "metrics"];

/// A finished cell.
pub struct Finished {
    pub outcome: Outcome,
    /// What each sample adds to each metric, by suite.
    shares: IndexMap<String, Shares>,
}

impl Finished {
    pub fn new(recipe: &Recipe, materials: &BTreeMap<String, Material>, outcome: Outcome) -> Self {
        let of_suite = |(name, record)| (String::clone(name), shares(&recipe.suite[name], record, &materials[name]));
        Self { shares: outcome.suites.iter().map(of_suite).collect(), outcome }
    }
}

/// A folder of results, to which no other process writes while this lives.
pub struct Results {
    dir: PathBuf,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
    /// What was measured for the tables before.
    memory: RefCell<Memory>,
    shared: RefCell<masks::Memory>,
}

impl Results {
    /// Makes the folder, and takes it for this process.
    ///
    /// # Errors
    /// Where it cannot be written to, or another run has it.
    pub fn create(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot write to the results folder {} (--out names another)", dir.display());
        let made = dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = made.map(Path::to_owned).collect();
        fs::create_dir_all(dir).with_context(cannot)?;
        match Lock::take(&dir.join(".lock")).with_context(cannot)? {
            Attempt::Taken(lock) => {
                remove_unfinished(dir);
                let (memory, shared) = Default::default();
                Ok(Self { dir: dir.to_owned(), made, lock: Some(lock), memory, shared })
            }
            Attempt::Held(holder) => bail!(
                "{} is being written by {}; wait for it to end, or give another folder with --out",
                dir.display(),
                holder.map_or("another process".into(), |holder| holder.to_string())
            ),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.parquet"))
    }

    /// Begins the study that `manifest` is of: what is there is gone on with, or, where it is to be replaced, or is of no
    /// study, leaves. From then on `run.json` says whose tables these are.
    pub fn begin(&self, manifest: &Manifest, replaces: bool) -> Result<()> {
        if replaces {
            for name in [published::TABLE].iter().chain(TABLES.iter().rev()) {
                let path = self.table(name);
                let gone = fs::remove_file(&path).or_else(|e| if e.kind() == NotFound { Ok(()) } else { Err(e) });
                gone.with_context(|| format!("cannot replace {}", path.display()))?;
            }
        }
        let has_tables = TABLES.iter().any(|name| self.table(name).exists());
        if has_tables { Ok(()) } else { self.write_manifest(manifest) }
    }

    /// Writes all tables of the cells finished so far. Each file is replaced whole, so that a reader,
    /// or a run that is killed, never sees half of one.
    pub fn write(&self, study: &Study, finished: &[&Finished]) -> Result<()> {
        let recipe = study.recipe();
        let measures = self.memory.borrow_mut().measure(recipe, finished);
        let shared = self.shared.borrow_mut().rows(study, finished);
        let batches = [
            tables::samples(recipe, study.materials(), finished)?,
            tables::layers(recipe, finished)?,
            tables::masks(recipe, &shared)?,
            tables::cells(recipe, finished)?,
            tables::contrasts(recipe, &measures)?,
            tables::settings(recipe, &measures)?,
            tables::metrics(recipe, &measures)?,
        ];
        self.write_published(recipe, &measures)?;
        for (name, batch) in TABLES.iter().zip(batches) {
            let bytes = tables::to_parquet(&batch)?;
            replace(&self.table(name), &bytes)?;
        }
        Ok(())
    }

    /// Writes `run.json`.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        replace(&self.dir.join("run.json"), &serde_json::to_vec_pretty(manifest)?)
    }
}

impl Drop for Results {
    /// Folders in which nothing came to be go again.
    fn drop(&mut self) {
        self.lock = None;
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// Replaces a file: temporary name, sync, rename.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.as_file().sync_all()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
