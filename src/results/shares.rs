//! What every sample of a suite adds to every metric.

use std::collections::BTreeMap;

use crate::metrics::{ChoiceScores, Family, Metric, Squad, Take, TextScores, score_choices, score_text};
use crate::pipeline::{AnswersRecord, Material, ScoresRecord, SuiteRecord};
use crate::recipe::Suite;
use crate::statistics::Share;

/// The shares of each sample, by metric.
pub type Shares = BTreeMap<Metric, Vec<Share>>;

/// The shares of all metrics that a cell's results on a suite allow, asked for or not.
pub fn shares(suite: &Suite, record: &SuiteRecord, material: &Material) -> Shares {
    // A suite of choices is scored where the right one stands, which only counts where it is asked for.
    let language = record.scores.as_ref().filter(|_| suite.wants(Family::Language)).map(|scores| &scores.samples);
    let choices = record.scores.as_ref().filter(|_| suite.wants(Family::Choice));
    let choices = choices.map(|scores| of_choices(scores, material));
    let texts = record.answers.as_ref().map(|answers| of_texts(suite, answers, material));
    let of = |metric: Metric| -> Option<Vec<Share>> {
        Some(match metric.take() {
            Take::Language(take) => language?.iter().map(|s| Share { sum: take(s), weight: s.positions }).collect(),
            Take::Text(take) => texts.as_ref()?.iter().map(|s| Share::one(take(s))).collect(),
            Take::Judge(take) => record.judged.as_ref()?.iter().map(|s| judged(take(s))).collect(),
            Take::Choice(take) => choices.as_ref()?.iter().map(|s| Share::one(take(s))).collect(),
        })
    };
    Metric::all().filter_map(|metric| Some((metric, of(metric)?))).collect()
}

/// An answer that was not judged has no share.
fn judged(score: f64) -> Share {
    if score.is_nan() { Share::default() } else { Share::one(score) }
}

fn of_choices(scores: &ScoresRecord, material: &Material) -> Vec<ChoiceScores> {
    let of_rows = scores.choices.iter().zip(&material.prompts);
    of_rows.map(|(likelihoods, prompt)| score_choices(likelihoods, &prompt.choice_texts(), prompt.answer)).collect()
}

fn of_texts(suite: &Suite, answers: &AnswersRecord, material: &Material) -> Vec<TextScores> {
    let stem = suite.stem.unwrap_or(false);
    let squad = if material.prompts.iter().all(|p| p.answerable) { Squad::One } else { Squad::Two };
    let of_rows = answers.texts.iter().zip(&material.prompts);
    of_rows.map(|(answer, prompt)| score_text(answer, &prompt.references, stem, squad)).collect()
}
