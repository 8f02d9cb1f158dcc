//! What a recipe that is wrong was probably meant to say.

use super::keys::{self, Key};
use crate::words;

/// Words of other programs for one of calipr's.
const ELSEWHERE: [(&[&str], &str); 3] = [
    (&["float32", "float", "fp32", "torch.float32"], "f32"),
    (&["bfloat16", "torch.bfloat16"], "bf16"),
    (&["float16", "half", "fp16", "torch.float16"], "f16"),
];

/// Tables that a recipe has any number of, under names of the user's own.
const NAMED: [&str; 3] = ["suite", "calibration", "checkpoint"];

/// For a key that the table `path` does not have: one that it has, or the table that has it.
pub fn key(field: &str, path: &[String], expected: &[&str]) -> Option<String> {
    let nearest = || words::nearest(field, expected.iter().copied()).map(|w| format!("`{w}`"));
    // Where a report says which one it shows, a slip is likelier.
    let elsewhere = |key: &Key| path.is_empty() || (key.is(field) && !key.is_aside());
    let elsewhere: Vec<Key> = keys::named(field).into_iter().filter(elsewhere).collect();
    let meant = if elsewhere.is_empty() { nearest()? } else { either(&elsewhere) };
    Some(format!("did you mean {meant}?"))
}

/// For a word that is none of those expected.
pub fn word(word: &str, expected: &[&str]) -> Option<String> {
    let said = word.to_lowercase();
    let ours = ELSEWHERE.iter().find(|(theirs, ours)| theirs.contains(&said.as_str()) && expected.contains(ours));
    let meant = ours.map(|(_, ours)| *ours).or_else(|| words::nearest(word, expected.iter().copied()))?;
    Some(format!("did you mean \"{meant}\"?"))
}

/// For a value in the place of a list, as TOML writes it.
pub fn list(found: &str) -> String {
    let parts: Vec<&str> = found.trim_matches('"').split([',', ' ']).filter(|part| !part.is_empty()).collect();
    let is_word = |part: &&str| part.chars().all(|c| c.is_alphanumeric() || "._-:".contains(c));
    // A text with a comma in it may be one text.
    if parts.len() < 2 || !parts.iter().all(is_word) {
        return format!("a list is written [{found}]");
    }
    let in_toml = |part: &&str| match part.parse::<f64>() {
        Ok(number) if number.is_finite() => (*part).to_owned(),
        _ => format!("\"{part}\""),
    };
    format!("a list is written [{}]", parts.iter().map(in_toml).collect::<Vec<_>>().join(", "))
}

/// For a value in the place of the table at `path`.
pub fn table(path: &[String]) -> Option<String> {
    match path {
        // `dataset` right below [suite].
        [table, key] if NAMED.contains(&table.as_str()) && !key.starts_with(|c: char| c.is_ascii_digit()) => {
            Some(format!("[{table}] has tables of names that you choose, such as [{table}.mine] with its {key}"))
        }
        [name] | [name, _] => {
            let meant: Vec<Key> = keys::named(name).into_iter().filter(|key| key.path.len() > 1).collect();
            (!meant.is_empty()).then(|| format!("did you mean {}?", either(&meant)))
        }
        _ => None,
    }
}

fn either(keys: &[Key]) -> String {
    keys.iter().map(|key| format!("`{}`", key.dotted())).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(dotted: &str) -> Vec<String> {
        dotted.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn a_key_in_the_wrong_table_leads_to_the_right_one_and_a_slip_to_its_neighbour() {
        let suite = ["dataset", "split", "metrics", "shots"];
        for (field, table, expected, said) in [
            ("sparsity", "suite.lm", &suite[..], "did you mean `grid.sparsity`?"),
            ("dtype", "grid", &["method", "sparsity"], "did you mean `model.dtype`?"),
            ("metric", "suite.lm", &suite, "did you mean `metrics`?"),
            ("methods", "grid", &["method", "sparsity"], "did you mean `method`?"),
            ("sparsity", "", &["name", "suite"], "did you mean `grid.sparsity`?"),
            ("gird", "", &["name", "grid"], "did you mean `grid`?"),
        ] {
            assert_eq!(key(field, &path(table), expected).as_deref(), Some(said), "{field}");
        }
        assert_eq!(key("xyzzy", &path("grid"), &["method"]), None);
    }

    #[test]
    fn what_is_said_elsewhere_is_understood() {
        let dtypes = ["f32", "bf16", "f16"];
        for (said, ours) in [("float16", "f16"), ("bfloat16", "bf16"), ("FP32", "f32")] {
            assert_eq!(word(said, &dtypes), Some(format!("did you mean \"{ours}\"?")));
        }
        assert_eq!(word("half", &["crop", "concat"]), None);
    }

    #[test]
    fn several_values_in_the_place_of_a_list_are_several_in_it() {
        for (found, said) in [
            ("0.5", "[0.5]"),
            ("\"wanda\"", "[\"wanda\"]"),
            ("\"wanda,sparsegpt\"", "[\"wanda\", \"sparsegpt\"]"),
            ("\"0.5, 2:4\"", "[0.5, \"2:4\"]"),
            ("\"0 1\"", "[0, 1]"),
            ("\"\\n\\n\"", "[\"\\n\\n\"]"),
            ("\"Well, (yes)\"", "[\"Well, (yes)\"]"),
        ] {
            assert_eq!(list(found), format!("a list is written {said}"));
        }
    }

    #[test]
    fn a_value_in_the_place_of_a_table_leads_to_the_key_that_it_was_meant_for() {
        let said = |dotted: &str| table(&path(dotted));
        assert_eq!(said("model").as_deref(), Some("did you mean `model.source`?"));
        assert_eq!(said("method.0").as_deref(), Some("did you mean `grid.method`?"));
        let suite = "[suite] has tables of names that you choose, such as [suite.mine] with its dataset";
        assert_eq!(said("suite.dataset").as_deref(), Some(suite));
        assert_eq!(said("report.margin"), None);
    }
}
