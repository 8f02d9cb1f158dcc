//! What a suite is made of: token windows, or prompts.

use anyhow::{Result, ensure};

use crate::data::{Has, Passage, Prompt, Windows};
use crate::digest::Digest;
use crate::judge::JudgeSpec;
use crate::metrics::{Family, Metric};
use crate::model::Spec;
use crate::recipe::{Suite, Unit};

/// Whether a row has what the metrics of its suite compare with.
///
/// # Errors
/// Where it lacks it; the message has the row's number.
pub fn check(suite: &Suite, has: &Has) -> Result<()> {
    let Has { row, .. } = has;
    let asks = |family| suite.metrics().into_iter().find(|m| m.family() == family).map(|m| m.as_str());
    for metric in suite.metrics().into_iter().filter(|m| m.family() == Family::Choice) {
        let name = metric.as_str();
        let is_there = has.choices || (metric.takes_targets() && has.target);
        ensure!(is_there, "row {row} has no choices, which {name} needs");
        ensure!(metric.takes_several() || !has.several, "row {row} has several right choices, and {name} is of one");
    }
    if let Some(metric) = asks(Family::Text) {
        ensure!(has.references, "row {row} has no target, which {metric} compares answers with");
    }
    if suite.judge.as_ref().is_some_and(JudgeSpec::wants_reference) {
        ensure!(
            has.references,
            "row {row} has no target, which the judge's prompt shows as the reference; \
             {{% if reference %}} around it would do without"
        );
    }
    if let Some(metric) = asks(Family::Language) {
        ensure!(
            has.target || has.answerable,
            "row {row} is a question without an answer, and {metric} is taken of answers; give the data set's template a \
             `target` for such rows, or ask for exact_match and f1 only"
        );
        ensure!(has.target, "row {row} has no target, which {metric} is taken of");
    }
    Ok(())
}

/// Whether the model can read a prompt as its suite asks.
pub fn check_tokens(suite: &Suite, prompt: &Prompt, model: &Spec) -> Result<()> {
    if suite.is_scored() {
        prompt.check_scored(model.vocabulary)?;
    }
    if suite.is_answered() {
        prompt.check_answered(model.vocabulary)?;
    }
    if let Some(reach) = model.reach {
        let scored = prompt.passage().filter(|_| suite.is_scored()).map_or(0, |passage| passage.longest());
        let answered = match new_tokens(suite) {
            0 => 0,
            new_tokens => prompt.ids.len() + new_tokens,
        };
        let (tokens, row) = (scored.max(answered), prompt.has().row);
        ensure!(tokens <= reach.tokens, "{}", reach.refusal(&format!("the {tokens} tokens of row {row} are")));
    }
    Ok(())
}

/// The most tokens of an answer; 0 where none is asked for.
fn new_tokens(suite: &Suite) -> usize {
    match suite.unit() {
        Unit::Rows(unit) if suite.is_answered() => unit.decoding.max_new_tokens,
        _ => 0,
    }
}

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

    /// The material of a suite of rows, which is called `name`, for a model of this shape.
    ///
    /// # Errors
    /// Where a row lacks what the suite's metrics compare with, or the model cannot read it.
    pub fn of_prompts(name: &str, suite: &Suite, prompts: Vec<Prompt>, model: &Spec) -> Result<Self> {
        for prompt in &prompts {
            check(suite, &prompt.has())?;
            check_tokens(suite, prompt, model)?;
        }
        if suite.metrics.is_none() && prompts.iter().any(|prompt| prompt.has().choices) {
            tracing::warn!(
                "[suite.{name}]: its rows have choices, and without `metrics` it is judged by answers that the model writes; \
                 metrics = [\"acc\"] asks which choice it takes"
            );
        }
        if suite.metrics().contains(&Metric::F1) && prompts.iter().any(|prompt| prompt.has().choices) {
            tracing::warn!(
                "[suite.{name}]: f1 is of the words of answers that the model writes, here beside the right choice's; it is not \
                 the F1 of classes that lm-evaluation-harness has of choices"
            );
        }
        let passages = if suite.is_scored() { prompts.iter().filter_map(Prompt::passage).collect() } else { vec![] };
        let cut = prompts.iter().filter(|p| p.cut).count();
        if cut > 0 {
            let reserved = match new_tokens(suite) {
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

    /// Tokens that go through the model to be scored; where none are, those of the prompts.
    pub fn tokens(&self) -> usize {
        match self.passages.is_empty() {
            true => self.prompts.iter().map(|prompt| prompt.ids.len()).sum(),
            false => self.passages.iter().map(|passage| passage.ids.len()).sum(),
        }
    }

    /// What tells the samples from others: tokens, and what answers are compared with.
    pub fn digest(&self) -> Digest {
        let passages: Vec<&[u32]> = self.passages.iter().map(|passage| passage.ids.as_slice()).collect();
        let prompts: Vec<_> =
            self.prompts.iter().map(|p| (&p.ids, &p.references, p.choice_texts(), p.answer)).collect();
        Digest::of(&(passages, prompts))
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
