//! `calipr export`, and what a recipe has exported at a study's end.

mod kept;
mod target;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use clap::Args;

use super::terminal::Terminal;
use super::{Machinery, print};
use crate::data::Library;
use crate::digest::Digest;
use crate::fault::{At, Fault};
use crate::model::device;
use crate::pipeline::{Cache, Inputs, Keys, Study, export, saving};
use crate::recipe::{Cell, Dtype, ExportSpec, Exported, Layers, ModelFormat, Recipe, cells};
use crate::report::{Card, DecisionRow as Row, Report, Wanted, with_interval};
use crate::results::{Difference, Manifest};
use crate::size::Size;
use crate::source::Fetcher;
use crate::study::Run;
use kept::Kept;
use target::Target;
use verify::Verification;

/// How often a log says how far a long write has come.
const RHYTHM: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct ExportArgs {
    /// A folder of results, such as results/quickstart.
    results: PathBuf,
    /// The cell, such as wanda-0.5-task-s0, or a setting, of which the first seed is taken [default: the setting that is best
    /// by the metric that the report is about]
    cell: Option<String>,
    /// Where it goes: a folder that is not there yet, or is empty; for a GGUF file, a name that ends in .gguf.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// What it is [default: hub, but gguf where --to ends in .gguf]
    #[arg(long, value_enum)]
    format: Option<ModelFormat>,
    /// The precision of the weights [default: that of the model's files; of quantised ones the recipe's]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Read it again, and compare its figures on a suite with the cell's.
    #[arg(long)]
    verify: bool,
    /// Where the recipe's data lies, if it has moved: relative paths start here first [default: where run.json says]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    machinery: Machinery,
}

impl ExportArgs {
    /// Writes the model of a cell, from the cache or pruned again, as others load it.
    pub fn export(&self) -> Result<()> {
        let target = Target::of(&self.to, self.format)?;
        let report = Report::read(&self.results, &Wanted::default())?;
        let manifest = Manifest::read(&self.results)?;
        let (cell, why) = match &self.cell {
            Some(name) => named(name, &manifest.recipe, &report)?,
            None => best(&manifest.recipe, &report)?,
        };
        let terminal = self.machinery.start()?;
        let cache = self.machinery.cache();
        let fetcher = self.machinery.fetcher(&cache);
        let exporter = Exporter {
            results: &self.results,
            library: &manifest.library(&self.results, self.folder.as_deref()),
            manifest: &manifest,
            report: &report,
            fetcher: &fetcher,
            cache: &cache,
            terminal: &terminal,
        };
        exporter.export(&cell, &why, &target, self.dtype, self.verify)
    }
}

/// A finished study, and where all of it lies.
struct Exporter<'a> {
    results: &'a Path,
    manifest: &'a Manifest,
    report: &'a Report,
    library: &'a Library,
    fetcher: &'a Fetcher,
    cache: &'a Cache,
    terminal: &'a Terminal,
}

