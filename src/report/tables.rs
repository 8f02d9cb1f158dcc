//! The tables of a study, queried with polars.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchReader, StringArray, UInt64Array,
    new_empty_array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType as Arrow, Field, Float64Type, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use polars::prelude::{Column, DataFrame, IntoColumn, IntoLazy, LazyFrame, NamedFrom, PolarsResult, Series};

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

    pub fn flags(&self, name: &str) -> Result<Vec<bool>> {
        Ok(self.of_type(name, Column::bool)?.iter().map(Option::unwrap_or_default).collect())
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

/// What is read of a table.
#[derive(Clone, Copy, Default)]
pub struct Part<'a> {
    /// Its columns; by default all.
    pub columns: Option<&'a [&'a str]>,
    /// Only rows that have these texts in these columns, which are among those that are read.
    pub rows: &'a [(&'a str, &'a str)],
}

impl Tables<'_> {
    /// What a query makes of the table of that name.
    pub fn query(&self, name: &str, query: impl FnOnce(LazyFrame) -> LazyFrame) -> Result<Frame> {
        self.query_some(name, Part::default(), query)
    }

    /// What a query makes of a part of the table of that name: the rest of it is not kept in memory.
    pub fn query_some(&self, name: &str, part: Part, query: impl FnOnce(LazyFrame) -> LazyFrame) -> Result<Frame> {
        let path = self.dir.join(format!("{name}.parquet"));
        let read = || -> Result<DataFrame> {
            ensure!(path.is_file(), "it is not there, or no file");
            Ok(query(frame(&part.read(&path)?)?.lazy()).collect()?)
        };
        let frame = guarded(read).map_err(|e| {
            let said = format!("{e:#}"); // of a query that fails, polars also prints the plan
            let what = said.lines().next().unwrap_or_default();
            anyhow!("cannot read {}, or calipr did not write it: {what}", path.display())
        })?;
        Ok(Frame { frame, path })
    }
}

/// Rows of a table that follow each other, by column.
pub struct Rows<'a> {
    batch: &'a RecordBatch,
}

impl<'a> Rows<'a> {
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    fn column<T: 'static>(&self, name: &str) -> Result<&'a T> {
        let column = self.batch.column_by_name(name);
        let column =
            column.with_context(|| format!("it has no column `{name}`; was it written by another version?"))?;
        column.as_any().downcast_ref().with_context(|| format!("its column `{name}` holds something else"))
    }

    pub fn texts(&self, name: &str) -> Result<&'a StringArray> {
        self.column(name)
    }

    pub fn reals(&self, name: &str) -> Result<&'a Float64Array> {
        self.column(name)
    }

    pub fn counts(&self, name: &str) -> Result<&'a UInt64Array> {
        self.column(name)
    }

    /// The settings that rows are of, as [`Frame::settings`] has them; by row.
    pub fn settings(&self, name: &str, prefix: &str) -> Result<impl Fn(usize) -> Setting + use<'a>> {
        let column = |of: &str| format!("{prefix}{of}");
        let (names, methods) = (self.texts(name)?, self.texts(&column("method"))?);
        let (patterns, sparsities) = (self.texts(&column("pattern"))?, self.reals(&column("sparsity"))?);
        let calibrations = self.texts(&column("calibration"))?;
        Ok(move |i: usize| Setting {
            name: names.value(i).to_owned(),
            method: methods.value(i).to_owned(),
            pattern: patterns.value(i).to_owned(),
            sparsity: some(sparsities.is_valid(i), || sparsities.value(i)),
            calibration: some(calibrations.is_valid(i), || calibrations.value(i).to_owned()),
        })
    }
}

/// A value that may be null.
fn some<T>(is_valid: bool, value: impl FnOnce() -> T) -> Option<T> {
    is_valid.then(value)
}

pub fn some_real(values: &Float64Array, i: usize) -> Option<f64> {
    some(values.is_valid(i), || values.value(i))
}

pub fn some_count(values: &UInt64Array, i: usize) -> Option<u64> {
    some(values.is_valid(i), || values.value(i))
}

impl Tables<'_> {
    /// Goes through some columns of the table of that name, which may be long: never more than a few thousand rows are in memory.
    pub fn scan(&self, name: &str, columns: &[&str], mut each: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        let path = self.dir.join(format!("{name}.parquet"));
        let read = || -> Result<()> {
            ensure!(path.is_file(), "it is not there, or no file");
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)?;
            let mask = ProjectionMask::columns(reader.parquet_schema(), columns.iter().copied());
            for batch in reader.with_projection(mask).with_batch_size(BATCH).build()? {
                each(Rows { batch: &batch? })?;
            }
            Ok(())
        };
        guarded(read).map_err(|e| anyhow!("cannot read {}, or calipr did not write it: {e:#}", path.display()))
    }
}

/// Rows that are read together.
const BATCH: usize = 8192;

