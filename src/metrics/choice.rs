//! Multiple choice: which answer a model finds most likely, and how likely it finds a text, as lm-evaluation-harness scores it.

use super::Metric;
use super::registry::{Traits, metrics};
use crate::statistics::Quantity;

metrics! { Choice:
    /// Fraction of rows where a right choice has the largest log-likelihood; of rows without choices, those where each token of
    /// the target is the most likely one.
    ACC = "acc", |s| s.acc, Traits { takes_targets: true, ..Traits::SCORE };
    /// The same, log-likelihoods divided by the choices' characters.
    ACC_NORM = "acc_norm", |s| s.acc_norm, Traits::SCORE;
    /// The same, log-likelihoods divided by the choices' bytes in UTF-8.
    ACC_BYTES = "acc_bytes", |s| s.acc_bytes, Traits::SCORE;
    /// The right choices' share of the probability of all, mean over rows, as lm-evaluation-harness's truthfulqa_mc2 has it.
    MC2 = "mc2", |s| s.mc2, Traits::SCORE;
    /// Squared distance of the choices' shares of the probability from 1 for the right one and 0 for all others, mean over rows.
    BRIER_SCORE = "brier_score", |s| s.brier_score, Traits {
        higher_is_better: false,
        quantity: Quantity::MEAN.within(0.0, 2.0),
        takes_several: false,
        ..Traits::SCORE
    };
    /// Mean negative log-likelihood of a whole target (of a row with choices, of the right one), not of a token, in nats.
    TARGET_LOSS = "target_loss", |s| s.loss, Traits { takes_targets: true, ..Traits::LOSS };
    /// exp of the mean negative log-likelihood of a whole target: what lm-evaluation-harness calls the perplexity of LAMBADA.
    TARGET_PERPLEXITY = "target_perplexity", |s| s.loss, Traits {
        unit: "",
        quantity: Quantity::EXP.within(0.0, f64::INFINITY),
        made_of: Some(Metric::TARGET_LOSS),
        takes_targets: true,
        ..Traits::LOSS
    };
}

/// Whether a right choice wins, by three ways of comparing log-likelihoods (0 or 1 each), and how likely it is; NaN what a row
/// does not allow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceScores {
    /// Without choices: whether greedy decoding would write the target.
    pub acc: f64,
    /// Divided by the choice's characters, so that long answers have a chance.
    pub acc_norm: f64,
    /// Divided by the choice's bytes.
    pub acc_bytes: f64,
    /// The share of the right ones in the probability of all choices (`process_results_mc2` of the harness's
    /// tasks/truthfulqa/utils.py).
    pub mc2: f64,
    /// Σ (pᵢ − 1 if i is right else 0)², p being the choices' shares of the probability (`brier_score` of the harness's
    /// api/metrics.py).
    pub brier_score: f64,
    /// Negative log-likelihood of the first right choice, or of the target, in nats.
    pub loss: f64,
}

/// The scores of a row without choices, from the log-likelihood of its target (nats, summed over its tokens) and whether each
/// of these is the most likely token (`process_results` of the harness's api/task.py, for `loglikelihood`).
pub fn score_target(log_likelihood: f64, is_greedy: bool) -> ChoiceScores {
    let none = f64::NAN;
    let acc = f64::from(u8::from(is_greedy));
    ChoiceScores { acc, acc_norm: none, acc_bytes: none, mc2: none, brier_score: none, loss: -log_likelihood }
}

