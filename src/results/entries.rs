//! What `run.json` says of the model, the data sets, the calibrations and the suites of a study.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::seen_from;
use crate::data::{Dataset, Packing};
use crate::digest::Digest;
use crate::metrics::{Kind, Metric};
use crate::model::{ModelFiles, Spec, Stored, Tokenizer};
use crate::pipeline::{Author, DrawnWindows, InputCheckpoint, InputPart, Study};
use crate::recipe::{Calibration, Dtype, Recipe, Suite, Unit};
use crate::source::{Source, commit_of};
use crate::statistics::{Link, Quantity};

/// The model that was pruned, a checkpoint that is judged beside it, or one that wrote texts to calibrate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// As the recipe spells it.
    pub source: String,
    /// Of a model on the Hugging Face Hub, the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// BLAKE3 over the names and contents of the model's files.
    pub digest: String,
    /// BLAKE3 of each file's bytes, as `b3sum` prints it, by the file's name.
    pub files: BTreeMap<String, String>,
    pub architecture: String,
    /// All parameters: of the linears that are pruned, the embedding, the head and the norms.
    pub parameters: u64,
    /// Parameters of the linears that pruning may touch.
    pub prunable_parameters: u64,
    pub vocabulary: usize,
    /// The precision that weights were held in.
    pub dtype: Dtype,
    /// The precision that products were computed in: f32, bf16 or f16.
    pub computed_in: String,
    /// How the files hold the weights: "dense" is what they hold, whatever they were made from.
    pub stored: Stored,
    pub tokenizer: TokenizerEntry,
    /// The chat templates, in full, by their names; what `chat = true` and conversations take.
    pub chat_templates: BTreeMap<String, String>,
    /// What the model computes, as calipr read it.
    pub config: Value,
}

/// What made tokens of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// BPE, Unigram, WordPiece or WordLevel.
    pub kind: String,
    /// Its tokens, special ones too.
    pub tokens: usize,
    /// BLAKE3 over the files that it is made of, or over what a GGUF file says of it, the chat template apart.
    pub digest: String,
}

/// A data set, as the recipe calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetEntry {
    /// Its TOML in full, with the templates.
    pub definition: Dataset,
    /// Where relative paths in it start, the first that has the file, seen from the folder of results; none where it
    /// comes with calipr, and its files with it.
    pub folders: Vec<PathBuf>,
}

/// The files that a calibration or a suite reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataEntry {
    /// As the recipe calls the data set: a key of `datasets`.
    pub dataset: String,
    /// The split that the recipe names; None where it names none.
    pub split: Option<String>,
    /// The file or files, as the data set's definition spells them.
    pub source: String,
    /// Of a data set on the Hugging Face Hub, the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// BLAKE3 of the file's bytes, as `b3sum` prints it; of several files, of the JSON list of their digests.
    pub digest: String,
}

/// A calibration set that cells draw from, directly or through another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEntry {
    /// Its rows, where it reads some itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataEntry>,
    pub windows: usize,
    /// Tokens in a window.
    pub length: usize,
    pub packing: Packing,
    /// What each seed drew for cells.
    pub drawn: Vec<DrawnEntry>,
}

/// The windows that a seed drew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrawnEntry {
    pub seed: u64,
    pub windows: usize,
    pub tokens: usize,
    /// BLAKE3 over the tokens of the windows.
    pub digest: String,
    /// How they came about, where a data set alone does not say.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// A suite that cells are judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteEntry {
    pub data: DataEntry,
    /// Where solved examples come from, where there are some.
    pub shots: Option<DataEntry>,
    pub unit: SampleUnit,
    /// Windows or rows.
    pub samples: usize,
    /// Tokens that go through the model to be scored, or else to be answered.
    pub tokens: usize,
    /// BLAKE3 over the tokens, references and choices of all samples.
    pub digest: String,
    pub metrics: Vec<Metric>,
}

/// A metric: what the tables' values of it are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricEntry {
    pub family: String,
    pub description: String,
    /// "" where it has none.
    pub unit: String,
    pub higher_is_better: bool,
    /// Whether it judges answers or choices, not next-token distributions.
    pub downstream: bool,
    /// Whether it judges generated answers.
    pub of_answers: bool,
    /// Whether it is itself a comparison with the dense model: divergences, agreement.
    pub of_dense: bool,
    /// What it makes of the mean over positions or rows.
    pub link: Link,
    /// Which means there can be; null where there is no bound.
    pub lowest: Option<f64>,
    pub highest: Option<f64>,
    /// Which of the recipe's margins its differences are held against.
    pub kind: Kind,
    /// The metric that says what this one says: itself, or the one of whose mean it is made.
    pub finding: String,
    /// Whether it stands for others of the model's where only some are shown.
    pub headline: bool,
}

impl MetricEntry {
    pub fn of(metric: Metric) -> Self {
        let Quantity { link, range: (lowest, highest) } = metric.quantity();
        let bound = |x: f64| Some(x).filter(|x| x.is_finite());
        Self {
            family: metric.family().as_str().to_owned(),
            description: metric.description(),
            unit: metric.unit().to_owned(),
            higher_is_better: metric.higher_is_better(),
            downstream: metric.family().is_downstream(),
            of_answers: metric.family().is_of_answers(),
            of_dense: metric.is_of_dense(),
            link,
            lowest: bound(lowest),
            highest: bound(highest),
            kind: metric.kind(),
            finding: metric.finding().as_str().to_owned(),
            headline: metric.is_headline(),
        }
    }

