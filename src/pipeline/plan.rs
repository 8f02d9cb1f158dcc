//! What a run would do: cells, the stages that each needs, what is cached, bytes and work.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::cache::{Cache, Key, Stage};
use super::errors::{ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE};
use super::inputs::Inputs;
use super::progress::Progress;
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
    let mut planner = Planner { recipe, inputs, cache, sizes: BTreeMap::new() };
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
    cache: &'a Cache,
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
    fn stages(&self, cell: &Cell) -> Vec<PlannedStage> {
        let mut stages = Vec::new();
        let drawn = cell.drawn();
        if let Some(drawn) = drawn {
            let ask = Ask::of(self.recipe, &drawn.name, drawn.seed);
            stages.extend(calibration::origin(self.recipe, &drawn.name).stages(self, ask));
        }
        for name in self.recipe.suite.keys() {
            let tokens = self.sizes[name.as_str()].tokens;
            let key = self.inputs.map(|i| i.suite_key(self.recipe, name));
            let stage = match self.recipe.suite[name].unit() {
                Unit::Windows(_) => Stage::Windows,
                Unit::Rows(_) => Stage::Prompts,
            };
            stages.push(self.stage(
                format!("{} of suite {name}", stage.as_str()),
                stage,
                key,
                tokens.map(|t| 6u64.saturating_mul(t as u64)),
                Some(Work::default()),
            ));
        }
        let model = self.inputs.map(|i| i.spec_of(cell));
        if cell.checkpoint().is_some() && self.inputs.is_some_and(|i| i.errors_key(self.recipe, cell).is_some()) {
            stages.extend(self.recipe.error_suite().map(|suite| self.errors(cell, suite)));
        }
        if let Some(pruning) = cell.pruning() {
            let prune = self.pruning(cell, pruning);
            let drawn = drawn.filter(|_| self.shares_statistics());
            let statistics = drawn.map(|drawn| self.statistics(cell, pruning, drawn));
            // Whoever has nothing to prune needs none.
            stages.extend(statistics.filter(|statistics| prune.is_to_do() || !statistics.is_to_do()));
            stages.push(prune);
            stages.extend(self.recipe.error_suite().map(|suite| self.errors(cell, suite)));
        }
        for (name, suite) in &self.recipe.suite {
            let tokens = self.sizes[name.as_str()].tokens;
            let both = tokens.zip(model);
            let length = match suite.unit() {
                Unit::Windows(unit) => unit.length,
                // A row's share of the tokens.
                Unit::Rows(_) => tokens.unwrap_or(0) / self.sizes[name.as_str()].rows.unwrap_or(1).max(1),
            };
            if suite.is_scored() && *cell == Cell::Dense {
                let key = self.inputs.map(|i| i.teacher_key(self.recipe, name));
                let bytes = both.map(|(t, c)| (4 * c.hidden as u64).saturating_mul(t as u64));
                let work = both.map(|(t, c)| Work::walking(work::forward(c, t, length)));
                stages.push(self.stage(format!("teacher on {name}"), Stage::Teacher, key, bytes, work));
            }
            if suite.is_scored() {
                let key = self.inputs.map(|i| i.scores_key(self.recipe, cell, name));
                let work = both.map(|(t, c)| {
                    let forward = if *cell == Cell::Dense { 0.0 } else { work::forward(c, t, length) };
                    Work { walking: forward, after: work::scoring(c, t) }
                });
                let bytes = tokens.map(|t| t as u64 / 2);
                stages.push(self.stage(format!("score {} on {name}", cell.id()), Stage::Scores, key, bytes, work));
            }
            if let Unit::Rows(unit) = suite.unit()
                && suite.is_answered()
            {
                let key = self.inputs.and_then(|i| i.answers_key(self.recipe, cell, name));
                let new_tokens =
                    self.sizes[name.as_str()].rows.map(|rows| rows.saturating_mul(unit.decoding.max_new_tokens));
                let work = new_tokens.zip(both).map(|(new, (t, c))| {
                    let heads = new as f64 * (2 * c.vocabulary * c.hidden) as f64;
                    Work { walking: 0.0, after: work::forward(c, t.saturating_add(new), length) + heads }
                });
                let bytes = new_tokens.map(|t| 4 * t as u64);
                stages.push(self.stage(
                    format!("answers of {} on {name}", cell.id()),
                    Stage::Answers,
                    key,
                    bytes,
                    work,
                ));
            }
        }
        stages
    }

    /// Whether the cache has an entry.
    pub fn has(&self, key: Key) -> bool {
        self.cache.contains(key)
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
        PlannedStage { name, stage, cached: key.map(|key| self.cache.contains(key)), bytes, work }
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
        self.cache.read_json(self.inputs?.suite_key(self.recipe, name))
    }

    /// The pruning of a cell, which a suite that is new to a finished cell needs again where its blocks have made room
    /// for others.
    fn pruning(&self, cell: &Cell, pruning: &Pruning) -> PlannedStage {
        let model = self.inputs.map(|i| &i.spec);
        let key = self.inputs.map(|i| i.pruned_key(self.recipe, cell));
        let work = model.map(|model| self.pruning_work(pruning, model));
        let bytes = model.map(|model| self.kept_bytes(pruning, model));
        let mut stage = self.stage(format!("prune {}", cell.id()), Stage::Pruned, key, bytes, work);
        let has = |key: Option<Key>| key.is_none_or(|key| self.cache.contains(key));
        let done = |i: &Inputs, name: &str| {
            has(self.recipe.suite[name].is_scored().then(|| i.scores_key(self.recipe, cell, name)))
                && has(i.answers_key(self.recipe, cell, name))
        };
        let all_done = self.inputs.is_some_and(|i| {
            has(i.errors_key(self.recipe, cell)) && self.recipe.suite.keys().all(|name| done(i, name))
        });
        let all_kept = key.zip(model).is_some_and(|(key, model)| {
            let progress = Progress::of(self.cache, key, None);
            (0..model.blocks.len()).all(|index| progress.has_block(index))
        });
        stage.cached = stage.cached.map(|cached| all_kept || (cached && all_done));
        stage
    }

    /// The output errors of a cell's pruned weights on tokens of a suite: their way through the blocks, and the product
    /// with each dense weight and with the pruned one.
    fn errors(&self, cell: &Cell, suite: &str) -> PlannedStage {
        let key = self.inputs.and_then(|i| i.errors_key(self.recipe, cell));
        let model = self.inputs.map(|i| &i.spec);
        let work = |c: &Spec| Work::walking(3.0 * work::forward(c, ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE));
        let bytes = |c: &Spec| 20 * c.blocks.iter().map(|block| block.linears.len()).sum::<usize>() as u64;
        let name = format!("errors of {} on {suite}", cell.id());
        self.stage(name, Stage::Errors, key, model.map(bytes), model.map(work))
    }

    /// Bytes of a cell's pruned blocks: a bit a weight, what SparseGPT made of those that are left, and their masks.
    fn kept_bytes(&self, pruning: &Pruning, model: &Spec) -> u64 {
        let weights = model.linear_parameters() as f64;
        let changes = self.recipe.method.get(pruning.method).statistic() == StatisticKind::Gram;
        let width = candle_core::DType::from(self.recipe.model.dtype).size_in_bytes() as f64;
        let values = if changes { (1.0 - pruning.sparsity.ratio()) * width } else { 0.0 };
        (weights * (0.125 + values)) as u64 + masks::kept_bytes(model)
    }

    fn pruning_work(&self, pruning: &Pruning, model: &Spec) -> Work {
        let Some(drawn) = &pruning.calibration else { return Work::default() };
        let kind = self.recipe.method.get(pruning.method).statistic();
        let solving = Work::walking(work::solving(model, kind));
        match self.shares_statistics() {
            true => solving,
            false => Work::walking(solving.walking + self.calibrating_work(kind, drawn, model)),
        }
    }

    fn calibrating_work(&self, kind: StatisticKind, drawn: &Drawn, model: &Spec) -> f64 {
        let c = &self.recipe.calibration[&drawn.name];
        work::calibration(model, &self.recipe.prune, kind, c.windows.saturating_mul(c.length), c.length)
    }

    /// Whether the dense model feeds all statistics, so that cells of a calibration share them. Otherwise they share the
    /// first block's, which are little beside all else.
    fn shares_statistics(&self) -> bool {
        self.recipe.prune.propagation == Propagation::Dense
    }

    /// The statistics of a calibration, of all blocks.
    fn statistics(&self, cell: &Cell, pruning: &Pruning, drawn: &Drawn) -> PlannedStage {
        let kind = self.recipe.method.get(pruning.method).statistic();
        let what = if kind == StatisticKind::Gram { "Gram matrices" } else { "norms" };
        let model = self.inputs.map(|i| &i.spec);
        let bytes = |model: &Spec| {
            let of_site = |d: usize| if kind == StatisticKind::Gram { d * d } else { d };
            4 * work::columns(model).map(of_site).sum::<usize>() as u64
        };
        let is_cached = |(inputs, model): (&Inputs, &Spec)| {
            let progress =
                Progress::of(self.cache, inputs.pruned_key(self.recipe, cell), inputs.statistics(self.recipe, cell));
            (0..model.blocks.len())
                .all(|index| progress.has_statistics(index, inputs.skip.sites(index, &model.blocks[index])))
        };
        PlannedStage {
            name: format!("{what} of calibration {}, seed {}", drawn.name, drawn.seed),
            stage: Stage::Statistic,
            cached: self.inputs.zip(model).map(is_cached),
            bytes: model.map(bytes),
            work: model.map(|model| Work::walking(self.calibrating_work(kind, drawn, model))),
        }
    }
}
