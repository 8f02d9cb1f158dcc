//! Jinja's filters (jinja2: filters.py), and transformers' `tojson`. Those that escape text as HTML, draw at random or
//! print what Python's `pprint` prints are not among them.

use std::cmp::Ordering;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::json::Format;
use super::methods;
use super::value::Value;
use super::{Given, Renderer, format, numbers};

/// The filters that templates may use.
pub const NAMES: [&str; 41] = [
    "abs",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
];

/// The widest that an indent may be made.
const WIDEST: i128 = 1000;

impl Renderer {
    /// Calls a filter.
    pub fn filter(&mut self, name: &str, value: Value, given: Given) -> Result<Value> {
        let filtered = self.filtered(name, value, given).with_context(|| format!("the filter `{name}`"))?;
        self.pay_for(&filtered)?;
        Ok(filtered)
    }

    fn filtered(&mut self, name: &str, value: Value, given: Given) -> Result<Value> {
        match name {
            "map" => self.map(value, given),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, value, given),
            "join" => {
                let [between, attribute] = given.named(name, ["d", "attribute"])?;
                let between = between.map_or(Ok("".into()), |between| between.print())?;
                let mut items = value.items()?;
                if let Some(attribute) = attribute {
                    items =
                        items.iter().map(|item| self.attribute_path(item, &attribute, None)).collect::<Result<_>>()?;
                }
                let texts = items.iter().map(Value::print).collect::<Result<Vec<_>>>()?;
                self.pay(texts.iter().map(|text| text.len() + between.len()).sum())?;
                Ok(Value::text(texts.join(&between)))
            }
            "sort" | "unique" | "min" | "max" => self.ordered(name, value, given),
            "dictsort" => self.sorted_dict(value, given),
            "sum" => {
                let [attribute, start] = given.named(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                for item in value.items()? {
                    let item = match &attribute {
                        Some(attribute) => self.attribute_path(&item, attribute, None)?,
                        None => item,
                    };
                    sum = self.binary(super::ast::Operator::Add, &sum, &item)?;
                }
                Ok(sum)
            }
            _ => plain(name, value, given),
        }
    }

    fn map(&mut self, value: Value, mut given: Given) -> Result<Value> {
        if given.positional.is_empty() {
            let [attribute, default] = given.named("map", ["attribute", "default"])?;
            let attribute = attribute.context("map requires a filter argument")?;
            let items = value.items()?;
            let mapped = items.iter().map(|item| self.attribute_path(item, &attribute, default.as_ref()));
            return Ok(Value::iterator(mapped.collect::<Result<_>>()?));
        }
        let Value::Text(filter) = given.positional.remove(0) else { bail!("the name of a filter is no text") };
        ensure!(NAMES.contains(&&*filter) && &*filter != "safe", "the filter `{filter}` is not known to calipr");
        let items = value.items()?;
        let mapped = items.into_iter().map(|item| self.filter(&filter, item, given.clone()));
        Ok(Value::iterator(mapped.collect::<Result<_>>()?))
    }

    fn select(&mut self, name: &str, value: Value, mut given: Given) -> Result<Value> {
        let attribute = match name.ends_with("attr") {
            true if given.positional.is_empty() => bail!("Missing parameter for attribute name"),
            true => Some(given.positional.remove(0)),
            false => None,
        };
        let test = match given.positional.is_empty() {
            true => None,
            false => match given.positional.remove(0) {
                Value::Text(test) => Some(test),
                _ => bail!("the name of a test is no text"),
            },
        };
        let wanted = name.starts_with("select");
        let mut kept = Vec::new();
        for item in value.items()? {
            let looked_at = match &attribute {
                Some(attribute) => self.attribute_path(&item, attribute, None)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => self.test(test, &looked_at, given.clone())?,
                None => looked_at.is_true(),
            };
            if holds == wanted {
                kept.push(item);
            }
        }
        Ok(Value::iterator(kept))
    }

    /// What lies under `a.b.0` in a value; with a default for what is not there.
    fn attribute_path(&mut self, value: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
        let parts = match path {
            Value::Text(path) => path.split('.').map(|part| match part.parse::<u32>() {
                Ok(index) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(index.into()),
                _ => Value::text(part),
            }),
            other => return self.item(value, other),
        };
        let mut value = value.clone();
        for part in parts {
            value = self.item(&value, &part)?;
            if let (Value::Undefined(_), Some(default)) = (&value, default) {
                value = default.clone();
            }
        }
        Ok(value)
    }

