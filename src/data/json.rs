//! Rows of JSON, in the shapes that Python's programs write: objects one a line or over lines, an array of them, and
//! what pandas' `to_json` makes of a table.
//!
//! What is read is what `datasets` and pandas read; what these read otherwise than it looks is refused by its shape.

use std::borrow::Cow;
use std::io::BufRead;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Row;
use super::rows::{AT_ONCE, in_chunks};
use super::value::{MARK, called, shortened};

/// How to read a file whose object could be one row or hold many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape<'a> {
    /// The field of the file's one object that holds the rows (`field` of `datasets`).
    pub field: Option<&'a str>,
    /// Whether a template says what a row has, so that one object may have any fields.
    pub templated: bool,
}

/// What is made of the rows of JSON, a few at a time and on all threads, is taken in their order.
///
/// # Errors
/// Where it is no JSON, with line and column, or has no rows of named fields, with the shape that was found.
pub fn each<T: Send>(
    reader: impl BufRead + Send,
    shape: Shape,
    make: &(impl Fn(Vec<Row>) -> Result<T> + Sync),
    take: &mut dyn FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut lines = Lines { reader, number: 0 };
    let first = loop {
        match lines.next()? {
            None => return Ok(()),
            Some(line) if line.trim_ascii().is_empty() => {}
            Some(line) => break line,
        }
    };
    let number = lines.number;
    if shape.field.is_some() || first.trim_start().starts_with('[') {
        return in_chunks(whole(&lines.rest(first)?, number, shape)?, make, take);
    }
    let mut first = match serde_json::from_str(&as_json(first.trim_end())) {
        // An object over several lines.
        Err(e) if e.is_eof() => return in_chunks(whole(&lines.rest(first)?, number, shape)?, make, take),
        read => Some(row_of(read, number)?),
    };
    let rows_of = |lines: &[(usize, String)]| {
        let lines = lines.iter().filter(|(_, line)| !line.trim_ascii().is_empty());
        let row = |(number, line): &(usize, String)| row_of(serde_json::from_str(&as_json(line.trim_end())), *number);
        let rows = lines.map(row).collect::<Result<Vec<Row>>>()?;
        Ok((rows.len(), make(rows)?))
    };
    let mut here = lines.several();
    loop {
        let is_last = here.end.is_some();
        // While some lines become rows, those behind them are read.
        let (made, next) = rayon::join(
            || here.lines.par_chunks(AT_ONCE).map(rows_of).collect::<Vec<Result<(usize, T)>>>(),
            || if is_last { Several::default() } else { lines.several() },
        );
        for made in made {
            let (count, made) = made?;
            if let Some(first) = first.take_if(|_| count > 0) {
                take(make(vec![first])?)?;
            }
            take(made)?;
        }
        here.end.take().transpose()?;
        if is_last {
            break;
        }
        here = next;
    }
    match first {
        Some(only) => in_chunks(of_one(only, shape)?, make, take),
        None => Ok(()),
    }
}

/// The row of line `number`.
fn row_of(read: serde_json::Result<Once>, number: usize) -> Result<Row> {
    match read {
        Ok(Once(Value::Object(row))) => Ok(row),
        Ok(Once(other)) => bail!(
            "line {number} is {}, a {} where an object of names and values is expected: {{\"text\": …}}",
            called(&other),
            kind(&other)
        ),
        Err(e) => Err(no_json(&e, number)),
    }
}

/// A value whose objects, but for those inside of rows, have a name once, as `datasets` wants it (pyarrow: "was specified
/// twice"). Within a row the last one counts, as in Python.
struct Once(Value);

