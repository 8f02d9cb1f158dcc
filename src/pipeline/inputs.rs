//! A study's inputs as local files with digests, and the keys of all that is made from them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Error, Result, bail};
use candle_core::{DType, Device};
use indexmap::IndexMap;

use super::Interrupted;
use super::author::{Author, UncheckedAuthor};
use super::cache::{Key, Stage};
use super::checkpoint::{InputCheckpoint, UncheckedCheckpoint};
use super::shelf::Shelf;
use crate::calibration::{self, Ask};
use crate::data::{Asked, Library, Order, Packing, Part, Prompting, Rows, are_enough, asked, check, cut};
use crate::digest::{self, Digest};
use crate::fault::{At, Fault};
use crate::metrics::Family;
use crate::model::{Model, ModelFiles, Settled, Spec, Tokenizer};
use crate::recipe::{Cell, Layers, Problems, Recipe, Skip, Suite, Unit, WindowUnit, check_against_model};
use crate::source::{self, Fetcher, Source};
use crate::warnings::LEAK;

/// A model and data sets that are all here.
pub struct Inputs {
    pub model: ModelFiles,
    /// Of each of the model's files, by its name.
    pub model_files: Vec<(String, Digest)>,
    pub model_digest: Digest,
    pub spec: Spec,
    /// What of it stays dense.
    pub skip: Skip,
    /// What the model's folder wants: the logits of tokens that are there already are divided by it.
    pub repetition_penalty: f32,
    pub checkpoints: IndexMap<String, InputCheckpoint>,
    /// Models that only write texts to calibrate on, where cells draw from these.
    pub authors: IndexMap<Source, Author>,
    /// The rows of the calibrations that read some and that cells draw from, directly or through others.
    pub calibrations: IndexMap<String, InputPart>,
    pub suites: IndexMap<String, InputPart>,
    /// Where suites draw solved examples from, by the suite's name.
    pub shots: IndexMap<String, InputPart>,
    /// The kind of device that computes.
    pub(super) device: &'static str,
}

/// What a model's folder wants of answers: the logits of tokens that are there already are divided by it.
///
/// # Errors
/// Where it wants what the recipe's suites do not do.
pub fn repetition_penalty(recipe: &Recipe, model: &ModelFiles) -> Result<f32> {
    let generation = model.generation()?;
    let mut repetition_penalty = 1.0;
    for (name, suite) in recipe.suite.iter().filter(|(_, suite)| suite.is_answered()) {
        let Unit::Rows(unit) = suite.unit() else { continue };
        let decoding = unit.decoding;
        let settled = Settled {
            drawn: decoding.temperature > 0.0,
            top_k: decoding.top_k.is_some(),
            repetition_penalty: decoding.repetition_penalty.is_some(),
        };
        generation.check(settled).at(|| format!("[suite.{name}]"))?;
        if !settled.repetition_penalty {
            repetition_penalty = generation.repetition_penalty()?;
        }
    }
    Ok(repetition_penalty)
}

/// The digest of each of a model's files, by its name, and that of all; its weights are numbers.
///
/// # Errors
/// Where a file cannot be read, or a weight is no number.
pub fn digest_of(recipe: &Recipe, model: &ModelFiles, fetcher: &Fetcher) -> Result<(Vec<(String, Digest)>, Digest)> {
    let files = Digest::of_large_files(&model.list()?, &fetcher.digests())?;
    let digest = Digest::of(&files);
    // No header tells. Read once, like the digest, and before anything is computed.
    let dtype = recipe.model.dtype.into();
    digest::check_once(&fetcher.digests(), &format!("finite-{}", DType::as_str(&dtype)), digest, || {
        Model::open(model, dtype, Device::Cpu)?.check_finite()
    })?;
    Ok((files, digest))
}

/// What a data set is used for.
#[derive(Clone, Copy)]
enum Axis {
    Calibration,
    Suite,
    Shots,
}

