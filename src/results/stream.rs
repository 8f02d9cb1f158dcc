//! Tables with a row for each of very many things, written a group of rows at a time.

use std::io::Write;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::tables;

/// Rows of a group, unless one item alone has more: little enough to be held several times over, enough to be read as fast as in
/// one piece.
const ROWS: usize = 1 << 16;

/// Writes a table of some items as Parquet. `batch` makes the rows of a few items that follow each other, as many as `rows`
/// says; the next few are made while a few are written. What is written depends on the items alone.
pub fn write<T: Sync>(
    out: impl Write + Send,
    schema: SchemaRef,
    items: &[T],
    rows: impl Fn(&T) -> usize,
    batch: impl Fn(&[T]) -> Result<RecordBatch> + Sync,
) -> Result<()> {
    let mut writer = tables::writer(schema, out)?;
    let mut waiting: Option<RecordBatch> = None;
    for group in groups(items, rows) {
        let mut write = || -> Result<()> {
            if let Some(batch) = &waiting {
                writer.write(batch)?;
                writer.flush()?;
            }
            Ok(())
        };
        let (next, written) = rayon::join(|| batch(group), &mut write);
        written?;
        waiting = Some(next?);
    }
    if let Some(batch) = waiting {
        writer.write(&batch)?;
    }
    writer.into_inner()?.flush()?;
    Ok(())
}

/// The items in groups that follow each other: each as large as it may be.
fn groups<T>(items: &[T], rows: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut groups, mut start, mut sum) = (vec![], 0, 0);
    for (i, item) in items.iter().enumerate() {
        let own = rows(item);
        if i > start && sum + own > ROWS {
            groups.push(&items[start..i]);
            (start, sum) = (i, 0);
        }
        sum += own;
    }
    groups.extend((start < items.len()).then(|| &items[start..]));
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray, UInt64Array};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn schema() -> SchemaRef {
        let field = |name: &str, of: DataType| Field::new(name, of, false);
        let fields =
            vec![field("cell", DataType::Utf8), field("sample", DataType::UInt64), field("value", DataType::Float64)];
        Arc::new(Schema::new(fields))
    }

    /// Items are numbers, each with so many rows.
    fn batch(items: &[(usize, usize)]) -> Result<RecordBatch> {
        let rows: Vec<(usize, usize)> = items.iter().flat_map(|&(item, n)| (0..n).map(move |i| (item, i))).collect();
        let columns: [ArrayRef; 3] = [
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(item, _)| format!("cell-{item}")))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, i)| *i as u64))),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|(item, i)| (item * 31 + i) as f64 / 7.0))),
        ];
        Ok(RecordBatch::try_new(schema(), columns.into())?)
    }

    fn written(items: &[(usize, usize)]) -> Vec<u8> {
        let mut bytes = vec![];
        write(&mut bytes, schema(), items, |(_, n)| *n, batch).unwrap();
        bytes
    }

    #[test]
    fn groups_of_rows_hold_what_the_whole_table_holds() {
        let items: Vec<(usize, usize)> = (0..300).map(|i| (i, 1000 + i % 7)).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&written(&items)).unwrap();
        let groups = SerializedFileReader::new(file.try_clone().unwrap()).unwrap().metadata().num_row_groups();
        assert_eq!(groups, 5);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert_eq!(concat_batches(&schema(), &read).unwrap(), batch(&items).unwrap());
        assert_eq!(written(&items), written(&items));
    }

    #[test]
    fn a_small_table_is_the_same_file_as_in_one_piece() {
        for items in [&[][..], &[(0, 0)], &[(0, 5), (1, 0), (2, 700)]] {
            assert_eq!(written(items), tables::to_parquet(&batch(items).unwrap()).unwrap(), "{items:?}");
        }
    }

    #[test]
    fn an_item_is_not_divided() {
        let of = |sizes: &[usize]| {
            let items: Vec<usize> = sizes.to_vec();
            groups(&items, |n| *n).into_iter().map(<[usize]>::len).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [0; 0]);
        assert_eq!(of(&[ROWS, 1, ROWS - 1, ROWS + 1, 2, 3]), [1, 2, 1, 2]);
        assert_eq!(of(&[2 * ROWS, 2 * ROWS]), [1, 1]);
    }
}
