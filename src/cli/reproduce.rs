//! `calipr reproduce`

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::terminal::columns;
use super::{CacheSize, Machinery, print};
use crate::fault::{At, Fault};
use crate::pipeline::{Cache, Inputs};
use crate::recipe::Layers;
use crate::report::{Comparison, Report, TOLERANCE, Wanted};
use crate::results::{Difference, Manifest};
use crate::study::Run;
use crate::table::Table;

#[derive(Args)]
pub struct ReproduceArgs {
    /// A folder of results, such as results/reference/quickstart.
    results: PathBuf,
    /// Where the recipe's data lies, if it has moved: relative paths start here first [default: where run.json says]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How far a value may lie from the recorded one, as a share of it (a loss: in nats) [default: 0.001; of what answers
    /// and choices score, nothing: where one differs, a row came out otherwise]
    #[arg(long, value_name = "SHARE")]
    tolerance: Option<f64>,
    /// Keep the new results in this folder [default: they are thrown away]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Overwrite what that folder has of another study.
    #[arg(long, requires = "out")]
    replace: bool,
    #[command(flatten)]
    cache_size: CacheSize,
    #[command(flatten)]
    machinery: Machinery,
}

/// Some values are not those that were recorded, or come of something else.
#[derive(Debug)]
struct NotReproduced {
    /// What of the study is not as it was.
    different: Vec<String>,
    apart: usize,
    values: usize,
}

impl fmt::Display for NotReproduced {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { different, apart, values } = self;
        match different.is_empty() {
            true => write!(f, "{apart} of {values} values are not reproduced"),
            false => write!(
                f,
                "it is not the recorded study: {} {} changed ({apart} of {values} values are apart)",
                different.join("; "),
                if different.len() == 1 { "has" } else { "have" }
            ),
        }
    }
}

impl std::error::Error for NotReproduced {}

impl ReproduceArgs {
    /// Runs a study again from its `run.json`, all of it, and compares.
    pub fn reproduce(&self) -> Result<()> {
        if let Some(tolerance) = self.tolerance.filter(|tolerance| !(0.0..=1.0).contains(tolerance)) {
            return Err(Fault(format!("--tolerance {tolerance}: expected a share from 0 to 1")).into());
        }
        let recorded = Report::read(&self.results, &Wanted::default())?;
        ensure!(!recorded.suites.is_empty(), "{} has no values to compare with", self.results.display());
        let own = self.results.canonicalize().ok();
        if self.out.is_some() && self.out.as_ref().and_then(|out| out.canonicalize().ok()) == own {
            let message = "--out is the folder of the recorded results, which the new ones would replace; give another";
            return Err(Fault(message.into()).into());
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(Fault(format!("--folder {}: there is no such folder", folder.display())).into());
        }
        let before = Manifest::read(&self.results)?;
        let moved = self.folder.as_deref();
        let library = before.library(&self.results, moved);
        let terminal = self.machinery.start()?;
        // What is in the cache was perhaps computed by the very run that is to be reproduced.
        let users = self.machinery.cache();
        let limit = users.limit(self.cache_size.cache_size)?;
        let cannot =
            || format!("cannot write to the cache {} (--cache or CALIPR_CACHE names another)", users.dir().display());
        let _hold = users.hold().with_context(cannot)?;
        let scratch = tempfile::Builder::new().prefix(crate::UNFINISHED).tempdir_in(users.dir());
        let scratch = scratch.context("cannot make a folder for the new run")?;
        let cache = Cache::in_dir(&scratch.path().join("cache"));
        let out = self.out.clone().unwrap_or_else(|| scratch.path().join("results"));
        let fetcher = self.machinery.fetcher(&users);
        Inputs::are_local(&before.recipe, &library, &fetcher)
            .at(|| "not everything is where it was; --folder DIR says where the recipe's data lies now".into())?;
        let ran = Run {
            recipe: before.recipe.clone(),
            layers: Layers::nowhere(&self.results.join("run.json")),
            path: before.recipe_path.clone(),
            library,
            fetcher,
            cache,
            limit,
        }
        .to_tables(&out, self.replace, &terminal);
        terminal.clear();
        let mut after = ran?;

        // The recorded definitions were used; a run of the recipe would now use these.
        after.datasets = before.datasets_now(&self.results, moved);
        let differences = before.differences(&after);
        let comparison = Comparison::of(&recorded, &Report::read(&out, &Wanted::default())?, self.tolerance);
        print(&text(&differences, &comparison, self.tolerance))?;
        let of_the_study = differences.into_iter().filter(|difference| difference.is_of_the_study);
        let different: Vec<String> = of_the_study.map(|difference| difference.what).collect();
        let (apart, values) = (comparison.apart.len(), comparison.values());
        match apart == 0 && different.is_empty() {
            true => Ok(()),
            false => Err(NotReproduced { different, apart, values }.into()),
        }
    }
}

fn text(differences: &[Difference], comparison: &Comparison, tolerance: Option<f64>) -> String {
    let mut text = String::new();
    if differences.is_empty() {
        text += "the same model, data, versions and machine as recorded\n";
    } else {
        let mut table = Table::new(["what differs", "recorded", "now"]);
        let shown =
            |value: &Option<String>| value.as_ref().map_or("none".into(), |text| text.chars().take(40).collect());
        for difference in differences {
            table.row([difference.what.clone(), shown(&difference.recorded), shown(&difference.now)]);
        }
        text += &table.fitting(columns());
    }
    if !comparison.apart.is_empty() {
        let mut table = Table::new(["cell", "suite", "metric", "recorded", "now"]);
        let value = |value: Option<f64>| value.map_or("none".into(), |v| v.to_string());
        for apart in &comparison.apart {
            let names = [&apart.cell, &apart.suite, &apart.metric].map(String::clone);
            table.row(names.into_iter().chain([value(apart.recorded), value(apart.now)]));
        }
        text += &format!("\n{}", table.fitting(columns()));
    }
    text += &format!(
        "\n{} of {} values are equal to the last bit, {} within {}, {} apart\n",
        comparison.equal,
        comparison.values(),
        comparison.close,
        tolerance.unwrap_or(TOLERANCE),
        comparison.apart.len()
    );
    if !comparison.new.is_empty() {
        let were = match comparison.new.len() {
            1 => "1 cell was".into(),
            n => format!("{n} cells were"),
        };
        text += &format!("{were} not done when it was recorded: there is nothing to compare with\n");
    }
    if differences.is_empty() && comparison.equal < comparison.values() {
        text += "on the same machine all of them should be equal to the last bit\n";
    }
    text
}
