//! Rows of a data set. Those of small files are in memory, those of large ones in a file of their own, from which few are read
//! at a time: a shard of a web corpus is read once for all that is drawn from it, and takes no gigabytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde_json::Value;

use super::Row;

/// Rows that are read with templates compiled once. Few enough to be read in the time that a template has.
pub const AT_ONCE: usize = 256;

/// Bytes of JSON that stay in memory.
const SMALL: usize = 64 << 20;

/// More fields than a table has: rows with so many names use them as values.
const WIDEST: usize = 1000;

/// Values in values that JSON is read with; serde_json stops at 128.
const DEEPEST: usize = 100;

/// Rows of a data set, which know their numbers in its files.
#[derive(Debug, Default)]
pub struct Rows {
    /// Their JSON, one after the other.
    json: Json,
    /// Where each ends in it.
    ends: Vec<u64>,
    /// Rows that JSON would not give back, by their place; their JSON is empty.
    others: BTreeMap<usize, Row>,
    numbers: Vec<usize>,
    /// Fields that a row has as null where it lacks them.
    fields: Vec<String>,
}

#[derive(Debug)]
enum Json {
    Memory(Vec<u8>),
    /// A file without a name, which goes with the last who has it open.
    File(Mutex<File>),
}

impl Default for Json {
    fn default() -> Self {
        Self::Memory(vec![])
    }
}

impl Json {
    /// Adds to what is there, `bytes` so far; to a file, where that makes more than `small` and one can be written.
    fn add(&mut self, more: &[u8], bytes: u64, small: usize) -> Result<()> {
        let written = match self {
            Self::File(file) => file.get_mut().unwrap_or_else(PoisonError::into_inner).write_all(more),
            Self::Memory(all) => {
                let was_small = all.len() <= small;
                all.extend_from_slice(more);
                if was_small && all.len() > small {
                    match tempfile::tempfile().and_then(|mut file| file.write_all(all).map(|()| file)) {
                        Ok(file) => *self = Self::File(Mutex::new(file)),
                        Err(error) => tracing::debug!("rows stay in memory: {error}"),
                    }
                }
                return Ok(());
            }
        };
        // Where a disk is full, there may be memory.
        if let Err(error) = written {
            tracing::debug!("rows go back to memory: {error}");
            let mut all = self.read(0..bytes)?;
            all.extend_from_slice(more);
            *self = Self::Memory(all);
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        match self {
            Self::Memory(all) => Ok(all[range.start as usize..range.end as usize].to_vec()),
            Self::File(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut read = || file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
                read().context("rows cannot be read back from a temporary file")?;
                Ok(bytes)
            }
        }
    }
}

/// Whether JSON gives a value back as it was.
fn is_shallow(value: &Value, left: usize) -> bool {
    match value {
        Value::Array(list) => left > 0 && list.iter().all(|value| is_shallow(value, left - 1)),
        Value::Object(object) => left > 0 && object.values().all(|value| is_shallow(value, left - 1)),
        _ => true,
    }
}

/// What is made of rows that are there already, a few at a time.
pub fn in_chunks<T: Send>(
    rows: Vec<Row>,
    make: &(impl Fn(Vec<Row>) -> Result<T> + Sync),
    take: &mut dyn FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut rows = rows.into_iter();
    let chunk = || Some(rows.by_ref().take(AT_ONCE).collect()).filter(|chunk: &Vec<Row>| !chunk.is_empty());
    let chunks: Vec<Vec<Row>> = std::iter::from_fn(chunk).collect();
    let made: Vec<Result<T>> = chunks.into_par_iter().map(make).collect();
    made.into_iter().try_for_each(|made| take(made?))
}

/// Some of the rows that a file has one after the other.
pub struct Bundle {
    /// How many rows the file has there.
    all: usize,
    /// Which of them were taken, from 0.
    taken: Vec<usize>,
    json: Vec<u8>,
    /// Where each of those that were taken ends in it.
    ends: Vec<usize>,
    /// Those that JSON would not give back, by their place among those that were taken.
    others: Vec<(usize, Row)>,
    /// The fields of those that were taken, in the order in which they are first met.
    fields: Vec<String>,
}

impl Bundle {
    /// Those of the rows that are to be taken.
    ///
    /// # Errors
    /// Where a row is no JSON, which none is.
    pub fn of(rows: Vec<Row>, is_taken: impl Fn(&Row) -> bool) -> Result<Self> {
        let mut bundle =
            Self { all: rows.len(), taken: vec![], json: vec![], ends: vec![], others: vec![], fields: vec![] };
        for (i, row) in rows.into_iter().enumerate().filter(|(_, row)| is_taken(row)) {
            if bundle.fields.len() <= WIDEST {
                let new: Vec<String> = row.keys().filter(|key| !bundle.fields.contains(key)).cloned().collect();
                bundle.fields.extend(new);
            }
            match row.values().all(|value| is_shallow(value, DEEPEST)) {
                true => serde_json::to_writer(&mut bundle.json, &row)?,
                false => bundle.others.push((bundle.taken.len(), row)),
            }
            bundle.taken.push(i);
            bundle.ends.push(bundle.json.len());
        }
        Ok(bundle)
    }
}

/// Takes rows as a file has them.
#[derive(Default)]
pub struct Gathered {
    rows: Rows,
    /// Rows of the files so far, taken or not.
    before: usize,
}

impl Gathered {
    /// Adds what comes next.
    ///
    /// # Errors
    /// Where there is no room for it, neither in a temporary file nor in memory.
    pub fn add(&mut self, bundle: Bundle) -> Result<()> {
        self.add_beyond(bundle, SMALL)
    }

