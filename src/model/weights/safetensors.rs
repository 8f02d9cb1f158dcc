//! A Hugging Face directory: `config.json`, one or many `*.safetensors`, `tokenizer.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{Weights, let_go};
use crate::guard::guarded;

/// The tensors of a directory of safetensors files.
pub struct SafetensorsDir {
    tensors: MmapedSafetensors,
    dir: PathBuf,
}

/// `model.safetensors.index.json`
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::HashMap<String, String>,
}

impl SafetensorsDir {
    /// The weight files of a directory: those its index names, else `model.safetensors`, else the only one.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
        let index = dir.join("model.safetensors.index.json");
        if index.symlink_metadata().is_ok() {
            ensure!(index.is_file(), "{} is no file", index.display());
            let text = std::fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))?;
            let content: Index =
                serde_json::from_str(&text).with_context(|| format!("{} is no index of weights", index.display()))?;
            let names: BTreeSet<String> = content.weight_map.into_values().collect();
            if let Some(name) = names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
                bail!("{} names \"{name}\", which is not a file of the directory", index.display());
            }
            let files: Vec<PathBuf> = names.into_iter().map(|n| dir.join(n)).collect();
            if let Some(file) = files.iter().find(|file| !file.is_file()) {
                bail!("{} is not there, or no file, but {} names it", file.display(), index.display());
            }
            return Ok(files);
        }
        let single = dir.join("model.safetensors");
        if single.symlink_metadata().is_ok() {
            ensure!(single.is_file(), "{} is no file", single.display());
            return Ok(vec![single]);
        }
        let found: Vec<PathBuf> = std::fs::read_dir(dir)
            .with_context(|| format!("cannot list {}", dir.display()))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        match found.len() {
            1 => Ok(found),
            0 => bail!("{} has no *.safetensors; calipr reads safetensors and GGUF", dir.display()),
            n => bail!("{} has {n} *.safetensors but no model.safetensors.index.json that joins them", dir.display()),
        }
    }

    /// Maps the files; nothing is read but their headers.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = Self::files(dir)?;
        // SAFETY: as for every memory-mapped file, it must not be changed while it is mapped; calipr
        // only reads models, and says so where a digest no longer fits.
        let tensors = unsafe { MmapedSafetensors::multi(&files) }
            .with_context(|| format!("cannot read the safetensors of {}", dir.display()))?;
        Ok(Self { tensors, dir: dir.to_owned() })
    }
}

impl Weights for SafetensorsDir {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let read = || {
            let stored = self.tensors.get(name)?;
            let tensor = stored.load(&Device::Cpu)?;
            let_go(stored.data());
            ensure!(tensor.dtype().is_float(), "it holds {:?}, which are no weights", tensor.dtype());
            Ok(tensor)
        };
        guarded(read).with_context(|| format!("tensor `{name}` of {}", self.dir.display()))
    }
}
