//! `calipr status`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::terminal::columns;
use super::{Machinery, print};
use crate::bundled;
use crate::clock;
use crate::cluster::{Holder, Record, Standing, State, standing, waiting};
use crate::data::Library;
use crate::fault::{At, Fault};
use crate::pipeline::{Cache, CellKeys, Claimant, Ended, Inputs, Keys, Spent};
use crate::recipe::{self, Cell, Layers, Recipe, cells};
use crate::report::{Report, Wanted};
use crate::results::{Manifest, done_cells, ensure_has_results};
use crate::source::{Fetcher, expanded};

#[derive(Args)]
pub struct StatusArgs {
    /// The folder of results of a study that was submitted, or that `calipr run` has begun; or a recipe, as its workers have it.
    study: PathBuf,
    /// Keys of the recipe that the workers' --set sets.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    machinery: Machinery,
}

/// A study, as those have it that work on it.
struct Studied {
    recipe: Recipe,
    layers: Layers,
    library: Library,
    cache: Cache,
    /// What was submitted; None of workers that others have started.
    record: Option<Record>,
    /// What was submitted before, and is no longer what the folder has.
    replaced: Option<Record>,
    /// The folder of results, where it was named.
    results: Option<PathBuf>,
}

impl StatusArgs {
    /// Says what is done, what runs where, what failed, and how long it will take.
    pub fn status(&self) -> Result<()> {
        let studied = self.studied()?;
        let _terminal = self.machinery.start()?;
        let results = studied.results.clone();
        let tables = results.as_deref().and_then(|results| Tables::of(results, &studied.recipe));
        let standings = match &tables {
            // Nobody works on what was not handed over and is done, wherever its cache is now.
            Some(tables) if studied.record.is_none() && tables.are_whole() => tables.standings(&studied.recipe),
            _ => studied.standings(tables.as_ref())?,
        };
        let Studied { recipe, record, replaced, .. } = studied;
        let whole = tables.filter(Tables::are_whole).map(|_| self.study.display().to_string());
        let mut text = standing(&recipe.name, &standings, whole.as_deref(), columns());
        if let Some(record) = replaced {
            let (name, ids) = (record.engine.as_str(), record.ids.join(", "));
            text += &format!("{name}: {ids} were of another study, whose results these have replaced\n");
        }
        if let Some(record) = record {
            text += &in_queue(&record);
            if results.as_deref().is_some_and(|results| record.is_changed(&results.join("jobs"))) {
                let recipe = &record.asked.recipe;
                text += &format!(
                    "{recipe} was changed since it was submitted: this is of what it says now, and workers end\n"
                );
            }
        }
        print(&text)
    }

    fn studied(&self) -> Result<Studied> {
        if !self.study.is_dir() {
            // No recipe has such a name; one that is not there is searched for by its own.
            let is_of_results = self.study.extension().is_none() && self.study.components().count() > 1;
            if is_of_results && !self.study.exists() && bundled::recipe(&self.study).is_none() {
                ensure_has_results(&self.study)?;
            }
            return Studied::of(&recipe::found(self.study.clone()), &self.set, self.machinery.cache(), None);
        }
        let submitted = Record::read(&self.study.join("jobs"))?;
        let (replaced, record) = match submitted {
            Some(record) if is_replaced(&record, &self.study) => (Some(record), None),
            record => (None, record),
        };
        if let Some(record) = record {
            let asked = &record.asked;
            let results = self.study.canonicalize().with_context(|| format!("the folder {}", self.study.display()))?;
            // Its relative paths start where it was submitted.
            std::env::set_current_dir(&asked.folder).with_context(|| format!("the folder {}", asked.folder))?;
            let cache = Cache::in_dir(&expanded(asked.cache.as_ref()));
            let (path, set) = (PathBuf::from(&asked.recipe), asked.set.clone());
            let studied = Studied::of(&path, &set, cache, Some(record))?;
            return Ok(Studied { results: Some(results), ..studied });
        }
        let (shown, run) = (self.study.display(), self.study.join("run.json"));
        if !run.is_file() {
            let said =
                format!("{shown} has neither jobs/submitted.json nor run.json: nothing was submitted or run into it");
            return Err(Fault(format!("{said}\n       = `calipr status RECIPE` asks for what other workers do")).into());
        }
        ensure!(
            self.set.is_empty(),
            Fault(format!("--set: the recipe in {} has all of its keys; leave it out", run.display()))
        );
        let manifest = Manifest::read(&self.study)?;
        let library = manifest.library(&self.study, None);
        let (layers, cache) = (Layers::nowhere(&run), self.machinery.cache());
        let results = Some(self.study.clone());
        Ok(Studied { recipe: manifest.recipe, layers, library, cache, record: None, replaced, results })
    }
}

impl Studied {
    fn of(path: &Path, set: &[String], cache: Cache, record: Option<Record>) -> Result<Self> {
        let (recipe, layers) = Recipe::load(path, set)?;
        let library = Library::of_recipe(path);
        Ok(Self { recipe, layers, library, cache, record, replaced: None, results: None })
    }

