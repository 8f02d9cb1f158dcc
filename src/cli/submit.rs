//! `calipr submit`

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::Args;

use super::{StudyArgs, print};
use crate::bundled;
use crate::cluster::{
    self, Asked, EngineName, Job, Needs, Record, is_of_one_machine, printed, quoted, submit, working_folder,
};
use crate::fault::Fault;
use crate::pipeline::{Cache, Inputs, Machine, Plan, Rates, plan};
use crate::recipe::Recipe;
use crate::study::{Checked, Run};

#[derive(Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// What starts the workers.
    #[arg(long, value_name = "ENGINE")]
    to: EngineName,
    /// Workers, each with resources of its own [default: as many as there are cells to compute, but no more than 8]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Show what would be written and submitted, and do neither.
    #[arg(long)]
    print: bool,
    /// Options of sbatch's, such as --partition=NAME, or of hq's; they go before what calipr asks for.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Workers where nobody says how many, at most.
const WORKERS: usize = 8;

/// Seconds that a worker has for reading the model and the data, at least.
const LEAST_TIME: f64 = 600.0;

/// Bytes for what grows with nothing that a plan knows.
const ROOM: u64 = 2 << 30;

/// Variables besides the recipe's keys that a worker has to find as they are here, where the engine does not pass them on. None
/// is a secret: what is written to a script may be read by others.
const PASSED_ON: [&str; 10] = [
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN_PATH",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CALIPR_CACHE_SIZE",
];

/// What is found of a study before it is submitted.
struct Found {
    run: Run,
    cells: usize,
    /// Cells with something to compute.
    to_do: usize,
    is_here: bool,
    /// Bytes that a worker should have, and the seconds of all cells and of the longest; as far as it is known.
    memory: Option<u64>,
    seconds: Option<(f64, f64)>,
}

impl SubmitArgs {
    /// Checks the study as `plan` does, and hands it to the engine.
    pub fn submit(&self) -> Result<()> {
        let found = self.check()?;
        let folder = working_folder().context("the working folder")?;
        let results = folder.join(self.study.results_dir(&found.run.recipe));
        let jobs = results.join("jobs");
        if found.to_do == 0 {
            let recipe = self.study.recipe.display();
            return print(&format!("nothing is left to compute: `calipr run {recipe}` makes the tables\n"));
        }
        let job = self.job(&found, &folder, &jobs)?;
        if self.print {
            return print(&printed(self.to, &job)?);
        }
        nobody_works_on(&jobs)?;
        for (folder, what, option) in [(found.run.cache.dir(), "cache", "--cache"), (&results, "results", "--out")] {
            if is_of_one_machine(folder) {
                let folder = folder.display();
                tracing::warn!(
                    "{what} in {folder}: workers share it, but every machine has its own; {option} names another"
                );
            }
        }
        let asked = Asked {
            folder: job.folder.clone(),
            recipe: text(self.recipe_of_workers(&jobs))?,
            // Whoever asks how far it is has another environment.
            set: found.run.layers.of_environment().into_iter().chain(self.study.set.iter().cloned()).collect(),
            cache: text(found.run.cache.dir())?,
        };
        let record = submit(self.to, &job, found.run.layers.text(), asked)?;
        print(&self.said(&found, &job, &record))
    }

    /// Refuses what `run` would refuse, as far as can be seen from here, where there may be no GPU.
    fn check(&self) -> Result<Found> {
        let (run, _terminal) = self.study.open()?;
        let results = self.study.results_dir(&run.recipe);
        let kind = || run.recipe.model.device.kind();
        let Checked { inputs, .. } = run.check((!self.study.replace).then_some(&*results), kind)?;
        let Run { recipe, cache, .. } = &run;
        let is_here = inputs.is_some();
        let plan = plan(recipe, inputs.as_ref(), cache);
        let to_do = plan.cells.iter().filter(|cell| cell.stages.iter().any(|stage| stage.is_to_do())).count();
        let cells = plan.cells.len();
        let (memory, seconds) = inputs.map_or(Ok((None, None)), |inputs| costs(recipe, &inputs, &plan, cache))?;
        Ok(Found { run, cells, to_do, is_here, memory, seconds })
    }

    /// The recipe that workers read. Standard input is read once; what it had lies in the copy, whose relative paths start in
    /// the working folder, too.
    fn recipe_of_workers(&self, jobs: &Path) -> PathBuf {
        match self.study.recipe.as_os_str() == "-" {
            true => jobs.join("recipe.toml"),
            false => self.study.recipe.clone(),
        }
    }

