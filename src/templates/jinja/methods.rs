//! Methods of Python's texts, lists and dicts.

use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use super::format;
use super::value::{Dict, Value};
use super::{Given, Renderer};

/// What texts have, and calipr knows.
const OF_TEXTS: [&str; 37] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];

/// What texts, numbers, lists or dicts have in Python, and calipr does not know.
const UNKNOWN: [&str; 31] = [
    "encode",
    "expandtabs",
    "format_map",
    "isidentifier",
    "isprintable",
    "istitle",
    "maketrans",
    "swapcase",
    "translate",
    "zfill",
    "fromkeys",
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "fromhex",
    "hex",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
    "isdisjoint",
    "mapping",
    "start",
    "stop",
    "step",
    "decode",
    "throw",
];

const OF_LISTS: [&str; 3] = ["copy", "count", "index"];
const OF_DICTS: [&str; 5] = ["copy", "get", "items", "keys", "values"];

/// What the sandbox takes away, as it changes a list or dict (jinja2: sandbox.py).
const CHANGE_LISTS: [&str; 9] =
    ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "__setitem__"];
const CHANGE_DICTS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether a method is known to Python only.
pub fn is_unknown(name: &str) -> bool {
    UNKNOWN[..11].contains(&name)
}

/// White space, as Python's texts have it.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// What a value has under a name before its own items are looked at; None where there is nothing.
pub fn attribute(value: &Value, name: &str) -> Result<Option<Value>> {
    let method = || Some(Value::Method(value.clone().into(), name.into()));
    let unsafe_here = || {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe.", value.kind());
        Some(Value::undefined(message))
    };
    let unknown = |names: &[&str]| match names.contains(&name) {
        true => bail!("the attribute `{name}` of a value of type {} is not known to calipr", value.kind()),
        false => Ok(None),
    };
    match value {
        Value::Text(_) if OF_TEXTS.contains(&name) => Ok(method()),
        Value::Text(_) => unknown(&UNKNOWN[..10]),
        Value::List(_) if OF_LISTS.contains(&name) => Ok(method()),
        Value::List(_) if CHANGE_LISTS.contains(&name) => Ok(unsafe_here()),
        Value::Tuple(_) if OF_LISTS[1..].contains(&name) => Ok(method()),
        Value::Dict(_) if OF_DICTS.contains(&name) => Ok(method()),
        Value::Dict(_) if CHANGE_DICTS.contains(&name) => Ok(unsafe_here()),
        Value::Dict(_) => unknown(&["fromkeys"]),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => unknown(&UNKNOWN[11..24]),
        Value::View(..) => unknown(&["isdisjoint", "mapping", "start", "stop", "step", "count", "index"]),
        Value::Iterator(_) | Value::Macro(..) | Value::Function(_) | Value::Method(..) => {
            bail!("attributes of a value of type {} are not known to calipr", value.kind())
        }
        _ => Ok(None),
    }
}

impl Renderer {
    /// Calls a method.
    pub fn method(&mut self, value: &Value, name: &str, given: Given) -> Result<Value> {
        let called = match value {
            Value::Text(text) => text_method(text, name, given),
            Value::List(items) if name == "copy" => {
                let [] = given.exactly(name)?;
                Ok(Value::List(items.clone()))
            }
            Value::List(items) | Value::Tuple(items) => {
                let [item] = given.exactly(name)?;
                match name {
                    "count" => Ok(Value::Int(items.items.iter().filter(|i| i.equals(&item)).count() as i128)),
                    _ => {
                        let at = items.items.iter().position(|i| i.equals(&item));
                        Ok(Value::Int(at.context("the item is not in the list")? as i128))
                    }
                }
            }
            Value::Dict(dict) => dict_method(dict, name, given),
            _ => bail!("'{}' object is not callable", value.kind()),
        };
        let called = called.with_context(|| format!("`{name}`"))?;
        self.pay_for(&called)?;
        Ok(called)
    }
}

fn dict_method(dict: &Dict, name: &str, given: Given) -> Result<Value> {
    match name {
        "get" => {
            let [key, default] = given.up_to(1, name)?;
            let key = key.context("get expected at least 1 argument")?;
            Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
        }
        "items" => {
            let [] = given.exactly(name)?;
            let items = dict.items.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
            Value::view("dict_items", items.collect::<Result<_>>()?)
        }
        "keys" => Value::view("dict_keys", dict.items.iter().map(|(key, _)| key.clone()).collect()),
        "values" => Value::view("dict_values", dict.items.iter().map(|(_, value)| value.clone()).collect()),
        _ => Value::dict(dict.items.iter().cloned()),
    }
}

fn text_of(value: Value) -> Result<Arc<str>> {
    match value {
        Value::Text(text) => Ok(text),
        other => bail!("must be str, not {}", other.kind()),
    }
}

/// One text, or a tuple of them.
fn texts_of(value: Value) -> Result<Vec<Arc<str>>> {
    match value {
        Value::Tuple(items) => items.items.iter().cloned().map(text_of).collect(),
        other => Ok(vec![text_of(other)?]),
    }
}

