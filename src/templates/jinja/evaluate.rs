//! Expressions: what Python makes of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::ast::{Arguments, Comparison, Expression, Operator};
use super::render::Renderer;
use super::value::{Loop, Value};
use super::{Given, format, methods};

/// What a template may call without having defined it.
const FUNCTIONS: [&str; 5] = ["dict", "namespace", "raise_exception", "range", "strftime_now"];

/// The longest range (jinja2: sandbox.py).
const LONGEST_RANGE: i128 = 100_000;

/// Bytes that a text may be made.
const LONGEST: usize = 16 << 20;

impl Renderer {
    pub fn evaluate(&mut self, expression: &Expression, frame: usize) -> Result<Value> {
        self.pay(1)?;
        Ok(match expression {
            Expression::None => Value::None,
            Expression::Bool(value) => Value::Bool(*value),
            Expression::Int(number) => Value::Int(*number),
            Expression::Float(number) => Value::Float(*number),
            Expression::Text(text) => Value::Text(text.clone()),
            Expression::Name(name) => match self.lookup(name, frame) {
                Some(value) => value.clone(),
                None => match FUNCTIONS.into_iter().find(|known| **known == **name) {
                    Some(function) => Value::Function(function),
                    None => Value::undefined(format!("'{name}' is undefined")),
                },
            },
            Expression::List(items) => Value::list(self.all(items, frame)?)?,
            Expression::Tuple(items) => Value::tuple(self.all(items, frame)?)?,
            Expression::Dict(items) => {
                let items = items.iter().map(|(k, v)| Ok((self.evaluate(k, frame)?, self.evaluate(v, frame)?)));
                Value::dict(items.collect::<Result<Vec<_>>>()?)?
            }
            Expression::Negative(value) => match self.evaluate(value, frame)? {
                Value::Float(number) => Value::Float(-number),
                value => {
                    value.defined()?;
                    let number =
                        value.as_int().with_context(|| format!("bad operand type for unary -: '{}'", value.kind()))?;
                    Value::Int(number.checked_neg().context(TOO_LARGE)?)
                }
            },
            Expression::Positive(value) => match self.evaluate(value, frame)? {
                Value::Float(number) => Value::Float(number),
                value => {
                    value.defined()?;
                    Value::Int(
                        value.as_int().with_context(|| format!("bad operand type for unary +: '{}'", value.kind()))?,
                    )
                }
            },
            Expression::Not(value) => Value::Bool(!self.evaluate(value, frame)?.is_true()),
            Expression::And(left, right) => {
                let left = self.evaluate(left, frame)?;
                if left.is_true() { self.evaluate(right, frame)? } else { left }
            }
            Expression::Or(left, right) => {
                let left = self.evaluate(left, frame)?;
                if left.is_true() { left } else { self.evaluate(right, frame)? }
            }
            Expression::Binary(operator, left, right) => {
                let (left, right) = (self.evaluate(left, frame)?, self.evaluate(right, frame)?);
                let value = self.binary(*operator, &left, &right)?;
                self.pay_for(&value)?;
                value
            }
            Expression::Concatenated(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.evaluate(part, frame)?.print()?;
                    self.pay(part.len() / 16)?;
                    text.push_str(&part);
                }
                Value::text(text)
            }
            Expression::Compared(first, others) => Value::Bool(self.compared(first, others, frame)?),
            Expression::Conditional { condition, then, otherwise } => {
                match (self.evaluate(condition, frame)?.is_true(), otherwise) {
                    (true, _) => self.evaluate(then, frame)?,
                    (false, Some(otherwise)) => self.evaluate(otherwise, frame)?,
                    (false, None) => {
                        Value::undefined("the inline if-expression evaluated to false and no else section was defined.")
                    }
                }
            }
            Expression::Attribute(value, name) => {
                let value = self.evaluate(value, frame)?;
                self.attribute(&value, name)?
            }
            Expression::Item(value, key) => {
                let (value, key) = (self.evaluate(value, frame)?, self.evaluate(key, frame)?);
                self.item(&value, &key)?
            }
            Expression::Slice(value, parts) => {
                let value = self.evaluate(value, frame)?;
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    let part = part.as_ref().map(|part| self.evaluate(part, frame)).transpose()?;
                    *bound = match part {
                        None | Some(Value::None) => None,
                        Some(part) => Some(part.as_int().context("slice indices must be integers or None")?),
                    };
                }
                let part = slice(&value, bounds)?;
                self.pay_for(&part)?;
                part
            }
            Expression::Call(called, arguments) => {
                let called = self.evaluate(called, frame)?;
                let given = self.given(arguments, frame)?;
                self.call(&called, given)?
            }
            Expression::Filter(value, name, arguments) => {
                let value = value.as_ref().context("a filter has no value")?;
                let value = self.evaluate(value, frame)?;
                let given = self.given(arguments, frame)?;
                self.filter(name, value, given)?
            }
            Expression::Test(value, name, arguments) => {
                let value = self.evaluate(value, frame)?;
                let given = self.given(arguments, frame)?;
                Value::Bool(self.test(name, &value, given)?)
            }
        })
    }

    fn all(&mut self, expressions: &[Expression], frame: usize) -> Result<Vec<Value>> {
        expressions.iter().map(|expression| self.evaluate(expression, frame)).collect()
    }

    /// The filters of a block, for the text of the block.
    pub fn block_filter(&mut self, filter: &Expression, text: Value, frame: usize) -> Result<Value> {
        let Expression::Filter(inner, name, arguments) = filter else { bail!("expected a filter") };
        let value = match inner {
            Some(inner) => self.block_filter(inner, text, frame)?,
            None => text,
        };
        let given = self.given(arguments, frame)?;
        self.filter(name, value, given)
    }

    pub fn given(&mut self, arguments: &Arguments, frame: usize) -> Result<Given> {
        let mut given = Given { positional: self.all(&arguments.positional, frame)?, named: vec![] };
        for (name, value) in &arguments.named {
            given.named.push((name.clone(), self.evaluate(value, frame)?));
        }
        if let Some(rest) = &arguments.rest {
            given.positional.extend(self.evaluate(rest, frame)?.items()?);
        }
        if let Some(rest) = &arguments.named_rest {
            let Value::Dict(rest) = self.evaluate(rest, frame)? else { bail!("argument after ** must be a mapping") };
            for (name, value) in &rest.items {
                let Value::Text(name) = name else { bail!("keywords must be strings") };
                ensure!(
                    given.named.iter().all(|(known, _)| known != name),
                    "got multiple values for argument '{name}'"
                );
                given.named.push((name.clone(), value.clone()));
            }
        }
        Ok(given)
    }

    fn compared(&mut self, first: &Expression, others: &[(Comparison, Expression)], frame: usize) -> Result<bool> {
        let mut left = self.evaluate(first, frame)?;
        for (comparison, right) in others {
            let right = self.evaluate(right, frame)?;
            let holds = match comparison {
                Comparison::Equal => left.equals(&right),
                Comparison::NotEqual => !left.equals(&right),
                Comparison::Less => left.compare(&right, "<")?.is_lt(),
                Comparison::LessOrEqual => left.compare(&right, "<=")?.is_le(),
                Comparison::Greater => left.compare(&right, ">")?.is_gt(),
                Comparison::GreaterOrEqual => left.compare(&right, ">=")?.is_ge(),
                Comparison::In => right.contains(&left)?,
                Comparison::NotIn => !right.contains(&left)?,
            };
            if !holds {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    /// `value.name`: what Python has under this name, else the item (jinja2: sandbox.py, getattr).
    pub fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Result<Value> {
        value.defined()?;
        if let Some(found) = self.own(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.named(name)
        {
            return Ok(found.clone());
        }
        Ok(missing(value, name))
    }

    /// `value[key]`: the item, else what Python has under this name (jinja2: sandbox.py, getitem).
    pub fn item(&mut self, value: &Value, key: &Value) -> Result<Value> {
        value.defined()?;
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get(key)
        {
            return Ok(found.clone());
        }
        if let Value::Text(name) = key {
            return Ok(self.own(value, name)?.unwrap_or_else(|| missing(value, name)));
        }
        let found = match (value, key.as_int()) {
            (Value::Text(text), Some(at)) => {
                let at = place(at, || text.chars().count());
                at.and_then(|at| text.chars().nth(at)).map(|c| Value::text(c.to_string()))
            }
            (Value::List(items) | Value::Tuple(items) | Value::View("range", items), Some(at)) => {
                place(at, || items.items.len()).and_then(|at| items.items.get(at)).cloned()
            }
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::undefined(format!("{} object has no such element", value.kind()))))
    }

    /// What a value has under a name that is not one of its items.
    fn own(&mut self, value: &Value, name: &Arc<str>) -> Result<Option<Value>> {
        match value {
            Value::Namespace(values) => {
                Ok(values.borrow().iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
            }
            Value::Loop(here) => of_loop(here, name),
            _ => methods::attribute(value, name),
        }
    }

    pub fn call(&mut self, called: &Value, given: Given) -> Result<Value> {
        match called {
            Value::Macro(this, frame) => self.call_macro(this, *frame, given),
            Value::Function(name) => self.function(name, given),
            Value::Method(value, name) => match &**value {
                Value::Loop(here) => loop_method(here, name, given),
                value => self.method(value, name, given),
            },
            Value::Loop(here) => {
                let [items] = given.exactly("loop")?;
                self.recurse(here, items)
            }
            other => {
                other.defined()?;
                bail!("'{}' object is not callable", other.kind())
            }
        }
    }

    fn function(&mut self, name: &str, given: Given) -> Result<Value> {
        match name {
            "raise_exception" => {
                let [message] = given.named(name, ["message"])?;
                Err(anyhow!("{}", message.context("raise_exception has no message")?.print()?))
            }
            "strftime_now" => {
                let [format] = given.named(name, ["format"])?;
                let format = format.context("strftime_now has no format")?.print()?;
                let today = self.today.context(
                    "it prints today's date (strftime_now), which would make a study differ from day to day; give the \
                     study a date of its own, such as date = \"2025-01-31\" under [model]",
                )?;
                Ok(Value::text(today.format(&format)?))
            }
            "range" => {
                let [first, second, step] = given.up_to(1, name)?;
                let int = |value: Option<Value>| {
                    value
                        .map(|v| {
                            v.as_int()
                                .with_context(|| format!("'{}' object cannot be interpreted as an integer", v.kind()))
                        })
                        .transpose()
                };
                let (first, second, step) = (int(first)?.unwrap_or(0), int(second)?, int(step)?.unwrap_or(1));
                let (start, end) = second.map_or((0, first), |end| (first, end));
                ensure!(step != 0, "range() arg 3 must not be zero");
                let count = if step > 0 { (end - start + step - 1) / step } else { (start - end - step - 1) / -step };
                ensure!(
                    count <= LONGEST_RANGE,
                    "Range too big. The sandbox blocks ranges larger than {LONGEST_RANGE}."
                );
                self.pay(count.max(0) as usize)?;
                Value::view("range", (0..count.max(0)).map(|i| Value::Int(start + i * step)).collect())
            }
            "namespace" => {
                let mut values: Vec<(Arc<str>, Value)> = Vec::new();
                let Value::Dict(dict) = dict_of(given)? else { bail!("expected a dict") };
                for (name, value) in &dict.items {
                    let Value::Text(name) = name else { bail!("keywords must be strings") };
                    ensure!(!name.starts_with('_'), "chat templates cannot store `{name}` on a namespace");
                    values.push((name.clone(), value.clone()));
                }
                Ok(Value::Namespace(Rc::new(RefCell::new(values))))
            }
            _ => dict_of(given),
        }
    }

    pub fn binary(&mut self, operator: Operator, left: &Value, right: &Value) -> Result<Value> {
        left.defined()?;
        if let (Operator::Remainder, Value::Text(format)) = (operator, left) {
            return Ok(Value::text(format::percent(format, right)?));
        }
        right.defined()?;
        match (operator, left, right) {
            (Operator::Add, Value::Text(a), Value::Text(b)) => {
                ensure!(a.len() + b.len() <= LONGEST, "a text is made longer than {LONGEST} bytes");
                return Ok(Value::text(format!("{a}{b}")));
            }
            (Operator::Add, Value::List(a), Value::List(b)) => {
                self.pay(a.items.len() + b.items.len())?;
                return Value::list([&*a.items, &*b.items].concat());
            }
            (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.pay(a.items.len() + b.items.len())?;
                return Value::tuple([&*a.items, &*b.items].concat());
            }
            (Operator::Multiply, sequence @ (Value::Text(_) | Value::List(_) | Value::Tuple(_)), count)
            | (Operator::Multiply, count, sequence @ (Value::Text(_) | Value::List(_) | Value::Tuple(_))) => {
                let count = count.as_int();
                let count = count.with_context(|| "can't multiply sequence by non-int of another type")?;
                return self.repeated(sequence, usize::try_from(count.max(0)).unwrap_or(usize::MAX));
            }
            _ => {}
        }
        if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
            return integers(operator, a, b);
        }
        match left.as_float().zip(right.as_float()) {
            Some((a, b)) => Ok(Value::Float(floats(operator, a, b)?)),
            None => {
                bail!("unsupported operand type(s) for {}: '{}' and '{}'", sign(operator), left.kind(), right.kind())
            }
        }
    }

    fn repeated(&mut self, sequence: &Value, count: usize) -> Result<Value> {
        match sequence {
            Value::Text(text) => {
                let size = text.len().saturating_mul(count);
                ensure!(size <= LONGEST, "a text is made longer than {LONGEST} bytes");
                Ok(Value::text(text.repeat(count)))
            }
            Value::List(items) | Value::Tuple(items) => {
                self.pay(items.items.len().saturating_mul(count))?;
                let items: Vec<Value> = std::iter::repeat_n(&items.items, count).flatten().cloned().collect();
                if matches!(sequence, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            other => bail!("can't multiply a value of type '{}'", other.kind()),
        }
    }
}

const TOO_LARGE: &str = "a number is too large";

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value> {
    let number = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Power if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Operator::Divide | Operator::Power => return Ok(Value::Float(floats(operator, a as f64, b as f64)?)),
        Operator::FloorDivide | Operator::Remainder => {
            ensure!(b != 0, "integer division or modulo by zero");
            let (quotient, remainder) = (a.checked_div(b).context(TOO_LARGE)?, a % b);
            let below = i128::from(remainder != 0 && (remainder < 0) != (b < 0));
            Some(if operator == Operator::FloorDivide { quotient - below } else { remainder + below * b })
        }
    };
    Ok(Value::Int(number.context(TOO_LARGE)?))
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    ensure!(!divides || b != 0.0, "division by zero");
    let remainder = || {
        let remainder = a % b;
        if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) {
            remainder + b
        } else {
            remainder.abs().copysign(if remainder == 0.0 { b } else { remainder })
        }
    };
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::Remainder => remainder(),
        // Python: floatobject's floor division goes by the remainder.
        Operator::FloorDivide => {
            let quotient = (a - remainder()) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        Operator::Power => {
            ensure!(a != 0.0 || b >= 0.0, "0.0 cannot be raised to a negative power");
            let power = a.powf(b);
            ensure!(!power.is_nan() || a.is_nan() || b.is_nan(), "complex numbers are not known to calipr");
            ensure!(power.is_finite() || !a.is_finite() || !b.is_finite(), TOO_LARGE);
            power
        }
    })
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{} object' has no attribute '{name}'", value.kind()))
}

/// An index from the beginning; negative ones count from the end.
fn place(at: i128, length: impl FnOnce() -> usize) -> Option<usize> {
    usize::try_from(if at < 0 { at + length() as i128 } else { at }).ok()
}

fn slice(value: &Value, [start, stop, step]: [Option<i128>; 3]) -> Result<Value> {
    value.defined()?;
    let step = step.unwrap_or(1);
    ensure!(step != 0, "slice step cannot be zero");
    let length = match value {
        Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::View("range", _) => value.length()? as i128,
        other => bail!("'{}' object is not subscriptable by a slice", other.kind()),
    };
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i128>, default| match bound {
        None => default,
        Some(at) if at < 0 => at.saturating_add(length).clamp(low, high),
        Some(at) => at.clamp(low, high),
    };
    let (start, stop) =
        if step > 0 { (bound(start, 0), bound(stop, length)) } else { (bound(start, length - 1), bound(stop, -1)) };
    let mut places = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        places.push(at as usize);
        at = at.saturating_add(step);
    }
    match value {
        Value::Text(text) if step == 1 => {
            Ok(Value::text(text.chars().skip(start as usize).take(places.len()).collect::<String>()))
        }
        Value::Text(text) => {
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::text(places.into_iter().map(|at| chars[at]).collect::<String>()))
        }
        Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
            let part = places.into_iter().map(|at| items.items[at].clone()).collect();
            match value {
                Value::List(_) => Value::list(part),
                Value::Tuple(_) => Value::tuple(part),
                _ => Value::view("range", part),
            }
        }
        other => bail!("'{}' object is not subscriptable", other.kind()),
    }
}

