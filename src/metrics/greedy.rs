//! Whether greedy decoding would write a text: each of its tokens is the most likely one behind those before it.

use anyhow::Result;
use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::Prediction;
use super::language::{each_chunk, each_chunk_on_device};
use crate::model::{Head, first_of_greatest};

/// Whether each of `samples` texts is what greedy decoding would write, as lm-evaluation-harness asks it in `loglikelihood`
/// (`is_greedy` of models/huggingface.py); of equal logits the first is taken. The arguments are as for
/// [`score_positions`](super::score_positions). A text without tokens is greedy.
pub fn are_greedy(predictions: &[Prediction], samples: usize, states: &Tensor, head: &Head) -> Result<Vec<bool>> {
    let mut greedy = vec![true; samples];
    let mut note = |predictions: &[Prediction], best: Vec<u32>| {
        for (prediction, best) in predictions.iter().zip(best) {
            greedy[prediction.sample] &= prediction.id == best;
        }
    };
    if !head.device().is_cpu() {
        each_chunk_on_device(predictions, states, head, |_, predictions, _, logits| {
            note(predictions, logits.argmax(D::Minus1)?.to_vec1()?);
            Ok(())
        })?;
        return Ok(greedy);
    }
    each_chunk(predictions, states, head, |_, predictions, logits| {
        note(predictions, logits.par_chunks(head.vocabulary()).map(first_of_greatest).collect());
        Ok(())
    })?;
    Ok(greedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_logits_the_first_is_the_largest() {
        assert_eq!(first_of_greatest(&[-3.0, 1.0, 1.0, 0.5]), 1);
        assert_eq!(first_of_greatest(&[2.0]), 0);
    }
}
