//! Models that others made, as inputs of a study: each is here, and can be set beside the dense model.

use std::path::Path;

use anyhow::Result;

use super::inputs::{digest_of, repetition_penalty};
use crate::digest::Digest;
use crate::fault::At;
use crate::model::{ModelFiles, Spec, Tokenizer};
use crate::recipe::{Layers, Problems, Recipe, check_against_checkpoint};
use crate::source::Fetcher;

/// A checkpoint that is here, and fits the model.
pub struct InputCheckpoint {
    pub files: ModelFiles,
    /// Of each of its files, by its name.
    pub file_digests: Vec<(String, Digest)>,
    pub digest: Digest,
    pub spec: Spec,
    pub tokenizer: Tokenizer,
    /// What its own folder wants of answers.
    pub repetition_penalty: f32,
}

/// A checkpoint that is here, of which the recipe's other inputs may not be.
pub struct UncheckedCheckpoint {
    pub name: String,
    files: ModelFiles,
    spec: Spec,
}

/// Tokens that a message has room for.
const SHOWN: usize = 3;

impl UncheckedCheckpoint {
    /// What lies at `path`, where it can read the recipe's windows.
    ///
    /// # Errors
    /// Where it is no model, or has a shorter context than these.
    pub fn at(recipe: &Recipe, name: &str, path: &Path, layers: &Layers) -> Result<Self> {
        let key = ["checkpoint", name, "source"];
        let no_model = |e: anyhow::Error| Problems(vec![layers.problem(&key, format!("{e:#}"), None)]);
        let files = ModelFiles::at(path).map_err(no_model)?;
        let spec = files.spec().at(|| format!("[checkpoint.{name}]"))?;
        check_against_checkpoint(recipe, name, &spec, layers)?;
        spec.remarks.iter().for_each(|remark| tracing::warn!("[checkpoint.{name}]: {remark}"));
        Ok(Self { name: name.to_owned(), files, spec })
    }

    /// An error where a checkpoint that computes `own` predicts other tokens than the model.
    pub fn fits(name: &str, own: &Spec, spec: &Spec, layers: &Layers) -> Result<(), Problems> {
        if own.vocabulary == spec.vocabulary {
            return Ok(());
        }
        let said = format!(
            "it predicts {} tokens, and the model {}: a checkpoint is compared with the model token by token, and needs the \
             same vocabulary",
            own.vocabulary, spec.vocabulary
        );
        Err(Problems(vec![layers.problem(&["checkpoint", name, "source"], said, None)]))
    }

    /// The checkpoint, which has the tokens of the dense model (`spec`, `model_tokenizer`): what goes through one can go through the other, and their
    /// predictions are of the same vocabulary.
    ///
    /// # Errors
    /// Where it has others, or its weights cannot be read.
    pub fn checked(
        self,
        recipe: &Recipe,
        (spec, model_tokenizer): (&Spec, &Tokenizer),
        layers: &Layers,
        fetcher: &Fetcher,
    ) -> Result<InputCheckpoint> {
        let Self { name, files, spec: own } = self;
        let place = || format!("[checkpoint.{name}]");
        let refused = |said: String| layers.problem(&["checkpoint", &name, "source"], said, None);
        Self::fits(&name, &own, spec, layers)?;
        files.check_tokenizer().at(place)?;
        let tokenizer = files.tokenizer().at(place)?.on(recipe.model.date);
        let others = model_tokenizer.other_tokens(&tokenizer);
        if !others.is_empty() {
            let shown = others.iter().take(SHOWN);
            let shown: Vec<_> = shown.map(|(id, a, b)| format!("{id} is {b:?}, not {a:?}")).collect();
            let more = match others.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let said = format!("its tokens are not the model's: {}{more}", shown.join(", "));
            return Err(Problems(vec![refused(said)]).into());
        }
        let repetition_penalty = repetition_penalty(recipe, &files).at(place)?;
        let (file_digests, digest) = digest_of(recipe, &files, fetcher).at(place)?;
        Ok(InputCheckpoint { files, file_digests, digest, spec: own, tokenizer, repetition_penalty })
    }
}
