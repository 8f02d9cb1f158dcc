//! Sums over the rows of inputs, added up on a device.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, InplaceOp2, Layout, Result, Tensor, bail};

use crate::gpu::kernels::{THREADS, count, grid, kernel, view};
use crate::gpu::products::{Matrix, MatrixMut, Value, by_dtype, product};
use crate::gpu::views::View;

/// Adds XᵀX of x (tokens × d), in whatever precision, to sums (d × d) in f32.
pub struct AddGram;

impl AddGram {
    pub fn add(sums: &Tensor, x: &Tensor) -> Result<()> {
        sums.inplace_op2(&x.contiguous()?, &Self)
    }
}

impl InplaceOp2 for AddGram {
    fn name(&self) -> &'static str {
        "add_gram"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        bail!("on the CPU Gram matrices are summed by half")
    }

    fn cuda_fwd(&self, sums: &mut CudaStorage, _: &Layout, x: &CudaStorage, xl: &Layout) -> Result<()> {
        let (tokens, d) = xl.shape().dims2()?;
        let device = sums.device.clone();
        let rows = View::new(tokens, d, d);
        by_dtype!(x.dtype(), T => {
            let values = view::<T>(x, xl)?;
            let to = MatrixMut { values: sums.as_cuda_slice_mut::<f32>()?, view: View::new(d, d, d), step: 0 };
            let a = Matrix { values: &values, view: rows.t(), step: 0 };
            let b = Matrix { values: &values, view: rows, step: 0 };
            product::<T, f32>(&device, to, (1.0, 1.0), a, b, 1)
        })
    }
}

/// Rows whose squares one thread sums.
const ROWS_EACH: usize = 64;

/// Adds the sums of squares down the columns of x (tokens × d), in whatever precision, to sums (d) in f32.
pub struct AddSquares;

impl AddSquares {
    pub fn add(sums: &Tensor, x: &Tensor) -> Result<()> {
        sums.inplace_op2(&x.contiguous()?, &Self)
    }

    fn sum<T: Value>(sums: &mut CudaStorage, (x, xl): (&CudaStorage, &Layout)) -> Result<()> {
        let (rows, columns) = xl.shape().dims2()?;
        let parts = rows.div_ceil(ROWS_EACH);
        let device = sums.device.clone();
        let values = view::<T>(x, xl)?;
        // SAFETY: the first kernel writes what the second reads.
        let mut partial = unsafe { device.alloc::<f32>(parts * columns)? };
        let (blocks, width) = (columns.div_ceil(THREADS), count(columns)?);
        let (all, each, parts_count) = (count(rows)?, ROWS_EACH as u32, count(parts)?);
        let squares = kernel(&device, "column_squares", &[("STORED", T::STORED)])?;
        let mut launch = squares.builder();
        launch.arg(&values).arg(&mut partial).arg(&all).arg(&width).arg(&each);
        // SAFETY: the arguments are those of the kernel; x has so many rows, and there is a part for every ROWS_EACH.
        unsafe { launch.launch(grid(blocks, parts)?) }.w()?;
        let add = kernel(&device, "add_parts", &[("STORED", T::STORED)])?;
        let sums = sums.as_cuda_slice_mut::<f32>()?;
        let mut launch = add.builder();
        launch.arg(&partial).arg(sums).arg(&parts_count).arg(&width);
        // SAFETY: the arguments are those of the kernel; there is a sum a column.
        unsafe { launch.launch(grid(blocks, 1)?) }.w()?;
        Ok(())
    }
}

impl InplaceOp2 for AddSquares {
    fn name(&self) -> &'static str {
        "add_squares"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        bail!("on the CPU squares are summed window by window")
    }

    fn cuda_fwd(&self, sums: &mut CudaStorage, _: &Layout, x: &CudaStorage, xl: &Layout) -> Result<()> {
        by_dtype!(x.dtype(), T => Self::sum::<T>(sums, (x, xl)))
    }
}
