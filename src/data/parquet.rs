//! Rows of Parquet, as `datasets` and pyarrow's `to_pylist` give them: dates, times and decimals as Python prints them,
//! bytes as the text that they are in UTF-8.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use arrow::array::{Array, ArrowPrimitiveType, AsArray, OffsetSizeTrait, make_array};
use arrow::datatypes::{self as types, DataType, Fields};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde_json::Value;

use super::Row;
use super::value::{number, unheld};

/// Rows that a file of any size may claim.
const FEW: u64 = 1 << 20;

/// Rows a byte that a file may claim beyond that; what is beyond this is made to fill memories.
const ROWS_A_BYTE: u64 = 200;

/// Takes all rows of a file, a few at a time.
///
/// # Errors
/// Where it is damaged, or compressed by a codec that calipr was not built with.
pub fn batches(path: &Path, mut take: impl FnMut(Vec<Row>) -> Result<()>) -> Result<()> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let claimed = builder.metadata().file_metadata().num_rows();
    ensure!(
        u64::try_from(claimed).is_ok_and(|rows| rows <= FEW || rows / ROWS_A_BYTE <= bytes),
        "it claims {claimed} rows in {bytes} bytes"
    );
    once(builder.schema().fields())?;
    for batch in builder.build().map_err(explained)? {
        let batch = batch.map_err(|error| explained(error.into()))?;
        let mut rows = vec![Row::new(); batch.num_rows()];
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let values = values(array).with_context(|| format!("the column `{}`", field.name()))?;
            for (row, value) in rows.iter_mut().zip(values) {
                row.insert(field.name().clone(), value);
            }
        }
        take(rows)?;
    }
    Ok(())
}

/// An error where two columns have one name: pyarrow cannot tell which is meant, either.
fn once(fields: &Fields) -> Result<()> {
    for (i, field) in fields.iter().enumerate() {
        if fields[..i].iter().any(|before| before.name() == field.name()) {
            bail!("two columns are called `{}`; write the file with a name a column", field.name());
        }
    }
    Ok(())
}

/// What a codec is called that calipr was built without.
fn explained(error: ParquetError) -> anyhow::Error {
    let said = error.to_string();
    match said.rsplit_once("Disabled feature at compile time: ") {
        Some((_, codec)) => anyhow!("it is compressed by {codec}; write it with zstd, snappy or gzip"),
        None => error.into(),
    }
}

