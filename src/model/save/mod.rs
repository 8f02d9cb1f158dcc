//! A model on its way out: as the files that others load, with some of its weights replaced.
//!
//! Tensors are planned first, with their names, shapes and precisions, so that files can be laid out before a number is
//! read; then they are made one by one. Nothing of the model but one tensor is in memory.

mod gguf;
mod hub;
mod safetensors;
mod tensors;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::ModelFiles;
use super::spec::Spec;
use super::weights::Weights;
pub use gguf::write_metadata;
use tensors::Planned;

/// What becomes of the weight of a linear: its block and its number there, and the dense weight (rows, columns), in the
/// precision of the files; the weight that is written, of the same shape.
pub type Change<'a> = dyn FnMut(usize, usize, Tensor) -> Result<Tensor> + 'a;

/// What is told of a long write: bytes written, of how many.
pub type Written<'a> = dyn FnMut(u64, u64) -> Result<()> + 'a;

/// A model that is ready to be written.
pub struct Saving {
    source: Box<dyn Weights>,
    /// What the source computes.
    spec: Spec,
    tensors: Vec<Planned>,
    kind: Kind,
}

/// What is written beside tensors.
enum Kind {
    /// Files of a Hugging Face folder: names and contents, and those that are copied.
    Hub { files: Vec<(String, String)>, copied: Vec<PathBuf> },
    /// One file, of this metadata.
    Gguf(gguf::Metadata),
}

impl Saving {
    /// As a Hugging Face folder. `dtype` is the precision of all weights; None keeps the source's, where that is not
    /// quantised, or else takes `otherwise`.
    ///
    /// # Errors
    /// Where no such folder can be made of the files; it is said what is missing.
    pub fn to_hub(files: &ModelFiles, dtype: Option<DType>, otherwise: DType) -> Result<Self> {
        let (spec, source) = files.open()?;
        match files {
            ModelFiles::Hub(dir) => hub::of_hub(dir, spec, source, dtype, otherwise),
            ModelFiles::Gguf(path) => hub::of_gguf(path, spec, source, dtype.unwrap_or(otherwise)),
        }
    }

    /// As a GGUF file, whose matrices are in `dtype`.
    ///
    /// # Errors
    /// Where no such file can be made of the model; it is said why.
    pub fn to_gguf(files: &ModelFiles, dtype: DType) -> Result<Self> {
        let (spec, source) = files.open()?;
        match files {
            ModelFiles::Gguf(path) => gguf::of_gguf(path, spec, source, dtype),
            ModelFiles::Hub(dir) => gguf::of_hub(dir, spec, source, dtype),
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(Planned::bytes).sum()
    }

    /// The precision of most weights, as files call it.
    pub fn precision(&self) -> String {
        let mut by_type: std::collections::BTreeMap<String, u64> = Default::default();
        self.tensors.iter().for_each(|tensor| *by_type.entry(tensor.precision()).or_default() += tensor.bytes());
        by_type.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(String::new(), |(precision, _)| precision)
    }

    /// The precision that linears are written in, where it is one that cannot hold every number of `dtype`.
    pub fn rounds(&self, dtype: DType) -> Option<DType> {
        let holds = |narrow: DType| narrow == dtype || narrow == DType::F32 || narrow == DType::F64;
        self.tensors.iter().filter_map(Planned::linear_dtype).find(|&narrow| !holds(narrow))
    }

    /// Writes everything into `dir`, which is there and empty; `name` is the model's, for a file's name.
    ///
    /// # Errors
    /// Where a tensor cannot be read or made, or a file cannot be written; those of `change` and `written`.
    pub fn write(&self, dir: &Path, name: &str, change: &mut Change, written: &mut Written) -> Result<()> {
        let total = self.bytes();
        let mut done = 0;
        let mut make = |tensor: &Planned| {
            let bytes = tensors::made(tensor, &self.spec, &*self.source, change)?;
            ensure!(
                bytes.len() as u64 == tensor.bytes(),
                "`{}` came to {} bytes for {}",
                tensor.name,
                bytes.len(),
                tensor.bytes()
            );
            done += tensor.bytes();
            written(done, total)?;
            Ok(bytes)
        };
        match &self.kind {
            Kind::Hub { files, copied } => {
                safetensors::write(dir, &self.tensors, &mut make)?;
                hub::write_files(dir, files, copied)
            }
            Kind::Gguf(metadata) => gguf::write(&dir.join(format!("{name}.gguf")), metadata, &self.tensors, &mut make),
        }
    }
}
