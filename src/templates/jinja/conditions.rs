//! Jinja's tests (jinja2: tests.py): what follows `is`.

use anyhow::{Context, Result, bail};

use super::value::Value;
use super::{Given, Renderer};

/// The tests that templates may use.
pub const NAMES: [&str; 36] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
    "upper",
];

impl Renderer {
    /// Whether a test holds.
    pub fn test(&mut self, name: &str, value: &Value, given: Given) -> Result<bool> {
        let tested = || -> Result<bool> {
            match name {
                "divisibleby" | "sameas" | "in" | "eq" | "equalto" | "==" | "ne" | "!=" | "lt" | "lessthan" | "<"
                | "le" | "<=" | "gt" | "greaterthan" | ">" | "ge" | ">=" => {
                    let [other] = given.exactly(name)?;
                    against(name, value, &other)
                }
                _ => {
                    let [] = given.exactly(name)?;
                    alone(name, value)
                }
            }
        };
        tested().with_context(|| format!("the test `{name}`"))
    }
}

fn against(name: &str, value: &Value, other: &Value) -> Result<bool> {
    match name {
        "eq" | "equalto" | "==" => Ok(value.equals(other)),
        "ne" | "!=" => Ok(!value.equals(other)),
        "lt" | "lessthan" | "<" => Ok(value.compare(other, "<")?.is_lt()),
        "le" | "<=" => Ok(value.compare(other, "<=")?.is_le()),
        "gt" | "greaterthan" | ">" => Ok(value.compare(other, ">")?.is_gt()),
        "ge" | ">=" => Ok(value.compare(other, ">=")?.is_ge()),
        "in" => other.contains(value),
        "divisibleby" => {
            let by = other.as_int().filter(|by| *by != 0).context("it needs a whole number other than 0")?;
            Ok(remainder(value, by.abs())? == 0.0)
        }
        // What is one and the same object in Python; of other values that depends on how Python keeps them.
        _ => match (value, other) {
            (Value::None, _) | (_, Value::None) | (Value::Bool(_), _) | (_, Value::Bool(_)) => {
                Ok(value.kind() == other.kind() && value.equals(other))
            }
            _ => bail!("it is known to calipr for true, false and none only"),
        },
    }
}

fn alone(name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => value.length().is_ok() || matches!(value, Value::Iterator(_)),
        "sequence" => match value {
            Value::View(name, _) => *name == "range",
            Value::Loop(_) => false,
            _ => value.length().is_ok(),
        },
        "callable" => {
            matches!(value, Value::Undefined(_) | Value::Macro(..) | Value::Function(_) | Value::Method(..))
                || matches!(value, Value::Loop(_))
        }
        "lower" => {
            let text = value.print()?;
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
        }
        "upper" => {
            let text = value.print()?;
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
        }
        "even" => remainder(value, 2)? == 0.0,
        "odd" => remainder(value, 2)? == 1.0,
        _ => bail!("it is not known to calipr"),
    })
}

fn remainder(value: &Value, by: i128) -> Result<f64> {
    value.defined()?;
    match (value.as_int(), value.as_float()) {
        (Some(number), _) => Ok(number.rem_euclid(by) as f64),
        (_, Some(number)) => Ok(number.rem_euclid(by as f64)),
        _ => bail!("it needs a number, not a value of type {}", value.kind()),
    }
}
