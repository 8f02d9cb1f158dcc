//! Running a study: cell by cell, each from the cache as far as it goes.

mod candidates;
mod masks;
mod reference;
mod samples;
mod score;
mod subject;

use std::collections::{BTreeMap, HashSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use anyhow::{Error, Result, ensure};
use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use serde_json::Value;

use super::cache::{Cache, Key, Unwritable};
use super::cell::{CellRecord, ErrorsRecord, PrunedRecord, Seconds, Spent, Status, SuiteRecord};
use super::ends::Ends;
use super::errors::held_out;
use super::inputs::Inputs;
use super::keys::{Keys, Need};
use super::material::Material;
use super::memory::{self, Load};
use super::progress::Progress;
use super::walk::{Pruner, Walk};
use super::{Doing, Interrupted, Watch, stop_if_interrupted};
use crate::calibration::{self, Ask, Made, Making};
use crate::data::Passage;
use crate::digest::Digest;
use crate::fault::At;
use crate::guard;
use crate::model::{Model, Tokenizer, device};
use crate::prune::{Packed, StatisticKind};
use crate::recipe::{Cell, Drawn, Recipe};
use crate::size::Size;

/// What a cell came to, with its results on each suite; none where it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub record: CellRecord,
    pub suites: IndexMap<String, SuiteRecord>,
    /// What it took; None where all of it was in the cache, or it failed.
    pub spent: Option<Spent>,
}

/// A study that is ready to run.
pub struct Study<'a> {
    recipe: &'a Recipe,
    inputs: &'a Inputs,
    cache: &'a Cache,
    watch: &'a dyn Watch,
    model: Model,
    /// What all devices share.
    keys: Arc<Keys<'a>>,
    tokenizer: Arc<Tokenizer>,
    materials: Arc<BTreeMap<String, Material>>,
    /// What each seed draws of each calibration set.
    drawn: Arc<BTreeMap<String, Vec<DrawnWindows>>>,
    /// Loaded when a cell first has to be computed: a study that is finished needs no weights.
    ends: OnceLock<Ends>,
    /// The dense model's states on suites, where the device has room for them.
    on_device: Mutex<BTreeMap<String, Tensor>>,
}

/// The windows that a seed draws of a calibration set.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnWindows {
    pub seed: u64,
    pub windows: usize,
    pub tokens: usize,
    /// Of the tokens of all windows.
    pub digest: Digest,
    /// How they came about; null where that goes without saying.
    pub details: Value,
}

/// A suite of which the cache lacks something.
struct Missing<'a> {
    name: &'a str,
    scores: bool,
    answers: bool,
}

impl<'a> Study<'a> {
    /// Opens the model, cuts all windows and makes all prompts, or finds them in the cache: what is wrong with
    /// the data shows before anything is computed.
    pub fn open(
        recipe: &'a Recipe,
        inputs: &'a Inputs,
        cache: &'a Cache,
        device: Device,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let model = Model::open(&inputs.model, recipe.model.dtype.into(), device)?;
        let tokenizer = Arc::new(inputs.model.tokenizer()?.on(recipe.model.date));
        let (materials, drawn, ends, on_device) = Default::default();
        let keys = Arc::new(Keys::of(recipe, inputs));
        let mut study =
            Self { recipe, inputs, cache, keys, watch, model, tokenizer, materials, drawn, ends, on_device };
        let mut materials = BTreeMap::new();
        for (name, suite) in &recipe.suite {
            stop_if_interrupted(watch)?;
            let place = || format!("[suite.{name}], data set \"{}\"", suite.dataset);
            materials.insert(name.clone(), of_the_data(study.read_material(name), place)?);
        }
        study.materials = Arc::new(materials);
        // What a model is run for comes last: what is wrong with other windows shows before that.
        if calibration::computes(recipe) {
            calibration::check(recipe, inputs, cache, &study.tokenizer)?;
        }
        let mut all_drawn = BTreeMap::new();
        for name in recipe.calibration.keys() {
            let mut drawn = Vec::new();
            let making = Making::with(&study);
            for seed in seeds(recipe, name) {
                stop_if_interrupted(watch)?;
                let Made { windows, details } = calibration::windows(&making, name, Ask::of(recipe, name, seed))?;
                let digest = Digest::of(&(windows.ids(), windows.ends()));
                drawn.push(DrawnWindows { seed, windows: windows.len(), tokens: windows.ids().len(), digest, details });
            }
            if !drawn.is_empty() {
                all_drawn.insert(name.clone(), drawn);
            }
        }
        study.drawn = Arc::new(all_drawn);
        inputs.forget_rows();
        Ok(study)
    }

