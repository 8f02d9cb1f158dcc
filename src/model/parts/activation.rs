//! The functions between a feed-forward's linears.

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};

use crate::linalg::{PIECE, in_chunks, simd};
use crate::model::spec::Activation;
use crate::tensors::slice;

impl Activation {
    /// activation(x), value by value.
    pub fn of(self, x: &Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => x.contiguous()?.apply_op1_no_bwd(&self),
            _ => self.composed(x),
        }
    }

    /// activation(gate)·up, value by value.
    pub fn gated(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match gate.device() {
            Device::Cpu => gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &self),
            // Of the others there is no kernel; they are composed where they are.
            Device::Cuda(_) if self == Self::Silu => gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &self),
            _ => self.composed(gate)? * up,
        }
    }

    /// From candle's operations, in f32.
    fn composed(self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(DType::F32)?;
        match self {
            Self::Silu => candle_nn::ops::silu(&x),
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::QuickGelu => candle_nn::ops::sigmoid(&(&x * 1.702)?)? * &x,
            Self::Relu => x.relu(),
            Self::Relu2 => x.relu()?.sqr(),
        }?
        .to_dtype(dtype)
    }

    fn apply(self, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Silu => silu(x, out),
            Self::Gelu => each(x, out, |x| 0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))),
            Self::GeluTanh => gelu_tanh(x, out),
            Self::QuickGelu => quick_gelu(x, out),
            Self::Relu => each(x, out, |x| x.max(0.0)),
            Self::Relu2 => each(x, out, |x| x.max(0.0) * x.max(0.0)),
        }
    }
}

fn each(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(x));
}

simd::vectorized! {
    fn silu(x: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = x / (1.0 + simd::exp(-x));
        }
    }
}

simd::vectorized! {
    /// x · (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2, where (1 + tanh y) / 2 = 1 / (1 + e^(−2y)).
    fn gelu_tanh(x: &[f32], out: &mut [f32]) {
        const TWICE_ROOT: f32 = 2.0 * 0.797_884_6;
        for (o, x) in out.iter_mut().zip(x) {
            *o = x / (1.0 + simd::exp(-TWICE_ROOT * (x + 0.044715 * x * x * x)));
        }
    }
}

simd::vectorized! {
    fn quick_gelu(x: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = x / (1.0 + simd::exp(-1.702 * x));
        }
    }
}

simd::vectorized! {
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for (o, (g, u)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *o = g / (1.0 + simd::exp(-g)) * u;
        }
    }
}

simd::vectorized! {
    fn times(out: &mut [f32], up: &[f32]) {
        for (o, u) in out.iter_mut().zip(up) {
            *o *= u;
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let out = in_chunks(x.len(), PIECE, |chunk, out| self.apply(&x[chunk * PIECE..][..out.len()], out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl CustomOp2 for Activation {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gl)?, slice(up, ul)?);
        let out = in_chunks(gate.len(), PIECE, |chunk, out| {
            let here = chunk * PIECE..chunk * PIECE + out.len();
            let (gate, up) = (&gate[here.clone()], &up[here]);
            if *self == Self::Silu {
                return swiglu(gate, up, out);
            }
            self.apply(gate, out);
            times(out, up);
        });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &candle_core::CudaStorage,
        gl: &Layout,
        up: &candle_core::CudaStorage,
        ul: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        match self {
            Self::Silu => super::cuda::swiglu((gate, gl), (up, ul)),
            other => candle_core::bail!("{other:?} has no kernel"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::tests::{close, random};
    use super::*;

    #[test]
    fn activations_equal_candles_operations() {
        let (gate, up) = ((random((70, 300), 0.7) * 8.0).unwrap(), random((70, 300), 0.9));
        use Activation::*;
        for activation in [Silu, Gelu, GeluTanh, QuickGelu, Relu, Relu2] {
            let composed = activation.composed(&gate).unwrap();
            close(&activation.of(&gate).unwrap(), &composed, 2e-5);
            close(&activation.gated(&gate, &up).unwrap(), &(composed * &up).unwrap(), 5e-4);
        }
        close(&Silu.gated(&gate, &up).unwrap(), &(candle_nn::ops::silu(&gate).unwrap() * &up).unwrap(), 2e-5);
    }
}
