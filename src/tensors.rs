//! Reaching the numbers inside candle tensors.

use std::io::Write;

use anyhow::{bail, ensure};
use candle_core::{CpuStorage, D, DType, Device, Layout, Result, Storage, Tensor};
use half::f16;
use rayon::prelude::*;

use crate::linalg::{CHUNK, bf16, copied};

/// All values as f32 on the host, row-major.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(copied(&values[start..end])),
        (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => Ok(bf16::widened(&values[start..end])),
        _ => {
            drop(storage);
            match tensor.dtype() == DType::BF16 && !tensor.device().is_cpu() {
                // Widened here, half as many bytes have to come.
                true => values(&tensor.contiguous()?.to_device(&Device::Cpu)?),
                false => tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1(),
            }
        }
    }
}

/// The values of a contiguous f32 tensor on the host, within an operation of our own.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor"),
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

/// The tensor in f32 without gaps, where there are kernels for it: on the host or a CUDA device. An error where a value is
/// NaN or infinite; `what` names the tensor in it.
pub fn finite(tensor: &Tensor, what: &str) -> anyhow::Result<Tensor> {
    let tensor = match tensor.device().is_metal() {
        true => tensor.to_device(&Device::Cpu)?,
        false => tensor.clone(),
    };
    let tensor = to_dtype(&tensor, DType::F32)?.contiguous()?;
    let bad = match tensor.device().is_cpu() {
        true => with_values(&tensor, |values| {
            values.par_chunks(CHUNK).map(|chunk| chunk.iter().filter(|x| !x.is_finite()).count()).sum()
        })?,
        // Of these alone is the product with 0 not 0.
        false => count(&(&tensor * 0.0)?.ne(0f32)?)? as usize,
    };
    ensure!(bad == 0, "{bad} of {} values of the {what} are NaN or infinite", tensor.elem_count());
    Ok(tensor)
}

/// How many of the flags (of u8, 0 or 1) are set.
fn count(flags: &Tensor) -> Result<u64> {
    // Row by row, which are short enough for f32 to count them exactly, and are many enough for a device.
    let sums: Vec<f32> = flags.to_dtype(DType::F32)?.sum(D::Minus1)?.flatten_all()?.to_vec1()?;
    Ok(sums.into_iter().map(|sum| sum as u64).sum())
}

/// How many values are 0.
pub fn zeros(tensor: &Tensor) -> Result<u64> {
    match tensor.device().is_cpu() {
        true => with_values(tensor, |values| {
            values.par_chunks(CHUNK).map(|values| values.iter().filter(|&&x| x == 0.0).count() as u64).sum()
        }),
        false => count(&tensor.eq(0f32)?),
    }
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
