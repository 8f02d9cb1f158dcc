//! `calipr plan`

use anyhow::Result;

use super::terminal::columns;
use super::{StudyArgs, print};
use crate::data::Library;
use crate::model::device;
use crate::pipeline::{Inputs, Judges, Room, Work, check_data, check_export, plan};
use crate::recipe::inert;
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

        let mut table = Table::new(["cell", "stage", "cached", "keeps", "work"]);
        let (mut left, mut work, mut all_known) = (0, 0.0, true);
        for cell in &plan.cells {
            for (i, stage) in cell.stages.iter().enumerate() {
                left += usize::from(stage.is_to_do());
                let to_do = if stage.is_to_do() { stage.work.map(Work::total) } else { Some(0.0) };
                work += to_do.unwrap_or(0.0);
                all_known &= to_do.is_some();
                table.row([
                    if i == 0 { cell.id.clone() } else { String::new() },
                    stage.name.clone(),
                    stage.cached.map_or("?", |c| if c { "yes" } else { "no" }).into(),
                    stage.bytes.map_or("?".into(), |n| Size(n).to_string()),
                    to_do.map_or("?".into(), flops),
                ]);
            }
        }
        let mut text = format!("{}: {} cells\n\n{}\n", recipe.name, plan.cells.len(), table.fitting(columns()));
        if let Some((dense, all)) = inputs.as_ref().map(|inputs| inputs.skip.count()).filter(|(dense, _)| *dense > 0) {
            text += &format!("{dense} of {all} linears stay dense (prune.skip)\n");
        }
        judges.plan(&recipe, inputs.as_ref())?.iter().for_each(|judging| text += &judging.to_string());
        text += &match inputs {
            Some(_) if left == 0 => "all of it is done\n".into(),
            Some(_) => {
                let about = if all_known { "about" } else { "more than" };
                format!("{left} stages to compute, {about} {} of work\n", flops(work))
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

fn flops(work: f64) -> String {
    match work {
        0.0 => "-".into(),
        w if w < 1e12 => format!("{:.2} GFLOP", w / 1e9),
        w if w < 1e15 => format!("{:.2} TFLOP", w / 1e12),
        w => format!("{:.2} PFLOP", w / 1e15),
    }
}