    /// What items are compared by: themselves or an attribute, letters in lower case unless case is told apart.
    fn keyed(&mut self, items: Vec<Value>, attribute: Option<&Value>, cased: bool) -> Result<Vec<(Value, Value)>> {
        if let Some(Value::Text(path)) = attribute {
            ensure!(!path.contains(','), "several attributes are not known to calipr");
        }
        let keyed = items.into_iter().map(|item| {
            let key = match attribute {
                None | Some(Value::None) => item.clone(),
                Some(attribute) => self.attribute_path(&item, attribute, None)?,
            };
            Ok((without_case(key, cased), item))
        });
        keyed.collect()
    }

    fn ordered(&mut self, name: &str, value: Value, given: Given) -> Result<Value> {
        let is_sort = name == "sort";
        let (reverse, cased, attribute) = match is_sort {
            true => {
                let [reverse, cased, attribute] = given.named(name, ["reverse", "case_sensitive", "attribute"])?;
                (reverse.is_some_and(|r| r.is_true()), cased, attribute)
            }
            false => {
                let [cased, attribute] = given.named(name, ["case_sensitive", "attribute"])?;
                (false, cased, attribute)
            }
        };
        let cased = cased.is_some_and(|cased| cased.is_true());
        let mut keyed = self.keyed(value.items()?, attribute.as_ref(), cased)?;
        match name {
            "unique" => {
                let mut unique: Vec<(Value, Value)> = Vec::new();
                for (key, item) in keyed {
                    self.pay(unique.len())?;
                    if !unique.iter().any(|(known, _)| known.equals(&key)) {
                        unique.push((key, item));
                    }
                }
                Ok(Value::iterator(unique.into_iter().map(|(_, item)| item).collect()))
            }
            "sort" => {
                sort(&mut keyed, reverse)?;
                Value::list(keyed.into_iter().map(|(_, item)| item).collect())
            }
            _ => {
                let mut keyed = keyed.into_iter();
                let Some(mut best) = keyed.next() else {
                    return Ok(Value::undefined("No aggregated item, sequence was empty."));
                };
                let (better, sign) = if name == "min" { (Ordering::Less, "<") } else { (Ordering::Greater, ">") };
                for next in keyed {
                    if next.0.compare(&best.0, sign)? == better {
                        best = next;
                    }
                }
                Ok(best.1)
            }
        }
    }

    fn sorted_dict(&mut self, value: Value, given: Given) -> Result<Value> {
        let [cased, by, reverse] = given.named("dictsort", ["case_sensitive", "by", "reverse"])?;
        let Value::Dict(dict) = &value else { bail!("expected a dict, not a value of type {}", value.kind()) };
        let at = match by {
            None => 0,
            Some(Value::Text(by)) if *by == *"key" => 0,
            Some(Value::Text(by)) if *by == *"value" => 1,
            _ => bail!("You can only sort by either \"key\" or \"value\""),
        };
        let cased = cased.is_some_and(|cased| cased.is_true());
        let mut keyed = Vec::new();
        for (key, item) in &dict.items {
            let sorted_by = without_case(if at == 0 { key.clone() } else { item.clone() }, cased);
            keyed.push((sorted_by, Value::tuple(vec![key.clone(), item.clone()])?));
        }
        sort(&mut keyed, reverse.is_some_and(|reverse| reverse.is_true()))?;
        Value::list(keyed.into_iter().map(|(_, item)| item).collect())
    }
}

fn without_case(value: Value, cased: bool) -> Value {
    match value {
        Value::Text(text) if !cased => Value::text(text.to_lowercase()),
        other => other,
    }
}

