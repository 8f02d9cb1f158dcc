//! Running a study to its tables, for every command that does.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Error, Result};

use super::export;
use super::line::Line;
use super::room::{self, Keeper, Said};
use super::terminal::Terminal;
use crate::data::Library;
use crate::guard;
use crate::model::device;
use crate::pipeline::{
    Cache, CellRecord, Forecast, Hold, Inputs, Judges, Limit, Outcome, Room, Status, Study, Watch, plan,
};
use crate::recipe::{Cell, Layers, Recipe, cells};
use crate::results::{Finished, Intended, Manifest, Results};
use crate::source::Fetcher;
use crate::warnings::Warnings;

/// A study, and where all of it lies.
pub struct Runner<'a> {
    pub recipe: &'a Recipe,
    pub layers: &'a Layers,
    /// The recipe's file.
    pub path: &'a Path,
    /// Where its data sets and relative paths are looked for.
    pub library: &'a Library,
    pub fetcher: &'a Fetcher,
    pub cache: &'a Cache,
    /// What the cache may hold.
    pub limit: &'a Limit,
    pub out: &'a Path,
    /// Whether another study's results there are overwritten.
    pub replaces: bool,
    pub terminal: &'a Terminal,
}

/// What is done of a study, and its tables.
struct Board<'a> {
    results: Results,
    manifest: Manifest,
    /// When the run began.
    started: Instant,
    warnings: &'a Warnings,
    hold: Option<Hold>,
    keeper: Keeper<'a>,
    finished: Vec<Option<Finished>>,
    /// Whether the tables have all of them.
    is_written: bool,
    /// Cells that nobody has taken yet.
    waiting: VecDeque<usize>,
    /// Why the study ends before its last cell.
    error: Option<Error>,
    study: &'a Study<'a>,
    judges: &'a Judges<'a>,
    cells: &'a [Cell],
}

impl Runner<'_> {
    /// Runs what is not done, cell by cell, as many at once as there are devices, and writes the tables after each.
    ///
    /// # Errors
    /// What is no fault of a cell. Cells that fail are counted in the manifest.
    pub fn run(&self) -> Result<Manifest> {
        let Self { recipe, library, cache, limit, terminal, .. } = *self;
        let started = Instant::now();
        // A cache that cannot be written to holds nothing; whether that matters shows where something is to be kept.
        let mut hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        let devices = recipe.model.device.open()?;
        let inputs = Inputs::resolve(recipe, self.layers, library, self.fetcher, device::kind(&devices[0]))?;
        export::check(recipe, &inputs.model)?;
        let judges = Judges::open(recipe, cache, self.fetcher.offline)?;
        let intended = Intended { recipe, library, inputs: Some(&inputs) };
        let check = || if self.replaces { Ok(()) } else { intended.check(self.out) };
        check()?;
        let cells = cells(recipe);
        let lines: Vec<Line> = devices.iter().map(|_| terminal.line()).collect();
        let studies: Vec<Study> = (devices.iter().cloned().zip(&lines))
            .map(|(device, line)| Study::open(recipe, &inputs, cache, device, line))
            .collect::<Result<_>>()?;
        let study = &studies[0];
        let results = Results::create(self.out)?;
        check()?; // once more, now that nobody else writes there
        let manifest = Manifest::new(recipe, self.path, library, study, &devices, self.out)?;
        results.begin(&manifest, self.replaces)?;

        // What is finished goes into the tables first, so that going on with a study never shrinks them.
        let mut outcomes: Vec<Option<Outcome>> = cells.iter().map(|cell| study.finished(cell)).collect();
        let is_done: Vec<bool> = outcomes.iter().map(Option::is_some).collect();
        for (i, outcome) in outcomes.iter().enumerate() {
            outcome.iter().for_each(|outcome| lines[0].cell_ends(i + 1, cells.len(), outcome, true));
        }
        if let Some(hold) = &mut hold {
            let unfinished = cells.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_none());
            hold.keep(study.entries())?;
            hold.keep(unfinished.flat_map(|(cell, _)| study.progress_entries(cell)))?;
        }
        let plan = plan(recipe, Some(&inputs), cache);
        room::warn(&Room::of(&plan, cache, limit, self.out), cache);
        terminal.expect(Forecast::new(&plan, &is_done, lines.len()));
        let of_cells = cells.iter().flat_map(|cell| study.progress_entries(cell));
        let own = cache.note_study(&recipe.name, self.out, study.entries().into_iter().chain(of_cells));
        let own = own.inspect_err(|e| tracing::debug!("the study is not noted in the cache: {e:#}")).ok();
        let mut keeper = Keeper { cache, limit, own, said: Said::default() };
        keeper.make_room();

        // Better now than when the first cell is computed; a study that is finished may have no questions left.
        if is_done.contains(&false) {
            judges.reach()?;
        }
        // All others are compared with the dense cell.
        let mut dense = match outcomes[0].take() {
            Some(dense) => dense,
            None => run_cell(study, &lines[0], &cells, 0, 0)?,
        };
        let dense_failed = matches!(dense.record.status, Status::Failed(_));
        judges.judge(study.materials(), &mut dense)?;
        outcomes.iter_mut().flatten().try_for_each(|outcome| judges.judge(study.materials(), outcome))?;
        let dense = Finished::new(recipe, study.materials(), dense, None);
        let finish = |outcome| Finished::new(recipe, study.materials(), outcome, Some(&dense));
        let mut finished: Vec<Option<Finished>> = outcomes.drain(..).map(|outcome| Some(finish(outcome?))).collect();
        finished[0] = Some(dense);
        let waiting = (1..cells.len()).filter(|&i| finished[i].is_none()).collect();
        let warnings = terminal.warnings();
        let error = None;
        let mut board = Board {
            results,
            manifest,
            started,
            warnings,
            hold,
            keeper,
            finished,
            is_written: false,
            waiting,
            error,
            study,
            judges: &judges,
            cells: &cells,
        };
        board.write()?;
        if dense_failed {
            while let Some(i) = board.waiting.pop_front() {
                board.add(i, not_run(&cells[i]), self)?;
            }
        }

        let board = Mutex::new(board);
        thread::scope(|scope| {
            for (study, line) in studies.iter().zip(&lines).skip(1) {
                let worked =
                    guard::thread().and_then(|thread| thread.spawn_scoped(scope, || self.work(study, line, &board)));
                if let Err(error) = worked {
                    locked(&board).stop(Error::new(error).context("a thread for another device"));
                }
            }
            self.work(study, &lines[0], &board);
        });
        let mut board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = board.error {
            terminal.clear();
            return Err(error);
        }
        if !board.is_written {
            board.write()?;
        }
        board.manifest.finish();
        board.write_manifest()?;
        Ok(board.manifest)
    }

    /// Runs cells on a device until none waits.
    fn work(&self, study: &Study, line: &Line, board: &Mutex<Board>) {
        loop {
            let (next, done, cells, judges) = {
                let mut board = locked(board);
                (board.waiting.pop_front(), board.finished.iter().flatten().count(), board.cells, board.judges)
            };
            let Some(i) = next else { return };
            let outcome = run_cell(study, line, cells, i, done).and_then(|mut outcome| {
                judges.judge(study.materials(), &mut outcome)?;
                Ok(outcome)
            });
            let mut board = locked(board);
            if let Err(error) = outcome.and_then(|outcome| board.add(i, outcome, self)) {
                return board.stop(error);
            }
        }
    }
}

