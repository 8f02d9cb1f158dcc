//! The scores of [`super::language`] for logits that are on a device: by kernels of our own on CUDA, else in candle's
//! operations.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::log_softmax;

use super::Scores;

/// Scores of each position, from logits (positions × vocabulary, f32) of the dense model and the pruned one, and the
/// tokens that they predict. The formulas are those of the host, in f32.
pub fn compare(dense: &Tensor, pruned: &Tensor, ids: &[u32]) -> Result<Vec<Scores>> {
    #[cfg(feature = "cuda")]
    if dense.device().is_cuda() {
        let ids = Tensor::new(ids, dense.device())?;
        return Ok(scores(dense.apply_op3_no_bwd(pruned, &ids, &super::cuda::CompareLogits)?.to_vec2()?));
    }
    let (ln_p, ln_q) = (log_softmax(dense, D::Minus1)?, log_softmax(pruned, D::Minus1)?);
    let (p, q) = (ln_p.exp()?, ln_q.exp()?);
    let loss = of_targets(&ln_q, ids)?.neg()?;
    // d = ln q − ln p and t = ln(½ + ½·eᵈ): JS = ½·Σ q·d − (p + q)·t, KL = −Σ p·d.
    let d = (ln_q - ln_p)?;
    let held = d.clamp(-80f32, 80f32)?;
    let t = held.exp()?.affine(0.5, 0.5)?.log()?;
    let js = (((&q * &held)? - ((&p + &q)? * t)?)?.sum(D::Minus1)? * 0.5)?;
    let kl = (p * d)?.sum(D::Minus1)?.neg()?;
    let best = pruned.argmax(D::Minus1)?.unsqueeze(1)?;
    let agreement = dense.gather(&best, 1)?.squeeze(1)?.eq(&dense.max(D::Minus1)?)?.to_dtype(DType::F32)?;
    Ok(scores(Tensor::stack(&[loss, js, kl, agreement], 1)?.to_vec2()?))
}

fn scores(rows: Vec<Vec<f32>>) -> Vec<Scores> {
    let of_row = |row: Vec<f32>| {
        let [loss, js, kl, agreement] = [row[0], row[1], row[2], row[3]].map(f64::from);
        Scores { positions: 1.0, loss, js, kl, agreement }
    };
    rows.into_iter().map(of_row).collect()
}

/// The log-likelihood of each token, from the logits (positions × vocabulary, f32) that predict it.
pub fn likelihoods(logits: &Tensor, ids: &[u32]) -> Result<Vec<f64>> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let ids = Tensor::new(ids, logits.device())?;
        let likelihoods = logits.apply_op2_no_bwd(&ids, &super::cuda::LogLikelihoods)?.to_vec1::<f32>()?;
        return Ok(likelihoods.into_iter().map(f64::from).collect());
    }
    let likelihoods = of_targets(&log_softmax(logits, D::Minus1)?, ids)?.to_vec1::<f32>()?;
    Ok(likelihoods.into_iter().map(f64::from).collect())
}

/// In each row the value at a place of its own.
fn of_targets(values: &Tensor, ids: &[u32]) -> Result<Tensor> {
    values.gather(&Tensor::new(ids, values.device())?.unsqueeze(1)?, 1)?.squeeze(1)
}
