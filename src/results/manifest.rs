//! `run.json`: all that is needed to run the study again and compare.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Finished;
use crate::digest::Digest;
use crate::model::Config;
use crate::pipeline::{Inputs, Status};
use crate::recipe::Recipe;

/// The content of `run.json`.
#[derive(Debug, Serialize)]
pub struct Manifest<'a> {
    /// The recipe with all layers and defaults resolved.
    pub recipe: &'a Recipe,
    pub model: ModelEntry<'a>,
    /// Digests of the data, by `calibration.NAME` and `suite.NAME`.
    pub data: BTreeMap<String, DataEntry>,
    pub versions: BTreeMap<&'static str, String>,
    pub machine: Machine,
    /// Seconds since 1970.
    pub started: u64,
    pub finished: Option<u64>,
    pub cells: CellCounts,
}

#[derive(Debug, Serialize)]
pub struct ModelEntry<'a> {
    pub source: String,
    /// BLAKE3 over the names and contents of the model's files.
    pub digest: Digest,
    pub config: &'a Config,
}

#[derive(Debug, Serialize)]
pub struct DataEntry {
    pub source: String,
    /// BLAKE3 over the file and how it is read.
    pub digest: Digest,
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub os: &'static str,
    pub architecture: &'static str,
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

impl<'a> Manifest<'a> {
    pub fn new(recipe: &'a Recipe, inputs: &'a Inputs, device: String, planned: usize) -> Self {
        let calibrations = inputs.calibrations.iter().map(|(name, part)| (format!("calibration.{name}"), part));
        let suites = inputs.suites.iter().map(|(name, part)| (format!("suite.{name}"), part));
        let entry = |(name, part): (String, &crate::pipeline::InputPart)| {
            (name, DataEntry { source: part.part.source().to_string(), digest: part.digest })
        };
        Self {
            recipe,
            model: ModelEntry {
                source: recipe.model.source.to_string(),
                digest: inputs.model_digest,
                config: &inputs.config,
            },
            data: calibrations.chain(suites).map(entry).collect(),
            versions: versions(),
            machine: Machine {
                os: std::env::consts::OS,
                architecture: std::env::consts::ARCH,
                cpu: cpu_name(),
                threads: rayon::current_num_threads(),
                device,
            },
            started: now(),
            finished: None,
            cells: CellCounts { planned, ..CellCounts::default() },
        }
    }

    /// Notes that the run ended.
    pub fn finish(&mut self) {
        self.finished = Some(now());
    }
}

/// Versions of calipr and of the crates that numbers depend on, as they were locked when it was built.
fn versions() -> BTreeMap<&'static str, String> {
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
    MATTER.into_iter().filter_map(|name| Some((name, version(name)?))).collect()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