    fn job(&self, found: &Found, folder: &Path, jobs: &Path) -> Result<Job> {
        let study = &self.study;
        let program = std::env::current_exe().context("where this program lies")?;
        // A recipe of the program's does not change, nor does the copy of standard input.
        let can_change = bundled::recipe(&study.recipe).is_none() && study.recipe.as_os_str() != "-";
        let recipe = self.recipe_of_workers(jobs);
        let machinery = &study.machinery;
        let mut shared: Vec<String> = vec![text(&recipe)?];
        let mut add = |words: &[&str]| shared.extend(words.iter().map(|word| (*word).to_owned()));
        study.set.iter().for_each(|set| add(&["--set", set]));
        add(&["--cache", &text(folder.join(found.run.cache.dir()))?]);
        study.cache_size.cache_size.iter().for_each(|size| add(&["--cache-size", &size.to_string()]));
        machinery.offline.then(|| add(&["--offline"]));
        machinery.threads.iter().for_each(|threads| add(&["--threads", &threads.to_string()]));
        machinery.quiet.then(|| add(&["--quiet"]));
        machinery.verbose.then(|| add(&["--verbose"]));
        let arguments = |command: &str| std::iter::once(command.to_owned()).chain(shared.iter().cloned());
        let mut run: Vec<String> = arguments("run").collect();
        if let Some(out) = &study.out {
            run.extend(["--out".into(), text(out)?]);
        }
        run.extend(study.replace.then(|| "--replace".into()));
        // More workers than cells would find none to take.
        let workers = self.workers.map_or(WORKERS, NonZeroUsize::get).min(found.to_do);
        Ok(Job {
            name: found.run.recipe.name.clone(),
            program: text(&program)?,
            folder: text(folder)?,
            jobs: text(jobs)?,
            recipe: can_change.then(|| text(&recipe)).transpose()?,
            work: arguments("work").collect(),
            run,
            workers,
            needs: Needs {
                threads: machinery.threads.map(NonZeroUsize::get),
                memory: found.memory,
                // Twice what is expected: another node may be slower, and what the limit ends is queued again.
                seconds: found.seconds.map(|(all, longest)| 2.0 * (all / workers as f64 + longest) + LEAST_TIME),
                gpus: found.run.recipe.model.device.gpus(),
            },
            environment: environment(),
            variables: std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect(),
            options: self.options.clone(),
        })
    }

    fn said(&self, found: &Found, job: &Job, record: &Record) -> String {
        let engine = self.to.engine();
        let Found { cells, to_do, .. } = found;
        let workers = if job.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", job.workers) };
        let mut text = format!("{}: {to_do} of {cells} cells to compute, {workers}\n", job.name);
        for (part, id) in engine.parts().iter().zip(&record.ids) {
            text += &format!("{part}: {} job {id}\n", self.to.as_str());
        }
        text += &format!("{}\n", engine.asked(job));
        if !found.is_here {
            text += "the model or data are not all here yet: workers fetch them, or say how to\n";
        }
        let results = self.study.results_dir(&found.run.recipe);
        let cancel = engine.cancel(&record.ids, &record.options).join(" ");
        text += &match engine.logs(job, &record.ids) {
            Some(names) => format!("logs: {}/jobs/{names}\n", results.display()),
            None => "logs: where your own option says\n".into(),
        };
        let status = quoted(&results.display().to_string());
        text + &format!("how far it is: calipr status {status}; to end it: {cancel}\n")
    }
}

/// Bytes, and the seconds of all cells and of the longest.
type Asks = (Option<u64>, Option<(f64, f64)>);

/// Bytes that a worker should have, and the seconds that all cells and the longest take at the rates of this machine: on a
/// processor. What cannot be done without is a lower bound, and what runs have held may be more for another calibration.
fn costs(recipe: &Recipe, inputs: &Inputs, plan: &Plan, cache: &Cache) -> Result<Asks> {
    if recipe.model.device.kind()? != "cpu" {
        return Ok((None, None));
    }
    let machine = Machine::here(&Device::Cpu, recipe.model.dtype.into());
    let rates = Rates::remembered(cache, &machine, inputs.spec.hidden);
    let costs = plan.costs(&rates);
    let memory =
        costs.all.memory.map(|least| (least + least / 2 + ROOM).max(rates.peak.map_or(0, |peak| peak + peak / 4)));
    Ok((memory, costs.all.seconds.zip(costs.cell.seconds)))
}

/// Two submissions at once would make the tables twice.
fn nobody_works_on(jobs: &Path) -> Result<()> {
    let Some(record) = Record::read(jobs)? else { return Ok(()) };
    let engine = record.engine.engine();
    match cluster::waiting(&record) {
        Ok(waiting) => {
            let said: Vec<String> =
                waiting.iter().map(|w| format!("{} of job {} {}", w.tasks, w.job, w.state)).collect();
            ensure!(
                waiting.is_empty(),
                Fault(format!(
                    "the study is submitted already: {}\n       = `{}` ends it; --out DIR makes another of it",
                    said.join(", "),
                    engine.cancel(&record.ids, &record.options).join(" ")
                ))
            );
        }
        Err(error) => {
            tracing::warn!("whether jobs {} still wait or run cannot be asked: {error:#}", record.ids.join(", "));
        }
    }
    Ok(())
}

/// What a worker has to find as it is here: keys of the recipe, and where things lie.
fn environment() -> Vec<(String, String)> {
    let is_passed_on = |name: &str| {
        let is_option = ["CALIPR_CACHE", "CALIPR_OFFLINE", "CALIPR_THREADS"].contains(&name);
        PASSED_ON.contains(&name) || (name.starts_with("CALIPR_") && !is_option)
    };
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut passed_on: Vec<(String, String)> = all.filter(|(name, _)| is_passed_on(name)).collect();
    passed_on.sort();
    passed_on
}

/// A path in a script.
fn text(path: impl AsRef<OsStr>) -> Result<String> {
    let path = PathBuf::from(path.as_ref());
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Fault(format!("the path {} is not UTF-8, and a job's script is", path.display())).into())
}
