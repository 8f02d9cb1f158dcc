//! Output errors of pruned weights, measured for every cell of a study on the same held-out tokens.

use anyhow::Result;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

use super::Watch;
use super::cell::ErrorsRecord;
use super::stream::Stream;
use crate::data::Passage;
use crate::digest::Digest;
use crate::linalg::CHUNK;
use crate::model::{Block, Linear, Ropes};
use crate::tensors;

/// Tokens that output errors are measured on, at most.
pub const ERROR_TOKENS: usize = 256;

/// How many of them a passage gives at most, so that they are of several texts.
pub const ERROR_TOKENS_OF_PASSAGE: usize = 64;

/// The tokens of a suite that output errors are measured on: the beginnings of its first passages.
pub fn held_out(passages: &[Passage]) -> Vec<Passage> {
    let (mut beginnings, mut tokens) = (Vec::new(), 0);
    for passage in passages {
        let left = ERROR_TOKENS - tokens;
        if left == 0 {
            break;
        }
        let beginning = passage.beginning(left.min(ERROR_TOKENS_OF_PASSAGE));
        tokens += beginning.ids.len();
        beginnings.push(beginning);
    }
    beginnings
}

/// Held-out tokens on their way through the pruned model.
pub struct HeldOut {
    /// What tells them from others.
    pub id: Digest,
    pub stream: Stream,
    /// Of the blocks so far.
    pub errors: ErrorsRecord,
}

impl HeldOut {
    /// Takes the tokens through a pruned block, and measures at each site what its linears lost of their outputs.
    pub fn pass(&mut self, dense: &Block, pruned: &Block, ropes: &Ropes, watch: &dyn Watch) -> Result<()> {
        for (site, spec) in pruned.spec.sites.iter().enumerate() {
            self.stream.advance(site, pruned, ropes, watch)?;
            let inputs: Vec<Tensor> = self.stream.flows().map(|flow| flow.input.clone()).collect();
            let x = Tensor::cat(&inputs, 0)?;
            for index in spec.linears.clone() {
                // None of the tokens may have been routed to an expert.
                let error = match x.dim(0)? {
                    0 => None,
                    _ => Some(relative_error(&x, &dense.linears[index], &pruned.linears[index])?),
                };
                self.errors.relative.push(error.filter(|error| error.is_finite()));
            }
        }
        self.stream.finish(pruned, watch)?;
        Ok(())
    }
}

/// ‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖², which is no number where a product is none.
fn relative_error(x: &Tensor, dense: &Linear, pruned: &Linear) -> Result<f64> {
    let [dense, pruned] = Linear::products([dense, pruned], x)?;
    if !dense.device().is_cpu() {
        // Sums over rows there, and over all of them here: that is all that comes to the host.
        let dense = dense.to_dtype(DType::F32)?;
        let sum = |x: Tensor| -> Result<f64> {
            Ok(x.sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
        };
        let (lost, whole) = (sum((&dense - pruned.to_dtype(DType::F32)?)?)?, sum(dense)?);
        return Ok(if whole == 0.0 { 0.0 } else { lost / whole });
    }
    // Chunk by chunk and then all chunks in their order, whoever computes them.
    let squares = |(dense, pruned): (&[f32], &[f32])| {
        dense.iter().zip(pruned).fold((0.0, 0.0), |(lost, whole), (&d, &p)| {
            let (d, p) = (f64::from(d), f64::from(p));
            (lost + (d - p) * (d - p), whole + d * d)
        })
    };
    let sums = |dense: &[f32], pruned: &[f32]| -> Vec<(f64, f64)> {
        dense.par_chunks(CHUNK).zip(pruned.par_chunks(CHUNK)).map(squares).collect()
    };
    let sums = tensors::with_values(&dense, |dense| tensors::with_values(&pruned, |pruned| sums(dense, pruned)))??;
    let (lost, whole) = sums.into_iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Ok(if whole == 0.0 { 0.0 } else { lost / whole })
}
