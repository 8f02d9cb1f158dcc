//! What types cannot say: checks across keys, and against the model once its shape is known.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::PathBuf;

use indexmap::IndexSet;

use super::problem::{Problem, Problems};
use super::{Exported, Layers, Recipe, ReportSpec, Skip, Suite, Unit, Unskippable, calibrations, cells, published};
use crate::data::Library;
use crate::fault::is_of_the_machine;
use crate::metrics::Family;
use crate::model::Spec;
use crate::prune::{Sparsity, StatisticKind};
use crate::source::{Fetcher, Source};
use crate::words;

/// Checks a recipe by itself: nothing is fetched or computed.
pub fn check(recipe: &Recipe, library: &Library, layers: &Layers) -> Result<(), Problems> {
    let mut checker = Checker { layers, problems: vec![] };
    checker.name(&recipe.name);
    checker.model(recipe, library);
    let names = recipe.calibration.keys().map(|name| ("calibration", name));
    let names = names.chain(recipe.checkpoint.keys().map(|name| ("checkpoint", name)));
    names.chain(recipe.suite.keys().map(|name| ("suite", name))).for_each(|(kind, name)| checker.name_of(kind, name));
    for (name, set) in &recipe.calibration {
        let key = ["calibration", name.as_str()];
        if let Some(dataset) = &set.dataset {
            checker.part(&key, &["dataset"], library, (dataset, set.split.as_deref(), "train"));
        }
        checker.at_least(&[key[0], key[1], "windows"], set.windows, 1);
        checker.at_least(&[key[0], key[1], "length"], set.length, 2);
        checker.sources(name, set);
        checker.generate(name, set, library);
    }
    checker.uses(recipe);
    for (name, suite) in &recipe.suite {
        let key = ["suite", name.as_str()];
        checker.part(&key, &["dataset"], library, (&suite.dataset, suite.split.as_deref(), "test"));
        checker.suite(&key, library, suite);
    }
    if recipe.suite.is_empty() {
        checker.add(&["suite"], "there is none; a study needs at least one [suite.NAME] to judge its cells by", None);
    }
    match recipe.grid.is_empty() {
        false => checker.grid(recipe),
        true if recipe.checkpoint.is_empty() => {
            let message = "there is none; a study needs a [grid] of prunings, or a [checkpoint.NAME] to judge";
            checker.add(&["grid"], message, None);
        }
        true => {}
    }
    checker.checkpoints(recipe, library);
    checker.report(recipe);
    checker.export(recipe);
    checker.problems.extend(published::problems(recipe, layers));
    checker.finish()
}

