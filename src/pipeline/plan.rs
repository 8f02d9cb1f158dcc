//! What a run would do: cells, the stages that each needs, what is cached, bytes and work.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::cache::{Cache, Key, Present, Stage};
pub use super::cost::Work;
use super::errors::{ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE};
use super::inputs::Inputs;
use super::keys::{CellKeys, Entry, Keys, Need, Of, Shape, entries};
use super::memory::{self, Load};
use super::{masks, material, work, writing};
use crate::calibration::{self, Ask};
use crate::data::{self, Asked, Order, Prompt, prompts};
use crate::fault::At;
use crate::model::{Spec, Tokenizer};
use crate::prune::{MethodName, StatisticKind};
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
    /// Bytes that it cannot do without at once while it is computed, at least; None where the model or the size of its data
    /// is not known, or a device computes.
    pub memory: Option<u64>,
    /// Whether an earlier run has begun it.
    pub begun: bool,
}

impl PlannedCell {
    /// What it is pruned by.
    pub fn method(&self) -> Option<MethodName> {
        self.cell.pruning().map(|pruning| pruning.method)
    }
}

/// What a run would do. A stage that several cells need stands with the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cells: Vec<PlannedCell>,
}

/// Plans a study. `inputs` is None where the model or data are not here yet.
pub fn plan(recipe: &Recipe, inputs: Option<&Inputs>, cache: &Cache) -> Plan {
    plan_of(recipe, inputs, inputs.map(|inputs| &inputs.spec), cache)
}

