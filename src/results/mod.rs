//! What a study leaves: Parquet tables and `run.json`.

mod manifest;
mod schema;
mod summary;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use manifest::{CellCounts, Manifest};
pub use summary::{Summary, SummaryRow, summarize};

use crate::metrics::{Estimate, Metric, estimate};
use crate::pipeline::Outcome;
use crate::recipe::Recipe;

/// A finished cell with its metrics.
pub struct Finished {
    pub outcome: Outcome,
    /// Each metric on each suite, with its interval and its difference to dense.
    pub metrics: Vec<MetricValue>,
}

/// One value of `metrics.parquet`.
pub struct MetricValue {
    pub suite: String,
    pub metric: Metric,
    pub windows: usize,
    pub estimate: Estimate,
}

impl Finished {
    /// Computes the metrics that the recipe asks for, against the dense cell's outcome.
    pub fn new(recipe: &Recipe, outcome: Outcome, dense: &Outcome) -> Self {
        let mut metrics = Vec::new();
        for (name, scores) in &outcome.suites {
            let Some(of_dense) = dense.suites.get(name) else { continue };
            for &metric in &recipe.suite[name].metrics {
                let estimate = estimate(metric, &scores.windows, &of_dense.windows, recipe.seed);
                metrics.push(MetricValue { suite: name.clone(), metric, windows: scores.windows.len(), estimate });
            }
        }
        Self { outcome, metrics }
    }
}

/// A folder of results.
pub struct Results {
    dir: PathBuf,
}

impl Results {
    /// Makes the folder.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the results folder {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.parquet"))
    }

    /// Writes all tables of the cells finished so far. Each file is replaced whole, so that a reader,
    /// or a run that is killed, never sees half of one.
    pub fn write(&self, recipe: &Recipe, finished: &[&Finished]) -> Result<()> {
        for (name, batch) in [
            ("cells", tables::cells(recipe, finished)?),
            ("layers", tables::layers(recipe, finished)?),
            ("metrics", tables::metrics(recipe, finished)?),
            ("samples", tables::samples(recipe, finished)?),
        ] {
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
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
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
