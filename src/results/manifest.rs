//! `run.json`: all that a study depends on and what is to be said of its run, to run it again and compare.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::Finished;
use super::entries::{CalibrationEntry, DatasetEntry, MetricEntry, ModelEntry, SuiteEntry};
use super::machine::{Machine, versions};
use super::place::seen_from;
use crate::clock::{self, day};
use crate::data::Library;
use crate::fault::Fault;
use crate::metrics::Metric;
use crate::pipeline::{Author, Compared, InputCheckpoint, Study, peak_bytes};
use crate::recipe::{Recipe, Suite, cells, unsound};
use crate::source::Source;

/// The content of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The recipe with all layers and defaults resolved.
    pub recipe: Recipe,
    /// Its file, as the command line named it; the name of one that comes with calipr.
    pub recipe_path: PathBuf,
    /// Where relative paths of the recipe start, the first that has the file: the working folder, then the recipe's
    /// folder. Seen from the folder of results, but where the command line had an absolute path.
    pub folders: Vec<PathBuf>,
    pub model: ModelEntry,
    /// The models that others made of it, in the order of the recipe.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub checkpoints: IndexMap<String, ModelEntry>,
    /// The models that only wrote texts to calibrate on, as the recipe spells them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub authors: IndexMap<String, ModelEntry>,
    /// The data sets' definitions, as the recipe calls them.
    pub datasets: IndexMap<String, DatasetEntry>,
    /// Those that cells draw from, directly or through others, in the order of the recipe.
    pub calibrations: IndexMap<String, CalibrationEntry>,
    /// In the order of the recipe.
    pub suites: IndexMap<String, SuiteEntry>,
    /// What the metrics of the suites are, by their names.
    #[serde(default)]
    pub metrics: IndexMap<String, MetricEntry>,
    /// Every warning of the run, once, in order; those of suites that calibration has seen come first.
    pub warnings: Vec<String>,
    pub versions: BTreeMap<String, String>,
    pub machine: Machine,
    /// The day on which the run began (UTC), such as `2026-11-26`.
    pub date: String,
    /// Seconds since 1970.
    pub started: u64,
    /// None where the run has not come to its end.
    pub finished: Option<u64>,
    /// How long the run has taken: this one, without earlier ones whose cells are in the cache.
    pub seconds: f64,
    /// The most memory that the process held, where the system tells.
    pub peak_bytes: Option<u64>,
    /// The most memory of a device that a cell of this run held; None on the CPU.
    pub device_peak_bytes: Option<u64>,
    /// What was expected of the cells that the run computed, and what they took; None where nothing was known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Compared>,
    pub cells: CellCounts,
}

/// An error where `run.json` cannot name a path.
///
/// # Errors
/// Where it is not UTF-8.
pub fn ensure_can_be_named(path: &Path) -> Result<()> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => {
            let said =
                format!("the path {} is not UTF-8, and run.json, which names it, is; give it another", path.display());
            Err(Fault(said).into())
        }
    }
}

/// How many cells ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellCounts {
    pub planned: usize,
    pub done: usize,
    pub failed: usize,
}

impl CellCounts {
    pub fn of(finished: &[&Finished], planned: usize) -> Self {
        let done = finished.iter().filter(|cell| cell.is_done()).count();
        Self { planned, done, failed: finished.len() - done }
    }
}

impl fmt::Display for CellCounts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { planned, done, failed } = self;
        write!(f, "{done} of {planned} done")?;
        if *failed > 0 { write!(f, ", {failed} failed") } else { Ok(()) }
    }
}

