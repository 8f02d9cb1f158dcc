//! Files of rows: JSON lines, JSON, text, CSV and TSV, each plain or compressed, and Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{json, parquet};
use crate::guard::guarded;

/// One row: field names and values.
pub type Row = Map<String, Value>;

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line (`.jsonl`, `.ndjson`, also `.gz` and `.zst`).
    Jsonl,
    /// JSON: an array of objects, objects one after the other, or a table as pandas writes it (`.json`, also `.gz` and
    /// `.zst`).
    Json,
    /// The whole file is one row with the field `text` (`.txt`, also `.gz` and `.zst`).
    Text,
    /// Comma-separated values with a header line (`.csv`, also `.gz` and `.zst`).
    Csv,
    /// Values separated by tabs, with a header line (`.tsv`, also `.gz` and `.zst`).
    Tsv,
    /// Apache Parquet (`.parquet`).
    Parquet,
}

impl Format {
    /// By the file's name.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = Packed::ALL.iter().find_map(|(_, ending)| name.strip_suffix(ending)).unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("json") => Ok(Self::Json),
            Some("txt" | "text" | "md") => Ok(Self::Text),
            Some("csv") => Ok(Self::Csv),
            Some("tsv") => Ok(Self::Tsv),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!(
                "{} has no ending that tells its format; expected .jsonl, .json, .txt, .csv, .tsv or .parquet (where it \
                 is text, also followed by .gz or .zst)",
                path.display()
            ),
        }
    }

    /// All rows of a file.
    ///
    /// # Errors
    /// Where the file cannot be read, or a row is not what the format says; the message has the line.
    pub fn read(self, path: &Path, shape: json::Shape) -> Result<Vec<Row>> {
        if let (Some(field), false) = (shape.field, matches!(self, Self::Json | Self::Jsonl)) {
            bail!("field = \"{field}\" is for JSON, and {} is none", path.display());
        }
        let rows = match self {
            Self::Jsonl | Self::Json => text_reader(path).and_then(|reader| json::read(reader, shape)),
            Self::Text => text_reader(path).and_then(read_text),
            Self::Csv => text_reader(path).and_then(|reader| read_csv(reader, b',')),
            Self::Tsv => text_reader(path).and_then(|reader| read_csv(reader, b'\t')),
            Self::Parquet => guarded(|| parquet::read(path)),
        };
        rows.with_context(|| format!("cannot read the rows of {}", path.display()))
    }
}

/// How a file of text is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Packed {
    Gzip,
    Zstandard,
}

impl Packed {
    const ALL: [(Self, &str); 2] = [(Self::Gzip, ".gz"), (Self::Zstandard, ".zst")];

    /// By the file's name.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        Self::ALL.into_iter().find(|(_, ending)| name.ends_with(ending)).map(|(packed, _)| packed)
    }
}

/// A file as text, uncompressed, without a byte-order mark.
fn text_reader(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    let packed = file.metadata().map_or(0, |m| m.len());
    let bounded = |reader: Box<dyn Read>| -> Box<dyn BufRead> {
        Box::new(BufReader::new(Bounded { reader, left: SMALL.max(packed.saturating_mul(EXPANSION)) }))
    };
    // Both read on where several compressed files were put one after the other.
    let mut reader = match Packed::of(path) {
        Some(Packed::Gzip) => bounded(Box::new(MultiGzDecoder::new(file))),
        Some(Packed::Zstandard) => bounded(Box::new(zstd::Decoder::new(file)?)),
        None => Box::new(BufReader::new(file)),
    };
    let start = reader.fill_buf()?;
    ensure!(
        !start.starts_with(&[0xff, 0xfe]) && !start.starts_with(&[0xfe, 0xff]),
        "it is text in UTF-16; write it in UTF-8"
    );
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if start.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(reader)
}

/// Text that is packed expands to a few times its size; what is beyond this is made to fill memories.
const EXPANSION: u64 = 200;

/// Any file may expand to this many bytes.
const SMALL: u64 = 256 << 20;

/// A reader that ends in an error.
struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(bytes)?;
        let left = self.left.checked_sub(read as u64);
        let too_much = || io::Error::other(format!("it expands to more than {EXPANSION} times its size"));
        self.left = left.ok_or_else(too_much)?;
        Ok(read)
    }
}

fn read_text(mut reader: impl BufRead) -> Result<Vec<Row>> {
    let mut text = String::new();
    reader.read_to_string(&mut text).context("expected UTF-8 text")?;
    Ok(vec![Row::from_iter([("text".into(), Value::String(text))])])
}

/// Rows of values with a header line, as pandas' `read_csv` reads them, but for numbers: values stay the texts that they
/// are.
fn read_csv(reader: impl BufRead, delimiter: u8) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(reader);
    let header = reader.headers().context("the header line")?.clone();
    let expected = if delimiter == b'\t' { "tab" } else { "comma" };
    let other =
        header.get(0).filter(|_| header.len() == 1).and_then(|name| name.chars().find(|c| ",;\t|".contains(*c)));
    ensure!(
        other.is_none(),
        "the header line has no {expected} but {:?}; separate its values by {expected}s, or name the file by its format",
        other.unwrap_or(';')
    );
    let names = names(&header);
    let row = |record: csv::Result<csv::StringRecord>| -> Result<Row> {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        ensure!(
            record.len() <= names.len(),
            "line {line} has {} values for {} columns; a value with a {expected} in it stands in quotes",
            record.len(),
            names.len()
        );
        let value = |i: usize| match record.get(i) {
            Some(text) if !MISSING.contains(&text) => text.into(),
            _ => Value::Null,
        };
        Ok(names.iter().enumerate().map(|(i, name)| (name.clone(), value(i))).collect())
    };
    reader.records().map(row).collect()
}

