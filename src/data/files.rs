//! Files of rows: JSON lines, JSON, text, CSV and TSV, each plain or compressed, and Parquet.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rows::in_chunks;
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
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "JSON lines",
            Self::Json => "JSON",
            Self::Text => "text",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Parquet => "Parquet",
        }
    }

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

    /// What is made of all rows of a file, a few at a time, is taken in their order.
    ///
    /// # Errors
    /// Where the file cannot be read, or a row is not what the format says; the message has the line.
    pub fn each<T: Send>(
        self,
        path: &Path,
        shape: json::Shape,
        make: &(impl Fn(Vec<Row>) -> Result<T> + Sync),
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        if let (Some(field), false) = (shape.field, matches!(self, Self::Json | Self::Jsonl)) {
            bail!("field = \"{field}\" is for JSON, and {} is none", path.display());
        }
        let rows = match self {
            Self::Jsonl | Self::Json => text_reader(path).and_then(|reader| json::each(reader, shape, make, take)),
            Self::Text => text_reader(path).and_then(read_text).and_then(|rows| in_chunks(rows, make, take)),
            Self::Csv => text_reader(path).and_then(|reader| in_chunks(read_csv(reader, b',')?, make, take)),
            Self::Tsv => text_reader(path).and_then(|reader| in_chunks(read_csv(reader, b'\t')?, make, take)),
            Self::Parquet => guarded(|| parquet::batches(path, |rows| take(make(rows)?))),
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

    /// By the file's first bytes, as `datasets` finds it out (utils/extract.py), whatever the name says.
    ///
    /// # Errors
    /// Where it is packed in a way that is not read.
    fn of_content(start: &[u8]) -> Result<Option<Self>> {
        let others: [(&[u8], &str); 3] = [(b"PK\x03\x04", "zip"), (b"BZh91AY&SY", "bzip2"), (b"\xfd7zXZ\x00", "xz")];
        if let Some((_, name)) = others.into_iter().find(|(magic, _)| start.starts_with(magic)) {
            bail!("it is packed by {name}, whatever its name says; unpack it, or pack it as .gz or .zst");
        }
        let known: [(&[u8], Self); 2] = [(b"\x1f\x8b", Self::Gzip), (b"\x28\xb5\x2f\xfd", Self::Zstandard)];
        Ok(known.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, packed)| packed))
    }
}

