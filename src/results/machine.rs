//! Where a study ran, and with what.

use std::collections::BTreeMap;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::model::device;
use crate::pipeline::total_bytes;

/// The machine that a study ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub os: String,
    pub architecture: String,
    /// What the processor calls itself, where the system tells.
    pub cpu: Option<String>,
    /// Processors that this process could use.
    pub cores: usize,
    /// Memory of the machine, where the system tells.
    pub memory_bytes: Option<u64>,
    /// Threads that computed.
    pub threads: usize,
    /// Where it was computed: `cpu`, `cuda:0`, or several.
    pub device: String,
    /// What the device calls itself, where it is not the processor.
    pub device_name: Option<String>,
}

impl Machine {
    /// This one, where these devices compute.
    pub fn here(devices: &[Device]) -> Self {
        let names: Vec<String> = devices.iter().map(device::name).collect();
        let mut own_names: Vec<String> = devices.iter().filter_map(device::own_name).collect();
        own_names.dedup();
        Self {
            os: std::env::consts::OS.into(),
            architecture: std::env::consts::ARCH.into(),
            cpu: cpu_name(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_bytes: total_bytes(),
            threads: rayon::current_num_threads(),
            device: names.join(", "),
            device_name: (!own_names.is_empty()).then(|| own_names.join(", ")),
        }
    }
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Versions of calipr and of the crates that numbers depend on, as they were locked when it was built.
pub fn versions() -> BTreeMap<String, String> {
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