/// Checks a recipe against the model's shape: windows that fit its context, patterns that fit its columns.
pub fn check_against_model(recipe: &Recipe, model: &Spec, layers: &Layers) -> Result<Skip, Problems> {
    let mut checker = Checker { layers, problems: vec![] };
    let calibrations = recipe.calibration.iter().map(|(name, c)| ("calibration", name, c.length));
    let suites = recipe.suite.iter().filter_map(|(name, s)| match s.unit() {
        Unit::Windows(unit) => Some(("suite", name, unit.length)),
        Unit::Rows(_) => None,
    });
    for (name, suite) in &recipe.suite {
        if let Unit::Rows(unit) = suite.unit()
            && suite.is_answered()
            && unit.decoding.max_new_tokens >= model.context
        {
            let tokens = unit.decoding.max_new_tokens;
            let message = format!("{tokens} new tokens leave no room for a prompt in a context of {}", model.context);
            checker.add(&["suite", name, "max_new_tokens"], message, None);
        }
    }
    for (kind, name, length) in calibrations.chain(suites) {
        if length > model.context {
            let message =
                format!("windows of {length} tokens are longer than the model's context of {}", model.context);
            checker.add(&[kind, name, "length"], message, None);
        } else if let Some(reach) = model.reach.filter(|reach| length > reach.tokens) {
            checker.add(&[kind, name, "length"], reach.refusal(&format!("windows of {length} tokens are")), None);
        }
    }
    let sites = model.blocks.iter().flat_map(|block| &block.sites);
    checker.generate_in_context(recipe, None, model);
    let columns: IndexSet<(&str, usize)> = sites.map(|site| (site.place.of_columns(), site.columns)).collect();
    for (i, sparsity) in recipe.grid.sparsity.iter().enumerate() {
        if let Sparsity::NOfM { m, .. } = sparsity {
            for (what, columns) in columns.iter().filter(|(_, columns)| columns % m != 0) {
                let message = format!("the model's {columns} {what} columns do not divide into groups of {m}");
                checker.add(&["grid", "sparsity", &i.to_string()], message, None);
            }
        }
    }
    let skip = Skip::of(model, &recipe.prune.skip);
    match &skip {
        Ok(_) => {}
        Err(Unskippable::Nothing { number, meant }) => {
            let pattern = &recipe.prune.skip[*number];
            let block = &model.blocks[0];
            let (own, part) = (&block.linears[0].name, &block.linears[0].part);
            let message = format!(
                "\"{pattern}\" names none of the model's linears; they are called block.0.{own} or {}.{part}, and so on",
                model.name_of_block(0)
            );
            let hint = meant.as_ref().map(|meant| format!("did you mean \"{meant}\"?"));
            checker.add(&["prune", "skip", &number.to_string()], message, hint);
        }
        Err(Unskippable::Everything) => {
            checker.add(&["prune", "skip"], "it leaves nothing to prune", None);
        }
    }
    checker.finish()?;
    Ok(skip.unwrap_or_else(|_| unreachable!("it was just said what is wrong with it")))
}

/// Checks that a checkpoint can read the windows of every suite.
pub fn check_against_checkpoint(recipe: &Recipe, name: &str, spec: &Spec, layers: &Layers) -> Result<(), Problems> {
    let mut checker = Checker { layers, problems: vec![] };
    for (suite, s) in &recipe.suite {
        let Unit::Windows(unit) = s.unit() else { continue };
        let what = format!("windows of {} tokens, as [suite.{suite}] has them, are", unit.length);
        let refusal = match spec.reach {
            _ if unit.length > spec.context => {
                Some(format!("{what} longer than the context of {} that this model has", spec.context))
            }
            Some(reach) if unit.length > reach.tokens => Some(reach.refusal(&what)),
            _ => None,
        };
        refusal.into_iter().for_each(|said| checker.add(&["checkpoint", name, "source"], said, None));
    }
    checker.finish()
}

/// Checks that a model which only writes texts to calibrate on has room in its context for what these begin with.
pub fn check_against_author(recipe: &Recipe, source: &Source, spec: &Spec, layers: &Layers) -> Result<(), Problems> {
    let mut checker = Checker { layers, problems: vec![] };
    checker.generate_in_context(recipe, Some(source), spec);
    checker.finish()
}

/// What is not wrong with a recipe, but probably not meant: keys that change nothing.
pub fn inert(recipe: &Recipe, layers: &Layers) -> Vec<Problem> {
    let inert =
        recipe.suite.iter().flat_map(|(name, suite)| suite.inert_keys().into_iter().map(move |key| (name, key)));
    let inert = inert.map(|(name, (key, why))| layers.problem(&["suite", name, key], why.into(), None));
    inert.chain(calibrations::inert(recipe, layers)).collect()
}

/// Characters of a name that is part of others, in folders and tables.
const LONGEST_NAME: usize = 100;