/// A file as text, uncompressed, without a byte-order mark.
fn text_reader(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    let packed = file.metadata().map_or(0, |m| m.len());
    let mut file = BufReader::new(file);
    let start = file.fill_buf()?;
    let by_content = Packed::of_content(start)?;
    ensure!(
        start.is_empty() || by_content.is_some() || Packed::of(path) != Some(Packed::Gzip),
        "it is not packed by gzip, though its name says so; rename it, or pack it"
    );
    let bounded = |reader: Box<dyn Read + Send>| -> Box<dyn BufRead + Send> {
        Box::new(BufReader::new(Bounded { reader, left: SMALL.max(packed.saturating_mul(EXPANSION)) }))
    };
    // Both read on where several compressed files were put one after the other.
    let mut reader = match by_content.or(Packed::of(path)) {
        Some(Packed::Gzip) => bounded(Box::new(MultiGzDecoder::new(file))),
        Some(Packed::Zstandard) => bounded(Box::new(zstd::Decoder::with_buffer(file)?)),
        None => Box::new(file),
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
///
/// # Errors
/// Also where a quote is open at the end, which pandas refuses, too: all after it would be one value.
fn read_csv(reader: impl BufRead, delimiter: u8) -> Result<Vec<Row>> {
    let open = Rc::default();
    let rows = table(Quotes { reader, delimiter, at: At::Start, line: 1, open: Rc::clone(&open) }, delimiter);
    match open.get() {
        Some(line) => bail!(
            "line {line} has a quote that is not closed before the end of the file: close it, write a quote within a \
             value twice (\"\"), or get the file again, of which the end may be missing"
        ),
        None => rows,
    }
}

/// Passes the bytes of a table on, and sees whether a quote is open at their end.
struct Quotes<R> {
    reader: R,
    delimiter: u8,
    at: At,
    line: usize,
    /// The line of a quote that is open at the end.
    open: Rc<Cell<Option<usize>>>,
}

/// Where in a value one is.
enum At {
    Start,
    Within,
    /// Between quotes, of which the first is in this line.
    Quoted(usize),
    /// Behind a quote that ends the value, or is the first of two.
    Quote(usize),
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(bytes)?;
        for &byte in &bytes[..count] {
            let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
            self.at = match (&self.at, byte) {
                (At::Start, b'"') => At::Quoted(self.line),
                (At::Quote(line), b'"') => At::Quoted(*line),
                (At::Quoted(line), b'"') => At::Quote(*line),
                (At::Quoted(line), _) => At::Quoted(*line),
                _ if ends => At::Start,
                _ => At::Within,
            };
            self.line += usize::from(byte == b'\n');
        }
        if let (0, At::Quoted(line)) = (count, &self.at) {
            self.open.set((!bytes.is_empty()).then_some(*line));
        }
        Ok(count)
    }
}

fn table(reader: impl Read, delimiter: u8) -> Result<Vec<Row>> {
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
impl Format {
    /// All rows of a file.
    pub fn all(self, path: &Path) -> Result<Vec<Row>> {
        let mut all = Vec::new();
        self.each(path, json::Shape::default(), &Ok, &mut |rows| {
            all.extend(rows);
            Ok(())
        })?;
        Ok(all)
    }
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
        Format::of(path).unwrap().all(path)
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
    fn a_quote_that_is_open_at_the_end_is_named_by_its_line() {
        for (name, text, line) in [
            ("a.csv", "text,n\n\"a\nb\",1\n\"c,2\nd,3\n", 4),
            ("a.csv", "text,n\nx,\"1\"\n\"say \"\"hi\"\"", 3),
            ("a.tsv", "text\tn\r\nx\t\"1\r\ny\t2\r\n", 2),
            ("a.csv", "\"text,n\na,1\n", 1),
            ("a.csv", "text,n\na,\"", 2),
        ] {
            let (_dir, path) = file(name, text.as_bytes());
            let error = format!("{:#}", rows(&path).unwrap_err());
            assert!(error.contains(&format!("line {line} has a quote that is not closed")), "{text}: {error}");
        }
        // Within a value a quote is a character, as in pandas.
        let (_dir, path) = file("a.csv", b"text,n\n5\" disk,1\n\"a\"b,2\n\"x \"\"y\"\"\",3\n\"\",4");
        let rows = rows(&path).unwrap();
        let texts: Vec<&Value> = rows.iter().map(|row| &row["text"]).collect();
        assert_eq!(serde_json::to_value(texts).unwrap(), serde_json::json!(["5\" disk", "ab", "x \"y\"", null]));
    }

    #[test]
    fn packed_files_are_known_by_their_content() {
        let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gz.write_all(b"{\"text\": \"a\"}").unwrap();
        assert_eq!(texts("a.jsonl", &gz.finish().unwrap()), ["a"]);
        assert_eq!(texts("a.json.gz", &zstd::encode_all(b"[{\"text\": \"a\"}]".as_slice(), 0).unwrap()), ["a"]);
        for (bytes, name) in [(b"PK\x03\x04....".as_slice(), "zip"), (b"BZh91AY&SY..", "bzip2"), (b"\xfd7zXZ\0.", "xz")]
        {
            let (_dir, path) = file("a.jsonl", bytes);
            let error = format!("{:#}", rows(&path).unwrap_err());
            assert!(error.contains(&format!("it is packed by {name}")), "{error}");
        }
        let (_dir, path) = file("a.jsonl.gz", b"{\"text\": \"a\"}");
        assert!(format!("{:#}", rows(&path).unwrap_err()).contains("it is not packed by gzip"));
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
