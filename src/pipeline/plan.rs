//! What a run would do: cells, the stages that each needs, what is cached, bytes and work.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::cache::{Cache, Key, Present, Stage};
use super::errors::{ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE};
use super::inputs::Inputs;
use super::keys::{CellKeys, Entry, Keys, Need, Of, Shape, entries};
use super::{masks, material, work};
use crate::calibration::{self, Ask, Checking};
use crate::data::{Asked, Prompt, prompts};
use crate::fault::At;
use crate::model::{Spec, Tokenizer};
use crate::prune::StatisticKind;
use crate::recipe::{Cell, Drawn, Propagation, Pruning, Recipe, Unit, WindowUnit, cells};

/// One stage of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStage {
    pub name: String,
    pub stage: Stage,
    /// None where it cannot be known, because inputs are not here yet.
    pub cached: Option<bool>,
    /// Bytes that it will keep in the cache; None where that depends on data not yet read.
    pub bytes: Option<u64>,
    /// None where that depends on data not yet read.
    pub work: Option<Work>,
}

/// Floating-point operations of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// On the walk over the blocks.
    pub walking: f64,
    /// When the walk is over.
    pub after: f64,
}

impl Work {
    fn walking(walking: f64) -> Self {
        Self { walking, after: 0.0 }
    }

    pub fn total(self) -> f64 {
        self.walking + self.after
    }
}

impl PlannedStage {
    /// Whether it is still to be computed, as far as that is known.
    pub fn is_to_do(&self) -> bool {
        self.cached != Some(true)
    }
}

/// One cell with its stages, in the order in which they run.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedCell {
    pub id: String,
    pub cell: Cell,
    pub stages: Vec<PlannedStage>,
}

/// What a run would do. A stage that several cells need stands with the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cells: Vec<PlannedCell>,
}

/// Plans a study. `inputs` is None where the model or data are not here yet.
pub fn plan(recipe: &Recipe, inputs: Option<&Inputs>, cache: &Cache) -> Plan {
    let (keys, present) = (inputs.map(|inputs| Keys::of(recipe, inputs)), cache.present());
    let mut planner = Planner { recipe, inputs, keys, cache, present, sizes: BTreeMap::new() };
    planner.sizes = recipe.suite.keys().map(|name| (name.as_str(), planner.size(name))).collect();
    let mut seen = HashSet::new();
    let mut planned = Vec::new();
    for cell in cells(recipe) {
        let stages = planner.stages(&cell).into_iter().filter(|s| seen.insert(s.name.clone())).collect();
        planned.push(PlannedCell { id: cell.id(), cell, stages });
    }
    Plan { cells: planned }
}

/// Checks the data of a study as a run would, as far as that can be done without making all of it into tokens. What the
/// cache has was checked when it was made.
///
/// # Errors
/// Where a row of a calibration set or a suite cannot be used, or a suite asks for what its rows do not have.
pub fn check_data(recipe: &Recipe, inputs: &Inputs, cache: &Cache) -> Result<()> {
    let tokenizer = inputs.model.tokenizer()?.on(recipe.model.date);
    let vocabulary = inputs.spec.vocabulary;
    for (name, suite) in recipe.suite.iter().filter(|(name, _)| !cache.contains(inputs.suite_key(recipe, name))) {
        let checked = match suite.unit() {
            Unit::Windows(WindowUnit { packing, length, windows }) => {
                inputs.suites[name].check_windows(&tokenizer, vocabulary, (packing, length, windows))
            }
            Unit::Rows(_) => check_prompts(recipe, name, inputs, &tokenizer),
        };
        checked.at(|| format!("[suite.{name}], data set \"{}\"", suite.dataset))?;
    }
    let checking = Checking::new(recipe, inputs, cache, &tokenizer);
    let cells = cells(recipe);
    let mut drawn = cells.iter().filter_map(Cell::drawn);
    drawn.try_for_each(|drawn| checking.check(&drawn.name, Ask::of(recipe, &drawn.name, drawn.seed)))
}

fn check_prompts(recipe: &Recipe, name: &str, inputs: &Inputs, tokenizer: &Tokenizer) -> Result<()> {
    let (model, suite) = (&inputs.spec, &recipe.suite[name]);
    let Some(how) = inputs.prompting(recipe, name) else { return Ok(()) };
    let asked = inputs.asked(name, &how, tokenizer)?;
    asked.iter().try_for_each(|asked| material::check(suite, &asked.has()))?;
    let beyond = tokenizer.largest_id() as usize >= model.vocabulary;
    let is_far = |asked: &Asked| model.reach.is_some_and(|r| asked.most_tokens() + how.new_tokens > r.tokens);
    let is_doubtful = |asked: &Asked| beyond || asked.is_doubtful(model.context) || is_far(asked);
    let doubtful = asked.into_iter().filter(is_doubtful).collect();
    for prompt in prompts(doubtful, tokenizer, &how)? {
        material::check_tokens(suite, &prompt, model)?;
    }
    Ok(())
}

