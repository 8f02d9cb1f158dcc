//! Magnitude pruning: the weights of the smallest absolute value go.
//!
//! Unstructured, the threshold is taken over the whole matrix as the published code does: every
//! |w| ≤ sorted(|W|)[⌊ratio·n⌋] becomes zero, so ties at the threshold all go.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Method, Pruned, Pruner, Sparsity, Statistic, StatisticKind, select};
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::linalg::{CHUNK, PIECE, copied, in_chunks, simd};
use crate::tensors;

/// Options of magnitude pruning: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Magnitude {}

impl Method for Magnitude {
    fn statistic(&self) -> StatisticKind {
        StatisticKind::None
    }

    fn keeps_values(&self) -> bool {
        true
    }

    fn pruner(&self, _: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruner<'_>> {
        Ok(Box::new(move |weight| {
            let w = tensors::finite(weight, "weight")?;
            Ok(Pruned { weight: w.apply_op1_no_bwd(&Smallest(sparsity))?, damping: None })
        }))
    }
}

/// A weight (rows × columns) without its smallest values.
struct Smallest(Sparsity);

impl CustomOp1 for Smallest {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn cpu_fwd(&self, weight: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let w = tensors::slice(weight, layout)?;
        let mut pruned = copied(w);
        match self.0 {
            Sparsity::Ratio(ratio) => {
                let scores = in_chunks(w.len(), PIECE, |i, scores| {
                    scores.iter_mut().zip(&w[i * PIECE..]).for_each(|(score, x)| *score = x.abs());
                });
                let threshold = select::threshold(&scores, ratio);
                pruned.par_chunks_mut(CHUNK).for_each(|pruned| zero_up_to(pruned, threshold));
            }
            Sparsity::NOfM { n, m } => pruned.par_chunks_mut(layout.dims()[1]).for_each(|row| {
                let (mut pairs, mut scores) = (vec![], vec![0.0; m]);
                for group in row.chunks_mut(m) {
                    scores.iter_mut().zip(&*group).for_each(|(s, w)| *s = w.abs());
                    select::smallest_of_group(&scores, m - n, &mut pairs, |j| group[j] = 0.0);
                }
            }),
        }
        Ok((CpuStorage::F32(pruned), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, weight: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        let (device, mut pruned) = (&weight.device, gpu::copied(weight, layout)?);
        match self.0 {
            Sparsity::Ratio(ratio) => {
                cuda::prune_up_to(device, &mut pruned, (rows, columns), select::rank(rows * columns, ratio))?;
            }
            Sparsity::NOfM { n, m } => cuda::prune_groups(device, &mut pruned, columns, None, (m, m - n))?,
        }
        Ok((CudaStorage::wrap_cuda_slice(pruned, device.clone()), layout.shape().clone()))
    }
}

simd::vectorized! {
    fn zero_up_to(weights: &mut [f32], threshold: f32) {
        weights.iter_mut().for_each(|x| *x = if x.abs() <= threshold { 0.0 } else { *x });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn pruned(w: &[f32], shape: (usize, usize), sparsity: Sparsity) -> Vec<f32> {
        let weight = Tensor::from_slice(w, shape, &Device::Cpu).unwrap();
        let pruned = Magnitude {}.prune(&weight, &Statistic::None, sparsity).unwrap();
        tensors::values(&pruned.weight).unwrap()
    }

    #[test]
    fn the_published_rule_prunes_the_threshold_itself() {
        let kept = pruned(&[1.0, -2.0, 3.0, -4.0], (2, 2), Sparsity::Ratio(0.5));
        assert_eq!(kept, [0.0, 0.0, 0.0, -4.0]);
    }

    #[test]
    fn one_of_four_keeps_the_largest_of_each_group() {
        let kept = pruned(&[1.0, -5.0, 2.0, 3.0, 9.0, 9.5, -10.0, 0.0], (1, 8), Sparsity::NOfM { n: 1, m: 4 });
        assert_eq!(kept, [0.0, -5.0, 0.0, 0.0, 0.0, 0.0, -10.0, 0.0]);
    }

    #[test]
    fn a_weight_that_is_not_a_number_is_an_error() {
        let weight = Tensor::new(&[[1.0, f32::NAN]], &Device::Cpu).unwrap();
        let error = Magnitude {}.prune(&weight, &Statistic::None, Sparsity::Ratio(0.5)).err().unwrap();
        assert!(error.to_string().contains("NaN"), "{error}");
    }
}
