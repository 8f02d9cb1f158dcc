//! `calipr export`

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use clap::{Args, ValueEnum};

use super::{Machinery, print};
use crate::disk::Disk;
use crate::fault::{At, Fault};
use crate::model::{Saving, device};
use crate::pipeline::{Inputs, Study, export};
use crate::recipe::{Cell, Dtype, Layers, Recipe, cells};
use crate::report::{Card, Report, Wanted};
use crate::results::{Difference, Manifest};
use crate::size::Size;

/// How often a log says how far a long write has come.
const RHYTHM: Duration = Duration::from_secs(30);

/// What an exported model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelFormat {
    /// A Hugging Face folder of safetensors.
    Hub,
    /// A GGUF file.
    Gguf,
}

#[derive(Args)]
pub struct ExportArgs {
    /// A folder of results, such as results/quickstart.
    results: PathBuf,
    /// The cell, such as wanda-0.5-task-s0, or a setting, of which the first seed is taken [default: the setting that is best
    /// by the metric that the report is about]
    cell: Option<String>,
    /// Where it goes: a folder that is not there yet, or is empty; with --format gguf, a name that ends in .gguf too.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// A Hugging Face folder, or a GGUF file [default: hub, but gguf where --to ends in .gguf]
    #[arg(long, value_enum)]
    format: Option<ModelFormat>,
    /// The precision of the weights [default: that of the model's files; of quantised ones the recipe's]
    #[arg(long)]
    dtype: Option<Dtype>,
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
        let (cell, why) = self.chosen(&manifest.recipe, &report)?;
        let recipe = manifest.recipe.of_cell(&cell);

        let library = manifest.library(&self.results, self.folder.as_deref());
        let terminal = self.machinery.start()?;
        let cache = self.machinery.cache();
        let mut hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        let fetcher = self.machinery.fetcher(&cache);
        let layers = Layers::nowhere(&self.results.join("run.json"));
        let device = recipe.model.device.open_first()?;
        let inputs = Inputs::resolve(&recipe, &layers, &library, &fetcher, device::kind(&device)).at(|| {
            "the study's model and calibration data are needed again; --folder DIR says where data lies now".into()
        })?;
        let line = terminal.line();
        let study = Study::open(&recipe, &inputs, &cache, device.clone(), &line)?;
        let now = Manifest::new(&recipe, &manifest.recipe_path, &library, &study, &[device], &self.results)?;
        ensure_same(&manifest, &now, &recipe)?;

        let held = DType::from(recipe.model.dtype);
        let dtype = self.dtype.map(DType::from);
        let saving = match target.format {
            ModelFormat::Hub => Saving::to_hub(&inputs.model, dtype, held)?,
            ModelFormat::Gguf => Saving::to_gguf(&inputs.model, dtype.unwrap_or(held))?,
        };
        target.ensure_room(saving.bytes())?;
        print(&format!("{}: {why}\n", cell.id()))?;
        let changes = cell.pruning.as_ref().is_some_and(|pruning| !recipe.method.get(pruning.method).keeps_values());
        if let Some(narrow) = saving.rounds(held).filter(|_| changes) {
            tracing::warn!(
                "weights that {} was judged with in {} are rounded to {}, the precision of the model's files; --dtype {} keeps \
                 them to the bit",
                cell.id(),
                held.as_str(),
                narrow.as_str(),
                held.as_str()
            );
        }
        if let Some(hold) = &mut hold {
            hold.keep(study.progress_entries(&cell))?;
        }
        let unfinished = target.unfinished()?;
        let name = format!("{}-{}", recipe.name, cell.id().replace(':', "of"));
        let mut told = Instant::now();
        let mut written = |done: u64, of: u64| {
            if told.elapsed() >= RHYTHM {
                told = Instant::now();
                tracing::info!("{} of {} are written", Size(done), Size(of));
            }
        };
        export(&study, &cell, &saving, (unfinished.path(), &name), &line, &mut written)?;
        let (precision, format) =
            (saving.precision(), if target.format == ModelFormat::Hub { "safetensors" } else { "gguf" });
        let card = Card { manifest: &manifest, report: &report, cell: &cell, precision: &precision, format };
        let readme = unfinished.path().join("README.md");
        fs::write(&readme, card.markdown()).with_context(|| format!("cannot write {}", readme.display()))?;
        let place = target.put(unfinished, &name)?;
        terminal.clear();
        print(&format!("{} in {}: {}\n", Size(saving.bytes()), saving.precision(), place.display()))
    }

    /// The cell that is meant, and why it is that one.
    fn chosen(&self, recipe: &Recipe, report: &Report) -> Result<(Cell, String)> {
        let all = cells(recipe);
        let find = |name: &str| all.iter().find(|cell| cell.id() == name || cell.setting().id() == name).cloned();
        if let Some(name) = &self.cell {
            let known = || {
                let names: Vec<String> = all.iter().map(Cell::id).collect();
                Fault(format!("{name} is no cell of {}; it has {}", self.results.display(), names.join(", ")))
            };
            let cell = find(name).ok_or_else(known)?;
            let failed = report.failed.iter().find(|failed| failed.cell == cell.id());
            ensure!(failed.is_none(), "{} failed, and has no model", cell.id());
            let why = match cell.id() == *name {
                true => "the cell that was named".to_owned(),
                false => format!("the first seed of {name}"),
            };
            return Ok((cell, why));
        }
        let decision = report.decision.as_ref();
        let decision = decision.with_context(|| Fault("nothing was evaluated; name a cell".into()))?;
        let sign = if decision.higher_is_better { 1.0 } else { -1.0 };
        let pruned = decision.rows.iter().filter(|row| !row.setting.is_dense() && !row.value.value.is_nan());
        let best = pruned.reduce(|best, row| if sign * row.value.value > sign * best.value.value { row } else { best });
        let best = best.with_context(|| Fault("no pruned cell is done; name one, or run the study".into()))?;
        let cell = find(&best.setting.name).context("the best setting is a cell's")?;
        let seeds = if best.value.seeds > 1 { ", of whose seeds it is the first" } else { "" };
        let way = if decision.higher_is_better { "highest" } else { "lowest" };
        let value = crate::report::with_interval(best.value.value, best.value.low, best.value.high);
        let why = format!("the {way} {} on {} of all sparsities, {value}{seeds}", decision.metric, decision.suite);
        Ok((cell, why))
    }
}

