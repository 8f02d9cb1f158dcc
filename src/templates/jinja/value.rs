//! Python's values, as far as the templates of conversations can see them: what is true, equal, less, and how it prints.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};

use super::ast;

/// How deep lists and dicts may lie in each other.
const DEEPEST: usize = 200;

#[derive(Clone)]
pub enum Value {
    /// With what Jinja says where it is used.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// A range, or a view of a dict: what it is called, and its items.
    View(&'static str, Rc<Items>),
    /// A generator, which gives each item once.
    Iterator(Rc<RefCell<VecDeque<Value>>>),
    Namespace(Rc<RefCell<Attributes>>),
    Loop(Rc<Loop>),
    /// A macro, and the frame that it was written in.
    Macro(Arc<ast::Macro>, usize),
    /// What `caller` is: a macro of the template's, or nothing that has a name.
    Function(&'static str),
    /// A method of a value.
    Method(Rc<Value>, Arc<str>),
}

/// What a namespace holds.
pub type Attributes = Vec<(Arc<str>, Value)>;

/// The items of a list, and how deep they are nested.
pub struct Items {
    pub items: Vec<Value>,
    depth: usize,
}

/// A dict, in the order of its keys.
pub struct Dict {
    pub items: Vec<(Value, Value)>,
    depth: usize,
}

/// Where a loop is.
pub struct Loop {
    pub items: Rc<Items>,
    pub at: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// The number of the loop, where it may call itself.
    pub recursive: Option<usize>,
}

impl Value {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    pub fn undefined(message: impl Into<Arc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    pub fn list(items: Vec<Self>) -> Result<Self> {
        Ok(Self::List(Items::new(items)?))
    }

    pub fn tuple(items: Vec<Self>) -> Result<Self> {
        Ok(Self::Tuple(Items::new(items)?))
    }

    pub fn view(name: &'static str, items: Vec<Self>) -> Result<Self> {
        Ok(Self::View(name, Items::new(items)?))
    }

    pub fn iterator(items: Vec<Self>) -> Self {
        Self::Iterator(Rc::new(RefCell::new(items.into())))
    }

    /// A dict; a key that comes again gives its place a new value.
    pub fn dict(items: impl IntoIterator<Item = (Self, Self)>) -> Result<Self> {
        let mut dict: Vec<(Self, Self)> = Vec::new();
        let mut depth = 0;
        for (key, value) in items {
            ensure!(key.is_hashable(), "unhashable type: '{}'", key.kind());
            depth = depth.max(value.depth()? + 1);
            match dict.iter_mut().find(|(known, _)| known.equals(&key)) {
                Some(known) => known.1 = value,
                None => dict.push((key, value)),
            }
        }
        ensure!(depth <= DEEPEST, "a value is nested more than {DEEPEST} deep");
        Ok(Self::Dict(Rc::new(Dict { items: dict, depth })))
    }

    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Int(number.into()),
                (_, Some(number)) => Self::Int(number.into()),
                _ => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text.as_str()),
            Json::Array(items) => Self::list(items.iter().map(Self::from_json).collect::<Result<_>>()?)?,
            Json::Object(items) => {
                let mut depth = 0;
                let mut dict = Vec::with_capacity(items.len());
                for (key, value) in items {
                    let value = Self::from_json(value)?;
                    depth = depth.max(value.depth()? + 1);
                    dict.push((Self::text(key.as_str()), value));
                }
                ensure!(depth <= DEEPEST, "a value is nested more than {DEEPEST} deep");
                Self::Dict(Rc::new(Dict { items: dict, depth }))
            }
        })
    }

    /// The name of its type in Python.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(name, _) => name,
            Self::Iterator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(..) => "Macro",
            Self::Function(_) => "function",
            Self::Method(..) => "builtin_function_or_method",
        }
    }

    /// How deep lists lie in it.
    ///
    /// # Errors
    /// Where it may not lie in a list, as what it holds could be the list.
    fn depth(&self) -> Result<usize> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => Ok(items.depth),
            Self::Dict(dict) => Ok(dict.depth),
            Self::Iterator(items) => {
                let items = items.borrow();
                let depths = items.iter().map(Self::depth).collect::<Result<Vec<_>>>()?;
                Ok(depths.into_iter().max().unwrap_or(0) + 1)
            }
            Self::Namespace(_) | Self::Loop(_) | Self::Macro(..) | Self::Function(_) | Self::Method(..) => {
                bail!("a value of type '{}' inside of another value is not known to calipr", self.kind())
            }
            _ => Ok(0),
        }
    }

    /// An error where it may not lie in another value.
    pub fn check_inner(&self) -> Result<()> {
        self.depth().map(|_| ())
    }

    /// What Jinja raises where something undefined is used.
    pub fn defined(&self) -> Result<()> {
        match self {
            Self::Undefined(message) => Err(anyhow!("{message}")),
            _ => Ok(()),
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => !items.items.is_empty(),
            Self::Dict(dict) => !dict.items.is_empty(),
            _ => true,
        }
    }

    fn is_hashable(&self) -> bool {
        match self {
            Self::List(_) | Self::Dict(_) => false,
            Self::Tuple(items) => items.items.iter().all(Self::is_hashable),
            _ => true,
        }
    }

    /// A number as an integer; True is 1.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => same(&a.items, &b.items),
            (Self::View(a, x), Self::View(b, y)) => a == b && same(&x.items, &y.items),
            (Self::Dict(a), Self::Dict(b)) => {
                a.items.len() == b.items.len()
                    && a.items.iter().all(|(key, value)| b.get(key).is_some_and(|found| found.equals(value)))
            }
            (Self::Iterator(a), Self::Iterator(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Macro(a, _), Self::Macro(b, _)) => Arc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => self.as_float().zip(other.as_float()).is_some_and(|(a, b)| a == b),
            },
        }
    }

    pub fn compare(&self, other: &Self, sign: &str) -> Result<Ordering> {
        self.defined()?;
        other.defined()?;
        let unordered =
            || anyhow!("'{sign}' not supported between instances of '{}' and '{}'", self.kind(), other.kind());
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Ok(a.cmp(b)),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                match a.items.iter().zip(&b.items).find(|(a, b)| !a.equals(b)) {
                    Some((a, b)) => a.compare(b, sign),
                    None => Ok(a.items.len().cmp(&b.items.len())),
                }
            }
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => Ok(a.cmp(&b)),
                _ => {
                    let (a, b) = self.as_float().zip(other.as_float()).ok_or_else(unordered)?;
                    a.partial_cmp(&b).ok_or_else(|| anyhow!("no number (nan) is compared"))
                }
            },
        }
    }

    /// Whether `item` is in it.
    pub fn contains(&self, item: &Self) -> Result<bool> {
        match self {
            Self::Text(text) => match item {
                Self::Text(part) => Ok(text.contains(&**part)),
                _ => bail!("'in <string>' requires string as left operand, not {}", item.kind()),
            },
            Self::Dict(dict) => {
                ensure!(item.is_hashable(), "unhashable type: '{}'", item.kind());
                Ok(dict.get(item).is_some())
            }
            Self::Iterator(items) => {
                // As Python does it: what stands before the item is gone.
                let mut items = items.borrow_mut();
                while let Some(next) = items.pop_front() {
                    if next.equals(item) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(self.items()?.iter().any(|found| found.equals(item))),
        }
    }

    /// Its items one after the other; a generator is empty afterwards.
    pub fn items(&self) -> Result<Vec<Self>> {
        match self {
            Self::Undefined(_) => Ok(vec![]),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => Ok(items.items.clone()),
            Self::Text(text) => Ok(text.chars().map(|c| Self::text(c.to_string())).collect()),
            Self::Dict(dict) => Ok(dict.items.iter().map(|(key, _)| key.clone()).collect()),
            Self::Iterator(items) => Ok(std::mem::take(&mut *items.borrow_mut()).into()),
            _ => bail!("'{}' object is not iterable", self.kind()),
        }
    }

    pub fn length(&self) -> Result<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Text(text) => Ok(text.chars().count()),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => Ok(items.items.len()),
            Self::Dict(dict) => Ok(dict.items.len()),
            Self::Loop(here) => Ok(here.items.items.len()),
            _ => bail!("object of type '{}' has no len()", self.kind()),
        }
    }

    /// As Python's `str` prints it.
    pub fn print(&self) -> Result<Arc<str>> {
        match self {
            Self::Undefined(_) => Ok("".into()),
            Self::Text(text) => Ok(text.clone()),
            _ => {
                let mut text = String::new();
                self.represent(&mut text)?;
                Ok(text.into())
            }
        }
    }

    /// As Python's `repr` prints it.
    pub fn represent(&self, text: &mut String) -> Result<()> {
        match self {
            Self::Undefined(_) => text.push_str("Undefined"),
            Self::None => text.push_str("None"),
            Self::Bool(true) => text.push_str("True"),
            Self::Bool(false) => text.push_str("False"),
            Self::Int(number) => text.push_str(&number.to_string()),
            Self::Float(number) => text.push_str(&float(*number)),
            Self::Text(value) => quoted(value, text),
            Self::List(items) => sequence("[", &items.items, "]", text)?,
            Self::Tuple(items) if items.items.len() == 1 => sequence("(", &items.items, ",)", text)?,
            Self::Tuple(items) => sequence("(", &items.items, ")", text)?,
            Self::Dict(dict) => {
                text.push('{');
                for (i, (key, value)) in dict.items.iter().enumerate() {
                    text.push_str(if i > 0 { ", " } else { "" });
                    key.represent(text)?;
                    text.push_str(": ");
                    value.represent(text)?;
                }
                text.push('}');
            }
            Self::View(name @ ("dict_keys" | "dict_values" | "dict_items"), items) => {
                text.push_str(name);
                sequence("([", &items.items, "])", text)?;
            }
            _ => bail!("printing a value of type '{}' is not known to calipr", self.kind()),
        }
        ensure!(text.len() <= LONGEST, "a printed value is longer than {LONGEST} bytes");
        Ok(())
    }
}

