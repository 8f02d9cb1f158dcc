//! What a suite is made of: token windows, or prompts.

use anyhow::{Result, bail, ensure};

use crate::data::{Passage, Prompt, Windows};
use crate::metrics::Family;
use crate::model::Reach;
use crate::recipe::{Suite, Unit};

/// The samples of a suite.
pub struct Material {
    /// What goes through the model to be scored, one a sample; empty where nothing is.
    pub passages: Vec<Passage>,
    /// One a sample; empty where the samples are windows.
    pub prompts: Vec<Prompt>,
}

impl Material {
    pub fn of_windows(windows: &Windows) -> Self {
        Self { passages: windows.passages(), prompts: vec![] }
    }

    /// The material of a suite of rows, which is called `name`.
    ///
    /// # Errors
    /// Where a row lacks what the suite's metrics compare with.
    pub fn of_prompts(name: &str, suite: &Suite, prompts: Vec<Prompt>, reach: Option<Reach>) -> Result<Self> {
        let new_tokens = match suite.unit() {
            Unit::Rows(unit) if suite.wants(Family::Text) => unit.decoding.max_new_tokens,
            _ => 0,
        };
        for (i, prompt) in prompts.iter().enumerate() {
            let row = i + 1;
            let asks = |family| suite.metrics().into_iter().find(|m| m.family() == family).map(|m| m.as_str());
            if let (true, Some(tokens)) = (suite.is_scored(), prompt.crowded_out()) {
                bail!(
                    "row {row} has {tokens} tokens to be scored, which leave no room for a prompt in the model's context"
                );
            }
            if let Some(reach) = reach {
                let scored = prompt.passage().filter(|_| suite.is_scored()).map_or(0, |passage| passage.longest());
                let answered = if new_tokens > 0 { prompt.ids.len() + new_tokens } else { 0 };
                let tokens = scored.max(answered);
                ensure!(tokens <= reach.tokens, "{}", reach.refusal(&format!("the {tokens} tokens of row {row} are")));
            }
            if let Some(metric) = asks(Family::Choice) {
                ensure!(!prompt.choices.is_empty(), "row {row} has no choices, which {metric} needs");
            }
            if let Some(metric) = asks(Family::Text) {
                ensure!(!prompt.references.is_empty(), "row {row} has no target, which {metric} compares answers with");
            }
            if let Some(metric) = asks(Family::Language) {
                ensure!(prompt.passage().is_some(), "row {row} has no target, which {metric} is taken of");
            }
        }
        let passages = if suite.is_scored() { prompts.iter().filter_map(Prompt::passage).collect() } else { vec![] };
        let cut = prompts.iter().filter(|p| p.cut).count();
        if cut > 0 {
            let reserved = match new_tokens {
                0 => String::new(),
                taken => format!(", of which max_new_tokens takes {taken}"),
            };
            tracing::warn!(
                "[suite.{name}]: {cut} of {} prompts are too long for the model's context{reserved}, and lost their \
                 beginnings; samples.parquet has what is left",
                prompts.len()
            );
        }
        Ok(Self { passages, prompts })
    }

    /// Samples of the suite.
    pub fn samples(&self) -> usize {
        self.passages.len().max(self.prompts.len())
    }

    /// The most positions that a token sees, where answers have up to `new_tokens`.
    pub fn longest(&self, new_tokens: usize) -> usize {
        let passages = self.passages.iter().map(Passage::longest);
        passages.chain(self.prompts.iter().map(|p| p.ids.len() + new_tokens)).max().unwrap_or(0)
    }
}
