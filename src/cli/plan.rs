//! `calipr plan`

use std::collections::HashSet;

use anyhow::Result;
use indexmap::IndexMap;

use super::line::Line;
use super::terminal::{Terminal, columns};
use super::{StudyArgs, print};
use crate::data::Library;
use crate::model::{ModelFiles, Spec, device};
use crate::pipeline::{
    Cache, Cost, Costs, Doing, JudgingPlan, Left, Machine, Outcome, Plan, PlannedCell, PlannedStage, Rates, Room,
    Watch, Work, measured, plan_of,
};
use crate::recipe::{Recipe, Setting};
use crate::size::Size;
use crate::source::Fetcher;
use crate::study::{Checked, Run, room};
use crate::table::Table;

impl StudyArgs {
    /// Prints what `run` would do.
    pub fn plan(&self) -> Result<()> {
        let (run, terminal) = self.open()?;
        let Run { recipe, library, fetcher, cache, limit, .. } = &run;
        let results = self.results_dir(recipe);
        // What was computed elsewhere is under another key: plan for the device that would run.
        let kind = || Ok(device::kind(&recipe.model.device.open_first()?));
        let Checked { inputs, judges } = run.check((!self.replace).then_some(&*results), kind)?;
        let outline = if inputs.is_none() { outline(recipe, library, fetcher) } else { None };
        let spec = inputs.as_ref().map(|inputs| &inputs.spec).or(outline.as_ref());
        let plan = plan_of(recipe, inputs.as_ref(), spec, cache);
        let rates = spec.map_or_else(Rates::default, |spec| rates(recipe, spec, &plan, cache, &terminal));

        let all = ToDo::of(plan.cells.iter());
        let costs = plan.costs(&rates);
        let listing = table(&plan, &costs, &rates).fitting(columns());
        let mut text = format!("{}: {} cells\n\n{listing}\n", recipe.name, plan.cells.len());
        if let Some((dense, all)) = inputs.as_ref().map(|inputs| inputs.skip.count()).filter(|(dense, _)| *dense > 0) {
            text += &format!("{dense} of {all} linears stay dense (prune.skip)\n");
        }
        let judging = judges.plan(recipe, inputs.as_ref())?;
        judging.iter().for_each(|judging| text += &judging.to_string());
        text += &match inputs {
            Some(_) if all.stages == 0 => "all of it is done\n".into(),
            Some(_) => {
                let about = if all.is_all { "about" } else { "more than" };
                format!("{} stages to compute, {about} {} of work\n", all.stages, flops(all.work))
            }
            None => {
                format!(
                    "the model or data are not all here yet; `calipr run {}` fetches them, or says how to\n",
                    self.recipe.display()
                )
            }
        };
        text += &expected(&costs, &rates, &judging);
        let room = Room::of(&plan, cache, limit, &results);
        room::warn(&room, cache);
        print(&(text + &room::lines(&room)))
    }
}

/// Cells whose stages are all listed; of more, the first of each kind has to do.
const LISTED: usize = 60;

/// Settings that have a line each; of more, methods have.
const LINES: usize = 60;

/// What is known of a model that is not here with all of its data: of its files, else of those on the Hub that say what it
/// is, where a network may be used.
fn outline(recipe: &Recipe, library: &Library, fetcher: &Fetcher) -> Option<Spec> {
    let source = &recipe.model.source;
    let found = match source.local(&library.bases(), fetcher).ok()? {
        Some(path) => Ok(Some(path)),
        None if fetcher.offline => return None,
        None => source.outline(fetcher),
    };
    let spec = found.and_then(|path| path.map(|path| ModelFiles::at(&path)?.outline()).transpose());
    spec.inspect_err(|e| tracing::debug!("what the model is cannot be had now: {e:#}")).ok().flatten()
}

