//! A cell's model on its way out: its pruned blocks from the cache, or pruned again, put into the files of the dense model.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use super::study::Study;
use super::{Watch, stop_if_interrupted};
use crate::fault::At;
use crate::model::{ModelFiles, Saving};
use crate::prune::Packed;
use crate::recipe::{Cell, Dtype, ExportSpec, ModelFormat, Recipe};

/// A model's files, about to be written as others load them.
///
/// # Errors
/// Where no such files can be made of the model.
pub fn saving(model: &ModelFiles, format: ModelFormat, dtype: Option<Dtype>, held: Dtype) -> Result<Saving> {
    match format {
        ModelFormat::Hub => Saving::to_hub(model, dtype.map(DType::from), held.into()),
        ModelFormat::Gguf => Saving::to_gguf(model, dtype.unwrap_or(held).into()),
    }
}

/// An error where what a recipe has exported at its end cannot be made of the model: before anything is computed.
pub fn check_export(recipe: &Recipe, model: &ModelFiles) -> Result<()> {
    let Some(ExportSpec { format, dtype, .. }) = recipe.export else { return Ok(()) };
    saving(model, format, dtype, recipe.model.dtype).map(|_| ()).at(|| "[export]".into())
}

/// Writes the model of a cell into `dir`, an empty folder; `name` is what a single file is called. `written` is told
/// the bytes that are written, of how many.
///
/// # Errors
/// Where blocks cannot be pruned, a tensor cannot be read, or a file cannot be written.
pub fn export(
    study: &Study,
    cell: &Cell,
    saving: &Saving,
    (dir, name): (&Path, &str),
    watch: &dyn Watch,
    written: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    study.prune(cell)?;
    let mut read: Option<(usize, Vec<Packed>)> = None;
    let mut change = |block: usize, linear: usize, dense: Tensor| -> Result<Tensor> {
        if cell.pruning().is_none() {
            return Ok(dense);
        }
        if read.as_ref().is_none_or(|(index, _)| *index != block) {
            let packed = study.packed_block(cell, block);
            let lost =
                || format!("block {block} of {} has gone from the cache; the same command makes it anew", cell.id());
            read = Some((block, packed.with_context(lost)?));
        }
        let (_, packed) = read.as_ref().expect("it was just read");
        packed[linear].applied_to(&dense).with_context(|| format!("block {block} of {}", cell.id()))
    };
    let mut told = |done: u64, of: u64| {
        written(done, of);
        stop_if_interrupted(watch)
    };
    saving.write(dir, name, &mut change, &mut told)
}