pub(super) struct Checker<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    pub(super) fn add(&mut self, key: &[&str], message: impl Into<String>, hint: Option<String>) {
        self.problems.push(self.layers.problem(key, message.into(), hint));
    }

    /// What is wrong with a value. What the system refuses is not: that shows where the file is read.
    pub(super) fn add_error(&mut self, key: &[&str], error: &anyhow::Error) {
        if !is_of_the_machine(error) {
            self.add(key, format!("{error:#}"), None);
        }
    }

    fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    fn name(&mut self, name: &str) {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            let message = format!("\"{name}\" cannot name a folder; expected letters, digits, '.', '_' and '-'");
            self.add(&["name"], message, None);
        }
        if name.len() > LONGEST_NAME {
            let message = format!("a name of {} letters is too long; expected at most {LONGEST_NAME}", name.len());
            self.add(&["name"], message, None);
        }
    }

    /// The name of a suite or a calibration, which cells, tables and files of answers have.
    fn name_of(&mut self, kind: &str, name: &str) {
        let length = name.chars().count();
        if length > LONGEST_NAME {
            let shown: String = name.chars().take(20).collect();
            let message =
                format!("the name \"{shown}…\" of a {kind} has {length} characters; expected at most {LONGEST_NAME}");
            self.add(&[kind, name], message, None);
        }
        if name.chars().any(char::is_control) || name.trim().is_empty() {
            let message = format!("{name:?} names a {kind}; expected a name without line breaks or other controls");
            self.add(&[kind, name], message, None);
        }
    }

    /// The source of a model.
    pub(super) fn source(&mut self, key: &[&str], source: &Source, library: &Library) {
        if let Source::Path(_) = source {
            let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
            if let Err(e) = source.local(&library.bases(), &fetcher) {
                self.add_error(key, &e);
            }
        }
        if let Source::Hub { dataset: true, .. } = source {
            self.add(key, "it names a data set; expected a model, such as hf:OWNER/NAME", None);
        }
    }

    fn checkpoints(&mut self, recipe: &Recipe, library: &Library) {
        let known = names_of_cells(recipe);
        for (name, checkpoint) in &recipe.checkpoint {
            let key = ["checkpoint", name.as_str()];
            if known.contains(name) {
                self.add(&key, format!("\"{name}\" is already the name of a cell; give the checkpoint another"), None);
            }
            self.source(&[key[0], key[1], "source"], &checkpoint.source, library);
        }
    }

    fn model(&mut self, recipe: &Recipe, library: &Library) {
        self.source(&["model", "source"], &recipe.model.source, library);
        if let Err(e) = recipe.model.device.check() {
            self.add(&["model", "device"], e.to_string(), None);
        }
    }

    /// The split of a data set that a table names under `named`.
    pub(super) fn part(
        &mut self,
        table: &[&str; 2],
        named: &[&str],
        library: &Library,
        (dataset, split, preferred): (&str, Option<&str>, &str),
    ) {
        let key = [table.as_slice(), named].concat();
        let set = match library.get(dataset) {
            Ok(set) => set,
            Err(e) => return self.add_error(&key, &e),
        };
        match set.part(split, preferred) {
            Err(e) => self.add(&[table[0], table[1], "split"], e.to_string(), None),
            Ok(part) => {
                let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
                let checked = part.local(&fetcher).and_then(|files| files.map_or(Ok(()), |files| part.check(&files)));
                if let Err(e) = checked {
                    self.add_error(&key, &e);
                }
                // Without a file it is a model's, and there is nothing to fetch of it.
                if let Source::Hub { dataset: false, repo, file: None, .. } = part.source() {
                    let message = format!("\"{}\" names a model; expected a data set", part.source());
                    let hint = format!("did you mean \"hf:datasets/{repo}\"?");
                    self.add(&key, message, Some(hint));
                }
            }
        }
    }

    fn suite(&mut self, key: &[&str; 2], library: &Library, suite: &Suite) {
        let [kind, name] = *key;
        for (option, value, least) in [
            ("windows", suite.windows, 1),
            ("length", suite.length, 2),
            ("limit", suite.limit, 1),
            ("max_new_tokens", suite.max_new_tokens, 1),
            ("top_k", suite.top_k, 1),
        ] {
            value.iter().for_each(|&value| self.at_least(&[kind, name, option], value, least));
        }
        self.drawing(key, suite.temperature, suite.top_p, suite.repetition_penalty);
        if suite.stop.as_ref().is_some_and(|stop| stop.iter().any(String::is_empty)) {
            self.add(&[kind, name, "stop"], "a text that ends answers must not be empty", None);
        }
        let names = |family: fn(Family) -> bool| -> Vec<&str> {
            suite.metrics().into_iter().filter(|m| family(m.family())).map(|m| m.as_str()).collect()
        };
        self.list(&[kind, name, "metrics"], &names(|_| true));
        let of_rows = [suite.row_keys(), names(Family::is_downstream)].concat();
        if let (Some(&window_key), Some(row_key)) = (suite.window_keys().first(), of_rows.first()) {
            let message = format!(
                "`{window_key}` is for suites of token windows, but `{row_key}` makes this one a suite of rows; make two suites of it"
            );
            self.add(&[kind, name, window_key], message, None);
        }
        self.problems.extend(super::judge::problems(name, suite, self.layers));
        if suite.shots.unwrap_or(0) > 0
            && let Ok(set) = library.get(&suite.dataset)
            && let Err(e) = set.shots(suite.split.as_deref(), suite.shots_split.as_deref())
        {
            self.add(&[kind, name, "shots_split"], e.to_string(), None);
        }
    }

    /// How tokens are drawn, under these keys of a table.
    pub(super) fn drawing(
        &mut self,
        table: &[&str],
        temperature: Option<f64>,
        top_p: Option<f64>,
        repetition_penalty: Option<impl Copy + Display + Into<f64>>,
    ) {
        let key = |key| [table, &[key]].concat();
        if let Some(t) = temperature.filter(|t| !(0.0..=100.0).contains(t)) {
            self.add(&key("temperature"), format!("{t} is no temperature; expected a number from 0 to 100"), None);
        }
        if let Some(p) = top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            self.add(&key("top_p"), format!("{p} is no share; expected a number above 0, at most 1"), None);
        }
        let is_none = |penalty: f64| !(penalty > 0.0 && penalty.is_finite());
        if let Some(penalty) = repetition_penalty.filter(|&penalty| is_none(penalty.into())) {
            let message = format!("{penalty} is no penalty; expected a number above 0, where 1 changes nothing");
            self.add(&key("repetition_penalty"), message, None);
        }
    }

    pub(super) fn at_least(&mut self, key: &[&str], value: usize, least: usize) {
        if value < least {
            self.add(key, format!("{value} is too small; expected at least {least}"), None);
        }
    }

    /// A list that must have elements, each once.
    fn list(&mut self, key: &[&str], values: &[impl Display]) {
        if values.is_empty() {
            self.add(key, "the list is empty; expected at least one value", None);
        }
        let mut seen = HashSet::new();
        for (i, value) in values.iter().enumerate() {
            if !seen.insert(value.to_string()) {
                let index = i.to_string();
                let key: Vec<&str> = key.iter().copied().chain([index.as_str()]).collect();
                self.add(&key, format!("{value} is listed twice"), None);
            }
        }
    }

    /// Sparsities that differ, but not in the four digits that reports print.
    fn alike(&mut self, sparsities: &[Sparsity]) {
        let printed = |sparsity: &Sparsity| match sparsity {
            Sparsity::Ratio(ratio) => Some((ratio * 1e4).round()),
            Sparsity::NOfM { .. } => None,
        };
        for (i, sparsity) in sparsities.iter().enumerate().filter(|(_, sparsity)| printed(sparsity).is_some()) {
            let alike = |before: &&Sparsity| *before != sparsity && printed(before) == printed(sparsity);
            if let Some(before) = sparsities[..i].iter().find(alike) {
                let message = format!("{sparsity} is listed twice: reports print it like {before}");
                self.add(&["grid", "sparsity", &i.to_string()], message, None);
            }
        }
    }

    fn grid(&mut self, recipe: &Recipe) {
        let grid = &recipe.grid;
        self.list(&["grid", "method"], &grid.method.iter().map(|m| m.as_str()).collect::<Vec<_>>());
        self.list(&["grid", "sparsity"], &grid.sparsity);
        self.alike(&grid.sparsity);
        grid.seed.iter().for_each(|seeds| self.list(&["grid", "seed"], seeds));
        if let Some(names) = &grid.calibration {
            self.list(&["grid", "calibration"], names);
            for (i, name) in names.iter().enumerate().filter(|(_, n)| !recipe.calibration.contains_key(*n)) {
                let (message, hint) = unknown("calibration", name, recipe.calibration.keys());
                self.add(&["grid", "calibration", &i.to_string()], message, hint);
            }
        }
        for &name in &grid.method {
            let method = recipe.method.get(name);
            if method.statistic() != StatisticKind::None && recipe.calibration.is_empty() {
                let message = format!("{} needs calibration data; add a [calibration.NAME]", name.as_str());
                self.add(&["grid", "method"], message, None);
            }
            if let Err((option, message)) = method.check() {
                self.add(&["method", name.as_str(), option], message, None);
            }
        }
    }
    /// What is to be exported is among the cells.
    fn export(&mut self, recipe: &Recipe) {
        let Some(Exported::Named(names)) = recipe.export.as_ref().map(|export| &export.cells) else { return };
        if names.is_empty() {
            self.add(&["export", "cells"], "it names none; expected \"best\", \"all\", or cells", None);
        }
        let known = names_of_cells(recipe);
        for (i, name) in names.iter().enumerate().filter(|(_, name)| !known.contains(*name)) {
            let (message, hint) = unknown("cell", name, known.iter());
            self.add(&["export", "cells", &i.to_string()], message, hint);
        }
    }

    /// What the report is about is there, and margins are some.
    fn report(&mut self, recipe: &Recipe) {
        let ReportSpec { suite, metric, margin } = &recipe.report;
        let named = suite.as_ref().map(|name| (name, recipe.suite.get(name)));
        if let Some((name, None)) = named {
            let (message, hint) = unknown("suite", name, recipe.suite.keys());
            self.add(&["report", "suite"], message, hint);
        }
        if let Some(metric) = metric {
            let lacks = |suite: &Suite| !suite.metrics().contains(metric);
            let metric = metric.as_str();
            match named {
                Some((name, Some(suite))) if lacks(suite) => {
                    let (message, hint) = no_metric(name, suite, metric);
                    self.add(&["report", "metric"], message, hint);
                }
                None if recipe.suite.values().all(lacks) => {
                    let hint = Some("add it to the `metrics` of one".to_owned());
                    self.add(&["report", "metric"], format!("no suite has the metric \"{metric}\""), hint);
                }
                _ => {}
            }
        }
        for (key, margin) in margin.by_key().into_iter().filter(|(_, margin)| !(*margin > 0.0 && margin.is_finite())) {
            let message = format!("{margin} is no margin; expected a number above 0");
            self.add(&["report", "margin", key], message, None);
        }
    }
}

/// What the cells of the model itself and their settings are called: checkpoints apart.
fn names_of_cells(recipe: &Recipe) -> IndexSet<String> {
    let own = cells(recipe).into_iter().filter(|cell| cell.checkpoint().is_none());
    own.flat_map(|cell| [cell.id(), cell.setting().id()]).collect()
}

/// What to say of a metric that a suite has not, and how it would have it.
pub(super) fn no_metric(name: &str, suite: &Suite, metric: &str) -> (String, Option<String>) {
    let has: Vec<&str> = suite.metrics().into_iter().map(|m| m.as_str()).collect();
    let message = format!("[suite.{name}] has no metric \"{metric}\"; expected {}", has.join(", "));
    (message, Some(format!("add it to suite.{name}.metrics")))
}

/// What to say of a name that no table of this kind has, and what was probably meant.
pub(super) fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> (String, Option<String>) {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let hint = words::nearest(name, known.iter().copied()).map(|w| format!("did you mean \"{w}\"?"));
    let message = match known.is_empty() {
        true => format!("\"{name}\" is no {kind}; add a [{kind}.{name}]"),
        false => format!("\"{name}\" is no {kind}; expected {}", known.join(", ")),
    };
    (message, hint)
}
