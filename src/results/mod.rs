//! What a study leaves: Parquet tables and `run.json`.

mod changes;
mod contrasts;
mod differences;
mod earlier;
mod entries;
mod finished;
mod folder;
mod machine;
mod manifest;
mod masks;
mod measures;
mod place;
mod published;
mod schema;
mod shares;
mod stream;
mod tables;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::ErrorKind::NotFound;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use rayon::prelude::*;

pub use differences::Difference;
pub use earlier::{Intended, done_cells};
pub use entries::{CalibrationEntry, DataEntry, MetricEntry, ModelEntry, SampleUnit, SuiteEntry};
pub use finished::Finished;
pub use folder::{ensure_has_results, has_tables};
pub use manifest::{CellCounts, Manifest, ensure_can_be_named};

use crate::lock::{Attempt, Lock};
use crate::pace::Pace;
use crate::pipeline::{Study, remove_unfinished};
use masks::Beside;
use measures::Memory;

/// The tables, in the order in which they are written. Metrics come last: a report that is read between two writes has
/// all else for every cell that it names.
pub const TABLES: [&str; 7] = ["samples", "layers", "masks", "cells", "contrasts", "settings", "metrics"];

/// A folder of results, to which no other process writes while this lives.
pub struct Results {
    dir: PathBuf,
    _lock: Lock,
    /// Goes after the lock, which lies in it.
    _made: Made,
    /// What was measured for the tables before.
    memory: RefCell<Memory>,
    told: RefCell<masks::Told>,
    /// How often tables are written while cells end.
    pace: Cell<Pace>,
}

impl Results {
    /// Makes the folder, and takes it for this process.
    ///
    /// # Errors
    /// Where it cannot be written to, or another run has it.
    pub fn create(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot write to the results folder {} (--out names another)", dir.display());
        let made = dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = Made(made.map(Path::to_owned).collect());
        fs::create_dir_all(dir).with_context(cannot)?;
        match Lock::take(&dir.join(".lock")).with_context(cannot)? {
            Attempt::Taken(lock) => {
                remove_unfinished(dir);
                let (memory, told) = Default::default();
                let pace = Cell::new(Pace::new(Instant::now()));
                Ok(Self { dir: dir.to_owned(), _lock: lock, _made: made, memory, told, pace })
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

    /// Whether the tables may be written again, now that so many cells have ended: always in a small study; in a large one as
    /// often as that takes a fiftieth of the time of the run. What has ended meanwhile is in the cache.
    pub fn is_due(&self, cells: usize) -> bool {
        self.pace.get().allows(Instant::now(), cells)
    }

    /// How long it took to write the tables last.
    pub fn last_took(&self) -> Duration {
        self.pace.get().last()
    }

    /// Writes all tables of the cells finished so far. Each file is replaced whole, so that a reader,
    /// or a run that is killed, never sees half of one.
    ///
    /// # Errors
    /// Where a file cannot be written, or the cache has lost what a finished cell came to.
    pub fn write(&self, study: &Study, finished: &[&Finished]) -> Result<()> {
        let started = Instant::now();
        let recipe = study.recipe();
        let measures = self.memory.borrow_mut().measure(recipe, finished);
        self.write_samples(study, finished)?;
        self.write_layers(study, finished)?;
        self.write_masks(study, finished)?;
        self.write_table("cells", &tables::cells(recipe, finished)?)?;
        self.write_table("contrasts", &tables::contrasts(recipe, &measures)?)?;
        self.write_table("settings", &tables::settings(recipe, &measures)?)?;
        self.write_table("metrics", &tables::metrics(recipe, &measures)?)?;
        self.write_published(recipe, &measures)?;
        let mut pace = self.pace.get();
        pace.took(started.elapsed(), finished.len());
        self.pace.set(pace);
        Ok(())
    }

    fn write_table(&self, name: &str, batch: &RecordBatch) -> Result<()> {
        replace(&self.table(name), &tables::to_parquet(batch)?)
    }

    /// The answers and scores of samples are too many to be held: what a cell has is read when its rows are written.
    fn write_samples(&self, study: &Study, finished: &[&Finished]) -> Result<()> {
        let (recipe, materials) = (study.recipe(), study.materials());
        let rows = |cell: &&Finished| cell.samples(materials);
        let batch = |cells: &[&Finished]| {
            let read: Vec<_> = cells.par_iter().map(|cell| tables::sampled(study, cell)).collect::<Result<_>>()?;
            tables::samples(recipe, materials, &read)
        };
        let write = |out: &mut (dyn Write + Send)| stream::write(out, schema::samples(), finished, rows, batch);
        replace_by(&self.table("samples"), write)
    }

    fn write_layers(&self, study: &Study, finished: &[&Finished]) -> Result<()> {
        let batch = |cells: &[&Finished]| {
            let read = |cell: &&'_ Finished| cell.pruning(study);
            let read: Vec<_> = cells.par_iter().map(read).collect::<Result<_>>()?;
            let prunings: Vec<tables::Pruning> = cells
                .iter()
                .zip(read)
                .filter_map(|(cell, read)| read.map(|(pruned, errors)| (*cell, pruned, errors)))
                .collect();
            tables::layers(study.recipe(), &prunings)
        };
        let rows = |cell: &&Finished| cell.layers;
        let write = |out: &mut (dyn Write + Send)| stream::write(out, schema::layers(), finished, rows, batch);
        replace_by(&self.table("layers"), write)
    }

    fn write_masks(&self, study: &Study, finished: &[&Finished]) -> Result<()> {
        let besides = masks::besides(study, finished, &mut self.told.borrow_mut());
        let batch = |besides: &[Beside]| tables::masks(study.recipe(), besides);
        let rows = |beside: &Beside| beside.shared.len();
        let write = |out: &mut (dyn Write + Send)| stream::write(out, schema::masks(), &besides, rows, batch);
        replace_by(&self.table("masks"), write)
    }

    /// Writes `run.json`.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        replace(&self.dir.join("run.json"), &serde_json::to_vec_pretty(manifest)?)
    }
}

/// Folders that were made, the innermost first. Those in which nothing came to be go again.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// Replaces a file: temporary name, sync, rename.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(path, |out| Ok(out.write_all(bytes)?))
}

/// Replaces a file by what is written, as [`replace`] does.
fn replace_by(path: &Path, content: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        content(&mut out)?;
        let file = out.into_inner().map_err(|error| error.into_error())?;
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