/// The splits that a study reads: of the calibration sets only those that cells draw from.
fn parts(recipe: &Recipe, library: &Library) -> Result<Vec<(Axis, String, String, Part)>> {
    let mut parts = Vec::new();
    for name in calibration::used(recipe) {
        let part = calibration::origin(recipe, &name).part(library)?;
        if let Some(part) = part {
            let dataset = recipe.calibration[&name].rows_of().cloned().unwrap_or_default();
            parts.push((Axis::Calibration, name, dataset, part));
        }
    }
    for (name, s) in &recipe.suite {
        let part = library.get(&s.dataset)?.part(s.split.as_deref(), "test")?;
        parts.push((Axis::Suite, name.clone(), s.dataset.clone(), part));
        if matches!(s.unit(), Unit::Rows(unit) if unit.shots > 0) {
            let part = library.get(&s.dataset)?.shots(s.split.as_deref(), s.shots_split.as_deref())?;
            parts.push((Axis::Shots, name.clone(), s.dataset.clone(), part));
        }
    }
    Ok(parts)
}

/// A split of a data set, with its files.
pub struct InputPart {
    pub part: Part,
    pub files: Vec<PathBuf>,
    /// Of the file's bytes; of several, of the list of their digests.
    pub content: Digest,
    /// Of the rows: the files' bytes, and how they are read.
    pub digest: Digest,
    /// Its rows, where others of the study want the same.
    shelf: Arc<Shelf>,
}

impl InputPart {
    fn new(part: Part, files: Vec<PathBuf>) -> Result<Self> {
        let digests = files.iter().map(|file| Digest::of_file(file)).collect::<Result<Vec<_>>>()?;
        let content = match digests.as_slice() {
            [one] => *one,
            several => Digest::of(&several),
        };
        let with_digests: Vec<(PathBuf, Digest)> = files.iter().cloned().zip(digests).collect();
        Ok(Self { digest: part.digest(&with_digests)?, part, files, content, shelf: Arc::default() })
    }

    /// Whether these are the rows of another, whatever texts are made of them.
    fn has_rows_of(&self, other: &Self) -> bool {
        self.content == other.content && self.part.takes_rows_of(&other.part)
    }

    /// Reads its rows together with those of others that are the same.
    fn read_with<'a>(&mut self, others: impl IntoIterator<Item = &'a Self>) {
        let alike =
            |other: &&Self| self.files == other.files && self.has_rows_of(other) && self.part.reads_alike(&other.part);
        if let Some(other) = others.into_iter().find(alike) {
            self.shelf = other.shelf.clone();
        }
        self.shelf.expect_reader();
    }

    /// The rows.
    ///
    /// # Errors
    /// As [`Part::read`].
    pub fn rows(&self) -> Result<Arc<Rows>> {
        self.shelf.take(|| self.part.read(&self.files))
    }

    /// The rows, each of which could be cut into windows.
    pub fn checked(&self, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Arc<Rows>> {
        let rows = self.rows()?;
        check(&rows, &self.part, tokenizer, vocabulary)?;
        Ok(rows)
    }

    /// Checks that windows can be cut from the rows, without cutting them where these are surely enough.
    pub fn check_windows(
        &self,
        tokenizer: &Tokenizer,
        vocabulary: usize,
        packing: (Packing, usize, Option<usize>),
    ) -> Result<()> {
        let rows = self.rows()?;
        let bytes = check(&rows, &self.part, tokenizer, vocabulary)?;
        match are_enough(&bytes, packing) {
            true => Ok(()),
            false => cut(&rows, &self.part, tokenizer, vocabulary, packing, Order::Given).map(drop),
        }
    }
}

/// All that cannot be had is said at once, so that it can be fetched at once.
#[derive(Default)]
struct Lacking {
    said: Vec<String>,
    /// Whether something is not for the user to mend.
    beyond: bool,
}

impl Lacking {
    /// What was found, or None after noting why it was not.
    fn have<T>(&mut self, what: String, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is::<source::Interrupted>() => Err(error.context(Interrupted)),
            Err(error) => {
                self.beyond |= !error.is::<Fault>();
                let said = format!("{what}: {error:#}");
                if !self.said.contains(&said) {
                    self.said.push(said);
                }
                Ok(None)
            }
        }
    }

    fn is_something(&self) -> bool {
        !self.said.is_empty()
    }

    /// What was had, if nothing is lacking.
    fn or<T>(self, had: T) -> Result<T> {
        let said = self.said.join("\nerror: ");
        match (said.is_empty(), self.beyond) {
            (true, _) => Ok(had),
            (false, false) => Err(Fault(said).into()),
            (false, true) => Err(Error::msg(said)),
        }
    }
}

