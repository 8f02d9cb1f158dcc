//! Causal attention on a device: two products and a softmax for some rows of all heads at a time, so that no more scores
//! exist than a part of them, and none are computed that causality hides from all of these rows.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, bail};
use half::{bf16, f16};

use super::kernels::{count, grid, kernel, view};
use super::products::{Matrix, MatrixMut, View, product};

/// Rows of queries whose scores exist at once.
const QUERY_ROWS: usize = 256;

/// Softmax attention of q (query heads × len × dim) to k and v (key-value heads × seen × dim): (query heads × len × dim).
/// Row i sees all but the last len − 1 − i positions. Scores and softmax are in f32, products of what the tensors hold.
pub struct CausalAttention;

impl CustomOp3 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal_attention"
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
        bail!("the CPU has an attention of its own")
    }

    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        ql: &Layout,
        k: &CudaStorage,
        kl: &Layout,
        v: &CudaStorage,
        vl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (queries, len, dim) = ql.shape().dims3()?;
        let (key_values, all, _) = kl.shape().dims3()?;
        let (group, past) = (queries / key_values, all - len);
        let device = &q.device;
        let scale = (dim as f32).sqrt().recip();
        let most = key_values * QUERY_ROWS.min(len) * all;
        // SAFETY: products and the softmax write what is read of these.
        let mut scores = unsafe { device.alloc::<f32>(most)? };
        macro_rules! attend {
            ($type:ty, $stored:expr) => {{
                let (q, k, v) = (view::<$type>(q, ql)?, view::<$type>(k, kl)?, view::<$type>(v, vl)?);
                let mut weights = unsafe { device.alloc::<$type>(most)? };
                let mut out = unsafe { device.alloc::<$type>(queries * len * dim)? };
                let softmax = kernel(device, "causal_softmax", &[("STORED", $stored)])?;
                // Heads that share keys and values, one of each group at a time.
                for (head, start) in (0..group).flat_map(|head| (0..len).step_by(QUERY_ROWS).map(move |s| (head, s))) {
                    let rows = QUERY_ROWS.min(len - start);
                    let seen = past + start + rows;
                    let at = (head * len + start) * dim;
                    let (of_heads, of_keys) = (group * len * dim, all * dim);
                    let part = View::new(rows, seen, seen);
                    let own = q.slice(at..);
                    product::<$type, f32>(
                        device,
                        MatrixMut { values: &mut scores, view: part, step: rows * seen },
                        (0.0, 1.0),
                        Matrix { values: &own, view: View::new(rows, dim, dim), step: of_heads },
                        Matrix { values: &k, view: View::new(seen, dim, dim).t(), step: of_keys },
                        key_values,
                    )?;
                    let (columns, before) = (count(seen)?, count(past + start)?);
                    let mut launch = softmax.builder();
                    launch.arg(&scores).arg(&mut weights).arg(&columns).arg(&before).arg(&scale);
                    // SAFETY: the arguments are those of the kernel; both have key_values × rows × seen values.
                    unsafe { launch.launch(grid(rows, key_values)?) }.w()?;
                    let mut to = out.slice_mut(at..);
                    product::<$type, $type>(
                        device,
                        MatrixMut { values: &mut to, view: View::new(rows, dim, dim), step: of_heads },
                        (0.0, 1.0),
                        Matrix { values: &weights, view: part, step: rows * seen },
                        Matrix { values: &v, view: View::new(seen, dim, dim), step: of_keys },
                        key_values,
                    )?;
                }
                CudaStorage::wrap_cuda_slice(out, device.clone())
            }};
        }
        let out = match q.dtype() {
            DType::F32 => attend!(f32, 0),
            DType::BF16 => attend!(bf16, 1),
            DType::F16 => attend!(f16, 2),
            other => bail!("attention in {other:?}"),
        };
        Ok((out, ql.shape().clone()))
    }
}
