//! One split of a data set: its files, and their rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::files::Packed;
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
}

impl Part {
    /// The source, as tables and logs name it.
    pub fn source(&self) -> &Source {
        &self.source
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
        Ok(match contents.as_slice() {
            [(how, content)] => Digest::of(&(how, read_as, content)),
            several => Digest::of(&(read_as, several)),
        })
    }

    /// The split's rows.
    ///
    /// # Errors
    /// Where a file is not what its format says, or none of its rows is of this split.
    pub fn read(&self, files: &[PathBuf]) -> Result<Rows> {
        self.check(files)?;
        let shape = Shape { field: self.field.as_deref(), templated: self.templates.is_some() };
        let mut all: Vec<Row> = Vec::new();
        for file in files {
            let rows = self.format_of(file)?.read(file, shape)?;
            ensure!(!rows.is_empty(), "{} has no rows", file.display());
            all.extend(rows);
        }
        let is_of_split =
            |row: &Row| self.rows.iter().all(|(key, wanted)| row.get(key).is_some_and(|value| same(wanted, value)));
        let numbers: Vec<usize> = (1..).zip(&all).filter(|(_, row)| is_of_split(row)).map(|(n, _)| n).collect();
        let place = || match files {
            [file] => file.display().to_string(),
            _ => self.source.to_string(),
        };
        ensure!(!numbers.is_empty(), "{} has no rows of this split: {}", place(), self.unmatched(&all));
        let mut rows = all;
        if numbers.len() < rows.len() {
            rows.retain(is_of_split);
        }
        if self.templates.is_some() {
            complete(&mut rows);
        }
        Ok(Rows { rows, numbers })
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

/// Gives rows the fields that only others have, as null: a template may ask whether there is one, as where `datasets`
/// has made a table of them.
fn complete(rows: &mut [Row]) {
    let mut fields: Vec<String> = Vec::new();
    for row in rows.iter() {
        let new = |key: &&String| !fields.contains(key);
        let new: Vec<String> = row.keys().filter(new).cloned().collect();
        fields.extend(new);
        if fields.len() > WIDEST {
            return;
        }
    }
    for row in rows.iter_mut().filter(|row| row.len() < fields.len()) {
        for field in &fields {
            row.entry(field.as_str()).or_insert(Value::Null);
        }
    }
}

/// More fields than a table has: rows with so many names use them as values.
const WIDEST: usize = 1000;

/// Rows of a data set, which know their numbers in its files.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    rows: Vec<Row>,
    numbers: Vec<usize>,
}

impl Rows {
    /// The number of a row in its file, or in its files one after the other, from 1.
    pub fn number(&self, index: usize) -> usize {
        self.numbers[index]
    }
}

impl std::ops::Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        &self.rows
    }
}

impl From<Vec<Row>> for Rows {
    fn from(rows: Vec<Row>) -> Self {
        Self { numbers: (1..=rows.len()).collect(), rows }
    }
}
