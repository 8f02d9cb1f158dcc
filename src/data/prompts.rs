//! Rows as prompts: what the model reads, what it should answer, and the passage that both make.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Content, Part, Passage, Row};
use crate::model::Tokenizer;

/// How rows become prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompting {
    /// Rows, from the start; None takes all.
    pub limit: Option<usize>,
    /// Solved rows in front of each prompt.
    pub shots: usize,
    /// Draws the shots.
    pub seed: u64,
    /// Whether the model's chat template is put around prompts.
    pub chat: bool,
    /// The most tokens that a prompt and what follows it may have: the model's context.
    pub context: usize,
    /// Tokens to be left for generation; 0 where nothing is generated.
    pub new_tokens: usize,
}

/// A row, ready for the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// What the model reads: of a prompt that was cut, what is left.
    pub text: String,
    pub ids: Vec<u32>,
    /// What it should answer; any of these is right.
    pub references: Vec<String>,
    /// The prompt as the target or the choices continue it: white space at its end belongs to them.
    context: Vec<u32>,
    target: Vec<u32>,
    /// The choices, and the number of the right one.
    pub choices: Vec<Choice>,
    pub answer: usize,
    /// Whether the prompt's beginning was cut off to fit the model's context.
    pub cut: bool,
}

/// One of several answers to choose from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub text: String,
    ids: Vec<u32>,
}

impl Prompt {
    /// The tokens of the target, or of the longest choice, where they leave no room for the prompt.
    pub fn crowded_out(&self) -> Option<usize> {
        let longest = self.choices.iter().map(|c| c.ids.len()).max().unwrap_or(self.target.len());
        self.context.is_empty().then_some(longest)
    }

    /// What goes through the model to score the target or the choices; None where the row has neither, or there is no
    /// room for the prompt.
    pub fn passage(&self) -> Option<Passage> {
        if self.context.is_empty() {
            return None;
        }
        if self.choices.is_empty() {
            return (!self.target.is_empty()).then(|| Passage::continued(&self.context, &self.target));
        }
        let choices: Vec<&[u32]> = self.choices.iter().map(|c| c.ids.as_slice()).collect();
        Some(Passage::choices(&self.context, &choices, self.answer))
    }
}

/// Makes prompts of rows. `shots` are the rows that solved examples are drawn from.
///
/// # Errors
/// Where a row cannot be read as a prompt, or there are too few rows to draw from.
pub fn prompts(
    (rows, part): (&[Row], &Part),
    (shots, shots_part): (&[Row], &Part),
    tokenizer: &Tokenizer,
    how: &Prompting,
) -> Result<Vec<Prompt>> {
    let count = how.limit.unwrap_or(rows.len());
    ensure!(count <= rows.len(), "too little data: limit = {count}, but there are {} rows", rows.len());
    let prompt = |(i, row): (usize, &Row)| -> Result<Prompt> {
        let content = Content::of(row, part.templates.as_ref())?;
        let mut rng = ChaCha8Rng::seed_from_u64(how.seed.wrapping_add(i as u64));
        let examples = draw((shots, shots_part), &content, how.shots, &mut rng)?;
        Prompter { tokenizer, separator: &part.separator, how }.prompt(content, examples)
    };
    let numbered = rows[..count].iter().enumerate();
    numbered.map(|(i, row)| prompt((i, row)).with_context(|| format!("row {}", i + 1))).collect()
}

/// `count` solved examples, none of which asks what `content` asks: with the answer in front, the question is none.
fn draw((rows, part): (&[Row], &Part), content: &Content, count: usize, rng: &mut ChaCha8Rng) -> Result<Vec<Content>> {
    let (mut examples, mut seen) = (Vec::new(), HashSet::new());
    while examples.len() < count {
        ensure!(
            seen.len() < rows.len(),
            "too little data: shots = {count}, but only {} other rows ask something else; ask for fewer shots",
            examples.len()
        );
        let row = rng.random_range(0..rows.len());
        if seen.insert(row) {
            let example = Content::of(&rows[row], part.templates.as_ref());
            let example = example.with_context(|| format!("the shot, row {}", row + 1))?;
            if example.asks() != content.asks() {
                examples.push(example);
            }
        }
    }
    Ok(examples)
}

struct Prompter<'a> {
    tokenizer: &'a Tokenizer,
    separator: &'a str,
    how: &'a Prompting,
}

