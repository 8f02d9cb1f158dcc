//! What of an answer is compared, where a suite says so by a regular expression: lm-evaluation-harness's filter `regex`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expression::Expression;

/// A regular expression that finds an answer's end result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Expression")]
#[schemars(inline, with = "Expression")]
pub struct Extract(Expression);

impl TryFrom<Expression> for Extract {
    type Error = String;

    fn try_from(expression: Expression) -> Result<Self, String> {
        let Expression(regex) = &expression;
        match regex.is_match("") {
            true => Err(format!("\"{}\" matches where there is nothing: it finds no answer", regex.as_str())),
            false => Ok(Self(expression)),
        }
    }
}

impl Extract {
    /// Which of the matches counts: the first or the `last`. Of it what its first group has that is not empty, or all of it
    /// where it has no groups, without white space around it; None where there is no such text.
    pub fn of<'a>(&self, answer: &'a str, last: bool) -> Option<&'a str> {
        let mut matches = self.0.0.captures_iter(answer);
        let found = if last { matches.last() } else { matches.next() }?;
        let mut groups =
            found.iter().skip(usize::from(self.0.0.captures_len() > 1)).flatten().map(|group| group.as_str());
        groups.find(|text| !text.is_empty()).map(str::trim).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(pattern: &str) -> Result<Extract, String> {
        serde_json::from_value(pattern.into()).map_err(|error| error.to_string())
    }

    /// What lm_eval 0.4.13's `RegexFilter` gives, "[invalid]" for none: the patterns are those of its gsm8k (strict and
    /// flexible) and mmlu_pro.
    #[test]
    fn what_is_found_is_what_the_harnesss_filter_finds() {
        let strict = r"#### (\-?[0-9\.\,]+)";
        let flexible = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";
        let letter = r"answer is \(?([ABCDEFGHIJ])\)?";
        for (pattern, last, answer, found) in [
            (strict, false, "so 3+4=7\n#### 7\n\nQuestion", Some("7")),
            (strict, false, "#### -1,234.5 x #### 9", Some("-1,234.5")),
            (strict, false, "#### none", None),
            (strict, false, "18", None),
            (flexible, true, "He pays $18.50 for 3 and 4", Some("4")),
            (flexible, true, "total: 7 ", Some("7")),
            (flexible, true, "no number", None),
            (flexible, true, "a $1,000. b", Some("$1,000.")),
            (flexible, true, "12 13", Some("13")),
            (letter, false, "The answer is (C). Or the answer is D", Some("C")),
            (letter, false, "answer is B", Some("B")),
            (letter, false, "Answer: A", None),
            ("[0-9]+", true, "a 12 b 34", Some("34")),
            (r"x(\d*)", false, "ax", None),
            (r"x(\d*)", false, "x5 x6", Some("5")),
        ] {
            assert_eq!(extract(pattern).unwrap().of(answer, last), found, "{pattern} in {answer:?}");
        }
    }

    #[test]
    fn an_expression_that_finds_nothing_or_is_none_is_refused() {
        let refused = |pattern: &str| extract(pattern).unwrap_err();
        assert!(refused("(?<=answer is )(.*)(?=.)").contains("looks around"));
        assert!(refused("([0-9]+").contains("\"([0-9]+\" is no regular expression: unclosed group"));
        assert!(refused("[0-9]*").contains("matches where there is nothing"));
    }
}