impl Inputs {
    /// What a suite of rows asks, before it is made into tokens.
    pub fn asked(&self, name: &str, how: &Prompting, tokenizer: &Tokenizer) -> Result<Vec<Asked>> {
        let input = &self.suites[name];
        let rows = input.rows()?;
        let shots = self.shots.get(name).unwrap_or(input);
        let shot_rows = if how.shots > 0 { shots.rows()? } else { Arc::default() };
        asked((&rows, &input.part), (&shot_rows, &shots.part), tokenizer, how)
    }

    /// Fetches what is not here, and digests everything. The recipe is checked against the model's shape
    /// before the data is looked at, and nothing is digested before all is there.
    ///
    /// # Errors
    /// Where something cannot be had, or the recipe does not fit the model.
    pub fn resolve(
        recipe: &Recipe,
        layers: &Layers,
        library: &Library,
        fetcher: &Fetcher,
        device: &'static str,
    ) -> Result<Self> {
        let mut lacking = Lacking::default();
        let whole = || recipe.model.source.resolve(&library.bases(), fetcher).map(Some);
        // A recipe that does not fit the model is wrong whatever else is missing.
        let no_model = |e: Error| Problems(vec![layers.problem(&["model", "source"], format!("{e:#}"), None)]);
        let read = |path: PathBuf| -> Result<(ModelFiles, Spec, Skip)> {
            let model = ModelFiles::at(&path).map_err(no_model)?;
            let spec = model.spec()?;
            let skip = check_against_model(recipe, &spec, layers)?;
            spec.remarks.iter().for_each(|remark| tracing::warn!("the model: {remark}"));
            Ok((model, spec, skip))
        };
        // Of a model that is still to be fetched, what says what it is comes first, and its weights come last: gigabytes
        // that cannot be used are not fetched.
        let outline = lacking.have("the model".into(), recipe.model.source.outline(fetcher))?;
        let is_late = matches!(outline, Some(Some(_)));
        if let Some(dir) = outline.flatten() {
            let model = ModelFiles::at(&dir).map_err(no_model)?;
            check_against_model(recipe, &model.outline()?, layers)?;
            model.check_tokenizer()?;
        }
        let mut model = match is_late || lacking.is_something() {
            true => None,
            false => lacking.have("the model".into(), whole())?.flatten().map(read).transpose()?,
        };
        let mut files = Vec::new();
        let fault = |error: Error| Fault(format!("{error:#}")).into();
        for (axis, name, dataset, part) in parts(recipe, library)? {
            let found = part.files(fetcher).and_then(|found| part.check(&found).map_err(fault).map(|()| found));
            if let Some(found) = lacking.have(format!("the data set \"{dataset}\""), found)? {
                files.push((axis, name, part, found));
            }
        }
        if is_late && !lacking.is_something() {
            model = lacking.have("the model".into(), whole())?.flatten().map(read).transpose()?;
        }
        let (mut others, mut writers) = (Vec::new(), Vec::new());
        if let Some((_, spec, _)) = model.as_ref().filter(|_| !lacking.is_something()) {
            for (name, checkpoint) in &recipe.checkpoint {
                let what = || format!("[checkpoint.{name}]");
                if let Some(dir) = lacking.have(what(), checkpoint.source.outline(fetcher))?.flatten() {
                    UncheckedCheckpoint::fits(name, &ModelFiles::at(&dir)?.outline().at(what)?, spec, layers)?;
                }
                if let Some(path) = lacking.have(what(), checkpoint.source.resolve(&library.bases(), fetcher))? {
                    others.push(UncheckedCheckpoint::at(recipe, name, &path, layers)?);
                }
            }
            for (source, name) in calibration::authors(recipe) {
                let (what, named) = (|| format!("[calibration.{name}] generate.model"), (name.as_str(), source));
                if let Some(dir) = lacking.have(what(), source.outline(fetcher))?.flatten() {
                    UncheckedAuthor::check_outline(recipe, named, &dir, layers)?;
                }
                if let Some(path) = lacking.have(what(), source.resolve(&library.bases(), fetcher))? {
                    writers.push((source, name.clone(), UncheckedAuthor::at(recipe, named, &path, layers)?));
                }
            }
        }
        let Some((model, spec, skip)) = lacking.or(model)? else { bail!("there is no model") };
        model.check_tokenizer()?;
        let chats = |s: &Suite| matches!(s.unit(), Unit::Rows(unit) if unit.chat);
        if let Some((name, _)) = recipe.suite.iter().find(|(_, suite)| chats(suite)) {
            model.check_chat_template().at(|| format!("[suite.{name}]"))?;
        }
        for name in calibration::used(recipe) {
            if recipe.calibration[&name].in_context.as_ref().is_some_and(|how| how.chat) {
                model.check_chat_template().at(|| format!("[calibration.{name}]"))?;
            }
        }
        let repetition_penalty = repetition_penalty(recipe, &model)?;
        let (model_files, model_digest) = digest_of(recipe, &model, fetcher)?;
        let mut checkpoints = IndexMap::new();
        if !others.is_empty() {
            let tokenizer = model.tokenizer()?;
            for other in others {
                let name = other.name.clone();
                checkpoints.insert(name, other.checked(recipe, (&spec, &tokenizer), layers, fetcher)?);
            }
        }
        let author = |(source, name, author): (&Source, String, UncheckedAuthor)| {
            Ok((source.clone(), author.checked(recipe, &name, fetcher)?))
        };
        let authors = writers.into_iter().map(author).collect::<Result<_>>()?;
        let (mut calibrations, mut suites, mut shots) = (IndexMap::new(), IndexMap::new(), IndexMap::new());
        for (axis, name, part, found) in files {
            let mut input = InputPart::new(part, found)?;
            input.read_with(calibrations.values().chain(suites.values()).chain(shots.values()));
            match axis {
                Axis::Calibration => calibrations.insert(name, input),
                Axis::Suite => suites.insert(name, input),
                Axis::Shots => shots.insert(name, input),
            };
        }
        for (suite, s) in &suites {
            for (calibration, _) in calibrations.iter().filter(|(_, c)| c.has_rows_of(s)) {
                tracing::warn!(
                    target: LEAK,
                    "[suite.{suite}] has the rows of [calibration.{calibration}]: what it shows is not held out; \
                     give the two different splits or files"
                );
            }
        }
        Ok(Self {
            model,
            model_files,
            model_digest,
            spec,
            skip,
            repetition_penalty,
            checkpoints,
            authors,
            calibrations,
            suites,
            shots,
            device,
        })
    }

