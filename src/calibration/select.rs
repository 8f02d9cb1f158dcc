//! Windows of another calibration, chosen from many.

use std::ops::Range;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nearness::nearness;
use super::{Ask, Checking, Made, Making, Origin, origin, planned, planned_behind, windows};
use crate::data::{Content, Windows, contents};
use crate::fault::At;
use crate::pipeline::{Inputs, Key, PlannedStage, Planner, Stage, Study};
use crate::recipe::{Recipe, Unit};

/// How windows are chosen from those of another calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The calibration that windows are drawn from to choose from.
    pub from: String,
    /// How many are drawn.
    #[schemars(range(min = 1))]
    pub of: usize,
    /// What they are chosen by; needs `part`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// Which of them are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Taken>,
    /// Choose those whose words are most like those of this suite's rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
}

/// What windows are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The dense model's mean loss of their tokens.
    Perplexity,
}

/// Which windows are taken, of all in the order of what they are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Taken {
    /// From the lowest on.
    Lowest,
    /// From the highest on.
    Highest,
    /// As many above as below.
    Middle,
}

/// `select = { from = "c4", by = "perplexity", part = "lowest", of = 1024 }`
pub struct Selected<'a> {
    pub recipe: &'a Recipe,
    pub name: &'a str,
    pub how: &'a Select,
}

/// Tokens that go through the model at once to be scored: what is kept of the way is in steps of so many.
const TOKENS_AT_ONCE: usize = 1 << 17;

/// So many windows, in groups that go through the model at once.
fn groups(ask: Ask) -> Vec<Range<usize>> {
    let at_once = (TOKENS_AT_ONCE / ask.length).max(1);
    (0..ask.windows).step_by(at_once).map(|start| start..(start + at_once).min(ask.windows)).collect()
}

/// The places of those that are taken, in their order; of equal scores the first come first.
fn taken(scores: &[f64], part: Taken, windows: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    if part == Taken::Highest {
        places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    }
    let before = if part == Taken::Middle { (places.len() - windows) / 2 } else { 0 };
    let mut kept = places[before..before + windows].to_vec();
    kept.sort_unstable();
    kept
}

impl Selected<'_> {
    /// What is asked of the other calibration.
    fn candidates(&self, ask: Ask) -> Ask {
        Ask { windows: self.how.of, ..ask }
    }

    fn source(&self) -> Box<dyn Origin + '_> {
        origin(self.recipe, &self.how.from)
    }

    /// The candidates' losses in the cache, group by group.
    fn losses(&self, inputs: &Inputs, ask: Ask) -> Vec<(Key, Range<usize>)> {
        let candidates = self.candidates(ask);
        let drawn = self.source().key(inputs, candidates).digest();
        let key = |range: &Range<usize>| Stage::Losses.key(&(inputs.model_key(self.recipe), drawn, range));
        groups(candidates).into_iter().map(|range| (key(&range), range)).collect()
    }

    /// Each candidate's score.
    fn scores(&self, making: &Making, candidates: &Windows, ask: Ask) -> Result<Vec<f64>> {
        let study = making.study;
        let Some(suite) = &self.how.near else {
            let what = format!("candidates of calibration {}, seed {}", self.name, ask.seed);
            return study.losses(candidates, &self.losses(study.inputs(), ask), &what);
        };
        let text = |range: Range<usize>| study.tokenizer().decode(&candidates.ids()[range]);
        let candidates = candidates.ranges().map(text).collect::<Result<Vec<_>>>()?;
        Ok(nearness(&candidates, &texts_of(suite, study).at(|| format!("[suite.{suite}]"))?))
    }

    fn is_enough(&self, ask: Ask) -> Result<()> {
        let of = self.how.of;
        ensure!(ask.windows <= of, "too few to choose from: {} windows are asked for, and of = {of}", ask.windows);
        Ok(())
    }
}

/// The texts of a suite's rows: what they ask, and what is right to answer.
fn texts_of(suite: &str, study: &Study) -> Result<Vec<String>> {
    let input = &study.inputs().suites[suite];
    let rows = input.rows()?;
    let count = match study.recipe().suite[suite].unit() {
        Unit::Rows(unit) => unit.limit.unwrap_or(rows.len()).min(rows.len()),
        Unit::Windows(_) => rows.len(),
    };
    let text = |content: Content| match content {
        Content::Text { prompt, target, references, .. } => Ok([vec![prompt, target], references].concat().join("\n")),
        choice @ Content::Choice { .. } => choice.parts().map(|(prompt, target)| prompt + &target),
        Content::Chat(chat) => {
            let turns = chat.messages.iter().filter_map(|message| message["content"].as_str());
            Ok(turns.collect::<Vec<_>>().join("\n"))
        }
        Content::Tokens(ids) => study.tokenizer().decode(&ids),
    };
    contents(&rows, count, &input.part)?.into_iter().map(text).collect()
}

