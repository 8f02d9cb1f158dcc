//! What a row says: its tokens, or a prompt and a target.

use anyhow::{Result, bail};

use super::row::FAILS;
use super::{Row, Templates, shape};
use crate::model::Conversation;
use crate::templates;

/// What a row says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A text in two parts; plain text has no target. `references` has other right answers, where the row has; a question
    /// that its passage does not answer has none and is not `answerable` (SQuAD 2).
    Text { prompt: String, target: String, references: Vec<String>, answerable: bool },
    /// A question with several answers, of which one is right, or also others; `other` is one that the row could mean. With a
    /// `continuation` choices end the prompt, and this is what is scored behind each. Either stands behind the `delimiter`.
    Choice {
        prompt: String,
        choices: Vec<String>,
        answer: usize,
        also: Vec<usize>,
        other: Option<usize>,
        continuation: Option<String>,
        delimiter: String,
    },
    /// A conversation for the model's chat template.
    Chat(Conversation),
    /// Token ids as they are.
    Tokens(Vec<u32>),
}

impl Content {
    /// Reads a row, by the templates or, without them, by the fields that it has.
    ///
    /// # Errors
    /// Where a template fails, or the row has none of the usual shapes.
    pub fn of(row: &Row, templates: Option<&Templates>) -> Result<Self> {
        Self::of_all(std::slice::from_ref(row), templates).swap_remove(0)
    }

    /// Reads rows, each as [`Content::of`] does; the templates are compiled once.
    pub fn of_all(rows: &[Row], templates: Option<&Templates>) -> Vec<Result<Self>> {
        let Some(templates) = templates else { return rows.iter().map(shape::content).collect() };
        let (owned, several) = (templates.clone(), rows.to_vec());
        let read = templates::in_time(move || owned.contents(&several));
        match (read, rows) {
            (Ok(contents), _) => contents,
            (Err(error), [_]) => vec![Err(error.context(FAILS))],
            // One of them takes too long.
            (Err(_), rows) => rows.iter().map(|row| Self::of(row, Some(templates))).collect(),
        }
    }

    /// A prompt and its target.
    ///
    /// # Errors
    /// Where the row is a conversation, or tokens.
    pub fn parts(&self) -> Result<(String, String)> {
        match self {
            Self::Text { prompt, target, .. } => Ok((prompt.clone(), target.clone())),
            Self::Choice { prompt, choices, answer, continuation: Some(continuation), delimiter, .. } => {
                Ok((format!("{prompt}{}", choices[*answer]), format!("{delimiter}{continuation}")))
            }
            Self::Choice { prompt, choices, answer, delimiter, .. } => {
                Ok((prompt.clone(), format!("{delimiter}{}", choices[*answer])))
            }
            Self::Chat(_) => bail!("the row is a conversation where a prompt and a target are expected"),
            Self::Tokens(_) => bail!("the row has `input_ids`, which are no prompt; give it text"),
        }
    }

    /// Where choices end the prompt: the prompt with each of them, and what follows.
    pub fn endings(&self) -> Option<(Vec<String>, &str)> {
        match self {
            Self::Choice { prompt, choices, continuation: Some(continuation), .. } => {
                Some((choices.iter().map(|choice| format!("{prompt}{choice}")).collect(), continuation))
            }
            _ => None,
        }
    }

    /// A text without an answer.
    pub fn alone(prompt: String) -> Self {
        Self::Text { prompt, target: String::new(), references: vec![], answerable: true }
    }

    /// What is asked, without the answer.
    pub fn asks(&self) -> impl PartialEq + use<'_> {
        let turns = |chat: &Conversation| {
            let mut turns = chat.messages.clone();
            turns.pop_if(|last| last["role"] == "assistant");
            turns
        };
        match self {
            Self::Text { prompt, .. } => (prompt.as_str(), [].as_slice(), vec![]),
            Self::Choice { prompt, choices, .. } => (prompt.as_str(), choices.as_slice(), vec![]),
            Self::Chat(chat) => ("", [].as_slice(), turns(chat)),
            Self::Tokens(_) => ("", [].as_slice(), vec![]),
        }
    }
}