/// Sorts stably, equals in their order also from the last to the first.
fn sort(keyed: &mut [(Value, Value)], reverse: bool) -> Result<()> {
    let mut failed = None;
    keyed.sort_by(|a, b| {
        let order = a.0.compare(&b.0, "<").unwrap_or_else(|error| {
            failed = Some(error);
            Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    failed.map_or(Ok(()), Err)
}

fn text(value: &Value) -> Result<Arc<str>> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        other => {
            other.defined()?;
            bail!("expected a text, not a value of type {}", other.kind())
        }
    }
}

/// Filters that need nothing but their value and arguments.
fn plain(name: &str, value: Value, given: Given) -> Result<Value> {
    match name {
        "d" | "default" => {
            let [default, also_false] = given.named(name, ["default_value", "boolean"])?;
            let absent = matches!(value, Value::Undefined(_));
            let lacks = absent || also_false.is_some_and(|b| b.is_true()) && !value.is_true();
            Ok(if lacks { default.unwrap_or(Value::text("")) } else { value })
        }
        "trim" => {
            let [characters] = given.named(name, ["chars"])?;
            methods::strip(&value.print()?, "strip", characters)
        }
        "replace" => {
            let [old, new, count] = given.named(name, ["old", "new", "count"])?;
            let (old, new) = (old.context("`old` is missing")?.print()?, new.context("`new` is missing")?.print()?);
            let count = match count {
                None | Some(Value::None) => -1,
                Some(count) => count.as_int().context("`count` is no integer")?,
            };
            methods::replace(&value.print()?, &old, &new, count)
        }
        "indent" => {
            let [width, first, blank] = given.named(name, ["width", "first", "blank"])?;
            let is = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
            indented(&text(&value)?, width, is(first), is(blank))
        }
        "int" | "float" => numbers::filter(name, value, given),
        "abs" => {
            let [] = given.named(name, [])?;
            value.defined()?;
            match (value.as_int(), &value) {
                (Some(number), _) => Ok(Value::Int(number.checked_abs().context("the number is too large")?)),
                (_, Value::Float(number)) => Ok(Value::Float(number.abs())),
                _ => bail!("bad operand type for abs(): '{}'", value.kind()),
            }
        }
        "round" => rounded(value, given),
        "slice" | "batch" => parts(name, value, given),
        "format" => {
            let arguments = match given.named.is_empty() {
                true => Value::tuple(given.positional)?,
                false => {
                    ensure!(
                        given.positional.is_empty(),
                        "can't handle positional and keyword arguments at the same time"
                    );
                    Value::dict(given.named.into_iter().map(|(name, value)| (Value::Text(name), value)))?
                }
            };
            Ok(Value::text(format::percent(&value.print()?, &arguments)?))
        }
        "center" => {
            let [width] = given.named(name, ["width"])?;
            let width = width.map_or(Some(80), |width| width.as_int()).context("`width` is no integer")?;
            methods::centered(&value.print()?, width)
        }
        "truncate" => truncated(value, given),
        "tojson" => to_json(value, given),
        _ => {
            let [] = given.named(name, [])?;
            simple(name, value)
        }
    }
}

/// Filters without arguments.
fn simple(name: &str, value: Value) -> Result<Value> {
    match name {
        "upper" => Ok(Value::text(value.print()?.to_uppercase())),
        "lower" => Ok(Value::text(value.print()?.to_lowercase())),
        "capitalize" => Ok(Value::text(methods::capitalized(&value.print()?))),
        "title" => {
            // Words begin behind white space, hyphens and opening brackets.
            let mut begins = true;
            let mut title = String::new();
            for c in value.print()?.chars() {
                match begins {
                    true => title.extend(c.to_uppercase()),
                    false => title.extend(c.to_lowercase()),
                }
                begins = methods::is_space(c) || "-({[<".contains(c);
            }
            Ok(Value::text(title))
        }
        "string" | "safe" => Ok(Value::Text(value.print()?)),
        "length" | "count" => Ok(Value::Int(value.length()? as i128)),
        "list" => Value::list(value.items()?),
        "items" => match &value {
            Value::Undefined(_) => Ok(Value::iterator(vec![])),
            Value::Dict(dict) => {
                let items = dict.items.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
                Ok(Value::iterator(items.collect::<Result<_>>()?))
            }
            _ => bail!("Can only get item pairs from a mapping."),
        },
        "first" => {
            let first = match &value {
                Value::Iterator(items) => items.borrow_mut().pop_front(),
                _ => value.items()?.into_iter().next(),
            };
            Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            ensure!(!matches!(value, Value::Iterator(_)), "'generator' object is not reversible");
            Ok(value.items()?.pop().unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "reverse" => match &value {
            Value::Text(text) => Ok(Value::text(text.chars().rev().collect::<String>())),
            Value::Iterator(_) => Value::list(value.items()?.into_iter().rev().collect()),
            _ => Ok(Value::iterator(value.items()?.into_iter().rev().collect())),
        },
        "wordcount" => {
            let text = value.print()?;
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            Ok(Value::Int(text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count() as i128))
        }
        _ => bail!("it is not known to calipr"),
    }
}

fn indented(text: &str, width: Option<Value>, first: bool, blank: bool) -> Result<Value> {
    let indent: Arc<str> = match width {
        Some(Value::Text(indent)) => indent,
        width => {
            let width = width.map_or(Some(4), |width| width.as_int()).context("`width` is no integer")?;
            ensure!(width <= WIDEST, "it indents by more than {WIDEST}");
            " ".repeat(usize::try_from(width).unwrap_or(0)).into()
        }
    };
    let text = format!("{text}\n");
    let mut indented = String::new();
    for (i, line) in methods::lines(&text).into_iter().enumerate() {
        if i > 0 {
            indented.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            indented.push_str(&indent);
        }
        indented.push_str(line);
    }
    Ok(Value::text(indented))
}

fn rounded(value: Value, given: Given) -> Result<Value> {
    let [precision, method] = given.named("round", ["precision", "method"])?;
    let precision = precision.map_or(Some(0), |p| p.as_int()).context("`precision` is no integer")?;
    let precision = usize::try_from(precision).ok().filter(|p| *p <= 300);
    let precision = precision.context("this precision is not known to calipr")?;
    let method = method.map_or(Ok("common".into()), |method| text(&method))?;
    value.defined()?;
    let number = value.as_float().with_context(|| format!("type {} doesn't define __round__ method", value.kind()))?;
    match &*method {
        "common" if value.as_int().is_some() => Ok(Value::Int(value.as_int().unwrap_or_default())),
        "common" => Ok(Value::Float(format!("{number:.precision$}").parse()?)),
        "ceil" | "floor" => {
            let scale = 10f64.powi(precision as i32);
            let scaled = number * scale;
            Ok(Value::Float(if &*method == "ceil" { scaled.ceil() } else { scaled.floor() } / scale))
        }
        _ => bail!("method must be common, ceil or floor"),
    }
}

/// `slice` makes so many lists, `batch` lists of so many.
fn parts(name: &str, value: Value, given: Given) -> Result<Value> {
    let names = if name == "slice" { ["slices", "fill_with"] } else { ["linecount", "fill_with"] };
    let [count, fill] = given.named(name, names)?;
    let count = count.and_then(|count| count.as_int()).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| (1..=10_000).contains(count)).context("it needs a number from 1 to 10000")?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let items = value.items()?;
    let mut lists: Vec<Vec<Value>> = Vec::new();
    if name == "batch" {
        lists = items.chunks(count).map(<[Value]>::to_vec).collect();
        if let (Some(last), Some(fill)) = (lists.last_mut(), fill) {
            last.resize(count, fill);
        }
    } else {
        let (size, longer) = (items.len() / count, items.len() % count);
        let mut items = items.into_iter();
        for i in 0..count {
            let mut list: Vec<Value> = items.by_ref().take(size + usize::from(i < longer)).collect();
            if i >= longer {
                list.extend(fill.clone());
            }
            lists.push(list);
        }
    }
    Ok(Value::iterator(lists.into_iter().map(Value::list).collect::<Result<_>>()?))
}

fn truncated(value: Value, given: Given) -> Result<Value> {
    let [length, kill, end, leeway] = given.named("truncate", ["length", "killwords", "end", "leeway"])?;
    let count = |value: Option<Value>, default: i128| {
        let value = value.filter(|value| !matches!(value, Value::None));
        let number = value.map_or(Some(default), |value| value.as_int());
        number.and_then(|n| usize::try_from(n).ok()).context("it needs a number that is not negative")
    };
    let (length, leeway) = (count(length, 255)?, count(leeway, 5)?);
    let end = end.map_or(Ok("...".into()), |end| text(&end))?;
    let kept = length.checked_sub(end.chars().count()).context("the length is less than the end's")?;
    if value.length()? <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let whole = text(&value)?;
    let mut cut: String = whole.chars().take(kept).collect();
    if !kill.is_some_and(|kill| kill.is_true()) {
        cut.truncate(cut.rfind(' ').unwrap_or(cut.len()));
    }
    Ok(Value::text(cut + &end))
}

fn to_json(value: Value, given: Given) -> Result<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = given.named("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.to_string()),
        Some(indent) => {
            let width = indent.as_int().context("`indent` is no integer")?;
            ensure!(width <= WIDEST, "it indents by more than {WIDEST}");
            Some(" ".repeat(usize::try_from(width).unwrap_or(0)))
        }
    };
    let separators = match separators {
        None | Some(Value::None) => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
        Some(separators) => match separators.items()?.as_slice() {
            [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
            _ => bail!("`separators` are not two texts"),
        },
    };
    let is = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let format = Format { ascii: is(ascii), indent, separators, sorted: is(sorted) };
    Ok(Value::text(format.write(&value)?))
}