fn text_method(text: &Arc<str>, name: &str, mut given: Given) -> Result<Value> {
    let new = |text: String| Ok(Value::text(text));
    let flag = |holds: bool| Ok(Value::Bool(holds));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = given.up_to(0, name)?;
            strip(text, name, characters)
        }
        "split" | "rsplit" => {
            let [separator, most] = given.named("split", ["sep", "maxsplit"])?;
            let separator = match separator {
                None | Some(Value::None) => None,
                Some(separator) => Some(text_of(separator)?),
            };
            let most = most.map_or(Some(-1), |most| most.as_int()).context("maxsplit must be an integer")?;
            let parts = split(text, separator.as_deref(), usize::try_from(most).ok(), name == "rsplit")?;
            Value::list(parts.into_iter().map(Value::text).collect())
        }
        "splitlines" => {
            let [keep] = given.named(name, ["keepends"])?;
            ensure!(!keep.is_some_and(|keep| keep.is_true()), "keepends is not known to calipr");
            Value::list(lines(text).into_iter().map(Value::text).collect())
        }
        "partition" | "rpartition" => {
            let [separator] = given.exactly(name)?;
            let separator = text_of(separator)?;
            ensure!(!separator.is_empty(), "empty separator");
            let found = if name == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::tuple(parts.map(Value::text).to_vec())
        }
        "startswith" | "endswith" => {
            let [parts, start, end] = given.up_to(1, name)?;
            let parts = texts_of(parts.context("expected a text")?)?;
            let (from, to) = (start.is_some(), end.is_some());
            let (Some((_, part)), true) = (slice(text, start, end)?, from || to) else {
                let holds = |part: &Arc<str>| {
                    if name == "startswith" { text.starts_with(&**part) } else { text.ends_with(&**part) }
                };
                return flag(!(from || to) && parts.iter().any(holds));
            };
            flag(parts.iter().any(|p| if name == "startswith" { part.starts_with(&**p) } else { part.ends_with(&**p) }))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [wanted, start, end] = given.up_to(1, name)?;
            let wanted = text_of(wanted.context("expected a text")?)?;
            let Some((first, part)) = slice(text, start, end)? else {
                ensure!(!name.ends_with("index"), "substring not found");
                return Ok(Value::Int(if name == "count" { 0 } else { -1 }));
            };
            if name == "count" {
                let count = if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() };
                return Ok(Value::Int(count as i128));
            }
            let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
            ensure!(at.is_some() || !name.ends_with("index"), "substring not found");
            Ok(Value::Int(at.map_or(-1, |at| (first + part[..at].chars().count()) as i128)))
        }
        "replace" => {
            let [old, new, count] = given.up_to(2, name)?;
            let (old, new) = (text_of(old.context("expected a text")?)?, text_of(new.context("expected a text")?)?);
            let count = count.map_or(Some(-1), |count| count.as_int()).context("the count must be an integer")?;
            replace(text, &old, &new, count)
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.exactly(name)?;
            let part = text_of(part)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
            new(rest.unwrap_or(text).to_owned())
        }
        "join" => {
            let [items] = given.exactly(name)?;
            let items = items.items()?.into_iter().map(text_of).collect::<Result<Vec<_>>>()?;
            let total: usize = items.iter().map(|item| item.len() + text.len()).sum();
            ensure!(total <= LONGEST, "a joined text is longer than {LONGEST} bytes");
            new(items.join(text))
        }
        "ljust" | "rjust" | "center" => {
            let [width, fill] = given.up_to(1, name)?;
            let width = width.and_then(|width| width.as_int()).context("the width must be an integer")?;
            let fill = fill.map_or(Ok(" ".into()), text_of)?;
            ensure!(fill.chars().count() == 1, "The fill character must be exactly one character long");
            justified(text, width, &fill, name)
        }
        "format" => {
            let named = std::mem::take(&mut given.named);
            let dict = Value::dict(named.into_iter().map(|(name, value)| (Value::Text(name), value)))?;
            let Value::Dict(dict) = dict else { bail!("expected a dict") };
            new(format::braces(text, &given.positional, &dict)?)
        }
        _ => {
            let [] = given.exactly(name)?;
            match name {
                "lower" => new(text.to_lowercase()),
                "upper" => new(text.to_uppercase()),
                "casefold" if text.is_ascii() => new(text.to_lowercase()),
                "capitalize" => new(capitalized(text)),
                "title" => new(titled(text)),
                "isascii" => flag(text.is_ascii()),
                "isspace" => flag(!text.is_empty() && text.chars().all(is_space)),
                "isalpha" => flag(LETTERS.is_match(text)),
                "isalnum" => flag(LETTERS_AND_NUMBERS.is_match(text)),
                "isupper" => flag(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
                "islower" => flag(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
                "isdigit" | "isdecimal" | "isnumeric" if text.is_ascii() => {
                    flag(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
                }
                _ => bail!("it is not known to calipr for texts with other than ASCII characters"),
            }
        }
    }
}

/// Bytes that a text may be made.
const LONGEST: usize = 16 << 20;

static LETTERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{L}+$").expect("a fixed expression"));
static LETTERS_AND_NUMBERS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]+$").expect("a fixed expression"));

