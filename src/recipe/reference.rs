//! Every key of a recipe in Markdown, from the schema: docs/keys.md.

use serde_json::Value;

use super::Recipe;
use super::keys::{self, DEEPEST};

/// The text of docs/keys.md: a section a table, a row a key.
pub fn reference() -> String {
    let schema = schemars::schema_for!(Recipe).to_value();
    let mut text = String::from(
        "# Every key of a recipe\n\nMade of the schema by `calipr schema --markdown`; [recipe.md](recipe.md) shows them in their places, and says how they work\ntogether.\n",
    );
    section(&schema, &schema, &mut vec![], &mut text);
    text
}

/// A table with its keys, then those within it.
fn section(table: &Value, root: &Value, path: &mut Vec<String>, text: &mut String) {
    if path.len() > DEEPEST {
        return;
    }
    let (mut keys, mut tables, mut lists) = (String::new(), vec![], vec![]);
    for (name, key) in table["properties"].as_object().into_iter().flatten() {
        let inner = resolved(key, root);
        match inner["type"].as_str() {
            Some("object") => tables.push((name.as_str(), inner)),
            Some("array") if resolved(&inner["items"], root)["type"] == "object" => lists.push((name, inner)),
            _ => {
                let is_needed =
                    table["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name));
                keys += &row(name, key, inner, root, is_needed);
            }
        }
    }
    if !keys.is_empty() {
        let title = if path.is_empty() { "The recipe itself".into() } else { format!("`[{}]`", path.join(".")) };
        *text += &format!("\n## {title}\n\n");
        if let Some(said) = table["description"].as_str().filter(|_| !path.is_empty()) {
            *text += &format!("{}\n\n", one_line(said));
        }
        *text += &format!("| key | value | default | |\n| --- | --- | --- | --- |\n{keys}");
    }
    for (name, inner) in tables {
        path.push(name.to_owned());
        let of_names = inner.get("additionalProperties").filter(|inner| inner.is_object());
        match of_names {
            Some(named) => {
                path.push("NAME".into());
                section(resolved(named, root), root, path, text);
                path.pop();
            }
            None => section(inner, root, path, text),
        }
        path.pop();
    }
    // Of a list of tables, each has these keys.
    for (name, list) in lists {
        path.push(format!("[{name}]"));
        section(resolved(&list["items"], root), root, path, text);
        path.pop();
    }
}

fn row(name: &str, key: &Value, inner: &Value, root: &Value, is_needed: bool) -> String {
    let own = key["description"].as_str();
    // What a type says of itself stands in for what a key does not.
    let said = own.or_else(|| inner["description"].as_str()).map(one_line).unwrap_or_default();
    let default = key.get("default").or_else(|| inner.get("default")).filter(|value| !value.is_null());
    let none = if is_needed { "(needed)" } else { "" };
    let default = default.map_or(none.to_owned(), |value| format!("`{value}`"));
    format!("| `{name}` | {} | {default} | {} |\n", kind(inner, root), said.replace('|', "\\|"))
}

/// What a value may be.
fn kind(schema: &Value, root: &Value) -> String {
    let schema = resolved(schema, root);
    let consts = |list: &[Value]| list.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>();
    if let Some(values) = schema["enum"].as_array() {
        return consts(values).join(", ");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return consts(&choices.iter().map(|choice| choice["const"].clone()).collect::<Vec<_>>()).join(", ");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut kinds: Vec<String> = choices.iter().map(|choice| kind(choice, root)).collect();
        kinds.retain(|kind| !kind.is_empty());
        return kinds.join(" or ");
    }
    let one = |name: &str| match name {
        "array" => format!("list of {}", kind(&schema["items"], root)),
        "string" => "text".into(),
        "integer" => "whole number".into(),
        "boolean" => "true or false".into(),
        "null" => String::new(),
        "object" if schema["additionalProperties"].is_object() => {
            format!("table of {}s", kind(&schema["additionalProperties"], root))
        }
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            let kinds: Vec<String> =
                names.iter().filter_map(Value::as_str).map(one).filter(|k| !k.is_empty()).collect();
            kinds.join(" or ")
        }
        _ => String::new(),
    }
}

/// What a reference refers to; of something or nothing, the something.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some([some, none]) = schema["anyOf"].as_array().map(Vec::as_slice)
        && none["type"] == "null"
    {
        return resolved(some, root);
    }
    keys::resolved(schema, root)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
