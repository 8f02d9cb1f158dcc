//! `tojson`: Python's `json.dumps`, with the arguments that transformers lets through (chat_template_utils.py).

use anyhow::{Result, bail, ensure};

use super::value::{Value, float};

/// How a value becomes JSON.
pub struct Format {
    pub ascii: bool,
    pub indent: Option<String>,
    /// Between items, and between a key and its value.
    pub separators: (String, String),
    pub sorted: bool,
}

impl Format {
    pub fn write(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        self.value(value, 0, &mut text)?;
        Ok(text)
    }

    fn value(&self, value: &Value, level: usize, text: &mut String) -> Result<()> {
        ensure!(text.len() <= 64 << 20, "a value's JSON is too long");
        match value {
            Value::None => text.push_str("null"),
            Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => text.push_str(&number.to_string()),
            Value::Float(number) => text.push_str(&number_of(*number)),
            Value::Text(value) => self.text(value, text),
            Value::List(items) | Value::Tuple(items) => {
                let write = |item: &Value, text: &mut String| self.value(item, level + 1, text);
                self.items(("[", "]"), &items.items, level, text, write)?;
            }
            Value::Dict(dict) => {
                let mut items: Vec<&(Value, Value)> = dict.items.iter().collect();
                if self.sorted {
                    let mut unordered = None;
                    items.sort_by(|a, b| {
                        let order = a.0.compare(&b.0, "<");
                        order.unwrap_or_else(|error| {
                            unordered = Some(error);
                            std::cmp::Ordering::Equal
                        })
                    });
                    if let Some(error) = unordered {
                        return Err(error);
                    }
                }
                let write = |item: &&(Value, Value), text: &mut String| {
                    match &item.0 {
                        Value::Text(key) => self.text(key, text),
                        Value::None => text.push_str("\"null\""),
                        Value::Bool(value) => text.push_str(if *value { "\"true\"" } else { "\"false\"" }),
                        Value::Int(number) => text.push_str(&format!("\"{number}\"")),
                        Value::Float(number) => text.push_str(&format!("\"{}\"", number_of(*number))),
                        key => bail!("keys must be str, int, float, bool or None, not {}", key.kind()),
                    }
                    text.push_str(&self.separators.1);
                    self.value(&item.1, level + 1, text)
                };
                self.items(("{", "}"), &items, level, text, write)?;
            }
            other => bail!("Object of type {} is not JSON serializable", other.kind()),
        }
        Ok(())
    }

    fn items<T>(
        &self,
        (open, close): (&str, &str),
        items: &[T],
        level: usize,
        text: &mut String,
        write: impl Fn(&T, &mut String) -> Result<()>,
    ) -> Result<()> {
        text.push_str(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                text.push_str(&self.separators.0);
            }
            self.line(level + 1, text);
            write(item, text)?;
        }
        if !items.is_empty() {
            self.line(level, text);
        }
        text.push_str(close);
        Ok(())
    }

    fn line(&self, level: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            (0..level).for_each(|_| text.push_str(indent));
        }
    }

    fn text(&self, value: &str, text: &mut String) {
        text.push('"');
        for c in value.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\x08' => text.push_str("\\b"),
                '\x0c' => text.push_str("\\f"),
                c if c < ' ' || self.ascii && !(' '..='~').contains(&c) => {
                    let mut units = [0; 2];
                    c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
                }
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

fn number_of(number: f64) -> String {
    match number {
        n if n.is_nan() => "NaN".into(),
        n if n.is_infinite() => (if n > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        n => float(n),
    }
}