impl Part<'_> {
    fn read(&self, path: &Path) -> Result<RecordBatch> {
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
        if let Some(columns) = self.columns {
            let mask = ProjectionMask::columns(reader.parquet_schema(), columns.iter().copied());
            reader = reader.with_projection(mask);
        }
        let groups = self.groups(reader.metadata());
        let reader = reader.with_row_groups(groups).build()?;
        let schema = reader.schema();
        let batches = reader.map(|batch| self.filtered(batch?)).collect::<Result<Vec<_>>>()?;
        Ok(concat_batches(&schema, &batches)?)
    }

    /// The row groups that can have such rows, by the least and the greatest text that each has in a column.
    fn groups(&self, metadata: &ParquetMetaData) -> Vec<usize> {
        let may_have = |group: &RowGroupMetaData, (name, text): &(&str, &str)| {
            let column = group.columns().iter().find(|column| column.column_path().string() == *name);
            let Some(statistics) = column.and_then(|column| column.statistics()) else { return true };
            let least = statistics.min_bytes_opt().is_none_or(|least| least <= text.as_bytes());
            least && statistics.max_bytes_opt().is_none_or(|greatest| text.as_bytes() <= greatest)
        };
        let groups = metadata.row_groups().iter().enumerate();
        groups.filter(|(_, group)| self.rows.iter().all(|row| may_have(group, row))).map(|(i, _)| i).collect()
    }

    fn filtered(&self, mut batch: RecordBatch) -> Result<RecordBatch> {
        for (name, text) in self.rows {
            let column = batch.column_by_name(name).with_context(|| format!("it has no column `{name}`"))?;
            let column = column.as_string_opt::<i32>().with_context(|| format!("`{name}` holds no texts"))?;
            let has: BooleanArray = column.iter().map(|value| Some(value == Some(*text))).collect();
            batch = filter_record_batch(&batch, &has)?;
        }
        Ok(batch)
    }
}

/// An Arrow batch as polars has it.
fn frame(batch: &RecordBatch) -> Result<DataFrame> {
    let column = |(field, array): (&Arc<Field>, &ArrayRef)| Ok(series(field.name(), array)?.into_column());
    let columns = batch.schema().fields().iter().zip(batch.columns()).map(column).collect::<Result<Vec<_>>>()?;
    Ok(DataFrame::new(batch.num_rows(), columns)?)
}

fn series(name: &str, array: &ArrayRef) -> Result<Series> {
    let name = name.into();
    Ok(match array.data_type() {
        Arrow::Utf8 => Series::new(name, array.as_string::<i32>().iter().collect::<Vec<_>>()),
        Arrow::Float64 => Series::new(name, array.as_primitive::<Float64Type>().iter().collect::<Vec<_>>()),
        Arrow::UInt64 => Series::new(name, array.as_primitive::<UInt64Type>().iter().collect::<Vec<_>>()),
        Arrow::Boolean => Series::new(name, array.as_boolean().iter().collect::<Vec<_>>()),
        Arrow::List(of) => {
            let lists = array.as_list::<i32>().iter();
            let lists = lists.map(|list| list.map(|list| series("", &list)).transpose()).collect::<Result<Vec<_>>>()?;
            let empty = series("", &new_empty_array(of.data_type()))?;
            // The type of a column without a list is told by an empty one.
            let told: Vec<_> = lists.into_iter().chain([Some(empty)]).collect();
            let told = Series::new(name, told);
            told.head(Some(told.len() - 1))
        }
        other => bail!("the column `{name}` holds {other}"),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, UInt64Array};
    use arrow::datatypes::Schema;
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn row_groups_that_cannot_have_a_text_are_not_read() {
        let fields = vec![Field::new("cell", Arrow::Utf8, false), Field::new("sample", Arrow::UInt64, false)];
        let schema = Arc::new(Schema::new(fields));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.parquet");
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), schema.clone(), None).unwrap();
        let long = "a".repeat(300);
        for cells in [["dense", "magnitude-0.5"], ["wanda-0.5-s0", "wanda-0.5-s1"], [&long, "é"]] {
            let columns: [ArrayRef; 2] =
                [Arc::new(StringArray::from(cells.to_vec())), Arc::new(UInt64Array::from(vec![0, 1]))];
            writer.write(&RecordBatch::try_new(schema.clone(), columns.into()).unwrap()).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        for (text, groups, rows) in [
            ("dense", &[0, 2][..], 1),
            ("wanda-0.5-s1", &[1, 2], 1),
            ("wanda-0.5-s10", &[2], 0),
            (&long, &[2], 1),
            ("é", &[2], 1),
            ("", &[], 0),
        ] {
            let wanted = [("cell", text)];
            let part = Part { columns: Some(&["cell", "sample"]), rows: &wanted };
            assert_eq!(part.groups(reader.metadata()), groups, "{text}");
            assert_eq!(part.read(&path).unwrap().num_rows(), rows, "{text}");
        }
        assert_eq!(Part::default().read(&path).unwrap().num_rows(), 6);
    }
}