/// The values of an array.
fn values(array: &dyn Array) -> Result<Vec<Value>> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Null => vec![Value::Null; array.len()],
        T::Boolean => each(array, |i| array.as_boolean().value(i).into()),
        T::Int8 => integers::<types::Int8Type>(array),
        T::Int16 => integers::<types::Int16Type>(array),
        T::Int32 => integers::<types::Int32Type>(array),
        T::Int64 => integers::<types::Int64Type>(array),
        T::UInt8 => integers::<types::UInt8Type>(array),
        T::UInt16 => integers::<types::UInt16Type>(array),
        T::UInt32 => integers::<types::UInt32Type>(array),
        T::UInt64 => integers::<types::UInt64Type>(array),
        T::Float16 => each(array, |i| number(array.as_primitive::<types::Float16Type>().value(i).into())),
        T::Float32 => each(array, |i| number(array.as_primitive::<types::Float32Type>().value(i).into())),
        T::Float64 => each(array, |i| number(array.as_primitive::<types::Float64Type>().value(i))),
        T::Utf8 => each(array, |i| array.as_string::<i32>().value(i).into()),
        T::LargeUtf8 => each(array, |i| array.as_string::<i64>().value(i).into()),
        T::Utf8View => each(array, |i| array.as_string_view().value(i).into()),
        T::Binary => each(array, |i| text(array.as_binary::<i32>().value(i))),
        T::LargeBinary => each(array, |i| text(array.as_binary::<i64>().value(i))),
        T::BinaryView => each(array, |i| text(array.as_binary_view().value(i))),
        T::FixedSizeBinary(_) => each(array, |i| text(array.as_fixed_size_binary().value(i))),
        T::List(_) => list::<i32>(array)?,
        T::LargeList(_) => list::<i64>(array)?,
        T::ListView(_) => list_view::<i32>(array)?,
        T::LargeListView(_) => list_view::<i64>(array)?,
        T::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let size = list.value_length() as usize;
            lists(array, list.values(), |i| i * size..(i + 1) * size)?
        }
        // Python has a list of pairs.
        T::Map(_, _) => {
            let map = array.as_map();
            let (keys, entries) = (values(map.keys())?, values(map.values())?);
            let offsets = map.value_offsets();
            let pair = |k: usize| Value::from(vec![keys[k].clone(), entries[k].clone()]);
            each(array, |i| (offsets[i] as usize..offsets[i + 1] as usize).map(pair).collect())
        }
        T::Struct(fields) => {
            once(fields)?;
            let columns = array.as_struct().columns().iter().map(|column| values(column));
            let mut columns: Vec<_> =
                columns.map(|column| Ok(column?.into_iter())).collect::<Result<_>>().context("a struct")?;
            let mut rows = Vec::with_capacity(array.len());
            for i in 0..array.len() {
                let row: Row = (fields.iter().zip(&mut columns))
                    .filter_map(|(field, column)| Some((field.name().clone(), column.next()?)))
                    .collect();
                rows.push(if array.is_null(i) { Value::Null } else { Value::Object(row) });
            }
            rows
        }
        T::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                return Ok(vec![Value::Null; array.len()]);
            }
            let (words, keys) = (values(dictionary.values())?, dictionary.normalized_keys());
            each(array, |i| words[keys[i]].clone())
        }
        T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Timestamp(_, _) => printed(array)?,
        T::Decimal32(_, scale) | T::Decimal64(_, scale) | T::Decimal128(_, scale) | T::Decimal256(_, scale) => {
            let decimal = |value: Value| value.as_str().map_or(Value::Null, |text| decimal(text, *scale).into());
            printed(array)?.into_iter().map(decimal).collect()
        }
        other => each(array, |_| unheld(&format!("a value of the type {other}"))),
    })
}

fn each(array: &dyn Array, value: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..array.len()).map(|i| if array.is_null(i) { Value::Null } else { value(i) }).collect()
}

fn integers<T: ArrowPrimitiveType<Native: Into<Value>>>(array: &dyn Array) -> Vec<Value> {
    let integers = array.as_primitive::<T>();
    each(array, |i| integers.value(i).into())
}

/// Bytes without a word on what they are: a text, where they are UTF-8.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => unheld("bytes (Parquet's BYTE_ARRAY without the STRING annotation) that are no UTF-8"),
    }
}

fn list<O: OffsetSizeTrait>(array: &dyn Array) -> Result<Vec<Value>> {
    let list = array.as_list::<O>();
    let offsets = list.value_offsets();
    lists(array, list.values(), |i| offsets[i].as_usize()..offsets[i + 1].as_usize())
}

fn list_view<O: OffsetSizeTrait>(array: &dyn Array) -> Result<Vec<Value>> {
    let list = array.as_list_view::<O>();
    lists(array, list.values(), |i| {
        let start = list.value_offset(i).as_usize();
        start..start + list.value_size(i).as_usize()
    })
}

fn lists(array: &dyn Array, elements: &dyn Array, range: impl Fn(usize) -> Range<usize>) -> Result<Vec<Value>> {
    let elements = values(elements).context("a list")?;
    Ok(each(array, |i| elements[range(i)].to_vec().into()))
}

/// Values as Python prints them.
fn printed(array: &dyn Array) -> Result<Vec<Value>> {
    // arrow knows zones by their names only where it carries all of the world's.
    if let DataType::Timestamp(unit, Some(zone)) = array.data_type()
        && ["UTC", "Etc/UTC", "GMT", "Z"].contains(&zone.as_ref())
    {
        let utc = DataType::Timestamp(*unit, Some("+00:00".into()));
        return printed(&make_array(array.to_data().into_builder().data_type(utc).build()?));
    }
    let options = FormatOptions::new()
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"))
        .with_datetime_format(Some("%Y-%m-%d"))
        .with_time_format(Some("%H:%M:%S%.f"));
    let formatter = ArrayFormatter::try_new(array, &options);
    Ok(each(array, |i| match formatter.as_ref().ok().and_then(|f| f.value(i).try_to_string().ok()) {
        Some(text) => six_digits(&text).into(),
        None => unheld(&format!("a value of the type {}", array.data_type())),
    }))
}

