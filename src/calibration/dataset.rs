//! Windows that are cut from the rows of a data set.

use anyhow::Result;

use super::{Ask, Checking, Made, Making, Origin, planned};
use crate::data::{Library, Order, Packing, Part, cut};
use crate::pipeline::{Inputs, Key, PlannedStage, Planner, Stage};
use crate::recipe::{Calibration, Recipe};

/// `dataset = "c4"`
pub struct DataSet<'a> {
    pub recipe: &'a Recipe,
    pub name: &'a str,
    pub calibration: &'a Calibration,
}

impl DataSet<'_> {
    fn packing(&self, ask: Ask) -> (Packing, usize, Option<usize>) {
        (self.calibration.packing, ask.length, Some(ask.windows))
    }
}

impl Origin for DataSet<'_> {
    fn what(&self) -> String {
        format!("data set \"{}\"", self.calibration.dataset.as_deref().unwrap_or_default())
    }

    fn part(&self, library: &Library) -> Result<Option<Part>> {
        let Some(dataset) = &self.calibration.dataset else { return Ok(None) };
        library.get(dataset)?.part(self.calibration.split.as_deref(), "train").map(Some)
    }

    fn key(&self, inputs: &Inputs, ask: Ask) -> Key {
        let rows = inputs.calibrations[self.name].digest;
        Stage::Windows.key(&(rows, inputs.tokenizer_key(self.recipe), self.packing(ask), Order::Random(ask.seed)))
    }

    fn check(&self, checking: &Checking, ask: Ask) -> Result<()> {
        let Checking { inputs, tokenizer, .. } = checking;
        inputs.calibrations[self.name].check_windows(tokenizer, inputs.spec.vocabulary, self.packing(ask))
    }

    fn make(&self, making: &Making, ask: Ask) -> Result<Made> {
        let (rows, study) = (making.rows(self.name)?, making.study);
        let (part, vocabulary) = (&study.inputs().calibrations[self.name].part, study.inputs().spec.vocabulary);
        let order = Order::Random(ask.seed);
        Ok(cut(&rows, part, study.tokenizer(), vocabulary, self.packing(ask), order)?.into())
    }

    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage> {
        vec![planned(self.name, self, planner, ask, "")]
    }
}
