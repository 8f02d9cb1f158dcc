//! What a language model says of generated answers (`[suite.NAME.judge]`). Who is asked, and how, is in [`crate::judge`].

use super::registry::{Kind, Traits, metrics};
use crate::statistics::Quantity;

metrics! { Judge:
    /// What a judge gives an answer, mean over its criteria, from 1 to 10.
    JUDGE_SCORE = "judge_score", |s| s.score.unwrap_or(f64::NAN), Traits {
        quantity: Quantity::MEAN.within(1.0, 10.0),
        kind: Kind::Judge,
        ..Traits::SCORE
    };
    /// Fraction of answers that a judge finds better than the dense model's, asked in both orders; a tie counts half.
    JUDGE_WIN_RATE = "judge_win_rate", |s| s.win_rate.unwrap_or(f64::NAN), Traits { is_of_dense: true, ..Traits::SCORE };
}

/// What a judge made of an answer; None where it was not asked, or said nothing that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct JudgeScores {
    /// Mean over the criteria, from 1 to 10.
    pub score: Option<f64>,
    /// Beside the dense model's answer: 1 where it is the better one in both orders, 0.5 where neither is, 0 where it is the
    /// worse one; ¼ and ¾ where only one order tells them apart.
    pub win_rate: Option<f64>,
}
