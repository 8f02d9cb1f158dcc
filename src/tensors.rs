//! Reaching the numbers inside candle tensors.

use anyhow::ensure;
use candle_core::{CpuStorage, DType, Result, Storage, Tensor};

/// All values as f32 on the host, row-major.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// As [`values`], but an error where one is NaN or infinite; `what` names the tensor in it.
pub fn finite_values(tensor: &Tensor, what: &str) -> anyhow::Result<Vec<f32>> {
    let values = values(tensor)?;
    let bad = values.iter().filter(|x| !x.is_finite()).count();
    ensure!(bad == 0, "{bad} of {} values of the {what} are NaN or infinite", values.len());
    Ok(values)
}

/// Calls `f` with the values of a tensor: without a copy where it is a contiguous f32 tensor on the
/// host, else of a copy that is.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    if let Storage::Cpu(CpuStorage::F32(values)) = &*storage
        && let Some((start, end)) = layout.contiguous_offsets()
    {
        return Ok(f(&values[start..end]));
    }
    drop(storage);
    values(tensor).map(|v| f(&v))
}
