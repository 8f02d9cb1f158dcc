//! Multiple choice: which answer a model finds most likely, as lm-evaluation-harness scores it.

use super::registry::{Traits, metrics};

metrics! { Choice:
    /// Fraction of rows where the right choice has the largest log-likelihood.
    ACC = "acc", |s| s.acc, Traits::SCORE;
    /// The same, log-likelihoods divided by the choices' characters.
    ACC_NORM = "acc_norm", |s| s.acc_norm, Traits::SCORE;
    /// The same, log-likelihoods divided by the choices' bytes in UTF-8.
    ACC_BYTES = "acc_bytes", |s| s.acc_bytes, Traits::SCORE;
}

/// Whether the right choice wins, by three ways of comparing log-likelihoods; 0 or 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ChoiceScores {
    pub acc: f64,
    /// Divided by the choice's characters, so that long answers have a chance.
    pub acc_norm: f64,
    /// Divided by the choice's bytes.
    pub acc_bytes: f64,
}

/// The scores of a row, from the log-likelihood of each choice (nats, summed over its tokens), the choices'
/// texts and the number of the right one. Of equal choices the first wins, as numpy's `argmax` has it.
pub fn score_choices(log_likelihoods: &[f64], choices: &[&str], answer: usize) -> ChoiceScores {
    assert_eq!(log_likelihoods.len(), choices.len(), "every choice has a log-likelihood");
    let wins = |chosen: usize| f64::from(u8::from(chosen == answer));
    let wins_by = |length: fn(&str) -> usize| {
        // A choice without a character has a length of 0 there too, and cannot win by it.
        wins(largest(log_likelihoods.iter().zip(choices).map(|(l, choice)| l / length(choice) as f64)))
    };
    ChoiceScores {
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
        let scores = score_choices(&[-4.0, -6.0], &["no", "probably"], 1);
        assert_eq!(scores, ChoiceScores { acc: 0.0, acc_norm: 1.0, acc_bytes: 1.0 });
    }

    #[test]
    fn characters_and_bytes_differ_beyond_ascii() {
        // 3 characters in 6 bytes, against 4 in 4: -9/3 < -10/4, but -9/6 > -10/4.
        let scores = score_choices(&[-9.0, -10.0], &["äöü", "abcd"], 0);
        assert_eq!(scores, ChoiceScores { acc: 1.0, acc_norm: 0.0, acc_bytes: 1.0 });
    }

    #[test]
    fn of_equal_choices_the_first_wins() {
        assert_eq!(score_choices(&[-1.0, -1.0], &["a", "b"], 0).acc, 1.0);
        assert_eq!(score_choices(&[-1.0, -1.0], &["a", "b"], 1).acc, 0.0);
        assert_eq!(most_likely(&[-2.0, -1.0, -1.0]), 1);
    }
}
