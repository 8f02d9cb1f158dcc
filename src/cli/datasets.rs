//! `calipr datasets`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::shown::shown;
use super::terminal::columns;
use super::{cache_in, print};
use crate::bundled;
use crate::data::{Content, Dataset, Defined, Library};
use crate::fault::At;
use crate::source::{Fetcher, Source};
use crate::table::{Table, wrapped};

#[derive(Args)]
pub struct DatasetsArgs {
    /// One of them, or what else a recipe may name: path:FILE of rows or of a definition, hf:datasets/OWNER/NAME/FILE.
    name: Option<String>,
    /// Folder of fetched models and cached stages [default: calipr in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "CALIPR_CACHE", value_parser = super::folder())]
    cache: Option<PathBuf>,
}

/// Columns of text where standard output is no terminal.
const WIDTH: usize = 100;

impl DatasetsArgs {
    /// Lists the data sets that a recipe may name here, or shows one.
    pub fn datasets(&self) -> Result<()> {
        // As a recipe in this folder sees them.
        let library = Library::of_folders(vec![PathBuf::new()]);
        match &self.name {
            None => print(&listing(&library)),
            Some(name) => {
                let cache = cache_in(self.cache.as_ref());
                let fetcher = Fetcher { cache: cache.dir().to_owned(), offline: true };
                let dataset = library.get(name).at(|| format!("the data set \"{name}\""))?;
                print(&described(name, &dataset, &library, &fetcher)?)
            }
        }
    }
}

fn listing(library: &Library) -> String {
    let mut text = String::new();
    let width = columns().unwrap_or(WIDTH);
    for name in library.names() {
        let Some(defined) = library.defined(&name) else { continue };
        let dataset = match library.get(&name) {
            Ok(dataset) => dataset,
            // The others are none the worse for it.
            Err(error) => {
                text += &format!("{name}: it cannot be read: {error:#}\n");
                continue;
            }
        };
        let splits: Vec<&str> = dataset.splits.keys().map(String::as_str).collect();
        let splits = if splits.is_empty() { "one file".into() } else { splits.join(", ") };
        text += &format!("{name}: {splits}; {}\n", place(&name, &defined, &dataset));
        text += &wrapped(&dataset.description, width, "    ", "    ");
    }
    text + "\n`calipr datasets NAME` shows one, with a row; a file of your own is \"path:my.jsonl\".\n"
}

/// Where a data set is defined, and where its rows are.
fn place(name: &str, defined: &Defined, dataset: &Dataset) -> String {
    let splits = dataset.splits.values().filter_map(|split| split.source.as_ref());
    let source = dataset.source.as_ref().or(splits.into_iter().next());
    let rows = match source {
        Some(Source::Path(path)) if *defined == Defined::WithCalipr && bundled::rows(path).is_some() => {
            "rows with calipr".into()
        }
        Some(Source::Hub { repo, .. }) => format!("rows in hf:datasets/{repo}"),
        Some(source) => format!("rows in {source}"),
        None => "no rows".into(),
    };
    match defined {
        Defined::WithCalipr => rows,
        Defined::In(path) => {
            let instead = bundled::dataset(name).map_or("", |_| ", in place of the one that comes with calipr");
            format!("{rows}; defined in {}{instead}", path.display())
        }
    }
}

/// All of a data set: what it is, its definition, and a row where the rows are here.
fn described(name: &str, dataset: &Dataset, library: &Library, fetcher: &Fetcher) -> Result<String> {
    let mut text = wrapped(&format!("{name}: {}", dataset.description), columns().unwrap_or(WIDTH), "", "");
    if let Some(defined) = library.defined(name).filter(|_| !name.contains(':')) {
        let (definition, where_from) = match &defined {
            Defined::In(path) => {
                let read = std::fs::read_to_string(path);
                (read.with_context(|| format!("cannot read {}", path.display()))?, path.display().to_string())
            }
            Defined::WithCalipr => (bundled::dataset(name).unwrap_or_default().into(), "comes with calipr".into()),
        };
        text += &format!("\ndefinition ({where_from}):\n{}", indented(&definition));
    }
    let splits: Vec<Option<&str>> = match dataset.splits.is_empty() {
        true => vec![None],
        false => dataset.splits.keys().map(|split| Some(split.as_str())).collect(),
    };
    let mut table = Table::new(["split", "rows", "source"]);
    let mut row = None;
    for split in splits {
        let part = dataset.part(split, "test")?;
        let count = match part.is_here(fetcher).at(|| format!("the data set \"{name}\""))? {
            false => "not here yet".to_owned(),
            true => {
                let files = part.files(fetcher)?;
                let rows = part.read(&files).at(|| format!("the data set \"{name}\""))?;
                // What suites take first.
                if row.is_none() || split == Some("test") {
                    let first = rows.row(0)?;
                    let content = Content::of(&first, part.templates.as_ref());
                    row = Some((split.unwrap_or("the file").to_owned(), rows.number(0), first, content));
                }
                rows.len().to_string()
            }
        };
        table.row([split.unwrap_or("all").to_owned(), count, part.place()]);
    }
    text += &format!("\n{}", table.fitting(columns()));
    Ok(match row {
        None => {
            text + "\nA row is shown once the rows are here; a run of a recipe that names them fetches them, or says how.\n"
        }
        Some((split, number, row, content)) => {
            let fields = serde_json::to_string_pretty(&row).context("a row is JSON")?;
            let read = match content {
                Ok(content) => shown(&content),
                Err(error) => format!("  it cannot be read: {error:#}\n"),
            };
            format!("{text}\nrow {number}, the first of {split}:\n{}\nis read as\n{read}", indented(&fields))
        }
    })
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}
