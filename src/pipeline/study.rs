//! Running a study: cell by cell, each from the cache as far as it goes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Key, Unwritable};
use super::cell::{self, CellRecord, PrunedRecord, Status};
use super::inputs::{InputPart, Inputs};
use super::stream::{Batch, Stream};
use super::walk::{Pruner, Walk};
use super::{Interrupted, Watch, stop_if_interrupted};
use crate::data::{Order, Packing, Windows, cut};
use crate::metrics::{Scores, score_windows};
use crate::model::{Head, Model, Rope, Tokenizer, device};
use crate::recipe::{Cell, Recipe};

/// A cell's scores on a suite; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteRecord {
    /// One a window.
    pub windows: Vec<Scores>,
    /// Seconds of the suite's way through the blocks.
    pub forward_seconds: f64,
    /// Seconds of logits and scores.
    pub score_seconds: f64,
}

/// What a cell came to, with its scores on each suite; none where it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub record: CellRecord,
    pub suites: BTreeMap<String, SuiteRecord>,
}

/// A study that is ready to run.
pub struct Study<'a> {
    recipe: &'a Recipe,
    inputs: &'a Inputs,
    cache: &'a Cache,
    watch: &'a dyn Watch,
    model: Model,
    tokenizer: Tokenizer,
    /// Loaded when a cell first has to be computed: a study that is finished needs no weights.
    ends: std::cell::OnceCell<Ends>,
}

/// What stands before the first block and after the last.
struct Ends {
    embedding: Tensor,
    head: Head,
    /// The head in f32 on the host, where logits are scored; on the CPU, the same memory.
    head_on_host: Tensor,
    rope: Rope,
}

impl<'a> Study<'a> {
    /// Opens the model; nothing is computed yet.
    pub fn open(
        recipe: &'a Recipe,
        inputs: &'a Inputs,
        cache: &'a Cache,
        device: Device,
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let model = Model::open(&inputs.model, recipe.model.dtype.into(), device)?;
        let tokenizer = inputs.model.tokenizer()?;
        Ok(Self { recipe, inputs, cache, watch, model, tokenizer, ends: Default::default() })
    }

    /// Cuts all windows, or finds them in the cache: what is wrong with the data shows before
    /// anything is computed.
    pub fn prepare(&self, cells: &[Cell]) -> Result<()> {
        for (name, suite) in &self.recipe.suite {
            stop_if_interrupted(self.watch)?;
            self.suite_windows(name).with_context(|| format!("[suite.{name}], data set \"{}\"", suite.dataset))?;
        }
        for drawn in cells.iter().filter_map(|c| c.pruning.as_ref()?.calibration.as_ref()) {
            stop_if_interrupted(self.watch)?;
            let dataset = &self.recipe.calibration[&drawn.name].dataset;
            self.calibration_windows(&drawn.name, drawn.seed)
                .with_context(|| format!("[calibration.{}], data set \"{dataset}\"", drawn.name))?;
        }
        Ok(())
    }