/// What stages are planned with.
pub struct Planner<'a> {
    pub recipe: &'a Recipe,
    /// None where the model or data are not here yet.
    pub inputs: Option<&'a Inputs>,
    keys: Option<Keys<'a>>,
    cache: &'a Cache,
    present: Present<'a>,
    sizes: BTreeMap<&'a str, Size>,
}

/// How much a suite has, as far as it is known.
#[derive(Clone, Copy)]
struct Size {
    tokens: Option<usize>,
    /// None of windows.
    rows: Option<usize>,
}

impl Planner<'_> {
    /// What of a cell's list makes a line of its own: blocks, masks and statistics are those of its pruning.
    fn stages(&self, cell: &Cell) -> Vec<PlannedStage> {
        let keys = self.keys.as_ref().map(|keys| keys.of_cell(cell));
        let of = OfCell { planner: self, cell, keys: keys.as_ref(), model: self.inputs.map(|i| i.spec_of(cell)) };
        let shape = self.inputs.zip(of.model).map(|(i, own)| Shape { spec: &i.spec, skip: &i.skip, own });
        entries(self.recipe, shape, cell).flat_map(|entry| of.stages(entry)).collect()
    }

    /// Whether the cache has an entry.
    pub fn has(&self, key: Key) -> bool {
        self.present.has(key)
    }

    /// So many tokens of texts that the dense model writes, of `length` at most.
    pub fn work_of_texts(&self, tokens: usize, length: usize) -> Option<Work> {
        let heads = |model: &Spec| tokens as f64 * (2 * model.vocabulary * model.hidden) as f64;
        let work = |model: &Spec| Work { walking: 0.0, after: work::forward(model, tokens, length) + heads(model) };
        self.inputs.map(|inputs| work(&inputs.spec))
    }

    /// The losses of the dense model on so many tokens of windows of `length`.
    pub fn work_of_losses(&self, tokens: usize, length: usize) -> Option<Work> {
        let work = |model: &Spec| Work {
            walking: work::forward(model, tokens, length),
            after: tokens as f64 * (2 * model.vocabulary * model.hidden) as f64,
        };
        self.inputs.map(|inputs| work(&inputs.spec))
    }

    /// A stage, which is cached where its key is.
    pub fn stage(
        &self,
        name: String,
        stage: Stage,
        key: Option<Key>,
        bytes: Option<u64>,
        work: Option<Work>,
    ) -> PlannedStage {
        PlannedStage { name, stage, cached: key.map(|key| self.has(key)), bytes, work }
    }

    /// The size of a suite: known where its windows or prompts are cached; else at most what is asked for.
    fn size(&self, name: &str) -> Size {
        match self.recipe.suite[name].unit() {
            Unit::Windows(unit) => {
                let tokens = self.cached(name).map(|(ids, _): (Vec<u32>, Vec<usize>)| ids.len());
                let asked = unit.windows.map(|windows| windows.saturating_mul(unit.length));
                Size { tokens: tokens.or(asked), rows: None }
            }
            Unit::Rows(unit) => {
                let prompts: Option<Vec<Prompt>> = self.cached(name);
                let tokens = |p: &Prompt| p.passage().map_or(p.ids.len(), |passage| passage.ids.len());
                Size {
                    tokens: prompts.as_ref().map(|prompts| prompts.iter().map(tokens).sum()),
                    rows: prompts.as_ref().map(Vec::len).or(unit.limit),
                }
            }
        }
    }

    /// A suite's windows or prompts.
    fn cached<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.cache.read_json(self.keys.as_ref()?.samples(name))
    }

    /// Whether the dense model feeds all statistics, so that cells of a calibration share them. Otherwise they share the
    /// first block's, which are little beside all else.
    fn shares_statistics(&self) -> bool {
        self.recipe.prune.propagation == Propagation::Dense
    }
}

/// A cell, to make stages of its entries.
struct OfCell<'p> {
    planner: &'p Planner<'p>,
    cell: &'p Cell,
    keys: Option<&'p CellKeys<'p>>,
    /// What the cell computes.
    model: Option<&'p Spec>,
}