    fn add_beyond(&mut self, bundle: Bundle, small: usize) -> Result<()> {
        let Self { rows, before } = self;
        let (count, bytes) = (rows.len(), rows.ends.last().copied().unwrap_or(0));
        rows.numbers.extend(bundle.taken.iter().map(|taken| *before + taken + 1));
        rows.ends.extend(bundle.ends.iter().map(|&end| bytes + end as u64));
        rows.others.extend(bundle.others.into_iter().map(|(at, row)| (count + at, row)));
        if rows.fields.len() <= WIDEST {
            let new: Vec<String> = bundle.fields.into_iter().filter(|key| !rows.fields.contains(key)).collect();
            rows.fields.extend(new);
        }
        *before += bundle.all;
        rows.json.add(&bundle.json, bytes, small)
    }

    /// How many rows the files have so far.
    pub fn all(&self) -> usize {
        self.before
    }

    /// All of them. Where they are `completed`, each has the fields that only others have, as null: a template may ask
    /// whether there is one, as where `datasets` has made a table of them.
    pub fn rows(self, completed: bool) -> Rows {
        let mut rows = self.rows;
        if !completed || rows.fields.len() > WIDEST {
            rows.fields.clear();
        }
        rows
    }
}

impl Rows {
    /// The number of a row in its file, or in its files one after the other, from 1.
    pub fn number(&self, index: usize) -> usize {
        self.numbers[index]
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// A row.
    ///
    /// # Errors
    /// Where it cannot be read back.
    pub fn row(&self, index: usize) -> Result<Row> {
        self.several(index..index + 1).map(|mut rows| rows.remove(0))
    }

    /// The first rows, `count` of them at most, a few at a time: the place of the first of these, and what they are.
    pub fn chunks(&self, count: usize) -> impl ParallelIterator<Item = (usize, Result<Vec<Row>>)> {
        let count = count.min(self.len());
        let chunk = move |number: usize| {
            let start = number * AT_ONCE;
            (start, self.several(start..count.min(start + AT_ONCE)))
        };
        (0..count.div_ceil(AT_ONCE)).into_par_iter().map(chunk)
    }

    fn several(&self, places: Range<usize>) -> Result<Vec<Row>> {
        let end_before = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let first = end_before(places.start);
        let json = self.json.read(first..end_before(places.end))?;
        let row = |at: usize| {
            let own = (end_before(at) - first) as usize..(self.ends[at] - first) as usize;
            let read = || serde_json::from_slice::<Row>(&json[own]).context("a row cannot be read back");
            let mut row = self.others.get(&at).map_or_else(read, |row| Ok(row.clone()))?;
            if row.len() < self.fields.len() {
                for field in &self.fields {
                    row.entry(field.as_str()).or_insert(Value::Null);
                }
            }
            Ok(row)
        };
        places.map(row).collect()
    }
}

impl TryFrom<Vec<Row>> for Rows {
    type Error = anyhow::Error;