    /// What it makes of the mean over positions or rows, within its bounds.
    pub fn quantity(&self) -> Quantity {
        let range = (self.lowest.unwrap_or(f64::NEG_INFINITY), self.highest.unwrap_or(f64::INFINITY));
        Quantity { link: self.link, range }
    }
}

/// What a sample of a suite is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleUnit {
    Windows,
    Rows,
}

impl ModelEntry {
    /// The model of a study that is open.
    ///
    /// # Errors
    /// Where its files cannot be read again.
    pub fn of(recipe: &Recipe, study: &Study) -> Result<Self> {
        let inputs = study.inputs();
        let files = (&inputs.model, inputs.model_files.as_slice(), inputs.model_digest);
        Self::of_files(&recipe.model.source, files, &inputs.spec, study.tokenizer(), study)
    }

    /// A checkpoint of a study that is open.
    ///
    /// # Errors
    /// Where its files cannot be read again.
    pub fn of_checkpoint(source: &Source, input: &InputCheckpoint, study: &Study) -> Result<Self> {
        let files = (&input.files, input.file_digests.as_slice(), input.digest);
        Self::of_files(source, files, &input.spec, &input.tokenizer, study)
    }

    /// A model that writes texts for a study that is open.
    ///
    /// # Errors
    /// Where its files cannot be read again.
    pub fn of_author(source: &Source, author: &Author, study: &Study) -> Result<Self> {
        let files = (&author.files, author.file_digests.as_slice(), author.digest);
        Self::of_files(source, files, &author.spec, &author.tokenizer, study)
    }

    fn of_files(
        source: &Source,
        (files, digests, digest): (&ModelFiles, &[(String, Digest)], Digest),
        spec: &Spec,
        tokenizer: &Tokenizer,
        study: &Study,
    ) -> Result<Self> {
        let stored = files.stored()?;
        Ok(Self {
            source: source.to_string(),
            commit: source.is_on_the_hub().then(|| commit_of(files.path())).flatten(),
            digest: digest.to_string(),
            files: digests.iter().map(|(name, digest)| (name.clone(), digest.to_string())).collect(),
            architecture: spec.architecture.clone(),
            parameters: stored.parameters(),
            prunable_parameters: spec.linear_parameters() as u64,
            vocabulary: spec.vocabulary,
            dtype: study.recipe().model.dtype,
            computed_in: study.model().computed_in().as_str().to_owned(),
            stored,
            tokenizer: TokenizerEntry {
                kind: tokenizer.kind().to_owned(),
                tokens: tokenizer.tokens(),
                digest: files.tokenizer_digest()?.to_string(),
            },
            chat_templates: tokenizer.chat_templates(),
            config: spec.described(),
        })
    }
}

impl DatasetEntry {
    /// A data set, for the `run.json` in a folder.
    pub fn of(definition: Dataset, results: &Path) -> Self {
        let folders = definition.folders().iter().map(|folder| seen_from(results, folder)).collect();
        Self { definition, folders }
    }
}

impl DataEntry {
    fn of(dataset: &str, split: Option<&String>, input: &InputPart) -> Self {
        Self {
            dataset: dataset.to_owned(),
            split: split.cloned(),
            source: input.part.place(),
            commit: input
                .files
                .first()
                .filter(|_| input.part.source().is_on_the_hub())
                .and_then(|file| commit_of(file)),
            digest: input.content.to_string(),
        }
    }
}

impl CalibrationEntry {
    /// What cells draw from, directly or through another; None where no cell does.
    pub fn of(name: &str, calibration: &Calibration, study: &Study) -> Option<Self> {
        let input = study.inputs().calibrations.get(name);
        let drawn = match study.drawn().get(name) {
            Some(drawn) => drawn.as_slice(),
            None => input.map(|_| &[][..])?,
        };
        let entry = |drawn: &DrawnWindows| DrawnEntry {
            seed: drawn.seed,
            windows: drawn.windows,
            tokens: drawn.tokens,
            digest: drawn.digest.to_string(),
            details: drawn.details.clone(),
        };
        Some(Self {
            data: calibration.rows_of().zip(input).map(|(d, i)| DataEntry::of(d, calibration.split.as_ref(), i)),
            windows: calibration.windows,
            length: calibration.length,
            packing: calibration.packing,
            drawn: drawn.iter().map(entry).collect(),
        })
    }
}

impl SuiteEntry {
    pub fn of(name: &str, suite: &Suite, study: &Study) -> Self {
        let (inputs, material) = (study.inputs(), &study.materials()[name]);
        let shots = inputs.shots.get(name);
        Self {
            data: DataEntry::of(&suite.dataset, suite.split.as_ref(), &inputs.suites[name]),
            shots: shots.map(|input| DataEntry::of(&suite.dataset, suite.shots_split.as_ref(), input)),
            unit: if matches!(suite.unit(), Unit::Windows(_)) { SampleUnit::Windows } else { SampleUnit::Rows },
            samples: material.samples(),
            tokens: material.tokens(),
            digest: material.digest().to_string(),
            metrics: suite.metrics(),
        }
    }
}