/// Nothing that holds the board leaves it half changed.
fn locked<'a, 'b>(board: &'a Mutex<Board<'b>>) -> MutexGuard<'a, Board<'b>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board<'_> {
    /// Adds a cell that has ended, to the tables too.
    fn add(&mut self, i: usize, outcome: Outcome, runner: &Runner) -> Result<()> {
        self.finished[i] =
            Some(Finished::new(runner.recipe, self.study.materials(), outcome, self.finished[0].as_ref()));
        self.is_written = false;
        if self.results.is_due() {
            self.write()?;
        }
        if let Some(hold) = &mut self.hold {
            hold.release(self.study.progress_entries(&self.cells[i]))?;
        }
        self.keeper.make_room();
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.results.write(self.study, &done)?;
        self.is_written = true;
        self.write_manifest()
    }

    fn write_manifest(&mut self) -> Result<()> {
        let done: Vec<&Finished> = self.finished.iter().flatten().collect();
        self.manifest.note(&done, self.started.elapsed().as_secs_f64(), self.warnings.all());
        self.results.write_manifest(&self.manifest)
    }

    /// No further cell begins; the first reason is the one to tell.
    fn stop(&mut self, error: Error) {
        self.waiting.clear();
        self.error.get_or_insert(error);
    }
}

fn run_cell(study: &Study, line: &Line, cells: &[Cell], i: usize, done: usize) -> Result<Outcome> {
    line.cell_begins(i + 1, cells.len(), &cells[i].id());
    let outcome = study
        .run(&cells[i])
        .with_context(|| format!("{done} of {} cells are done; the same command goes on from there", cells.len()))?;
    line.cell_ends(i + 1, cells.len(), &outcome, false);
    Ok(outcome)
}

/// A cell of a study whose dense model fails.
fn not_run(cell: &Cell) -> Outcome {
    let status = Status::Failed("not run: the dense model fails, and nothing can be compared with it".into());
    let record = CellRecord { cell: cell.clone(), status, pruned: None, errors: None };
    Outcome { record, suites: Default::default(), spent: None }
}
