//! Elementwise parts of a block on CUDA devices.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use crate::gpu::kernels::{BLOCKS, THREADS, grid, kernel, view};
use crate::gpu::products::{Value, by_dtype};

/// silu(gate)·up, both contiguous; computed in f32. (candle's silu rounds to bf16 on the way.)
pub fn swiglu((gate, gl): (&CudaStorage, &Layout), (up, ul): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    if gl.shape() != ul.shape() || gate.dtype() != up.dtype() {
        bail!("swiglu of {:?} and {:?}", gl.shape(), ul.shape());
    }
    let out = by_dtype!(gate.dtype(), T => compute::<T>((gate, gl), (up, ul))?);
    Ok((out, gl.shape().clone()))
}

fn compute<T: Value>((gate, gl): (&CudaStorage, &Layout), (up, ul): (&CudaStorage, &Layout)) -> Result<CudaStorage> {
    let device = &gate.device;
    let count = gl.shape().elem_count();
    let (gate, up) = (view::<T>(gate, gl)?, view::<T>(up, ul)?);
    // SAFETY: the kernel writes all of it.
    let mut out = unsafe { device.alloc::<T>(count)? };
    let f = kernel(device, "swiglu", &[("STORED", T::STORED)])?;
    let all = count as u64;
    let mut launch = f.builder();
    launch.arg(&gate).arg(&up).arg(&mut out).arg(&all);
    // SAFETY: the arguments are those of the kernel, and all three have so many values.
    unsafe { launch.launch(grid(count.div_ceil(THREADS).clamp(1, BLOCKS), 1)?) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
}
