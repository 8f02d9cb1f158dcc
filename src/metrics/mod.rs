//! What a cell is judged by: per-window scores, and estimates with intervals made of them.

mod bootstrap;
mod language;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bootstrap::{Estimate, estimate};
pub use language::{Scores, score_windows};

/// A metric over token windows, as recipes and tables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean negative log-likelihood of the next token, in nats.
    Loss,
    /// exp of the mean token loss over all windows.
    Perplexity,
    /// Jensen-Shannon divergence of the next-token distribution from the dense model's, mean over
    /// positions, in nats (at most ln 2).
    JsDivergence,
    /// Kullback-Leibler divergence KL(dense ‖ pruned), mean over positions, in nats.
    KlDivergence,
    /// Fraction of positions at which the most likely token is the dense model's.
    Top1Agreement,
}

impl Metric {
    pub const ALL: [Self; 5] =
        [Self::Loss, Self::Perplexity, Self::JsDivergence, Self::KlDivergence, Self::Top1Agreement];

    /// As recipes and tables spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Perplexity => "perplexity",
            Self::JsDivergence => "js_divergence",
            Self::KlDivergence => "kl_divergence",
            Self::Top1Agreement => "top1_agreement",
        }
    }

    /// The metric of summed scores.
    pub fn of(self, scores: &Scores) -> f64 {
        let mean = |sum: f64| sum / scores.positions;
        match self {
            Self::Loss => mean(scores.loss),
            Self::Perplexity => mean(scores.loss).exp(),
            Self::JsDivergence => mean(scores.js),
            Self::KlDivergence => mean(scores.kl),
            Self::Top1Agreement => mean(scores.agreement),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_one_name_everywhere() {
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.as_str());
        }
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean_over_all_tokens() {
        let scores = Scores { positions: 4.0, loss: 8.0, ..Scores::default() };
        assert_eq!(Metric::Perplexity.of(&scores), 2f64.exp());
    }
}
