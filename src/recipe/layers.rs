//! The layers that a recipe is made of, and where in them each key was set.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use figment::Figment;
use figment::error::{Actual, Error, Kind};
use figment::providers::{Env, Serialized};
use toml::de::{DeTable, DeValue};

use super::Recipe;
use super::problem::{Place, Problem, Problems};
use crate::words;

/// Names under `CALIPR_` that are settings of the program, not keys of a recipe.
const PROGRAM_SETTINGS: [&str; 3] = ["cache", "offline", "threads"];

type KeyPath = Vec<String>;

/// The file, the environment and the command line, merged, with the place of every key.
#[derive(Debug)]
pub struct Layers {
    file: String,
    text: String,
    /// Where each key and each array element stands in the file.
    spans: BTreeMap<KeyPath, Range<usize>>,
    /// Keys set by the environment and by arguments, the latter winning.
    overrides: Vec<(KeyPath, Place)>,
    figment: Figment,
}

impl Layers {
    /// Reads the file and merges the other layers over it.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self, Problems> {
        let file = path.display().to_string();
        let whole = |message: String| Problems(vec![Problem { place: Place::File(file.clone()), message, hint: None }]);
        let text = std::fs::read_to_string(path).map_err(|e| whole(format!("cannot read the recipe: {e}")))?;
        let mut layers =
            Self { file: file.clone(), text, spans: BTreeMap::new(), overrides: vec![], figment: Figment::new() };

        let table = match DeTable::parse(&layers.text) {
            Ok(table) => table,
            Err(e) => {
                let place = layers.line(e.span().unwrap_or(0..0));
                return Err(Problems(vec![Problem {
                    place,
                    message: format!("not TOML: {}", e.message()),
                    hint: None,
                }]));
            }
        };
        let mut spans = BTreeMap::new();
        collect_spans(table.get_ref(), &mut vec![], &mut spans);
        let values: toml::Table = toml::from_str(&layers.text).map_err(|e| whole(e.to_string()))?;
        layers.spans = spans;
        layers.figment = Figment::from(Serialized::globals(values));

        let env = Env::prefixed("CALIPR_").split("__").ignore(&PROGRAM_SETTINGS).global();
        for (key, _) in env.iter() {
            let variable = format!("CALIPR_{}", key.as_str().to_uppercase().replace('.', "__"));
            layers.overrides.push((key_path(key.as_str()), Place::Variable(variable)));
        }
        layers.figment = layers.figment.merge(env);

        for set in sets {
            let place = Place::Argument(set.clone());
            let Some((key, value)) = set.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
                let message = "expected KEY=VALUE, such as grid.sparsity=[0.5]".into();
                return Err(Problems(vec![Problem { place, message, hint: None }]));
            };
            // A value is TOML; what is not (a bare word) is a string.
            let value = value.trim();
            let parsed =
                toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
            let value = parsed.unwrap_or_else(|| toml::Value::String(value.into()));
            layers.overrides.push((key_path(key.trim()), place));
            layers.figment = layers.figment.merge(Serialized::global(key.trim(), value));
        }
        Ok(layers)
    }

    /// The recipe that the layers make together.
    pub fn extract(&self) -> Result<Recipe, Problems> {
        self.figment.extract().map_err(|e| Problems(e.into_iter().map(|e| self.explain(e)).collect()))
    }

    /// A problem with the value of a key, given as its path.
    pub fn problem(&self, key: &[&str], message: String, hint: Option<String>) -> Problem {
        let path: KeyPath = key.iter().map(|k| k.to_string()).collect();
        Problem { place: self.place(&path), message: format!("`{}`: {message}", key.join(".")), hint }
    }

    /// Where a key was set last, or the nearest table around it.
    fn place(&self, path: &[String]) -> Place {
        let covers = |set: &KeyPath| path.starts_with(set) || (set.starts_with(path) && !path.is_empty());
        if let Some((_, place)) = self.overrides.iter().rev().find(|(set, _)| covers(set)) {
            return place.clone();
        }
        let around = (1..=path.len()).rev().find_map(|n| self.spans.get(&path[..n]));
        match around {
            Some(span) => self.line(span.clone()),
            None => Place::File(self.file.clone()),
        }
    }

    fn line(&self, span: Range<usize>) -> Place {
        let start = span.start.min(self.text.len());
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Place::Line {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text: self.text[line_start..].lines().next().unwrap_or("").to_owned(),
        }
    }

    /// What serde found, in a recipe's words.
    fn explain(&self, error: Error) -> Problem {
        let mut path = error.path.clone();
        let key = path.join(".");
        let mut hint = None;
        let message = match error.kind {
            Kind::UnknownField(field, expected) => {
                path.pop_if(|last| *last == field);
                let message = format!("`{field}` is no key of {}; expected {}", table(&path), listed(expected));
                hint = words::nearest(&field, expected.iter().copied()).map(|w| format!("did you mean `{w}`?"));
                path.push(field);
                message
            }
            Kind::UnknownVariant(word, expected) => {
                hint = words::nearest(&word, expected.iter().copied()).map(|w| format!("did you mean \"{w}\"?"));
                format!("`{key}`: \"{word}\" is unknown; expected {}", listed(expected))
            }
            Kind::MissingField(field) => format!("{} lacks the key `{field}`", table(&path)),
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                let found = in_toml(&found);
                if expected == "a sequence" {
                    hint = Some(format!("a list is written [{found}]"));
                }
                format!("`{key}`: expected {}, found {found}", in_words(&expected))
            }
            other => format!("`{key}`: {other}"),
        };
        Problem { place: self.place(&path), message, hint }
    }
}

fn table(path: &[String]) -> String {
    if path.is_empty() { "the recipe".into() } else { format!("[{}]", path.join(".")) }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

/// What serde expected, in a recipe's words.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// What serde found, as TOML writes it.
fn in_toml(found: &Actual) -> String {
    match found {
        Actual::Bool(v) => v.to_string(),
        Actual::Unsigned(v) => v.to_string(),
        Actual::Signed(v) => v.to_string(),
        Actual::Float(v) => v.to_string(),
        Actual::Str(v) => format!("\"{v}\""),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table".into(),
        other => other.to_string(),
    }
}

fn key_path(dotted: &str) -> KeyPath {
    dotted.split('.').map(str::to_owned).collect()
}

fn collect_spans(table: &DeTable, path: &mut KeyPath, spans: &mut BTreeMap<KeyPath, Range<usize>>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        spans.insert(path.clone(), key.span());
        collect_value(value.get_ref(), path, spans);
        path.pop();
    }
}

fn collect_value(value: &DeValue, path: &mut KeyPath, spans: &mut BTreeMap<KeyPath, Range<usize>>) {
    match value {
        DeValue::Table(table) => collect_spans(table, path, spans),
        DeValue::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                path.push(i.to_string());
                spans.insert(path.clone(), value.span());
                collect_value(value.get_ref(), path, spans);
                path.pop();
            }
        }
        _ => {}
    }
}