impl Exporter<'_> {
    /// Writes the model of a cell.
    fn export(&self, cell: &Cell, why: &str, target: &Target, dtype: Option<Dtype>, verifies: bool) -> Result<()> {
        let Self { results, manifest, report, library, fetcher, cache, terminal } = *self;
        let recipe = manifest.recipe.of_cell(cell);
        let mut hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        let device = recipe.model.device.open_first()?;
        let layers = Layers::nowhere(&results.join("run.json"));
        let inputs = Inputs::resolve(&recipe, &layers, library, fetcher, device::kind(&device));
        let inputs = inputs.at(|| {
            "the study's model, and what the cell was calibrated on, are needed again; --folder DIR says where relative paths \
             start now"
                .into()
        })?;
        let line = terminal.line();
        let study = Study::open(&recipe, &inputs, cache, device.clone(), &line)?;
        let now = Manifest::new(&recipe, &manifest.recipe_path, library, &study, &[device], results)?;
        ensure_same(manifest, &now)?;

        let held = DType::from(recipe.model.dtype);
        let saving = saving(&inputs.model, target.format, dtype, recipe.model.dtype)?;
        target.ensure_room(saving.bytes())?;
        print(&format!("{}: {why}\n", cell.id()))?;
        let changes = cell.pruning().is_some_and(|pruning| !recipe.method.get(pruning.method).keeps_values());
        let rounded = saving.rounds(held).filter(|_| changes);
        if let Some(narrow) = rounded {
            tracing::warn!(
                "weights that {} was judged with in {held} are rounded to {}; --dtype {held} keeps them to the bit",
                cell.id(),
                narrow.as_str(),
                held = held.as_str()
            );
        }
        if let Some(hold) = &mut hold {
            hold.keep(study.progress_entries(cell))?;
        }
        let unfinished = target.begin()?;
        let name = format!("{}-{}", recipe.name, cell.id().replace(':', "of"));
        let mut told = Instant::now();
        let mut written = |done: u64, of: u64| {
            if told.elapsed() >= RHYTHM {
                told = Instant::now();
                tracing::info!("{} of {} are written", Size(done), Size(of));
            }
        };
        export(&study, cell, &saving, (&unfinished.dir, &name), &line, &mut written)?;
        let (precision, format) = (saving.precision(), target.format);
        let licence = inputs.model.licence();
        let card = Card { manifest, report, cell, precision: &precision, format, licence };
        let readme = unfinished.dir.join("README.md");
        fs::write(&readme, card.markdown()).with_context(|| format!("cannot write {}", readme.display()))?;
        let place = target.put(unfinished, &name)?;
        terminal.clear();
        print(&format!("{} in {precision}: {}\n", Size(saving.bytes()), place.display()))?;
        if !verifies {
            return Ok(());
        }
        let limit = cache.limit(None)?;
        let verification = Verification { results, manifest, report, library, fetcher, cache, limit: &limit, terminal };
        verification.verify(cell, place, rounded.is_some())
    }
}

/// Exports what the recipe of a study that is done has exported, into `models` in its folder of results. What is there
/// already stays.
pub fn at_the_end(results: &Path, run: &Run, replaces: bool, terminal: &Terminal) -> Result<()> {
    let Run { library, layers, fetcher, cache, .. } = run;
    let manifest = Manifest::read(results)?;
    let Some(ExportSpec { cells: exported, format, dtype }) = &manifest.recipe.export else { return Ok(()) };
    let report = Report::read(results, &Wanted::default())?;
    let (manifest, report) = (&manifest, &report);
    let wanted = match exported {
        Exported::Best => vec![best(&manifest.recipe, report)?],
        Exported::Named(names) => {
            names.iter().map(|name| named(name, &manifest.recipe, report)).collect::<Result<_>>()?
        }
        Exported::All => {
            let is_done = |cell: &Cell| cell.pruning().is_some() && !report.failed.iter().any(|f| f.cell == cell.id());
            let done = cells(&manifest.recipe).into_iter().filter(is_done);
            done.map(|cell| (cell, "one of all cells".to_owned())).collect()
        }
    };
    let exporter = Exporter { results, manifest, report, library, fetcher, cache, terminal };
    // A cell's name says neither what it was calibrated on nor which model it is of.
    let inputs = Inputs::resolve(&manifest.recipe, layers, library, fetcher, manifest.recipe.model.device.kind()?)?;
    let keys = Keys::of(&manifest.recipe, &inputs);
    let mut kept = Kept::read(results)?;
    for (cell, why) in wanted {
        let ending = if *format == ModelFormat::Gguf { ".gguf" } else { "" };
        let name = format!("{}{ending}", cell.id().replace(':', "of"));
        let place = results.join("models").join(&name);
        let made_of = Digest::of(&(keys.of_cell(&cell).pruned().digest().to_string(), dtype, format));
        if place.exists() {
            let shown = place.display();
            if kept.is(&name, made_of) {
                tracing::info!("{shown} is there already, and stays as it is");
                continue;
            }
            if !replaces {
                tracing::warn!(
                    "{shown} is there already, and stays as it is; nothing says that it is this study's model of {}: \
                     remove it, or --replace it",
                    cell.id()
                );
                continue;
            }
            let gone = if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
            gone.with_context(|| format!("cannot replace {shown}"))?;
        }
        // Before it is there, which it is whole or not at all: a kill in between leaves none that nobody knows.
        kept.note(&name, made_of)?;
        exporter.export(&cell, &why, &Target::of(&place, Some(*format))?, *dtype, false)?;
    }
    Ok(())
}