    fn try_from(rows: Vec<Row>) -> Result<Self> {
        let mut gathered = Gathered::default();
        gathered.add(Bundle::of(rows, |_| true)?)?;
        Ok(gathered.rows(false))
    }
}

#[cfg(test)]
impl Rows {
    /// All rows.
    pub fn all(&self) -> Vec<Row> {
        (0..self.len()).map(|i| self.row(i).unwrap()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    /// Rows of all kinds of values, some longer than what is packed together.
    fn several() -> Vec<Row> {
        let mut deep = json!(1);
        (0..200).for_each(|_| deep = json!([deep]));
        let row = |i: usize| match i % 7 {
            0 => json!({"text": "é\u{0}\"\n".repeat(i), "n": i}),
            1 => json!({"b": [1.5, -0.0, 1e16, 0.1 + 0.2, u64::MAX, i64::MIN, null, true], "a": {"z": 1, "b": {}}}),
            2 => json!({"text": "x".repeat(100 * i)}),
            3 if i.is_multiple_of(2) => json!({"deep": deep}),
            _ => json!({"t": i, "": ""}),
        };
        (0..900).map(row).map(object).collect()
    }

    /// Rows of bundles, of which more than `small` bytes go to a file.
    fn gathered(bundles: Vec<Bundle>, small: usize, completed: bool) -> Rows {
        let mut gathered = Gathered::default();
        bundles.into_iter().for_each(|bundle| gathered.add_beyond(bundle, small).unwrap());
        gathered.rows(completed)
    }

    #[test]
    fn rows_come_back_as_they_were_in_any_order_and_in_parts() {
        let several = several();
        let bundles = || several.chunks(200).map(|rows| Bundle::of(rows.to_vec(), |_| true).unwrap()).collect();
        for (small, in_file) in [(usize::MAX, false), (0, true), (1 << 20, true)] {
            let rows = gathered(bundles(), small, false);
            assert_eq!(matches!(rows.json, Json::File(_)), in_file, "more than {small} bytes");
            assert!(!rows.others.is_empty());
            assert_eq!(rows.all(), several);
            for i in (0..several.len()).map(|i| i * 461 % several.len()) {
                let row = rows.row(i).unwrap();
                // The order of fields counts, too: chat templates see it.
                assert_eq!(format!("{row:?}"), format!("{:?}", several[i]), "row {i}");
            }
            for count in [0, 1, 255, 256, 257, 899, 900] {
                let chunks: Vec<(usize, Vec<Row>)> =
                    rows.chunks(count).map(|(start, rows)| (start, rows.unwrap())).collect();
                assert!(chunks.iter().all(|(_, rows)| (1..=AT_ONCE).contains(&rows.len())));
                let starts: Vec<usize> = chunks.iter().map(|(start, _)| *start).collect();
                assert_eq!(starts, (0..count).step_by(AT_ONCE).collect::<Vec<_>>());
                let all: Vec<Row> = chunks.into_iter().flat_map(|(_, rows)| rows).collect();
                assert_eq!(all, several[..count], "the first {count}");
            }
        }
    }

    #[test]
    fn rows_that_a_file_has_no_room_for_are_in_memory() {
        let mut json = Json::default();
        json.add(b"one", 0, 2).unwrap();
        assert!(matches!(json, Json::File(_)));
        // A file that is open for reading alone takes as little as a full disk.
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("full"), "one").unwrap();
        let mut json = Json::File(Mutex::new(File::open(dir.path().join("full")).unwrap()));
        json.add(b"two", 3, 2).unwrap();
        json.add(b"three", 6, 2).unwrap();
        assert!(matches!(&json, Json::Memory(all) if all == b"onetwothree"));
        assert_eq!(json.read(3..8).unwrap(), b"twoth");
    }

    #[test]
    fn rows_know_their_numbers_among_those_that_were_not_taken() {
        let bundle = |from: usize| {
            let rows = (from..from + 300).map(|n| object(json!({"n": n}))).collect();
            Bundle::of(rows, |row| row["n"].as_u64().unwrap() % 7 == 3).unwrap()
        };
        let rows = gathered(vec![bundle(0), bundle(300), bundle(600)], SMALL, false);
        assert_eq!(rows.len(), (0..900).filter(|n| n % 7 == 3).count());
        for i in 0..rows.len() {
            assert_eq!(rows.row(i).unwrap()["n"], 7 * i + 3);
            assert_eq!(rows.number(i), 7 * i + 4);
        }
    }

    #[test]
    fn fields_that_only_others_have_are_null_where_rows_are_completed() {
        let bundle =
            |rows: Value| Bundle::of(rows.as_array().unwrap().iter().cloned().map(object).collect(), |_| true).unwrap();
        let bundles = || vec![bundle(json!([{"b": 1}, {"a": 2}])), bundle(json!([{"c": 3, "a": 4}]))];
        let expected =
            json!([{"b": 1, "a": null, "c": null}, {"a": 2, "b": null, "c": null}, {"c": 3, "a": 4, "b": null}]);
        assert_eq!(serde_json::to_string(&gathered(bundles(), SMALL, true).all()).unwrap(), expected.to_string());
        assert_eq!(gathered(bundles(), SMALL, false).row(1).unwrap(), object(json!({"a": 2})));
        let named = |n: usize| object(json!({format!("name {n}"): n}));
        let wide = Bundle::of((0..=WIDEST).map(named).collect(), |_| true).unwrap();
        assert_eq!(gathered(vec![wide], SMALL, true).row(0).unwrap().len(), 1, "names are values there");
    }
}
