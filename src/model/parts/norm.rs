//! Norms of rows: on the CPU fused loops of our own, parallel over rows; on other devices candle's operations. They are
//! tested against each other.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor};

use crate::linalg::{in_chunks, simd};
use crate::model::spec::NormKind;
use crate::tensors::{slice, values};

/// A norm with its weights.
#[derive(Debug, Clone)]
pub struct Norm {
    pub kind: NormKind,
    pub epsilon: f32,
    /// (columns), or (groups, columns) where consecutive rows have weights of their own; None of [`NormKind::Plain`].
    pub weight: Option<Tensor>,
    pub bias: Option<Tensor>,
}

impl Norm {
    /// A root-mean-square norm with these weights.
    pub fn rms(weight: Tensor, epsilon: f32) -> Self {
        Self { kind: NormKind::Rms, epsilon, weight: Some(weight), bias: None }
    }

    /// (rows, columns) → (rows, columns)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => self.on_host(x),
            _ => self.composed(x),
        }
    }

    /// Of parts of rows, `columns` values each: (rows, n · columns) → (rows, n · columns)
    pub fn forward_heads(&self, x: &Tensor, columns: usize) -> Result<Tensor> {
        self.forward(&x.contiguous()?.reshape(((), columns))?)?.reshape(x.shape())
    }

    fn on_host(&self, x: &Tensor) -> Result<Tensor> {
        let flat = |weights: &Option<Tensor>| weights.as_ref().map(values).transpose().map(Option::unwrap_or_default);
        let mut weight = flat(&self.weight)?;
        if self.kind == NormKind::RmsPlusOne {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let op = Rows { kind: self.kind, epsilon: self.epsilon, weight, bias: flat(&self.bias)? };
        x.contiguous()?.apply_op1_no_bwd(&op)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        if let (NormKind::Rms, Some(weight)) = (self.kind, &self.weight)
            && weight.rank() == 1
        {
            return candle_nn::ops::rms_norm(&x.contiguous()?, weight, self.epsilon);
        }
        let in_f32 = x.to_dtype(DType::F32)?;
        let centered = match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => in_f32,
            NormKind::Layer | NormKind::Plain => in_f32.broadcast_sub(&in_f32.mean_keepdim(D::Minus1)?)?,
        };
        let scale = (centered.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.epsilon))?.sqrt()?;
        let mut normed = centered.broadcast_div(&scale)?;
        let columns = x.dim(D::Minus1)?;
        let in_groups = |x: &Tensor, weights: &Tensor| x.reshape(((), weights.elem_count() / columns, columns));
        if let Some(weight) = &self.weight {
            let one = f64::from(u8::from(self.kind == NormKind::RmsPlusOne));
            let weight = (weight.to_dtype(DType::F32)? + one)?;
            normed = in_groups(&normed, &weight)?.broadcast_mul(&weight.reshape(((), columns))?)?;
        }
        if let Some(bias) = &self.bias {
            normed = in_groups(&normed, bias)?.broadcast_add(&bias.to_dtype(DType::F32)?.reshape(((), columns))?)?;
        }
        normed.reshape(x.shape())?.to_dtype(x.dtype())
    }
}

struct Rows {
    kind: NormKind,
    epsilon: f32,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let groups = (self.weight.len() / width).max(1);
        let part = |weights: &[f32], row: usize| match weights.is_empty() {
            true => 0..0,
            false => row % groups * width..(row % groups + 1) * width,
        };
        let out = in_chunks(x.len(), width, |row, out| {
            let x = &x[row * width..][..width];
            let (weight, bias) = (&self.weight[part(&self.weight, row)], &self.bias[part(&self.bias, row)]);
            match self.kind {
                NormKind::Rms | NormKind::RmsPlusOne => rms_norm_row(x, weight, self.epsilon, out),
                NormKind::Layer | NormKind::Plain => layer_norm_row(x, weight, bias, self.epsilon, out),
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
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

simd::vectorized! {
    fn layer_norm_row(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
        let n = x.len() as f32;
        let mean = (x.iter().map(|&x| f64::from(x)).sum::<f64>() / f64::from(n)) as f32;
        for (o, x) in out.iter_mut().zip(x) {
            *o = x - mean;
        }
        let scale = (simd::sum_of_squares(out) / n + epsilon).sqrt().recip();
        out.iter_mut().for_each(|o| *o *= scale);
        for (o, w) in out.iter_mut().zip(weight) {
            *o *= w;
        }
        for (o, b) in out.iter_mut().zip(bias) {
            *o += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::tests::{close, random};
    use super::*;

    #[test]
    fn norms_equal_candles_operations() {
        let x = (random((70, 301), 0.4) + 0.3).unwrap();
        let vector = |seed: f32| random((1, 301), seed).flatten_all().unwrap();
        for (kind, weight, bias) in [
            (NormKind::Rms, Some(vector(0.5)), None),
            (NormKind::RmsPlusOne, Some(vector(0.5)), None),
            (NormKind::Layer, Some(vector(0.5)), Some(vector(0.6))),
            (NormKind::Layer, Some(vector(0.5)), None),
            (NormKind::Plain, None, None),
        ] {
            let norm = Norm { kind, epsilon: 1e-5, weight, bias };
            close(&norm.forward(&x).unwrap(), &norm.composed(&x).unwrap(), 4e-6);
        }
        let theirs = candle_nn::ops::rms_norm_slow(&x, &vector(0.5), 1e-5).unwrap();
        close(&Norm::rms(vector(0.5), 1e-5).forward(&x).unwrap(), &theirs, 2e-6);
        let theirs = candle_nn::ops::layer_norm_slow(&x, &vector(0.5), &vector(0.6), 1e-5).unwrap();
        let layer = Norm { kind: NormKind::Layer, epsilon: 1e-5, weight: Some(vector(0.5)), bias: Some(vector(0.6)) };
        close(&layer.forward(&x).unwrap(), &theirs, 4e-6);
    }

    #[test]
    fn each_head_may_have_weights_of_its_own() {
        let (x, weight) = (random((5, 32), 0.4), random((4, 8), 0.5));
        let norm = Norm { kind: NormKind::Layer, epsilon: 1e-5, weight: Some(weight.clone()), bias: None };
        let whole = norm.forward_heads(&x, 8).unwrap();
        close(&whole, &norm.composed(&x.reshape((20, 8)).unwrap()).unwrap().reshape((5, 32)).unwrap(), 2e-6);
        for head in 0..4 {
            let one = Norm { weight: Some(weight.get(head).unwrap()), ..norm.clone() };
            let part = x.narrow(1, 8 * head, 8).unwrap().contiguous().unwrap();
            close(&one.forward(&part).unwrap(), &whole.narrow(1, 8 * head, 8).unwrap(), 0.0);
        }
    }
}
