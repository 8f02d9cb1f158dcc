//! A weight matrix, and products with it.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};

use crate::linalg::bf16::{self, Packed, Rounded};
use crate::linalg::{Mat, MatMut, Threads, new_product, product, rows};
use crate::tensors;

/// y = x·Wᵀ + b.
///
/// On the CPU inputs and outputs are f32. A weight in bf16 is multiplied in bf16: inputs are rounded to it, and
/// products summed in f32.
#[derive(Clone)]
pub struct Linear {
    weight: Tensor, // (outputs, inputs)
    bias: Option<Tensor>,
    /// A bf16 weight as products on the CPU want it; made at the first, for all clones.
    packed: Arc<OnceLock<Packed>>,
    /// Whether it multiplies row by row.
    by_rows: bool,
}

impl Linear {
    /// Of a weight (outputs, inputs) and a bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, packed: Arc::default(), by_rows: false }
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The same for inputs of few rows, each of which comes to the same on the CPU whatever the others are and how many.
    /// In bf16 that is always so.
    pub fn by_rows(&self) -> Self {
        Self { by_rows: true, ..self.clone() }
    }

    /// Replaces the weight by another of its shape.
    pub fn set_weight(&mut self, weight: Tensor) {
        *self = Self { by_rows: self.by_rows, ..Self::new(weight, self.bias.take()) };
    }

    /// (tokens, inputs) → (tokens, outputs)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = Self::forward_all([self], x)?;
        Ok(y)
    }

    /// x·Wᵀ in f32, whatever the weight's precision is: of products that are summed in f32 nothing is lost.
    pub fn forward_in_f32(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.weight.device().is_cuda() {
            return x.apply_op2_no_bwd(&self.weight, &crate::gpu::ProductInF32);
        }
        let [y] = Self::products([self], x)?;
        y.to_dtype(DType::F32)
    }

    /// What each of several linears makes of the same inputs.
    pub fn forward_all<const N: usize>(linears: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let mut outputs = Self::products(linears, x)?;
        for (y, linear) in outputs.iter_mut().zip(linears) {
            if let Some(bias) = &linear.bias {
                *y = y.broadcast_add(bias)?;
            }
        }
        Ok(outputs)
    }

    /// x·Wᵀ of each of several linears, without their biases.
    pub fn products<const N: usize>(linears: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let rounded = match linears.iter().any(|linear| linear.is_packed()) {
            true => {
                let (rows, columns) = x.dims2()?;
                Some(tensors::with_values(x, |x| Rounded::new(x, rows, columns))?)
            }
            false => None,
        };
        let mut outputs = Vec::with_capacity(N);
        for linear in linears {
            let y = match rounded.as_ref().filter(|_| linear.is_packed()) {
                None if linear.weight.device().is_cpu() => {
                    let ((rows, inputs), outputs) = (x.dims2()?, linear.weight.dim(0)?);
                    let multiply = |x: &[f32], w: &[f32]| match linear.by_rows {
                        true => rows::new_product(x, w, inputs),
                        false => new_product(Mat::new(x, rows, inputs), Mat::new(w, outputs, inputs).t()),
                    };
                    let y = tensors::with_values(x, |x| tensors::with_values(&linear.weight, |w| multiply(x, w)))??;
                    Tensor::from_vec(y, (rows, outputs), &Device::Cpu)?
                }
                None => x.matmul(&linear.weight.t()?)?,
                Some(rounded) => {
                    let shape = (x.dim(0)?, linear.weight.dim(0)?);
                    Tensor::from_vec(bf16::new_product(rounded, linear.packed()?), shape, &Device::Cpu)?
                }
            };
            outputs.push(y);
        }
        Ok(outputs.try_into().expect("one output a linear"))
    }

    /// x·Wᵀ of numbers on the host into `y`, for a weight on the host: (rows × inputs) → (rows × outputs).
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) -> Result<()> {
        let (outputs, inputs) = self.weight.dims2()?;
        let rows = x.len() / inputs.max(1);
        if self.is_packed() {
            bf16::product(y, &Rounded::new(x, rows, inputs), self.packed()?);
            return Ok(());
        }
        tensors::with_values(&self.weight, |w| {
            let w = Mat::new(w, outputs, inputs).t();
            product(MatMut::new(y, rows, outputs), 0.0, 1.0, Mat::new(x, rows, inputs), w, Threads::All);
        })
    }

    fn is_packed(&self) -> bool {
        self.weight.device().is_cpu() && self.weight.dtype() == DType::BF16
    }

    fn packed(&self) -> Result<&Packed> {
        if self.packed.get().is_none() {
            let (rows, columns) = self.weight.dims2()?;
            let weight = self.weight.contiguous()?;
            let (storage, layout) = weight.storage_and_layout();
            let packed = match (&*storage, layout.contiguous_offsets()) {
                (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => {
                    Packed::new(&values[start..end], rows, columns)
                }
                _ => candle_core::bail!("expected a bf16 weight in memory"),
            };
            // Another thread may have been as fast, with the same result.
            let _ = self.packed.set(packed);
        }
        Ok(self.packed.get().expect("it was just set"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parts::elementwise::tests::{close, random};

    #[test]
    fn a_bf16_weight_multiplies_as_in_f32_but_for_rounding() {
        let (x, weight) = (random((70, 300), 0.3), random((90, 300), 0.8).to_dtype(DType::BF16).unwrap());
        let bias = random((1, 90), 0.2).flatten_all().unwrap();
        let brain = Linear::new(weight.clone(), Some(bias.clone())).forward(&x).unwrap();
        let rounded = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let full = Linear::new(weight.to_dtype(DType::F32).unwrap(), Some(bias)).forward(&rounded).unwrap();
        close(&brain, &full, 2e-3);
    }

    #[test]
    fn by_rows_a_row_comes_to_the_same_alone_and_among_others() {
        for dtype in [DType::F32, DType::BF16] {
            let weight = random((24, 40), 0.1).to_dtype(dtype).unwrap();
            let (usual, by_rows) = (Linear::new(weight.clone(), None), Linear::new(weight, None).by_rows());
            let x = random((9, 40), 0.3);
            close(&by_rows.forward(&x).unwrap(), &usual.forward(&x).unwrap(), 1e-4);
            let alone = by_rows.forward(&x.narrow(0, 3, 1).unwrap()).unwrap();
            close(&alone, &by_rows.forward(&x).unwrap().narrow(0, 3, 1).unwrap(), 0.0);
        }
    }

    #[test]
    fn a_replaced_weight_is_what_is_multiplied_with() {
        let x = random((3, 40), 0.3);
        let [one, other] = [0.1, 0.2].map(|seed| random((20, 40), seed).to_dtype(DType::BF16).unwrap());
        let mut linear = Linear::new(one, None);
        linear.forward(&x).unwrap();
        linear.set_weight(other.clone());
        close(&linear.forward(&x).unwrap(), &Linear::new(other, None).forward(&x).unwrap(), 0.0);
    }
}
