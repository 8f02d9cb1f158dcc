//! Models that do nothing but write texts to calibrate on (`generate = { model = … }`), as inputs of a study.

use std::path::Path;

use anyhow::{Error, Result};

use super::inputs::digest_of;
use crate::digest::Digest;
use crate::fault::At;
use crate::model::{ModelFiles, Spec, Tokenizer};
use crate::recipe::{Layers, Problems, Recipe, check_against_author};
use crate::source::{Fetcher, Source};

/// A model that is here, with the tokenizer that texts are begun by.
pub struct Author {
    pub files: ModelFiles,
    /// Of each of its files, by its name.
    pub file_digests: Vec<(String, Digest)>,
    pub digest: Digest,
    pub spec: Spec,
    pub tokenizer: Tokenizer,
}

/// One that is here, while the recipe's other inputs may not be.
pub struct UncheckedAuthor {
    files: ModelFiles,
    spec: Spec,
}

/// An author in errors: that of the first calibration that names it.
fn place(name: &str) -> String {
    format!("[calibration.{name}], generate.model")
}

impl UncheckedAuthor {
    /// An error where what a folder says of its model, with or without its weights, does not do for the calibrations that
    /// name it, of which `name` is the first.
    pub fn check_outline(recipe: &Recipe, (name, source): (&str, &Source), dir: &Path, layers: &Layers) -> Result<()> {
        let files = ModelFiles::at(dir).at(|| place(name))?;
        check_against_author(recipe, source, &files.outline().at(|| place(name))?, layers)?;
        files.check_tokenizer().at(|| place(name))
    }

    /// What lies at `path`.
    ///
    /// # Errors
    /// Where it is no model, or has no room in its context for what texts begin with.
    pub fn at(recipe: &Recipe, (name, source): (&str, &Source), path: &Path, layers: &Layers) -> Result<Self> {
        let key = ["calibration", name, "generate", "model"];
        let no_model = |e: Error| Problems(vec![layers.problem(&key, format!("{e:#}"), None)]);
        let files = ModelFiles::at(path).map_err(no_model)?;
        let spec = files.spec().at(|| place(name))?;
        check_against_author(recipe, source, &spec, layers)?;
        spec.remarks.iter().for_each(|remark| tracing::warn!("{}: {remark}", place(name)));
        Ok(Self { files, spec })
    }

    /// The model, with its digest and its tokenizer.
    ///
    /// # Errors
    /// Where its weights or its tokenizer cannot be read.
    pub fn checked(self, recipe: &Recipe, name: &str, fetcher: &Fetcher) -> Result<Author> {
        let Self { files, spec } = self;
        files.check_tokenizer().at(|| place(name))?;
        let tokenizer = files.tokenizer().at(|| place(name))?.on(recipe.model.date);
        let (file_digests, digest) = digest_of(recipe, &files, fetcher).at(|| place(name))?;
        Ok(Author { files, file_digests, digest, spec, tokenizer })
    }
}
