//! What a study leaves: Parquet tables and `run.json`.

mod manifest;
mod schema;
mod summary;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use manifest::Manifest;
pub use summary::{Summary, SummaryRow, summarize};

use crate::metrics::{Estimate, Metric, estimate};
use crate::pipeline::{CellRecord, SuiteRecord};
use crate::recipe::Recipe;

/// A cell with its scores on each suite.
pub struct Finished {
    pub record: CellRecord,
    pub suites: BTreeMap<String, SuiteRecord>,
}

/// One value of `metrics.parquet`.
pub struct MetricRow<'a> {
    pub cell: &'a CellRecord,
    pub suite: &'a str,
    pub metric: Metric,
    pub windows: usize,
    pub estimate: Estimate,
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
    pub fn write(&self, recipe: &Recipe, finished: &[Finished]) -> Result<()> {
        for (name, batch) in [
            ("cells", tables::cells(recipe, finished)?),
            ("layers", tables::layers(recipe, finished)?),
            ("metrics", tables::metrics(recipe, &metric_rows(recipe, finished))?),
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

/// Every metric of every cell on every suite, with its interval and its difference to dense.
fn metric_rows<'a>(recipe: &'a Recipe, finished: &'a [Finished]) -> Vec<MetricRow<'a>> {
    let Some(dense) = finished.iter().find(|f| f.record.cell.pruning.is_none()) else { return vec![] };
    let mut rows = Vec::new();
    for cell in finished {
        for (name, scores) in &cell.suites {
            let Some(of_dense) = dense.suites.get(name) else { continue };
            for &metric in &recipe.suite[name].metrics {
                let estimate = estimate(metric, &scores.windows, &of_dense.windows, recipe.seed);
                rows.push(MetricRow {
                    cell: &cell.record,
                    suite: name,
                    metric,
                    windows: scores.windows.len(),
                    estimate,
                });
            }
        }
    }
    rows
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
