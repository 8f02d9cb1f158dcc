//! One split of a data set: its files, and their rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::dataset::Shown;
use super::files::Packed;
use super::rows::{Bundle, Gathered, Rows};
use super::value::{called, date, same};
use super::{Content, Format, Row, Shape, Templates};
use crate::bundled;
use crate::digest::Digest;
use crate::source::{Fetcher, OfSplit, Source};

/// One split of a data set, as a suite or a calibration reads it.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    pub(super) source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<String>,
    /// What the source calls it, where that has splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) split: Option<String>,
    pub(super) format: Option<Format>,
    pub(super) field: Option<String>,
    pub(super) rows: BTreeMap<String, Value>,
    pub templates: Option<Templates>,
    pub separator: String,
    #[serde(skip)]
    pub(super) folders: Vec<PathBuf>,
    #[serde(skip)]
    pub(super) bundled: bool,
    /// What its rows are, where they are no longer those of its files.
    #[serde(skip)]
    pub(super) called: Option<String>,
    /// Which of its rows stand as solved examples in front of another.
    #[serde(skip)]
    pub(super) shown: Shown,
}

impl Part {
    /// The source, as tables and logs name it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The part as texts that were made of it, which are joined by `separator`.
    pub fn of_texts(&self, called: String, separator: &str) -> Self {
        Self { templates: None, separator: separator.into(), called: Some(called), ..self.clone() }
    }

    /// What its rows are, in warnings: by default its source.
    pub fn called(&self) -> String {
        self.called.clone().unwrap_or_else(|| self.source.to_string())
    }

    /// The source in full, with the split of one that has splits.
    pub fn place(&self) -> String {
        let config = self.config.as_ref().map_or(String::new(), |config| format!(" {config}"));
        let split = self.split.as_ref().map_or(String::new(), |split| format!(" {split}"));
        format!("{}{config}{split}", self.source)
    }

    /// Whether it makes of a file what another makes of it.
    pub fn reads_as(&self, other: &Self) -> bool {
        let how = |part: &Self| (part.format, part.field.clone(), part.rows.clone());
        (how(self), &self.templates, &self.separator) == (how(other), &other.templates, &other.separator)
    }

    /// Whether it takes of a file the rows that another takes, whatever texts they make of them.
    pub fn takes_rows_of(&self, other: &Self) -> bool {
        (self.format, &self.field, &self.rows) == (other.format, &other.field, &other.rows)
    }

    /// Whether rows that both take are the same in memory: a template has fields that only other rows have as null.
    pub fn reads_alike(&self, other: &Self) -> bool {
        self.templates.is_some() == other.templates.is_some()
    }

    fn bases(&self) -> Vec<&Path> {
        self.folders.iter().map(PathBuf::as_path).collect()
    }

    /// Its rows, where they come with calipr.
    fn bundled(&self) -> Option<bundled::File> {
        let Source::Path(path) = &self.source else { return None };
        let is_here = self.folders.iter().any(|folder| folder.join(path).exists());
        bundled::rows(path).filter(|_| self.bundled && !is_here)
    }

