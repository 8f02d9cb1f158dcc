//! What a folder has of an earlier study, and what of it another one would overwrite.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use indexmap::IndexMap;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::changes::{Reading, changed, shown};
use super::{Manifest, has_tables};
use crate::calibration::origin;
use crate::data::{Dataset, Library, Part};
use crate::fault::{Fault, is_of_the_machine};
use crate::pipeline::{InputPart, Inputs};
use crate::prune::StatisticKind;
use crate::recipe::{Calibration, Cell, Pruning, Recipe, Suite, cells};
use crate::source::Source;

/// A study that is about to be written to a folder.
#[derive(Clone, Copy)]
pub struct Intended<'a> {
    pub recipe: &'a Recipe,
    pub library: &'a Library,
    /// None where the model or data are not here yet: then only the recipe is compared.
    pub inputs: Option<&'a Inputs>,
}

/// Names that a message has room for.
const NAMED: usize = 3;

const REMEDY: &str = "\n       = --out DIR keeps both; --replace overwrites what is there";

impl Intended<'_> {
    /// An error where the folder `dir` has results that the study would overwrite, and not go on with.
    ///
    /// # Errors
    /// With what would be lost, and the remedies; also where nothing says which study the tables there are of.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let (run, shown) = (dir.join("run.json"), dir.display());
        if !run.exists() {
            let said = format!("{shown} has tables, but no run.json that says which study they are of{REMEDY}");
            return if has_tables(dir) { Err(Fault(said).into()) } else { Ok(()) };
        }
        let earlier = Manifest::read(dir).map_err(|error| match is_of_the_machine(&error) {
            true => error,
            false => {
                Fault(format!("{error:#}, so that nothing says which study the results in {shown} are of{REMEDY}"))
                    .into()
            }
        })?;
        let lost = self.lost(&earlier, &done_cells(dir, &earlier));
        if lost.is_empty() {
            return Ok(());
        }
        let lost: String = lost.iter().map(|line| format!("\n         {line}")).collect();
        Err(Fault(format!("{shown} has results of another study, which would be lost:{lost}{REMEDY}")).into())
    }

    /// What of an earlier study this one does not have, of its cells that are done: a line a reason.
    fn lost(&self, earlier: &Manifest, done: &[Cell]) -> Vec<String> {
        if done.is_empty() {
            return vec![];
        }
        let mut lost = self.of_all(earlier, done.len());
        lost.extend(self.cells(earlier, done));
        for (name, suite) in &earlier.recipe.suite {
            lost.extend(self.suite(earlier, name, suite));
        }
        lost
    }

    /// Why every value would be another.
    fn of_all(&self, earlier: &Manifest, cells: usize) -> Vec<String> {
        let (was, is) = (&earlier.recipe, self.recipe);
        let mut reasons = Vec::new();
        // The same files under another name are the same model.
        let has_same_files = self.inputs.map(|inputs| inputs.model_digest.to_string() == earlier.model.digest);
        let (from, to) = (&was.model.source, &is.model.source);
        match has_same_files {
            Some(true) => {}
            _ if from != to => reasons.push(format!("the model is {to}, not {from}")),
            Some(false) => reasons.push(format!("the files of the model {to} have changed")),
            None => {}
        }
        if was.model.dtype != is.model.dtype {
            reasons.push(format!("the precision is {}, not {}", is.model.dtype, was.model.dtype));
        }
        if was.model.date != is.model.date {
            let date = |recipe: &Recipe| shown(&serde_json::to_value(recipe.model.date).unwrap_or_default());
            reasons.push(format!("model.date is {}, not {}", date(is), date(was)));
        }
        if was.seed != is.seed {
            reasons.push(format!("seed is {}, not {}", is.seed, was.seed));
        }
        let all = if cells == 1 { "the cell that is done".to_owned() } else { format!("all {cells} cells") };
        reasons.into_iter().map(|reason| format!("{all}: {reason}")).collect()
    }

    /// The cells that the grid no longer has, or that come of something else now.
    fn cells(&self, earlier: &Manifest, done: &[Cell]) -> Vec<String> {
        let now: BTreeSet<String> = cells(self.recipe).iter().map(Cell::id).collect();
        let mut of_reason: IndexMap<String, Vec<String>> = IndexMap::new();
        for cell in done {
            let reason = match cell {
                Cell::Checkpoint(name) if !now.contains(name) => Some("the recipe no longer has them".to_owned()),
                _ if !now.contains(&cell.id()) => Some("the grid no longer has them".to_owned()),
                Cell::Pruned(pruning) => self.pruning(earlier, pruning),
                Cell::Checkpoint(name) => self.checkpoint(earlier, name),
                Cell::Dense => None,
            };
            if let Some(reason) = reason {
                of_reason.entry(reason).or_default().push(cell.id());
            }
        }
        of_reason.into_iter().map(|(reason, ids)| format!("{}: {reason}", some_of(&ids, "cells"))).collect()
    }

    /// Why a checkpoint of the same name is another model.
    fn checkpoint(&self, earlier: &Manifest, name: &str) -> Option<String> {
        let (from, to) = (&earlier.recipe.checkpoint.get(name)?.source, &self.recipe.checkpoint.get(name)?.source);
        let digest = self.inputs.and_then(|inputs| Some(inputs.checkpoints.get(name)?.digest.to_string()));
        match (digest, earlier.checkpoints.get(name)) {
            (Some(now), Some(was)) if now == was.digest => None,
            _ if from != to => Some(format!("checkpoint.{name}.source is {to}, not {from}")),
            (Some(_), Some(_)) => Some(format!("the files of {to} have changed")),
            _ => None,
        }
    }

    /// Why a cell of the same name prunes differently.
    fn pruning(&self, earlier: &Manifest, pruning: &Pruning) -> Option<String> {
        let (was, is) = (&earlier.recipe, self.recipe);
        let name = pruning.method.as_str();
        let options = |recipe: &Recipe| serde_json::to_value(&recipe.method).unwrap_or_default()[name].clone();
        if let Some(said) = changed(&format!("method.{name}"), &options(was), &options(is)) {
            return Some(said);
        }
        let is_informed = is.method.get(pruning.method).statistic() != StatisticKind::None;
        let walk = |recipe: &Recipe| serde_json::to_value(&recipe.prune).unwrap_or_default();
        if let Some(said) =
            changed("prune", &walk(was), &walk(is)).filter(|_| is_informed || was.prune.skip != is.prune.skip)
        {
            return Some(said);
        }
        self.calibration(earlier, &pruning.calibration.as_ref()?.name, true)
    }

    /// Why a calibration of the same name gives other windows: to cells, or to others, which ask for numbers of their own.
    fn calibration(&self, earlier: &Manifest, name: &str, to_cells: bool) -> Option<String> {
        let (was, is) = (&earlier.recipe, self.recipe);
        let (a, b) = (was.calibration.get(name)?, is.calibration.get(name)?);
        // Data sets are compared by what they make of their files, whatever they are called.
        let how = |c: &Calibration| {
            let mut keys = serde_json::to_value(c).unwrap_or_default();
            let apart = ["dataset", "split"].into_iter().chain(["windows", "length"].into_iter().filter(|_| !to_cells));
            if let Some(keys) = keys.as_object_mut() {
                apart.for_each(|key| drop(keys.remove(key)));
                keys.get_mut("generate").and_then(Value::as_object_mut).map(|how| how.remove("model"));
            }
            keys
        };
        let key = format!("calibration.{name}");
        if let Some(said) = changed(&key, &how(a), &how(b)) {
            return Some(said);
        }
        if let Some(said) = self.author(earlier, name) {
            return Some(said);
        }
        if let Some(said) = origin(is, name).uses().into_iter().find_map(|name| self.calibration(earlier, name, false))
        {
            return Some(said);
        }
        let (from, to) = match (a.rows_of(), b.rows_of()) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return None,
            _ => return Some(format!("[{key}] comes from elsewhere")),
        };
        let part = |dataset: &Dataset, split: &Option<String>| dataset.part(split.as_deref(), "train").ok();
        let old = Reading {
            part: earlier.datasets.get(from).and_then(|entry| part(&entry.definition, &a.split)),
            digest: earlier.calibrations.get(name).and_then(|entry| Some(entry.data.as_ref()?.digest.clone())),
        };
        let new = self.reading(|inputs| inputs.calibrations.get(name), to, |dataset| part(dataset, &b.split));
        old.changed(&new).map(|said| format!("[{key}]: {said}"))
    }

    /// Why another model writes the texts of a calibration.
    fn author(&self, earlier: &Manifest, name: &str) -> Option<String> {
        let of = |recipe: &Recipe| recipe.calibration.get(name)?.generate.as_ref().map(|how| how.model.clone());
        let (from, to) = (of(&earlier.recipe)?, of(self.recipe)?);
        let key = format!("calibration.{name}.generate.model");
        let called = |source: &Option<Source>| source.as_ref().map_or("the study's own".into(), ToString::to_string);
        // The same files under another name are the same model.
        let now = self.inputs.zip(to.as_ref()).and_then(|(inputs, to)| inputs.authors.get(to));
        let now = now.map(|author| author.digest.to_string());
        let was = from.as_ref().and_then(|from| earlier.authors.get(&from.to_string())).map(|entry| &entry.digest);
        match (now, was) {
            (Some(now), Some(was)) if now == *was => None,
            _ if from != to => Some(format!("{key} is {}, not {}", called(&to), called(&from))),
            (Some(_), Some(_)) => Some(format!("the files of {} have changed", called(&to))),
            _ => None,
        }
    }

    /// What of a suite would be lost.
    fn suite(&self, earlier: &Manifest, name: &str, was: &Suite) -> Option<String> {
        let Some(is) = self.recipe.suite.get(name) else {
            return Some(format!("the suite {name}: the recipe no longer has it"));
        };
        let key = format!("suite.{name}");
        let read_alike = was.unit() == is.unit() && was.reads_answers_as(is);
        if !read_alike {
            let keys = |suite: &Suite| {
                let mut keys = serde_json::to_value(suite).unwrap_or_default();
                keys.as_object_mut().map(|keys| keys.remove("metrics"));
                keys
            };
            let said = changed(&key, &keys(was), &keys(is)).unwrap_or_else(|| format!("[{key}] is another"));
            return Some(format!("the suite {name}: {said}"));
        }
        if let (Some(was), Some(is)) = (&was.judge, &is.judge)
            && let Some(said) = changed(&format!("{key}.judge"), &was.asks(), &is.asks())
        {
            return Some(format!("the suite {name}: {said}"));
        }
        let part = |dataset: &Dataset, suite: &Suite| dataset.part(suite.split.as_deref(), "test").ok();
        let shots =
            |dataset: &Dataset, suite: &Suite| dataset.shots(suite.split.as_deref(), suite.shots_split.as_deref()).ok();
        let definition = earlier.datasets.get(&was.dataset).map(|entry| &entry.definition);
        let entry = earlier.suites.get(name);
        let old = Reading {
            part: definition.and_then(|definition| part(definition, was)),
            digest: entry.map(|entry| entry.data.digest.clone()),
        };
        let new = self.reading(|inputs| inputs.suites.get(name), &is.dataset, |dataset| part(dataset, is));
        if let Some(said) = old.changed(&new) {
            return Some(format!("the suite {name}: {said}"));
        }
        if let Some(entry) = entry.and_then(|entry| entry.shots.as_ref()) {
            let old = Reading {
                part: definition.and_then(|definition| shots(definition, was)),
                digest: Some(entry.digest.clone()),
            };
            let new = self.reading(|inputs| inputs.shots.get(name), &is.dataset, |dataset| shots(dataset, is));
            if let Some(said) = old.changed(&new) {
                return Some(format!("the suite {name}: of its shots, {said}"));
            }
        }
        let metrics = is.metrics();
        let gone: Vec<String> = (was.metrics().into_iter())
            .filter(|metric| !metrics.contains(metric))
            .map(|metric| metric.as_str().to_owned())
            .collect();
        (!gone.is_empty())
            .then(|| format!("{} on the suite {name}: the recipe no longer asks for that", gone.join(", ")))
    }

    /// What this study reads.
    fn reading(
        &self,
        input: impl Fn(&Inputs) -> Option<&InputPart>,
        dataset: &str,
        part: impl Fn(&Dataset) -> Option<Part>,
    ) -> Reading {
        match self.inputs.and_then(&input) {
            Some(input) => Reading { part: Some(input.part.clone()), digest: Some(input.content.to_string()) },
            None => Reading { part: self.library.get(dataset).ok().as_ref().and_then(part), digest: None },
        }
    }
}

/// The cells of a folder that are done; where its table does not say, all of the study.
pub fn done_cells(dir: &Path, earlier: &Manifest) -> Vec<Cell> {
    let all = cells(&earlier.recipe);
    match done_ids(&dir.join("cells.parquet")) {
        Ok(ids) => all.into_iter().filter(|cell| ids.contains(&cell.id())).collect(),
        Err(_) if !dir.join("cells.parquet").exists() => vec![],
        Err(_) => all,
    }
}

fn done_ids(path: &Path) -> Result<BTreeSet<String>> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let mut ids = BTreeSet::new();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let text = |name: &str| {
            row.get_column_iter().find_map(|(column, value)| match value {
                Field::Str(text) if column == name => Some(text.clone()),
                _ => None,
            })
        };
        if text("status").context("cells have a status")? == "done" {
            ids.insert(text("cell").context("cells have names")?);
        }
    }
    Ok(ids)
}

/// The first names of a list, and how many more there are.
fn some_of(names: &[String], what: &str) -> String {
    let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        1 => format!("{shown} and {}", names[NAMED]),
        more => format!("{shown} and {more} more {what}"),
    }
}
