//! `calipr reproduce`

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::runner::Runner;
use super::table::Table;
use super::terminal::columns;
use super::{CacheSize, Machinery, print};
use crate::fault::Fault;
use crate::pipeline::Cache;
use crate::recipe::Layers;
use crate::report::{Comparison, Report, number};
use crate::results::Manifest;

#[derive(Args)]
pub struct ReproduceArgs {
    /// A folder of results, such as results/reference/quickstart.
    results: PathBuf,
    /// How far a value may lie from the recorded one: by this share of it, or where it is less than 1, by this much.
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    tolerance: f64,
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

/// Some values are not those that were recorded.
#[derive(Debug)]
pub struct NotReproduced(usize, usize);

impl std::fmt::Display for NotReproduced {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of {} values are not reproduced", self.0, self.1)
    }
}

impl std::error::Error for NotReproduced {}

impl ReproduceArgs {
    /// Runs a study again from its `run.json`, all of it, and compares.
    pub fn reproduce(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.tolerance) {
            return Err(Fault(format!("--tolerance {}: expected a share from 0 to 1", self.tolerance)).into());
        }
        let recorded = Report::read(&self.results)?;
        ensure!(!recorded.suites.is_empty(), "{} has no values to compare with", self.results.display());
        let own = self.results.canonicalize().ok();
        if self.out.is_some() && self.out.as_ref().and_then(|out| out.canonicalize().ok()) == own {
            let message = "--out is the folder of the recorded results, which the new ones would replace; give another";
            return Err(Fault(message.into()).into());
        }
        let before = Manifest::read(&self.results)?;
        let terminal = self.machinery.start()?;
        // What is in the cache was perhaps computed by the very run that is to be reproduced.
        let users = self.machinery.cache();
        let limit = self.cache_size.limit(&users)?;
        let cannot =
            || format!("cannot write to the cache {} (--cache or CALIPR_CACHE names another)", users.dir().display());
        let _hold = users.hold().with_context(cannot)?;
        let scratch = tempfile::Builder::new().prefix(crate::UNFINISHED).tempdir_in(users.dir());
        let scratch = scratch.context("cannot make a folder for the new run")?;
        let cache = Cache::in_dir(&scratch.path().join("cache"));
        let out = self.out.clone().unwrap_or_else(|| scratch.path().join("results"));
        let fetcher = self.machinery.fetcher(&users);
        let layers = Layers::nowhere(&self.results.join("run.json"));
        let after = Runner {
            recipe: &before.recipe,
            layers: &layers,
            path: &before.recipe_path,
            fetcher: &fetcher,
            cache: &cache,
            limit: &limit,
            out: &out,
            replaces: self.replace,
            terminal: &terminal,
        }
        .run()?;
        terminal.clear();

        let comparison = Comparison::of(&recorded, &Report::read(&out)?, self.tolerance);
        print(&text(&before, &after, &comparison, self.tolerance))?;
        match comparison.apart.len() {
            0 => Ok(()),
            apart => Err(NotReproduced(apart, comparison.values()).into()),
        }
    }
}

fn text(before: &Manifest, after: &Manifest, comparison: &Comparison, tolerance: f64) -> String {
    let mut text = String::new();
    let differences = before.differences(after);
    if differences.is_empty() {
        text += "the same model, data, versions and machine as recorded\n";
    } else {
        let mut table = Table::new(["what differs", "recorded", "now"]);
        let shown = |value: Option<String>| value.map_or("none".into(), |text| text.chars().take(40).collect());
        for difference in differences {
            table.row([difference.what, shown(difference.recorded), shown(difference.now)]);
        }
        text += &table.fitting(columns());
    }
    if !comparison.apart.is_empty() {
        let mut table = Table::new(["cell", "suite", "metric", "recorded", "now"]);
        let value = |value: Option<f64>| value.map_or("none".into(), number);
        for apart in &comparison.apart {
            let names = [&apart.cell, &apart.suite, &apart.metric].map(String::clone);
            table.row(names.into_iter().chain([value(apart.recorded), value(apart.now)]));
        }
        text += &format!("\n{}", table.fitting(columns()));
    }
    text + &format!(
        "\n{} of {} values are equal to the last bit, {} within {tolerance}, {} apart\n",
        comparison.equal,
        comparison.values(),
        comparison.close,
        comparison.apart.len()
    )
}
