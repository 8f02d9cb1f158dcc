//! A study's inputs as local files with digests, and the keys of all that is made from them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::{Key, Stage};
use crate::data::{Library, Order, Part};
use crate::digest::Digest;
use crate::model::{Config, ModelFiles};
use crate::prune::StatisticKind;
use crate::recipe::{Calibration, Cell, Recipe, Suite};
use crate::source::Fetcher;

/// A model and data sets that are all here.
pub struct Inputs {
    pub model: ModelFiles,
    pub model_digest: Digest,
    pub config: Config,
    pub calibrations: BTreeMap<String, InputPart>,
    pub suites: BTreeMap<String, InputPart>,
    device: String,
}

/// A split of a data set, with its file.
pub struct InputPart {
    pub part: Part,
    pub file: PathBuf,
    pub digest: Digest,
}

impl Inputs {
    /// Fetches what is not here, and digests everything.
    pub fn resolve(recipe: &Recipe, library: &Library, fetcher: &Fetcher, device: String) -> Result<Self> {
        let path = recipe.model.source.resolve(&library.bases(), fetcher).context("the model")?;
        let model = ModelFiles::at(&path)?;
        let files = model.list()?;
        let part = |dataset: &str, split: Option<&str>, preferred: &str| -> Result<InputPart> {
            let part = library.get(dataset)?.part(split, preferred)?;
            let file = part.file(fetcher).with_context(|| format!("the data set \"{dataset}\""))?;
            Ok(InputPart { digest: part.digest(&file)?, part, file })
        };
        let calibration =
            |(name, c): (&String, &Calibration)| Ok((name.clone(), part(&c.dataset, c.split.as_deref(), "train")?));
        let suite = |(name, s): (&String, &Suite)| Ok((name.clone(), part(&s.dataset, s.split.as_deref(), "test")?));
        Ok(Self {
            model_digest: Digest::of_files(files.iter().map(PathBuf::as_path))?,
            config: model.config()?,
            model,
            calibrations: recipe.calibration.iter().map(calibration).collect::<Result<_>>()?,
            suites: recipe.suite.iter().map(suite).collect::<Result<_>>()?,
            device,
        })
    }

    /// Whether everything is here already; reaches out to nothing.
    pub fn are_local(recipe: &Recipe, library: &Library, fetcher: &Fetcher) -> Result<bool> {
        let mut local = recipe.model.source.local(&library.bases(), fetcher)?.is_some();
        let calibrations = recipe.calibration.values().map(|c| (&c.dataset, &c.split, "train"));
        let suites = recipe.suite.values().map(|s| (&s.dataset, &s.split, "test"));
        for (dataset, split, preferred) in calibrations.chain(suites) {
            local &= library.get(dataset)?.part(split.as_deref(), preferred)?.local(fetcher)?.is_some();
        }
        Ok(local)
    }

    /// The windows of a calibration set as drawn by `seed`.
    pub fn calibration_key(&self, recipe: &Recipe, name: &str, seed: u64) -> Key {
        let c = &recipe.calibration[name];
        Stage::Windows.key(&(
            self.calibrations[name].digest,
            self.model_digest, // the tokenizer is among the model's files
            (c.packing, c.length, Some(c.windows)),
            Order::Random(seed),
        ))
    }

    /// The windows of a suite.
    pub fn suite_key(&self, recipe: &Recipe, name: &str) -> Key {
        let s = &recipe.suite[name];
        Stage::Windows.key(&(
            self.suites[name].digest,
            self.model_digest,
            (s.packing, s.length, s.windows),
            Order::Given,
        ))
    }

    /// The dense model's hidden states on a suite.
    pub fn teacher_key(&self, recipe: &Recipe, suite: &str) -> Key {
        Stage::Teacher.key(&(self.model_key(recipe), self.suite_key(recipe, suite).digest()))
    }

    /// A cell's pruning.
    pub fn pruned_key(&self, recipe: &Recipe, cell: &Cell) -> Key {
        let pruning = cell.pruning.as_ref().map(|p| {
            let options = serde_json::to_value(&recipe.method).expect("options are plain data");
            let informed = recipe.method.get(p.method).statistic() != StatisticKind::None;
            let calibration =
                p.calibration.as_ref().map(|drawn| self.calibration_key(recipe, &drawn.name, drawn.seed).digest());
            let method = (p.method, options[p.method.as_str()].clone(), p.sparsity);
            // How the model is walked matters only to methods that look at inputs.
            (method, calibration, informed.then_some(recipe.prune))
        });
        Stage::Pruned.key(&(self.model_key(recipe), pruning))
    }

    /// A cell's scores on a suite.
    pub fn scores_key(&self, recipe: &Recipe, cell: &Cell, suite: &str) -> Key {
        let (pruned, teacher) = (self.pruned_key(recipe, cell), self.teacher_key(recipe, suite));
        Stage::Scores.key(&(pruned.digest(), teacher.digest()))
    }

    fn model_key(&self, recipe: &Recipe) -> Digest {
        Digest::of(&(self.model_digest, recipe.model.dtype, &self.device))
    }
}
