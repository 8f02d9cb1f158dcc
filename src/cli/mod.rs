//! The command line: the only part of calipr that prints.

mod bench;
mod cache;
mod compare;
mod datasets;
mod downloads;
mod environment;
mod export;
mod init;
mod line;
mod plan;
mod report;
mod reproduce;
mod run;
mod shown;
mod slips;
mod status;
mod submit;
mod terminal;
mod threads;
mod work;

use std::io::{self, ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use clap::builder::{BoolishValueParser, PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

pub use environment::settle;

use crate::fault::Fault;
pub use crate::guard::with_room;
use crate::memory;
pub use crate::memory::Told;
use crate::pipeline::{Cache, Interrupted, Unwritable};
use crate::recipe::{self, Problems, Recipe, inert};
use crate::size::Size;
use crate::source::{self, Fetcher, expanded};
use crate::study::{Place, Run};
use terminal::Terminal;
use threads::Threads;

/// Pruning studies of language models: a TOML recipe in, Parquet tables out.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a study, or go on with one: what is finished is not run again.
    ///
    /// Exit codes: 0 all cells are done, 1 the study cannot run, 2 the recipe, its data or the command line is
    /// wrong, 3 some cells failed (cells.parquet says why; the same command tries them again), 130
    /// interrupted.
    Run(StudyArgs),
    /// Look at a task's rows, and write a recipe to start from.
    Init(init::InitArgs),
    /// Run cells of a study that nobody else has, as one of any number of workers that share a cache.
    ///
    /// It writes no tables: `calipr run` of the same recipe makes them. Exit codes: 0 nothing is left to take, 3 some cells
    /// failed here, 130 it was told to end (SIGTERM, SIGINT, SIGUSR1); what it was at, others go on with.
    Work(work::WorkArgs),
    /// Show a study's cells, what each needs, what is cached, and what time, memory and disk the rest takes; run no cell.
    Plan(StudyArgs),
    /// Hand a study to a cluster: workers that share its cells, and a job after them that makes the tables.
    ///
    /// --to slurm submits an array of jobs, --to hq a job of HyperQueue; what is behind -- goes to sbatch or hq. A worker is
    /// `calipr work RECIPE`, which anything else may start, too.
    Submit(submit::SubmitArgs),
    /// Say what of a study is done, what runs where, what failed, and how long the rest will take.
    Status(status::StatusArgs),
    /// Say what a study found: a table to decide by, a few sentences, what was run, then all the rest.
    ///
    /// --to report.html also has plots; .csv is every value in one table, .tex tables for a paper.
    Report(report::ReportArgs),
    /// Set two or more studies side by side: what was run otherwise, and every setting that they share.
    ///
    /// The others are compared with the first, paired where they have the same samples of a suite.
    Compare(compare::CompareArgs),
    /// Write the model of a cell as others load it: a Hugging Face folder of safetensors, or a GGUF file.
    ///
    /// Its weights come from the cache, or are pruned again; they are ordinary dense tensors with zeros. A README.md says what
    /// the model is, and what the study found of it.
    Export(export::ExportArgs),
    /// Run a study again from its results' run.json, all of it, and compare its values with the recorded ones.
    ///
    /// Exit codes: 0 all values are reproduced, 1 some are not, or the study cannot run.
    Reproduce(reproduce::ReproduceArgs),
    /// List the data sets that a recipe may name here, or show one: its definition, and what a row of it becomes.
    Datasets(datasets::DatasetsArgs),
    /// Measure how fast this machine's matrix products are, and how much of that a study's stages reach.
    Bench(bench::BenchArgs),
    /// List what is cached, or make room.
    Cache(cache::CacheArgs),
    /// Print the JSON Schema of recipes, for editors.
    Schema(SchemaArgs),
}

#[derive(Args)]
pub struct SchemaArgs {
    /// Every key in Markdown, for people.
    #[arg(long)]
    markdown: bool,
}

#[derive(Args)]
pub struct StudyArgs {
    /// The recipe, a TOML file, or the name of one that comes with calipr, such as quickstart; - reads it from standard input.
    #[arg(value_parser = recipe())]
    recipe: PathBuf,
    /// Set a key of the recipe, over the file and the environment: --set grid.sparsity='[0.7]'.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of results [default: results/<name of the study>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Overwrite what that folder has of another study; without this, it is refused.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    cache_size: CacheSize,
    #[command(flatten)]
    machinery: Machinery,
}

/// What every command that keeps stages has.
#[derive(Args)]
struct CacheSize {
    /// What the cache may hold, such as "200 GB" [default: $CALIPR_CACHE_SIZE, what `calipr cache limit` has set, or 50 GB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
}

/// What every command has that reads models and data.
#[derive(Args)]
struct Machinery {
    /// Folder of fetched models and cached stages [default: calipr in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "CALIPR_CACHE", value_parser = folder())]
    cache: Option<PathBuf>,
    /// Never reach out to a network.
    #[arg(long, env = "CALIPR_OFFLINE", value_parser = BoolishValueParser::new())]
    offline: bool,
    /// CPU threads [default: $OMP_NUM_THREADS, $SLURM_CPUS_PER_TASK, or all that this process may use]
    #[arg(long, value_name = "N", env = "CALIPR_THREADS")]
    threads: Option<NonZeroUsize>,
    /// Only warnings and the result.
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Also what goes on inside a cell.
    #[arg(short, long)]
    verbose: bool,
}

/// A folder that may have come from a variable, where no shell has put `~` in full.
fn folder() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(|path| expanded(path.as_os_str()))
}

