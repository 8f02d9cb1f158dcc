//! What every sample of a suite adds to every metric.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::data::Prompt;
use crate::metrics::{ChoiceScores, Family, Metric, Squad, Take, TextScores, score_choices, score_target, score_text};
use crate::pipeline::{AnswersRecord, Material, ScoresRecord, SuiteRecord};
use crate::recipe::Suite;
use crate::statistics::Share;

/// The shares of each sample, by metric; metrics that take the same of a sample have the same shares.
pub type Shares = BTreeMap<Metric, Arc<Values>>;

/// The shares of samples, in half of the room: what they weigh is the same for many cells and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    sums: Vec<f64>,
    weights: Weights,
}

/// What samples weigh.
#[derive(Debug, Clone, PartialEq)]
enum Weights {
    /// One each.
    One,
    Each(Arc<[f64]>),
}

impl Values {
    fn of(shares: impl Iterator<Item = Share>) -> Self {
        let (sums, weights): (Vec<f64>, Vec<f64>) = shares.map(|share| (share.sum, share.weight)).unzip();
        let is_one = weights.iter().all(|weight| *weight == 1.0);
        Self { sums, weights: if is_one { Weights::One } else { Weights::Each(weights.into()) } }
    }

    pub fn len(&self) -> usize {
        self.sums.len()
    }

    pub fn get(&self, sample: usize) -> Share {
        let weight = match &self.weights {
            Weights::One => 1.0,
            Weights::Each(weights) => weights[sample],
        };
        Share { sum: self.sums[sample], weight }
    }

    pub fn iter(&self) -> impl Iterator<Item = Share> {
        (0..self.len()).map(|sample| self.get(sample))
    }

    /// Whether every sample has a share.
    pub fn is_whole(&self) -> bool {
        match &self.weights {
            Weights::One => true,
            Weights::Each(weights) => weights.iter().all(|weight| *weight > 0.0),
        }
    }

    /// The same, with the weights of another where these are equal: then both have them once.
    fn beside(mut self, other: &Self) -> Self {
        if self.weights == other.weights {
            self.weights = other.weights.clone();
        }
        self
    }
}

/// The shares of those of a suite's metrics that are wanted and that a cell's results allow; weights are shared with those of
/// another cell.
pub fn shares(
    suite: &Suite,
    record: &SuiteRecord,
    material: &Material,
    is_wanted: impl Fn(Metric) -> bool,
    like: Option<&Shares>,
) -> Shares {
    let wanted: Vec<Metric> = Metric::all().filter(|metric| is_wanted(*metric)).collect();
    let wants = |family: Family| wanted.iter().any(|metric| metric.family() == family);
    // A suite of choices is scored where the right one stands, which only counts where it is asked for.
    let language = record.scores.as_ref().filter(|_| suite.wants(Family::Language)).map(|scores| &scores.samples);
    let choices = record.scores.as_ref().filter(|_| suite.wants(Family::Choice) && wants(Family::Choice));
    let choices = choices.map(|scores| of_choices(scores, material));
    let texts = record.answers.as_ref().filter(|_| wants(Family::Text));
    let texts = texts.map(|answers| of_texts(suite, answers, material));
    let of = |metric: Metric| -> Option<Values> {
        Some(match metric.take() {
            Take::Language(take) => Values::of(language?.iter().map(|s| Share { sum: take(s), weight: s.positions })),
            Take::Text(take) => Values::of(texts.as_ref()?.iter().map(|s| Share::one(take(s)))),
            Take::Judge(take) => Values::of(record.judged.as_ref()?.iter().map(|s| if_any(take(s)))),
            Take::Choice(take) => Values::of(choices.as_ref()?.iter().map(|s| if_any(take(s)))),
        })
    };
    let mut all = Shares::new();
    for metric in wanted {
        // Loss and perplexity, for two, take the same of a sample.
        let same = all.iter().find(|(other, _)| other.finding() == metric.finding()).map(|(_, values)| values.clone());
        let new = || {
            let values = of(metric)?;
            let known = like.and_then(|like| like.get(&metric)).into_iter().chain(all.values());
            Some(Arc::new(known.fold(values, |values, known| values.beside(known))))
        };
        if let Some(values) = same.or_else(new) {
            all.insert(metric, values);
        }
    }
    all
}

/// An answer that was not judged has no share, and a row has none in what it does not allow.
fn if_any(score: f64) -> Share {
    if score.is_nan() { Share::default() } else { Share::one(score) }
}

fn of_choices(scores: &ScoresRecord, material: &Material) -> Vec<ChoiceScores> {
    let of_rows = scores.choices.iter().zip(&material.prompts);
    let of_row = |(i, (likelihoods, prompt)): (usize, (&Vec<f64>, &Prompt))| match prompt.choices.is_empty() {
        true => score_target(likelihoods.iter().sum(), scores.greedy.get(i).copied().unwrap_or(false)),
        false => score_choices(likelihoods, &prompt.choice_texts(), &prompt.right()),
    };
    of_rows.enumerate().map(of_row).collect()
}

fn of_texts(suite: &Suite, answers: &AnswersRecord, material: &Material) -> Vec<TextScores> {
    let stem = suite.stem.unwrap_or(false);
    let squad = if material.prompts.iter().all(|p| p.answerable) { Squad::One } else { Squad::Two };
    let of_rows = answers.texts.iter().zip(&material.prompts);
    // An answer in which nothing is found that could be compared is wrong, also where a reference has no words.
    let scored = |answer: &str, references: &[String]| {
        let compared = suite.compared(answer);
        let Some(answer) = compared else { return TextScores::default() };
        let scores = score_text(answer, references, stem, squad);
        match &suite.exact_match {
            Some(how) => TextScores { exact_match: f64::from(how.is_one_of(answer, references)), ..scores },
            None => scores,
        }
    };
    of_rows.map(|(answer, prompt)| scored(answer, &prompt.references)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_once_where_they_are_equal() {
        let of = |weights: &[f64]| Values::of(weights.iter().map(|&weight| Share { sum: 2.0 * weight, weight }));
        let (one, other) = (of(&[3.0, 5.0]), of(&[3.0, 5.0]).beside(&of(&[3.0, 4.0])));
        let shared = other.clone().beside(&one);
        assert_eq!(shared, other);
        let (Weights::Each(a), Weights::Each(b), Weights::Each(c)) = (&one.weights, &shared.weights, &other.weights)
        else {
            panic!("they do not weigh one")
        };
        assert!(Arc::ptr_eq(a, b) && !Arc::ptr_eq(a, c));
        let shares = [Share { sum: 6.0, weight: 3.0 }, Share { sum: 10.0, weight: 5.0 }];
        assert_eq!(shared.iter().collect::<Vec<_>>(), shares);
        let rows = of(&[1.0, 1.0]);
        assert_eq!((rows.weights.clone(), rows.get(1), rows.len()), (Weights::One, Share::one(2.0), 2));
        assert!(rows.is_whole() && one.is_whole() && !of(&[1.0, 0.0]).is_whole());
    }
}