    /// Rows that were read for several leave memory, whoever has not had them yet.
    pub fn forget_rows(&self) {
        let parts = self.calibrations.values().chain(self.suites.values()).chain(self.shots.values());
        parts.for_each(|part| part.shelf.clear());
    }

    /// Whether everything is here already; reaches out to nothing.
    pub fn are_local(recipe: &Recipe, library: &Library, fetcher: &Fetcher) -> Result<bool> {
        let mut local = recipe.model.source.local(&library.bases(), fetcher)?.is_some();
        for checkpoint in recipe.checkpoint.values() {
            local &= checkpoint.source.local(&library.bases(), fetcher)?.is_some();
        }
        for source in calibration::authors(recipe).keys() {
            local &= source.local(&library.bases(), fetcher)?.is_some();
        }
        for (.., part) in parts(recipe, library)? {
            local &= part.is_here(fetcher)?;
        }
        Ok(local)
    }

    /// The windows of a calibration set as drawn by `seed`.
    pub fn calibration_key(&self, recipe: &Recipe, name: &str, seed: u64) -> Key {
        calibration::origin(recipe, name).key(self, Ask::of(recipe, name, seed))
    }

    /// The windows or prompts of a suite.
    pub fn suite_key(&self, recipe: &Recipe, name: &str) -> Key {
        let part = self.suites[name].digest;
        match recipe.suite[name].unit() {
            Unit::Windows(WindowUnit { packing, length, windows }) => {
                Stage::Windows.key(&(part, self.tokenizer_key(recipe), (packing, length, windows), Order::Given))
            }
            Unit::Rows(_) => {
                let shots = self.shots.get(name).map(|s| s.digest);
                Stage::Prompts.key(&(part, shots, self.tokenizer_key(recipe), self.prompting(recipe, name)))
            }
        }
    }

