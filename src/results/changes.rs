//! What has changed from one study to another, in words.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::data::Part;

/// A file, and how its rows are read; as far as it is known.
pub struct Reading {
    pub part: Option<Part>,
    /// Of the file's bytes.
    pub digest: Option<String>,
}

impl Reading {
    /// What is different of another.
    pub fn changed(&self, now: &Self) -> Option<String> {
        let (was, is) = (self.part.as_ref()?, now.part.as_ref()?);
        match self.digest.as_ref().zip(now.digest.as_ref()) {
            Some((a, b)) if a != b && was.place() != is.place() => {
                return Some(format!("its rows are those of {}, not of {}", is.place(), was.place()));
            }
            Some((a, b)) if a != b => return Some(format!("the rows of {} have changed", is.place())),
            Some(_) => {}
            None if was.place() != is.place() => {
                return Some(format!("its rows are those of {}, not of {}", is.place(), was.place()));
            }
            None => {}
        }
        (!was.reads_as(is)).then(|| "its data set's definition (template, rows or separator) has changed".into())
    }
}

/// The keys of a table that have other values: `prune.schedule is "block", not "linear"`.
pub fn changed(table: &str, was: &Value, is: &Value) -> Option<String> {
    let keys = was.as_object().into_iter().chain(is.as_object()).flat_map(|object| object.keys());
    let keys: BTreeSet<&String> = keys.collect();
    let differ = keys.into_iter().filter(|key| was[key.as_str()] != is[key.as_str()]);
    let said: Vec<String> = differ
        .map(|key| match (&is[key.as_str()], &was[key.as_str()]) {
            (is, Value::Null) => format!("{table}.{key} is {}, and was not set", shown(is)),
            (is, was) => format!("{table}.{key} is {}, not {}", shown(is), shown(was)),
        })
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// A value of a recipe, as a message has it.
pub fn shown(value: &Value) -> String {
    if value.is_null() { "not set".into() } else { value.to_string() }
}
