//! A study as a library call: a recipe in, tables out.
//!
//! [`Run`] is the front door. `queue.rs` says who runs which cell, `working.rs` is a device that does, `board.rs` has the
//! finished ones and writes the tables, `tenant.rs` keeps the study's place in the cache.

mod board;
mod queue;
pub mod room;
mod tenant;
mod working;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use rayon::prelude::*;

use crate::data::Library;
use crate::model::device;
use crate::pipeline::{
    Accounts, Cache, Forecast, Inputs, Interrupted, Judges, Limit, Machine, Outcome, Room, Status, Study, Unseen,
    Watch, check_data, check_export, plan,
};
use crate::recipe::{Cell, Layers, Recipe, cells, found};
use crate::results::{Intended, Manifest, Results, ensure_can_be_named};
use crate::size::Size;
use crate::source::Fetcher;
pub use board::Board;
use queue::Patience;
pub use room::{ago, gone};
pub use tenant::Tenant;
use working::{Working, finished as finished_before};

/// What shows a study while it runs.
pub trait Screen: Sync {
    /// Follows one device.
    fn watch(&self) -> Box<dyn Watch>;
    /// Hears what the study will take.
    fn expect(&self, forecast: Forecast);
    /// What was warned of so far.
    fn warnings(&self) -> Vec<String>;
}

impl Screen for Unseen {
    fn watch(&self) -> Box<dyn Watch> {
        Box::new(Unseen)
    }

    fn expect(&self, _: Forecast) {}

    fn warnings(&self) -> Vec<String> {
        vec![]
    }
}

/// Where a run keeps what it computes and fetches, and whether it fetches.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of fetched models and cached stages.
    pub cache: PathBuf,
    /// What that folder may hold; where nothing is said, the environment, the cache's own file or a default does.
    pub size: Option<Size>,
    /// Never reach out to a network.
    pub offline: bool,
}

impl Default for Place {
    /// As `calipr run` has it, where nothing else is said.
    fn default() -> Self {
        Self { cache: Cache::default_dir(), size: None, offline: false }
    }
}

/// A study to be run, and where all of it lies.
pub struct Run {
    pub recipe: Recipe,
    pub layers: Layers,
    /// The recipe's file.
    pub path: PathBuf,
    /// Where its data sets and relative paths are looked for.
    pub library: Library,
    pub fetcher: Fetcher,
    pub cache: Cache,
    /// What the cache may hold.
    pub limit: Limit,
}

/// What is found of a study before it is run.
pub struct Checked<'a> {
    /// None where the model or data are not all here yet.
    pub inputs: Option<Inputs>,
    pub judges: Judges<'a>,
}

/// What a worker has seen of a study's cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Worked {
    /// Those that it ran.
    pub ran: usize,
    /// Those of them that failed, or were not run because the dense cell fails.
    pub failed: usize,
}

/// Cells whose results are read from the cache together.
const TOGETHER: usize = 64;

impl Run {
    /// The study of a recipe: a TOML file, or the name of one that comes with calipr. `set` are keys over the file's and the
    /// environment's, as `--set` has them: `grid.sparsity=[0.7]`.
    ///
    /// # Errors
    /// All that is wrong with the recipe, each with its place.
    pub fn of(recipe: &Path, set: &[String], place: &Place) -> Result<Self> {
        let path = found(recipe.to_owned());
        let (recipe, layers) = Recipe::load(&path, set)?;
        let cache = Cache::in_dir(&place.cache);
        let limit = cache.limit(place.size)?;
        let fetcher = Fetcher { cache: place.cache.clone(), offline: place.offline };
        Ok(Self { recipe, layers, library: Library::of_recipe(&path), path, fetcher, cache, limit })
    }

