//! Handing a study to a system that starts programs on machines of a cluster: an engine a file, which says what is written
//! and which commands hand it over; what writes and runs them is here.
//!
//! Every engine is given the same two things: workers (`calipr work`), which take cells that nobody has taken until none is
//! left, and, when they have ended, however that was, `calipr run`, which finds their cells in the cache, computes what is
//! left and makes the tables. What an engine loses is therefore time, and never a cell.

mod hq;
mod record;
mod shell;
mod slurm;
mod standing;
mod submission;

use anyhow::Result;
use clap::ValueEnum;

pub use record::{Asked, Record};
pub use shell::{is_of_one_machine, quoted, working_folder};
pub use standing::{Holder, Standing, State, standing};
pub use submission::{printed, submit, waiting};

/// A study's workers, and what is run after them.
#[derive(Debug, Clone)]
pub struct Job {
    /// The study's name, of the letters that [`crate::recipe::Recipe::name`] may have.
    pub name: String,
    /// This program.
    pub program: String,
    /// Where the command was given, and relative paths start.
    pub folder: String,
    /// Where scripts and logs go, in full.
    pub jobs: String,
    /// The recipe's file, whose copy lies in `jobs`; None of one in the program.
    pub recipe: Option<String>,
    /// Arguments of the program: a worker's, and those of the run that makes the tables.
    pub work: Vec<String>,
    pub run: Vec<String>,
    pub workers: usize,
    pub needs: Needs,
    /// Variables that the program heeds, by name; none is a secret.
    pub environment: Vec<(String, String)>,
    /// The names of all variables where the command was given.
    pub variables: Vec<String>,
    /// Options of the engine's own, over all others.
    pub options: Vec<String>,
}

/// What a worker needs of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Needs {
    /// Threads that were asked for.
    pub threads: Option<usize>,
    /// Bytes; None where that is not known.
    pub memory: Option<u64>,
    /// For all cells that a worker takes; None where that is not known.
    pub seconds: Option<f64>,
    pub gpus: usize,
}

/// A file of the folder `jobs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub name: &'static str,
    pub text: String,
}

/// Tasks of a job that wait or run.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub job: String,
    /// In the engine's words, such as `RUNNING`.
    pub state: String,
    pub tasks: usize,
}

/// What starts programs on the machines of a cluster.
///
/// Its functions say what is to be done and read what was answered; they touch nothing.
pub trait Engine: Sync {
    /// The files that describe the job.
    ///
    /// # Errors
    /// What the engine cannot be told, such as a path that it reads otherwise.
    fn files(&self, job: &Job) -> Result<Vec<Written>>;

    /// The next command to give, once earlier ones were answered with these ids; None when all is handed over.
    fn command(&self, job: &Job, ids: &[String]) -> Option<Vec<String>>;

    /// The id in what a command of those printed.
    fn id(&self, printed: &str) -> Option<String>;

    /// What each id is of.
    fn parts(&self) -> &'static [&'static str];

    /// What logs are called, in `jobs`; None where an option of the user's has them elsewhere.
    fn logs(&self, job: &Job, ids: &[String]) -> Option<String>;

    /// The command that ends these jobs.
    fn cancel(&self, ids: &[String], options: &[String]) -> Vec<String>;

    /// The command that lists which of these jobs wait or run, and what its answer says; one that knows none of them may fail.
    fn queue(&self, ids: &[String], options: &[String]) -> Vec<String>;

    fn waiting(&self, printed: &str) -> Vec<Waiting>;

    /// What is asked of the cluster for each worker, and what is left to it.
    fn asked(&self, job: &Job) -> String;

    /// What may be done about a refusal; None where its own words say it.
    fn remedy(&self, _refusal: &str) -> Option<&'static str> {
        None
    }
}

/// Declares the engines that `--to` may name.
macro_rules! engines {
    ($($(#[doc = $doc:literal])* $variant:ident => $module:ident::$engine:ident),+ $(,)?) => {
        /// The name of an engine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum EngineName {
            $($(#[doc = $doc])* $variant),+
        }

        impl EngineName {
            /// The name as command lines spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($module)),+
                }
            }

            pub fn engine(self) -> &'static dyn Engine {
                match self {
                    $(Self::$variant => &$module::$engine),+
                }
            }
        }
    };
}

engines! {
    /// Slurm: an array of jobs by sbatch
    Slurm => slurm::Slurm,
    /// HyperQueue: a job file by hq
    Hq => hq::HyperQueue,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A study in a folder whose name a shell would take apart.
    pub(super) fn job() -> Job {
        let text = |words: &str| words.split(' ').map(str::to_owned).collect();
        Job {
            name: "tiny".into(),
            program: "/opt/my programs/calipr".into(),
            folder: "/home/o'neil/it's here".into(),
            jobs: "/home/o'neil/it's here/results/tiny/jobs".into(),
            recipe: Some("recipe.toml".into()),
            work: text("work recipe.toml --set grid.sparsity=[0.5] --cache /shared/cache"),
            run: text("run recipe.toml --set grid.sparsity=[0.5] --cache /shared/cache --replace"),
            workers: 4,
            needs: Needs::default(),
            environment: vec![("CALIPR_MODEL__DTYPE".into(), "bf16".into())],
            variables: vec![],
            options: vec![],
        }
    }

    #[test]
    fn an_engine_has_one_name_everywhere() {
        for name in EngineName::value_variants() {
            assert_eq!(name.to_possible_value().unwrap().get_name(), name.as_str());
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
    }
}