    /// How its cells stand, by the cache and by the tables, where there are some.
    fn standings(&self, tables: Option<&Tables>) -> Result<Vec<Standing>> {
        let Self { recipe, layers, library, cache, .. } = self;
        let fetcher = Fetcher { cache: cache.dir().to_owned(), offline: true };
        let are_local = Inputs::are_local(recipe, library, &fetcher).at(|| {
            "the model and the data tell what cells are called in the cache; `calipr status RECIPE` looks for them from the \
             recipe's folder"
                .into()
        })?;
        ensure!(
            are_local,
            "the model or data are not here, without which nobody knows what the study's cells are called in the cache"
        );
        let kind = recipe.model.device.kind()?;
        let inputs = Inputs::resolve(recipe, layers, library, &fetcher, kind)?;
        let (keys, me) = (Keys::of(recipe, &inputs), Claimant::this());
        let of = |cell: &Cell| stands(cell, &keys.of_cell(cell), cache, &me);
        let mut standings: Vec<Standing> = cells(recipe).iter().map(of).collect();
        let Some(tables) = tables else { return Ok(standings) };
        // What is nobody's in the cache may be done all the same, where the cache is another or has made room.
        let (done, failed) = (tables.done(), tables.failed());
        for standing in standings.iter_mut().filter(|standing| standing.state == State::Free) {
            let why = failed.iter().find(|(cell, _)| *cell == standing.cell).map(|(_, why)| why.clone());
            match why {
                Some(why) => standing.state = State::Failed(why),
                None if done.contains(&standing.cell) => standing.state = State::Done,
                None => {}
            }
        }
        Ok(standings)
    }
}

/// Whether the folder of results has another study by now than the one that was submitted: one that was written later, and is
/// neither what the recipe says now nor what it said then.
fn is_replaced(record: &Record, results: &Path) -> bool {
    let (jobs, asked) = (results.join("jobs"), &record.asked);
    let written = |path: PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
    let is_later =
        written(results.join("run.json")).zip(written(jobs.join(Record::FILE))).is_some_and(|(run, then)| run > then);
    let Some(manifest) = Manifest::read(results).ok().filter(|_| is_later) else { return false };
    let submitted = [Path::new(&asked.folder).join(&asked.recipe), jobs.join(Record::RECIPE)];
    !submitted.iter().any(|path| Recipe::load(path, &asked.set).is_ok_and(|(recipe, _)| recipe == manifest.recipe))
}

/// How a cell stands: by its results, where they are seen here, else by who has claimed it.
fn stands(cell: &Cell, keys: &CellKeys, cache: &Cache, me: &Claimant) -> Standing {
    let is_finished = keys.is_finished(cache);
    let claim = cache.claims().state(keys.claimed_as());
    let took = |note: serde_json::Value| {
        let spent: Spent = serde_json::from_value(note).ok()?;
        Some(spent.seconds.total())
    };
    let (state, seconds) = match claim.map(|claim| (claim.ended, claim.by)) {
        Some((Some(Ended::Done { note }), _)) => (State::Done, took(note)),
        _ if is_finished => (State::Done, None),
        Some((Some(Ended::Failed { why }), _)) => (State::Failed(why), None),
        Some((None, by)) if by.as_ref().is_none_or(|by| !by.has_ended(me)) => {
            (State::Held(by.as_ref().map(holder)), by.as_ref().map(since))
        }
        _ => (State::Free, None),
    };
    Standing { cell: cell.id(), method: method(cell), state, seconds }
}

/// What cells that take about as long have in common.
fn method(cell: &Cell) -> String {
    cell.pruning().map_or("dense", |pruning| pruning.method.as_str()).into()
}

fn holder(by: &Claimant) -> Holder {
    Holder { host: by.host.clone(), pid: by.pid, job: by.job.clone() }
}

/// For how many seconds it has had its claim, as far as clocks agree.
fn since(by: &Claimant) -> f64 {
    clock::now().as_secs().saturating_sub(by.since) as f64
}

/// The tables of a study in its folder of results.
struct Tables<'a> {
    results: &'a Path,
    manifest: Manifest,
}

impl<'a> Tables<'a> {
    /// None where the folder has those of another study, or none.
    fn of(results: &'a Path, recipe: &Recipe) -> Option<Self> {
        let manifest = Manifest::read(results).ok().filter(|manifest| manifest.recipe == *recipe)?;
        Some(Self { results, manifest })
    }

    /// Whether they have all cells.
    fn are_whole(&self) -> bool {
        self.manifest.cells.done == self.manifest.cells.planned
    }

    /// The cells that they have.
    fn done(&self) -> Vec<String> {
        done_cells(self.results, &self.manifest).iter().map(Cell::id).collect()
    }

    /// All cells, done.
    fn standings(&self, recipe: &Recipe) -> Vec<Standing> {
        let done = |cell: &Cell| Standing { cell: cell.id(), method: method(cell), state: State::Done, seconds: None };
        cells(recipe).iter().map(done).collect()
    }

    /// The cells that failed in the run that wrote them, and why: it keeps no claim on them.
    fn failed(&self) -> Vec<(String, String)> {
        if self.manifest.cells.failed == 0 {
            return vec![];
        }
        let report = Report::read(self.results, &Wanted { count: 0, ..Wanted::default() });
        report.map_or(vec![], |report| report.failed.into_iter().map(|failed| (failed.cell, failed.error)).collect())
    }
}

/// What the engine says of the jobs.
fn in_queue(record: &Record) -> String {
    let name = record.engine.as_str();
    match waiting(record) {
        Ok(waiting) if waiting.is_empty() => format!("{name}: no job of it waits or runs\n"),
        Ok(waiting) => {
            let said: Vec<String> = waiting.iter().map(|w| format!("job {}: {} {}", w.job, w.tasks, w.state)).collect();
            format!("{name}: {}\n", said.join(", "))
        }
        Err(error) => format!("{name} cannot be asked: {error:#}\n"),
    }
}
