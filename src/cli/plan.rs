//! `calipr plan`

use std::collections::HashSet;

use anyhow::Result;
use indexmap::IndexMap;

use super::terminal::columns;
use super::{StudyArgs, print};
use crate::data::Library;
use crate::model::device;
use crate::pipeline::{Inputs, Judges, Plan, PlannedCell, PlannedStage, Room, Work, check_data, check_export, plan};
use crate::recipe::{Setting, inert};
use crate::results::Intended;
use crate::size::Size;
use crate::study::room;
use crate::table::Table;

impl StudyArgs {
    /// Prints what `run` would do.
    pub fn plan(&self) -> Result<()> {
        let (recipe, layers) = self.load()?;
        let _terminal = self.machinery.start()?;
        inert(&recipe, &layers).iter().for_each(|problem| tracing::warn!("{problem}"));
        let cache = self.machinery.cache();
        let limit = self.cache_size.limit(&cache)?;
        let fetcher = self.machinery.fetcher(&cache);
        let library = Library::of_recipe(&self.recipe);
        let inputs = match Inputs::are_local(&recipe, &library, &fetcher)? {
            true => {
                // What was computed elsewhere is under another key: plan for the device that would run.
                let kind = device::kind(&recipe.model.device.open_first()?);
                Some(Inputs::resolve(&recipe, &layers, &library, &fetcher, kind)?)
            }
            false => None,
        };
        if !self.replace {
            let intended = Intended { recipe: &recipe, library: &library, inputs: inputs.as_ref() };
            intended.check(&self.results_dir(&recipe))?;
        }
        inputs.iter().try_for_each(|inputs| check_export(&recipe, &inputs.model))?;
        inputs.iter().try_for_each(|inputs| check_data(&recipe, inputs, &cache))?;
        let judges = Judges::open(&recipe, &cache, fetcher.offline)?;
        let plan = plan(&recipe, inputs.as_ref(), &cache);

        let all = Left::of(plan.cells.iter());
        let mut text = format!("{}: {} cells\n\n{}\n", recipe.name, plan.cells.len(), table(&plan).fitting(columns()));
        if let Some((dense, all)) = inputs.as_ref().map(|inputs| inputs.skip.count()).filter(|(dense, _)| *dense > 0) {
            text += &format!("{dense} of {all} linears stay dense (prune.skip)\n");
        }
        judges.plan(&recipe, inputs.as_ref())?.iter().for_each(|judging| text += &judging.to_string());
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
        let room = Room::of(&plan, &cache, &limit, &self.results_dir(&recipe));
        room::warn(&room, &cache);
        print(&(text + &room::lines(&room)))
    }
}

/// Cells whose stages are all listed; of more, the first of each kind has to do.
const LISTED: usize = 60;

/// Settings that have a line each; of more, methods have.
const LINES: usize = 60;

/// What is to be computed of cells.
#[derive(Default)]
struct Left {
    stages: usize,
    work: f64,
    /// Whether that is the work of all of them.
    is_all: bool,
}

impl Left {
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
fn table(plan: &Plan) -> Table {
    let mut table = Table::new(["cell", "stage", "cached", "keeps", "work"]);
    let is_long = plan.cells.len() > LISTED;
    let mut kinds = HashSet::new();
    let kind = |cell: &PlannedCell| match cell.cell.setting() {
        Setting::Checkpoint(name) => name,
        setting => setting.method().to_owned(),
    };
    let (whole, summed): (Vec<&PlannedCell>, _) =
        plan.cells.iter().partition(|cell| !is_long || kinds.insert(kind(cell)));
    for cell in whole {
        for (i, stage) in cell.stages.iter().enumerate() {
            let to_do = if stage.is_to_do() { stage.work.map(Work::total) } else { Some(0.0) };
            table.row([
                if i == 0 { cell.id.clone() } else { String::new() },
                stage.name.clone(),
                stage.cached.map_or("?", |c| if c { "yes" } else { "no" }).into(),
                stage.bytes.map_or("?".into(), |n| Size(n).to_string()),
                to_do.map_or("?".into(), flops),
            ]);
        }
    }
    let by = |name: fn(&PlannedCell) -> String| {
        let mut groups: IndexMap<String, Vec<&PlannedCell>> = IndexMap::new();
        summed.iter().for_each(|cell: &&PlannedCell| groups.entry(name(cell)).or_default().push(cell));
        groups
    };
    let settings = by(|cell| cell.cell.setting().id());
    let groups = if settings.len() > LINES { by(|cell| cell.cell.setting().method().to_owned()) } else { settings };
    for (name, cells) in groups {
        table.row(sum(name, &cells));
    }
    table
}

/// The line of several cells.
fn sum(name: String, cells: &[&PlannedCell]) -> [String; 5] {
    let stages: Vec<&PlannedStage> = cells.iter().flat_map(|cell| &cell.stages).collect();
    let (left, cached) = (Left::of(cells.iter().copied()), stages.iter().filter(|s| s.cached == Some(true)).count());
    let is_known = stages.iter().all(|stage| stage.cached.is_some());
    let cached = match (cached, is_known) {
        (_, false) => "?".into(),
        (0, _) => "no".into(),
        (cached, _) if cached == stages.len() => "yes".into(),
        (cached, _) => format!("{cached} of {}", stages.len()),
    };
    let bytes = stages.iter().map(|stage| stage.bytes).try_fold(0u64, |sum, bytes| Some(sum.saturating_add(bytes?)));
    let work = if left.is_all { flops(left.work) } else { "?".into() };
    let cells = if cells.len() == 1 { "1 more cell".into() } else { format!("{} more cells", cells.len()) };
    let stages = format!("{cells}, {} stages", stages.len());
    [name, stages, cached, bytes.map_or("?".into(), |n| Size(n).to_string()), work]
}

fn flops(work: f64) -> String {
    match work {
        0.0 => "-".into(),
        w if w < 1e12 => format!("{:.2} GFLOP", w / 1e9),
        w if w < 1e15 => format!("{:.2} TFLOP", w / 1e12),
        w => format!("{:.2} PFLOP", w / 1e15),
    }
}
