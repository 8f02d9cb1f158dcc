//! How much time a study will still take: the work that its plan knows of, at the pace of what this run has finished.
//!
//! A cell goes through up to three legs: the walk over the blocks, scores, and answers. A leg to come takes as long for its
//! work as legs like it took in this run; a walk on its way as long for each block that is left as for those behind it.
//! As long as nothing like it was seen, its work is taken to go at the pace of other walks, and the whole is said to be
//! rough. Cells that the cache had are no part of this, but for what judges are still asked about them (`judging.rs`); cells on
//! several devices run side by side.

mod judging;
mod left;

use std::collections::BTreeMap;
use std::ops::Add;

use super::cache::Stage;
use super::plan::{Plan, PlannedCell, PlannedStage};
use crate::prune::MethodName;
use crate::recipe::Cell;
pub use judging::Judging;
pub use left::{Doing, Left};

/// Legs of a kind are expected to keep the same pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Whether it prunes or finds its blocks pruned, and whether it gathers what other cells then share.
    Walk {
        method: Option<MethodName>,
        prunes: bool,
        calibrates: bool,
    },
    /// The dense model is compared with nothing.
    Score {
        dense: bool,
    },
    Generate,
}

impl Kind {
    fn is_of(self, doing: Doing) -> bool {
        match doing {
            Doing::Read | Doing::Prune | Doing::Evaluate => matches!(self, Self::Walk { .. }),
            Doing::Score => matches!(self, Self::Score { .. }),
            Doing::Generate => self == Self::Generate,
            Doing::Judge => false,
        }
    }
}

/// A part of a cell, with its work in floating-point operations where that is known.
#[derive(Debug, Clone, Copy)]
struct Leg {
    kind: Kind,
    work: Option<f64>,
}

/// What legs of a kind took.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    seconds: f64,
    work: f64,
    /// How many legs these were; a part of one where another run had begun it.
    legs: f64,
}

impl Pace {
    /// What a leg of so much work takes.
    fn of(self, work: Option<f64>) -> f64 {
        match work.filter(|&work| work > 0.0 && self.work > 0.0) {
            Some(work) => self.seconds / self.work * work,
            None => self.seconds / self.legs,
        }
    }
}

#[derive(Debug)]
enum State {
    Waiting,
    Running(Running),
    Done,
}

/// Where a cell is.
#[derive(Debug, Clone, Copy)]
struct Running {
    /// The leg, and when it began.
    leg: usize,
    began: f64,
    /// How much of it was done when it was first heard of, and when that was.
    first: Option<(usize, f64)>,
    /// How much of it is done by now, of how much, and since when.
    last: (usize, usize, f64),
}

impl Running {
    fn begins(leg: usize, now: f64) -> Self {
        Self { leg, began: now, first: None, last: (0, 0, now) }
    }

    /// Seconds for each part of the leg that is behind.
    fn pace(&self) -> Option<f64> {
        let ((first, since), (last, _, until)) = (self.first?, self.last);
        (last > first).then(|| (until - since) / (last - first) as f64)
    }

    /// The share of the leg that this run has to do.
    fn share(&self) -> f64 {
        let first = self.first.map_or(0, |(first, _)| first);
        if self.last.1 > 0 { 1.0 - first as f64 / self.last.1 as f64 } else { 1.0 }
    }
}

struct Tracked {
    legs: Vec<Leg>,
    state: State,
}

/// What a study will still take. Times are seconds since whatever moment, always the same.
pub struct Forecast {
    /// The cells in the order in which they run.
    cells: Vec<Tracked>,
    devices: usize,
    seen: BTreeMap<Kind, Pace>,
    judging: Judging,
}

impl Forecast {
    /// Of a planned study whose `finished` cells are not run, on so many devices.
    pub fn new(plan: &Plan, finished: &[bool], devices: usize) -> Self {
        let tracked = |(i, cell): (usize, &PlannedCell)| Tracked {
            legs: legs(cell),
            state: if finished.get(i) == Some(&true) { State::Done } else { State::Waiting },
        };
        let cells = plan.cells.iter().enumerate().map(tracked).collect();
        Self { cells, devices: devices.max(1), seen: BTreeMap::new(), judging: Judging::default() }
    }

