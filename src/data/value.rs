//! Values of rows: what JSON cannot hold, what a person takes for equal, and what a value is called in an error.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::Row;
use crate::templates;

/// Begins a text that stands for what JSON has no value for. U+FDD0 is a character that no text may have.
pub const MARK: &str = "\u{0}\u{fdd0}";

const NAN: &str = "NaN";
const INFINITE: [&str; 2] = ["Infinity", "-Infinity"];

/// What stands in a row for a value that JSON cannot hold, such as `NaN` or bytes that are no text: a row may have it
/// where nobody asks for it.
pub fn unheld(what: &str) -> Value {
    Value::String(format!("{MARK}{what}"))
}

/// A number, also one that JSON has no value for.
pub fn number(number: f64) -> Value {
    serde_json::Number::from_f64(number)
        .map_or_else(|| unheld(if number.is_nan() { NAN } else { INFINITE[usize::from(number < 0.0)] }), Value::Number)
}

/// What a value is that JSON cannot hold.
pub fn is_unheld(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix(MARK)
}

/// What a value has in it that JSON cannot hold.
pub fn has_unheld(value: &Value) -> Option<&str> {
    match value {
        Value::Array(list) => list.iter().find_map(has_unheld),
        Value::Object(fields) => fields.values().find_map(has_unheld),
        value => is_unheld(value),
    }
}

/// A value that should have been a text, as an error names it.
pub fn called(value: &Value) -> String {
    if let Some(what) = is_unheld(value) {
        return what.to_owned();
    }
    match value {
        Value::Null => "null".into(),
        Value::Array(list) if list.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().take(5).map(|k| format!("`{}`", shortened(k))).collect();
            format!("an object with {}", if names.is_empty() { "nothing in it".into() } else { names.join(", ") })
        }
        Value::String(text) => format!("\"{}\"", shortened(text)),
        plain => plain.to_string(),
    }
}

/// A text, or its beginning where it is long.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A text; a number is what Python prints of it.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if is_unheld(value).is_none() => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => templates::float(float),
            None => number.to_string(),
        }),
        _ => None,
    }
}

/// Whether a row's value is the one that was asked for, as a person compares them: 1 is "1" and 1.0, true is "True",
/// since a CSV file has nothing but texts. Two texts have to be the same.
pub fn same(wanted: &Value, found: &Value) -> bool {
    let of_number = |number: &serde_json::Number, text: &str| {
        text.trim().parse().is_ok_and(|found: f64| number.as_f64() == Some(found))
            && (number.is_f64() || text.trim().parse::<i128>().map_or(true, |found| integer(number) == Some(found)))
    };
    match (wanted, found) {
        (Value::Number(a), Value::Number(b)) => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Number(number), Value::String(text)) | (Value::String(text), Value::Number(number)) => {
            of_number(number, text)
        }
        (Value::Bool(truth), Value::String(text)) | (Value::String(text), Value::Bool(truth)) => {
            text.trim().eq_ignore_ascii_case(if *truth { "true" } else { "false" })
        }
        (Value::Bool(truth), Value::Number(number)) | (Value::Number(number), Value::Bool(truth)) => {
            integer(number) == Some(i128::from(*truth))
        }
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(w, f)| same(w, f))
        }
        (Value::Object(_), Value::String(found)) => date(wanted) == Some(found),
        (wanted, found) => wanted == found,
    }
}

/// A date of TOML, which rows have as text.
pub fn date(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.get("$__toml_private_datetime")?.as_str()
}

fn integer(number: &serde_json::Number) -> Option<i128> {
    number.as_i64().map(i128::from).or(number.as_u64().map(i128::from))
}

/// Whether Python's `str.isspace` is true of a character: four separators more than Unicode's white space.
pub fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A row as templates see it: numbers that JSON cannot hold are numbers again.
pub struct Fields<'a>(pub &'a Row);

struct Field<'a>(&'a Value);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields(self.0, serializer)
    }
}

fn fields<S: Serializer>(row: &Row, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(row.len()))?;
    for (name, value) in row {
        map.serialize_entry(name, &Field(value))?;
    }
    map.end()
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(list) => serializer.collect_seq(list.iter().map(Field)),
            Value::Object(row) => fields(row, serializer),
            value => match is_unheld(value) {
                Some(NAN) => serializer.serialize_f64(f64::NAN),
                Some(what) if what == INFINITE[0] => serializer.serialize_f64(f64::INFINITY),
                Some(what) if what == INFINITE[1] => serializer.serialize_f64(f64::NEG_INFINITY),
                _ => value.serialize(serializer),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_texts_are_the_same_to_a_person() {
        for (a, b) in [
            (json!(1), json!("1")),
            (json!(1), json!(1.0)),
            (json!("1"), json!(1)),
            (json!(1.5), json!("1.50")),
            (json!(1), json!(" 1 ")),
            (json!(true), json!("True")),
            (json!("false"), json!(false)),
            (json!(true), json!(1)),
            (json!("a"), json!("a")),
            (json!([1, "b"]), json!(["1", "b"])),
            (json!(9007199254740993u64), json!("9007199254740993")),
            (json!({"$__toml_private_datetime": "2024-01-31"}), json!("2024-01-31")),
        ] {
            assert!(same(&a, &b), "{a} {b}");
        }
        for (a, b) in [
            (json!(1), json!("1a")),
            (json!("1"), json!("01")),
            (json!("a"), json!("A")),
            (json!(1), json!("")),
            (json!(0), json!(null)),
            (json!(""), json!(null)),
            (json!(true), json!("yes")),
            (json!(1), json!("NaN")),
            (json!(9007199254740993u64), json!("9007199254740992")),
            (json!(9007199254740993u64), json!(9007199254740992u64)),
        ] {
            assert!(!same(&a, &b), "{a} {b}");
        }
    }

    #[test]
    fn what_json_cannot_hold_is_told_and_is_no_text() {
        assert_eq!(called(&number(f64::NAN)), "NaN");
        assert_eq!(called(&number(f64::NEG_INFINITY)), "-Infinity");
        assert_eq!(text(&number(f64::INFINITY)), None);
        for (float, printed) in
            [(2.5, "2.5"), (1e-7, "1e-07"), (1e16, "1e+16"), (1e-5, "1e-05"), (1e15, "1000000000000000.0")]
        {
            assert_eq!(text(&number(float)).unwrap(), printed);
        }
        assert_eq!(text(&number(f64::from(1e-7_f32))).unwrap(), "1.0000000116860974e-07");
        assert_eq!(text(&json!(10_000_000_000_000_000_u64)).unwrap(), "10000000000000000");
        assert_eq!(has_unheld(&json!([{"a": [unheld("bytes")]}])), Some("bytes"));
        assert_eq!(called(&json!("x".repeat(100))).chars().count(), 63);
    }
}
