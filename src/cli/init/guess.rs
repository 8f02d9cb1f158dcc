//! A template for rows that have no usual shape, by the names of their fields.

use serde_json::Value;

use crate::data::{Row, is_usual};

/// What fields are called that hold what is asked, and what is to be answered.
const ASKED: [&str; 12] = [
    "question",
    "query",
    "problem",
    "instruction",
    "prompt",
    "input",
    "source",
    "document",
    "article",
    "passage",
    "context",
    "sentence",
];
const ANSWERED: [&str; 14] = [
    "answer",
    "answers",
    "response",
    "solution",
    "completion",
    "output",
    "target",
    "reference",
    "summary",
    "highlights",
    "label",
    "category",
    "sentiment",
    "reply",
];

/// What fields are called that a question is about.
const ABOUT: [&str; 4] = ["context", "passage", "background", "document"];

/// What stands before the letter of a field that holds one of several choices: `a`, `option_a`.
const CHOICE: [&str; 5] = ["", "option_", "option", "choice_", "choice"];
const LETTERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Which field is asked, which is the answer, and what the question is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Guess {
    asked: String,
    answered: String,
    about: Option<String>,
    /// Fields with one choice each, of which the answer names one.
    choices: Vec<String>,
}

impl Guess {
    /// From the first row; None where it has a usual shape, or names that say nothing.
    pub fn of(row: &Row) -> Option<Self> {
        if is_usual(row) {
            return None;
        }
        let field = |name: &&str| field(row, name);
        let asked = ASKED.iter().find_map(field)?;
        let answered = ANSWERED.iter().find_map(field)?;
        let about = ABOUT.iter().find_map(field).filter(|about| *about != asked);
        let choices = choices(row, &row[&answered]);
        Some(Self { asked, answered, about, choices })
    }

    /// A data set of these rows, and of others to calibrate on where there are some.
    pub fn definition(&self, test: &str, train: Option<&str>) -> String {
        let Self { asked, answered, about, choices } = self;
        let about = about.as_ref().map_or(String::new(), |about| format!("{{{{ {about} }}}}\n"));
        let prompt = format!("{about}{}: {{{{ {asked} }}}}\n{}:", capitalised(asked), capitalised(answered));
        let mut text = format!(
            "# How rows are read, guessed by `calipr init` from the names of their fields: change what is not meant.\n\
             # A field is {{{{ name }}}}, all else stands as it is; `calipr datasets path:FILE` of this file shows a row.\n\
             description = {}\n",
            quoted(&format!("{asked} and {answered}"))
        );
        if train.is_none() {
            text += &format!("source = {}\n", quoted(test));
        }
        let value = |name: &String| format!("{{{{ {name} }}}}");
        text += &format!("\n[template]\nprompt = {}\n", quoted(&prompt));
        text += &match choices.is_empty() {
            true => format!("target = {}\n", quoted(&format!(" {}", value(answered)))),
            false => {
                let choices: Vec<String> = choices.iter().map(|name| quoted(&value(name))).collect();
                format!("choices = [{}]\nanswer = {}\n", choices.join(", "), quoted(&value(answered)))
            }
        };
        if let Some(train) = train {
            text +=
                &format!("\n[split.train]\nsource = {}\n\n[split.test]\nsource = {}\n", quoted(train), quoted(test));
        }
        text
    }
}

/// The field of this name, as the file spells it.
fn field(row: &Row, name: &str) -> Option<String> {
    let plain = |value: &Value| value.is_string() || value.is_number();
    let like = |(key, value): &(&String, &Value)| key.eq_ignore_ascii_case(name) && plain(value);
    row.iter().find(like).map(|(key, _)| key.clone()).filter(|key| is_identifier(key))
}

/// The fields that have a choice each, where the answer is the letter of one. What counts by numbers may begin at 0 or 1, and is
/// not guessed at.
fn choices(row: &Row, answer: &Value) -> Vec<String> {
    let of = |before: &&str| -> Vec<String> {
        LETTERS.iter().map_while(|letter| field(row, &format!("{before}{letter}"))).collect()
    };
    let is_one = |fields: &Vec<String>| {
        let letters = &LETTERS[..fields.len()];
        let said = answer.as_str().unwrap_or_default().trim();
        fields.len() > 1 && letters.iter().any(|letter| said.eq_ignore_ascii_case(letter))
    };
    CHOICE.iter().map(of).find(is_one).unwrap_or_default()
}

/// A text as TOML writes it.
pub fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            '\n' => "\\n".into(),
            '\t' => "\\t".into(),
            c if c.is_control() => format!("\\u{:04X}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Whether templates can name a field so.
fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn capitalised(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars.map(|c| if c == '_' { ' ' } else { c })).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::json;

    use super::*;
    use crate::data::{Content, Dataset};

    fn guess(row: &Value) -> Option<Guess> {
        Guess::of(row.as_object().unwrap())
    }

    #[test]
    fn a_question_and_its_answer_are_known_by_their_names() {
        let row = json!({"id": 1, "context": "It rains.", "question": "Is it \"dry\"?", "answer": "no"});
        let text = guess(&row).unwrap().definition("path:a \"b\".jsonl", Some("path:train.jsonl"));
        let dataset = Dataset::of_text(&text, Path::new("a.toml"), vec![PathBuf::new()]).unwrap();
        assert_eq!(dataset.splits["test"].source.as_ref().unwrap().to_string(), "path:a \"b\".jsonl");
        let content = Content::of(row.as_object().unwrap(), dataset.template.as_ref()).unwrap();
        let (prompt, target) = content.parts().unwrap();
        assert_eq!(prompt, "It rains.\nQuestion: Is it \"dry\"?\nAnswer:");
        assert_eq!(target, " no");
    }

    #[test]
    fn choices_in_columns_of_their_own_are_choices_where_the_answer_is_a_letter() {
        let row = json!({"question": "2+2?", "A": "3", "B": "4", "C": 5, "answer": "B"});
        let text = guess(&row).unwrap().definition("path:a.csv", None);
        let dataset = Dataset::of_text(&text, Path::new("a.toml"), vec![PathBuf::new()]).unwrap();
        let content = Content::of(row.as_object().unwrap(), dataset.template.as_ref()).unwrap();
        let Content::Choice { choices, answer, .. } = &content else { panic!("{content:?}") };
        assert_eq!((choices.join(" "), *answer), ("3 4 5".into(), 1));
        let fields = |row: &Value| guess(row).unwrap().choices;
        let named = json!({"question": "q", "option_a": "x", "option_b": "y", "label": "a"});
        assert_eq!(fields(&named), ["option_a", "option_b"]);
        for row in [
            json!({"question": "q", "a": "x", "b": "y", "answer": "1"}),
            json!({"question": "q", "a": "x", "b": "y", "answer": "c"}),
            json!({"question": "q", "a": "x", "answer": "a"}),
        ] {
            assert_eq!(fields(&row), [""; 0], "{row}");
        }
    }

    #[test]
    fn usual_rows_and_nameless_ones_are_not_guessed_at() {
        for row in [
            json!({"text": "a", "label": "b"}),
            json!({"prompt": "a", "completion": "b"}),
            json!({"a": "x", "b": "y"}),
            json!({"question": "a"}),
            json!({"question": "a", "answers": ["b"]}),
        ] {
            assert_eq!(guess(&row), None, "{row}");
        }
        assert_eq!(guess(&json!({"Question": "a", "Answer": 3})).unwrap().answered, "Answer");
    }
}
