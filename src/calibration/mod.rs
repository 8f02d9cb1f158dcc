//! Where the windows come from that statistics are gathered on: a source a file, behind one trait.
//!
//! The contract of a source: it is asked for so many windows of at most so many tokens, by a seed ([`Ask`]), and what it
//! gives depends on nothing but the ask and what its key is made of. A `[calibration.NAME]` is asked for its own `windows`
//! and `length`; another source that draws from it may ask for other numbers, and so each has its own entry in the cache.
//! What stands behind a key is made once, here: [`windows`] looks into the cache, and keeps what was made. Rows, other
//! calibrations and suites that it reads are named beforehand ([`Origin::part`], [`Origin::uses`], [`Origin::suites`]), so
//! that all that a study needs is fetched, digested and checked before anything is computed; the dense model is there anyhow
//! ([`Making::study`]). To add one, write `src/calibration/NAME.rs`, add its key to the recipe's `Calibration` and its line
//! to [`origin`], and its key to [`SOURCES`].

mod dataset;
mod generated;
mod in_context;
mod mixed;
mod nearness;
mod select;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Library, Part, Rows, Windows};
use crate::fault::At;
use crate::model::Tokenizer;
use crate::pipeline::{Cache, Inputs, Interrupted, Key, PlannedStage, Planner, Stage, Study, Unwritable, Work};
use crate::recipe::{Calibration, Cell, Recipe, cells};
use crate::source::Source;
use dataset::DataSet;
pub use generated::Generate;
use generated::Generated;
pub use in_context::InContext;
use in_context::SolvedExamples;
use mixed::Mixed;
pub use mixed::apportion;
pub use select::Select;
use select::Selected;

/// What is asked of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Ask {
    /// How many windows.
    pub windows: usize,
    /// The most tokens of a window.
    pub length: usize,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Ask {
    /// What a cell asks of a calibration.
    pub fn of(recipe: &Recipe, name: &str, seed: u64) -> Self {
        let Calibration { windows, length, .. } = recipe.calibration[name];
        Self { windows, length, seed }
    }

    /// The most tokens of all its windows.
    pub fn tokens(self) -> usize {
        self.windows.saturating_mul(self.length)
    }
}

/// What a source gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub windows: Windows,
    /// What `run.json` says of how they came about, beside their number and digest; null where there is nothing to say.
    pub details: Value,
}

impl From<Windows> for Made {
    fn from(windows: Windows) -> Self {
        Self { windows, details: Value::Null }
    }
}

/// Where windows come from.
pub trait Origin {
    /// What it is, in errors and plans: `data set "c4"`.
    fn what(&self) -> String;

    /// The rows that it reads: of the data set that the calibration names. They are fetched and digested as
    /// `Inputs::calibrations[NAME]`.
    ///
    /// # Errors
    /// Where the data set does not have them.
    fn part(&self, _library: &Library) -> Result<Option<Part>> {
        Ok(None)
    }

    /// The other calibrations of the recipe that it draws from.
    fn uses(&self) -> Vec<&str> {
        vec![]
    }

    /// The suites whose rows it looks at.
    fn suites(&self) -> Vec<&str> {
        vec![]
    }

    /// Whether the model is run for it: then an error is not always the data's.
    fn computes(&self) -> bool {
        false
    }

    /// The windows in the cache: of all that they depend on.
    fn key(&self, inputs: &Inputs, ask: Ask) -> Key;

    /// All that the cache holds for it.
    fn entries(&self, inputs: &Inputs, ask: Ask) -> Vec<Key> {
        vec![self.key(inputs, ask)]
    }

    /// Checks what can be checked without running the model or making all rows into tokens.
    ///
    /// # Errors
    /// Where [`Origin::make`] would surely fail.
    fn check(&self, checking: &Checking, ask: Ask) -> Result<()>;

    /// Makes the windows, which are not in the cache.
    ///
    /// # Errors
    /// Where there are not as many as were asked for, or making them fails.
    fn make(&self, making: &Making, ask: Ask) -> Result<Made>;

    /// The stages that lead to them, the windows themselves last. What several cells need is listed once: a stage is
    /// told from others by its name.
    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage>;
}

/// The keys of a `[calibration.NAME]` that say where windows come from.
pub const SOURCES: [&str; 4] = ["dataset", "generate", "mix", "select"];

