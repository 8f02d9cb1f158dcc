//! `calipr work`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{CacheSize, CellsFailed, Machinery, print, recipe};
use crate::study::Worked;

#[derive(Args)]
pub struct WorkArgs {
    /// The recipe, a TOML file, or the name of one that comes with calipr; - reads it from standard input.
    #[arg(value_parser = recipe())]
    recipe: PathBuf,
    /// Set a key of the recipe, over the file and the environment: --set grid.sparsity='[0.7]'.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    cache_size: CacheSize,
    #[command(flatten)]
    machinery: Machinery,
}

impl WorkArgs {
    /// Runs cells of the study that nobody else has, into the cache.
    pub fn work(&self) -> Result<()> {
        let (run, terminal) = self.machinery.open(&self.recipe, &self.set, &self.cache_size)?;
        let worked = run.to_cache(&terminal);
        terminal.clear();
        let Worked { ran, failed } = worked?;
        let cells = if ran == 1 { "cell" } else { "cells" };
        print(&format!("{}: {ran} {cells} run here; none is left to take\n", run.recipe.name))?;
        match failed {
            0 => Ok(()),
            cells => Err(CellsFailed { cells, again: "`calipr run`" }.into()),
        }
    }
}