    /// The same, where judges are asked about cells, those that are finished among them.
    pub fn with_judges(self, judging: Judging) -> Self {
        Self { judging, ..self }
    }

    /// Of texts that are written before the cells of a study, as if they were the answers of one cell.
    pub fn of_texts() -> Self {
        let legs = vec![Leg { kind: Kind::Generate, work: None }];
        let cells = vec![Tracked { legs, state: State::Waiting }];
        Self { cells, devices: 1, seen: BTreeMap::new(), judging: Judging::default() }
    }

    /// A cell begins.
    pub fn begins(&mut self, cell: usize, now: f64) {
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.state = State::Running(Running::begins(0, now));
        }
    }

    /// A cell has got so far with what it is at.
    pub fn progress(&mut self, cell: usize, doing: Doing, (done, of): (usize, usize), now: f64) {
        if doing == Doing::Judge {
            return self.judging.progress(cell, done, now);
        }
        let Some(Tracked { legs, state: State::Running(running) }) = self.cells.get_mut(cell) else { return };
        // A leg that is over may be taken anew, where the cache lost what came of it.
        let Some(leg) = legs.iter().position(|leg| leg.kind.is_of(doing)).filter(|&leg| leg >= running.leg) else {
            return;
        };
        if leg > running.leg {
            let over = std::mem::replace(running, Running::begins(leg, now));
            let over_leg = legs[over.leg];
            self.saw(over_leg, &over, now);
        }
        let Some(Tracked { state: State::Running(running), .. }) = self.cells.get_mut(cell) else { return };
        // Blocks that another run had pruned are read again before the first that is pruned here.
        if doing == Doing::Read {
            return;
        }
        running.first.get_or_insert((done, now));
        if running.last.1 == 0 || done > running.last.0 {
            running.last = (done, of, now);
        }
    }

    /// A cell has ended; only of one that did not fail there is something to learn.
    pub fn ends(&mut self, cell: usize, is_done: bool, now: f64) {
        let Some(tracked) = self.cells.get_mut(cell) else { return };
        if let State::Running(running) = std::mem::replace(&mut tracked.state, State::Done)
            && let Some(&leg) = tracked.legs.get(running.leg).filter(|_| is_done)
        {
            self.saw(leg, &running, now);
        }
    }

    /// So many questions about a cell that has ended begin to be put to judges.
    pub fn judging_begins(&mut self, cell: usize, questions: usize, now: f64) {
        self.judging.begins(cell, questions, now);
    }

    /// They are answered, or will not be.
    pub fn judging_ends(&mut self, cell: usize, now: f64) {
        self.judging.ends(cell, now);
    }

    /// What is left of a cell that runs, or about which judges are asked.
    pub fn left_of(&self, cell: usize, now: f64) -> Left {
        let judging = self.judging.left_of(cell, now);
        let (legs, running) = match self.cells.get(cell) {
            Some(Tracked { legs, state: State::Running(running) }) => (legs, running),
            Some(Tracked { state: State::Done, .. }) => return judging,
            _ => return Left::UNKNOWN,
        };
        let to_come = legs.iter().skip(running.leg + 1).map(|leg| self.of_leg(leg));
        let first = legs.get(running.leg).map_or(Left::NOTHING, |leg| self.of_running(leg, running, now));
        to_come.fold(first + judging, Add::add)
    }

    /// What is left of the study: the dense cell alone, then the others, each on the device that is free first.
    pub fn left(&self, now: f64) -> Left {
        let to_come = |i: usize, cell: &Tracked| {
            cell.legs.iter().map(|leg| self.of_leg(leg)).fold(self.judging.left_of(i, now), Add::add)
        };
        let (mut running, mut waiting, mut dense) = (vec![], vec![], Left::NOTHING);
        for (i, cell) in self.cells.iter().enumerate() {
            match cell.state {
                State::Running(_) | State::Done if i == 0 => dense = self.left_of(0, now),
                State::Waiting if i == 0 => dense = to_come(i, cell),
                // What is done may still be judged.
                State::Running(_) | State::Done => running.push(self.left_of(i, now)),
                State::Waiting => waiting.push(to_come(i, cell)),
            }
        }
        let mut devices = vec![dense; self.devices];
        for cell in running.into_iter().chain(waiting) {
            let free = devices.iter_mut().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("there is a device");
            *free = *free + cell;
        }
        let is_rough = devices.iter().any(|left| left.is_rough);
        Left { seconds: devices.iter().map(|left| left.seconds).fold(0.0, f64::max), is_rough }
    }

    /// What a leg to come takes.
    fn of_leg(&self, leg: &Leg) -> Left {
        if let Some(pace) = self.pace(leg.kind) {
            return Left::about(pace.of(leg.work));
        }
        // Other walks tell how fast products are.
        let walks = self.seen.iter().filter(|(kind, _)| matches!(kind, Kind::Walk { .. })).map(|(_, pace)| *pace);
        let on_their_way =
            self.cells.iter().filter_map(|cell| on_its_way(cell, |kind| matches!(kind, Kind::Walk { .. })));
        let known = walks.chain(on_their_way).filter(|pace| pace.work > 0.0).fold(Pace::default(), |sum, pace| Pace {
            seconds: sum.seconds + pace.seconds,
            work: sum.work + pace.work,
            legs: sum.legs + pace.legs,
        });
        match leg.work.filter(|_| known.work > 0.0) {
            Some(work) => Left { seconds: known.seconds / known.work * work, is_rough: true },
            None => Left::UNKNOWN,
        }
    }

    /// What is left of a leg on its way.
    fn of_running(&self, leg: &Leg, running: &Running, now: f64) -> Left {
        let (done, of, since) = running.last;
        let own = running.pace().map(|pace| {
            let parts = of.saturating_sub(done);
            Left::about(pace * parts.saturating_sub(1) as f64 + (pace - (now - since)).max(0.0) * parts.min(1) as f64)
        });
        let share = running.share();
        let like_others = self.seen.get(&leg.kind).map(|pace| pace.of(leg.work) * share - (now - running.began));
        match (own, like_others) {
            // Answers are decoded side by side, and complete ones come late and all at once.
            (_, Some(left)) if leg.kind == Kind::Generate && left > 0.0 => Left::about(left),
            (Some(own), _) if leg.kind != Kind::Generate || 4 * done >= of => own,
            (_, Some(left)) => Left::about(left),
            (_, None) => {
                let known = self.of_leg(leg);
                Left { seconds: (known.seconds * share - (now - running.began)).max(0.0), is_rough: true }
            }
        }
    }

    /// The pace of a kind of legs: of those that are over, else of one on its way.
    fn pace(&self, kind: Kind) -> Option<Pace> {
        let on_its_way =
            || self.cells.iter().find_map(|cell| on_its_way(cell, |of| of == kind && of != Kind::Generate));
        self.seen.get(&kind).copied().or_else(on_its_way)
    }

    /// Learns from a leg that is over; nothing where another run had done all of it.
    fn saw(&mut self, leg: Leg, running: &Running, now: f64) {
        let share = running.share();
        if running.first.is_none() || share <= 0.0 {
            return;
        }
        let pace = self.seen.entry(leg.kind).or_default();
        pace.seconds += now - running.began;
        pace.work += share * leg.work.unwrap_or(0.0);
        pace.legs += share;
    }
}