    /// How the rows of a suite become prompts.
    pub fn prompting(&self, recipe: &Recipe, name: &str) -> Option<Prompting> {
        let suite = &recipe.suite[name];
        let Unit::Rows(unit) = suite.unit() else { return None };
        Some(Prompting {
            limit: unit.limit,
            shots: unit.shots,
            seed: if unit.shots > 0 { recipe.seed } else { 0 },
            chat: unit.chat,
            context: self.context(),
            new_tokens: if suite.is_answered() { unit.decoding.max_new_tokens } else { 0 },
            as_choices: suite.wants(Family::Choice),
        })
    }

    /// What the model of a cell computes.
    pub fn spec_of(&self, cell: &Cell) -> &Spec {
        cell.checkpoint().map_or(&self.spec, |name| &self.checkpoints[name].spec)
    }

    /// The context of the model, or that of a checkpoint where it is shorter: what prompts are cut to, the same for all.
    pub fn context(&self) -> usize {
        let others = self.checkpoints.values().map(|checkpoint| checkpoint.spec.context);
        others.fold(self.spec.context, usize::min)
    }

    /// What makes tokens of rows: the tokenizer, which is among the model's files, and a day, where there is one.
    pub fn tokenizer_key(&self, recipe: &Recipe) -> Digest {
        self.key_of_tokenizer(recipe, self.model_digest)
    }

    pub fn model_key(&self, recipe: &Recipe) -> Digest {
        self.key_of_model(recipe, self.model_digest)
    }

    /// As [`Inputs::tokenizer_key`], of a model with this digest.
    pub fn key_of_tokenizer(&self, recipe: &Recipe, digest: Digest) -> Digest {
        recipe.model.date.as_ref().map_or(digest, |date| Digest::of(&(digest, date)))
    }

    /// A model as it is computed here.
    pub fn key_of_model(&self, recipe: &Recipe, digest: Digest) -> Digest {
        Digest::of(&(digest, recipe.model.dtype, self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(dir: &std::path::Path, name: &str, templated: bool) -> InputPart {
        let library = Library::of_recipe(&dir.join("recipe.toml"));
        let mut part = library.get(&format!("path:{name}")).unwrap().part(None, "train").unwrap();
        part.templates = templated.then(|| toml::from_str("prompt = '{{ text }}'").unwrap());
        InputPart::new(part, vec![dir.join(name)]).unwrap()
    }

    #[test]
    fn rows_that_several_want_are_read_once_and_go_when_all_have_had_them() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "b.jsonl"] {
            std::fs::write(dir.path().join(name), "{\"text\": \"x\"}\n").unwrap();
        }
        let files = [("a.jsonl", false), ("b.jsonl", false), ("a.jsonl", false), ("a.jsonl", true), ("a.jsonl", false)];
        let mut inputs: Vec<InputPart> = vec![];
        for (name, templated) in files {
            let mut input = input(dir.path(), name, templated);
            input.read_with(&inputs);
            inputs.push(input);
        }
        let first = inputs[0].rows().unwrap();
        let others: Vec<Arc<Rows>> = inputs[1..].iter().map(|input| input.rows().unwrap()).collect();
        let same: Vec<bool> = others.iter().map(|rows| Arc::ptr_eq(rows, &first)).collect();
        assert_eq!(same, [false, true, false, true]);
        drop(others);
        assert_eq!(Arc::strong_count(&first), 1, "the last has had them");
        assert!(!Arc::ptr_eq(&inputs[0].rows().unwrap(), &first), "whoever comes again reads them again");
    }
}
