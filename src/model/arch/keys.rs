//! A config, read key by key: each is of the type that it should be, or an error says which is not.

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::gguf;

/// A JSON object. What a GGUF file says is one too, in the words of `config.json`.
pub struct Keys<'a> {
    pub of: &'a Map<String, Value>,
    /// What the object is called in messages, with a dot behind it.
    pub prefix: &'static str,
    /// Names that an architecture has for keys that others call otherwise: (as others do, as it does). Both count, as in
    /// transformers (`attribute_map`).
    pub aliases: &'static [(&'static str, &'static str)],
    /// The GGUF file that it was made of.
    pub gguf: Option<&'a gguf::Header<'a>>,
}

impl<'a> Keys<'a> {
    /// With names of an architecture's own.
    pub fn with_aliases(&self, aliases: &'static [(&'static str, &'static str)]) -> Self {
        Keys { aliases, ..*self }
    }

    /// The value under a key, null too.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.of.get(self.called(key))
    }

    /// What the object calls a key.
    fn called<'k>(&self, key: &'k str) -> &'k str {
        let own = self.aliases.iter().find(|(standard, _)| *standard == key).map(|(_, own)| *own);
        own.filter(|own| self.of.contains_key(*own)).unwrap_or(key)
    }

    /// `model_type`.
    pub fn architecture(&self) -> Result<&str> {
        self.get("model_type").and_then(Value::as_str).context("it has no `model_type`")
    }

    /// What a key holds is not what it should.
    pub fn wrong(&self, key: &str, expected: &str) -> anyhow::Error {
        let found = self.get(key).map_or("nothing".into(), Value::to_string);
        anyhow::anyhow!("`{}{}` is {found}; expected {expected}", self.prefix, self.called(key))
    }

    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// null where there is none.
    pub fn optional_count(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.count(key, 0).map(Some).map_err(|_| self.wrong(key, "a whole number, or null")),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// null as if the key were absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        if self.get(key).is_some_and(Value::is_null) { Ok(None) } else { self.number(key) }
    }

    pub fn positive(&self, key: &str) -> Result<f64> {
        let lacks = || format!("`{}` lacks `{key}`", self.prefix.trim_end_matches('.'));
        let value = self.number(key)?.with_context(lacks)?;
        if value > 0.0 { Ok(value) } else { Err(self.wrong(key, "a number above 0")) }
    }

    pub fn object(&self, key: &'static str, prefix: &'static str) -> Result<Option<Keys<'_>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(of)) => {
                Ok(Some(Keys { of, prefix, aliases: &[], gguf: self.gguf }).filter(|keys| !keys.of.is_empty()))
            }
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    pub fn numbers(&self, key: &str, count: usize) -> Result<Vec<f32>> {
        let numbers = |value: &Value| -> Option<Vec<f32>> {
            let list: Option<Vec<f32>> = value.as_array()?.iter().map(|x| Some(x.as_f64()? as f32)).collect();
            list.filter(|list| list.len() == count && list.iter().all(|x| x.is_finite() && *x != 0.0))
        };
        self.get(key).and_then(numbers).ok_or_else(|| self.wrong(key, &format!("a list of {count} numbers")))
    }
}