/// The pace of the leg that a cell is in, if it is of such a kind and some of it is done.
fn on_its_way(cell: &Tracked, is_wanted: impl Fn(Kind) -> bool) -> Option<Pace> {
    let State::Running(running) = &cell.state else { return None };
    let leg = cell.legs.get(running.leg).filter(|leg| is_wanted(leg.kind))?;
    Some(Pace { seconds: running.pace()? * running.last.1 as f64, work: leg.work.unwrap_or(0.0), legs: 1.0 })
}

/// The legs of a cell that has something to do.
fn legs(cell: &PlannedCell) -> Vec<Leg> {
    let of = |stage: Stage| cell.stages.iter().filter(move |s| s.stage == stage && s.is_to_do());
    let sum = |stages: &mut dyn Iterator<Item = &PlannedStage>, part: fn(&PlannedStage) -> Option<f64>| {
        stages.map(part).try_fold(0.0, |sum, work| Some(sum + work?))
    };
    let walk = Kind::Walk {
        method: cell.cell.pruning().map(|pruning| pruning.method),
        prunes: of(Stage::Pruned).next().is_some(),
        calibrates: of(Stage::Statistic).next().is_some(),
    };
    let walking = |stage: &PlannedStage| Some(stage.work?.walking());
    let after = |stage: &PlannedStage| Some(stage.work?.after());
    let mut legs = vec![Leg { kind: walk, work: sum(&mut cell.stages.iter().filter(|s| s.is_to_do()), walking) }];
    let dense = cell.cell == Cell::Dense;
    for (stage, kind) in [(Stage::Scores, Kind::Score { dense }), (Stage::Answers, Kind::Generate)] {
        if of(stage).next().is_some() {
            legs.push(Leg { kind, work: sum(&mut of(stage), after) });
        }
    }
    legs
}