/// Those of them that a calibration has.
pub fn sources(calibration: &Calibration) -> Vec<&'static str> {
    let Calibration { dataset, generate, mix, select, .. } = calibration;
    let has = [dataset.is_some(), generate.is_some(), mix.is_some(), select.is_some()];
    SOURCES.into_iter().zip(has).filter_map(|(key, has)| has.then_some(key)).collect()
}

/// The source of a calibration of a recipe that was checked.
pub fn origin<'a>(recipe: &'a Recipe, name: &'a str) -> Box<dyn Origin + 'a> {
    let calibration = &recipe.calibration[name];
    match calibration {
        Calibration { generate: Some(how), .. } => Box::new(Generated { recipe, name, calibration, how }),
        Calibration { mix: Some(shares), .. } => Box::new(Mixed { recipe, name, shares }),
        Calibration { select: Some(how), .. } => Box::new(Selected { recipe, name, how }),
        Calibration { in_context: Some(how), .. } => {
            Box::new(SolvedExamples { rows: DataSet { recipe, name, calibration }, how })
        }
        _ => Box::new(DataSet { recipe, name, calibration }),
    }
}

/// The calibrations that cells draw from, in the order of the recipe, and those that these draw from in turn.
pub fn used(recipe: &Recipe) -> Vec<String> {
    let mut used: HashSet<String> = HashSet::new();
    let mut next: Vec<String> = cells(recipe).iter().filter_map(Cell::drawn).map(|drawn| drawn.name.clone()).collect();
    while let Some(name) = next.pop() {
        if recipe.calibration.contains_key(&name) && used.insert(name.clone()) {
            next.extend(origin(recipe, &name).uses().into_iter().map(str::to_owned));
        }
    }
    recipe.calibration.keys().filter(|name| used.contains(*name)).cloned().collect()
}

/// The models that write texts for calibrations of cells, but for the recipe's, each with the first calibration that names
/// it; in the order of the recipe.
pub fn authors(recipe: &Recipe) -> IndexMap<&Source, String> {
    let mut authors = IndexMap::new();
    for name in used(recipe) {
        if let Some(source) = recipe.calibration[&name].generate.as_ref().and_then(|how| how.model.as_ref()) {
            authors.entry(source).or_insert(name);
        }
    }
    authors
}

/// The suites that calibrations of cells look at, in the order of the recipe.
pub fn suites_seen(recipe: &Recipe) -> Vec<String> {
    let used = used(recipe);
    let seen = |suite: &&String| used.iter().any(|name| origin(recipe, name).suites().contains(&suite.as_str()));
    recipe.suite.keys().filter(seen).cloned().collect()
}

/// What windows are made with: a study that is open, and rows that were read.
pub struct Making<'a> {
    pub study: &'a Study<'a>,
    /// Read once for all seeds.
    rows: RefCell<BTreeMap<String, Arc<Rows>>>,
}

impl<'a> Making<'a> {
    pub fn with(study: &'a Study<'a>) -> Self {
        Self { study, rows: RefCell::default() }
    }

    /// The rows of a calibration that has some, each of which could be cut into windows.
    ///
    /// # Errors
    /// Where a row cannot be used.
    pub fn rows(&self, name: &str) -> Result<Arc<Rows>> {
        if let Some(rows) = self.rows.borrow().get(name) {
            return Ok(rows.clone());
        }
        let (study, input) = (self.study, &self.study.inputs().calibrations[name]);
        let rows = input.checked(study.tokenizer(), study.inputs().spec.vocabulary)?;
        self.rows.borrow_mut().insert(name.to_owned(), rows.clone());
        Ok(rows)
    }
}