/// A recipe, which may be called by its name alone.
fn recipe() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(recipe::found)
}

/// Parses the command line; ends the program where it is wrong or asks for help.
pub fn arguments() -> Command {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => slips::explained(error, &arguments).exit(),
    }
}

/// Some cells of a study failed; the rest is done.
#[derive(Debug)]
struct CellsFailed {
    cells: usize,
    /// The command that tries them again: workers leave what has failed.
    again: &'static str,
}

impl std::fmt::Display for CellsFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of the cells failed; {} tries them again", self.cells, self.again)
    }
}

impl std::error::Error for CellsFailed {}

/// Says what went wrong, if anything, and what the exit code is.
pub fn exit_code(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let remedy = remedy(&error).map_or(String::new(), |remedy| format!("\n       = {remedy}"));
    // Where nobody listens, the exit code still tells.
    let _ = writeln!(io::stderr(), "error: {error:#}{remedy}");
    if error.is::<Problems>() || error.is::<Fault>() {
        ExitCode::from(2)
    } else if error.is::<CellsFailed>() {
        ExitCode::from(3)
    } else if error.is::<Interrupted>() || error.is::<source::Interrupted>() {
        ExitCode::from(130)
    } else {
        ExitCode::FAILURE
    }
}

/// What to do about what the system refused.
fn remedy(error: &Error) -> Option<String> {
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
    // A thread that finds no room for its stack is told to try again.
    let wants_memory = matches!(refused.kind(), ErrorKind::OutOfMemory | ErrorKind::WouldBlock);
    match memory::limit().filter(|_| wants_memory) {
        Some(limit) => Some(format!("{limit}; raise it, or ask for less")),
        None if error.is::<Unwritable>() => Some("--cache or CALIPR_CACHE names another folder".into()),
        None => None,
    }
}

impl SchemaArgs {
    /// Prints what a recipe may have.
    pub fn schema(&self) -> Result<()> {
        print(&if self.markdown { recipe::reference() } else { recipe::schema() })
    }
}

/// Prints to stdout; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

impl StudyArgs {
    fn open(&self) -> Result<(Run, Terminal)> {
        self.machinery.open(&self.recipe, &self.set, &self.cache_size)
    }

    fn results_dir(&self, recipe: &Recipe) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("results").join(&recipe.name))
    }
}

/// The cache in the folder that the command line or the environment names, or in its usual place.
fn cache_in(dir: Option<&PathBuf>) -> Cache {
    Cache::in_dir(&dir.cloned().unwrap_or_else(Cache::default_dir))
}

impl Machinery {
    /// A recipe's study, and what it is shown on; warns of what is set in vain.
    fn open(&self, recipe: &Path, set: &[String], CacheSize { cache_size }: &CacheSize) -> Result<(Run, Terminal)> {
        let cache = self.cache.clone().unwrap_or_else(Cache::default_dir);
        let run = Run::of(recipe, set, &Place { cache, size: *cache_size, offline: self.offline })?;
        let terminal = self.start()?;
        inert(&run.recipe, &run.layers).iter().for_each(|problem| tracing::warn!("{problem}"));
        Ok((run, terminal))
    }

    fn cache(&self) -> Cache {
        cache_in(self.cache.as_ref())
    }

    fn fetcher(&self, cache: &Cache) -> Fetcher {
        Fetcher { cache: cache.dir().to_owned(), offline: self.offline }
    }

    /// Starts threads, the log and the progress lines.
    fn start(&self) -> Result<Terminal> {
        let threads = Threads::wanted(self.threads);
        threads.start()?;
        let terminal = Terminal::start(self.quiet, self.verbose)?;
        threads.tell();
        Ok(terminal)
    }
}
