//! SparseGPT: pruning with second-order error compensation.
//!
//! Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot"
//! (arXiv 2301.00774), algorithm 1. H = 2/n·XXᵀ is the Hessian of the layer's squared output error
//! and U the upper factor of its inverse, H⁻¹ = UᵀU. Columns are visited from left to right in blocks:
//! a weight w in column j scores w²/u_jj², the lowest scores go, and the error (w − q)/u_jj of each
//! removed weight is made up for by the columns to its right, through row j of U.

use anyhow::{Context, bail};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use super::cuda::{self, Removal};
#[cfg(feature = "cuda")]
use super::select;
use super::{Method, Pruned, Pruner, Sparsity, Statistic, StatisticKind, columns, factor};
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::linalg::copied;
use crate::tensors;

/// Options of SparseGPT; the defaults are the published ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SparseGpt {
    /// Added to the diagonal of the Gram matrix, as a fraction of its mean. Raised tenfold, to 0.0001 at least and 1 at
    /// most, where the factorisation fails; below 0.0001 also where it is lost in rounding.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub damping: f64,
    /// Columns that share one threshold and are compensated together. With N:M, rounded to a
    /// multiple of M.
    #[schemars(range(min = 1))]
    pub block_size: usize,
}

impl Default for SparseGpt {
    fn default() -> Self {
        Self { damping: 0.01, block_size: 128 }
    }
}

/// The least damping that the diagonal is raised to where it has to be. From here on, what rounding makes of a pivot is
/// small beside what damping adds to it.
const SMALLEST_RAISED: f64 = 1e-4;

/// The damping that is tried last; at this, the diagonal is twice its mean or more.
const LARGEST_DAMPING: f64 = 1.0;

impl Method for SparseGpt {
    fn statistic(&self) -> StatisticKind {
        StatisticKind::Gram
    }

    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        if !(0.0..=LARGEST_DAMPING).contains(&self.damping) {
            return Err(("damping", format!("{} is out of range; expected a number from 0 to 1", self.damping)));
        }
        if self.block_size == 0 {
            return Err(("block_size", "expected at least 1 column".into()));
        }
        Ok(())
    }

    fn keeps_values(&self) -> bool {
        false
    }

    fn pruner(&self, statistic: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruner<'_>> {
        let Statistic::Gram(gram) = statistic else {
            bail!("sparsegpt needs the Gram matrix of the inputs");
        };
        let gram = tensors::finite(gram, "Gram matrix of the inputs")?; // (d, d)
        let mut diagonal = factor::diagonal(&gram)?;
        // An input that is always zero tells nothing: its weights go, as in the published code.
        let alive: Vec<u8> = diagonal.iter().map(|&x| u8::from(x != 0.0)).collect();
        diagonal.iter_mut().filter(|x| **x == 0.0).for_each(|x| *x = 1.0);
        let has_dead = alive.contains(&0);
        let alive = Tensor::new(alive, gram.device())?;
        let (u, damping) = self.factor(&gram, &diagonal)?;
        let inverse_diagonal: Vec<f32> = factor::diagonal(&u)?.into_iter().map(f32::recip).collect();
        let inverse_diagonal = Tensor::new(inverse_diagonal, u.device())?;
        let width = match sparsity {
            Sparsity::Ratio(_) => self.block_size,
            Sparsity::NOfM { m, .. } => (self.block_size / m).max(1) * m, // no group lies in two blocks
        };

        Ok(Box::new(move |weight| {
            let mut w = tensors::finite(weight, "weight")?; // (rows, d)
            if has_dead {
                w = alive.broadcast_as(w.shape())?.where_cond(&w, &w.zeros_like()?)?;
            }
            let solved = w.apply_op3_no_bwd(&u, &inverse_diagonal, &Solve { width, sparsity })?;
            let weight = tensors::finite(&solved, "compensated weight")
                .context("a larger [method.sparsegpt] damping may help")?;
            Ok(Pruned { weight, damping: Some(damping) })
        }))
    }
}

impl SparseGpt {
    /// U of H, which is `gram` with this diagonal and damped, and the damping that it took.
    fn factor(&self, gram: &Tensor, diagonal: &[f32]) -> anyhow::Result<(Tensor, f64)> {
        let mean = diagonal.iter().map(|&x| f64::from(x)).sum::<f64>() / diagonal.len() as f64;
        let mut damping = self.damping;
        loop {
            let damped: Vec<f32> = diagonal.iter().map(|x| x + (damping * mean) as f32).collect();
            match factor::upper_inverse_factor(gram, &damped)? {
                Ok(u) if damping >= SMALLEST_RAISED || !factor::is_lost_in_rounding(&u, &damped)? => {
                    return Ok((u, damping));
                }
                Err(e) if damping >= LARGEST_DAMPING => bail!("{e}, even with damping {damping}"),
                _ => damping = (damping * 10.0).clamp(SMALLEST_RAISED, LARGEST_DAMPING),
            }
        }
    }
}

