//! The tables of a study, queried with polars.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use polars::prelude::*;

use super::Setting;
use crate::guard::guarded;

/// A folder of tables.
pub struct Tables<'a> {
    pub dir: &'a Path,
}

/// A table that was read, by column.
pub struct Frame {
    frame: DataFrame,
    pub path: PathBuf,
}

impl Frame {
    fn column(&self, name: &str) -> Result<&Column> {
        let missing = || format!("{} has no column `{name}`; was it written by another version?", self.path.display());
        anyhow::Context::with_context(self.frame.column(name), missing)
    }

    /// A column as values of one type.
    fn of_type<'a, T>(&'a self, name: &str, values: impl FnOnce(&'a Column) -> PolarsResult<T>) -> Result<T> {
        let other = || format!("the column `{name}` of {} holds something else", self.path.display());
        anyhow::Context::with_context(values(self.column(name)?), other)
    }

    pub fn some_texts(&self, name: &str) -> Result<Vec<Option<String>>> {
        let values = self.of_type(name, Column::str)?;
        Ok(values.iter().map(|v| v.map(str::to_owned)).collect())
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.some_texts(name)?.into_iter().map(Option::unwrap_or_default).collect())
    }

    pub fn some_reals(&self, name: &str) -> Result<Vec<Option<f64>>> {
        Ok(self.of_type(name, Column::f64)?.iter().collect())
    }

    pub fn reals(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.some_reals(name)?.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
    }

    pub fn some_counts(&self, name: &str) -> Result<Vec<Option<u64>>> {
        Ok(self.of_type(name, Column::u64)?.iter().collect())
    }

    pub fn counts(&self, name: &str) -> Result<Vec<u64>> {
        Ok(self.some_counts(name)?.into_iter().map(Option::unwrap_or_default).collect())
    }

    pub fn some_text_lists(&self, name: &str) -> Result<Vec<Option<Vec<String>>>> {
        let texts = |series: Series| -> PolarsResult<Vec<String>> {
            Ok(series.str()?.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
        };
        self.lists(name, texts)
    }

    pub fn some_real_lists(&self, name: &str) -> Result<Vec<Option<Vec<f64>>>> {
        let reals = |series: Series| -> PolarsResult<Vec<f64>> {
            Ok(series.f64()?.iter().map(|value| value.unwrap_or(f64::NAN)).collect())
        };
        self.lists(name, reals)
    }

    /// A column of lists, each read by itself.
    fn lists<T>(&self, name: &str, read: impl Fn(Series) -> PolarsResult<T>) -> Result<Vec<Option<T>>> {
        self.of_type(name, |column| {
            let lists = column.list()?;
            (0..lists.len()).map(|i| lists.get_as_series(i).map(&read).transpose()).collect()
        })
    }

    /// The settings that rows are of. Their names are in the column `name`; the other columns begin with `prefix`.
    pub fn settings(&self, name: &str, prefix: &str) -> Result<Vec<Setting>> {
        let column = |of: &str| format!("{prefix}{of}");
        let (names, methods) = (self.texts(name)?, self.texts(&column("method"))?);
        let (patterns, sparsities) = (self.texts(&column("pattern"))?, self.some_reals(&column("sparsity"))?);
        let calibrations = self.some_texts(&column("calibration"))?;
        let setting = |i: usize| Setting {
            name: names[i].clone(),
            method: methods[i].clone(),
            pattern: patterns[i].clone(),
            sparsity: sparsities[i],
            calibration: calibrations[i].clone(),
        };
        Ok((0..names.len()).map(setting).collect())
    }
}

impl Tables<'_> {
    /// What a query makes of the table of that name.
    pub fn query(&self, name: &str, query: impl FnOnce(LazyFrame) -> LazyFrame) -> Result<Frame> {
        let path = self.dir.join(format!("{name}.parquet"));
        let read = || -> Result<DataFrame> {
            let text = path.to_str().context("the path is not UTF-8")?;
            ensure!(path.is_file(), "it is not there, or no file");
            // The path is a path: no pattern, and no `key=value` folders that make columns.
            let as_it_is =
                ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
            Ok(query(LazyFrame::scan_parquet(text.into(), as_it_is)?).collect()?)
        };
        let frame = guarded(read).map_err(|e| {
            let said = format!("{e:#}"); // of a query that fails, polars also prints the plan
            let what = said.lines().next().unwrap_or_default();
            anyhow!("cannot read {}, or calipr did not write it: {what}", path.display())
        })?;
        Ok(Frame { frame, path })
    }
}
