//! `calipr cache`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::terminal::columns;
use super::{cache_in, print};
use crate::bundled;
use crate::digest;
use crate::pipeline::{Cache, Limit, LimitBy};
use crate::size::Size;
use crate::study::{ago, gone};
use crate::table::Table;

#[derive(Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    what: What,
    /// Folder of fetched models and cached stages [default: calipr in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "CALIPR_CACHE", global = true, value_parser = super::folder())]
    cache: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// List what the cache holds, by stage, and what it may hold.
    Ls,
    /// Set what this cache may hold, in its own file (config.toml); CALIPR_CACHE_SIZE and --cache-size say otherwise.
    ///
    /// A study makes room when a cell is done: the least recently used stages go first, and never what a running study
    /// needs.
    Limit {
        /// Such as "200 GB".
        #[arg(value_name = "SIZE")]
        size: Size,
    },
    /// Remove the least recently used stages until what is left takes at most SIZE; never what a running study needs.
    Trim {
        /// Such as "20 GB".
        #[arg(long, value_name = "SIZE")]
        to: Size,
    },
    /// Remove all stages that no running study needs.
    Clear {
        /// Fetched models too.
        #[arg(long)]
        sources: bool,
    },
}

impl CacheArgs {
    /// Lists the cache, or makes room in it.
    pub fn cache(&self) -> Result<()> {
        let cache = cache_in(self.cache.as_ref());
        match self.what {
            What::Ls => print(&listing(&cache)?),
            What::Limit { size } => {
                cache.set_limit(size)?;
                let dir = cache.dir().display();
                print(&format!("{dir} may hold {size} of stages; it holds {}\n", cache.stages_size()))?;
                match cache.limit(None)? {
                    Limit { by: LimitBy::File(_), .. } => Ok(()),
                    other => print(&format!("but as long as CALIPR_CACHE_SIZE says so, its limit is {other}\n")),
                }
            }
            What::Trim { to } => removed(&cache, to),
            What::Clear { sources } => {
                removed(&cache, Size(0))?;
                // Small, and made again.
                for folder in [digest::MEMORY, bundled::FOLDER] {
                    let _ = std::fs::remove_dir_all(cache.dir().join(folder));
                }
                cache.forget_studies();
                let folder = cache.sources();
                if sources && folder.exists() {
                    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
                    print("removed the fetched models\n")?;
                }
                Ok(())
            }
        }
    }
}

fn listing(cache: &Cache) -> Result<String> {
    let mut table = Table::new(["stage", "entries", "size", "last used"]);
    let usage = cache.usage();
    for u in usage.iter().filter(|u| u.entries > 0) {
        table.row([u.kind.to_owned(), u.entries.to_string(), u.size.to_string(), u.used.map_or(String::new(), ago)]);
    }
    let total = Size(usage.iter().map(|u| u.size.0).sum());
    let (limit, stages) = (cache.limit(None)?, cache.stages_size());
    Ok(format!(
        "{}\n\n{}\n{total} in all\nlimit of the stages: {limit}, of which {} are free\n",
        cache.dir().display(),
        table.fitting(columns()),
        Size(limit.size.0.saturating_sub(stages.0))
    ))
}

fn removed(cache: &Cache, to: Size) -> Result<()> {
    let trimmed = cache.trim(to);
    match trimmed.entries() {
        0 => print("nothing to remove\n")?,
        _ => print(&format!("removed {}\n", gone(&trimmed)))?,
    }
    if trimmed.beyond.0 > 0 {
        print(&format!("{} more stay: running studies need them\n", trimmed.beyond))?;
    }
    trimmed.refused.map_or(Ok(()), Err)
}
