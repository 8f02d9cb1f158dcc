//! What a study leaves: Parquet tables and `run.json`.

mod changes;
mod differences;
mod earlier;
mod entries;
mod machine;
mod manifest;
mod place;
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
    CalibrationEntry, DataEntry, DatasetEntry, DrawnEntry, ModelEntry, SampleUnit, SuiteEntry, TokenizerEntry,
};
pub use machine::Machine;
pub use manifest::{CellCounts, Manifest};

use crate::lock::{Attempt, Lock};
use crate::metrics::{Estimate, Metric, estimate};
use crate::pipeline::{Material, Outcome, remove_unfinished};
use crate::recipe::Recipe;
use shares::{Shares, shares};

/// The tables, in the order in which they are written. Metrics come last: a report that is read between two writes has
/// all else for every cell that it names.
pub const TABLES: [&str; 5] = ["samples", "layers", "cells", "contrasts", "metrics"];

/// A finished cell with its metrics.
pub struct Finished {
    pub outcome: Outcome,
    /// Each metric on each suite, with its interval and its difference to dense.
    pub metrics: Vec<MetricValue>,
    /// What each sample adds to each metric, by suite.
    shares: IndexMap<String, Shares>,
}

/// One value of `metrics.parquet`.
pub struct MetricValue {
    pub suite: String,
    pub metric: Metric,
    pub samples: usize,
    pub estimate: Estimate,
}

/// One row of `contrasts.parquet`: what one calibration makes of a pruning, beside what another makes of it.
pub struct Contrast<'a> {
    /// Its cell.
    pub finished: &'a Finished,
    /// The other calibration.
    pub other: &'a str,
    pub value: &'a MetricValue,
}

/// The metrics of one cell against another, by their ids.
type Compared = BTreeMap<(String, String), Vec<MetricValue>>;

/// The name of the calibration of either cell, where they differ in nothing else.
fn calibrations<'a>(a: &'a Finished, b: &'a Finished) -> Option<(&'a str, &'a str)> {
    let (a, b) = (a.outcome.record.cell.pruning.as_ref()?, b.outcome.record.cell.pruning.as_ref()?);
    let (from, to) = (a.calibration.as_ref()?, b.calibration.as_ref()?);
    ((a.method, a.sparsity, from.seed) == (b.method, b.sparsity, to.seed)).then_some((&from.name, &to.name))
}

impl Finished {
    /// Computes the metrics that the recipe asks for, against the dense cell; without one, this is it.
    pub fn new(
        recipe: &Recipe,
        materials: &BTreeMap<String, Material>,
        outcome: Outcome,
        dense: Option<&Finished>,
    ) -> Self {
        let of_suite = |(name, record)| (String::clone(name), shares(&recipe.suite[name], record, &materials[name]));
        let mut finished = Self { shares: outcome.suites.iter().map(of_suite).collect(), outcome, metrics: vec![] };
        finished.metrics = finished.beside(recipe, dense.unwrap_or(&finished));
        finished
    }

    /// The metrics that the recipe asks for, against another cell.
    fn beside(&self, recipe: &Recipe, other: &Finished) -> Vec<MetricValue> {
        let mut values = Vec::new();
        for (name, shares) in &self.shares {
            let Some(others) = other.shares.get(name) else { continue };
            for metric in recipe.suite[name].metrics() {
                let estimate = estimate(metric, &shares[&metric], &others[&metric], recipe.seed);
                values.push(MetricValue { suite: name.clone(), metric, samples: shares[&metric].len(), estimate });
            }
        }
        values
    }
}

/// Every pair of finished cells that only differ in their calibration set, metric by metric.
fn contrasts<'a>(recipe: &Recipe, finished: &[&'a Finished], compared: &'a mut Compared) -> Vec<Contrast<'a>> {
    let id = |cell: &Finished| cell.outcome.record.cell.id();
    let pairs = || finished.iter().enumerate().flat_map(|(i, a)| finished[i + 1..].iter().map(move |b| (*a, *b)));
    let pairs: Vec<(&'a Finished, &'a Finished)> = pairs().filter(|(a, b)| calibrations(a, b).is_some()).collect();
    for (a, b) in &pairs {
        compared.entry((id(a), id(b))).or_insert_with(|| a.beside(recipe, b));
    }
    let compared: &'a Compared = compared;
    let of_pair = |(a, b): &(&'a Finished, &'a Finished)| {
        let (finished, (_, other)) = (*a, calibrations(a, b).expect("only such pairs are left"));
        compared[&(id(a), id(b))].iter().map(move |value| Contrast { finished, other, value }).collect::<Vec<_>>()
    };
    pairs.iter().flat_map(of_pair).collect()
}

/// A folder of results, to which no other process writes while this lives.
pub struct Results {
    dir: PathBuf,
    _lock: Lock,
    /// What was compared for the tables before: with every cell that is done, only its own pairs are new.
    compared: RefCell<Compared>,
}

impl Results {
    /// Makes the folder, and takes it for this process.
    ///
    /// # Errors
    /// Where it cannot be written to, or another run has it.
    pub fn create(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot write to the results folder {} (--out names another)", dir.display());
        fs::create_dir_all(dir).with_context(cannot)?;
        match Lock::take(&dir.join(".lock")).with_context(cannot)? {
            Attempt::Taken(lock) => {
                remove_unfinished(dir);
                Ok(Self { dir: dir.to_owned(), _lock: lock, compared: RefCell::default() })
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
            for name in TABLES.iter().rev() {
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
    pub fn write(&self, recipe: &Recipe, materials: &BTreeMap<String, Material>, finished: &[&Finished]) -> Result<()> {
        let mut compared = self.compared.borrow_mut();
        let contrasts = contrasts(recipe, finished, &mut compared);
        let batches = [
            tables::samples(recipe, materials, finished)?,
            tables::layers(recipe, finished)?,
            tables::cells(recipe, finished)?,
            tables::contrasts(recipe, &contrasts)?,
            tables::metrics(recipe, finished)?,
        ];
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