/// Python's `strip` and its halves.
pub fn strip(text: &str, name: &str, characters: Option<Value>) -> Result<Value> {
    let characters = match characters {
        None | Some(Value::None) => None,
        Some(characters) => Some(text_of(characters)?),
    };
    let goes = |c: char| characters.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(Value::text(match name {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    }))
}

fn split<'a>(text: &'a str, separator: Option<&str>, most: Option<usize>, from_right: bool) -> Result<Vec<&'a str>> {
    let limit = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if let Some(separator) = separator {
        ensure!(!separator.is_empty(), "empty separator");
        let mut parts: Vec<&str> = match from_right {
            true => text.rsplitn(limit, separator).collect(),
            false => text.splitn(limit, separator).collect(),
        };
        if from_right {
            parts.reverse();
        }
        return Ok(parts);
    }
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    if most.is_some() {
        // The last part keeps the white space at its far end.
        rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    }
    while !rest.is_empty() {
        let space = if from_right {
            rest.char_indices().rfind(|(_, c)| is_space(*c))
        } else {
            rest.char_indices().find(|(_, c)| is_space(*c))
        };
        match space.filter(|_| parts.len() + 1 < limit) {
            None => {
                parts.push(rest);
                break;
            }
            Some((at, c)) if from_right => {
                parts.push(&rest[at + c.len_utf8()..]);
                rest = rest[..at].trim_end_matches(is_space);
            }
            Some((at, _)) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// Python's `splitlines`.
pub fn lines(text: &str) -> Vec<&str> {
    let is_end = |c: char| "\n\r\x0b\x0c\x1c\x1d\x1e\u{85}\u{2028}\u{2029}".contains(c);
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        lines.push(&rest[..at]);
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// What lies between two places, and the number of characters before it; None where the first is behind the end.
fn slice(text: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(usize, &str)>> {
    let length = text.chars().count();
    let place = |value: Option<Value>, default: usize| -> Result<usize> {
        let at = match value {
            None | Some(Value::None) => return Ok(default),
            Some(value) => value.as_int().context("slice indices must be integers or None")?,
        };
        let at = if at < 0 { at + length as i128 } else { at };
        Ok(usize::try_from(at.max(0)).unwrap_or(usize::MAX))
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > length || start > end {
        return Ok(None);
    }
    let byte = |count: usize| text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    Ok(Some((start, &text[byte(start)..byte(end)])))
}

/// Python's `replace`, of as many as `count`, or all where that is negative.
pub fn replace(text: &str, old: &str, new: &str, count: i128) -> Result<Value> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let size = text.len().saturating_add(found.min(most).saturating_mul(new.len()));
    ensure!(size <= LONGEST, "a text is made longer than {LONGEST} bytes");
    Ok(Value::text(text.replacen(old, new, most)))
}

fn justified(text: &str, width: i128, fill: &str, name: &str) -> Result<Value> {
    let length = text.chars().count();
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    ensure!(width <= LONGEST / 4, "a width of {width} is too large");
    let missing = width.saturating_sub(length);
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // Python: stringlib's center puts the odd one to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::text(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

/// Python's `center` with spaces.
pub fn centered(text: &str, width: i128) -> Result<Value> {
    justified(text, width, " ", "center")
}

pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| title_case(first) + &chars.as_str().to_lowercase())
}

/// A letter as the first of a word, which is not a capital in all scripts (Unicode: SpecialCasing.txt, UnicodeData.txt).
fn title_case(c: char) -> String {
    let one = |code: u32| char::from_u32(code).unwrap_or(c).to_string();
    match c {
        'Ǆ'..='ǆ' => one(0x1c5),
        'Ǉ'..='ǉ' => one(0x1c8),
        'Ǌ'..='ǌ' => one(0x1cb),
        'Ǳ'..='ǳ' => one(0x1f2),
        '\u{10d0}'..='\u{10ff}' => c.to_string(),
        '\u{1f80}'..='\u{1faf}' => one(u32::from(c) | 8),
        '\u{1fb3}' => one(0x1fbc),
        '\u{1fc3}' => one(0x1fcc),
        '\u{1ff3}' => one(0x1ffc),
        'ß' | 'և' | '\u{fb00}'..='\u{fb17}' => {
            let mut letters = c.to_uppercase();
            let first = letters.next().into_iter();
            first.chain(letters.flat_map(char::to_lowercase)).collect()
        }
        _ => c.to_uppercase().to_string(),
    }
}

fn titled(text: &str) -> String {
    let mut title = String::new();
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => title.extend(c.to_lowercase()),
            false => title.push_str(&title_case(c)),
        }
        inside = c.is_uppercase() || c.is_lowercase();
    }
    title
}