/// A weight (rows × d), pruned and compensated, `width` columns at a time, by U (d × d) and 1/u_jj (d). |w|/u_jj orders
/// weights as their score w²/u_jj² does, and cannot overflow where w is large.
struct Solve {
    width: usize,
    sparsity: Sparsity,
}

impl CustomOp3 for Solve {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        wl: &Layout,
        u: &CpuStorage,
        ul: &Layout,
        inverse_diagonal: &CpuStorage,
        il: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (w, u) = (tensors::slice(weight, wl)?, tensors::slice(u, ul)?);
        let inverse_diagonal = tensors::slice(inverse_diagonal, il)?;
        let (_, d) = wl.shape().dims2()?;
        let mut solved = copied(w);
        columns::solve(&mut solved, d, u, inverse_diagonal, self.width, self.sparsity);
        Ok((CpuStorage::F32(solved), wl.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weight: &CudaStorage,
        wl: &Layout,
        u: &CudaStorage,
        ul: &Layout,
        inverse_diagonal: &CudaStorage,
        il: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, mut solved) = (&weight.device, gpu::copied(weight, wl)?);
        let (u, inverse_diagonal) = (gpu::view(u, ul)?, gpu::view(inverse_diagonal, il)?);
        let rank = |ratio: f64| move |scores: usize| select::rank(scores, ratio);
        let shape = wl.shape().dims2()?;
        let mut solve =
            |removal: &Removal| cuda::solve(device, &mut solved, shape, &u, &inverse_diagonal, self.width, removal);
        match self.sparsity {
            Sparsity::Ratio(ratio) => solve(&Removal::UpToRank(&rank(ratio)))?,
            Sparsity::NOfM { n, m } => solve(&Removal::OfGroups { size: m, gone: m - n })?,
        }
        Ok((CudaStorage::wrap_cuda_slice(solved, device.clone()), wl.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Pseudo-random values in (-0.5, 0.5) that are not correlated.
    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547).map(|x| x - x.floor() - 0.5).collect()
    }

    /// 2/n·XᵀX of correlated inputs, in plain loops.
    fn gram(d: usize, n: usize) -> (Vec<f32>, Tensor) {
        let mut x = noise(n * d, 3.0);
        for row in x.chunks_mut(d) {
            (1..d).for_each(|j| row[j] += 0.8 * row[j - 1]);
        }
        let h: Vec<f32> = (0..d * d)
            .map(|ij| (0..n).map(|t| x[t * d + ij / d] * x[t * d + ij % d]).sum::<f32>() * 2.0 / n as f32)
            .collect();
        let tensor = Tensor::from_slice(&h, (d, d), &Device::Cpu).unwrap();
        (h, tensor)
    }

    fn solve(method: &SparseGpt, w: &[f32], h: &Tensor, sparsity: Sparsity) -> Vec<f32> {
        let d = h.dim(0).unwrap();
        let weight = Tensor::from_slice(w, (w.len() / d, d), &Device::Cpu).unwrap();
        let pruned = method.prune(&weight, &Statistic::Gram(h.clone()), sparsity).unwrap();
        tensors::values(&pruned.weight).unwrap()
    }

    /// Optimal brain surgeon, column by column: remove w_j where the mask says so, and set what lies to
    /// the right to its least-squares optimum given all that is fixed so far, by solving
    /// H_RR·δ_R = −H_RF·δ_F in f64. This is what algorithm 1 claims to compute.
    fn brute_force(w: &[f32], kept: &[bool], h: &[f32], d: usize) -> Vec<f64> {
        let mut out: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        for j in 0..d {
            if kept[j] {
                continue;
            }
            out[j] = 0.0;
            let n = d - j - 1;
            let mut a = vec![vec![0f64; n + 1]; n];
            for r in 0..n {
                for c in 0..n {
                    a[r][c] = f64::from(h[(j + 1 + r) * d + j + 1 + c]);
                }
                a[r][n] = -(0..=j).map(|f| f64::from(h[(j + 1 + r) * d + f]) * (out[f] - f64::from(w[f]))).sum::<f64>();
            }
            for p in 0..n {
                for r in 0..n {
                    if r != p {
                        let factor = a[r][p] / a[p][p];
                        (p..=n).for_each(|c| a[r][c] -= factor * a[p][c]);
                    }
                }
            }
            (0..n).for_each(|r| out[j + 1 + r] = f64::from(w[j + 1 + r]) + a[r][n] / a[r][r]);
        }
        out
    }

    #[test]
    fn the_solution_is_the_least_squares_optimum_of_every_step() {
        let d = 24;
        let (h, tensor) = gram(d, 400);
        let method = SparseGpt { damping: 0.0, block_size: 8 };
        for sparsity in [Sparsity::Ratio(0.5), Sparsity::NOfM { n: 2, m: 4 }] {
            let w = noise(3 * d, 11.0);
            let pruned = solve(&method, &w, &tensor, sparsity);
            for (row, solved) in w.chunks(d).zip(pruned.chunks(d)) {
                let kept: Vec<bool> = solved.iter().map(|&x| x != 0.0).collect();
                for (a, b) in solved.iter().zip(brute_force(row, &kept, &h, d)) {
                    assert!((f64::from(*a) - b).abs() < 2e-3, "{sparsity}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_dead_input_loses_its_weights() {
        let d = 8;
        let (mut h, _) = gram(d, 100);
        (0..d).for_each(|i| (h[3 * d + i], h[i * d + 3]) = (0.0, 0.0));
        let h = Tensor::from_vec(h, (d, d), &Device::Cpu).unwrap();
        let pruned = solve(&SparseGpt::default(), &noise(4 * d, 5.0), &h, Sparsity::Ratio(0.25));
        assert!(pruned.chunks(d).all(|row| row[3] == 0.0));
    }

    /// x·xᵀ of one token.
    fn rank_one(x: &[f32]) -> Tensor {
        let d = x.len();
        let x = Tensor::from_slice(x, (1, d), &Device::Cpu).unwrap();
        x.t().unwrap().matmul(&x).unwrap()
    }

    #[test]
    fn a_singular_gram_matrix_raises_the_damping_and_says_to_what() {
        let weight = |d: usize| Tensor::from_vec(noise(4 * d, 1.0), (4, d), &Device::Cpu).unwrap();
        let x = noise(32, 7.0);
        let mut with_dead = x.clone();
        (with_dead[5], with_dead[20]) = (0.0, 0.0);
        let few = gram(32, 9).1;
        let grams = [rank_one(&[1.0; 16]), rank_one(&[1.0, 2.0, 0.0, 3.0]), rank_one(&x), rank_one(&with_dead), few];
        for (i, h) in grams.iter().enumerate() {
            let d = h.dim(0).unwrap();
            for (asked, taken) in [(0.0, 1e-4), (1e-7, 1e-4), (1e-4, 1e-4), (0.01, 0.01)] {
                let method = SparseGpt { damping: asked, ..Default::default() };
                for sparsity in [Sparsity::Ratio(0.5), Sparsity::NOfM { n: 2, m: 4 }] {
                    let pruned = method.prune(&weight(d), &Statistic::Gram(h.clone()), sparsity).unwrap();
                    assert_eq!(pruned.damping, Some(taken), "{i}: {asked}");
                    let zeros = tensors::zeros(&pruned.weight).unwrap() as usize;
                    let expected = if matches!(sparsity, Sparsity::Ratio(_)) { 2 * d + 1 } else { 2 * d };
                    assert_eq!(zeros, expected, "{i}: {asked}, {sparsity}");
                }
            }
        }
        // What has a factor keeps the damping that was asked for.
        let method = SparseGpt { damping: 0.0, ..Default::default() };
        let pruned = method.prune(&weight(32), &Statistic::Gram(gram(32, 400).1), Sparsity::Ratio(0.5)).unwrap();
        assert_eq!(pruned.damping, Some(0.0));
    }

    #[test]
    fn the_raised_damping_prunes_as_the_same_damping_asked_for() {
        let (h, w) = (rank_one(&noise(24, 7.0)), noise(72, 2.0));
        let [raised, asked] = [0.0, 1e-4]
            .map(|damping| solve(&SparseGpt { damping, ..Default::default() }, &w, &h, Sparsity::Ratio(0.5)));
        assert_eq!(raised, asked);
    }

    #[test]
    fn a_gram_matrix_of_no_numbers_is_named() {
        for bad in [f32::NAN, f32::INFINITY] {
            let h = Tensor::new(&[[1f32, bad], [bad, 1.0]], &Device::Cpu).unwrap();
            let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
            let error = SparseGpt::default().prune(&weight, &Statistic::Gram(h), Sparsity::Ratio(0.5)).err().unwrap();
            assert!(error.to_string().contains("2 of 4 values of the Gram matrix"), "{error}");
        }
    }

    #[test]
    fn an_indefinite_gram_matrix_is_an_error() {
        let h = Tensor::new(&[[1f32, 9.0], [9.0, 1.0]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
        let error = SparseGpt::default().prune(&weight, &Statistic::Gram(h), Sparsity::Ratio(0.5)).err().unwrap();
        assert!(error.to_string().contains("not positive definite"), "{error}");
    }
}
