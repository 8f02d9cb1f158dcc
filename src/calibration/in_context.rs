//! Windows of a task's solved examples, as they stand in front of a suite's prompts.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::dataset::DataSet;
use super::{Ask, Checking, Made, Making, Origin, planned};
use crate::data::{Examples, Library, Order, Part, Rows, Templates, Whole, solved_examples};
use crate::model::Tokenizer;
use crate::pipeline::{Inputs, Key, PlannedStage, Planner, Stage};

/// How the rows of a data set become solved examples.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InContext {
    /// Solved examples in a window, at most; by default as many as fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub shots: Option<usize>,
    /// Make the examples turns of a conversation, in the model's chat template.
    pub chat: bool,
    /// How a row reads as a solved example, in place of the data set's own template: a chain of thought, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<Templates>,
}

/// `dataset = "gsm8k"`, `in_context = { shots = 4 }`
pub struct SolvedExamples<'a> {
    pub rows: DataSet<'a>,
    pub how: &'a InContext,
}

impl SolvedExamples<'_> {
    fn examples(&self) -> Examples {
        Examples { most: self.how.shots, chat: self.how.chat }
    }

    fn make_of(&self, rows: &Rows, inputs: &Inputs, tokenizer: &Tokenizer, ask: Ask) -> Result<Whole> {
        let (part, vocabulary) = (&inputs.calibrations[self.rows.name].part, inputs.spec.vocabulary);
        let (shape, order) = ((ask.length, Some(ask.windows)), Order::Random(ask.seed));
        solved_examples(rows, part, tokenizer, vocabulary, self.examples(), shape, order)
    }
}

impl Origin for SolvedExamples<'_> {
    fn what(&self) -> String {
        self.rows.what()
    }

    fn part(&self, library: &Library) -> Result<Option<Part>> {
        let mut part = self.rows.part(library)?;
        if let (Some(part), Some(template)) = (&mut part, &self.how.template) {
            part.templates = Some(template.clone());
        }
        Ok(part)
    }

    fn key(&self, inputs: &Inputs, ask: Ask) -> Key {
        let rows = inputs.calibrations[self.rows.name].digest;
        let how = ("in context", self.how.shots, self.how.chat);
        Stage::Windows.key(&(rows, inputs.tokenizer_key(self.rows.recipe), how, ask))
    }

    fn check(&self, checking: &Checking, ask: Ask) -> Result<()> {
        let input = &checking.inputs.calibrations[self.rows.name];
        let rows = input.rows()?;
        self.make_of(&rows, checking.inputs, checking.tokenizer, ask).map(drop)
    }

    fn make(&self, making: &Making, ask: Ask) -> Result<Made> {
        let study = making.study;
        let rows = making.rows(self.rows.name)?;
        let Whole { windows, rows, .. } = self.make_of(&rows, study.inputs(), study.tokenizer(), ask)?;
        Ok(Made { windows, details: json!({"examples": rows}) })
    }

    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage> {
        vec![planned(self.rows.name, self, planner, ask, "")]
    }
}