/// `dict(mapping or pairs, **values)`
fn dict_of(given: Given) -> Result<Value> {
    let mut items = Vec::new();
    ensure!(given.positional.len() <= 1, "dict expected at most 1 argument, got {}", given.positional.len());
    for value in &given.positional {
        match value {
            Value::Dict(dict) => items.extend(dict.items.iter().cloned()),
            other => {
                for pair in other.items()? {
                    let pair: [Value; 2] =
                        pair.items()?.try_into().map_err(|_| anyhow!("dict() is given what are no pairs"))?;
                    let [key, value] = pair;
                    items.push((key, value));
                }
            }
        }
    }
    items.extend(given.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
    Value::dict(items)
}

/// What `loop` has.
fn of_loop(here: &Rc<Loop>, name: &Arc<str>) -> Result<Option<Value>> {
    let (at, length) = (here.at.get(), here.items.items.len());
    let int = |number: usize| Ok(Some(Value::Int(number as i128)));
    match &**name {
        "index" => int(at + 1),
        "index0" => int(at),
        "revindex" => int(length - at),
        "revindex0" => int(length - at - 1),
        "first" => Ok(Some(Value::Bool(at == 0))),
        "last" => Ok(Some(Value::Bool(at + 1 == length))),
        "length" => int(length),
        "depth" => int(here.depth),
        "depth0" => int(here.depth - 1),
        "previtem" | "nextitem" => {
            let item = match &**name {
                "previtem" => at.checked_sub(1).and_then(|at| here.items.items.get(at)),
                _ => here.items.items.get(at + 1),
            };
            let absent = || Value::undefined(format!("there is no {name}"));
            Ok(Some(item.cloned().unwrap_or_else(absent)))
        }
        "cycle" | "changed" => Ok(Some(Value::Method(Value::Loop(here.clone()).into(), name.clone()))),
        _ => Ok(None),
    }
}

fn loop_method(here: &Loop, name: &str, given: Given) -> Result<Value> {
    ensure!(given.named.is_empty(), "{name} takes no keyword arguments");
    if name == "cycle" {
        ensure!(!given.positional.is_empty(), "no items for cycling given");
        return Ok(given.positional[here.at.get() % given.positional.len()].clone());
    }
    let mut last = here.changed.borrow_mut();
    let same = last.as_ref().is_some_and(|last| {
        last.len() == given.positional.len() && last.iter().zip(&given.positional).all(|(a, b)| a.equals(b))
    });
    *last = Some(given.positional);
    Ok(Value::Bool(!same))
}