const TWICE: &str = "is there twice";

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut row = Row::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if row.contains_key(&name) {
                return Err(A::Error::custom(format!("the name `{}` {TWICE}", shortened(&name))));
            }
            row.insert(name, value);
        }
        Ok(Value::Object(row))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Once(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Bytes of lines that are read while those before them become rows.
const READ_AT_ONCE: usize = 4 << 20;

/// Lines with their numbers, and how the file ends where it does.
#[derive(Default)]
struct Several {
    lines: Vec<(usize, String)>,
    end: Option<Result<()>>,
}

struct Lines<R> {
    reader: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        self.number += 1;
        let read = self.reader.read_line(&mut line).with_context(|| format!("line {}", self.number))?;
        Ok((read > 0).then_some(line))
    }

    /// Some of the next lines.
    fn several(&mut self) -> Several {
        let mut several = Several::default();
        let mut bytes = 0;
        while several.end.is_none() && bytes < READ_AT_ONCE {
            match self.next() {
                Ok(Some(line)) => {
                    bytes += line.len();
                    several.lines.push((self.number, line));
                }
                end => several.end = Some(end.map(|_| ())),
            }
        }
        several
    }

    /// A line and all after it.
    fn rest(&mut self, mut line: String) -> Result<String> {
        self.reader.read_to_string(&mut line).with_context(|| format!("after line {}", self.number))?;
        Ok(line)
    }
}

/// The error of a text whose first line has this number.
fn no_json(error: &serde_json::Error, first: usize) -> anyhow::Error {
    let said = error.to_string(); // it ends in the place
    let what = said.split(" at line ").next().unwrap_or_default();
    if what.ends_with(TWICE) {
        return anyhow!("the object that ends in line {}: {what}", first + error.line().max(1) - 1);
    }
    let why =
        if what.contains("hex escape") { " (half of a surrogate pair, such as \\ud800, is no character)" } else { "" };
    anyhow!("line {}, column {} is no JSON: {what}{why}", first + error.line().max(1) - 1, error.column())
}

/// A file that is not an object a line; `first` is the number of its first line.
fn whole(text: &str, first: usize, shape: Shape) -> Result<Vec<Row>> {
    let text = as_json(text);
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Once>();
    let values = values.map(|value| value.map(|Once(value)| value).map_err(|e| no_json(&e, first)));
    let mut values: Vec<Value> = values.collect::<Result<_>>()?;
    match (values.as_mut_slice(), shape.field) {
        ([Value::Object(object)], Some(field)) => {
            let fields = names(object);
            let value = object.remove(field);
            let value = value.with_context(|| format!("field = \"{field}\", but the file's object has {fields}"))?;
            let found = kind(&value);
            match value {
                Value::Array(list) => of_list(list),
                Value::Object(columns) => of_table(&columns).unwrap_or_else(|| Ok(vec![columns])),
                _ => bail!("`{field}` is a {found} where a list of objects is expected"),
            }
            .with_context(|| format!("`{field}`"))
        }
        (_, Some(field)) => bail!("field = \"{field}\" is for files that are one JSON object, and this one is not"),
        ([Value::Array(list)], None) => of_list(std::mem::take(list)),
        ([Value::Object(object)], None) => of_one(std::mem::take(object), shape),
        _ => {
            let rows = values.into_iter().enumerate().map(|(i, value)| match value {
                Value::Object(row) => Ok(row),
                other => {
                    bail!("value {} of the file is of the kind {} where an object is expected", i + 1, kind(&other))
                }
            });
            rows.collect()
        }
    }
}

/// A list of objects, or of texts, which `datasets` calls `text`.
fn of_list(list: Vec<Value>) -> Result<Vec<Row>> {
    let texts = matches!(list.first(), Some(Value::String(_)));
    if matches!(list.first(), Some(Value::Array(_))) {
        bail!(
            "it is a list of lists, whose values have no names (pandas' orient=\"values\"); write objects: \
             orient=\"records\""
        );
    }
    let rows = list.into_iter().enumerate().map(|(i, value)| match value {
        Value::Object(row) => Ok(row),
        Value::String(text) if texts => Ok(Row::from_iter([("text".to_owned(), Value::String(text))])),
        other => bail!("element {} of the list is {} where an object is expected", i + 1, called(&other)),
    });
    rows.collect()
}