/// The texts that are no value to pandas, and to `datasets`, which reads by it.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// Names of columns: a name that was there before gets a number, and one that is empty its place, as in pandas.
fn names(header: &csv::StringRecord) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (i, name) in header.iter().enumerate() {
        let name = if name.is_empty() { format!("Unnamed: {i}") } else { name.to_owned() };
        let numbered = (1..).map(|n| format!("{name}.{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn rows(path: &Path) -> Result<Vec<Row>> {
        Format::of(path).unwrap().read(path, json::Shape::default())
    }

    fn texts(name: &str, bytes: &[u8]) -> Vec<String> {
        let (_dir, path) = file(name, bytes);
        let rows = rows(&path).unwrap();
        rows.iter().map(|r| r["text"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_same_rows_come_out_of_every_text_format() {
        let expected = ["one, two", "three"];
        assert_eq!(texts("a.jsonl", b"{\"text\": \"one, two\"}\n\n{\"text\": \"three\"}\n"), expected);
        assert_eq!(texts("a.json", b"[{\"text\": \"one, two\"}, {\"text\": \"three\"}]"), expected);
        assert_eq!(texts("a.json", b"\xef\xbb\xbf{\"text\": \"one, two\"}\n{\"text\": \"three\"}"), expected);
        assert_eq!(texts("a.csv", b"text,n\n\"one, two\",1\nthree,2\n"), expected);
        assert_eq!(texts("a.tsv", b"text\tn\none, two\t1\r\nthree\t2\n"), expected);
        let lines = ["{\"text\": \"one, two\"}\n", "{\"text\": \"three\"}"];
        let gzip = |line: &str| {
            let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            gz.write_all(line.as_bytes()).unwrap();
            gz.finish().unwrap()
        };
        assert_eq!(texts("a.jsonl.gz", &lines.map(gzip).concat()), expected, "two compressed files end to end");
        let zst = lines.map(|line| zstd::encode_all(line.as_bytes(), 0).unwrap());
        assert_eq!(texts("a.jsonl.zst", &zst.concat()), expected);
        assert_eq!(texts("a.JSON.ZST", &zst[0]), expected[..1]);
        assert_eq!(texts("a.txt", b"one, two\nthree"), ["one, two\nthree"]);
    }

    #[test]
    fn parquet_rows_keep_lists_and_structs() {
        use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder};
        use std::sync::Arc;
        let mut choices = ListBuilder::new(StringBuilder::new());
        choices.append_value([Some("yes"), Some("no")]);
        let batch = RecordBatch::try_from_iter([
            ("question", Arc::new(StringArray::from(vec!["well?"])) as ArrayRef),
            ("choices", Arc::new(choices.finish()) as ArrayRef),
        ])
        .unwrap();
        let (_dir, path) = file("a.parquet", b"");
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let rows = rows(&path).unwrap();
        assert_eq!(Value::Object(rows[0].clone()), serde_json::json!({"question": "well?", "choices": ["yes", "no"]}));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let (_dir, path) = file("a.jsonl", b"{\"text\": \"fine\"}\n{\"text\": ");
        let error = format!("{:#}", rows(&path).unwrap_err());
        assert!(error.contains("a.jsonl") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn empty_cells_and_the_words_for_none_are_missing_as_in_pandas() {
        let (_dir, path) = file("a.csv", b"id,a,a,\n1,,NA,x\n\n2,None\n\"3\",\"\",\"a \"\"b\"\"\", NA\n");
        let rows = rows(&path).unwrap();
        let expected = serde_json::json!([
            {"id": "1", "a": null, "a.1": null, "Unnamed: 3": "x"},
            {"id": "2", "a": null, "a.1": null, "Unnamed: 3": null},
            {"id": "3", "a": null, "a.1": "a \"b\"", "Unnamed: 3": " NA"},
        ]);
        assert_eq!(serde_json::to_value(rows).unwrap(), expected);
        for (text, says) in [("a,b\n1,2,3\n", "line 2 has 3 values for 2 columns"), ("a;b\n1;2\n", "no comma but ';'")]
        {
            let (_dir, path) = file("a.csv", text.as_bytes());
            let error = format!("{:#}", super::tests::rows(&path).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_named() {
        let utf16: Vec<u8> = "\u{feff}{\"text\": \"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (_dir, path) = file("a.jsonl", &utf16);
        assert!(format!("{:#}", rows(&path).unwrap_err()).contains("UTF-16"));
        let (_dir, path) = file("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xe9\"}\n");
        assert!(format!("{:#}", rows(&path).unwrap_err()).contains("line 2"));
    }

    #[test]
    fn a_file_whose_name_tells_nothing_is_refused() {
        assert!(Format::of(Path::new("rows.dat")).unwrap_err().to_string().contains(".jsonl"));
    }
}
