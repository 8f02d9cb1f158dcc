//! Whether an answer is the reference to the letter, but for what a suite says: lm-evaluation-harness's `exact_match`.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an answer may differ in from the reference and still be it, as lm-evaluation-harness's `exact_match` has it
/// (`exact_match_hf_evaluate` of its api/metrics.py): compared is to the letter, but for what stands here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExactMatch {
    /// What these regular expressions find is taken out of both, by one after the other, before all else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<Ignored>,
    /// Upper and lower case are the same.
    #[serde(default)]
    pub ignore_case: bool,
    /// Punctuation of ASCII is taken out of both.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// Digits are taken out of both.
    #[serde(default)]
    pub ignore_numbers: bool,
    /// White space around an answer is taken off, as by the harness's filter of this name; what `extract` finds has none.
    #[serde(default)]
    pub remove_whitespace: bool,
}

impl ExactMatch {
    /// Whether the answer is one of the references.
    pub fn is_one_of(&self, answer: &str, references: &[String]) -> bool {
        // Python's `strip` takes the separators U+001C to U+001F for white space, too.
        let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
        let answer = if self.remove_whitespace { answer.trim_matches(space) } else { answer };
        let answer = self.left_of(answer);
        references.iter().any(|reference| self.left_of(reference) == answer)
    }

    /// What is compared of a text.
    fn left_of(&self, text: &str) -> String {
        let mut left = text.to_owned();
        for Ignored(regex) in &self.regexes_to_ignore {
            left = regex.replace_all(&left, "").into_owned();
        }
        if self.ignore_case {
            left = left.to_lowercase();
        }
        left.retain(|c| {
            !(self.ignore_punctuation && c.is_ascii_punctuation() || self.ignore_numbers && c.is_ascii_digit())
        });
        left
    }
}

/// A regular expression, in the syntax of the crate regex.
#[derive(Clone)]
pub struct Ignored(Regex);

impl PartialEq for Ignored {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Debug for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

impl Serialize for Ignored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pattern = String::deserialize(deserializer)?;
        Regex::new(&pattern).map(Self).map_err(|error| {
            // Its last line says what is wrong, and those before point at it.
            let said = error.to_string();
            let why = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            D::Error::custom(format!("\"{pattern}\" is no regular expression: {why}"))
        })
    }
}

impl JsonSchema for Ignored {
    fn schema_name() -> Cow<'static, str> {
        "Ignored".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "regex" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one set of options makes of pairs of an answer and references.
    #[derive(Deserialize)]
    struct Case {
        how: ExactMatch,
        pairs: Vec<(String, Vec<String>, bool)>,
    }

    /// By its own function, with the options of its tasks (tests/scripts/exact_match.py).
    #[test]
    fn answers_match_as_the_harness_finds_that_they_match() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/exact_match.json")).unwrap();
        for Case { how, pairs } in cases {
            for (answer, references, matches) in pairs {
                assert_eq!(how.is_one_of(&answer, &references), matches, "{answer:?} {references:?} {how:?}");
            }
        }
    }

    #[test]
    fn an_expression_that_is_none_is_refused() {
        let error = serde_json::from_str::<ExactMatch>(r#"{"regexes_to_ignore": ["(a"]}"#).unwrap_err().to_string();
        assert!(error.contains("\"(a\" is no regular expression: unclosed group"), "{error}");
    }
}