/// The scores of a row, from the log-likelihood of each choice (nats, summed over its tokens), the choices'
/// texts and the numbers of the right ones. Of equal choices the first wins, as numpy's `argmax` has it.
pub fn score_choices(log_likelihoods: &[f64], choices: &[&str], right: &[usize]) -> ChoiceScores {
    assert_eq!(log_likelihoods.len(), choices.len(), "every choice has a log-likelihood");
    let wins = |chosen: usize| f64::from(u8::from(right.contains(&chosen)));
    let wins_by = |length: fn(&str) -> usize| {
        // A choice without a character has a length of 0 there too, and cannot win by it.
        wins(largest(log_likelihoods.iter().zip(choices).map(|(l, choice)| l / length(choice) as f64)))
    };
    // Divided by the largest, so that the probabilities of long choices do not vanish all at once.
    let most = log_likelihoods[most_likely(log_likelihoods)];
    let odds: Vec<f64> = log_likelihoods.iter().map(|l| (l - most).exp()).collect();
    let all: f64 = odds.iter().sum();
    let shares = odds.iter().enumerate().map(|(i, odds)| (right.contains(&i), odds / all));
    let distance = |(is_right, share): (bool, f64)| (share - f64::from(u8::from(is_right))).powi(2);
    ChoiceScores {
        mc2: shares.clone().filter(|(is_right, _)| *is_right).map(|(_, share)| share).sum(),
        brier_score: if right.len() == 1 { shares.map(distance).sum() } else { f64::NAN },
        loss: right.first().map_or(f64::NAN, |&first| -log_likelihoods[first]),
        acc: wins(most_likely(log_likelihoods)),
        acc_norm: wins_by(|c| c.chars().count()),
        acc_bytes: wins_by(str::len),
    }
}

/// The number of the choice that `acc` takes for the model's: the one with the largest log-likelihood, divided by nothing.
pub fn most_likely(log_likelihoods: &[f64]) -> usize {
    largest(log_likelihoods.iter().copied())
}

/// The number of the first of the largest.
fn largest(scores: impl Iterator<Item = f64>) -> usize {
    scores.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, s)| if s > best.1 { (i, s) } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_wins_by_its_length() {
        let scores = score_choices(&[-4.0, -6.0], &["no", "probably"], &[1]);
        assert_eq!((scores.acc, scores.acc_norm, scores.acc_bytes), (0.0, 1.0, 1.0));
    }

    #[test]
    fn characters_and_bytes_differ_beyond_ascii() {
        // 3 characters in 6 bytes, against 4 in 4: -9/3 < -10/4, but -9/6 > -10/4.
        let scores = score_choices(&[-9.0, -10.0], &["äöü", "abcd"], &[0]);
        assert_eq!((scores.acc, scores.acc_norm, scores.acc_bytes), (1.0, 0.0, 1.0));
    }

    #[test]
    fn of_equal_choices_the_first_wins() {
        assert_eq!(score_choices(&[-1.0, -1.0], &["a", "b"], &[0]).acc, 1.0);
        assert_eq!(score_choices(&[-1.0, -1.0], &["a", "b"], &[1]).acc, 0.0);
        assert_eq!(most_likely(&[-2.0, -1.0, -1.0]), 1);
    }

    #[test]
    fn any_right_choice_wins_and_all_of_them_share_the_probability() {
        // Probabilities ¹⁄₂, ¹⁄₈, ¹⁄₄, of which the choices have together ⁷⁄₈.
        let likelihoods = [0.5f64.ln(), 0.125f64.ln(), 0.25f64.ln()];
        let scores = score_choices(&likelihoods, &["a", "b", "c"], &[2, 0]);
        assert_eq!((scores.acc, scores.acc_norm), (1.0, 1.0));
        assert!((scores.mc2 - 6.0 / 7.0).abs() < 1e-12 && (scores.loss - 4f64.ln()).abs() < 1e-12, "{scores:?}");
        let one = score_choices(&likelihoods, &["a", "b", "c"], &[2]);
        assert_eq!((one.acc, score_choices(&likelihoods, &["a", "b", "c"], &[1, 2]).acc), (0.0, 0.0));
        // (4/7)² + (1/7)² + (1 − 2/7)²
        assert!((one.mc2 - 2.0 / 7.0).abs() < 1e-12 && (one.brier_score - 42.0 / 49.0).abs() < 1e-12, "{one:?}");
    }

    #[test]
    fn choices_that_are_too_unlikely_for_a_float_still_have_shares() {
        let scores = score_choices(&[-2000.0, -2000.0 - 3f64.ln()], &["a", "b"], &[0]);
        assert!((scores.mc2 - 0.75).abs() < 1e-9, "{scores:?}");
    }

    #[test]
    fn a_target_is_right_where_greedy_decoding_writes_it() {
        let (written, other) = (score_target(-1.5, true), score_target(-1.5, false));
        assert_eq!((written.acc, other.acc, written.loss, other.loss), (1.0, 0.0, 1.5, 1.5));
        assert!(written.acc_norm.is_nan() && written.mc2.is_nan(), "it is no choice");
    }
}