    /// A cell that was finished before.
    pub fn finished(&self, cell: &Cell) -> Option<Outcome> {
        let pruned = self.cache.read_json(self.inputs.pruned_key(self.recipe, cell))?;
        let suite = |name: &String| {
            let key = self.inputs.scores_key(self.recipe, cell, name);
            Some((name.clone(), self.cache.read_json(key)?))
        };
        let suites = self.recipe.suite.keys().map(suite).collect::<Option<_>>()?;
        let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned) };
        Some(Outcome { record, suites })
    }

    /// Computes a cell, on the suites that the cache does not have. The dense cell comes first in every
    /// study: the others are compared with it.
    ///
    /// A cell that fails is an outcome, not an error.
    ///
    /// # Errors
    /// What is no fault of the cell: the run was interrupted, or the cache cannot be written.
    pub fn run(&self, cell: &Cell) -> Result<Outcome> {
        let mut suites: BTreeMap<String, SuiteRecord> = BTreeMap::new();
        let mut missing = Vec::new();
        for name in self.recipe.suite.keys() {
            match self.cache.read_json(self.inputs.scores_key(self.recipe, cell, name)) {
                Some(record) => _ = suites.insert(name.clone(), record),
                None => missing.push(name.as_str()),
            }
        }
        let (pruned, computed) = match self.compute(cell, &missing) {
            Ok(computed) => computed,
            Err(error) if error.is::<Interrupted>() || error.is::<Unwritable>() => return Err(error),
            Err(error) => {
                let status = Status::Failed(format!("{error:#}"));
                let record = CellRecord { cell: cell.clone(), status, pruned: None };
                return Ok(Outcome { record, suites: BTreeMap::new() });
            }
        };
        for (name, record) in computed {
            self.cache.write_json(self.inputs.scores_key(self.recipe, cell, &name), &record)?;
            suites.insert(name, record);
        }
        self.cache.write_json(self.inputs.pruned_key(self.recipe, cell), &pruned)?;
        let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned) };
        Ok(Outcome { record, suites })
    }

    /// Prunes, and scores on the suites named.
    fn compute(&self, cell: &Cell, suites: &[&str]) -> Result<(PrunedRecord, Vec<(String, SuiteRecord)>)> {
        let ends = self.ends()?;
        let pruner = cell.pruning.as_ref().map(|p| Pruner {
            method: self.recipe.method.get(p.method),
            sparsity: p.sparsity,
            spec: self.recipe.prune,
        });
        let calibration = match cell.pruning.as_ref().and_then(|p| p.calibration.as_ref()) {
            Some(drawn) => {
                let windows = self.calibration_windows(&drawn.name, drawn.seed)?;
                Some(Stream::embed(&windows, &ends.embedding)?)
            }
            None => None,
        };
        let embed = |name: &&str| Stream::embed(&self.suite_windows(name)?, &ends.embedding);
        let mut streams = suites.iter().map(embed).collect::<Result<Vec<_>>>()?;

        let walk = Walk { model: &self.model, rope: &ends.rope, watch: self.watch };
        let (mut pruned, seconds) = walk.run(pruner.as_ref(), calibration, &mut streams)?;

        let mut records = Vec::new();
        for ((name, stream), forward_seconds) in suites.iter().zip(streams).zip(seconds) {
            let started = Instant::now();
            let batches = self.last_states(stream)?;
            if cell.pruning.is_none() {
                self.write_teacher(name, &batches)?;
            }
            let windows = self.score(name, cell.pruning.is_none(), &batches)?;
            let score_seconds = started.elapsed().as_secs_f64();
            records.push((name.to_string(), SuiteRecord { windows, forward_seconds, score_seconds }));
        }
        pruned.peak_bytes = cell::peak_bytes();
        pruned.device = device::name(&self.model.device);
        Ok((pruned, records))
    }

    /// What logits are a product of, batch by batch.
    fn last_states(&self, stream: Stream) -> Result<Vec<Batch>> {
        let head = &self.ends()?.head;
        let last = |batch: Batch| Ok(Batch { hidden: head.norm(&batch.hidden)?, ..batch });
        stream.into_batches().into_iter().map(last).collect()
    }

    /// Scores a suite window by window, against the teacher; the dense model is its own.
    fn score(&self, suite: &str, is_dense: bool, batches: &[Batch]) -> Result<Vec<Scores>> {
        let ends = self.ends()?;
        let teacher = if is_dense { None } else { Some(self.teacher(suite)?) };
        let mut scores = Vec::new();
        let mut first = 0;
        for batch in batches {
            stop_if_interrupted(self.watch)?;
            let tokens = batch.windows.tokens();
            let dense = match &teacher {
                Some(teacher) => teacher.narrow(0, first, tokens)?,
                None => batch.hidden.clone(),
            };
            scores.extend(score_windows(&batch.windows, &dense, &batch.hidden, &ends.head_on_host)?);
            first += tokens;
        }
        ensure!(scores.iter().all(|s| s.loss.is_finite()), "the model's loss on suite {suite} is not a number");
        Ok(scores)
    }

    fn ends(&self) -> Result<&Ends> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let drawn = self.recipe.calibration.iter().filter(|(name, _)| self.inputs.calibrations.contains_key(*name));
        let lengths = drawn.map(|(_, c)| c.length).chain(self.recipe.suite.values().map(|s| s.length));
        let embedding = self.model.embedding()?;
        let (head, rope) = (self.model.head(&embedding)?, self.model.rope(lengths.max().unwrap_or(0))?);
        let head_on_host = head.weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Ok(self.ends.get_or_init(|| Ends { embedding, head, head_on_host, rope }))
    }

    /// The dense model's last hidden states on a suite (tokens, hidden), from the dense cell, which ran before.
    fn teacher(&self, suite: &str) -> Result<Tensor> {
        let hidden = self.model.config.hidden;
        if let Some(entry) = self.cache.read(self.inputs.teacher_key(self.recipe, suite)) {
            let values: Vec<f32> = entry.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let tokens = values.len() / hidden;
            return Ok(Tensor::from_vec(values, (tokens, hidden), &Device::Cpu)?);
        }
        // The entry was lost since: make it again.
        let ends = self.ends()?;
        let mut stream = [Stream::embed(&self.suite_windows(suite)?, &ends.embedding)?];
        Walk { model: &self.model, rope: &ends.rope, watch: self.watch }.run(None, None, &mut stream)?;
        let [stream] = stream;
        let batches = self.last_states(stream)?;
        self.write_teacher(suite, &batches)?;
        Ok(Tensor::cat(
            &batches.iter().map(|b| b.hidden.to_device(&Device::Cpu)).collect::<candle_core::Result<Vec<_>>>()?,
            0,
        )?)
    }

    fn write_teacher(&self, suite: &str, batches: &[Batch]) -> Result<()> {
        let what = "dense model's hidden states";
        let mut checked = Vec::with_capacity(batches.len());
        for batch in batches {
            checked.push(crate::tensors::finite_values(&batch.hidden, what)?);
        }
        let pieces = checked.into_iter().map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        self.cache.write(self.inputs.teacher_key(self.recipe, suite), pieces)
    }

    fn calibration_windows(&self, name: &str, seed: u64) -> Result<Windows> {
        let c = &self.recipe.calibration[name];
        let key = self.inputs.calibration_key(self.recipe, name, seed);
        self.windows(key, &self.inputs.calibrations[name], (c.packing, c.length, Some(c.windows)), Order::Random(seed))
    }

    fn suite_windows(&self, name: &str) -> Result<Windows> {
        let s = &self.recipe.suite[name];
        let key = self.inputs.suite_key(self.recipe, name);
        self.windows(key, &self.inputs.suites[name], (s.packing, s.length, s.windows), Order::Given)
    }

    fn windows(
        &self,
        key: Key,
        input: &InputPart,
        packing: (Packing, usize, Option<usize>),
        order: Order,
    ) -> Result<Windows> {
        if let Some((ids, ends)) = self.cache.read_json(key) {
            return Windows::new(ids, ends);
        }
        let rows = input.part.read(&input.file)?;
        let windows = cut(&rows, &input.part, &self.tokenizer, self.model.config.vocabulary, packing, order)?;
        self.cache.write_json(key, &(windows.ids(), windows.ends()))?;
        Ok(windows)
    }
}
