//! What a cell is made of: one list of all that the cache holds for it, in the order in which a run makes it.
//!
//! What a plan prints, what tells that a cell is finished, what a running study keeps from being trimmed and what an export
//! reads are filters of [`entries`]; [`Keys`] says under which key each lies. A change to what a cell depends on, or leaves
//! behind, is a change to this file alone.

use std::collections::HashMap;

use serde_json::Value;

use super::cache::{Cache, Key, Stage};
use super::errors::{ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE};
use super::inputs::Inputs;
use super::walk::sees_dense;
use crate::calibration::{self, Ask};
use crate::digest::Digest;
use crate::metrics::Family;
use crate::model::Spec;
use crate::prune::StatisticKind;
use crate::recipe::{Cell, Drawn, Propagation, Pruning, Recipe, Skip, Suite, Unit, cells};

/// One thing that the cache holds for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry<'a> {
    pub stage: Stage,
    pub of: Of<'a>,
}

/// What of a cell an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of<'a> {
    /// The calibration that it draws: windows, and what these are made of.
    Calibration,
    Suite(&'a str),
    /// The whole of it.
    Cell,
    Block(usize),
    /// What linears of a block read, by the number of the site.
    Site {
        block: usize,
        site: usize,
    },
}

/// What an entry is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The cell is finished with all of these, and only then.
    Result,
    /// What results are made of, or are set beside, for as long as the study runs.
    Beside,
    /// What an unfinished cell goes on from.
    OnTheWay,
}

impl Entry<'_> {
    /// Whether other cells have the same.
    pub fn is_shared(self) -> bool {
        match self.stage {
            Stage::Windows | Stage::Texts | Stage::Losses | Stage::Prompts => true,
            Stage::Teacher | Stage::Statistic | Stage::Replies => true,
            Stage::Pruned | Stage::Block | Stage::Mask | Stage::Walk => false,
            Stage::Errors | Stage::Scores | Stage::Answers => false,
        }
    }

    pub fn need(self) -> Need {
        match self.stage {
            Stage::Pruned | Stage::Errors | Stage::Scores | Stage::Answers => Need::Result,
            Stage::Windows | Stage::Texts | Stage::Losses | Stage::Prompts => Need::Beside,
            Stage::Teacher | Stage::Statistic | Stage::Mask | Stage::Replies => Need::Beside,
            Stage::Block | Stage::Walk => Need::OnTheWay,
        }
    }
}

/// What of models decides which entries a cell has.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// Of the recipe's model.
    pub spec: &'a Spec,
    pub skip: &'a Skip,
    /// Of the cell's model, which is another where the cell is a checkpoint.
    pub own: &'a Spec,
}

/// The list. Where the model is not known yet, without what belongs to its blocks.
pub fn entries<'a>(
    recipe: &'a Recipe,
    shape: Option<Shape<'a>>,
    cell: &'a Cell,
) -> impl Iterator<Item = Entry<'a>> + 'a {
    let windows = cell.drawn().map(|_| Entry { stage: Stage::Windows, of: Of::Calibration });
    let samples = recipe.suite.iter().map(|(name, suite)| Entry { stage: samples_of(suite), of: Of::Suite(name) });
    let prunes = cell.pruning().is_some();
    let blocks = shape.filter(|_| prunes).into_iter().flat_map(move |shape| {
        (0..shape.spec.blocks.len()).flat_map(move |block| of_block(recipe, shape, cell, block))
    });
    let whole = [Stage::Walk, Stage::Pruned].map(|stage| Entry { stage, of: Of::Cell });
    let errors = recipe.error_suite().filter(|_| has_errors(shape, cell));
    let errors = errors.map(|suite| Entry { stage: Stage::Errors, of: Of::Suite(suite) });
    let judged = recipe.suite.iter().flat_map(|(name, suite)| {
        let stages = [
            suite.is_scored().then_some(Stage::Teacher),
            suite.is_scored().then_some(Stage::Scores),
            suite.is_answered().then_some(Stage::Answers),
        ];
        stages.into_iter().flatten().map(|stage| Entry { stage, of: Of::Suite(name) })
    });
    windows.into_iter().chain(samples).chain(blocks).chain(whole).chain(errors).chain(judged)
}