#[cfg(test)]
mod tests {
    use super::super::plan::Work;
    use super::*;
    use crate::prune::Sparsity;
    use crate::recipe::Pruning;

    fn stage(stage: Stage, cached: bool, walking: f64, after: f64) -> PlannedStage {
        let work = Some(Work { passing: walking, scoring: after, ..Work::default() });
        PlannedStage { name: String::new(), stage, cached: Some(cached), bytes: None, work }
    }

    /// A cell that prunes with 100 operations, passes with 10, scores with 20 and answers with 5; the dense one only passes
    /// and scores.
    fn cell(method: Option<MethodName>) -> PlannedCell {
        let pruning = method.map(|method| Pruning { method, sparsity: Sparsity::Ratio(0.5), calibration: None });
        let dense = [stage(Stage::Teacher, false, 10.0, 0.0), stage(Stage::Scores, false, 0.0, 20.0)];
        let pruned = [
            stage(Stage::Pruned, false, 100.0, 0.0),
            stage(Stage::Scores, false, 10.0, 20.0),
            stage(Stage::Answers, false, 0.0, 5.0),
        ];
        let stages = if method.is_none() { dense.to_vec() } else { pruned.to_vec() };
        PlannedCell {
            id: String::new(),
            cell: pruning.map_or(Cell::Dense, Cell::Pruned),
            stages,
            memory: None,
            begun: false,
        }
    }

    const WANDA: Option<MethodName> = Some(MethodName::Wanda);
    const SPARSEGPT: Option<MethodName> = Some(MethodName::SparseGpt);

    fn study(cells: &[Option<MethodName>], devices: usize) -> Forecast {
        Forecast::new(&Plan { cells: cells.iter().map(|&method| cell(method)).collect() }, &[], devices)
    }

    /// Runs the dense cell, a block a second and then two seconds of scores; when that is over.
    fn run_dense(forecast: &mut Forecast, now: f64) -> f64 {
        forecast.begins(0, now);
        (0..10).for_each(|k| forecast.progress(0, Doing::Evaluate, (k, 10), now + k as f64));
        forecast.progress(0, Doing::Score, (0, 1), now + 10.0);
        forecast.ends(0, true, now + 12.0);
        now + 12.0
    }

    /// Runs a pruned cell: blocks of so many seconds, four seconds of scores and eight of answers.
    fn run(forecast: &mut Forecast, cell: usize, block: f64, now: f64) -> f64 {
        forecast.begins(cell, now);
        for k in 0..10 {
            forecast.progress(cell, Doing::Prune, (k, 10), now + k as f64 * block);
            forecast.progress(cell, Doing::Evaluate, (k, 10), now + (k as f64 + 0.9) * block);
        }
        let walked = now + 10.0 * block;
        forecast.progress(cell, Doing::Score, (0, 1), walked);
        forecast.progress(cell, Doing::Generate, (0, 60), walked + 4.0);
        forecast.ends(cell, true, walked + 12.0);
        walked + 12.0
    }

