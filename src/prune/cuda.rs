//! Pruning on a device: the kernels behind the methods.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, LaunchArgs, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage, Device, Layout, Result, Storage, Tensor, WithDType, bail};

use crate::gpu::kernels::{BLOCKS, NONE, THREADS, WARP, count, grid, kernel, view};
use crate::gpu::products::{Matrix, MatrixMut, Value, by_dtype, product};
use crate::gpu::views::View;

/// Which weights of a block of columns go.
pub enum Removal<'a> {
    /// Those up to the score that has this rank among so many scores.
    UpToRank(&'a dyn Fn(usize) -> usize),
    /// The `gone` smallest of every `size` consecutive ones.
    OfGroups { size: usize, gone: usize },
}

/// The digits of a score that are found one after the other, `count_digit` says how.
const DIGITS: u32 = 3;
/// Values of a `Selection`: bits, rank, blocks done, and a count for each of 2¹¹ digits.
const SELECTION: usize = 3 + (1 << 11);

/// An argument that may be missing.
fn arg_or_none<'a, T>(launch: &mut LaunchArgs<'a>, argument: Option<&'a T>)
where
    LaunchArgs<'a>: PushKernelArg<&'a T> + PushKernelArg<&'a CUdeviceptr>,
{
    match argument {
        Some(argument) => PushKernelArg::<&'a T>::arg(launch, argument),
        None => PushKernelArg::<&'a CUdeviceptr>::arg(launch, &NONE),
    };
}

/// The first columns of the rows of a matrix.
struct Scored<'a> {
    weights: &'a CudaView<'a, f32>,
    rows: usize,
    columns: usize,
    stride: usize,
    /// None where a weight's score is its size.
    scales: Option<&'a CudaView<'a, f32>>,
}

/// The score that has this rank (from 0), as the kernels take it.
fn select(device: &CudaDevice, scored: &Scored, rank: usize) -> Result<CudaSlice<u32>> {
    let mut start = vec![0u32; SELECTION];
    start[1] = count(rank)?;
    let mut selection = device.clone_htod(&start)?;
    let f = kernel(device, "count_digit", &[])?;
    let blocks = (scored.rows * scored.columns).div_ceil(THREADS).min(BLOCKS);
    let (rows, columns, stride) = (scored.rows as u64, count(scored.columns)?, scored.stride as u64);
    for digit in 0..DIGITS {
        let mut launch = f.builder();
        launch.arg(scored.weights).arg(&rows).arg(&columns).arg(&stride);
        arg_or_none(&mut launch, scored.scales);
        launch.arg(&digit).arg(&mut selection);
        // SAFETY: the arguments are those of the kernel, and the weights have these rows.
        unsafe { launch.launch(grid(blocks, 1)?) }.w()?;
    }
    Ok(selection)
}

/// Zeroes the weights (rows × columns) up to the one that has this rank by size.
pub fn prune_up_to(
    device: &CudaDevice,
    weights: &mut CudaSlice<f32>,
    (rows, columns): (usize, usize),
    rank: usize,
) -> Result<()> {
    let selection = {
        let weights = weights.slice(..);
        select(device, &Scored { weights: &weights, rows, columns, stride: columns, scales: None }, rank)?
    };
    let f = kernel(device, "prune_up_to", &[])?;
    let all = (rows * columns) as u64;
    let mut launch = f.builder();
    launch.arg(weights).arg(&all).arg(&selection);
    // SAFETY: the arguments are those of the kernel, and the weights are so many.
    unsafe { launch.launch(grid((rows * columns).div_ceil(THREADS).min(BLOCKS), 1)?) }.w()?;
    Ok(())
}

/// Zeroes the `gone` weights of the smallest scores in each row, ties to the lower column.
pub fn prune_rows(
    device: &CudaDevice,
    weights: &mut CudaSlice<f32>,
    (rows, columns): (usize, usize),
    scales: &CudaView<f32>,
    gone: usize,
) -> Result<()> {
    if gone == 0 {
        return Ok(());
    }
    let f = kernel(device, "prune_rows", &[])?;
    let (columns, gone) = (count(columns)?, count(gone)?);
    let mut launch = f.builder();
    launch.arg(weights).arg(&columns).arg(scales).arg(&gone);
    // SAFETY: the arguments are those of the kernel, and the weights have these rows.
    unsafe { launch.launch(grid(rows, 1)?) }.w()?;
    Ok(())
}

/// Zeroes the `gone` weights of the smallest scores of every `size` consecutive ones, ties as on the CPU.
pub fn prune_groups(
    device: &CudaDevice,
    weights: &mut CudaSlice<f32>,
    columns: usize,
    scales: Option<&CudaView<f32>>,
    (size, gone): (usize, usize),
) -> Result<()> {
    let groups = weights.len() / size;
    let f = kernel(device, "prune_groups", &[("GROUP", size)])?;
    let (all, columns, gone) = (groups as u64, count(columns)?, count(gone)?);
    let mut launch = f.builder();
    launch.arg(weights).arg(&all).arg(&columns);
    arg_or_none(&mut launch, scales);
    launch.arg(&gone);
    // SAFETY: the arguments are those of the kernel, and the weights have so many groups.
    unsafe { launch.launch(grid(groups.div_ceil(THREADS), 1)?) }.w()?;
    Ok(())
}

