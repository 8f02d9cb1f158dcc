//! The data sets that a recipe may name: those of folders, and those that come with the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Dataset;
use crate::source::{Fetcher, Source, meant};
use crate::{bundled, words};

/// Where data sets are looked up by name.
#[derive(Debug, Clone)]
pub struct Library {
    folders: Vec<PathBuf>,
    base: Vec<PathBuf>,
    /// What is known by these names, whatever lies in the folders.
    recorded: BTreeMap<String, Dataset>,
}

/// Where a data set is defined that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defined {
    In(PathBuf),
    /// In the program itself.
    WithCalipr,
}

impl Library {
    /// The data sets of `./datasets`, of `datasets` beside the recipe or its folder, and those that come with calipr.
    /// Relative paths in a recipe start at the working directory, or else at the recipe.
    pub fn of_recipe(recipe: &Path) -> Self {
        if bundled::recipe(recipe).is_some() {
            return Self::of_folders(vec![PathBuf::new()]);
        }
        let beside = recipe.parent().map(Path::to_owned).unwrap_or_default();
        // A link to a recipe stands for one that lies elsewhere, with its data.
        let real = recipe.is_symlink().then(|| recipe.canonicalize().ok()).flatten();
        let real = real.and_then(|recipe| recipe.parent().map(Path::to_owned));
        Self::of_folders(std::iter::once(PathBuf::new()).chain(std::iter::once(beside)).chain(real).collect())
    }

    /// The data sets of `datasets` in the first folder, which is the working one, and in or beside the others. Relative
    /// paths start at each of them.
    pub fn of_folders(base: Vec<PathBuf>) -> Self {
        let around = |folder: &PathBuf| [folder.join("datasets"), folder.join("../datasets")];
        let working = base.first().map(|folder| folder.join("datasets"));
        let folders = working.into_iter().chain(base.iter().skip(1).flat_map(around));
        Self { folders: folders.filter(|f| f.is_dir()).collect(), base, recorded: BTreeMap::new() }
    }

    /// The same, but for data sets that are known by their names.
    pub fn with(self, recorded: BTreeMap<String, Dataset>) -> Self {
        Self { recorded, ..self }
    }

    /// Where relative paths in the recipe start.
    pub fn bases(&self) -> Vec<&Path> {
        self.base.iter().map(PathBuf::as_path).collect()
    }

    /// The names that a recipe may use.
    pub fn names(&self) -> Vec<String> {
        let files = self.folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten();
        let mut names: Vec<String> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .chain(bundled::datasets().map(str::to_owned))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Where the data set of that name is defined.
    pub fn defined(&self, name: &str) -> Option<Defined> {
        let file = self.folders.iter().map(|f| f.join(format!("{name}.toml"))).find(|p| p.is_file());
        file.map(Defined::In).or_else(|| bundled::dataset(name).map(|_| Defined::WithCalipr))
    }

    /// The data set that a recipe calls `name`: a name, `path:…toml`, `path:…` or another source of a data file.
    ///
    /// # Errors
    /// Where there is none, or its TOML is wrong.
    pub fn get(&self, name: &str) -> Result<Dataset> {
        if let Some(recorded) = self.recorded.get(name) {
            return Ok(recorded.clone());
        }
        if name.contains(':') {
            let source: Source = name.parse().map_err(anyhow::Error::msg)?;
            return match &source {
                Source::Path(path) if path.extension().is_some_and(|e| e == "toml") => {
                    let fetcher = Fetcher { cache: PathBuf::new(), offline: true };
                    Dataset::open(&source.resolve(&self.bases(), &fetcher)?)
                }
                _ => Ok(Dataset::of_file(source, self.base.clone())),
            };
        }
        match (self.defined(name), bundled::dataset(name)) {
            (Some(Defined::In(path)), _) => Dataset::open(&path),
            (_, Some(text)) => {
                let own = Dataset::read(text, &Path::new("datasets").join(format!("{name}.toml")))?;
                Ok(own.with_calipr())
            }
            (_, None) => {
                let names = self.names();
                let nearest = words::nearest(name, names.iter().map(String::as_str));
                let meant = meant(name).map(|source| match source.strip_prefix("hf:") {
                    Some(repo) if !repo.starts_with("datasets/") => format!("hf:datasets/{repo}"),
                    _ => source,
                });
                // A file that is not there is not what was meant.
                let looks_like_file = name.contains(['/', '.']);
                let is_there = |source: &String| match source.strip_prefix("path:") {
                    Some(path) => self.base.iter().any(|base| base.join(path).is_file()),
                    None => true,
                };
                let no_file = looks_like_file && meant.as_ref().is_some_and(|source| !is_there(source));
                let hint = meant.filter(|source| looks_like_file && is_there(source)).or(nearest.map(str::to_owned));
                let hint = hint.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
                let hint = if no_file { format!(", and no such file{hint}") } else { hint };
                let known = names.join(", ");
                bail!("there is no data set \"{name}\"{hint} (known: {known}; a file of your own is \"path:my.jsonl\")")
            }
        }
    }
}