    /// The same study on another device: with the same tokenizer, windows and prompts.
    ///
    /// # Errors
    /// Where the model cannot be opened.
    pub fn on(&self, device: Device, watch: &'a dyn Watch) -> Result<Self> {
        let Self { recipe, inputs, cache, .. } = *self;
        let model = Model::open(&inputs.model, recipe.model.dtype.into(), device)?;
        let (tokenizer, materials, drawn) = (self.tokenizer.clone(), self.materials.clone(), self.drawn.clone());
        let (keys, (ends, on_device)) = (self.keys.clone(), Default::default());
        Ok(Self { recipe, inputs, cache, keys, watch, model, tokenizer, materials, drawn, ends, on_device })
    }

    pub fn recipe(&self) -> &Recipe {
        self.recipe
    }

    pub fn inputs(&self) -> &Inputs {
        self.inputs
    }

    pub fn cache(&self) -> &Cache {
        self.cache
    }

    pub fn watch(&self) -> &dyn Watch {
        self.watch
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What each seed draws of a calibration set, for those that cells draw from.
    pub fn drawn(&self) -> &BTreeMap<String, Vec<DrawnWindows>> {
        &self.drawn
    }

    /// The samples of every suite.
    pub fn materials(&self) -> &BTreeMap<String, Material> {
        &self.materials
    }

    /// What its cells lie under in the cache.
    pub fn keys(&self) -> &Keys<'a> {
        &self.keys
    }

    /// The entries of the cache that the study is made of, but for [`Study::progress_entries`].
    pub fn entries(&self) -> Vec<Key> {
        self.keys.of_all(&crate::recipe::cells(self.recipe), |entry| entry.need() != Need::OnTheWay)
    }

    /// The entries that a cell needs until it is done.
    pub fn progress_entries(&self, cell: &Cell) -> Vec<Key> {
        self.keys.of_cell(cell).filtered(|entry| entry.need() == Need::OnTheWay)
    }

    /// Whether a cell is finished, as far as the presence of its entries tells.
    pub fn is_finished(&self, cell: &Cell) -> bool {
        self.keys.of_cell(cell).is_finished(self.cache)
    }

    /// What a cell is claimed as by whoever runs it: all that it comes to.
    pub fn claimed_as(&self, cell: &Cell) -> Digest {
        self.keys.of_cell(cell).claimed_as()
    }

    /// All that is claimed while the study runs.
    pub fn claimed(&self) -> HashSet<Digest> {
        let cells = crate::recipe::cells(self.recipe);
        let of_cells = cells.iter().map(|cell| self.claimed_as(cell));
        of_cells.chain(self.entries().iter().map(Key::digest)).collect()
    }

