//! Norms of rows: on the CPU a fused loop of our own, parallel over rows; on other devices candle's operation. They are
//! tested against each other.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};

use crate::linalg::{in_chunks, simd};
use crate::tensors::slice;

/// A norm with its weights.
#[derive(Clone)]
pub struct Norm {
    pub weight: Tensor, // (columns)
    pub epsilon: f32,
}

impl Norm {
    /// (rows, columns) → (rows, columns)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.weight, self.epsilon)
    }
}

/// Root-mean-square norm of each row: x / √(mean(x²) + ε) · weight.
fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.contiguous()?.apply_op2_no_bwd(weight, &RmsNorm { epsilon }),
        _ => candle_nn::ops::rms_norm(x, weight, epsilon),
    }
}

struct RmsNorm {
    epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, weight: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, xl)?, slice(weight, wl)?);
        let width = weight.len();
        let out = in_chunks(x.len(), width, |row, out| {
            rms_norm_row(&x[row * width..][..width], weight, self.epsilon, out);
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

simd::vectorized! {
    fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let scale = (simd::sum_of_squares(x) / x.len() as f32 + epsilon).sqrt().recip();
        for (o, (x, w)) in out.iter_mut().zip(x.iter().zip(weight)) {
            *o = x * scale * w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::tests::{close, random};
    use super::*;

    #[test]
    fn rms_norm_equals_candles_operations() {
        let (x, weight) = (random((70, 301), 0.4), random((1, 301), 0.5).flatten_all().unwrap());
        let theirs = candle_nn::ops::rms_norm_slow(&x, &weight, 1e-5).unwrap();
        close(&rms_norm(&x, &weight, 1e-5).unwrap(), &theirs, 2e-6);
    }
}
