//! Magnitude pruning: the weights of the smallest absolute value go.
//!
//! Unstructured, the threshold is taken over the whole matrix as the published code does: every
//! |w| ≤ sorted(|W|)[⌊ratio·n⌋] becomes zero, so ties at the threshold all go.

use candle_core::Tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, Pruned, Pruner, Sparsity, Statistic, StatisticKind, select};
use crate::tensors;

/// Options of magnitude pruning: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Magnitude {}

impl Method for Magnitude {
    fn statistic(&self) -> StatisticKind {
        StatisticKind::None
    }

    fn pruner(&self, _: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruner<'_>> {
        Ok(Box::new(move |weight| {
            let (_, columns) = weight.dims2()?;
            let mut w = tensors::finite_values(weight, "weight")?;
            match sparsity {
                Sparsity::Ratio(ratio) => {
                    let scores: Vec<f32> = w.par_iter().map(|x| x.abs()).collect();
                    let threshold = select::threshold(&scores, ratio);
                    w.par_iter_mut().for_each(|x| {
                        if x.abs() <= threshold {
                            *x = 0.0;
                        }
                    });
                }
                Sparsity::NOfM { n, m } => w.par_chunks_mut(columns).for_each(|row| {
                    let (mut pairs, mut scores) = (vec![], vec![0.0; m]);
                    for group in row.chunks_mut(m) {
                        scores.iter_mut().zip(&*group).for_each(|(s, w)| *s = w.abs());
                        select::smallest_of_group(&scores, m - n, &mut pairs, |j| group[j] = 0.0);
                    }
                }),
            }
            Ok(Pruned { weight: Tensor::from_vec(w, weight.shape(), weight.device())?, damping: None })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
