//! What a cell is judged by: scores of every sample, and estimates with intervals made of them.

mod choice;
#[cfg(feature = "cuda")]
mod cuda;
mod language;
mod on_device;
mod stem;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::{Quantity, Share};

pub use choice::{ChoiceScores, most_likely, score_choices};
pub use language::{Prediction, Scores, log_likelihoods, score_positions};
pub use text::{Squad, TextScores, score as score_text};

/// A metric, as recipes and tables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean negative log-likelihood of a token, in nats: of windows every token, of rows those of the target.
    Loss,
    /// exp of the mean token loss over all samples.
    Perplexity,
    /// Jensen-Shannon divergence of the next-token distribution from the dense model's, mean over
    /// positions, in nats (at most ln 2).
    JsDivergence,
    /// Kullback-Leibler divergence KL(dense ‖ pruned), mean over positions, in nats.
    KlDivergence,
    /// Fraction of positions at which the most likely token is the dense model's.
    Top1Agreement,
    /// Fraction of generated answers that are the reference, but for case, punctuation and articles (SQuAD v1.1; v2
    /// where the data has questions without an answer).
    ExactMatch,
    /// Overlap of the words of answer and reference, harmonic mean of precision and recall (SQuAD v1.1
    /// or v2, as `exact_match`).
    F1,
    /// Overlap of words, F-measure of rouge-score.
    Rouge1,
    /// Overlap of pairs of words, F-measure of rouge-score.
    Rouge2,
    /// Longest common subsequence of words, F-measure of rouge-score.
    #[serde(rename = "rougeL")]
    RougeL,
    /// Fraction of generated answers in which the reference stands, but for case, punctuation and articles.
    ContainsAnswer,
    /// Fraction of rows where the right choice has the largest log-likelihood.
    Acc,
    /// The same, log-likelihoods divided by the choices' characters.
    AccNorm,
    /// The same, log-likelihoods divided by the choices' bytes in UTF-8.
    AccBytes,
}

/// What a metric is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Next-token distributions at given positions.
    Language,
    /// Generated text.
    Text,
    /// Log-likelihoods of choices.
    Choice,
}

impl Metric {
    pub const ALL: [Self; 14] = [
        Self::Loss,
        Self::Perplexity,
        Self::JsDivergence,
        Self::KlDivergence,
        Self::Top1Agreement,
        Self::ExactMatch,
        Self::F1,
        Self::Rouge1,
        Self::Rouge2,
        Self::RougeL,
        Self::ContainsAnswer,
        Self::Acc,
        Self::AccNorm,
        Self::AccBytes,
    ];

    /// As recipes and tables spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Perplexity => "perplexity",
            Self::JsDivergence => "js_divergence",
            Self::KlDivergence => "kl_divergence",
            Self::Top1Agreement => "top1_agreement",
            Self::ExactMatch => "exact_match",
            Self::F1 => "f1",
            Self::Rouge1 => "rouge1",
            Self::Rouge2 => "rouge2",
            Self::RougeL => "rougeL",
            Self::ContainsAnswer => "contains_answer",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
        }
    }

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    pub fn family(self) -> Family {
        match self {
            Self::Loss | Self::Perplexity | Self::JsDivergence | Self::KlDivergence | Self::Top1Agreement => {
                Family::Language
            }
            Self::Acc | Self::AccNorm | Self::AccBytes => Family::Choice,
            _ => Family::Text,
        }
    }

    /// Whether more is better: scores and agreement, not losses and divergences.
    pub fn higher_is_better(self) -> bool {
        self.family() != Family::Language || self == Self::Top1Agreement
    }

    /// Whether it is itself a comparison with the dense model, to which nothing is nearer than the dense model.
    pub fn is_of_dense(self) -> bool {
        [Self::JsDivergence, Self::KlDivergence, Self::Top1Agreement].contains(&self)
    }

    /// Whether it judges answers or choices, not next-token distributions.
    pub fn is_downstream(self) -> bool {
        self.family() != Family::Language
    }

    /// What it makes of the mean over positions or rows.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::Perplexity => Quantity::EXP.within(0.0, f64::INFINITY),
            Self::Loss | Self::KlDivergence => Quantity::MEAN.within(0.0, f64::INFINITY),
            Self::JsDivergence => Quantity::MEAN.within(0.0, std::f64::consts::LN_2),
            _ => Quantity::SHARE,
        }
    }

    /// A sample's share in a language metric.
    pub fn of_language(self, scores: &Scores) -> Share {
        let sum = match self {
            Self::JsDivergence => scores.js,
            Self::KlDivergence => scores.kl,
            Self::Top1Agreement => scores.agreement,
            _ => scores.loss,
        };
        Share { sum, weight: scores.positions }
    }

    /// A sample's share in a metric of generated text.
    pub fn of_text(self, scores: &TextScores) -> Share {
        Share::one(match self {
            Self::F1 => scores.f1,
            Self::Rouge1 => scores.rouge1,
            Self::Rouge2 => scores.rouge2,
            Self::RougeL => scores.rouge_l,
            Self::ContainsAnswer => scores.contains_answer,
            _ => scores.exact_match,
        })
    }

    /// A sample's share in a metric of choices.
    pub fn of_choices(self, scores: &ChoiceScores) -> Share {
        Share::one(match self {
            Self::AccNorm => scores.acc_norm,
            Self::AccBytes => scores.acc_bytes,
            _ => scores.acc,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Setting, summary};

    #[test]
    fn a_metric_has_one_name_everywhere() {
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.as_str());
            assert_eq!(Metric::named(metric.as_str()), Some(metric));
        }
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean_over_all_tokens() {
        let share = |positions, loss| Metric::Perplexity.of_language(&Scores { positions, loss, ..Scores::default() });
        let suite = Setting::fixed(vec![share(3.0, 7.0), share(1.0, 1.0)]);
        assert_eq!(summary(&Metric::Perplexity.quantity(), &suite).value, 2f64.exp());
    }
}