/// What is remembered of this machine; where that does not tell the time of what is to be done, it is measured, and then
/// remembered.
fn rates(recipe: &Recipe, spec: &Spec, plan: &Plan, cache: &Cache, terminal: &Terminal) -> Rates {
    let Ok(device) = recipe.model.device.open_first() else { return Rates::default() };
    let machine = Machine::here(&device, recipe.model.dtype.into());
    let remembered = Rates::remembered(cache, &machine, spec.hidden);
    let lacks_rate = |cell: &PlannedCell| {
        let to_do = cell.stages.iter().filter(|stage| stage.is_to_do());
        to_do.filter_map(|stage| stage.work).any(|work| remembered.seconds(work, cell.method()).is_none())
    };
    if !plan.cells.iter().any(lacks_rate) {
        return remembered;
    }
    match measured(recipe, spec, &device, &Quiet(terminal.line())) {
        Ok(measured) => {
            let kept = measured.remember(cache, &machine, spec.hidden);
            let _ = kept.inspect_err(|e| tracing::debug!("the rates of this machine are not kept: {e:#}"));
        }
        Err(error) => tracing::debug!("how fast this machine is cannot be measured: {error:#}"),
    }
    Rates::remembered(cache, &machine, spec.hidden)
}

/// Asked whether to stop, and told nothing: what is measured is over in seconds.
struct Quiet(Line);

impl Watch for Quiet {
    fn cell_begins(&self, _number: usize, _of: usize, _id: &str) {}

    fn progress(&self, _done: usize, _of: usize, _doing: Doing) {}

    fn cell_ends(&self, _number: usize, _of: usize, _outcome: &Outcome, _reused: bool) {}

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

/// Time and memory in all, where something is to be done.
fn expected(costs: &Costs, rates: &Rates, judging: &[JudgingPlan]) -> String {
    if costs.all.seconds == Some(0.0) {
        return String::new();
    }
    let how = if rates.are_of_another_width { "roughly" } else { "about" };
    let time = match (costs.all.seconds, costs.cell.seconds) {
        (Some(all), Some(cell)) => {
            let judges = judging.iter().map(|judging| judging.seconds).sum::<Option<f64>>();
            let more = match judges {
                Some(0.0) => String::new(),
                Some(seconds) => format!("; judges about {} more", time(seconds)),
                None => "; judges are not counted".into(),
            };
            format!("{how} {} on one device, a cell at most {}{more}", time(all), time(cell))
        }
        _ => "? (some of the work, or the machine's rate for it, is not known)".into(),
    };
    let least = costs.all.memory.map_or("?".into(), |bytes| format!("at least {} for the largest cell", Size(bytes)));
    let held = |peak| format!("; runs with models of this width have held up to {} here", Size(peak));
    let memory = least + &rates.peak.map_or(String::new(), held);
    format!("time: {time}\nmemory: {memory}\n")
}

/// Seconds as people say them.
fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "-".into(),
        s if s < 0.095 => "<0.1 s".into(),
        s if s < 9.95 => format!("{s:.1} s"),
        seconds => Left { seconds, is_rough: false }.to_string(),
    }
}

/// What is to be computed of cells.
#[derive(Default)]
struct ToDo {
    stages: usize,
    work: f64,
    /// Whether that is the work of all of them.
    is_all: bool,
}

impl ToDo {
    fn of<'a>(cells: impl Iterator<Item = &'a PlannedCell>) -> Self {
        let stages = cells.flat_map(|cell| &cell.stages).filter(|stage| stage.is_to_do());
        stages.fold(Self { is_all: true, ..Self::default() }, |left, stage| Self {
            stages: left.stages + 1,
            work: left.work + stage.work.map_or(0.0, Work::total),
            is_all: left.is_all && stage.work.is_some(),
        })
    }
}

