//! The model that a cell judges: the recipe's, dense or pruned block by block, or a checkpoint.

use std::sync::Arc;

use anyhow::Result;

use super::super::checkpoint::InputCheckpoint;
use super::super::ends::Ends;
use super::super::stream::{Batch, Stream};
use super::Study;
use crate::calibration;
use crate::fault::At;
use crate::model::{Embedding, Head, Model, Tokenizer};
use crate::recipe::Unit;

/// A model, and how it answers.
pub struct Subject<'a> {
    pub model: &'a Model,
    pub ends: &'a Ends,
    pub tokenizer: &'a Tokenizer,
    pub repetition_penalty: f32,
}

/// A checkpoint, for as long as its cell is computed.
pub struct Opened<'a> {
    input: &'a InputCheckpoint,
    model: Model,
    ends: Ends,
}

impl Opened<'_> {
    pub fn subject(&self) -> Subject<'_> {
        let Self { input, model, ends } = self;
        Subject { model, ends, tokenizer: &input.tokenizer, repetition_penalty: input.repetition_penalty }
    }
}

impl Subject<'_> {
    pub fn embedding(&self) -> Result<Arc<Embedding>> {
        self.ends.embedding(self.model)
    }

    pub fn head(&self) -> Result<Arc<Head>> {
        self.ends.head(self.model)
    }

    /// What logits are a product of, batch by batch.
    pub fn last_states(&self, stream: Stream) -> Result<Vec<Batch>> {
        let (head, mut batches) = (self.head()?, stream.into_batches());
        for batch in &mut batches {
            batch.flow.hidden = head.normed(&batch.flow.hidden)?;
        }
        Ok(batches)
    }
}

impl Study<'_> {
    /// The recipe's model.
    pub(super) fn subject(&self) -> Result<Subject<'_>> {
        let (model, tokenizer, repetition_penalty) = (&self.model, &self.tokenizer, self.inputs.repetition_penalty);
        Ok(Subject { model, ends: self.ends()?, tokenizer, repetition_penalty })
    }

    /// A checkpoint, in the precision and on the device of the model.
    pub(super) fn open_checkpoint(&self, name: &str) -> Result<Opened<'_>> {
        let input = &self.inputs.checkpoints[name];
        let open = || {
            let model = Model::open(&input.files, self.model.dtype, self.model.device.clone())?;
            let ends = self.ends_of(&model)?;
            Ok(Opened { input, model, ends })
        };
        open().at(|| format!("[checkpoint.{name}]"))
    }

    /// The ends of the recipe's model.
    pub(super) fn ends(&self) -> Result<&Ends> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let ends = self.ends_of(&self.model)?;
        Ok(self.ends.get_or_init(|| ends))
    }

    /// The ends of a model that the study's windows and prompts go through.
    fn ends_of(&self, model: &Model) -> Result<Ends> {
        let used = calibration::used(self.recipe);
        let drawn = used.iter().map(|name| &self.recipe.calibration[name]);
        let suites = self.materials.iter().map(|(name, material)| match self.recipe.suite[name].unit() {
            Unit::Windows(_) => material.longest(0),
            Unit::Rows(unit) => material.longest(unit.decoding.max_new_tokens),
        });
        let longest = drawn.map(|c| c.length).chain(suites).max().unwrap_or(0);
        Ends::of(model, longest)
    }
}