/// SparseGPT's columns, `width` at a time: prunes the weights (rows × d) and compensates, with the factor U (d × d) and
/// the `scales` 1/u_jj.
pub fn solve(
    device: &CudaDevice,
    weights: &mut CudaSlice<f32>,
    (rows, d): (usize, usize),
    factor: &CudaView<f32>,
    scales: &CudaView<f32>,
    width: usize,
    removal: &Removal,
) -> Result<()> {
    let width = width.min(d);
    let group = if let Removal::OfGroups { size, .. } = removal { *size } else { 4 };
    let f = kernel(device, "solve_block", &[("COLUMNS", width), ("GROUP", group)])?;
    // SAFETY: the kernel writes what is read of it.
    let mut errors = unsafe { device.alloc::<f32>(rows * width)? };
    for start in (0..d).step_by(width) {
        let b = width.min(d - start);
        let end = start + b;
        let scales = scales.slice(start..end);
        let (selection, gone) = match removal {
            Removal::UpToRank(rank) => {
                let weights = weights.slice(start..);
                let scored = Scored { weights: &weights, rows, columns: b, stride: d, scales: Some(&scales) };
                (Some(select(device, &scored, rank(rows * b))?), 0)
            }
            Removal::OfGroups { gone, .. } => (None, *gone),
        };
        {
            let mut own = weights.slice_mut(start..);
            let u = factor.slice(start * d + start..);
            let (rows, b, stride, gone) = (count(rows)?, count(b)?, d as u64, count(gone)?);
            let mut launch = f.builder();
            launch.arg(&mut own).arg(&rows).arg(&b).arg(&stride).arg(&u).arg(&scales).arg(&mut errors);
            arg_or_none(&mut launch, selection.as_ref());
            launch.arg(&gone);
            let blocks = (rows as usize).div_ceil(THREADS / WARP);
            // SAFETY: the arguments are those of the kernel, whose views begin where the block of columns does.
            unsafe { launch.launch(grid(blocks, 1)?) }.w()?;
        }
        if end < d {
            // W[:, end..] -= E · U[block, end..]
            let u = factor.slice(start * d + end..);
            let mut rest = weights.slice_mut(end..);
            let to = MatrixMut { values: &mut rest, view: View::new(rows, d - end, d), step: 0 };
            let a = Matrix { values: &errors, view: View::new(rows, b, b), step: 0 };
            let b = Matrix { values: &u, view: View::new(b, d - end, d), step: 0 };
            product::<f32, f32>(device, to, (1.0, -1.0), a, b, 1)?;
        }
    }
    Ok(())
}

/// Weights whose flags make a byte; one thread packs them.
const OCTET: usize = 8;

/// A bit for each weight that is left, eight a byte and the first the lowest; and, if they `changed`, the weights that are
/// left, in their own precision. Both on the host; the tensor is on a CUDA device.
pub fn pack_left(weight: &Tensor, changed: bool) -> Result<(Tensor, Option<Tensor>)> {
    let weight = weight.contiguous()?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("weights are packed here on CUDA devices") };
    by_dtype!(weight.dtype(), T => pack::<T>(storage, layout, changed))
}

fn pack<T: Value + WithDType>(
    weight: &CudaStorage,
    layout: &Layout,
    changed: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let device = weight.device.clone();
    let weights = view::<T>(weight, layout)?;
    let all = layout.shape().elem_count();
    let (bytes, tiles) = (all.div_ceil(OCTET), all.div_ceil(OCTET * THREADS).max(1));
    // SAFETY: the kernel writes all of both.
    let (mut bits, mut counts) = unsafe { (device.alloc::<u8>(bytes)?, device.alloc::<u32>(tiles)?) };
    let (all, stored) = (all as u64, [("STORED", T::STORED)]);
    let f = kernel(&device, "mark_left", &stored)?;
    let mut launch = f.builder();
    launch.arg(&weights).arg(&all).arg(&mut bits).arg(&mut counts);
    // SAFETY: the arguments are those of the kernel, and there are so many weights.
    unsafe { launch.launch(grid(tiles, 1)?) }.w()?;
    let bits = Tensor::from_vec(device.clone_dtoh(&bits)?, bytes, &Device::Cpu)?;
    if !changed {
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
    launch.arg(&weights).arg(&all).arg(&offsets).arg(&mut values);
    // SAFETY: the arguments are those of the kernel, and the offsets those of its tiles.
    unsafe { launch.launch(grid(tiles, 1)?) }.w()?;
    Ok((bits, Some(Tensor::from_vec(device.clone_dtoh(&values)?, left, &Device::Cpu)?)))
}
