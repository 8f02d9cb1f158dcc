//! Whether an answer is the reference to the letter, but for what a suite says: lm-evaluation-harness's `exact_match`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expression::Expression;

/// What an answer may differ in from the reference and still be it, as lm-evaluation-harness's `exact_match` has it
/// (`exact_match_hf_evaluate` of its api/metrics.py): compared is to the letter, but for what stands here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExactMatch {
    /// What these regular expressions find is taken out of both, by one after the other, before all else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<Expression>,
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
        for Expression(regex) in &self.regexes_to_ignore {
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
