//! Running a study: cell by cell, each from the cache as far as it goes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Key};
use super::cell::{self, CellRecord, PrunedRecord, Status};
use super::inputs::{InputPart, Inputs};
use super::stream::Stream;
use super::walk::{Pruner, Walk};
use super::{Interrupted, Watch};
use crate::data::{Order, Packing, Windows, cut};
use crate::metrics::{Scores, score_windows};
use crate::model::{Head, Model, Rope, Tokenizer, device};
use crate::prune::StatisticKind;
use crate::recipe::{Cell, Recipe};

/// A cell's scores on a suite; cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteRecord {
    /// One a window.
    pub windows: Vec<Scores>,
    /// Time of logits and scores.
    pub seconds: f64,
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
            self.suite_windows(name).with_context(|| format!("[suite.{name}], data set \"{}\"", suite.dataset))?;
        }
        for drawn in cells.iter().filter_map(|c| c.pruning.as_ref()?.calibration.as_ref()) {
            let dataset = &self.recipe.calibration[&drawn.name].dataset;
            self.calibration_windows(&drawn.name, drawn.seed)
                .with_context(|| format!("[calibration.{}], data set \"{dataset}\"", drawn.name))?;
        }
        Ok(())
    }

    /// Runs one cell as far as the cache does not have it. The dense cell comes first in every study:
    /// the others are compared with it.
    ///
    /// A cell that fails is a record, not an error.
    ///
    /// # Errors
    /// Where the run was interrupted.
    pub fn run(&self, cell: &Cell) -> Result<(CellRecord, BTreeMap<String, SuiteRecord>, bool)> {
        match self.try_run(cell) {
            Ok((pruned, scores, reused)) => {
                let record = CellRecord { cell: cell.clone(), status: Status::Done, pruned: Some(pruned) };
                Ok((record, scores, reused))
            }
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => {
                let status = Status::Failed(format!("{error:#}"));
                Ok((CellRecord { cell: cell.clone(), status, pruned: None }, BTreeMap::new(), false))
            }
        }
    }

    fn try_run(&self, cell: &Cell) -> Result<(PrunedRecord, BTreeMap<String, SuiteRecord>, bool)> {
        let pruned_key = self.inputs.pruned_key(self.recipe, cell);
        let mut scores: BTreeMap<String, SuiteRecord> = BTreeMap::new();
        let mut missing = Vec::new();
        for name in self.recipe.suite.keys() {
            let key = self.inputs.scores_key(self.recipe, cell, name);
            let needs_teacher =
                cell.pruning.is_none() && !self.cache.contains(self.inputs.teacher_key(self.recipe, name));
            match self.cache.read_json(key) {
                Some(record) if !needs_teacher => _ = scores.insert(name.clone(), record),
                _ => missing.push(name.as_str()),
            }
        }
        if let Some(pruned) = self.cache.read_json(pruned_key).filter(|_| missing.is_empty()) {
            return Ok((pruned, scores, true));
        }
        let (pruned, computed) = self.compute(cell, &missing)?;
        for (name, record) in computed {
            self.cache.write_json(self.inputs.scores_key(self.recipe, cell, &name), &record)?;
            scores.insert(name, record);
        }
        self.cache.write_json(pruned_key, &pruned)?;
        Ok((pruned, scores, false))
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
        debug_assert!(
            pruner.as_ref().is_none_or(|p| { (p.method.statistic() == StatisticKind::None) == calibration.is_none() })
        );
        let windows = suites.iter().map(|name| self.suite_windows(name)).collect::<Result<Vec<_>>>()?;
        let mut streams = windows.iter().map(|w| Stream::embed(w, &ends.embedding)).collect::<Result<Vec<_>>>()?;

        let walk = Walk { model: &self.model, rope: &ends.rope, watch: self.watch };
        let mut pruned = walk.run(pruner.as_ref(), calibration, &mut streams)?;

        let mut records = Vec::new();
        for ((name, windows), stream) in suites.iter().zip(&windows).zip(streams) {
            if self.watch.interrupted() {
                return Err(Interrupted.into());
            }
            let states = ends.head.norm(&stream.concatenated()?)?;
            drop(stream);
            let teacher = match cell.pruning {
                None => {
                    self.write_states(self.inputs.teacher_key(self.recipe, name), &states)?;
                    states.clone()
                }
                Some(_) => self.teacher(name, windows)?,
            };
            let started = Instant::now();
            let scores = score_windows(windows, &teacher, &states, &ends.head.weight)?;
            ensure!(
                scores.iter().all(|s| s.loss.is_finite()),
                "the pruned model's loss on suite {name} is not a number"
            );
            let seconds = started.elapsed().as_secs_f64();
            pruned.seconds.score += seconds;
            records.push((name.to_string(), SuiteRecord { windows: scores, seconds }));
        }
        pruned.peak_bytes = cell::peak_bytes();
        pruned.device = device::name(&self.model.device);
        Ok((pruned, records))
    }

    fn ends(&self) -> Result<&Ends> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let lengths = self.recipe.calibration.values().map(|c| c.length);
        let longest = lengths.chain(self.recipe.suite.values().map(|s| s.length)).max().unwrap_or(0);
        let embedding = self.model.embedding()?;
        let (head, rope) = (self.model.head(&embedding)?, self.model.rope(longest)?);
        Ok(self.ends.get_or_init(|| Ends { embedding, head, rope }))
    }

    /// The dense model's hidden states on a suite, from the dense cell, which ran before.
    fn teacher(&self, suite: &str, windows: &Windows) -> Result<Tensor> {
        let key = self.inputs.teacher_key(self.recipe, suite);
        if let Some(entry) = self.cache.read(key) {
            let hidden = self.model.config.hidden;
            let values: Vec<f32> = entry.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if values.len() == windows.tokens() * hidden {
                return Ok(Tensor::from_vec(values, (windows.tokens(), hidden), &self.model.device)?);
            }
        }
        // Someone emptied the cache, or the dense cell failed: make it again.
        let ends = self.ends()?;
        let mut stream = [Stream::embed(windows, &ends.embedding)?];
        Walk { model: &self.model, rope: &ends.rope, watch: self.watch }.run(None, None, &mut stream)?;
        let states = ends.head.norm(&stream[0].concatenated()?)?;
        self.write_states(key, &states)?;
        Ok(states)
    }

    fn write_states(&self, key: Key, states: &Tensor) -> Result<()> {
        let values = crate::tensors::finite_values(states, "dense model's hidden states")?;
        let pieces: Vec<Vec<u8>> =
            values.chunks(1 << 20).map(|c| c.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        self.cache.write(key, pieces.iter().map(Vec::as_slice))
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