    /// A cell that was finished before.
    pub fn finished(&self, cell: &Cell) -> Option<Outcome> {
        let keys = self.keys.of_cell(cell);
        // What is not even there need not be read.
        let pruned = if keys.is_finished(self.cache) { self.cache.read_json(keys.pruned())? } else { return None };
        let (suites, missing) = self.found(cell);
        let errors = self.errors(cell);
        let is_whole = missing.is_empty() && (errors.is_some() || keys.errors().is_none());
        let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned), errors };
        is_whole.then_some(Outcome { record, suites, spent: None })
    }

    /// What the cache has of how a cell was pruned, and of its output errors.
    pub fn kept_pruning(&self, cell: &Cell) -> Option<(PrunedRecord, Option<ErrorsRecord>)> {
        Some((self.cache.read_json(self.keys.of_cell(cell).pruned())?, self.errors(cell)))
    }

    /// What the cache has of a cell's results, but for what judges made of them; None where it lacks some.
    pub fn kept_results(&self, cell: &Cell) -> Option<IndexMap<String, SuiteRecord>> {
        let (found, missing) = self.found(cell);
        missing.is_empty().then_some(found)
    }

    /// What the cache has of a cell's output errors.
    fn errors(&self, cell: &Cell) -> Option<ErrorsRecord> {
        self.cache.read_json(self.keys.of_cell(cell).errors()?)
    }

    /// What the cache has of a cell's results, and what it lacks.
    fn found(&self, cell: &Cell) -> (IndexMap<String, SuiteRecord>, Vec<Missing<'_>>) {
        let (mut found, mut missing) = (IndexMap::new(), Vec::new());
        let keys = self.keys.of_cell(cell);
        for (name, suite) in &self.recipe.suite {
            let scored = suite.is_scored();
            let scores_key = scored.then(|| keys.scores(name));
            let answers_key = keys.answers(name);
            let record = SuiteRecord {
                scores: scores_key.and_then(|key| self.cache.read_json(key)),
                answers: answers_key.and_then(|key| self.cache.read_json(key)),
                judged: None,
            };
            let scores = scored && record.scores.is_none();
            let answers = answers_key.is_some() && record.answers.is_none();
            if scores || answers {
                missing.push(Missing { name, scores, answers });
            }
            found.insert(name.clone(), record);
        }
        (found, missing)
    }

    /// Computes of a cell what the cache does not have. The dense cell comes first in every study: the others
    /// are compared with it.
    ///
    /// A cell that fails is an outcome, not an error.
    ///
    /// # Errors
    /// What is no fault of the cell: the run was interrupted, or the cache cannot be written.
    pub fn run(&self, cell: &Cell) -> Result<Outcome> {
        let (mut suites, missing) = self.found(cell);
        let mut errors = self.errors(cell);
        let compute = || self.compute(cell, &missing, &mut suites, &mut errors);
        let computed = panic::catch_unwind(AssertUnwindSafe(compute));
        let status = match computed.unwrap_or_else(|panic| Err(guard::defect(&*panic))) {
            Ok((pruned, spent)) => {
                self.cache.write_json(self.keys.of_cell(cell).pruned(), &pruned)?;
                self.progress(cell).forget();
                let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned), errors };
                return Ok(Outcome { record, suites, spent: Some(spent) });
            }
            // Where it was interrupted is nothing to whoever did that.
            Err(error) if error.is::<Interrupted>() => return Err(Interrupted.into()),
            Err(error) if error.is::<Unwritable>() => return Err(error),
            Err(error) => Status::Failed(format!("{error:#}")),
        };
        let record = CellRecord { cell: cell.clone(), status, pruned: None, errors: None };
        Ok(Outcome { record, suites: IndexMap::new(), spent: None })
    }

    fn progress(&self, cell: &Cell) -> Progress<'_> {
        Progress::of(self.cache, self.keys.of_cell(cell).place)
    }

    /// Prunes, measures, scores and generates what is missing; each suite's results are kept as soon as they are there.
    fn compute(
        &self,
        cell: &Cell,
        missing: &[Missing],
        suites: &mut IndexMap<String, SuiteRecord>,
        errors: &mut Option<ErrorsRecord>,
    ) -> Result<(PrunedRecord, Spent)> {
        device::forget_peak(&self.model.device);
        let (keys, mut seconds) = (self.keys.of_cell(cell), Seconds::default());
        let opened = cell.checkpoint().map(|name| self.open_checkpoint(name)).transpose()?;
        let subject = opened.as_ref().map_or_else(|| self.subject(), |opened| Ok(opened.subject()))?;
        let pruner = self.pruner(cell);
        let calibration = self.calibration_passages(cell)?;
        let scored: Vec<&str> = missing.iter().filter(|m| m.scores).map(|m| m.name).collect();
        let errors_key = keys.errors().filter(|_| errors.is_none());
        let error_suite = self.recipe.error_suite().and_then(|name| self.materials.get(name));
        let held_out = error_suite.map(|material| held_out(&material.passages)).unwrap_or_default();
        let walk = Walk {
            model: subject.model,
            beside: opened.is_some().then_some(&self.model),
            ends: subject.ends,
            watch: self.watch,
            pruner,
            calibration: calibration.as_deref(),
            suites: scored.iter().map(|name| self.passages(name)).collect(),
            errors_on: errors_key.map(|key| (key.digest(), held_out.as_slice())),
            keep: missing.iter().any(|m| m.answers),
            progress: self.progress(cell),
        };
        self.ensure_memory(&walk)?;
        let mut walked = walk.run()?;
        (seconds.calibrate, seconds.prune) = (walked.seconds.calibrate, walked.seconds.prune);
        seconds.forward += walked.seconds.errors;

        if let (Some(key), Some(measured)) = (errors_key, walked.errors.take()) {
            self.cache.write_json(key, &measured)?;
            *errors = Some(measured);
        }
        // In memory for all suites.
        let _heads =
            (!scored.is_empty()).then(|| Ok::<_, Error>((subject.head()?, self.subject()?.head()?))).transpose()?;
        for (i, (name, suite)) in scored.iter().zip(walked.suites).enumerate() {
            self.watch.progress(i, scored.len(), Doing::Score);
            let started = Instant::now();
            let batches = subject.last_states(suite.stream)?;
            if *cell == Cell::Dense {
                self.teach(name, &batches)?;
            }
            let scores = self.score(name, cell, &subject, &batches)?;
            seconds.forward += suite.seconds;
            seconds.score += started.elapsed().as_secs_f64();
            self.cache.write_json(keys.scores(name), &scores)?;
            suites.entry(name.to_string()).or_default().scores = Some(scores);
        }
        let asked: Vec<&str> = missing.iter().filter(|m| m.answers).map(|m| m.name).collect();
        let all = asked.iter().map(|name| self.materials[*name].prompts.len()).sum();
        let (mut before, mut generated) = (0, 0);
        for name in asked {
            let started = Instant::now();
            let answers = self.answer(name, &subject, &walked.blocks, (before, all))?;
            seconds.generate += started.elapsed().as_secs_f64();
            generated += answers.tokens;
            before += answers.texts.len();
            let key = keys.answers(name).expect("a suite that lacks answers has a key");
            self.cache.write_json(key, &answers)?;
            suites.entry(name.to_owned()).or_default().answers = Some(answers);
        }
        let spent = Spent {
            seconds,
            generated,
            peak_bytes: memory::peak_bytes(),
            device: device::name(&self.model.device),
            device_peak_bytes: device::peak_bytes(&self.model.device),
            batch_tokens: walked.batch_tokens,
        };
        Ok((walked.record, spent))
    }

    /// Prunes what the cache lacks of a cell's blocks, and evaluates nothing.
    ///
    /// # Errors
    /// Where a block cannot be pruned, or the run was interrupted.
    pub fn prune(&self, cell: &Cell) -> Result<()> {
        let is_there = (0..self.model.spec.blocks.len()).all(|index| self.progress(cell).has_block(index));
        let Some(pruner) = self.pruner(cell).filter(|_| !is_there) else { return Ok(()) };
        let calibration = self.calibration_passages(cell)?;
        let walk = Walk { pruner: Some(pruner), calibration: calibration.as_deref(), ..self.plain_walk(cell)? };
        self.ensure_memory(&walk)?;
        walk.run()?;
        walk.progress.forget();
        Ok(())
    }

    /// Prunes a cell before it can be run, which then goes on from there. One that cannot be pruned fails when it is run.
    ///
    /// # Errors
    /// What is no fault of the cell.
    pub fn prune_ahead(&self, cell: &Cell, (number, of): (usize, usize)) -> Result<()> {
        if (0..self.model.spec.blocks.len()).all(|index| self.progress(cell).has_block(index))
            || cell.pruning().is_none()
        {
            return Ok(());
        }
        self.watch.cell_begins(number, of, &format!("{}: pruned ahead of the dense cell", cell.id()));
        let pruned = panic::catch_unwind(AssertUnwindSafe(|| self.prune(cell)));
        match pruned.unwrap_or_else(|panic| Err(guard::defect(&*panic))) {
            Err(error) if error.is::<Interrupted>() || error.is::<Unwritable>() => Err(error),
            Err(error) => {
                tracing::debug!("{} cannot be pruned: {error:#}", cell.id());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A walk over the recipe's model that prunes nothing and takes nothing along.
    fn plain_walk(&self, cell: &Cell) -> Result<Walk<'_>> {
        Ok(Walk {
            model: &self.model,
            beside: None,
            ends: self.ends()?,
            watch: self.watch,
            pruner: None,
            calibration: None,
            suites: vec![],
            errors_on: None,
            keep: false,
            progress: self.progress(cell),
        })
    }

    /// What is kept of a pruned block, linear by linear; None where the cache lacks it.
    pub fn packed_block(&self, cell: &Cell, index: usize) -> Option<Vec<Packed>> {
        self.progress(cell).packed_block(index).map(|(_, packed)| packed)
    }

    fn pruner(&self, cell: &Cell) -> Option<Pruner<'_>> {
        cell.pruning().map(|p| Pruner {
            method: self.recipe.method.get(p.method),
            sparsity: p.sparsity,
            spec: &self.recipe.prune,
            skip: &self.inputs.skip,
        })
    }

    /// What a cell's statistics are gathered on; None where it has none.
    fn calibration_passages(&self, cell: &Cell) -> Result<Option<Vec<Passage>>> {
        match cell.drawn() {
            Some(Drawn { name, seed }) => {
                let made = calibration::windows(&Making::with(self), name, Ask::of(self.recipe, name, *seed))?;
                Ok(Some(made.windows.passages()))
            }
            None => Ok(None),
        }
    }

    /// An error where a cell would surely not fit into memory: better said than ended by the system, with all that runs.
    fn ensure_memory(&self, walk: &Walk) -> Result<()> {
        let Some(available) = memory::available_bytes().filter(|_| self.model.device.is_cpu()) else { return Ok(()) };
        let tokens = |passages: &[Passage]| passages.iter().map(|p| p.ids.len()).sum::<usize>();
        let prunes = !(0..walk.model.spec.blocks.len()).all(|index| walk.progress.has_block(index));
        let pruner = walk.pruner.as_ref().filter(|_| prunes);
        let load = Load {
            statistic: pruner.map_or(StatisticKind::None, |pruner| pruner.method.statistic()),
            calibration: walk.calibration.filter(|_| prunes).map_or(0, tokens),
            suites: walk.suites.iter().map(|(_, passages)| tokens(passages)).sum(),
            keeps_blocks: walk.keep,
        };
        let needed = memory::needed_bytes(&walk.model.spec, &load);
        ensure!(
            needed <= available,
            "it needs at least {} of memory, and {} are free; fewer or shorter windows need less ({} tokens of \
             calibration, {} of suites{})",
            Size(needed),
            Size(available),
            load.calibration,
            load.suites,
            if load.keeps_blocks { ", and the whole model for its answers" } else { "" }
        );
        Ok(())
    }

    /// What a suite has go through the model, and what tells it from others.
    fn passages(&self, suite: &str) -> (Digest, &[Passage]) {
        (self.keys.samples(suite).digest(), &self.materials[suite].passages)
    }
}

/// The seeds that cells draw a calibration set by, each once.
fn seeds(recipe: &Recipe, name: &str) -> Vec<u64> {
    let cells = crate::recipe::cells(recipe);
    let drawn = cells.iter().filter_map(Cell::drawn).filter(|d| d.name == *name);
    let mut seeds: Vec<u64> = drawn.map(|d| d.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

/// What was made of a part of the recipe's data; where that failed, the error names the part. That the cache could not keep
/// it is no fault of the data.
fn of_the_data<T>(made: Result<T>, place: impl FnOnce() -> String) -> Result<T> {
    match made {
        Err(error) if error.is::<Unwritable>() => Err(error),
        made => made.at(place),
    }
}
