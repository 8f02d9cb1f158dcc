//! What a cell is judged by: scores of every sample, and estimates with intervals made of them.
//!
//! A family of metrics is one file, which says how its scores are taken and has the list of its metrics (`metrics!`): a name,
//! what is read off the scores of a sample, and what is to be made of that. To add a metric, add it to the list of its family;
//! to add a family, write the file and add its line to `families!` below. The recipe, its schema, the tables and the report
//! follow: they know no metric by its name.

mod registry;

mod choice;
#[cfg(feature = "cuda")]
mod cuda;
mod exact;
mod expression;
mod extract;
mod greedy;
mod judge;
mod language;
mod on_device;
mod stem;
mod text;

use registry::families;

pub use choice::{ChoiceScores, most_likely, score_choices, score_target};
pub use exact::ExactMatch;
pub use extract::Extract;
pub use greedy::are_greedy;
pub use judge::JudgeScores;
pub use language::{Prediction, Scores, log_likelihoods, score_positions};
pub use registry::{Kind, Metric};
pub use text::{Squad, TextScores, score as score_text};

families! {
    /// Next-token distributions at given positions.
    Language => language::Scores,
    /// Generated text.
    Text => text::TextScores,
    /// Log-likelihoods of choices.
    Choice => choice::ChoiceScores,
    /// What a language model says of generated text.
    Judge => judge::JudgeScores,
}

impl Family {
    /// Whether its scores are of generated answers, so that a suite that asks for it has them generated.
    pub fn is_of_answers(self) -> bool {
        match self {
            Self::Text | Self::Judge => true,
            Self::Language | Self::Choice => false,
        }
    }

    /// Whether it judges answers or choices, not next-token distributions.
    pub fn is_downstream(self) -> bool {
        self != Self::Language
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::statistics::{Setting, Share, summary};

    #[test]
    fn a_metric_has_one_name_everywhere() {
        for metric in Metric::all() {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.as_str());
            assert_eq!(serde_json::from_value::<Metric>(metric.as_str().into()).unwrap(), metric);
        }
        let names: BTreeSet<&str> = Metric::all().map(Metric::as_str).collect();
        assert_eq!(names.len(), Metric::all().count());
        assert!(serde_json::from_value::<Metric>("accuracy".into()).is_err());
    }

    #[test]
    fn a_metric_that_is_made_of_another_is_of_its_family_and_of_the_same_shares() {
        let scores = Scores { positions: 4.0, loss: 2.0, js: 3.0, kl: 5.0, agreement: 1.0 };
        for metric in Metric::all() {
            let other = metric.finding();
            assert_eq!((other.family(), other.finding()), (metric.family(), other), "{metric:?}");
            if let (Take::Language(own), Take::Language(its)) = (metric.take(), other.take()) {
                assert_eq!(own(&scores), its(&scores), "{metric:?}");
            }
        }
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean_over_all_tokens() {
        let Take::Language(take) = Metric::PERPLEXITY.take() else { panic!("it is of next-token distributions") };
        let share = |weight, loss| Share { sum: take(&Scores { loss, ..Scores::default() }), weight };
        let suite = Setting::fixed(vec![share(3.0, 7.0), share(1.0, 1.0)]);
        assert_eq!(summary(&Metric::PERPLEXITY.quantity(), &suite).value, 2f64.exp());
    }
}