impl Manifest {
    /// Of a study that is open and about to run, for the folder `results`. The recipe is that of the file `path`, and
    /// names its data in `library`; `devices` compute.
    ///
    /// # Errors
    /// Where what the study depends on cannot be read again.
    pub fn new(
        recipe: &Recipe,
        path: &Path,
        library: &Library,
        study: &Study,
        devices: &[Device],
        results: &Path,
    ) -> Result<Self> {
        let mut datasets = IndexMap::new();
        let named =
            recipe.calibration.values().filter_map(|c| c.rows_of()).chain(recipe.suite.values().map(|s| &s.dataset));
        for name in named {
            datasets.insert(name.clone(), DatasetEntry::of(library.get(name)?, results));
        }
        let checkpoint = |(name, input): (&String, &InputCheckpoint)| {
            let source = &recipe.checkpoint[name].source;
            Ok((name.clone(), ModelEntry::of_checkpoint(source, input, study)?))
        };
        let author = |(source, author): (&Source, &Author)| {
            Ok((source.to_string(), ModelEntry::of_author(source, author, study)?))
        };
        let calibration =
            |(name, calibration)| Some((String::clone(name), CalibrationEntry::of(name, calibration, study)?));
        let suite = |(name, suite)| (String::clone(name), SuiteEntry::of(name, suite, study));
        let metric = |metric: Metric| (metric.as_str().to_owned(), MetricEntry::of(metric));
        let started = clock::now().as_secs();
        let folders: Vec<PathBuf> = library.bases().into_iter().map(|base| seen_from(results, base)).collect();
        [path].into_iter().chain(folders.iter().map(PathBuf::as_path)).try_for_each(ensure_can_be_named)?;
        Ok(Self {
            recipe: recipe.clone(),
            recipe_path: path.to_owned(),
            folders,
            model: ModelEntry::of(recipe, study)?,
            checkpoints: study.inputs().checkpoints.iter().map(checkpoint).collect::<Result<_>>()?,
            authors: study.inputs().authors.iter().map(author).collect::<Result<_>>()?,
            datasets,
            calibrations: recipe.calibration.iter().filter_map(calibration).collect(),
            suites: recipe.suite.iter().map(suite).collect(),
            metrics: recipe.suite.values().flat_map(Suite::metrics).map(metric).collect(),
            warnings: vec![],
            versions: versions(),
            machine: Machine::here(devices),
            date: day(started),
            started,
            finished: None,
            seconds: 0.0,
            peak_bytes: None,
            device_peak_bytes: None,
            forecast: None,
            cells: CellCounts { planned: cells(recipe).len(), ..CellCounts::default() },
        })
    }

    /// Reads the `run.json` of a folder of results.
    ///
    /// # Errors
    /// Where there is none, or another version of calipr wrote it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("run.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is of no use to this version of calipr", path.display()))?;
        match unsound(&manifest.recipe) {
            Some(said) => bail!("the recipe in {} cannot be run: {said}", path.display()),
            None => Ok(manifest),
        }
    }

    /// Where the study's relative paths start, read from the run.json in the folder `results`: first in `moved`, where
    /// they have moved to, then where they were.
    fn bases(&self, results: &Path, moved: Option<&Path>) -> Vec<PathBuf> {
        moved.map(Path::to_owned).into_iter().chain(self.folders.iter().map(|folder| results.join(folder))).collect()
    }

    /// The study's data sets as they were recorded, with their files where they are now.
    pub fn library(&self, results: &Path, moved: Option<&Path>) -> Library {
        let beside = |folder: &Path| [folder.to_owned(), folder.join("datasets"), folder.join("../datasets")];
        let dataset = |(name, entry): (&String, &DatasetEntry)| {
            let recorded = entry.folders.iter().map(|folder| results.join(folder));
            let folders = moved.map(beside).into_iter().flatten().chain(recorded).collect();
            let definition = entry.definition.clone().in_folders(folders);
            (name.clone(), if entry.folders.is_empty() { definition.with_calipr() } else { definition })
        };
        Library::of_folders(self.bases(results, moved)).with(self.datasets.iter().map(dataset).collect())
    }

    /// The study's data sets as they are defined now; what is no longer there is as it was recorded.
    pub fn datasets_now(&self, results: &Path, moved: Option<&Path>) -> IndexMap<String, DatasetEntry> {
        let library = Library::of_folders(self.bases(results, moved));
        let dataset = |(name, entry): (&String, &DatasetEntry)| {
            let definition = library.get(name).unwrap_or_else(|_| entry.definition.clone());
            (name.clone(), DatasetEntry { definition, folders: entry.folders.clone() })
        };
        self.datasets.iter().map(dataset).collect()
    }

    /// Notes how far the run is, after so many seconds, of which it had these warnings.
    pub fn note(&mut self, finished: &[&Finished], seconds: f64, warnings: Vec<String>) {
        self.cells = CellCounts::of(finished, self.cells.planned);
        self.seconds = seconds;
        self.warnings = warnings;
        self.peak_bytes = peak_bytes();
        self.device_peak_bytes = finished.iter().filter_map(|cell| cell.spent.as_ref()?.device_peak_bytes).max();
    }

    /// Notes that the run ended.
    pub fn finish(&mut self) {
        self.finished = Some(clock::now().as_secs());
    }
}
