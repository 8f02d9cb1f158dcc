//! What every sample of a suite adds to every metric.

use std::collections::BTreeMap;

use crate::metrics::{Family, Metric, Squad, score_choices, score_text};
use crate::pipeline::{Material, SuiteRecord};
use crate::recipe::Suite;
use crate::statistics::Share;

/// The shares of each sample, by metric.
pub type Shares = BTreeMap<Metric, Vec<Share>>;

/// The shares of all metrics that a cell's results on a suite allow, asked for or not.
pub fn shares(suite: &Suite, record: &SuiteRecord, material: &Material) -> Shares {
    let of_family = |family| Metric::ALL.into_iter().filter(move |m| m.family() == family);
    let mut shares = Shares::new();
    if let Some(scores) = &record.scores {
        // A suite of choices is scored where the right one stands, which only counts where it is asked for.
        for metric in of_family(Family::Language).filter(|_| suite.wants(Family::Language)) {
            shares.insert(metric, scores.samples.iter().map(|s| metric.of_language(s)).collect());
        }
        if suite.wants(Family::Choice) {
            let scored: Vec<_> = (scores.choices.iter().zip(&material.prompts))
                .map(|(likelihoods, prompt)| score_choices(likelihoods, &prompt.choice_texts(), prompt.answer))
                .collect();
            for metric in of_family(Family::Choice) {
                shares.insert(metric, scored.iter().map(|s| metric.of_choices(s)).collect());
            }
        }
    }
    if let Some(answers) = &record.answers {
        let stem = suite.stem.unwrap_or(false);
        let squad = if material.prompts.iter().all(|p| p.answerable) { Squad::One } else { Squad::Two };
        let scored: Vec<_> = (answers.texts.iter().zip(&material.prompts))
            .map(|(answer, prompt)| score_text(answer, &prompt.references, stem, squad))
            .collect();
        for metric in of_family(Family::Text) {
            shares.insert(metric, scored.iter().map(|s| metric.of_text(s)).collect());
        }
    }
    shares
}