/// Bytes that a printed value may have.
const LONGEST: usize = 16 << 20;

fn sequence(open: &str, items: &[Value], close: &str, text: &mut String) -> Result<()> {
    text.push_str(open);
    for (i, item) in items.iter().enumerate() {
        text.push_str(if i > 0 { ", " } else { "" });
        item.represent(text)?;
    }
    text.push_str(close);
    Ok(())
}

fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
}

impl Items {
    pub fn new(items: Vec<Value>) -> Result<Rc<Self>> {
        let mut depth = 0;
        for item in &items {
            depth = depth.max(item.depth()? + 1);
        }
        ensure!(depth <= DEEPEST, "a value is nested more than {DEEPEST} deep");
        Ok(Rc::new(Self { items, depth }))
    }
}

impl Dict {
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.items.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value)
    }

    pub fn named(&self, key: &str) -> Option<&Value> {
        self.items.iter().find(|(known, _)| matches!(known, Value::Text(t) if **t == *key)).map(|(_, value)| value)
    }
}

/// A number as Python's `repr` has it: the fewest digits that read back as the same, with an exponent where it is less
/// than -4 or 16 and more.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A text in Python's quotes, with Python's escapes.
fn quoted(value: &str, text: &mut String) {
    let quote = if value.contains('\'') && !value.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == quote => text.extend(['\\', c]),
            c if is_printable(c) => text.push(c),
            c => text.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    text.push(quote);
}

/// Whether Python prints a character as it is. Rust's debug output goes by the same categories, but for marks that
/// stand at the beginning.
fn is_printable(c: char) -> bool {
    let debugged: String = ['a', c].iter().collect();
    ('!'..='~').contains(&c) || c == ' ' || debugged.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_python_prints_them() {
        let numbers = [1.0, 0.1, 1e16, 1e15, 123456789.125, 1e-5, 0.0001, 1.5e300, -0.0, 1e22];
        let printed = [
            "1.0",
            "0.1",
            "1e+16",
            "1000000000000000.0",
            "123456789.125",
            "1e-05",
            "0.0001",
            "1.5e+300",
            "-0.0",
            "1e+22",
        ];
        assert_eq!(numbers.map(float), printed);
    }

    #[test]
    fn texts_are_quoted_as_python_quotes_them() {
        let repr = |text: &str| {
            let mut out = String::new();
            quoted(text, &mut out);
            out
        };
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("\"it's\"\n"), "'\"it\\'s\"\\n'");
        assert_eq!(repr("é\u{a0}\u{200b}\u{301}\u{1f600}\x7f"), "'é\\xa0\\u200b\u{301}\u{1f600}\\x7f'");
    }
}