    fn near(left: Left, seconds: f64, is_sure: bool) {
        assert!((left.seconds - seconds).abs() < 1e-6 && left.is_rough != is_sure, "{left:?}, not {seconds} {is_sure}");
    }

    #[test]
    fn nothing_is_known_until_something_was_seen() {
        let mut forecast = study(&[None, WANDA, SPARSEGPT], 1);
        assert_eq!(forecast.left(0.0).to_string(), "?");
        forecast.begins(0, 0.0);
        forecast.progress(0, Doing::Evaluate, (0, 10), 0.0);
        assert_eq!((forecast.left_of(0, 0.5).to_string(), forecast.left(0.5).to_string()), ("?".into(), "?".into()));
        // A block took a second: nine are left, and of other walks and of scores it is known how fast products are.
        forecast.progress(0, Doing::Evaluate, (1, 10), 1.0);
        near(forecast.left_of(0, 1.0), 9.0 + 20.0, false);
        near(forecast.left_of(0, 1.5), 8.5 + 20.0, false);
        near(forecast.left(1.0), 29.0 + 2.0 * (110.0 + 20.0 + 5.0), false);
    }

    #[test]
    fn a_method_that_was_not_seen_yet_makes_the_whole_rough() {
        let mut forecast = study(&[None, WANDA, SPARSEGPT], 1);
        let now = run_dense(&mut forecast, 100.0);
        // All of it at an operation a second: scores were seen of dense alone.
        near(forecast.left(now), 2.0 * (110.0 + 20.0 + 5.0), false);
        assert_eq!(forecast.left(now).to_string(), "~5 min");
        let now = run(&mut forecast, 1, 2.0, now);
        // SparseGPT's walk as products went in both; scores and answers as they took.
        near(forecast.left(now), 110.0 * (10.0 + 20.0) / (10.0 + 110.0) + 12.0, false);
    }

    #[test]
    fn cells_of_a_method_that_was_seen_are_known_in_full() {
        let mut forecast = study(&[None, WANDA, WANDA, WANDA], 1);
        let now = run_dense(&mut forecast, 0.0);
        let now = run(&mut forecast, 1, 3.0, now);
        near(forecast.left(now), 2.0 * 42.0, true);
        forecast.begins(2, now);
        near(forecast.left(now + 2.0), 2.0 * 42.0 - 2.0, true);
        // Blocks that take longer than before count for this cell, and not yet for the next.
        forecast.progress(2, Doing::Prune, (0, 10), now);
        forecast.progress(2, Doing::Prune, (5, 10), now + 30.0);
        near(forecast.left_of(2, now + 30.0), 30.0 + 12.0, true);
        near(forecast.left(now + 30.0), 30.0 + 12.0 + 42.0, true);
        // A block that takes its time does not make the others shorter.
        near(forecast.left_of(2, now + 50.0), 24.0 + 12.0, true);
        forecast.progress(2, Doing::Score, (0, 1), now + 60.0);
        near(forecast.left_of(2, now + 61.0), 3.0 + 8.0, true);
        forecast.progress(2, Doing::Generate, (0, 60), now + 64.0);
        forecast.progress(2, Doing::Generate, (3, 60), now + 66.0);
        near(forecast.left_of(2, now + 66.0), 6.0, true);
        forecast.ends(2, true, now + 72.0);
        // Two walks of 30 and 60 seconds.
        near(forecast.left(now + 72.0), 45.0 + 12.0, true);
    }

    #[test]
    fn a_cell_on_its_way_tells_of_others_of_its_method() {
        let mut forecast = study(&[None, SPARSEGPT, SPARSEGPT], 1);
        let now = run_dense(&mut forecast, 0.0);
        forecast.begins(1, now);
        forecast.progress(1, Doing::Prune, (0, 10), now);
        forecast.progress(1, Doing::Prune, (2, 10), now + 20.0);
        // 80 of this cell and 100 of the next; scores and answers of each as products go in both walks.
        near(forecast.left(now + 20.0), 180.0 + 2.0 * 25.0 * (10.0 + 100.0) / (10.0 + 110.0), false);
    }

