//! What pruning left of a weight: which of its values, and what they are where the method changed them.

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

use crate::linalg::{CHUNK, in_chunks, simd};
use crate::tensors;

/// A pruned weight, beside the dense one that it was made of. Both tensors are on the host.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Whether a value is left (is no zero, of whatever sign): a bit each, eight a byte and the first the lowest.
    pub left: Tensor, // (⌈weights / 8⌉), u8
    /// The values that are left, row by row; None where they are the dense weight's.
    pub values: Option<Tensor>, // (those that are left)
}

impl Packed {
    /// What is left of a weight whose values the method `changed`, or did not. They are kept in this precision, to which
    /// they have been rounded: nothing is lost.
    pub fn of(weight: &Tensor, changed: bool, dtype: DType) -> Result<Self> {
        if !weight.device().is_cpu() {
            return Self::on_device(weight, changed, dtype);
        }
        let left = tensors::with_values(weight, |values| {
            in_chunks(values.len().div_ceil(8), CHUNK / 8, |i, bytes| flag_left(&values[i * CHUNK..], bytes))
        })?;
        let left = Tensor::new(left, &Device::Cpu)?;
        Ok(Self { left, values: changed.then(|| values_left(weight, dtype)).transpose()? })
    }

    /// The same, with no more brought to the host than is kept.
    fn on_device(weight: &Tensor, changed: bool, dtype: DType) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if weight.device().is_cuda() && weight.dtype() == dtype {
            let (left, values) = super::cuda::pack_left(weight, changed)?;
            return Ok(Self { left, values });
        }
        // Eight flags become a byte as the sum of powers of two.
        let flags = weight.ne(0f32)?.flatten_all()?;
        let flags = flags.pad_with_zeros(0, 0, flags.dim(0)?.next_multiple_of(8) - flags.dim(0)?)?;
        let powers = Tensor::new(&[1f32, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0], flags.device())?;
        let bytes = flags.reshape(((), 8))?.to_dtype(DType::F32)?.broadcast_mul(&powers)?.sum(D::Minus1)?;
        let left = bytes.to_dtype(DType::U8)?.to_device(&Device::Cpu)?;
        Ok(Self { left, values: changed.then(|| values_left(weight, dtype)).transpose()? })
    }

    /// The pruned weight, of the dense one: on the host, in f32.
    ///
    /// # Errors
    /// Where it is of another weight, with other sizes.
    pub fn applied_to(&self, dense: &Tensor) -> Result<Tensor> {
        let left = self.left.to_vec1::<u8>()?;
        let mut weights = tensors::values(dense)?;
        ensure!(left.len() == weights.len().div_ceil(8), "{} bytes for {} weights", left.len(), weights.len());
        let is_left = |i: usize| left[i / 8] >> (i % 8) & 1 == 1;
        match &self.values {
            None => {
                let zeroed = weights.iter_mut().enumerate().filter(|(i, _)| !is_left(*i));
                zeroed.for_each(|(_, weight)| *weight = 0.0);
            }
            Some(values) => {
                let values = tensors::values(values)?;
                let count: usize = left.iter().map(|byte| byte.count_ones() as usize).sum();
                ensure!(values.len() == count, "{} values for {count} weights", values.len());
                let mut values = values.into_iter();
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = if is_left(i) { values.next().expect("they were counted") } else { 0.0 };
                }
            }
        }
        Ok(Tensor::from_vec(weights, dense.shape(), &Device::Cpu)?)
    }
}

simd::vectorized! {
    /// Which of the first values are left: a bit each.
    fn flag_left(values: &[f32], bytes: &mut [u8]) {
        for (byte, eight) in bytes.iter_mut().zip(values.chunks(8)) {
            *byte = eight.iter().rev().fold(0, |byte, x| byte << 1 | u8::from(*x != 0.0));
        }
    }
}

/// The values of a weight that are left.
fn values_left(weight: &Tensor, dtype: DType) -> Result<Tensor> {
    let left = |chunk: &[f32]| {
        // Written wherever they belong if they are left, and counted if they are: half of them are, which no processor guesses.
        let (mut left, mut count) = (vec![0f32; chunk.len()], 0);
        for &x in chunk {
            left[count] = x;
            count += usize::from(x != 0.0);
        }
        left.truncate(count);
        left
    };
    let left = tensors::with_values(weight, |weight| weight.par_chunks(CHUNK).map(left).collect::<Vec<_>>().concat())?;
    Ok(tensors::to_dtype(&Tensor::new(left, &Device::Cpu)?, dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(f: fn(f32) -> f32) -> Tensor {
        let values: Vec<f32> = (0..21).map(|i| f((i as f32 * 1.7).sin())).collect();
        Tensor::from_vec(values, (3, 7), &Device::Cpu).unwrap()
    }

    fn zeroed(x: f32) -> f32 {
        if x.abs() < 0.5 { -0.0 } else { x }
    }

    fn moved(x: f32) -> f32 {
        if x < 0.2 { 0.0 } else { x * 2.0 }
    }

    #[test]
    fn a_pruned_weight_comes_back_from_the_dense_one() {
        let dense = weight(|x| x);
        for (pruned, changed) in [(weight(zeroed), false), (weight(moved), true), (weight(zeroed), true)] {
            let packed = Packed::of(&pruned, changed, DType::F32).unwrap();
            assert_eq!(packed.values.is_some(), changed);
            let again = packed.applied_to(&dense).unwrap();
            assert_eq!(tensors::values(&again).unwrap(), tensors::values(&pruned).unwrap());
        }
    }

    #[test]
    fn what_is_of_another_weight_is_an_error() {
        let packed = Packed::of(&weight(moved), true, DType::F32).unwrap();
        assert!(packed.applied_to(&Tensor::zeros((5, 7), DType::F32, &Device::Cpu).unwrap()).is_err());
        let short = Packed { values: Some(Tensor::new(&[1f32], &Device::Cpu).unwrap()), ..packed };
        assert!(short.applied_to(&weight(|x| x)).is_err());
    }

    #[test]
    fn a_device_keeps_what_the_host_keeps() {
        for (pruned, changed) in [(weight(zeroed), false), (weight(moved), true)] {
            let on_host = Packed::of(&pruned, changed, DType::F32).unwrap();
            let on_device = Packed::on_device(&pruned, changed, DType::F32).unwrap();
            assert_eq!(on_host.left.to_vec1::<u8>().unwrap(), on_device.left.to_vec1::<u8>().unwrap());
            let numbers = |packed: Packed| packed.values.map(|t| t.to_vec1::<f32>().unwrap());
            assert_eq!(numbers(on_host), numbers(on_device));
        }
    }
}
