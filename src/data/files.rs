//! Files of rows: JSON lines (plain or gzipped), JSON, text, CSV and Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::MultiGzDecoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::guard::guarded;

/// One row: field names and values.
pub type Row = Map<String, Value>;

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line (`.jsonl`, `.ndjson`, also `.gz`).
    Jsonl,
    /// One JSON array of objects, or an object a line (`.json`, also `.gz`).
    Json,
    /// The whole file is one row with the field `text` (`.txt`, also `.gz`).
    Text,
    /// Comma-separated values with a header line (`.csv`).
    Csv,
    /// Apache Parquet (`.parquet`).
    Parquet,
}

impl Format {
    /// By the file's name.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("json") => Ok(Self::Json),
            Some("txt" | "text" | "md") => Ok(Self::Text),
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!(
                "{} has no ending that tells its format; expected .jsonl, .json, .txt, .csv or .parquet (.gz where it is text)",
                path.display()
            ),
        }
    }

    /// All rows of a file.
    ///
    /// # Errors
    /// Where the file cannot be read, or a row is not what the format says; the message has the line.
    pub fn read(self, path: &Path) -> Result<Vec<Row>> {
        let rows = match self {
            Self::Jsonl => read_jsonl(text_reader(path)?),
            Self::Json => read_json(text_reader(path)?),
            Self::Text => read_text(text_reader(path)?),
            Self::Csv => read_csv(text_reader(path)?),
            Self::Parquet => guarded(|| read_parquet(path)),
        };
        rows.with_context(|| format!("cannot read the rows of {}", path.display()))
    }
}

/// Whether a file's name says that it is compressed.
pub fn is_gzipped(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

/// A file as text, uncompressed, without a byte-order mark.
fn text_reader(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader: Box<dyn BufRead> = match is_gzipped(path) {
        true => {
            let packed = file.metadata().map_or(0, |m| m.len());
            let most = SMALL.max(packed.saturating_mul(EXPANSION));
            Box::new(BufReader::new(Bounded { reader: MultiGzDecoder::new(file), left: most }))
        }
        false => Box::new(BufReader::new(file)),
    };
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let start = reader.fill_buf().with_context(|| format!("cannot read {}", path.display()))?;
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

fn read_jsonl(reader: impl BufRead) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let line = line.with_context(|| format!("line {}", number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        rows.push(serde_json::from_str(&line).map_err(|e| {
            let said = e.to_string(); // it ends in the place, of which the line is always the first
            let what = said.split(" at line ").next().unwrap_or_default();
            anyhow!("line {}, column {} is no JSON object: {what}", number + 1, e.column())
        })?);
    }
    Ok(rows)
}

/// An array of objects; or objects one a line, which many files on the Hub are that are called `.json`.
fn read_json(mut reader: impl BufRead) -> Result<Vec<Row>> {
    if reader.fill_buf()?.trim_ascii_start().starts_with(b"{") {
        return read_jsonl(reader);
    }
    serde_json::from_reader(reader).context("expected one JSON array of objects")
}

fn read_text(mut reader: impl BufRead) -> Result<Vec<Row>> {
    let mut text = String::new();
    reader.read_to_string(&mut text).context("expected UTF-8 text")?;
    Ok(vec![Row::from_iter([("text".into(), Value::String(text))])])
}

fn read_csv(reader: impl BufRead) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_reader(reader);
    let header = reader.headers().context("the header line")?.clone();
    let other = header.get(0).filter(|_| header.len() == 1).and_then(|name| name.chars().find(|c| ";\t|".contains(*c)));
    ensure!(
        other.is_none(),
        "the header line has no comma but {:?}; separate its values by commas",
        other.unwrap_or(';')
    );
    let row = |record: csv::Result<csv::StringRecord>| -> Result<Row> {
        let record = record?;
        Ok(header.iter().zip(&record).map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))).collect())
    };
    reader.records().map(row).collect()
}

fn read_parquet(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let reader = SerializedFileReader::new(file)?;
    let claimed = reader.metadata().file_metadata().num_rows();
    ensure!(
        u64::try_from(claimed).is_ok_and(|rows| rows <= SMALL / 256 || rows / EXPANSION <= bytes),
        "it claims {claimed} rows in {bytes} bytes"
    );
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None)? {
        match row?.to_json_value() {
            Value::Object(row) => rows.push(row),
            other => bail!("row {} is {other}, not a record", rows.len() + 1),
        }
    }
    Ok(rows)
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

    fn texts(name: &str, bytes: &[u8]) -> Vec<String> {
        let (_dir, path) = file(name, bytes);
        let rows = Format::of(&path).unwrap().read(&path).unwrap();
        rows.iter().map(|r| r["text"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_same_rows_come_out_of_every_text_format() {
        let expected = ["one, two", "three"];
        assert_eq!(texts("a.jsonl", b"{\"text\": \"one, two\"}\n\n{\"text\": \"three\"}\n"), expected);
        assert_eq!(texts("a.json", b"[{\"text\": \"one, two\"}, {\"text\": \"three\"}]"), expected);
        assert_eq!(texts("a.json", b"\xef\xbb\xbf{\"text\": \"one, two\"}\n{\"text\": \"three\"}"), expected);
        assert_eq!(texts("a.csv", b"text,n\n\"one, two\",1\nthree,2\n"), expected);
        let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gz.write_all(b"{\"text\": \"one, two\"}\n{\"text\": \"three\"}").unwrap();
        assert_eq!(texts("a.jsonl.gz", &gz.finish().unwrap()), expected);
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
            parquet::arrow::ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let rows = Format::of(&path).unwrap().read(&path).unwrap();
        assert_eq!(Value::Object(rows[0].clone()), serde_json::json!({"question": "well?", "choices": ["yes", "no"]}));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let (_dir, path) = file("a.jsonl", b"{\"text\": \"fine\"}\n{\"text\": ");
        let error = format!("{:#}", Format::Jsonl.read(&path).unwrap_err());
        assert!(error.contains("a.jsonl") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_file_whose_name_tells_nothing_is_refused() {
        assert!(Format::of(Path::new("rows.dat")).unwrap_err().to_string().contains(".jsonl"));
    }
}
