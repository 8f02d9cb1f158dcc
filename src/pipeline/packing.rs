//! What pruning left of a weight, packed on the device, so that no more comes to the host than is kept.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Device, Layout, Result, Storage, Tensor, WithDType, bail};

use crate::gpu::kernels::{THREADS, count, grid, kernel, view};
use crate::gpu::products::{Value, by_dtype};

/// Weights whose flags make a byte; one thread packs them.
const OCTET: usize = 8;

/// A bit for each weight that is left, eight a byte and the first the lowest; and the weights that are left, in their own
/// precision, where one of them is another than in `before`. Both on the host; the tensors are on a CUDA device.
pub fn pack_left(before: &Tensor, after: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    if before.shape() != after.shape() || before.dtype() != after.dtype() {
        bail!("weights of {:?} and {:?}", before.shape(), after.shape());
    }
    let (before, after) = (before.contiguous()?, after.contiguous()?);
    let ((before, bl), (after, al)) = (before.storage_and_layout(), after.storage_and_layout());
    let (Storage::Cuda(before), Storage::Cuda(after)) = (&*before, &*after) else {
        bail!("weights are packed here on CUDA devices")
    };
    by_dtype!(after.dtype(), T => pack::<T>((before, bl), (after, al)))
}

fn pack<T: Value + WithDType>(
    (before, bl): (&CudaStorage, &Layout),
    (after, al): (&CudaStorage, &Layout),
) -> Result<(Tensor, Option<Tensor>)> {
    let device = after.device.clone();
    let (before, after) = (view::<T>(before, bl)?, view::<T>(after, al)?);
    let weights = al.shape().elem_count();
    let (bytes, tiles) = (weights.div_ceil(OCTET), weights.div_ceil(OCTET * THREADS).max(1));
    // SAFETY: the kernel writes all of both.
    let (mut bits, mut counts) = unsafe { (device.alloc::<u8>(bytes)?, device.alloc::<u32>(tiles)?) };
    let mut changed = device.alloc_zeros::<u32>(1)?;
    let (all, stored) = (weights as u64, [("STORED", T::STORED)]);
    let f = kernel(&device, "mark_left", &stored)?;
    let mut launch = f.builder();
    launch.arg(&before).arg(&after).arg(&all).arg(&mut bits).arg(&mut counts).arg(&mut changed);
    // SAFETY: the arguments are those of the kernel; both weights have so many values.
    unsafe { launch.launch(grid(tiles, 1)?) }.w()?;
    let bits = Tensor::from_vec(device.clone_dtoh(&bits)?, bytes, &Device::Cpu)?;
    if device.clone_dtoh(&changed)? == [0] {
        return Ok((bits, None));
    }
    let mut left = 0;
    let offset = |count: &u32| (left, left += *count as usize).0;
    let offsets: Vec<usize> = device.clone_dtoh(&counts)?.iter().map(offset).collect();
    let offsets: Vec<u32> = offsets.into_iter().map(count).collect::<Result<_>>()?;
    let offsets = device.clone_htod(&offsets)?;
    // SAFETY: the kernel writes as many as the counts add up to.
    let mut values = unsafe { device.alloc::<T>(left)? };
    let f = kernel(&device, "take_left", &stored)?;
    let mut launch = f.builder();
    launch.arg(&after).arg(&all).arg(&offsets).arg(&mut values);
    // SAFETY: the arguments are those of the kernel, and the offsets those of its tiles.
    unsafe { launch.launch(grid(tiles, 1)?) }.w()?;
    Ok((bits, Some(Tensor::from_vec(device.clone_dtoh(&values)?, left, &Device::Cpu)?)))
}