/// The one object of a file: a table of pandas, or a row.
fn of_one(object: Row, shape: Shape) -> Result<Vec<Row>> {
    if let Some(rows) = of_table(&object) {
        return rows;
    }
    let of_objects =
        |value: &Value| matches!(value, Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_object));
    let is_rows = |value: &Value| of_objects(value) && !super::shape::is_conversation(value);
    let holds = object.iter().find(|(_, value)| is_rows(value)).map(|(name, _)| name);
    if let Some(name) = holds.filter(|_| !shape.templated && !super::shape::is_usual(&object)) {
        bail!(
            "the whole file is one object with {}; its rows seem to be the list under `{name}`: name it by field = \
             \"{name}\" in a data set's TOML, or write the list alone, or an object a line",
            names(&object)
        );
    }
    Ok(vec![object])
}

/// The rows of an object that is a table as pandas writes it; None where it is none.
fn of_table(object: &Row) -> Option<Result<Vec<Row>>> {
    let has = |names: &[&str]| names.iter().all(|name| object.contains_key(*name));
    let only = |names: &[&str]| object.keys().all(|key| names.contains(&key.as_str()));
    if let (true, Some(Value::Array(columns)), Some(Value::Array(rows))) =
        (only(&["columns", "index", "data", "index_names", "column_names"]), object.get("columns"), object.get("data"))
    {
        return Some(split(columns, rows));
    }
    if let (true, Some(Value::Object(_)), Some(Value::Array(rows))) =
        (has(&["schema", "data"]) && only(&["schema", "data"]), object.get("schema"), object.get("data"))
    {
        return Some(of_list(rows.clone()).context("pandas' orient=\"table\""));
    }
    let inner: Option<Vec<&Row>> = object.values().map(Value::as_object).collect();
    if let Some(inner) = inner.filter(|inner| !inner.is_empty() && !inner[0].is_empty()) {
        let numbered = |row: &Row| row.keys().all(|key| key.parse::<u64>().is_ok());
        if numbered(object) {
            return Some(Ok(in_order(object).into_iter().filter_map(|(_, row)| row.as_object().cloned()).collect()));
        }
        if inner.iter().all(|column| numbered(column) && column.len() == inner[0].len()) {
            return Some(of_columns(object, inner[0]));
        }
    }
    of_lists(object)
}

/// pandas' orient="split": names of columns, and a list of values a row.
fn split(columns: &[Value], rows: &[Value]) -> Result<Vec<Row>> {
    let names: Option<Vec<&str>> = columns.iter().map(Value::as_str).collect();
    let names = names.context("`columns` is no list of names")?;
    let row = |(i, row): (usize, &Value)| {
        let values = row.as_array().with_context(|| format!("row {} of `data` is no list", i + 1))?;
        ensure!(values.len() == names.len(), "row {} has {} values for {} columns", i + 1, values.len(), names.len());
        Ok(names.iter().map(|name| (*name).to_owned()).zip(values.iter().cloned()).collect())
    };
    rows.iter().enumerate().map(row).collect::<Result<_>>().context("pandas' orient=\"split\"")
}

/// pandas' orient="columns", its default: an object a column, which has a value a row, by its number.
fn of_columns(columns: &Row, first: &Row) -> Result<Vec<Row>> {
    let row = |(number, _): (&str, &Value)| {
        let value = |(name, column): (&String, &Value)| {
            let value = column.get(number).with_context(|| format!("`{name}` has no row \"{number}\""))?;
            Ok((name.clone(), value.clone()))
        };
        columns.iter().map(value).collect::<Result<Row>>()
    };
    in_order(first).into_iter().map(row).collect::<Result<_>>().context("pandas' orient=\"columns\"")
}

/// Numbered entries in the order of their numbers.
fn in_order(numbered: &Row) -> Vec<(&str, &Value)> {
    let mut entries: Vec<(&str, &Value)> = numbered.iter().map(|(key, value)| (key.as_str(), value)).collect();
    entries.sort_by_key(|(key, _)| key.parse::<u64>().unwrap_or(u64::MAX));
    entries
}