/// The windows of a calibration: from the cache, or made and kept.
///
/// # Errors
/// Where they cannot be made: with the calibration, and what it is.
pub fn windows(making: &Making, name: &str, ask: Ask) -> Result<Made> {
    let (recipe, inputs, cache) = (making.study.recipe(), making.study.inputs(), making.study.cache());
    let origin = origin(recipe, name);
    let key = origin.key(inputs, ask);
    let found = || match cache.read_json(key) {
        Some(Kept(ids, ends, details)) => Ok(Some(Made { windows: Windows::new(ids, ends)?, details })),
        None => Ok(None),
    };
    let make = || {
        let made = match origin.make(making, ask) {
            Err(error) if error.is::<Unwritable>() || error.is::<Interrupted>() => return Err(error),
            made if origin.computes() => made.with_context(|| place(name, &*origin))?,
            made => made.at(|| place(name, &*origin))?,
        };
        let (ids, ends) = (made.windows.ids(), made.windows.ends());
        match &made.details {
            Value::Null => cache.write_json(key, &(ids, ends))?,
            details => cache.write_json(key, &(ids, ends, details))?,
        }
        Ok(made)
    };
    // What the model is run for is shared among those who want it, text by text: nobody has all of it alone.
    if origin.computes() {
        return found()?.map_or_else(make, Ok);
    }
    cache.once(key, making.study.watch(), found, make)
}

/// Windows in the cache: ids, ends, and what is to be said of them.
#[derive(Deserialize)]
struct Kept(Vec<u32>, Vec<usize>, #[serde(default)] Value);

/// A calibration in errors.
fn place(name: &str, origin: &dyn Origin) -> String {
    format!("[calibration.{name}], {}", origin.what())
}

/// Whether a model is run for windows that cells draw.
pub fn computes(recipe: &Recipe) -> bool {
    used(recipe).iter().any(|name| origin(recipe, name).computes())
}

/// Checks all windows that cells draw, but for those in the cache.
///
/// # Errors
/// Where a run would surely refuse them.
pub fn check(recipe: &Recipe, inputs: &Inputs, cache: &Cache, tokenizer: &Tokenizer) -> Result<()> {
    let (checking, cells) = (Checking::new(recipe, inputs, cache, tokenizer), cells(recipe));
    let mut drawn = cells.iter().filter_map(Cell::drawn);
    drawn.try_for_each(|drawn| checking.check(&drawn.name, Ask::of(recipe, &drawn.name, drawn.seed)))
}

/// What calibrations are checked with before a run.
pub struct Checking<'a> {
    pub recipe: &'a Recipe,
    pub inputs: &'a Inputs,
    pub cache: &'a Cache,
    pub tokenizer: &'a Tokenizer,
    /// What was checked already, whatever the seed.
    checked: RefCell<HashSet<(String, usize, usize)>>,
}

impl<'a> Checking<'a> {
    pub fn new(recipe: &'a Recipe, inputs: &'a Inputs, cache: &'a Cache, tokenizer: &'a Tokenizer) -> Self {
        Self { recipe, inputs, cache, tokenizer, checked: RefCell::default() }
    }

    /// Checks a calibration, unless its windows are in the cache.
    ///
    /// # Errors
    /// Where a run would surely refuse it.
    pub fn check(&self, name: &str, ask: Ask) -> Result<()> {
        let origin = origin(self.recipe, name);
        let is_cached = self.cache.contains(origin.key(self.inputs, ask));
        match !is_cached && self.checked.borrow_mut().insert((name.to_owned(), ask.windows, ask.length)) {
            true => origin.check(self, ask).at(|| place(name, &*origin)),
            false => Ok(()),
        }
    }
}

/// The windows of a calibration as a stage of a plan; `more` is said beside its name.
fn planned(name: &str, origin: &dyn Origin, planner: &Planner, ask: Ask, more: &str) -> PlannedStage {
    let own = Ask::of(planner.recipe, name, ask.seed);
    let number = if own == ask { String::new() } else { format!("{} ", ask.windows) };
    let key = planner.inputs.map(|inputs| origin.key(inputs, ask));
    planner.stage(
        format!("{number}windows of calibration {name}, seed {}{more}", ask.seed),
        Stage::Windows,
        key,
        Some(6u64.saturating_mul(ask.tokens() as u64)),
        Some(Work::default()),
    )
}

/// The windows of a calibration and the stages behind them, of which whoever has the windows needs none.
fn planned_behind(own: PlannedStage, behind: Vec<PlannedStage>) -> Vec<PlannedStage> {
    let is_needed = |stage: &PlannedStage| own.is_to_do() || !stage.is_to_do();
    let mut stages: Vec<PlannedStage> = behind.into_iter().filter(is_needed).collect();
    stages.push(own);
    stages
}
