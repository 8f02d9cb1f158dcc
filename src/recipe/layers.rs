//! The layers that a recipe is made of, and where in them each key was set.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use figment::Figment;
use figment::error::{Actual, Error, Kind};
use figment::providers::Serialized;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Problems};
use super::{Recipe, file, meant};
use crate::words;

/// Names under `CALIPR_` that are settings of the program, not keys of a recipe.
const PROGRAM_SETTINGS: [&str; 4] = ["cache", "cache_size", "offline", "threads"];

/// Keys that recipes once had, and what is said instead.
const MOVED: [(&str, &str); 1] = [(
    "cache_size",
    "what the cache may hold is the cache's own: `calipr cache limit SIZE`, CALIPR_CACHE_SIZE or --cache-size SIZE",
)];

/// More parts than the key of any value in a recipe has.
const DEEPEST: usize = 8;

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
    /// The file by itself.
    alone: Figment,
}

impl Layers {
    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads the file and merges the other layers over it.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self, Problems> {
        let (file, text) = (file::name(path), file::read(path).map_err(|problem| Problems(vec![problem]))?);
        let whole = |message: String| Problems(vec![Problem { place: Place::File(file.clone()), message, hint: None }]);
        let mut layers = Self::nowhere(path);
        (layers.file, layers.text) = (file.clone(), text);

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
        layers.alone = Figment::from(Serialized::globals(values));
        layers.figment = layers.alone.clone();

        for (variable, value) in recipe_variables() {
            let key = layers.spelt_as_in_the_file(&variable["CALIPR_".len()..].replace("__", "."));
            let place = Place::Variable(variable);
            layers.override_with(&key, &value, place)?;
        }
        for set in sets {
            let place = Place::Argument(set.clone());
            let Some((key, value)) = set.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
                let message = "expected KEY=VALUE, such as grid.sparsity=[0.5]".into();
                return Err(Problems(vec![Problem { place, message, hint: None }]));
            };
            layers.override_with(key.trim(), value, place)?;
        }
        Ok(layers)
    }

    /// The layers of a recipe that is not read from TOML: what is wrong with it is wrong in this file as a whole.
    pub fn nowhere(path: &Path) -> Self {
        let (file, text) = (path.display().to_string(), String::new());
        let (figment, alone) = (Figment::new(), Figment::new());
        Self { file, text, spans: BTreeMap::new(), overrides: vec![], figment, alone }
    }

    /// Sets a key over all that was set before. The value is TOML; a bare word is a string.
    fn override_with(&mut self, key: &str, value: &str, place: Place) -> Result<(), Problems> {
        let Some(path) = key_path(key) else {
            let message = format!("`{key}` has a quote that is not closed");
            return Err(Problems(vec![Problem { place, message, hint: None }]));
        };
        let depth = path.len();
        if depth > DEEPEST {
            let message = format!("a key of {depth} parts; the deepest of a recipe have {DEEPEST}");
            return Err(Problems(vec![Problem { place, message, hint: None }]));
        }
        let value = value.trim();
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
        let value = match parsed.map(|mut table| table.remove("value")) {
            Ok(Some(value)) => value,
            // What begins like TOML was meant to be.
            Err(e) if value.starts_with(['[', '{', '"', '\'']) => {
                let message = format!("`{key}`: {value} is not TOML: {}", e.message());
                let hint = Some("the shell takes quotes away; put the whole argument in single quotes".to_owned());
                return Err(Problems(vec![Problem { place, message, hint }]));
            }
            // Nor does TOML have whole numbers as large as this.
            Err(_) if value.parse::<i128>().is_ok() => {
                let message = format!("`{key}`: {value} is too large a number; expected at most {}", i64::MAX);
                return Err(Problems(vec![Problem { place, message, hint: None }]));
            }
            _ => toml::Value::String(value.into()),
        };
        let within = |value, part: &String| toml::Value::Table(toml::Table::from_iter([(part.clone(), value)]));
        let layer = path.iter().rev().fold(value, within);
        self.overrides.push((path, place));
        self.figment = std::mem::take(&mut self.figment).merge(Serialized::globals(layer));
        Ok(())
    }

    /// A variable's name has no case; where the file has the key in some case, that is the one meant.
    fn spelt_as_in_the_file(&self, key: &str) -> String {
        let mut spelt: KeyPath = Vec::new();
        for part in key.split('.') {
            spelt.push(part.to_owned());
            let like = |path: &&KeyPath| {
                path.len() == spelt.len() && path.iter().zip(&spelt).all(|(a, b)| a.eq_ignore_ascii_case(b))
            };
            match self.spans.keys().find(like) {
                Some(path) => spelt = path.clone(),
                None => *spelt.last_mut().expect("a part was just pushed") = part.to_lowercase(),
            }
        }
        spelt.join(".")
    }

    /// The recipe that the layers make together.
    pub fn extract(&self) -> Result<Recipe, Problems> {
        let extracted = self.figment.extract();
        let mut recipe: Recipe = extracted.map_err(|e| Problems(e.into_iter().map(|e| self.explain(e)).collect()))?;
        // figment sorts what it merges.
        recipe.calibration.sort_by_cached_key(|name, _| self.order(["calibration", name]));
        recipe.checkpoint.sort_by_cached_key(|name, _| self.order(["checkpoint", name]));
        recipe.suite.sort_by_cached_key(|name, _| self.order(["suite", name]));
        Ok(recipe)
    }

    /// The keys that variables of the environment set, as --set has them: what is computed elsewhere has them without these.
    pub fn of_environment(&self) -> Vec<String> {
        let set = |(key, place): &(KeyPath, Place)| match place {
            Place::Variable(name) => Some(format!("{}={}", key.join("."), std::env::var(name).ok()?)),
            _ => None,
        };
        self.overrides.iter().filter_map(set).collect()
    }

    /// The recipe that the file is by itself; None where it is none without what overrides it.
    pub fn of_file(&self) -> Option<Recipe> {
        self.alone.extract().ok()
    }

    /// Where a key comes among its like: as the file has them, and behind those the ones that only overrides set.
    fn order(&self, key: [&str; 2]) -> (usize, usize) {
        let path = key.map(str::to_owned);
        match self.spans.get(path.as_slice()) {
            Some(span) => (0, span.start),
            None => (1, self.overrides.iter().position(|(set, _)| set.starts_with(&path)).unwrap_or(0)),
        }
    }

    /// A problem with the value of a key, given as its path.
    pub fn problem(&self, key: &[&str], message: String, hint: Option<String>) -> Problem {
        let path: KeyPath = key.iter().map(|k| k.to_string()).collect();
        Problem { place: self.place(&path), message: format!("`{}`: {message}", key.join(".")), hint }
    }

    /// Where a key was set last, or the nearest table around it.
    fn place(&self, path: &[String]) -> Place {
        if let Some((_, place)) = self.overrides.iter().rev().find(|(set, _)| path.starts_with(set)) {
            return place.clone();
        }
        if let Some(span) = self.spans.get(path) {
            return self.line(span.clone());
        }
        // A table that only an override began.
        let within = |set: &KeyPath| set.starts_with(path) && !path.is_empty();
        if let Some((_, place)) = self.overrides.iter().rev().find(|(set, _)| within(set)) {
            return place.clone();
        }
        match (1..path.len()).rev().find_map(|n| self.spans.get(&path[..n])) {
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

    /// The table of the file that was probably meant by one of a user's own name that only an override begins.
    fn neighbour(&self, path: &[String]) -> Option<String> {
        let [kind, name] = path else { return None };
        let known =
            self.spans.keys().filter(|known| known.len() == 2 && known[0] == *kind).map(|known| known[1].as_str());
        let nearest = words::nearest(name, known).filter(|nearest| nearest != name)?;
        Some(format!("did you mean [{kind}.{nearest}]?"))
    }

    /// What serde found, in a recipe's words.
    fn explain(&self, error: Error) -> Problem {
        let mut path = error.path.clone();
        let key = path.join(".");
        let (mut hint, mut place) = (None, None);
        let message = match error.kind {
            Kind::UnknownField(field, expected) => {
                path.pop_if(|last| *last == field);
                let moved = MOVED.iter().find(|(key, _)| path.is_empty() && *key == field);
                hint = match moved {
                    Some((_, now)) => Some((*now).into()),
                    None => meant::key(&field, &path, expected),
                };
                let message = format!("`{field}` is no key of {}{}", table(&path), known(expected));
                path.push(field);
                message
            }
            Kind::UnknownVariant(word, expected) => {
                hint = meant::word(&word, expected);
                format!("`{key}`: \"{word}\" is unknown; expected {}", listed(expected))
            }
            Kind::MissingField(field) => {
                hint = self.neighbour(&path);
                format!("{} lacks the key `{field}`", table(&path))
            }
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                let is_table = found == Actual::Map;
                let found = in_toml(&found);
                let expected = in_words(&expected);
                hint = match expected {
                    "a list" if !is_table => Some(meant::list(&found)),
                    "a table" => meant::table(&path),
                    _ => None,
                };
                // A key within what the file has as a value makes a table of it.
                if is_table {
                    let within = |set: &KeyPath| set.len() > path.len() && set.starts_with(&path);
                    place = self.overrides.iter().rev().find(|(set, _)| within(set)).map(|(_, place)| place.clone());
                }
                format!("`{key}`: expected {expected}, found {found}")
            }
            other => format!("`{key}`: {other}"),
        };
        Problem { place: place.unwrap_or_else(|| self.place(&path)), message, hint }
    }
}

