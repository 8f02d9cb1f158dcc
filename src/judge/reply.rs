//! What the judge says, read strictly: a number for each criterion, or a winner, and nothing guessed.

use std::collections::HashSet;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::prompt::Wanted;
use super::spec::Criterion;

/// A judge's reply as it is kept: to the same question it is asked for once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The text; of one that cannot be used, the last.
    pub text: String,
    /// Why it cannot be used, however often it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// Tokens of prompts and replies, as the server counts them, or by their length where it does not.
    pub tokens: u64,
    /// How often it was asked for.
    pub requests: usize,
}

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The mean over the criteria, from 1 to 10.
    Score(f64),
    Winner(Winner),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    A,
    B,
    Tie,
}

impl Reply {
    /// What it says; None where it cannot be used.
    pub fn verdict(&self, wanted: Wanted, criteria: &[Criterion]) -> Option<Verdict> {
        if self.unusable.is_some() {
            return None;
        }
        read(&self.text, wanted, criteria).ok()
    }
}

/// Reads a reply.
///
/// # Errors
/// What is wrong with it, as the judge is to be told.
pub fn read(text: &str, wanted: Wanted, criteria: &[Criterion]) -> Result<Verdict, String> {
    let said = object(text)?;
    match wanted {
        Wanted::Winner => match said.get("winner") {
            Some(Value::String(name)) => match name.as_str() {
                "A" => Ok(Verdict::Winner(Winner::A)),
                "B" => Ok(Verdict::Winner(Winner::B)),
                "tie" => Ok(Verdict::Winner(Winner::Tie)),
                other => Err(format!("\"winner\" is \"{}\"; expected \"A\", \"B\" or \"tie\"", short(other))),
            },
            Some(other) => {
                Err(format!("\"winner\" is {}; expected \"A\", \"B\" or \"tie\"", short(&other.to_string())))
            }
            None => Err("it lacks \"winner\"".into()),
        },
        Wanted::Scores => {
            let mut sum = 0.0;
            for Criterion { name, .. } in criteria {
                let value = said.get(name).ok_or_else(|| format!("it lacks \"{name}\""))?;
                // 7.0 is a whole number to JSON.
                let number = value.as_f64().filter(|number| number.fract() == 0.0 && (1.0..=10.0).contains(number));
                sum += number.ok_or_else(|| {
                    format!("\"{name}\" is {}; expected a whole number from 1 to 10", short(&value.to_string()))
                })?;
            }
            Ok(Verdict::Score(sum / criteria.len() as f64))
        }
    }
}

/// The JSON object that a reply is, by itself or in a fence, after what a model may have thought aloud.
fn object(text: &str) -> Result<Map<String, Value>, String> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, said)| said).trim();
    let fenced = text.split_once("```").and_then(|(_, rest)| {
        let (inner, after) = rest.split_once("```")?;
        // Of two fences nobody knows which one is meant.
        (!after.contains("```")).then(|| inner.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim())
    });
    let text = fenced.unwrap_or(text);
    match serde_json::from_str(text) {
        // Of two values of one name nobody knows which one is meant.
        Ok(Value::Object(object)) => match serde_json::from_str::<NamedOnce>(text) {
            Ok(NamedOnce(None)) => Ok(object),
            Ok(NamedOnce(Some(name))) => Err(format!("\"{}\" is there twice", short(&name))),
            Err(_) => Err("it is not JSON".into()),
        },
        Ok(_) => Err("it is JSON, but no object".into()),
        Err(_) => Err("it is not JSON".into()),
    }
}

/// The first name that an object has twice.
struct NamedOnce(Option<String>);

impl<'de> Deserialize<'de> for NamedOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = NamedOnce;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<NamedOnce, M::Error> {
        let (mut seen, mut twice) = (HashSet::new(), None);
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if !seen.insert(name.clone()) {
                twice.get_or_insert(name);
            }
        }
        Ok(NamedOnce(twice))
    }
}

/// So much of a text as a message has room for.
pub fn short(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &plain[..at]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criteria() -> Vec<Criterion> {
        ["tone", "truth"].map(|name| Criterion { name: name.into(), meaning: String::new() }).to_vec()
    }

    #[test]
    fn a_reply_is_numbers_alone_in_a_fence_or_after_thoughts() {
        for text in [
            "{\"tone\": 3, \"truth\": 8}",
            " {\"truth\": 8.0, \"tone\": 3, \"why\": \"short\"}\n",
            "```json\n{\"tone\": 3, \"truth\": 8}\n```",
            "Here it is:\n```\n{\"tone\": 3, \"truth\": 8}\n```\nAs you asked.",
            "<think>a {\"tone\": 1}</think>{\"tone\": 3, \"truth\": 8}",
        ] {
            assert_eq!(read(text, Wanted::Scores, &criteria()), Ok(Verdict::Score(5.5)), "{text}");
        }
    }

    #[test]
    fn what_is_not_exactly_that_is_told() {
        for (text, said) in [
            ("", "not JSON"),
            ("I would say 7.", "not JSON"),
            ("7", "no object"),
            ("[3, 8]", "no object"),
            ("{\"tone\": 3}", "lacks \"truth\""),
            ("{\"tone\": 3, \"truth\": \"8\"}", "\"truth\" is \"8\""),
            ("{\"tone\": 3, \"truth\": 7.5}", "7.5; expected a whole number"),
            ("{\"tone\": 0, \"truth\": 7}", "\"tone\" is 0"),
            ("{\"tone\": 3, \"truth\": 11}", "\"truth\" is 11"),
            ("{\"tone\": 3, \"truth\": null}", "\"truth\" is null"),
            ("{\"tone\": 3, \"truth\": 8, \"tone\": 9}", "\"tone\" is there twice"),
            ("{\"tone\": 3, \"truth\": 8} and {\"tone\": 4, \"truth\": 8}", "not JSON"),
            ("```\n{\"tone\": 3, \"truth\": 8}\n```\n```\n{\"tone\": 4, \"truth\": 8}\n```", "not JSON"),
        ] {
            let found = read(text, Wanted::Scores, &criteria()).unwrap_err();
            assert!(found.contains(said), "{text}: {found}");
        }
    }

    #[test]
    fn a_winner_is_one_of_three_words() {
        let of = |text: &str| read(text, Wanted::Winner, &[]);
        assert_eq!(of("{\"winner\": \"A\"}"), Ok(Verdict::Winner(Winner::A)));
        assert_eq!(of("{\"winner\": \"tie\"}"), Ok(Verdict::Winner(Winner::Tie)));
        assert!(of("{\"winner\": \"Answer A\"}").unwrap_err().contains("expected \"A\""));
        assert!(of("{\"winner\": 1}").is_err() && of("{}").is_err());
    }
}
