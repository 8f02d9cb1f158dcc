//! All keys of a recipe, as its schema has them.

use std::sync::LazyLock;

use serde_json::Value;

use super::Recipe;
use crate::words;

/// A key that holds a value, not a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its parts; `NAME` stands for a name of the user's own.
    pub path: Vec<String>,
    pub is_list: bool,
}

impl Key {
    pub fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// Whether it says what is shown, or how a suite's judge is asked; all others say what is done.
    pub fn is_aside(&self) -> bool {
        self.path[0] == "report" || self.path.iter().any(|part| part == "judge")
    }

    /// Whether it is called this, whatever table it lies in.
    pub fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    fn name(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }
}

/// More tables than lie in one another.
pub(super) const DEEPEST: usize = 8;

static ALL: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let schema = schemars::schema_for!(Recipe).to_value();
    let mut keys = Vec::new();
    collect(&schema, &schema, &mut vec![], &mut keys);
    keys
});

/// The keys of this name, whatever tables they lie in; of a table's name, the key that says what the table is about.
pub fn named(name: &str) -> Vec<Key> {
    let name = name.replace('-', "_").to_lowercase();
    let of = |like: &dyn Fn(&Key) -> bool| ALL.iter().filter(|key| like(key)).cloned().collect::<Vec<_>>();
    let (aside, exact): (Vec<_>, Vec<_>) = of(&|key| key.name() == name).into_iter().partition(Key::is_aside);
    // The model is its source, a suite its data set.
    let is_main = |key: &Key| matches!(key.name(), "source" | "dataset") && key.path[0] == name;
    [exact, of(&is_main), aside].into_iter().find(|keys| !keys.is_empty()).unwrap_or_default()
}

/// As [`named`], or of the name that is most like it.
pub fn like(name: &str) -> Vec<Key> {
    let found = named(name);
    if !found.is_empty() {
        return found;
    }
    // `sparsity_ratio`, `prune_method`: a word of it may be a key.
    let mut words = name.split(['-', '_']).map(named).filter(|keys| !keys.is_empty());
    if let Some(found) = words.next() {
        return found;
    }
    words::nearest(name, ALL.iter().map(Key::name)).map_or(vec![], named)
}

fn collect(schema: &Value, root: &Value, path: &mut Vec<String>, keys: &mut Vec<Key>) {
    let schema = resolved(schema, root);
    if path.len() > DEEPEST {
        return;
    }
    let named = schema["properties"].as_object().into_iter().flatten().map(|(name, inner)| (name.as_str(), inner));
    let own = schema.get("additionalProperties").filter(|inner| inner.is_object()).map(|inner| ("NAME", inner));
    let mut is_table = false;
    for (name, inner) in named.chain(own) {
        is_table = true;
        path.push(name.into());
        collect(inner, root, path, keys);
        path.pop();
    }
    let is_empty_table = schema["type"] == "object";
    if !is_table && !is_empty_table {
        let kind = &schema["type"];
        let is_list = kind == "array" || kind.as_array().is_some_and(|kinds| kinds.contains(&"array".into()));
        keys.push(Key { path: path.clone(), is_list });
    }
}

/// What a reference refers to.
pub(super) fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_name_whatever_table_it_lies_in() {
        let found = |name: &str| like(name).iter().map(Key::dotted).collect::<Vec<_>>();
        for (name, keys) in [
            ("sparsity", &["grid.sparsity"][..]),
            ("method", &["grid.method"]),
            ("calibration", &["grid.calibration"]),
            ("model", &["model.source"]),
            ("dtype", &["model.dtype"]),
            ("device", &["model.device"]),
            ("seed", &["grid.seed", "seed"]),
            ("damping", &["method.sparsegpt.damping"]),
            ("schedule", &["prune.schedule"]),
            ("max-new-tokens", &["suite.NAME.max_new_tokens"]),
            ("suite", &["suite.NAME.dataset"]),
            ("metric", &["report.metric"]),
            ("divergence", &["report.margin.divergence"]),
            ("sparsity-ratio", &["grid.sparsity"]),
            ("prune_method", &["grid.method"]),
            ("sparsty", &["grid.sparsity"]),
            ("xyzzy", &[]),
        ] {
            let mut expected = keys.to_vec();
            let mut found = found(name);
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "{name}");
        }
        assert!(named("sparsity")[0].is_list && named("metrics").iter().all(|key| key.is_list));
        assert!(!named("dtype")[0].is_list && !named("name")[0].is_list);
    }
}