impl OfCell<'_> {
    fn stages(&self, entry: Entry) -> Vec<PlannedStage> {
        match (entry.stage, entry.of) {
            (_, Of::Calibration) => self.calibration(),
            (Stage::Windows | Stage::Prompts, Of::Suite(name)) => vec![self.samples(entry, name)],
            (Stage::Pruned, _) => self.pruning(entry),
            (Stage::Errors, Of::Suite(name)) => vec![self.errors(entry, name)],
            // Other cells need them, and have them when the dense one is done.
            (Stage::Teacher, Of::Suite(name)) if *self.cell == Cell::Dense => vec![self.teacher(entry, name)],
            (Stage::Scores, Of::Suite(name)) => vec![self.scores(entry, name)],
            (Stage::Answers, Of::Suite(name)) => self.answers(entry, name).into_iter().collect(),
            _ => vec![],
        }
    }

    /// The stage that an entry is.
    fn stage(&self, name: String, entry: Entry, bytes: Option<u64>, work: Option<Work>) -> PlannedStage {
        self.planner.stage(name, entry.stage, self.keys.and_then(|keys| keys.key(entry)), bytes, work)
    }

    /// Whether all entries of such are there.
    fn has_all(&self, is_wanted: impl Fn(Entry) -> bool) -> Option<bool> {
        let keys = self.keys?;
        let mut wanted = keys.entries().filter(|&entry| is_wanted(entry)).filter_map(|entry| keys.key(entry));
        Some(wanted.all(|key| self.planner.has(key)))
    }

    fn calibration(&self) -> Vec<PlannedStage> {
        let (recipe, Some(Drawn { name, seed })) = (self.planner.recipe, self.cell.drawn()) else { return vec![] };
        calibration::origin(recipe, name).stages(self.planner, Ask::of(recipe, name, *seed))
    }

    /// The windows or prompts of a suite.
    fn samples(&self, entry: Entry, suite: &str) -> PlannedStage {
        let bytes = self.tokens(suite).map(|t| 6u64.saturating_mul(t as u64));
        self.stage(format!("{} of suite {suite}", entry.stage.as_str()), entry, bytes, Some(Work::default()))
    }

    fn tokens(&self, suite: &str) -> Option<usize> {
        self.planner.sizes[suite].tokens
    }

    /// The tokens of a suite, with the model that they go through.
    fn passing(&self, suite: &str) -> Option<(usize, &Spec)> {
        self.tokens(suite).zip(self.model)
    }

    /// Tokens of a window, or a row's share of all.
    fn length(&self, suite: &str) -> usize {
        match self.planner.recipe.suite[suite].unit() {
            Unit::Windows(unit) => unit.length,
            Unit::Rows(_) => self.tokens(suite).unwrap_or(0) / self.planner.sizes[suite].rows.unwrap_or(1).max(1),
        }
    }

    fn teacher(&self, entry: Entry, suite: &str) -> PlannedStage {
        let (both, length) = (self.passing(suite), self.length(suite));
        let bytes = both.map(|(t, c)| (4 * c.hidden as u64).saturating_mul(t as u64));
        let work = both.map(|(t, c)| Work::walking(work::forward(c, t, length)));
        self.stage(format!("teacher on {suite}"), entry, bytes, work)
    }

    fn scores(&self, entry: Entry, suite: &str) -> PlannedStage {
        let (dense, length) = (*self.cell == Cell::Dense, self.length(suite));
        let work = self.passing(suite).map(|(t, c)| {
            let forward = if dense { 0.0 } else { work::forward(c, t, length) };
            Work { walking: forward, after: work::scoring(c, t) }
        });
        let bytes = self.tokens(suite).map(|t| t as u64 / 2);
        self.stage(format!("score {} on {suite}", self.cell.id()), entry, bytes, work)
    }

    fn answers(&self, entry: Entry, suite: &str) -> Option<PlannedStage> {
        let Unit::Rows(unit) = self.planner.recipe.suite[suite].unit() else { return None };
        let (rows, length) = (self.planner.sizes[suite].rows, self.length(suite));
        let new_tokens = rows.map(|rows| rows.saturating_mul(unit.decoding.max_new_tokens));
        let work = new_tokens.zip(self.passing(suite)).map(|(new, (t, c))| {
            let heads = new as f64 * (2 * c.vocabulary * c.hidden) as f64;
            Work { walking: 0.0, after: work::forward(c, t.saturating_add(new), length) + heads }
        });
        let bytes = new_tokens.map(|t| 4 * t as u64);
        Some(self.stage(format!("answers of {} on {suite}", self.cell.id()), entry, bytes, work))
    }

    /// The output errors of a cell's pruned weights on tokens of a suite: their way through the blocks, and the product
    /// with each dense weight and with the pruned one.
    fn errors(&self, entry: Entry, suite: &str) -> PlannedStage {
        let model = self.planner.inputs.map(|i| &i.spec);
        let work = |c: &Spec| Work::walking(3.0 * work::forward(c, ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE));
        let bytes = |c: &Spec| 20 * c.blocks.iter().map(|block| block.linears.len()).sum::<usize>() as u64;
        self.stage(format!("errors of {} on {suite}", self.cell.id()), entry, model.map(bytes), model.map(work))
    }

    /// The statistics of a cell's calibration, where cells share them, and its pruning; whoever has nothing to prune needs
    /// none.
    fn pruning(&self, entry: Entry) -> Vec<PlannedStage> {
        let Some(pruning) = self.cell.pruning() else { return vec![] };
        let prune = self.prune(entry, pruning);
        let drawn = pruning.calibration.as_ref().filter(|_| self.planner.shares_statistics());
        let statistics = drawn.map(|drawn| self.statistics(pruning, drawn));
        let is_needed = |statistics: &PlannedStage| prune.is_to_do() || !statistics.is_to_do();
        statistics.filter(is_needed).into_iter().chain([prune.clone()]).collect()
    }

    /// The pruning, which a suite that is new to a finished cell needs again where the cell's blocks have made room for
    /// others.
    fn prune(&self, entry: Entry, pruning: &Pruning) -> PlannedStage {
        let model = self.planner.inputs.map(|i| &i.spec);
        let (bytes, work) = (model.map(|m| self.kept_bytes(pruning, m)), model.map(|m| self.pruning_work(pruning, m)));
        let cached = self.has_all(|entry| entry.stage == Stage::Block).map(|all_kept| {
            let is_finished = || self.has_all(|entry| entry.need() == Need::Result);
            all_kept || is_finished() == Some(true)
        });
        PlannedStage { name: format!("prune {}", self.cell.id()), stage: entry.stage, cached, bytes, work }
    }

    /// Bytes of a cell's pruned blocks: a bit a weight, what SparseGPT made of those that are left, and their masks.
    fn kept_bytes(&self, pruning: &Pruning, model: &Spec) -> u64 {
        let (recipe, weights) = (self.planner.recipe, model.linear_parameters() as f64);
        let changes = recipe.method.get(pruning.method).statistic() == StatisticKind::Gram;
        let width = candle_core::DType::from(recipe.model.dtype).size_in_bytes() as f64;
        let values = if changes { (1.0 - pruning.sparsity.ratio()) * width } else { 0.0 };
        (weights * (0.125 + values)) as u64 + masks::kept_bytes(model)
    }

    fn pruning_work(&self, pruning: &Pruning, model: &Spec) -> Work {
        let Some(drawn) = &pruning.calibration else { return Work::default() };
        let kind = self.planner.recipe.method.get(pruning.method).statistic();
        let solving = Work::walking(work::solving(model, kind));
        match self.planner.shares_statistics() {
            true => solving,
            false => Work::walking(solving.walking + self.calibrating_work(kind, drawn, model)),
        }
    }

    fn calibrating_work(&self, kind: StatisticKind, drawn: &Drawn, model: &Spec) -> f64 {
        let recipe = self.planner.recipe;
        let c = &recipe.calibration[&drawn.name];
        work::calibration(model, &recipe.prune, kind, c.windows.saturating_mul(c.length), c.length)
    }

    /// The statistics of a calibration, of all blocks.
    fn statistics(&self, pruning: &Pruning, drawn: &Drawn) -> PlannedStage {
        let kind = self.planner.recipe.method.get(pruning.method).statistic();
        let what = if kind == StatisticKind::Gram { "Gram matrices" } else { "norms" };
        let model = self.planner.inputs.map(|i| &i.spec);
        let bytes = |model: &Spec| {
            let of_site = |d: usize| if kind == StatisticKind::Gram { d * d } else { d };
            4 * work::columns(model).map(of_site).sum::<usize>() as u64
        };
        PlannedStage {
            name: format!("{what} of calibration {}, seed {}", drawn.name, drawn.seed),
            stage: Stage::Statistic,
            cached: self.has_all(|entry| entry.stage == Stage::Statistic),
            bytes: model.map(bytes),
            work: model.map(|model| Work::walking(self.calibrating_work(kind, drawn, model))),
        }
    }
}