impl Prompter<'_> {
    fn prompt(&self, content: Content, examples: Vec<Content>) -> Result<Prompt> {
        let chat = self.how.chat || matches!(content, Content::Chat(_));
        let (text, target) = if chat { self.chat(&content, &examples)? } else { self.plain(&content, &examples)? };
        let special = !chat; // a chat template writes its own special tokens
        let mut ids = self.tokenizer.encode(&text, special)?;
        let (references, choices, answer) = match content {
            Content::Choice { choices, answer, .. } => (vec![choices[answer].clone()], choices, answer),
            Content::Text { references, .. } if !references.is_empty() => (references, vec![], 0),
            _ => (vec![target.trim().to_owned()].into_iter().filter(|t| !t.is_empty()).collect(), vec![], 0),
        };
        let space = if chat { "" } else { " " };
        let mut context = ids.clone();
        let mut continued = Vec::new();
        for choice in &choices {
            let (before, after) = self.continuation(&text, &format!("{space}{choice}"), special)?;
            ensure!(!after.is_empty(), "the choice \"{choice}\" has no tokens");
            context = before;
            continued.push(Choice { text: choice.clone(), ids: after });
        }
        let mut target_ids = Vec::new();
        if choices.is_empty() && !target.is_empty() {
            (context, target_ids) = self.target(&text, &target, &ids, special)?;
        }
        ensure!(!ids.is_empty() && !context.is_empty(), "the prompt is empty");

        let longest = continued.iter().map(|c| c.ids.len()).chain([target_ids.len()]).max().unwrap_or(0);
        let mut cut = keep_end(&mut context, self.how.context.saturating_sub(longest));
        cut |= keep_end(&mut ids, self.how.context.saturating_sub(self.how.new_tokens).max(1));
        // People are shown what the model reads.
        let read = if self.how.new_tokens > 0 || context.is_empty() { &ids } else { &context };
        let text = if cut { self.tokenizer.decode_with_special(read)? } else { text };
        Ok(Prompt { text, ids, references, context, target: target_ids, choices: continued, answer, cut })
    }

    /// Examples and prompt one after the other, and the target.
    fn plain(&self, content: &Content, examples: &[Content]) -> Result<(String, String)> {
        let mut text = String::new();
        for example in examples {
            let (prompt, target) = example.parts()?;
            text += &format!("{prompt}{target}{}", self.separator);
        }
        let (prompt, target) = content.parts()?;
        Ok((text + &prompt, target))
    }

    /// Examples as earlier turns of a conversation, and the prompt as its last.
    fn chat(&self, content: &Content, examples: &[Content]) -> Result<(String, String)> {
        let mut messages = Vec::new();
        for example in examples {
            let (prompt, target) = turns(example)?;
            messages.extend(prompt);
            messages.push(json!({"role": "assistant", "content": target}));
        }
        let (prompt, target) = turns(content)?;
        messages.extend(prompt);
        Ok((self.tokenizer.chat(&Value::Array(messages), true)?, target))
    }

    /// Tokens of a text and of what follows it, as lm-evaluation-harness divides them: white space at the
    /// text's end belongs to what follows, and where both together have other tokens than the text alone,
    /// what follows has the rest.
    fn continuation(&self, text: &str, next: &str, special: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let stem = text.trim_end();
        let next = format!("{}{next}", &text[stem.len()..]);
        let whole = self.tokenizer.encode(&format!("{stem}{next}"), special)?;
        let before = self.tokenizer.encode(stem, special)?;
        let after = whole.get(before.len()..).unwrap_or_default().to_vec();
        Ok((before, after))
    }

    /// Tokens of a prompt and its target. Where the prompt's tokens (`ids`) are also the first of both
    /// together, the target has the rest: a line break that ends a prompt is none of the answer.
    fn target(&self, text: &str, target: &str, ids: &[u32], special: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let whole = self.tokenizer.encode(&format!("{text}{target}"), special)?;
        match whole.strip_prefix(ids) {
            Some(rest) => Ok((ids.to_vec(), rest.to_vec())),
            None => self.continuation(text, target, special),
        }
    }
}

/// The turns of a conversation up to the answer, and the answer.
fn turns(content: &Content) -> Result<(Vec<Value>, String)> {
    let Content::Chat(messages) = content else {
        let (prompt, target) = content.parts()?;
        return Ok((vec![json!({"role": "user", "content": prompt})], target.trim().to_owned()));
    };
    let mut messages = messages.as_array().context("`messages` is no list")?.clone();
    let last = messages.pop().context("`messages` is empty")?;
    if last["role"] != "assistant" {
        messages.push(last);
        return Ok((messages, String::new()));
    }
    Ok((messages, last["content"].as_str().context("the assistant's last message is no text")?.to_owned()))
}

/// Cuts off the beginning of what is longer than `most`; whether it was.
fn keep_end(ids: &mut Vec<u32>, most: usize) -> bool {
    let over = ids.len().saturating_sub(most);
    ids.drain(..over);
    over > 0
}