fn table(path: &[String]) -> String {
    if path.is_empty() { "the recipe".into() } else { format!("[{}]", path.join(".")) }
}

/// The keys that there are, after what is none.
fn known(keys: &[&str]) -> String {
    if keys.is_empty() { ", which has none".into() } else { format!("; expected {}", listed(keys)) }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

/// What serde expected, in a recipe's words.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" => "a whole number, 0 or more",
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
        // With its point: 1e9 is no whole number.
        Actual::Float(v) => format!("{v:?}"),
        Actual::Str(v) => format!("{v:?}"),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table".into(),
        other => other.to_string(),
    }
}

/// The environment's variables that set keys of a recipe, in the order of their names.
fn recipe_variables() -> Vec<(String, String)> {
    let of_recipe = |name: &String| {
        name.strip_prefix("CALIPR_").is_some_and(|key| !PROGRAM_SETTINGS.contains(&key.to_lowercase().as_str()))
    };
    let mut variables: Vec<(String, String)> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    variables.retain(|(name, _)| of_recipe(name));
    variables.sort();
    variables
}

/// The parts of a key as TOML writes it: one in quotes may have dots. None where a quote is not closed.
fn key_path(dotted: &str) -> Option<KeyPath> {
    let (mut path, mut quote) = (vec![String::new()], None);
    for c in dotted.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '.' => path.push(String::new()),
            _ => path.last_mut().expect("there is one from the start").push(c),
        }
    }
    quote.is_none().then_some(path)
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