/// The cells with their stages. Of many, dense and the first of each method and each checkpoint; the rest is summed up.
fn table(plan: &Plan, costs: &Costs, rates: &Rates) -> Table {
    let mut table = Table::new(["cell", "stage", "cached", "keeps", "work", "time", "memory"]);
    let is_long = plan.cells.len() > LISTED;
    let seconds = |stage: &PlannedStage, cell: &PlannedCell| match stage.is_to_do() {
        true => stage.work.and_then(|work| rates.seconds(work, cell.method())),
        false => Some(0.0),
    };
    let mut kinds = HashSet::new();
    let kind = |cell: &PlannedCell| match cell.cell.setting() {
        Setting::Checkpoint(name) => name,
        setting => setting.method().to_owned(),
    };
    let cells = plan.cells.iter().zip(&costs.cells);
    let (whole, summed): (Vec<Planned>, _) = cells.partition(|(cell, _)| !is_long || kinds.insert(kind(cell)));
    for (cell, cost) in whole {
        for (i, stage) in cell.stages.iter().enumerate() {
            let to_do = if stage.is_to_do() { stage.work.map(Work::total) } else { Some(0.0) };
            table.row([
                if i == 0 { cell.id.clone() } else { String::new() },
                stage.name.clone(),
                stage.cached.map_or("?", |c| if c { "yes" } else { "no" }).into(),
                stage.bytes.map_or("?".into(), |n| Size(n).to_string()),
                to_do.map_or("?".into(), flops),
                seconds(stage, cell).map_or("?".into(), time),
                if i == 0 { bytes(cost.memory) } else { String::new() },
            ]);
        }
    }
    let by = |name: fn(&PlannedCell) -> String| {
        let mut groups: IndexMap<String, Vec<Planned>> = IndexMap::new();
        summed.iter().for_each(|planned: &Planned| groups.entry(name(planned.0)).or_default().push(*planned));
        groups
    };
    let settings = by(|cell| cell.cell.setting().id());
    let groups = if settings.len() > LINES { by(|cell| cell.cell.setting().method().to_owned()) } else { settings };
    for (name, cells) in groups {
        table.row(sum(name, &cells));
    }
    table
}

/// A cell, and what it takes.
type Planned<'a> = (&'a PlannedCell, &'a Cost);

/// Bytes, where they are known.
fn bytes(bytes: Option<u64>) -> String {
    match bytes {
        Some(0) => "-".into(),
        Some(bytes) => Size(bytes).to_string(),
        None => "?".into(),
    }
}

/// The line of several cells: what they take in all, but for memory, of which it is the most that one takes.
fn sum(name: String, cells: &[Planned]) -> [String; 7] {
    let stages: Vec<&PlannedStage> = cells.iter().flat_map(|(cell, _)| &cell.stages).collect();
    let (left, cached) =
        (ToDo::of(cells.iter().map(|(cell, _)| *cell)), stages.iter().filter(|s| s.cached == Some(true)).count());
    let is_known = stages.iter().all(|stage| stage.cached.is_some());
    let cached = match (cached, is_known) {
        (_, false) => "?".into(),
        (0, _) => "no".into(),
        (cached, _) if cached == stages.len() => "yes".into(),
        (cached, _) => format!("{cached} of {}", stages.len()),
    };
    let kept = stages.iter().map(|stage| stage.bytes).try_fold(0u64, |sum, bytes| Some(sum.saturating_add(bytes?)));
    let seconds: Option<f64> = cells.iter().map(|(_, cost)| cost.seconds).sum();
    let memory = cells.iter().try_fold(0, |most: u64, (_, cost)| Some(most.max(cost.memory?)));
    let work = if left.is_all { flops(left.work) } else { "?".into() };
    let cells = if cells.len() == 1 { "1 more cell".into() } else { format!("{} more cells", cells.len()) };
    let stages = format!("{cells}, {} stages", stages.len());
    let kept = kept.map_or("?".into(), |n| Size(n).to_string());
    [name, stages, cached, kept, work, seconds.map_or("?".into(), time), bytes(memory)]
}

fn flops(work: f64) -> String {
    match work {
        0.0 => "-".into(),
        w if w < 1e12 => format!("{:.2} GFLOP", w / 1e9),
        w if w < 1e15 => format!("{:.2} TFLOP", w / 1e12),
        w => format!("{:.2} PFLOP", w / 1e15),
    }
}