impl Origin for Selected<'_> {
    fn what(&self) -> String {
        let Select { from, of, part, near, .. } = self.how;
        match (near, part) {
            (Some(suite), _) => format!("those of {of} windows of {from} that are nearest to the suite {suite}"),
            (None, Some(Taken::Middle)) => format!("those of {of} windows of {from} with a middling perplexity"),
            (None, Some(Taken::Highest)) => format!("those of {of} windows of {from} with the highest perplexity"),
            (None, _) => format!("those of {of} windows of {from} with the lowest perplexity"),
        }
    }

    fn uses(&self) -> Vec<&str> {
        vec![&self.how.from]
    }

    fn suites(&self) -> Vec<&str> {
        self.how.near.iter().map(String::as_str).collect()
    }

    fn computes(&self) -> bool {
        self.how.by.is_some() || self.source().computes()
    }

    fn key(&self, inputs: &Inputs, ask: Ask) -> Key {
        let drawn = self.source().key(inputs, self.candidates(ask)).digest();
        match &self.how.near {
            None => Stage::Windows.key(&("select", inputs.model_key(self.recipe), drawn, self.how.part, ask)),
            Some(suite) => {
                let rows = (inputs.suites[suite].digest, self.recipe.suite[suite].limit);
                Stage::Windows.key(&("near", inputs.tokenizer_key(self.recipe), drawn, rows, ask))
            }
        }
    }

    fn entries(&self, inputs: &Inputs, ask: Ask) -> Vec<Key> {
        let mut keys = self.source().entries(inputs, self.candidates(ask));
        if self.how.near.is_none() {
            keys.extend(self.losses(inputs, ask).into_iter().map(|(key, _)| key));
        }
        keys.push(self.key(inputs, ask));
        keys
    }

    fn check(&self, checking: &Checking, ask: Ask) -> Result<()> {
        self.is_enough(ask)?;
        checking.check(&self.how.from, self.candidates(ask))
    }

    fn make(&self, making: &Making, ask: Ask) -> Result<Made> {
        self.is_enough(ask)?;
        let Made { windows: candidates, details } = windows(making, &self.how.from, self.candidates(ask))?;
        let scores = self.scores(making, &candidates, ask)?;
        let part = if self.how.near.is_some() { Taken::Highest } else { self.how.part.unwrap_or(Taken::Lowest) };
        let kept = taken(&scores, part, ask.windows);
        let all: Vec<&[u32]> = candidates.slices().collect();
        let windows: Windows = kept.iter().map(|&place| all[place]).collect();
        // Digits that tell candidates apart, and no more: run.json has all of them.
        let shown: Vec<f64> = scores.iter().map(|score| (score * 1e6).round() / 1e6).collect();
        let mut said = serde_json::to_value(self.how)?;
        (said["kept"], said["scores"]) = (json!(kept), json!(shown));
        if !details.is_null() {
            said["candidates"] = details;
        }
        Ok(Made { windows, details: json!({"select": said}) })
    }

    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage> {
        let candidates = self.candidates(ask);
        let mut behind = self.source().stages(planner, candidates);
        if self.how.near.is_none() {
            let known = |inputs| self.losses(inputs, ask).iter().all(|(key, _)| planner.has(*key));
            behind.push(PlannedStage {
                name: format!("losses of {} windows of calibration {}, seed {}", self.how.of, self.how.from, ask.seed),
                stage: Stage::Losses,
                cached: planner.inputs.map(known),
                bytes: Some(20u64.saturating_mul(self.how.of as u64)),
                work: planner.work_of_losses(candidates.tokens(), ask.length),
            });
        }
        planned_behind(planned(self.name, self, planner, ask, ""), behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_of_all_in_the_order_of_their_scores() {
        let scores = [3.0, 1.0, 2.0, 5.0, 4.0, 1.0];
        assert_eq!(taken(&scores, Taken::Lowest, 2), [1, 5]);
        assert_eq!(taken(&scores, Taken::Lowest, 1), [1]);
        assert_eq!(taken(&scores, Taken::Highest, 2), [3, 4]);
        assert_eq!(taken(&scores, Taken::Middle, 2), [0, 2]);
        assert_eq!(taken(&scores, Taken::Middle, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(taken(&[1.0; 4], Taken::Highest, 2), [0, 1]);
    }

    #[test]
    fn candidates_go_through_the_model_in_groups_that_lose_none() {
        for (windows, length) in [(1024, 2048), (5, 1 << 20), (130, 1024), (1, 2)] {
            let groups = groups(Ask { windows, length, seed: 0 });
            assert_eq!(groups.iter().cloned().flatten().collect::<Vec<_>>(), (0..windows).collect::<Vec<_>>());
            assert!(groups.iter().all(|group| group.len() == 1 || group.len() * length <= TOKENS_AT_ONCE));
        }
    }
}
