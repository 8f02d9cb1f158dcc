//! `run.json`: all that is needed to run the study again and compare.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Finished;
use crate::pipeline::{Inputs, Status};
use crate::recipe::Recipe;

/// The content of `run.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The recipe with all layers and defaults resolved.
    pub recipe: Recipe,
    /// Its file, as the command line named it: data sets are looked for beside it.
    pub recipe_path: PathBuf,
    pub model: ModelEntry,
    /// Digests of the data, by `calibration.NAME`, `suite.NAME` and `shots.NAME`.
    pub data: BTreeMap<String, DataEntry>,
    pub versions: BTreeMap<String, String>,
    pub machine: Machine,
    /// Seconds since 1970.
    pub started: u64,
    pub finished: Option<u64>,
    pub cells: CellCounts,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ModelEntry {
    pub source: String,
    /// BLAKE3 over the names and contents of the model's files.
    pub digest: String,
    pub config: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DataEntry {
    pub source: String,
    /// BLAKE3 over the file and how it is read.
    pub digest: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    pub os: String,
    pub architecture: String,
    pub cpu: Option<String>,
    pub threads: usize,
    pub device: String,
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
        let done = finished.iter().filter(|f| f.outcome.record.status == Status::Done).count();
        Self { planned, done, failed: finished.len() - done }
    }
}

impl Manifest {
    pub fn new(recipe: &Recipe, recipe_path: &Path, inputs: &Inputs, device: String, planned: usize) -> Self {
        let calibrations = inputs.calibrations.iter().map(|(name, part)| (format!("calibration.{name}"), part));
        let suites = inputs.suites.iter().map(|(name, part)| (format!("suite.{name}"), part));
        let shots = inputs.shots.iter().map(|(name, part)| (format!("shots.{name}"), part));
        let entry = |(name, part): (String, &crate::pipeline::InputPart)| {
            (name, DataEntry { source: part.part.source().to_string(), digest: part.digest.to_string() })
        };
        Self {
            recipe: recipe.clone(),
            recipe_path: recipe_path.to_owned(),
            model: ModelEntry {
                source: recipe.model.source.to_string(),
                digest: inputs.model_digest.to_string(),
                config: serde_json::to_value(&inputs.config).expect("a config is plain data"),
            },
            data: calibrations.chain(suites).chain(shots).map(entry).collect(),
            versions: versions(),
            machine: Machine {
                os: std::env::consts::OS.into(),
                architecture: std::env::consts::ARCH.into(),
                cpu: cpu_name(),
                threads: rayon::current_num_threads(),
                device,
            },
            started: now(),
            finished: None,
            cells: CellCounts { planned, ..CellCounts::default() },
        }
    }

    /// Reads the `run.json` of a folder of results.
    ///
    /// # Errors
    /// Where there is none, or another version of calipr wrote it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("run.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let parse = || {
            let mut value: serde_json::Value = serde_json::from_str(&text)?;
            // In earlier versions the recipe said what the cache may hold.
            if let Some(recipe) = value.pointer_mut("/recipe").and_then(serde_json::Value::as_object_mut) {
                recipe.remove("cache_size");
            }
            serde_json::from_value(value)
        };
        parse().with_context(|| format!("{} is of no use to this version of calipr", path.display()))
    }

    /// What the results of two runs may differ by: what it is, here and there.
    pub fn differences(&self, other: &Self) -> Vec<[String; 3]> {
        let mut pairs = vec![("the model's bytes".to_owned(), Some(&self.model.digest), Some(&other.model.digest))];
        for name in self.data.keys().chain(other.data.keys().filter(|name| !self.data.contains_key(*name))) {
            pairs.push((
                format!("the data of {name}"),
                self.data.get(name).map(|entry| &entry.digest),
                other.data.get(name).map(|entry| &entry.digest),
            ));
        }
        for name in self.versions.keys() {
            pairs.push((format!("{name}'s version"), self.versions.get(name), other.versions.get(name)));
        }
        let (here, there) = (&self.machine, &other.machine);
        let threads = [here.threads.to_string(), there.threads.to_string()];
        pairs.extend([
            ("operating system".to_owned(), Some(&here.os), Some(&there.os)),
            ("architecture".to_owned(), Some(&here.architecture), Some(&there.architecture)),
            ("processor".to_owned(), here.cpu.as_ref(), there.cpu.as_ref()),
            ("threads".to_owned(), Some(&threads[0]), Some(&threads[1])),
            ("device".to_owned(), Some(&here.device), Some(&there.device)),
        ]);
        let shown = |value: Option<&String>| value.map_or("none".to_owned(), |text| text.chars().take(40).collect());
        let different = pairs.into_iter().filter(|(_, here, there)| here != there);
        different.map(|(what, here, there)| [what, shown(here), shown(there)]).collect()
    }

    /// Notes that the run ended.
    pub fn finish(&mut self) {
        self.finished = Some(now());
    }
}

/// Versions of calipr and of the crates that numbers depend on, as they were locked when it was built.
fn versions() -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    const MATTER: [&str; 5] = ["calipr", "candle-core", "gemm", "rand_chacha", "tokenizers"];
    let lock: Lock = toml::from_str(include_str!("../../Cargo.lock")).expect("cargo wrote its lock file");
    let version = |name| lock.package.iter().find(|p| p.name == name).map(|p| p.version.clone());
    MATTER.into_iter().filter_map(|name| Some((name.to_owned(), version(name)?))).collect()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
