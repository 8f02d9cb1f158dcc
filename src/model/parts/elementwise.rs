//! The elementwise parts of a block.
//!
//! On the CPU they are fused loops of our own, parallel over rows; on other devices the same function
//! composed of candle operations. Each kernel is tested against its composition.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};

use crate::linalg::{CHUNK, in_chunks, simd};
use crate::tensors::slice;

/// silu(gate) · up, where silu(x) = x / (1 + e⁻ˣ).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match gate.device() {
        Device::Cpu => gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &Elementwise("swiglu", swiglu_slice)),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &crate::gpu::Swiglu),
        _ => candle_nn::ops::silu(gate)? * up,
    }
}

/// x + y.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.contiguous()?.apply_op2_no_bwd(&y.contiguous()?, &Elementwise("add", add_slice)),
        _ => x + y,
    }
}

/// A function of two tensors' values, one by one: its name, and what it does to a slice of each.
struct Elementwise(&'static str, fn(&[f32], &[f32], &mut [f32]));

impl CustomOp2 for Elementwise {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (slice(x, xl)?, slice(y, yl)?);
        let out = in_chunks(x.len(), CHUNK, |chunk, out| {
            let here = chunk * CHUNK..chunk * CHUNK + out.len();
            self.1(&x[here.clone()], &y[here], out);
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

simd::vectorized! {
    fn swiglu_slice(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for (o, (g, u)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *o = g / (1.0 + simd::exp(-g)) * u;
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

    #[test]
    fn swiglu_equals_candles_operations() {
        let (gate, up) = (random((70, 300), 0.7), random((70, 300), 0.9));
        let gate = (gate * 8.0).unwrap();
        close(&swiglu(&gate, &up).unwrap(), &(candle_nn::ops::silu(&gate).unwrap() * &up).unwrap(), 2e-5);
    }
}