/// As [`plan`], where of the model only this may be known.
pub fn plan_of(recipe: &Recipe, inputs: Option<&Inputs>, spec: Option<&Spec>, cache: &Cache) -> Plan {
    let (keys, present) = (inputs.map(|inputs| Keys::of(recipe, inputs)), cache.present());
    let mut planner = Planner { recipe, inputs, spec, keys, cache, present, sizes: BTreeMap::new() };
    planner.sizes = recipe.suite.keys().map(|name| (name.as_str(), planner.size(name))).collect();
    let mut seen = HashSet::new();
    let mut planned = Vec::new();
    for cell in cells(recipe) {
        let (stages, memory) = planner.stages(&cell);
        let stages = stages.into_iter().filter(|s| seen.insert(s.name.clone())).collect();
        let begun = planner.is_begun(&cell);
        planned.push(PlannedCell { id: cell.id(), cell, stages, memory, begun });
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
    calibration::check(recipe, inputs, cache, &tokenizer)
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

/// Bytes of files whose rows a plan makes into tokens only to count them.
const LITTLE: u64 = 8 << 20;

/// The prompts of a suite, where its data is little.
pub(super) fn make_prompts(recipe: &Recipe, inputs: &Inputs, name: &str) -> Option<Vec<Prompt>> {
    let tokenizer = of_little_data(recipe, inputs, name)?;
    let how = inputs.prompting(recipe, name)?;
    prompts(inputs.asked(name, &how, &tokenizer).ok()?, &tokenizer, &how).ok()
}

/// What makes tokens of a suite that is made into tokens in no time.
fn of_little_data(recipe: &Recipe, inputs: &Inputs, name: &str) -> Option<Tokenizer> {
    let shots = inputs.shots.get(name).into_iter().flat_map(|shots| &shots.files);
    let bytes: u64 =
        inputs.suites[name].files.iter().chain(shots).filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    (bytes <= LITTLE).then_some(inputs.model.tokenizer().ok()?.on(recipe.model.date))
}

/// So many tokens of texts that a model writes, of `length` at most.
pub fn work_of_texts(model: &Spec, tokens: usize, length: usize) -> Work {
    let heads = tokens as f64 * (2 * model.vocabulary * model.hidden) as f64;
    Work { generating: work::forward(model, tokens, length) + heads, ..Work::default() }
}

/// What stages are planned with.
pub struct Planner<'a> {
    pub recipe: &'a Recipe,
    /// None where the model or data are not here yet.
    pub inputs: Option<&'a Inputs>,
    /// What the model computes, where that is known.
    spec: Option<&'a Spec>,
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
    /// What of a cell's list makes a line of its own (blocks, masks and statistics are those of its pruning), and the memory
    /// that what is to be done of it needs.
    fn stages(&self, cell: &Cell) -> (Vec<PlannedStage>, Option<u64>) {
        let keys = self.keys.as_ref().map(|keys| keys.of_cell(cell));
        let of = OfCell { planner: self, cell, keys: keys.as_ref(), model: self.spec_of(cell) };
        let shape = self.inputs.zip(of.model).map(|(i, own)| Shape { spec: &i.spec, skip: &i.skip, own });
        let stages: Vec<PlannedStage> = entries(self.recipe, shape, cell).flat_map(|entry| of.stages(entry)).collect();
        let memory = of.memory(&stages);
        (stages, memory)
    }

    /// What a cell computes; None of a checkpoint that is not here.
    fn spec_of(&self, cell: &Cell) -> Option<&Spec> {
        match self.inputs {
            Some(inputs) => Some(inputs.spec_of(cell)),
            None => self.spec.filter(|_| cell.checkpoint().is_none()),
        }
    }

    /// Whether an earlier run has left some of a cell's blocks, or where its walk stands, and not its end.
    fn is_begun(&self, cell: &Cell) -> bool {
        let Some(keys) = self.keys.as_ref().map(|keys| keys.of_cell(cell)) else { return false };
        let is_first = |entry: &Entry| entry.stage == Stage::Walk || entry.of == Of::Block(0);
        let mut first = keys.entries().filter(|entry| entry.need() == Need::OnTheWay).filter(is_first);
        first.any(|entry| keys.key(entry).is_some_and(|key| self.has(key)))
    }

    /// Whether the cache has an entry.
    pub fn has(&self, key: Key) -> bool {
        self.present.has(key)
    }

    /// The memory of the largest model that writes texts before cells are walked, as far as these are known.
    fn writing_bytes(&self) -> Option<u64> {
        let used = calibration::used(self.recipe);
        let how = used.iter().filter_map(|name| self.recipe.calibration[name].generate.as_ref());
        let spec = how.filter_map(|how| match &how.model {
            Some(source) => self.inputs.and_then(|inputs| inputs.authors.get(source)).map(|author| &author.spec),
            None => self.spec,
        });
        spec.map(|spec| writing::whole_bytes(spec, self.recipe.model.dtype.into())).max()
    }

    /// What the recipe's model computes, where that is known.
    pub fn model(&self) -> Option<&Spec> {
        self.spec
    }

    /// The losses of the dense model on so many tokens of windows of `length`.
    pub fn work_of_losses(&self, tokens: usize, length: usize) -> Option<Work> {
        self.spec.map(|model| Work {
            passing: work::forward(model, tokens, length),
            scoring: tokens as f64 * (2 * model.vocabulary * model.hidden) as f64,
            ..Work::default()
        })
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
                Size { tokens: tokens.or(asked).or_else(|| self.count_windows(name, unit)), rows: None }
            }
            Unit::Rows(unit) => {
                let prompts: Option<Vec<Prompt>> =
                    self.cached(name).or_else(|| make_prompts(self.recipe, self.inputs?, name));
                let tokens = |p: &Prompt| p.passage().map_or(p.ids.len(), |passage| passage.ids.len());
                Size {
                    tokens: prompts.as_ref().map(|prompts| prompts.iter().map(tokens).sum()),
                    rows: prompts.as_ref().map(Vec::len).or(unit.limit),
                }
            }
        }
    }

    /// The tokens of a suite that goes through the model whole, where its data is little.
    fn count_windows(&self, name: &str, unit: WindowUnit) -> Option<usize> {
        let inputs = self.inputs?;
        let (input, tokenizer) = (&inputs.suites[name], of_little_data(self.recipe, inputs, name)?);
        let (rows, WindowUnit { packing, length, windows }) = (input.part.read(&input.files).ok()?, unit);
        let cut = (packing, length, windows);
        let windows = data::cut(&rows, &input.part, &tokenizer, inputs.spec.vocabulary, cut, Order::Given).ok()?;
        Some(windows.ids().len())
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

    /// The memory that these stages of the cell need, as far as they are to do.
    fn memory(&self, stages: &[PlannedStage]) -> Option<u64> {
        let (Planner { recipe, inputs, .. }, spec) = (self.planner, self.model?);
        if inputs.is_some_and(|inputs| inputs.device != "cpu") {
            return None;
        }
        let is_to_do = |of: Stage| stages.iter().any(|stage| stage.stage == of && stage.is_to_do());
        let pruning = self.cell.pruning().filter(|_| is_to_do(Stage::Pruned));
        let drawn =
            pruning.and_then(|pruning| pruning.calibration.as_ref()).map(|drawn| &recipe.calibration[&drawn.name]);
        // Suites that are scored go along together; the others are decoded one prompt after the other.
        let scored = recipe.suite.iter().filter(|(_, suite)| suite.is_scored() && is_to_do(Stage::Scores));
        let suites = scored.map(|(name, _)| self.tokens(name));
        let load = Load {
            statistic: pruning.map_or(StatisticKind::None, |p| recipe.method.get(p.method).statistic()),
            calibration: drawn.map_or(0, |c| c.windows.saturating_mul(c.length)),
            suites: suites.sum::<Option<usize>>()?,
            keeps_blocks: is_to_do(Stage::Answers),
        };
        let texts = is_to_do(Stage::Texts).then(|| self.planner.writing_bytes()).flatten().unwrap_or(0);
        // The embedding is there as long as anything is computed, and so is the head, where that is another matrix.
        let ends = spec.vocabulary * spec.hidden * if spec.head.tied { 1 } else { 2 };
        let width = candle_core::DType::from(recipe.model.dtype).size_in_bytes();
        Some(memory::needed_bytes(spec, &load).saturating_add((ends * width) as u64).max(texts))
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
        let work = both.map(|(t, c)| Work { passing: work::forward(c, t, length), ..Work::default() });
        self.stage(format!("dense model on {suite}"), entry, bytes, work)
    }

    fn scores(&self, entry: Entry, suite: &str) -> PlannedStage {
        let (dense, length) = (*self.cell == Cell::Dense, self.length(suite));
        let work = self.passing(suite).map(|(t, c)| {
            // The dense model went through the blocks for its hidden states, and has its own logits alone.
            let (passing, share) = if dense { (0.0, 0.5) } else { (work::forward(c, t, length), 1.0) };
            Work { passing, scoring: share * work::scoring(c, t), ..Work::default() }
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
            Work { generating: work::forward(c, t.saturating_add(new), length) + heads, ..Work::default() }
        });
        let bytes = new_tokens.map(|t| 4 * t as u64);
        Some(self.stage(format!("answers of {} on {suite}", self.cell.id()), entry, bytes, work))
    }

    /// The output errors of a cell's pruned weights on tokens of a suite: their way through the blocks, and the product
    /// with each dense weight and with the pruned one.
    fn errors(&self, entry: Entry, suite: &str) -> PlannedStage {
        let model = self.planner.spec;
        let work = |c: &Spec| Work {
            passing: 3.0 * work::forward(c, ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE),
            ..Work::default()
        };
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
        let model = self.planner.spec;
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
        let (kind, weights) =
            (self.planner.recipe.method.get(pruning.method).statistic(), model.linear_parameters() as f64);
        let (solving, drawn) = (work::solving(model, kind), pruning.calibration.as_ref());
        let calibrates = drawn.filter(|_| !self.planner.shares_statistics());
        Work {
            reading: if drawn.is_none() { weights } else { 0.0 },
            calibrating: calibrates.map_or(0.0, |drawn| self.calibrating_work(kind, drawn, model)),
            selecting: if solving > 0.0 { 0.0 } else { weights },
            solving,
            ..Work::default()
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
        let model = self.planner.spec;
        let bytes = |model: &Spec| {
            let of_site = |d: usize| if kind == StatisticKind::Gram { d * d } else { d };
            4 * work::columns(model).map(of_site).sum::<usize>() as u64
        };
        PlannedStage {
            name: format!("{what} of calibration {}, seed {}", drawn.name, drawn.seed),
            stage: Stage::Statistic,
            cached: self.has_all(|entry| entry.stage == Stage::Statistic),
            bytes: model.map(bytes),
            work: model.map(|m| Work { calibrating: self.calibrating_work(kind, drawn, m), ..Work::default() }),
        }
    }
}