/// What a pruned block leaves: the statistics of its sites where the dense model feeds them, which other cells have too, and
/// its weights and masks.
fn of_block<'a>(recipe: &Recipe, shape: Shape<'a>, cell: &Cell, block: usize) -> impl Iterator<Item = Entry<'a>> + 'a {
    let has_statistics = cell.drawn().is_some() && sees_dense(&recipe.prune, block);
    let sites = shape.skip.sites(block, &shape.spec.blocks[block]).filter(move |_| has_statistics);
    let sites = sites.map(move |site| Entry { stage: Stage::Statistic, of: Of::Site { block, site } });
    sites.chain([Stage::Block, Stage::Mask].map(|stage| Entry { stage, of: Of::Block(block) }))
}

/// Whether output errors are measured, where a suite is scored: not of the dense model, nor of a checkpoint whose linears are
/// others.
fn has_errors(shape: Option<Shape>, cell: &Cell) -> bool {
    match cell {
        Cell::Dense => false,
        Cell::Pruned(_) => true,
        Cell::Checkpoint(_) => shape.is_some_and(|shape| shape.own.has_linears_of(shape.spec)),
    }
}

fn samples_of(suite: &Suite) -> Stage {
    match suite.unit() {
        Unit::Windows(_) => Stage::Windows,
        Unit::Rows(_) => Stage::Prompts,
    }
}

/// The keys of a study's entries: what all cells have in common is digested once.
pub struct Keys<'a> {
    recipe: &'a Recipe,
    inputs: &'a Inputs,
    model: Digest,
    /// The options of each method.
    options: Value,
    suites: HashMap<&'a str, SuiteKeys>,
    /// The windows of calibrations, by name and seed.
    windows: HashMap<Drawn, Digest>,
}

struct SuiteKeys {
    samples: Key,
    teacher: Key,
}

impl<'a> Keys<'a> {
    pub fn of(recipe: &'a Recipe, inputs: &'a Inputs) -> Self {
        let model = inputs.model_key(recipe);
        let mut options = serde_json::to_value(&recipe.method).expect("options are plain data");
        options.sort_all_objects();
        let of_suite = |name: &'a String| {
            let samples = inputs.suite_key(recipe, name);
            (name.as_str(), SuiteKeys { samples, teacher: Stage::Teacher.key(&(model, samples.digest())) })
        };
        let suites = recipe.suite.keys().map(of_suite).collect();
        let mut windows = HashMap::new();
        for drawn in cells(recipe).iter().filter_map(Cell::drawn) {
            if !windows.contains_key(drawn) {
                windows.insert(drawn.clone(), inputs.calibration_key(recipe, &drawn.name, drawn.seed).digest());
            }
        }
        Self { recipe, inputs, model, options, suites, windows }
    }

    /// The windows or prompts of a suite.
    pub fn samples(&self, suite: &str) -> Key {
        self.suites[suite].samples
    }

    /// The dense model's hidden states on a suite.
    pub fn teacher(&self, suite: &str) -> Key {
        self.suites[suite].teacher
    }

    /// Those of a cell of the recipe.
    pub fn of_cell<'k>(&'k self, cell: &'k Cell) -> CellKeys<'k> {
        CellKeys { keys: self, cell, place: Place { pruned: self.pruned(cell), statistics: self.statistics(cell) } }
    }

    /// What `is_wanted` of all cells' entries.
    pub fn of_all(&self, cells: &[Cell], is_wanted: impl Fn(Entry) -> bool) -> Vec<Key> {
        cells.iter().flat_map(|cell| self.of_cell(cell).filtered(&is_wanted)).collect()
    }

    fn pruned(&self, cell: &Cell) -> Key {
        if let Some(checkpoint) = cell.checkpoint().map(|name| &self.inputs.checkpoints[name]) {
            return Stage::Pruned.key(&("checkpoint", self.inputs.key_of_model(self.recipe, checkpoint.digest)));
        }
        let Recipe { prune, method: methods, .. } = self.recipe;
        let pruning = cell.pruning().map(|Pruning { method, sparsity, calibration }| {
            let informed = methods.get(*method).statistic() != StatisticKind::None;
            let windows = calibration.as_ref().map(|drawn| self.windows(drawn));
            // How the model is walked matters only to methods that look at inputs, and where the dense
            // model feeds the statistics, both schedules see the same.
            let walk = informed
                .then_some((prune.propagation, (prune.propagation == Propagation::Pruned).then_some(prune.schedule)));
            ((method, &self.options[method.as_str()], sparsity), windows, walk)
        });
        match pruning.is_some() && !prune.skip.is_empty() {
            true => Stage::Pruned.key(&(self.model, pruning, &prune.skip)),
            false => Stage::Pruned.key(&(self.model, pruning)),
        }
    }

    /// What tells the statistics of a cell's calibration, as the dense model gives them, from others.
    fn statistics(&self, cell: &Cell) -> Option<Digest> {
        let drawn = cell.drawn()?;
        let kind = self.recipe.method.get(cell.pruning()?.method).statistic();
        Some(Digest::of(&(self.model, self.windows(drawn), format!("{kind:?}"))))
    }

    fn windows(&self, drawn: &Drawn) -> Digest {
        let anew = || self.inputs.calibration_key(self.recipe, &drawn.name, drawn.seed).digest();
        self.windows.get(drawn).copied().unwrap_or_else(anew)
    }
}