/// A list a column, as `Dataset.to_dict` has it: told from a row of lists by a field that is always one text.
fn of_lists(object: &Row) -> Option<Result<Vec<Row>>> {
    let lists: Option<Vec<&Vec<Value>>> = object.values().map(Value::as_array).collect();
    let lists = lists?;
    let of_texts = |name: &str| {
        let texts = object.get(name).and_then(Value::as_array);
        texts.is_some_and(|list| !list.is_empty() && list.iter().all(|v| v.is_string() || v.is_null()))
    };
    let count = lists.first()?.len();
    if !["text", "prompt", "instruction", "question"].into_iter().any(of_texts) {
        return None;
    }
    if lists.iter().any(|list| list.len() != count) {
        return Some(Err(anyhow!("it is one object of lists of different lengths, and no rows")));
    }
    let row = |i: usize| object.iter().map(|(name, list)| (name.clone(), list[i].clone())).collect();
    Some(Ok((0..count).map(row).collect()))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "truth value",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn names(object: &Map<String, Value>) -> String {
    let names: Vec<String> = object.keys().take(20).map(|k| format!("`{k}`")).collect();
    format!("the fields {}", names.join(", "))
}

/// Python's json writes `NaN`, `Infinity` and integers of any length: here they become texts that
/// [`super::value`] knows again, or in an integer's case its digits.
fn as_json(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => {
                at = after_string(bytes, at);
                continue;
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => {
                let word = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
                at + bytes[at..].iter().position(|b| !word(b)).unwrap_or(bytes.len() - at)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        let replaced = match &text[at..end] {
            word @ ("NaN" | "Infinity" | "-Infinity") => Some(format!("{MARK}{word}")),
            number if number.len() > 18 => long_number(number),
            _ => None,
        };
        if let Some(value) = replaced {
            out.push_str(&text[copied..at]);
            out.push_str(&Value::String(value).to_string());
            copied = end;
        }
        at = end.max(at + 1);
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The digits of an integer that no machine word holds.
fn long_number(number: &str) -> Option<String> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_integer = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    let fits = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    (is_integer && !fits).then(|| number.to_owned())
}

/// Where a string ends that begins here.
fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, shape: Shape) -> Result<Vec<Row>> {
        let mut all = Vec::new();
        each(text.as_bytes(), shape, &Ok, &mut |rows| {
            all.extend(rows);
            Ok(())
        })?;
        Ok(all)
    }

    fn rows(text: &str) -> Result<Vec<Row>> {
        read(text, Shape::default())
    }

    #[test]
    fn what_json_has_no_value_for_is_marked_wherever_it_stands() {
        let text =
            r#"{"a": NaN, "b": [-Infinity, {"c":Infinity}], "d": "NaN \" NaN", "e": -12345678901234567890123, "f": 1}"#;
        let row = &rows(text).unwrap()[0];
        assert_eq!(called(&row["a"]), "NaN");
        assert_eq!((called(&row["b"][0]), called(&row["b"][1]["c"])), ("-Infinity".into(), "Infinity".into()));
        assert_eq!(row["e"], "-12345678901234567890123");
        assert_eq!((row["d"].as_str(), row["f"].as_u64()), (Some("NaN \" NaN"), Some(1)));
        assert!(matches!(as_json("{\"a\": 12}"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_row_is_told_by_its_line_and_shape() {
        for (text, says) in [
            ("{\"a\": 1}\n\n{\"a\": }", "line 3, column 7 is no JSON: expected value"),
            ("{\"a\": 1}\n{\"a\":\n1}", "line 2, column "),
            ("{\n\"a\": 1,\n}", "line 3, column 1 is no JSON: trailing comma"),
            ("\n[{\"a\": 1},\n{\"a\" 2}]", "line 3, column 6 is no JSON"),
            ("\"a\"\n\"b\"", "line 1 is \"a\", a string where an object"),
            ("{\"a\": 1}\n3", "line 2 is 3, a number where"),
            ("[[\"a\", 1]]", "a list of lists"),
            ("[{\"a\": 1}, null]", "element 2 of the list is null"),
            ("[\"a\", 1]", "element 2 of the list is 1"),
            ("[{\"a\": 1}]\n[{\"a\": 2}]", "value 1 of the file is of the kind array"),
            ("{\"version\": \"1\", \"data\": [{\"text\": \"x\"}]}", "under `data`: name it by field = \"data\""),
            ("{\"text\": [\"a\", \"b\"], \"n\": [1]}", "lists of different lengths"),
            ("{\"a\": \"\\ud800\"}", "half of a surrogate pair"),
            ("{\"a\": \"\t\"}", "control character"),
            ("{\"a\": nan}", "line 1, column"),
            ("{\"a\": 1}\n{\"b\": 1, \"b\": 1}", "the object that ends in line 2: the name `b` is there twice"),
            ("[{\"a\": 1},\n{\"a\": 1,\n\"a\": 2}]", "the object that ends in line 3: the name `a` is there twice"),
        ] {
            let error = format!("{:#}", rows(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
        let field = |text: &str| read(text, Shape { field: Some("data"), templated: false });
        assert_eq!(field("{\"v\": 1,\n\"data\": [{\"a\": 1}]}").unwrap().len(), 1);
        assert_eq!(field("{\"data\": {\"text\": [\"a\", \"b\"]}}").unwrap().len(), 2);
        assert!(format!("{:#}", field("{\"rows\": []}").unwrap_err()).contains("has the fields `rows`"));
        assert!(format!("{:#}", field("[]").unwrap_err()).contains("one JSON object"));
    }

    #[test]
    fn of_many_lines_the_first_wrong_one_is_named_and_rows_stay_in_order() {
        let line = |n: usize| format!("{{\"n\": {n}, \"text\": \"{}\"}}\n", "x".repeat(n % 3000));
        let mut lines: Vec<String> = (0..6000).map(line).collect();
        let read = rows(&lines.concat()).unwrap();
        assert!(lines.concat().len() > 2 * READ_AT_ONCE, "they are read in several turns");
        assert!(read.len() == 6000 && read.iter().zip(0..).all(|(row, n)| row["n"] == n));
        for wrong in [5999, 3456, 900, 257, 256, 1] {
            lines[wrong] = "{\"n\": }\n".into();
            let error = format!("{:#}", rows(&lines.concat()).unwrap_err());
            assert!(error.contains(&format!("line {}, column 7 ", wrong + 1)), "{error}");
        }
    }

    #[test]
    fn one_object_is_a_row_where_it_looks_like_one() {
        for text in [
            "{\"text\": \"a\"}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "{\"question\": \"a\", \"choices\": [{\"b\": 1}], \"answer\": 0}",
            "{\"input_ids\": [1, 2], \"labels\": [1, 2]}",
            "{\"chosen\": [{\"role\": \"user\", \"content\": \"a\"}], \"rejected\": []}",
            "{\"question\": {\"stem\": \"a\"}, \"meta\": {\"stem\": \"b\"}}",
        ] {
            assert_eq!(rows(text).unwrap().len(), 1, "{text}");
        }
    }

    /// Files that json and pandas wrote, each with the rows that they read of it.
    #[derive(serde::Deserialize)]
    struct Written {
        name: String,
        content: String,
        rows: Vec<Row>,
    }

    #[test]
    fn files_that_pythons_programs_wrote_have_the_rows_that_these_read() {
        let files: Vec<Written> =
            serde_json::from_str(include_str!("../../tests/fixtures/files_of_rows.json")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for Written { name, content, rows } in files {
            let path = dir.path().join(&name);
            std::fs::write(&path, &content).unwrap();
            let ours = crate::data::Format::of(&path).unwrap().all(&path);
            let ours = ours.unwrap_or_else(|e| panic!("{name}: {e:#}\n{content}"));
            assert_eq!(ours, rows, "{name}\n{content}");
        }
    }
}
