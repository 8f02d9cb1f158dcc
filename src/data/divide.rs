//! Which tokens are a prompt's, and which are those of what follows it.

use anyhow::Result;

use super::value::is_python_space;
use crate::model::Tokenizer;

/// Divides tokens between a prompt and what continues it, as lm-evaluation-harness does (`loglikelihood` and
/// `_encode_pair` of api/model.py, `tok_encode` of models/huggingface.py).
pub(super) struct Divider<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// Whether the texts are conversations.
    pub(super) chat: bool,
}

impl Divider<'_> {
    /// A text that begins with the token of beginnings gets no other one.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if self.chat {
            return self.tokenizer.encode_chat(text);
        }
        let begun = self.tokenizer.prefix().is_some_and(|(_, beginning)| text.starts_with(beginning));
        self.tokenizer.encode(text, !begun)
    }

    /// Tokens of a text and of what follows it: white space at the text's end belongs to what follows, and where both
    /// together have other tokens than the text alone, what follows has the rest. In front of what follows nothing
    /// stands the beginning of a text.
    pub(super) fn continuation(&self, text: &str, next: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        if text.is_empty() {
            return self.alone(next);
        }
        let stem = text.trim_end_matches(is_python_space);
        let next = format!("{}{next}", &text[stem.len()..]);
        let whole = self.encode(&format!("{stem}{next}"))?;
        let before = self.encode(stem)?;
        let after = whole.get(before.len()..).unwrap_or_default().to_vec();
        Ok((before, after))
    }

    /// Tokens of a text after none.
    fn alone(&self, text: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let prefix = self.tokenizer.prefix().map(|(id, _)| id);
        let mut ids = self.tokenizer.encode(text, false)?;
        if prefix.is_some() && ids.first() == prefix.as_ref() {
            ids.remove(0);
        }
        Ok((prefix.into_iter().collect(), ids))
    }

    /// Tokens of a prompt and its target. Where the prompt's tokens (`ids`) are also the first of both
    /// together, the target has the rest: a line break that ends a prompt is none of the answer.
    pub(super) fn target(&self, text: &str, target: &str, ids: &[u32]) -> Result<(Vec<u32>, Vec<u32>)> {
        if ids.is_empty() {
            return self.continuation(text, target);
        }
        let whole = self.encode(&format!("{text}{target}"))?;
        match whole.strip_prefix(ids) {
            Some(rest) => Ok((ids.to_vec(), rest.to_vec())),
            None => self.continuation(text, target),
        }
    }
}
