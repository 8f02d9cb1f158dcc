//! Sums of tensors, value by value: on the CPU in a loop of our own, on other devices by candle.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};

use crate::linalg::{PIECE, in_chunks, simd};
use crate::tensors::slice;

/// x + y.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.contiguous()?.apply_op2_no_bwd(&y.contiguous()?, &Add),
        _ => x + y,
    }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (slice(x, xl)?, slice(y, yl)?);
        let out = in_chunks(x.len(), PIECE, |chunk, out| {
            let here = chunk * PIECE..chunk * PIECE + out.len();
            add_slice(&x[here.clone()], &y[here], out);
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

simd::vectorized! {
    fn add_slice(x: &[f32], y: &[f32], out: &mut [f32]) {
        for (o, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *o = x + y;
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::tensors;

    pub fn random(shape: (usize, usize), seed: f32) -> Tensor {
        let n = shape.0 * shape.1;
        let values: Vec<f32> = (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
        let (a, b) = (tensors::values(a).unwrap(), tensors::values(b).unwrap());
        assert_eq!(a.len(), b.len());
        for (i, (x, y)) in a.iter().zip(&b).enumerate() {
            assert!((x - y).abs() <= tolerance, "{i}: {x} {y}");
        }
    }
}