    #[test]
    fn what_the_cache_had_does_not_make_the_rest_look_fast() {
        let plan = Plan { cells: [None, WANDA, WANDA, WANDA].map(cell).to_vec() };
        let mut forecast = Forecast::new(&plan, &[true, true, false, false], 1);
        assert_eq!(forecast.left(0.0).to_string(), "?");
        // Another run had come to block 8; reading the others again is no block's time.
        forecast.begins(2, 0.0);
        (0..8).for_each(|k| forecast.progress(2, Doing::Read, (k, 10), 0.01 * k as f64));
        forecast.progress(2, Doing::Prune, (8, 10), 0.1);
        forecast.progress(2, Doing::Prune, (9, 10), 3.1);
        near(forecast.left_of(2, 3.1), 3.0 + 25.0 * 30.0 / 110.0, false);
        forecast.progress(2, Doing::Score, (0, 1), 6.1);
        forecast.progress(2, Doing::Generate, (0, 60), 10.1);
        forecast.ends(2, true, 18.1);
        near(forecast.left(18.1), 30.5 + 12.0, true);
        // A cell of which another run had walked all blocks.
        let mut forecast = Forecast::new(&plan, &[true, false, false, true], 1);
        forecast.begins(1, 0.0);
        forecast.progress(1, Doing::Score, (0, 1), 0.1);
        forecast.progress(1, Doing::Generate, (0, 60), 4.1);
        forecast.ends(1, true, 12.1);
        near(forecast.left(12.1), 12.0, false);
    }

    #[test]
    fn a_cell_whose_blocks_are_kept_is_no_measure_of_one_that_prunes() {
        let mut kept = cell(WANDA);
        kept.stages[0].cached = Some(true);
        let plan = Plan { cells: vec![cell(None), kept, cell(WANDA)] };
        let mut forecast = Forecast::new(&plan, &[true], 1);
        let now = run(&mut forecast, 1, 0.1, 0.0);
        near(forecast.left(now), 110.0 * 1.0 / 10.0 + 12.0, false);
    }

    #[test]
    fn cells_that_fail_teach_nothing_and_are_over() {
        let mut forecast = study(&[None, WANDA, WANDA], 1);
        let now = run_dense(&mut forecast, 0.0);
        let before = forecast.left(now);
        forecast.begins(1, now);
        forecast.progress(1, Doing::Prune, (0, 10), now);
        forecast.ends(1, false, now + 0.1);
        near(forecast.left(now + 0.1), before.seconds / 2.0, false);
    }

    #[test]
    fn several_devices_take_cells_side_by_side() {
        let mut forecast = study(&[None, WANDA, WANDA, WANDA, WANDA, WANDA], 2);
        let now = run_dense(&mut forecast, 0.0);
        forecast.begins(1, now);
        forecast.begins(2, now);
        run(&mut forecast, 1, 3.0, now);
        // Cell 2 has used up its walk's 30 seconds; the other three take 42 each, two of them on one device.
        near(forecast.left(now + 42.0), 84.0, true);
        let mut alone = study(&[None, WANDA, WANDA], 2);
        run(&mut alone, 1, 3.0, 0.0);
        alone.cells[1].state = State::Waiting;
        // The others wait for the dense model, whose scores nobody has seen.
        alone.begins(0, 50.0);
        alone.progress(0, Doing::Evaluate, (0, 10), 50.0);
        alone.progress(0, Doing::Evaluate, (5, 10), 100.0);
        near(alone.left(100.0), 50.0 + 20.0 * (30.0 + 100.0) / (110.0 + 10.0) + 42.0, false);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = |seconds: f64, is_rough| Left { seconds, is_rough }.to_string();
        for (seconds, text) in [
            (0.0, "0 s"),
            (2.1, "3 s"),
            (11.0, "15 s"),
            (64.0, "65 s"),
            (91.0, "2 min"),
            (140.0, "2 min"),
            (3560.0, "59 min"),
            (3580.0, "1 h 0 min"),
            (9000.0, "2 h 30 min"),
            (100_000.0, "1 d 3 h"),
        ] {
            assert_eq!(said(seconds, false), text);
        }
        assert_eq!((said(160.0, true), said(0.2, true)), ("~3 min".into(), "?".into()));
    }
}
