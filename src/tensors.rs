//! Reaching the numbers inside candle tensors.

use std::io::Write;

use anyhow::{bail, ensure};
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use half::f16;
use rayon::prelude::*;

use crate::linalg::{CHUNK, bf16, in_chunks};

/// All values as f32 on the host, row-major.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(in_chunks(end - start, CHUNK, |i, to| to.copy_from_slice(&values[start + i * CHUNK..][..to.len()])))
        }
        (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => Ok(bf16::widened(&values[start..end])),
        _ => {
            drop(storage);
            tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
        }
    }
}

/// The tensor in another precision; in parallel from f32 to bf16 and back on the host.
pub fn to_dtype(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match (tensor.dtype(), dtype) {
        (DType::F32, DType::BF16) if tensor.device().is_cpu() => {
            Tensor::from_vec(with_values(tensor, bf16::rounded)?, tensor.shape(), &Device::Cpu)
        }
        (DType::BF16, DType::F32) if tensor.device().is_cpu() => {
            Tensor::from_vec(values(tensor)?, tensor.shape(), &Device::Cpu)
        }
        _ => tensor.to_dtype(dtype),
    }
}

/// As [`values`], but an error where one is NaN or infinite; `what` names the tensor in it.
pub fn finite_values(tensor: &Tensor, what: &str) -> anyhow::Result<Vec<f32>> {
    let values = values(tensor)?;
    let bad = values.par_chunks(CHUNK).map(|chunk| chunk.iter().filter(|x| !x.is_finite()).count()).sum::<usize>();
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

/// Writes all values, row-major, in the tensor's own precision and the machine's order of bytes.
pub fn write_bytes(tensor: &Tensor, out: &mut impl Write) -> anyhow::Result<()> {
    let flat = || tensor.flatten_all();
    match tensor.dtype() {
        DType::F32 => with_values(tensor, |values| out.write_all(bytemuck::cast_slice(values)))??,
        DType::BF16 => out.write_all(bytemuck::cast_slice(&flat()?.to_vec1::<half::bf16>()?))?,
        DType::F16 => out.write_all(bytemuck::cast_slice(&flat()?.to_vec1::<f16>()?))?,
        DType::U8 => out.write_all(&flat()?.to_vec1::<u8>()?)?,
        other => bail!("tensors of {other:?} are not written"),
    }
    Ok(())
}