    /// Refuses what running would refuse, as far as can be seen without fetching anything: `kind` asks for that of the
    /// device. Results of another study in `out` are in the way, where a folder is given.
    ///
    /// # Errors
    /// What is wrong with the inputs, or in the way.
    pub fn check(&self, out: Option<&Path>, kind: impl FnOnce() -> Result<&'static str>) -> Result<Checked<'_>> {
        let Self { recipe, layers, library, fetcher, cache, .. } = self;
        ensure_can_be_named(&self.path)?;
        let is_here = Inputs::are_local(recipe, library, fetcher)?;
        let kind = kind()?;
        let inputs = is_here.then(|| Inputs::resolve(recipe, layers, library, fetcher, kind)).transpose()?;
        if let Some(out) = out {
            Intended { recipe, library, inputs: inputs.as_ref() }.check(out)?;
        }
        if let Some(inputs) = &inputs {
            check_export(recipe, &inputs.model)?;
            check_data(recipe, inputs, cache)?;
        }
        let judges = Judges::open(recipe, cache, fetcher.offline)?;
        Ok(Checked { inputs, judges })
    }

    /// Runs what is not done, cell by cell, as many at once as there are devices, and writes the tables into `out` as often as that
    /// costs little: in a small study after each. Another study's results there are overwritten only where it `replaces` them. What
    /// workers have, it waits for.
    ///
    /// # Errors
    /// What is no fault of a cell. Cells that fail are counted in the manifest.
    pub fn to_tables(&self, out: &Path, replaces: bool, screen: &dyn Screen) -> Result<Manifest> {
        let Self { recipe, library, cache, .. } = self;
        let started = Instant::now();
        let results = Results::create(out)?;
        let mut tenant = Tenant::new(cache, &self.limit);
        let devices = recipe.model.device.open()?;
        let inputs = self.inputs(&devices)?;
        let judges = Judges::open(recipe, cache, self.fetcher.offline)?;
        if !replaces {
            Intended { recipe, library, inputs: Some(&inputs) }.check(out)?;
        }
        let cells = cells(recipe);
        let watches: Vec<Box<dyn Watch>> = devices.iter().map(|_| screen.watch()).collect();
        let studies = self.studies(&inputs, &devices, &watches)?;
        let study = &studies[0];
        let manifest = Manifest::new(recipe, &self.path, library, study, &devices, out)?;
        results.begin(&manifest, replaces)?;

        let is_done: Vec<bool> = cells.iter().map(|cell| study.is_finished(cell)).collect();
        let accounts = self.expect(&inputs, &judges, &is_done, &devices, out, screen)?;
        let hearing = screen.watch();
        tenant.enters(study, &cells, &is_done, Some(out))?;
        // Better now than when the first cell is computed; a study that is finished may have no questions left.
        if is_done.contains(&false) {
            judges.reach()?;
        }
        let finished = cells.iter().map(|_| None).collect();
        let mut board =
            Board { study, results, manifest, started, screen, tenant, accounts, finished, is_written: false };
        // What is finished goes into the tables first, so that going on with a study never shrinks them. All is compared with
        // the dense cell: without it, the others come after.
        for first in (0..cells.len()).step_by(TOGETHER).filter(|_| is_done[0]) {
            let some = &cells[first..cells.len().min(first + TOGETHER)];
            let found: Vec<Option<Outcome>> = some.par_iter().map(|cell| finished_before(study, cell)).collect();
            if first == 0 && found[0].is_none() {
                break;
            }
            for (i, outcome) in found.into_iter().enumerate() {
                let Some(mut outcome) = outcome else { continue };
                watches[0].cell_ends(first + i + 1, cells.len(), &outcome, true);
                judges.judge(study.materials(), &mut outcome, (first + i + 1, cells.len()), &*hearing)?;
                board.note(first + i, outcome);
            }
        }
        if board.finished[0].is_some() {
            board.write()?;
        }
        let waiting: Vec<usize> = (0..cells.len()).filter(|&i| board.finished[i].is_none()).collect();

        let board = Mutex::new(board);
        let board_now = || board.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = self.workers(&studies, &watches, &cells, Patience::ForAll);
        let ran = queue::run(&workers, waiting, Patience::ForAll, |i, mut outcome| {
            judges.judge(study.materials(), &mut outcome, (i + 1, cells.len()), &*hearing)?;
            board_now().add(i, outcome)
        });
        let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ran {
            let progress =
                format!("{} of {} cells are done; the same command goes on from there", board.ended(), cells.len());
            if error.is::<Interrupted>() {
                board.leave();
            }
            return Err(error.context(progress));
        }
        let manifest = board.finish()?;
        // Whoever looks for a cell finds it in the cache.
        cache.claims().forget(&study.claimed());
        Ok(manifest)
    }

    /// Runs cells that nobody has, one after the other, into the cache, from which [`Run::to_tables`] takes them: as one of any
    /// number of workers on machines that share it. Ends when there is none left to take; what others have, it does not wait for.
    ///
    /// # Errors
    /// What is no fault of a cell.
    pub fn to_cache(&self, screen: &dyn Screen) -> Result<Worked> {
        let Self { recipe, cache, .. } = self;
        let mut tenant = Tenant::new(cache, &self.limit);
        let devices = recipe.model.device.open()?;
        let inputs = self.inputs(&devices)?;
        let cells = cells(recipe);
        let watches: Vec<Box<dyn Watch>> = devices.iter().map(|_| screen.watch()).collect();
        let studies = self.studies(&inputs, &devices, &watches)?;
        let study = &studies[0];
        let is_done: Vec<bool> = cells.iter().map(|cell| study.is_finished(cell)).collect();
        tenant.enters(study, &cells, &is_done, None)?;
        // Workers begin at different cells, so that they seldom want the same.
        let mut waiting: Vec<usize> = (0..cells.len()).filter(|&i| !is_done[i]).collect();
        let from = waiting.first().map_or(0, |&first| usize::from(first == 0));
        let others = &mut waiting[from..];
        if !others.is_empty() {
            others.rotate_left(std::process::id() as usize % others.len());
        }
        let workers = self.workers(&studies, &watches, &cells, Patience::ForWork);
        let (worked, tenant) = (Mutex::new(Worked::default()), Mutex::new(tenant));
        queue::run(&workers, waiting, Patience::ForWork, |i, outcome| {
            let mut worked = worked.lock().unwrap_or_else(PoisonError::into_inner);
            worked.ran += usize::from(outcome.spent.is_some());
            worked.failed += usize::from(matches!(outcome.record.status, Status::Failed(_)));
            tenant.lock().unwrap_or_else(PoisonError::into_inner).leaves(study, &cells[i])
        })?;
        Ok(worked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model and the data, which are all here then and fit together.
    fn inputs(&self, devices: &[Device]) -> Result<Inputs> {
        let Self { recipe, layers, library, fetcher, .. } = self;
        let inputs = Inputs::resolve(recipe, layers, library, fetcher, device::kind(&devices[0]))?;
        check_export(recipe, &inputs.model)?;
        Ok(inputs)
    }

    /// Says what the study will take, and where it will not find room; what is known of that is compared with what it takes.
    fn expect(
        &self,
        inputs: &Inputs,
        judges: &Judges,
        is_done: &[bool],
        devices: &[Device],
        out: &Path,
        screen: &dyn Screen,
    ) -> Result<Accounts> {
        let plan = plan(&self.recipe, Some(inputs), &self.cache);
        room::warn(&Room::of(&plan, &self.cache, &self.limit, out), &self.cache);
        let judging = judges.expected(&self.recipe, inputs)?;
        screen.expect(Forecast::new(&plan, is_done, devices.len()).with_judges(judging));
        let machine = Machine::here(&devices[0], self.recipe.model.dtype.into());
        Ok(Accounts::open(&plan, &self.cache, machine, inputs.spec.hidden))
    }

    /// The study on each device: the first reads what all share.
    fn studies<'a>(
        &'a self,
        inputs: &'a Inputs,
        devices: &[Device],
        watches: &'a [Box<dyn Watch>],
    ) -> Result<Vec<Study<'a>>> {
        let mut studies: Vec<Study> = Vec::new();
        for (device, watch) in devices.iter().zip(watches) {
            let study = match studies.first() {
                None => Study::open(&self.recipe, inputs, &self.cache, device.clone(), &**watch)?,
                Some(first) => first.on(device.clone(), &**watch)?,
            };
            studies.push(study);
        }
        Ok(studies)
    }

    fn workers<'a>(
        &'a self,
        studies: &'a [Study<'a>],
        watches: &'a [Box<dyn Watch>],
        cells: &'a [Cell],
        patience: Patience,
    ) -> Vec<Working<'a>> {
        let watches = watches.iter().map(|watch| &**watch);
        let worker = |(study, watch)| Working { study, watch, cells, patience };
        studies.iter().zip(watches).map(worker).collect()
    }
}
