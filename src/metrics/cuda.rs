//! Scores of positions from their logits, in one pass over a row.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, bail};

use crate::gpu::kernels::{count, grid, kernel, view};

/// ln softmax of each row of logits (rows × vocabulary, f32) at the place that ids (rows, u32) name: (rows).
pub struct LogLikelihoods;

impl CustomOp2 for LogLikelihoods {
    fn name(&self) -> &'static str {
        "log_likelihoods"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("the CPU has a loop of its own")
    }

    fn cuda_fwd(
        &self,
        logits: &CudaStorage,
        ll: &Layout,
        ids: &CudaStorage,
        il: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, vocabulary) = ll.shape().dims2()?;
        if il.shape().dims1()? != rows {
            bail!("{:?} ids for {rows} rows", il.shape());
        }
        let device = &logits.device;
        let (logits, ids) = (view::<f32>(logits, ll)?, view::<u32>(ids, il)?);
        // SAFETY: the kernel writes all of it.
        let mut out = unsafe { device.alloc::<f32>(rows)? };
        let width = count(vocabulary)?;
        let f = kernel(device, "log_likelihoods", &[])?;
        let mut launch = f.builder();
        launch.arg(&logits).arg(&ids).arg(&mut out).arg(&width);
        // SAFETY: the arguments are those of the kernel, and ids are within the vocabulary.
        unsafe { launch.launch(grid(rows, 1)?) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from(rows)))
    }
}

/// Loss, JS, KL and agreement (rows × 4) of the dense model's logits and the pruned one's (rows × vocabulary, f32), at the
/// tokens ids (rows, u32).
pub struct CompareLogits;

impl CustomOp3 for CompareLogits {
    fn name(&self) -> &'static str {
        "compare_logits"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("the CPU has a loop of its own")
    }

    fn cuda_fwd(
        &self,
        dense: &CudaStorage,
        dl: &Layout,
        pruned: &CudaStorage,
        pl: &Layout,
        ids: &CudaStorage,
        il: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, vocabulary) = dl.shape().dims2()?;
        if pl.shape() != dl.shape() || il.shape().dims1()? != rows {
            bail!("logits of {:?} and {:?}, ids of {:?}", dl.shape(), pl.shape(), il.shape());
        }
        let device = &dense.device;
        let (dense, pruned, ids) = (view::<f32>(dense, dl)?, view::<f32>(pruned, pl)?, view::<u32>(ids, il)?);
        // SAFETY: the kernel writes all of it.
        let mut out = unsafe { device.alloc::<f32>(rows * 4)? };
        let width = count(vocabulary)?;
        let f = kernel(device, "compare_logits", &[])?;
        let mut launch = f.builder();
        launch.arg(&dense).arg(&pruned).arg(&ids).arg(&mut out).arg(&width);
        // SAFETY: the arguments are those of the kernel, and ids are within the vocabulary.
        unsafe { launch.launch(grid(rows, 1)?) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), Shape::from((rows, 4))))
    }
}