/// The cell of this name, or the first of the setting; and why it is that one.
fn named(name: &str, recipe: &Recipe, report: &Report) -> Result<(Cell, String)> {
    let all = cells(recipe);
    let cell = all.iter().find(|cell| cell.id() == name || cell.setting().id() == name);
    let known = || {
        let own = all.iter().filter(|cell| cell.checkpoint().is_none());
        let names: Vec<String> = own.map(Cell::id).collect();
        Fault(format!("{name} is no cell of the study; it has {}", names.join(", ")))
    };
    let cell = cell.ok_or_else(known)?;
    if let Some(checkpoint) = cell.checkpoint().and_then(|name| recipe.checkpoint.get(name)) {
        bail!(Fault(format!("{name} is a checkpoint, whose model is there already: {}", checkpoint.source)));
    }
    let failed = report.failed.iter().any(|failed| failed.cell == cell.id());
    ensure!(!failed, "{} failed, and has no model", cell.id());
    let why = if cell.id() == name { "the cell that was named".into() } else { format!("the first seed of {name}") };
    Ok((cell.clone(), why))
}

/// The first cell of the setting that is best by the metric that the report is about.
fn best(recipe: &Recipe, report: &Report) -> Result<(Cell, String)> {
    let decision = report.decision.as_ref().context("nothing was evaluated; name a cell")?;
    let is_pruned = |row: &&Row| !row.setting.is_dense() && !row.setting.is_checkpoint();
    let pruned = || decision.rows.iter().filter(is_pruned);
    let best = decision.best(pruned()).context("no pruned cell is done; name one, or run the study")?;
    let (cell, _) = named(&best.setting.name, recipe, report)?;
    let seeds = if best.value.seeds > 1 { ", of whose seeds it is the first" } else { "" };
    let way = if decision.higher_is_better { "highest" } else { "lowest" };
    let value = with_interval(best.value.value, best.value.low, best.value.high);
    // Of equal ones the first is taken, and not said to be better than the others.
    let first = match pruned().filter(|row| row.value.value == best.value.value).count() {
        1 => String::new(),
        alike => format!("the first of {alike} settings with "),
    };
    let of = match report.unfinished {
        None => "all sparsities".to_owned(),
        Some(_) => format!("the cells that are done ({})", report.cells),
    };
    let why = format!("{first}the {way} {} on {} of {of}, {value}{seeds}", decision.metric, decision.suite);
    Ok((cell, why))
}

/// An error where the model, or what the cell was calibrated on, is no longer what the study had. `now` has only what the
/// cell needs.
fn ensure_same(before: &Manifest, now: &Manifest) -> Result<()> {
    let mut recorded = before.clone();
    recorded.suites.retain(|name, _| now.suites.contains_key(name));
    recorded.datasets.retain(|name, _| now.datasets.contains_key(name));
    recorded.calibrations.retain(|name, _| now.calibrations.contains_key(name));
    for (name, entry) in &mut recorded.calibrations {
        let drawn = &now.calibrations[name].drawn;
        entry.drawn.retain(|before| drawn.iter().any(|now| now.seed == before.seed));
    }
    let differences = recorded.differences(now).into_iter().filter(|difference| difference.is_of_the_study);
    let changed: Vec<String> = differences.map(|Difference { what, .. }| what).collect();
    ensure!(changed.is_empty(), "the study cannot be exported: since it ran, {} changed", changed.join("; "));
    Ok(())
}