    fn of_split(&self) -> OfSplit<'_> {
        OfSplit { config: self.config.as_deref(), split: self.split.as_deref().unwrap_or_default() }
    }

    /// The local files, fetched or unpacked if need be; their rows follow each other.
    pub fn files(&self, fetcher: &Fetcher) -> Result<Vec<PathBuf>> {
        match self.bundled() {
            Some(rows) => Ok(vec![rows.unpacked(&fetcher.cache)?]),
            None => self.source.rows(self.of_split(), &self.bases(), fetcher),
        }
    }

    /// The local files if they are here already; None also where they come with calipr.
    pub fn local(&self, fetcher: &Fetcher) -> Result<Option<Vec<PathBuf>>> {
        match self.bundled() {
            Some(_) => Ok(None),
            None => self.source.local_rows(self.of_split(), &self.bases(), fetcher),
        }
    }

    /// Whether nothing has to be fetched.
    pub fn is_here(&self, fetcher: &Fetcher) -> Result<bool> {
        Ok(self.bundled().is_some() || self.local(fetcher)?.is_some())
    }

    /// What can be said of files without reading their rows: that they are some, of a known format.
    pub fn check(&self, files: &[PathBuf]) -> Result<()> {
        files.iter().try_for_each(|file| {
            ensure!(file.is_file(), "{} is no file; a data set is files of rows", file.display());
            self.format_of(file).map(drop)
        })
    }

    /// How a file holds its rows.
    pub fn format_of(&self, file: &Path) -> Result<Format> {
        self.format.map_or_else(|| Format::of(file), Ok)
    }

    /// What the rows depend on: how they are read, and the content of the files, by their digests.
    pub fn digest(&self, files: &[(PathBuf, Digest)]) -> Result<Digest> {
        let read_as = (&self.rows, &self.templates, &self.separator);
        let of_file = |(file, content)| Ok(((self.format_of(file)?, Packed::of(file), &self.field), content));
        let contents = files.iter().map(|(file, content)| of_file((file, content))).collect::<Result<Vec<_>>>()?;
        let digest = match contents.as_slice() {
            [(how, content)] => Digest::of(&(how, read_as, content)),
            several => Digest::of(&(read_as, several)),
        };
        let Shown { alike, first, .. } = &self.shown;
        Ok(if alike.is_some() || *first { Digest::of(&(digest, alike, first)) } else { digest })
    }

    /// The split's rows.
    ///
    /// # Errors
    /// Where a file is not what its format says, or none of its rows is of this split.
    pub fn read(&self, files: &[PathBuf]) -> Result<Rows> {
        self.check(files)?;
        let mut gathered = Gathered::default();
        for file in files {
            let before = gathered.all();
            let taken = |rows| Bundle::of(rows, |row| self.takes(row));
            self.each(file, taken, &mut |bundle| gathered.add(bundle))?;
            ensure!(gathered.all() > before, "{} has no rows", file.display());
        }
        let rows = gathered.rows(self.templates.is_some());
        if rows.is_empty() {
            let place = match files {
                [file] => file.display().to_string(),
                _ => self.source.to_string(),
            };
            let mut all = Vec::new();
            for file in files {
                self.each(file, Ok, &mut |rows: Vec<Row>| {
                    all.extend(rows);
                    Ok(())
                })?;
            }
            bail!("{place} has no rows of this split: {}", self.unmatched(&all));
        }
        Ok(rows)
    }

    /// What is made of the rows of a file, a few at a time, is taken in their order.
    fn each<T: Send>(
        &self,
        file: &Path,
        make: impl Fn(Vec<Row>) -> Result<T> + Sync,
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let shape = Shape { field: self.field.as_deref(), templated: self.templates.is_some() };
        self.format_of(file)?.each(file, shape, &make, take)
    }

    /// Whether a row is of this split.
    fn takes(&self, row: &Row) -> bool {
        self.rows.iter().all(|(key, wanted)| row.get(key).is_some_and(|value| same(wanted, value)))
    }

    /// What rows say.
    pub fn contents(&self, rows: &[Row]) -> Vec<Result<Content>> {
        let contents = Content::of_all(rows, self.templates.as_ref()).into_iter();
        contents.map(|content| content.map_err(|error| self.explained(error))).collect()
    }

    /// Why a cell of a table is null, where an error says so.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let named = [".csv", ".tsv"].iter().any(|ending| self.source.to_string().to_lowercase().contains(ending));
        let is_table = self.format.map_or(named, |format| matches!(format, Format::Csv | Format::Tsv));
        let said = format!("{error:#}");
        match is_table && said.contains("is null") {
            true => anyhow::anyhow!(
                "{said} (in CSV an empty cell is null, and so is NA, None, null or nan, as pandas has it)"
            ),
            false => error,
        }
    }

    /// Which value of which field no row has.
    fn unmatched(&self, rows: &[Row]) -> String {
        let lone = |(key, wanted): &(&String, &Value)| {
            !rows.iter().any(|row| row.get(*key).is_some_and(|value| same(wanted, value)))
        };
        let Some((key, wanted)) = self.rows.iter().find(lone) else {
            return "each value of `rows` is found, but no row has them all".into();
        };
        let mut found: Vec<String> = Vec::new();
        for value in rows.iter().filter_map(|row| row.get(key)).map(called) {
            if !found.contains(&value) {
                found.push(value);
            }
            if found.len() > 5 {
                found[5] = "…".into();
                break;
            }
        }
        match found.is_empty() {
            true => format!("`rows` asks for `{key}`, which no row has"),
            false => format!(
                "`rows` asks for `{key}` = {}, but it is {}",
                date(wanted).map_or(wanted.to_string(), str::to_owned),
                found.join(", ")
            ),
        }
    }
}