/// A decimal of so many places as Python's `Decimal` prints it: small ones, and those of whole tens, by an exponent
/// (_pydecimal.py: `__str__`).
fn decimal(plain: &str, scale: i8) -> String {
    let (sign, plain) = plain.strip_prefix('-').map_or(("", plain), |plain| ("-", plain));
    let digits: String = plain.chars().filter(char::is_ascii_digit).collect();
    // Negative places are zeros in front of the point that are no digits of the number.
    let zeros = usize::from(scale.min(0).unsigned_abs());
    let digits = digits.get(..digits.len().saturating_sub(zeros)).unwrap_or_default().trim_start_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let exponent = -i64::from(scale);
    let left = exponent + digits.len() as i64;
    if exponent <= 0 && left > -6 {
        return format!("{sign}{plain}");
    }
    let (first, others) = digits.split_at(1);
    let point = if others.is_empty() { "" } else { "." };
    format!("{sign}{first}{point}{others}E{:+}", left - 1)
}

/// A time whose fraction of a second, where it has one, has six digits at least.
fn six_digits(time: &str) -> String {
    let Some((before, after)) = time.split_once('.').filter(|(before, _)| before.contains(':')) else {
        return time.to_owned();
    };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    format!("{before}.{:0<6}{}", &after[..digits], &after[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_second_has_six_digits_as_in_python() {
        assert_eq!(six_digits("12:00:00.250+00:00"), "12:00:00.250000+00:00");
        assert_eq!(six_digits("12:00:00"), "12:00:00");
        assert_eq!(six_digits("1.50"), "1.50");
        assert_eq!(six_digits("12:00:00.123456789"), "12:00:00.123456789");
    }

    #[test]
    fn decimals_are_printed_as_python_prints_them() {
        for (plain, scale, python) in [
            ("0.0000001", 7, "1E-7"),
            ("0.0000000000", 10, "0E-10"),
            ("0.000001", 6, "0.000001"),
            ("0.0000010", 7, "0.0000010"),
            ("-1.50", 2, "-1.50"),
            ("1200", -2, "1.2E+3"),
            ("0", 0, "0"),
            ("-0.00000012", 8, "-1.2E-7"),
        ] {
            assert_eq!(decimal(plain, scale), python);
        }
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        use arrow::array::{ArrayRef, RecordBatch, StringArray};
        use arrow::datatypes::{Field, Schema};
        use std::sync::Arc;
        let column = || Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
        let fields = ["id", "text", "text"].map(|name| Field::new(name, DataType::Utf8, false));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![column(), column(), column()]);
        let batch = batch.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let error = format!("{:#}", batches(&path, |_| Ok(())).unwrap_err());
        assert!(error.contains("two columns are called `text`"), "{error}");
    }

    /// One row a type, written by pyarrow, and what its `to_pylist` gives, printed where JSON has no such value.
    #[test]
    fn every_type_is_read_as_pyarrow_reads_it() {
        let rows = crate::data::Format::Parquet.all(Path::new("tests/fixtures/types.parquet")).unwrap();
        let theirs: Vec<Value> = serde_json::from_str(include_str!("../../tests/fixtures/types.json")).unwrap();
        assert_eq!(rows.len(), theirs.len());
        for (ours, theirs) in rows.into_iter().zip(theirs) {
            for (name, value) in theirs.as_object().unwrap() {
                let what = crate::data::value::is_unheld(&ours[name]);
                let ours = what.map_or(ours[name].clone(), |what| format!("no value: {what}").into());
                assert_eq!(ours, *value, "{name}");
            }
        }
    }
}
