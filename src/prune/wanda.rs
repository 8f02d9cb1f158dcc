//! Wanda: pruning by weights and activations.
//!
//! Sun, Liu, Bair & Kolter 2023, "A Simple and Effective Pruning Approach for Large Language Models"
//! (arXiv 2306.11695), equation 1: S[i, j] = |W[i, j]|·‖X[:, j]‖₂. In each row (output) the
//! ⌊ratio·columns⌋ smallest scores go, ties to the lower column; with N:M, the M − N smallest of
//! every M consecutive columns, ties as `torch.topk` breaks them.

use anyhow::bail;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Method, Pruned, Pruner, Sparsity, Statistic, StatisticKind, select};
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::linalg::copied;
use crate::tensors;

/// Options of Wanda: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wanda {}

impl Method for Wanda {
    fn statistic(&self) -> StatisticKind {
        StatisticKind::ColumnNorms
    }

    fn keeps_values(&self) -> bool {
        true
    }

    fn pruner(&self, statistic: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruner<'_>> {
        let Statistic::ColumnNorms(norms) = statistic else {
            bail!("wanda needs the norms of the input columns");
        };
        let norms = tensors::finite(norms, "norms of the inputs")?; // (columns)
        Ok(Box::new(move |weight| {
            let w = tensors::finite(weight, "weight")?; // (rows, columns)
            Ok(Pruned { weight: w.apply_op2_no_bwd(&norms, &SmallestOfRows(sparsity))?, damping: None })
        }))
    }
}

/// A weight (rows × columns) without the smallest scores of each row, by the norms of its inputs (columns).
struct SmallestOfRows(Sparsity);

impl SmallestOfRows {
    fn gone(columns: usize, ratio: f64) -> usize {
        (columns as f64 * ratio) as usize
    }
}

impl CustomOp2 for SmallestOfRows {
    fn name(&self) -> &'static str {
        "wanda"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        wl: &Layout,
        norms: &CpuStorage,
        nl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (w, norms) = (tensors::slice(weight, wl)?, tensors::slice(norms, nl)?);
        let columns = norms.len();
        let mut pruned = copied(w);
        pruned.par_chunks_mut(columns).for_each_init(
            || (vec![], vec![], vec![0f32; columns]),
            |(keys, pairs, scores), row| {
                scores.iter_mut().zip(row.iter().zip(norms)).for_each(|(s, (w, x))| *s = w.abs() * x);
                match self.0 {
                    Sparsity::Ratio(ratio) => {
                        select::smallest(scores, Self::gone(columns, ratio), keys, |j| row[j] = 0.0);
                    }
                    Sparsity::NOfM { n, m } => {
                        for (row, scores) in row.chunks_mut(m).zip(scores.chunks(m)) {
                            select::smallest_of_group(scores, m - n, pairs, |j| row[j] = 0.0);
                        }
                    }
                }
            },
        );
        Ok((CpuStorage::F32(pruned), wl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weight: &CudaStorage,
        wl: &Layout,
        norms: &CudaStorage,
        nl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, columns) = wl.shape().dims2()?;
        let (device, mut pruned, norms) = (&weight.device, gpu::copied(weight, wl)?, gpu::view(norms, nl)?);
        match self.0 {
            Sparsity::Ratio(ratio) => {
                cuda::prune_rows(device, &mut pruned, (rows, columns), &norms, Self::gone(columns, ratio))?;
            }
            Sparsity::NOfM { n, m } => cuda::prune_groups(device, &mut pruned, columns, Some(&norms), (m, m - n))?,
        }
        Ok((CudaStorage::wrap_cuda_slice(pruned, device.clone()), wl.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn pruned(w: &[f32], norms: &[f32], sparsity: Sparsity) -> Vec<f32> {
        let weight = Tensor::from_slice(w, (w.len() / norms.len(), norms.len()), &Device::Cpu).unwrap();
        let norms = Statistic::ColumnNorms(Tensor::new(norms, &Device::Cpu).unwrap());
        tensors::values(&Wanda {}.prune(&weight, &norms, sparsity).unwrap().weight).unwrap()
    }

    #[test]
    fn a_large_weight_on_a_quiet_input_goes_before_a_small_one_on_a_loud_input() {
        let kept = pruned(&[5.0, 1.0, 4.0, -2.0], &[0.1, 10.0, 0.1, 10.0], Sparsity::Ratio(0.5));
        assert_eq!(kept, [0.0, 1.0, 0.0, -2.0]);
    }

    #[test]
    fn every_row_loses_the_floor_of_its_share() {
        let w: Vec<f32> = (0..70).map(|i| (i as f32 * 1.7).sin() + 2.0).collect();
        let kept = pruned(&w, &[1.0; 7], Sparsity::Ratio(0.5));
        for row in kept.chunks(7) {
            assert_eq!(row.iter().filter(|&&x| x == 0.0).count(), 3);
        }
    }

    #[test]
    fn two_of_four_holds_in_every_group() {
        let w: Vec<f32> = (0..96).map(|i| (i as f32 * 1.7).sin() + 2.0).collect();
        let kept = pruned(&w, &[1.0; 12], Sparsity::NOfM { n: 2, m: 4 });
        for group in kept.chunks(4) {
            assert_eq!(group.iter().filter(|&&x| x == 0.0).count(), 2);
        }
    }
}