/// Where in the cache lies what is made while a cell is pruned.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What pruning came to.
    pub pruned: Key,
    /// What tells the statistics of its calibration, as the dense model gives them, from others; None where it has none.
    pub statistics: Option<Digest>,
}

impl Place {
    /// A pruned block.
    pub fn block(&self, index: usize) -> Key {
        Stage::Block.key(&(self.pruned.digest(), index))
    }

    /// Which weights are left of it.
    pub fn mask(&self, index: usize) -> Key {
        Stage::Mask.key(&(self.pruned.digest(), index))
    }

    /// Where the walk stands.
    pub fn walk(&self) -> Key {
        Stage::Walk.key(&self.pruned.digest())
    }

    /// A site's statistic as the dense model gives it.
    pub fn statistic(&self, block: usize, site: usize) -> Option<Key> {
        Some(Stage::Statistic.key(&(self.statistics?, block, site)))
    }
}

/// The keys of a cell's entries.
pub struct CellKeys<'k> {
    keys: &'k Keys<'k>,
    cell: &'k Cell,
    pub place: Place,
}

impl<'k> CellKeys<'k> {
    /// All that the cell is made of.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'k>> + 'k {
        let Keys { recipe, inputs, .. } = self.keys;
        let shape = Shape { spec: &inputs.spec, skip: &inputs.skip, own: inputs.spec_of(self.cell) };
        entries(recipe, Some(shape), self.cell)
    }

    /// Where an entry lies; None of what the cell does not have. Of a calibration, where its windows lie.
    pub fn key(&self, entry: Entry) -> Option<Key> {
        match (entry.stage, entry.of) {
            (Stage::Scores, Of::Suite(suite)) => Some(self.scores(suite)),
            (Stage::Answers, Of::Suite(suite)) => self.answers(suite),
            (Stage::Errors, Of::Suite(_)) => self.errors(),
            (Stage::Teacher, Of::Suite(suite)) => Some(self.keys.teacher(suite)),
            (_, Of::Suite(suite)) => Some(self.keys.samples(suite)),
            (Stage::Walk, Of::Cell) => Some(self.place.walk()),
            (_, Of::Cell) => Some(self.place.pruned),
            (Stage::Mask, Of::Block(index)) => Some(self.place.mask(index)),
            (_, Of::Block(index)) => Some(self.place.block(index)),
            (_, Of::Site { block, site }) => self.place.statistic(block, site),
            (_, Of::Calibration) => {
                let Drawn { name, seed } = self.cell.drawn()?;
                Some(self.keys.inputs.calibration_key(self.keys.recipe, name, *seed))
            }
        }
    }

    /// The keys of such entries; of a calibration, of all that stands behind its windows too.
    pub fn filtered(&self, is_wanted: impl Fn(Entry) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        for entry in self.entries().filter(|&entry| is_wanted(entry)) {
            match (entry.of, self.cell.drawn()) {
                (Of::Calibration, Some(Drawn { name, seed })) => {
                    let Keys { recipe, inputs, .. } = self.keys;
                    keys.extend(calibration::origin(recipe, name).entries(inputs, Ask::of(recipe, name, *seed)));
                }
                _ => keys.extend(self.key(entry)),
            }
        }
        keys
    }

    /// Whether the cache has all results of the cell, as far as their presence tells: a damaged one is found out, and made
    /// anew, when it is read.
    pub fn is_finished(&self, cache: &Cache) -> bool {
        let mut results = self.entries().filter(|entry| entry.need() == Need::Result);
        results.all(|entry| self.key(entry).is_none_or(|key| cache.contains(key)))
    }

    /// What the cell is claimed as by whoever runs it: all that it comes to.
    pub fn claimed_as(&self) -> Digest {
        let results: Vec<Digest> =
            self.filtered(|entry| entry.need() == Need::Result).iter().map(Key::digest).collect();
        Digest::of(&("cell", results))
    }

    /// What pruning came to.
    pub fn pruned(&self) -> Key {
        self.place.pruned
    }

    /// Its scores on a suite.
    pub fn scores(&self, suite: &str) -> Key {
        let (pruned, teacher) = (self.pruned().digest(), self.keys.teacher(suite).digest());
        Stage::Scores.key(&(pruned, teacher, self.keys.recipe.suite[suite].wants(Family::Choice)))
    }

    /// The output errors of its weights; None where there are none.
    pub fn errors(&self) -> Option<Key> {
        let Keys { recipe, inputs, .. } = self.keys;
        let suite = recipe.error_suite()?;
        let shape = Shape { spec: &inputs.spec, skip: &inputs.skip, own: inputs.spec_of(self.cell) };
        let tokens = (ERROR_TOKENS, ERROR_TOKENS_OF_PASSAGE);
        let key = || Stage::Errors.key(&(self.pruned().digest(), self.keys.samples(suite).digest(), tokens));
        has_errors(Some(shape), self.cell).then(key)
    }

    /// What it answers to the prompts of a suite; None where it is not asked.
    pub fn answers(&self, name: &str) -> Option<Key> {
        let Keys { recipe, inputs, .. } = self.keys;
        let suite = &recipe.suite[name];
        let Unit::Rows(unit) = suite.unit() else { return None };
        if !suite.is_answered() {
            return None;
        }
        let seed = if unit.decoding.temperature > 0.0 { recipe.seed } else { 0 };
        let asked = (&unit.decoding, &inputs.suites[name].part.separator, seed);
        Some(Stage::Answers.key(&(self.pruned().digest(), self.keys.samples(name).digest(), asked)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks, each with four sites: what q, k and v read, what o does, gate and up, down.
    fn model() -> Spec {
        let json = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}"#;
        Spec::from_hub(&serde_json::from_str(json).unwrap()).unwrap()
    }

    const RECIPE: &str = r#"
name = "study"
model.source = "path:model"
calibration.c4 = { dataset = "c4" }
grid = { method = ["magnitude", "wanda"], sparsity = [0.5] }
suite.prose = { dataset = "wikitext2", metrics = ["loss"] }
suite.task = { dataset = "arc_easy", metrics = ["exact_match"] }
checkpoint.other = { source = "path:other" }
"#;

    /// The entries of a cell that are wanted, each as `stage part`.
    fn listed(recipe: &Recipe, cell: usize, own: Option<&Spec>, is_wanted: impl Fn(Entry) -> bool) -> Vec<String> {
        let (spec, cells) = (model(), cells(recipe));
        let skip = Skip::of(&spec, &recipe.prune.skip).unwrap();
        let shape = Shape { spec: &spec, skip: &skip, own: own.unwrap_or(&spec) };
        let part = |of: Of| match of {
            Of::Calibration => "calibration".into(),
            Of::Suite(name) => name.to_owned(),
            Of::Cell => "cell".into(),
            Of::Block(index) => index.to_string(),
            Of::Site { block, site } => format!("{block}.{site}"),
        };
        let wanted = entries(recipe, Some(shape), &cells[cell]).filter(|&entry| is_wanted(entry));
        wanted.map(|entry| format!("{} {}", entry.stage.as_str(), part(entry.of))).collect()
    }

    fn recipe(more: &str) -> Recipe {
        toml::from_str(&format!("{RECIPE}{more}")).unwrap()
    }

    const SAMPLES: [&str; 2] = ["windows prose", "prompts task"];
    const JUDGED: [&str; 3] = ["teacher prose", "scores prose", "answers task"];

    #[test]
    fn the_dense_cell_has_samples_and_results_and_nothing_of_blocks() {
        let all = listed(&recipe(""), 0, None, |_| true);
        assert_eq!(all, [&SAMPLES[..], &["walks cell", "pruned cell"], &JUDGED].concat());
    }

    #[test]
    fn statistics_are_listed_where_the_dense_model_feeds_them() {
        let of = |recipe: &Recipe, cell| listed(recipe, cell, None, |entry| entry.stage == Stage::Statistic);
        // Magnitude looks at no inputs, and what the second block reads comes from the pruned first.
        assert_eq!(of(&recipe(""), 1), Vec::<String>::new());
        assert_eq!(of(&recipe(""), 2), ["statistics 0.0", "statistics 0.1", "statistics 0.2", "statistics 0.3"]);
        let dense = recipe("prune.propagation = \"dense\"");
        assert_eq!((of(&dense, 2).len(), of(&dense, 2)[7].as_str()), (8, "statistics 1.3"));
        // Of a site that only dense linears read nobody wants to know.
        let skipping = recipe("prune.skip = [\"block.0.down\"]");
        assert_eq!(of(&skipping, 2), ["statistics 0.0", "statistics 0.1", "statistics 0.2"]);
    }

    #[test]
    fn a_cell_is_finished_with_what_is_judged_and_goes_on_from_blocks() {
        let with = |need: Need| listed(&recipe(""), 2, None, |entry| entry.need() == need);
        assert_eq!(with(Need::Result), ["pruned cell", "errors prose", "scores prose", "answers task"]);
        assert_eq!(with(Need::OnTheWay), ["blocks 0", "blocks 1", "walks cell"]);
        assert_eq!(with(Need::Beside)[..3], ["windows calibration", "windows prose", "prompts task"]);
        assert_eq!(with(Need::Beside)[7..], ["masks 0", "masks 1", "teacher prose"]);
        let own = listed(&recipe(""), 2, None, |entry| !entry.is_shared() && entry.need() == Need::Beside);
        assert_eq!(own, ["masks 0", "masks 1"]);
    }

    #[test]
    fn a_checkpoint_has_errors_where_its_linears_are_the_models() {
        let errors = |own: Option<&Spec>| listed(&recipe(""), 3, own, |entry| entry.stage == Stage::Errors);
        let mut smaller = model();
        smaller.blocks.pop();
        assert_eq!((errors(None), errors(Some(&smaller))), (vec!["errors prose".to_owned()], vec![]));
        let blocks = listed(&recipe(""), 3, None, |entry| matches!(entry.of, Of::Block(_)));
        assert!(blocks.is_empty());
    }
}