/// An error where the model, or what the cell was calibrated on, is no longer what the study had.
fn ensure_same(before: &Manifest, now: &Manifest, recipe: &Recipe) -> Result<()> {
    let mut recorded = before.clone();
    recorded.suites.clear();
    recorded.calibrations.retain(|name, _| recipe.calibration.contains_key(name));
    for (name, entry) in &mut recorded.calibrations {
        let drawn = now.calibrations.get(name).map(|now| now.drawn.as_slice()).unwrap_or_default();
        entry.drawn.retain(|drawn_before| drawn.iter().any(|now| now.seed == drawn_before.seed));
    }
    recorded.datasets.retain(|name, _| now.datasets.contains_key(name));
    let differences = recorded.differences(now);
    let changed: Vec<String> =
        differences.into_iter().filter(|d| d.is_of_the_study).map(|Difference { what, .. }| what).collect();
    ensure!(changed.is_empty(), "the study cannot be exported: since it ran, {} changed", changed.join("; "));
    Ok(())
}

/// Where an export goes.
struct Target {
    path: PathBuf,
    format: ModelFormat,
    /// Whether it is a file by itself.
    is_file: bool,
}

impl Target {
    fn of(path: &Path, format: Option<ModelFormat>) -> Result<Self> {
        let is_file = path.extension().is_some_and(|end| end == "gguf");
        let format = format.unwrap_or(if is_file { ModelFormat::Gguf } else { ModelFormat::Hub });
        if is_file && format == ModelFormat::Hub {
            return Err(Fault(format!("--to {}: a Hugging Face folder is no .gguf file", path.display())).into());
        }
        let is_taken = match path.is_dir() && !is_file {
            true => fs::read_dir(path).map(|mut entries| entries.next().is_some()).unwrap_or(true),
            false => path.symlink_metadata().is_ok(),
        };
        let refused =
            || Fault(format!("--to {}: it is there already; give another name, or remove it", path.display()));
        ensure!(!is_taken, refused());
        Ok(Self { path: path.to_owned(), format, is_file })
    }

    /// The folder that it will lie in.
    fn parent(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn ensure_room(&self, bytes: u64) -> Result<()> {
        let free = Disk::of(self.parent()).map(|disk| disk.free);
        let lacks = free.is_some_and(|free| free < bytes);
        ensure!(
            !lacks,
            "{} needs {}, and its disk has {}",
            self.path.display(),
            Size(bytes),
            Size(free.unwrap_or_default())
        );
        Ok(())
    }

    /// A folder beside it, which is gone unless it is put in its place.
    fn unfinished(&self) -> Result<tempfile::TempDir> {
        let parent = self.parent();
        let cannot = || format!("cannot write into {}", parent.display());
        fs::create_dir_all(parent).with_context(cannot)?;
        tempfile::Builder::new().prefix(crate::UNFINISHED).tempdir_in(parent).with_context(cannot)
    }

    /// Puts what was written in its place.
    fn put(&self, unfinished: tempfile::TempDir, name: &str) -> Result<PathBuf> {
        let cannot = || format!("cannot write {}", self.path.display());
        if self.is_file {
            fs::rename(unfinished.path().join(format!("{name}.gguf")), &self.path).with_context(cannot)?;
            return Ok(self.path.clone());
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(unfinished.path(), fs::Permissions::from_mode(0o755)).with_context(cannot)?;
        }
        // An empty folder gives way.
        let _ = fs::remove_dir(&self.path);
        fs::rename(unfinished.path(), &self.path).with_context(cannot)?;
        let _ = unfinished.keep();
        Ok(self.path.clone())
    }
}
