//! What a file of rows is, at a glance: how its rows are read, which of their fields, and how much text they have.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::prompts::{contents, turns};
use super::{Content, Part, Row, Rows};

/// How rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Texts without a target.
    Texts,
    /// Prompts, each with what is to be answered.
    Pairs,
    /// Questions with answers to choose from.
    Choices,
    /// Conversations that end in an answer.
    Conversations,
    /// Conversations that do not end in an answer.
    Talk,
    /// Token ids.
    Tokens,
}

/// What the rows of a split are.
#[derive(Debug, Clone)]
pub struct Glance {
    pub kind: Kind,
    pub rows: usize,
    /// What the first row says.
    pub first: Content,
    /// Bytes of text in all rows; of token ids, as many as so many tokens have.
    pub bytes: usize,
    /// Bytes of what is to be answered: so many at most in nineteen rows of twenty.
    pub answer: usize,
    /// Whether an answer has several lines.
    pub has_lines: bool,
    /// The least and the most answers that there are to choose from.
    pub choices: (usize, usize),
}

/// Bytes of text to a token, about: of English a little more, of most else less.
pub const BYTES_A_TOKEN: usize = 4;

impl Glance {
    /// Reads all rows.
    ///
    /// # Errors
    /// The first row that cannot be read, or that is of another kind than the first.
    pub fn at(rows: &Rows, part: &Part) -> Result<Self> {
        ensure!(!rows.is_empty(), "there are no rows");
        let contents = contents(rows, rows.len(), part)?;
        let kinds: Vec<Kind> = contents.iter().map(Kind::of).collect();
        if let Some(other) = kinds.iter().position(|kind| *kind != kinds[0]) {
            let (first, number) = (kinds[0].name(), rows.number(other));
            anyhow::bail!("row {number} is {}, row {} {first}", kinds[other].name(), rows.number(0));
        }
        let mut answers: Vec<usize> = contents.iter().map(|content| answer(content).len()).collect();
        answers.sort_unstable();
        let counts = contents.iter().map(|content| match content {
            Content::Choice { choices, .. } => choices.len(),
            _ => 0,
        });
        Ok(Self {
            kind: kinds[0],
            rows: rows.len(),
            bytes: contents.iter().map(bytes).sum(),
            answer: answers[(answers.len() - 1) * 19 / 20],
            has_lines: contents.iter().any(|content| answer(content).trim().contains('\n')),
            choices: counts.fold((usize::MAX, 0), |(least, most), count| (least.min(count), most.max(count))),
            first: contents.into_iter().next().expect("there is a row"),
        })
    }
}

impl Kind {
    pub fn of(content: &Content) -> Self {
        let is_answered = || turns(content).is_ok_and(|(_, target)| !target.is_empty());
        match content {
            Content::Text { target, answerable: true, .. } if target.is_empty() => Self::Texts,
            Content::Text { .. } => Self::Pairs,
            Content::Choice { .. } => Self::Choices,
            Content::Chat(_) if is_answered() => Self::Conversations,
            Content::Chat(_) => Self::Talk,
            Content::Tokens(_) => Self::Tokens,
        }
    }

    /// What a row is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Texts => "a text without an answer",
            Self::Pairs => "a prompt with its answer",
            Self::Choices => "a question with choices",
            Self::Conversations => "a conversation that ends in an answer",
            Self::Talk => "a conversation without an answer at its end",
            Self::Tokens => "a list of token ids",
        }
    }
}

/// The fields of a row without which it would be read otherwise, or not at all.
pub fn fields_read(row: &Row, part: &Part) -> Vec<String> {
    let read = |row: &Row| part.contents(std::slice::from_ref(row)).into_iter().next().and_then(Result::ok);
    let whole = read(row);
    let counts = |name: &&String| {
        let mut without = row.clone();
        without.shift_remove(*name);
        read(&without) != whole
    };
    row.keys().filter(counts).cloned().collect()
}

/// What is to be answered.
fn answer(content: &Content) -> String {
    match content {
        Content::Chat(_) => turns(content).map(|(_, target)| target).unwrap_or_default(),
        Content::Tokens(_) => String::new(),
        content => content.parts().map(|(_, target)| target).unwrap_or_default(),
    }
}

fn bytes(content: &Content) -> usize {
    let said = |turn: &Value| turn["content"].as_str().map_or(0, str::len);
    match content {
        Content::Tokens(ids) => ids.len() * BYTES_A_TOKEN,
        Content::Chat(chat) => chat.messages.iter().map(said).sum(),
        content => content.parts().map_or(0, |(prompt, target)| prompt.len() + target.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::Library;

    fn glance(rows: Value) -> Result<Glance> {
        let library = Library::of_recipe(std::path::Path::new("x.toml"));
        let part = library.get("path:rows.jsonl").unwrap().part(None, "test").unwrap();
        let rows: Vec<Row> = rows.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect();
        Glance::at(&rows.try_into().unwrap(), &part)
    }

    #[test]
    fn rows_are_of_the_kind_that_a_suite_would_read() {
        let chat =
            |last: &str| json!({"messages": [{"role": "user", "content": "hi"}, {"role": last, "content": "a\nb"}]});
        for (row, kind, bytes) in [
            (json!({"text": "ab"}), Kind::Texts, 2),
            (json!({"prompt": "ab", "completion": "c"}), Kind::Pairs, 3),
            (json!({"question": "q?", "choices": ["a", "b"], "answer": 1}), Kind::Choices, 22),
            (chat("assistant"), Kind::Conversations, 5),
            (chat("user"), Kind::Talk, 5),
            (json!({"input_ids": [1, 2]}), Kind::Tokens, 8),
        ] {
            let glance = glance(json!([row])).unwrap();
            assert_eq!((glance.kind, glance.bytes), (kind, bytes), "{row}");
            assert_eq!(glance.has_lines, kind == Kind::Conversations);
        }
    }

    #[test]
    fn rows_of_two_kinds_are_told_apart_by_their_numbers() {
        let error = glance(json!([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}])).unwrap_err();
        assert_eq!(error.to_string(), "row 2 is a text without an answer, row 1 a prompt with its answer");
        let error = glance(json!([{"text": "a"}, {"txt": "a"}])).unwrap_err();
        assert!(format!("{error:#}").contains("row 2"), "{error:#}");
    }

    #[test]
    fn most_answers_are_no_longer_than_what_is_said() {
        let rows: Vec<Value> = (1..=20).map(|n| json!({"prompt": "p", "completion": "x".repeat(n)})).collect();
        let glance = glance(json!(rows)).unwrap();
        assert_eq!((glance.answer, glance.rows), (19, 20));
    }

    #[test]
    fn fields_that_change_nothing_are_not_read() {
        let library = Library::of_recipe(std::path::Path::new("x.toml"));
        let part = library.get("path:rows.jsonl").unwrap().part(None, "test").unwrap();
        let row = json!({"id": 3, "text": "a", "label": "b"});
        assert_eq!(fields_read(row.as_object().unwrap(), &part), ["text"]);
        let row = json!({"instruction": "a", "input": "b", "output": "c", "task": "d"});
        assert_eq!(fields_read(row.as_object().unwrap(), &part), ["instruction", "input", "output"]);
    }
}
