//! `calipr status`

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::terminal::columns;
use super::{Machinery, print};
use crate::cluster::{Holder, Record, Standing, State, standing, waiting};
use crate::data::Library;
use crate::fault::Fault;
use crate::pipeline::{Cache, CellKeys, Claimant, Ended, Inputs, Keys, Spent};
use crate::recipe::{self, Cell, Recipe, cells};
use crate::source::{Fetcher, expanded};

#[derive(Args)]
pub struct StatusArgs {
    /// The folder of results of a study that was submitted; or a recipe, as its workers have it.
    study: PathBuf,
    /// Keys of the recipe that the workers' --set sets.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    machinery: Machinery,
}

/// A study, as its workers have it.
struct Studied {
    recipe: PathBuf,
    set: Vec<String>,
    cache: Cache,
    /// What was submitted; None of workers that others have started.
    record: Option<Record>,
}

impl StatusArgs {
    /// Says what is done, what runs where, what failed, and how long it will take.
    pub fn status(&self) -> Result<()> {
        let Studied { recipe: path, set, cache, record } = self.studied()?;
        let (recipe, layers) = Recipe::load(&path, &set)?;
        let _terminal = self.machinery.start()?;
        let library = Library::of_recipe(&path);
        let fetcher = Fetcher { cache: cache.dir().to_owned(), offline: true };
        ensure!(
            Inputs::are_local(&recipe, &library, &fetcher)?,
            "the model or data are not here, without which nobody knows what the study's cells are called in the cache"
        );
        let kind = recipe.model.device.kind()?;
        let inputs = Inputs::resolve(&recipe, &layers, &library, &fetcher, kind)?;
        let (keys, me) = (Keys::of(&recipe, &inputs), Claimant::this());
        let of = |cell: &Cell| stands(cell, &keys.of_cell(cell), &cache, &me);
        let standings: Vec<Standing> = cells(&recipe).iter().map(of).collect();
        let mut text = standing(&recipe.name, &standings, columns());
        if let Some(record) = record {
            text += &in_queue(&record);
        }
        print(&text)
    }

    fn studied(&self) -> Result<Studied> {
        if !self.study.is_dir() {
            let recipe = recipe::found(self.study.clone());
            return Ok(Studied { recipe, set: self.set.clone(), cache: self.machinery.cache(), record: None });
        }
        let shown = self.study.display();
        let Some(record) = Record::read(&self.study.join("jobs"))? else {
            let said = format!("{shown} has no jobs/submitted.json: nothing was submitted to it");
            return Err(Fault(format!("{said}\n       = `calipr status RECIPE` asks for what other workers do")).into());
        };
        let asked = &record.asked;
        // Its relative paths start where it was submitted.
        std::env::set_current_dir(&asked.folder).with_context(|| format!("the folder {}", asked.folder))?;
        let cache = Cache::in_dir(&expanded(asked.cache.as_ref()));
        Ok(Studied { recipe: asked.recipe.clone().into(), set: asked.set.clone(), cache, record: Some(record) })
    }
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
    let method = cell.pruning().map_or("dense", |pruning| pruning.method.as_str());
    Standing { cell: cell.id(), method: method.into(), state, seconds }
}

fn holder(by: &Claimant) -> Holder {
    Holder { host: by.host.clone(), pid: by.pid, job: by.job.clone() }
}

/// For how many seconds it has had its claim, as far as clocks agree.
fn since(by: &Claimant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.saturating_sub(by.since) as f64
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
