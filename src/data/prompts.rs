//! Rows as prompts: what the model reads, what it should answer, and the passage that both make.

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check::{contents_of, each};
use super::divide::Divider;
use super::shots::{About, Shots, about};
use super::value::shortened;
use super::windows::within;
use super::{Content, Part, Passage, Rows};
use crate::model::{Conversation, Tokenizer};

/// How rows become prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompting {
    /// Rows, from the start; None takes all, and so does a number of more than there are.
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
    /// Whether white space at a prompt's end belongs to the target, too, as it belongs to choices: what is asked of a target as
    /// of a choice is what lm-evaluation-harness asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_choices: bool,
}

/// A row as text: what is asked of it, before it is made into tokens.
pub struct Asked {
    /// Its number in the file, from 1.
    row: usize,
    text: String,
    target: String,
    content: Content,
    chat: bool,
    /// Where choices end the text: the text with each of them.
    endings: Vec<String>,
}

/// What a row has that metrics compare with.
pub struct Has {
    /// The row's number in its file, from 1.
    pub row: usize,
    pub choices: bool,
    /// Whether more than one of them is right.
    pub several: bool,
    pub references: bool,
    pub target: bool,
    pub answerable: bool,
}

/// A row, ready for the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The row's number in its file, from 1.
    row: usize,
    /// What the model reads: of a prompt that was cut, what is left.
    pub text: String,
    pub ids: Vec<u32>,
    /// What it should answer; any of these is right.
    pub references: Vec<String>,
    /// Whether there is an answer: SQuAD 2 has questions where none is right.
    pub answerable: bool,
    /// The prompt as the target or the choices continue it: white space at its end belongs to them.
    context: Vec<u32>,
    target: Vec<u32>,
    /// The choices, and the number of the right one.
    pub choices: Vec<Choice>,
    pub answer: usize,
    /// Other choices that are right as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    also: Vec<usize>,
    /// Whether the prompt's beginning was cut off to fit the model's context.
    pub cut: bool,
    /// The model's context.
    most: usize,
}

/// One of several answers to choose from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Of a choice that ends the prompt, the row's prompt with it.
    pub text: String,
    /// What is scored of it: the choice, or what follows one that ends the prompt.
    ids: Vec<u32>,
    /// What stands in front of that, where it is not the prompt alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<Vec<u32>>,
}

impl Prompt {
    /// What the row has that metrics compare with.
    pub fn has(&self) -> Has {
        Has {
            row: self.row,
            choices: !self.choices.is_empty(),
            several: !self.also.is_empty(),
            references: !self.references.is_empty(),
            target: !self.choices.is_empty() || !self.target.is_empty(),
            answerable: self.answerable,
        }
    }

    /// The numbers of the right choices.
    pub fn right(&self) -> Vec<usize> {
        [vec![self.answer], self.also.clone()].concat()
    }

    /// The choices as text.
    pub fn choice_texts(&self) -> Vec<&str> {
        self.choices.iter().map(|choice| choice.text.as_str()).collect()
    }

    /// What is to be scored: each text, by its name, with its tokens, and those before it.
    fn scored(&self) -> impl Iterator<Item = (String, &[u32], &[u32])> {
        let target = self.choices.is_empty() && !self.target.is_empty();
        let choices = self.choices.iter().map(|c| {
            let behind = if c.context.is_some() { "what follows " } else { "" };
            (format!("{behind}the choice \"{}\"", shortened(&c.text)), c.ids.as_slice(), self.context_of(c))
        });
        choices.chain(target.then(|| ("the target".to_owned(), self.target.as_slice(), self.context.as_slice())))
    }

    /// What stands in front of what is scored of a choice.
    fn context_of<'a>(&'a self, choice: &'a Choice) -> &'a [u32] {
        choice.context.as_ref().unwrap_or(&self.context)
    }

    /// # Errors
    /// Where the target or a choice cannot be scored: it has no tokens, or more than the context, or there is nothing
    /// before it, or tokens that an embedding of `vocabulary` rows lacks.
    pub fn check_scored(&self, vocabulary: usize) -> Result<()> {
        let row = self.row;
        for (name, ids, context) in self.scored() {
            let (tokens, most) = (ids.len(), self.most);
            ensure!(tokens > 0, "row {row}: {name} has no tokens");
            ensure!(
                tokens <= most,
                "row {row}: {name} has {tokens} tokens to be scored, which leave no room for a prompt in the model's \
                 context of {most}"
            );
            ensure!(
                !context.is_empty(),
                "row {row}: nothing stands before {name}: the prompt is empty or white space, and the model's tokenizer \
                 has no token for a text's beginning or end to stand there"
            );
            within(ids, vocabulary).with_context(|| format!("row {row}: {name}"))?;
            within(context, vocabulary).with_context(|| format!("row {row}: the prompt"))?;
        }
        Ok(())
    }

    /// # Errors
    /// Where there is nothing to answer to, or the prompt has tokens that an embedding of `vocabulary` rows lacks.
    pub fn check_answered(&self, vocabulary: usize) -> Result<()> {
        ensure!(!self.ids.is_empty(), "row {}: the prompt is empty", self.row);
        within(&self.ids, vocabulary).with_context(|| format!("row {}: the prompt", self.row))
    }

    /// What goes through the model to score the target or the choices; None where the row has neither, or they cannot
    /// be scored.
    pub fn passage(&self) -> Option<Passage> {
        let fits = |ids: &[u32]| (1..=self.most).contains(&ids.len());
        if !self.scored().all(|(_, ids, context)| fits(ids) && !context.is_empty()) {
            return None;
        }
        if self.choices.is_empty() {
            let target = (!self.target.is_empty()).then_some(&self.target)?;
            return Some(Passage::continued(&self.context, target, self.most));
        }
        if self.choices.iter().any(|choice| choice.context.is_some()) {
            let pairs: Vec<_> = self.choices.iter().map(|c| (self.context_of(c), c.ids.as_slice())).collect();
            return Some(Passage::pairs(&pairs, self.answer, self.most));
        }
        let choices: Vec<&[u32]> = self.choices.iter().map(|c| c.ids.as_slice()).collect();
        Some(Passage::choices(&self.context, &choices, self.answer, self.most))
    }
}

impl Asked {
    /// What the row has that metrics compare with.
    pub fn has(&self) -> Has {
        let choices = matches!(self.content, Content::Choice { .. });
        Has {
            row: self.row,
            choices,
            several: matches!(&self.content, Content::Choice { also, .. } if !also.is_empty()),
            references: choices || !self.references().is_empty(),
            target: choices || !self.target.is_empty(),
            answerable: self.answerable(),
        }
    }

    /// Whether only its tokens tell if it can be scored or answered in a context of so many.
    pub fn is_doubtful(&self, context: usize) -> bool {
        // No token is shorter than a byte, but for one that may be put in front.
        let doubtful = |text: &String| text.trim().is_empty() || text.len() + 1 >= context;
        self.text.trim().is_empty() || self.continuations().iter().any(doubtful)
    }

    /// The most tokens that a sequence of it may have.
    pub fn most_tokens(&self) -> usize {
        let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
        self.text.len().max(longest(&self.endings)) + longest(self.continuations()) + 2
    }

    /// What is scored behind the text.
    fn continuations(&self) -> &[String] {
        match &self.content {
            Content::Choice { continuation: Some(continuation), .. } => std::slice::from_ref(continuation),
            Content::Choice { choices, .. } => choices,
            _ => std::slice::from_ref(&self.target),
        }
    }

    fn answerable(&self) -> bool {
        !matches!(self.content, Content::Text { answerable: false, .. })
    }

    /// What is right to answer, where it is no choice.
    fn references(&self) -> Vec<String> {
        match &self.content {
            // SQuAD 2: nothing is right but to say nothing.
            Content::Text { answerable: false, .. } => vec![String::new()],
            Content::Text { references, .. } if !references.is_empty() => references.clone(),
            _ => vec![self.target.trim().to_owned()].into_iter().filter(|t| !t.is_empty()).collect(),
        }
    }
}

/// Reads rows as prompts: all that a suite asks, and all that its solved examples could be drawn from. `shots` are the
/// rows that they are drawn from.
///
/// # Errors
/// Where a row cannot be read as a prompt, or there are too few rows to draw from.
pub fn asked(
    (rows, part): (&Rows, &Part),
    (shots, shots_part): (&Rows, &Part),
    tokenizer: &Tokenizer,
    how: &Prompting,
) -> Result<Vec<Asked>> {
    let count = how.limit.unwrap_or(rows.len()).min(rows.len());
    let contents = contents(rows, count, part)?;
    let shots = match how.shots {
        0 => Shots::none(),
        _ => Shots::of(shots, shots_part)?,
    };
    tell_ambiguous(&contents, rows, part);
    let about = about(rows, count, part, shots.alike())?;
    let prompter = Prompter { tokenizer, separator: &part.separator };
    let may_fail = tokenizer.may_fail();
    let read = |i: usize, content: Content| -> Result<Asked> {
        let mut rng = ChaCha8Rng::seed_from_u64(how.seed.wrapping_add(i as u64));
        let About { preamble, group } = &about[i];
        let examples = shots.before(&content, group, how.shots, &mut rng)?;
        let chat = how.chat || matches!(content, Content::Chat(_));
        let asks = |content: &Content| match chat {
            true => prompter.chat(preamble, content, &examples),
            false => prompter.plain(preamble, content, &examples),
        };
        let (mut endings, begun) = (vec![], content.endings());
        let (text, target) = match (&content, begun) {
            (Content::Choice { prompt, .. }, Some((prompts, _))) => {
                let ended = prompts.into_iter().map(|prompt| Ok(asks(&Content::alone(prompt))?.0));
                endings = ended.collect::<Result<_>>()?;
                asks(&Content::alone(prompt.clone()))?
            }
            (content, _) => asks(content)?,
        };
        let asked = Asked { row: rows.number(i), text, target, content, chat, endings };
        if may_fail {
            let texts = std::iter::once(&asked.text).chain(&asked.endings).chain(asked.continuations());
            texts.map(|text| tokenizer.encode(text, false)).try_for_each(|ids| ids.map(|_| ()))?;
        }
        Ok(asked)
    };
    each(contents.into_par_iter().enumerate().map(|(i, content)| (i, read(i, content))), rows)
}

/// A warning where answers could mean two choices.
fn tell_ambiguous(contents: &[Content], rows: &Rows, part: &Part) {
    let mut ambiguous = contents.iter().enumerate().filter_map(|(i, content)| match content {
        Content::Choice { choices, answer, other: Some(other), .. } => Some((i, &choices[*answer], &choices[*other])),
        _ => None,
    });
    let Some((i, read, other)) = ambiguous.next() else { return };
    let more = match ambiguous.count() {
        0 => String::new(),
        more => format!(" (and {more} more rows)"),
    };
    tracing::warn!(
        "{}: the answer of row {}{more} is the place of one choice and the text of another; it is read as \"{}\", as \
         lm-evaluation-harness reads it, not as \"{}\"; labels would tell them apart: {{\"text\": […], \"label\": […]}}",
        part.source(),
        rows.number(i),
        shortened(read),
        shortened(other)
    );
}

/// What the first rows of a file say.
pub fn contents(rows: &Rows, count: usize, part: &Part) -> Result<Vec<Content>> {
    each(contents_of(rows, count.min(rows.len()), part), rows)
}

/// Whether a row has an answer to show.
pub(super) fn is_answered(content: &Content) -> Result<bool> {
    match content {
        Content::Chat(_) => Ok(!turns(content)?.1.is_empty()),
        content => Ok(!content.parts()?.1.is_empty()),
    }
}

/// Makes prompts of rows that were read.
///
/// # Errors
/// Where the tokenizer fails. Whether the model can score or answer them, [`Prompt::check_scored`] and
/// [`Prompt::check_answered`] say.
pub fn prompts(asked: Vec<Asked>, tokenizer: &Tokenizer, how: &Prompting) -> Result<Vec<Prompt>> {
    let numbers: Vec<usize> = asked.iter().map(|a| a.row).collect();
    let made: Vec<Result<Prompt>> = asked.into_par_iter().map(|asked| prompt(asked, tokenizer, how)).collect();
    made.into_iter().zip(numbers).map(|(made, row)| made.with_context(|| format!("row {row}"))).collect()
}

fn prompt(asked: Asked, tokenizer: &Tokenizer, how: &Prompting) -> Result<Prompt> {
    let divider = Divider { tokenizer, chat: asked.chat };
    let (references, answerable) = (asked.references(), asked.answerable());
    let Asked { row, text, target, content, chat, endings } = asked;
    let ended = content.endings().map(|(prompts, continuation)| (prompts, continuation.to_owned()));
    // As the harness's `construct_requests` has it: turns of a conversation are not delimited.
    let delimiter = match &content {
        Content::Choice { delimiter, .. } if !chat => delimiter.clone(),
        _ => String::new(),
    };
    // In a conversation, too, all of it is scored: what other metrics are taken of is what the turn says.
    let target = match &content {
        Content::Text { target, .. } if how.as_choices => target.clone(),
        _ => target,
    };
    let mut ids = divider.encode(&text)?;
    let (references, choices, answer, also) = match content {
        Content::Choice { choices, answer, also, .. } => {
            let right = std::iter::once(&answer).chain(&also).map(|&right| choices[right].clone()).collect();
            (right, choices, answer, also)
        }
        _ => (references, vec![], 0, vec![]),
    };
    let mut context = ids.clone();
    let mut continued = Vec::new();
    match ended {
        Some((prompts, continuation)) => {
            for (ending, text) in endings.iter().zip(prompts) {
                let (before, after) = divider.continuation(ending, &format!("{delimiter}{continuation}"))?;
                continued.push(Choice { text, ids: after, context: Some(before) });
            }
        }
        None => {
            for choice in &choices {
                let (before, after) = divider.continuation(&text, &format!("{delimiter}{choice}"))?;
                context = before;
                continued.push(Choice { text: choice.clone(), ids: after, context: None });
            }
        }
    }
    let mut target_ids = Vec::new();
    if choices.is_empty() && !target.is_empty() {
        (context, target_ids) = match how.as_choices {
            true => divider.continuation(&text, &target)?,
            false => divider.target(&text, &target, &ids)?,
        };
    }

    let lengths: Vec<usize> =
        continued.iter().map(|c| c.ids.len()).chain((!target_ids.is_empty()).then_some(target_ids.len())).collect();
    let room = |length: usize| (how.context + 1).saturating_sub(length).min(how.context);
    let mut cut = lengths.iter().max().is_some_and(|&longest| context.len() > room(longest));
    keep_end(&mut context, lengths.iter().min().map_or(how.context, |&least| room(least)));
    for Choice { ids, context, .. } in &mut continued {
        cut |= context.as_mut().is_some_and(|context| keep_end(context, room(ids.len())));
    }
    cut |= keep_end(&mut ids, how.context.saturating_sub(how.new_tokens).max(1));
    // People are shown what the model reads.
    let read = if how.new_tokens > 0 || context.is_empty() { &ids } else { &context };
    let text = if cut { tokenizer.decode_with_special(read)? } else { text };
    let most = how.context;
    Ok(Prompt {
        row,
        text,
        ids,
        references,
        answerable,
        context,
        target: target_ids,
        choices: continued,
        answer,
        also,
        cut,
        most,
    })
}

struct Prompter<'a> {
    tokenizer: &'a Tokenizer,
    separator: &'a str,
}

impl Prompter<'_> {
    /// Examples and prompt one after the other, and the target.
    fn plain(&self, preamble: &str, content: &Content, examples: &[&Content]) -> Result<(String, String)> {
        let mut text = preamble.to_owned();
        for example in examples {
            let (prompt, target) = example.parts()?;
            text += &format!("{prompt}{target}{}", self.separator);
        }
        let (prompt, target) = content.parts()?;
        Ok((text + &prompt, target))
    }

    /// Examples as earlier turns of a conversation, and the prompt as its last.
    fn chat(&self, preamble: &str, content: &Content, examples: &[&Content]) -> Result<(String, String)> {
        // Tools and the like are those of the row that is asked, not of its examples.
        let mut chat = match content {
            Content::Chat(own) => Conversation { messages: vec![], ..own.clone() },
            _ => Conversation::default(),
        };
        if !preamble.is_empty() {
            chat.messages.push(json!({"role": "system", "content": preamble}));
        }
        for example in examples {
            let (prompt, target) = turns(example)?;
            chat.messages.extend(prompt);
            chat.messages.push(json!({"role": "assistant", "content": target}));
        }
        let (prompt, target) = turns(content)?;
        chat.messages.extend(prompt);
        Ok((self.tokenizer.chat(&chat, true)?, target))
    }
}

/// The turns of a conversation up to the answer, and the answer.
pub fn turns(content: &Content) -> Result<(Vec<Value>, String)> {
    let Content::Chat(chat) = content else {
        let (prompt, target) = content.parts()?;
        // A choice stands in a conversation as it is scored there.
        let answer = match content {
            Content::Choice { choices, answer, continuation: None, .. } => choices[*answer].clone(),
            Content::Choice { continuation: Some(continuation), .. } => continuation.clone(),
            _ => target.trim().to_owned(),
        };
        return Ok((vec![json!({"role": "user", "content": prompt})], answer));
    };
    let mut messages = chat.messages.clone();
    let last = messages.pop().context("`messages` is empty")?;
    if last["role"] != "assistant" {
        messages.push(last);
        return Ok((messages, String::new()));
    }
    ensure!(!messages.is_empty(), "`messages` has nothing before the assistant's answer");
    let answer = last["content"].as_str().with_context(|| {
        let has = match &last["content"] {
            Value::Null => "no content",
            _ => "content that is no text",
        };
        format!("the assistant's last message, which is the right answer, has {has}; expected `content` with a text")
    });
    Ok((messages, answer?.to_owned()))
}

/// Cuts off the beginning of what is longer than `most`; whether it was.
fn keep_end(ids: &mut Vec<u32>, most: usize) -> bool {
    let over = ids.len().saturating_sub(most);
    ids.drain(..over);
    over > 0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Dataset, Row};
    use super::*;
    use crate::model::ModelFiles;

    fn rows(rows: &[Value]) -> Rows {
        rows.iter().map(|row| row.as_object().unwrap().clone()).collect::<Vec<Row>>().try_into().unwrap()
    }

    /// Every request of lm-evaluation-harness for rows of its tasks (tests/scripts/tasks.py): what stands in front, what is
    /// scored behind it, and which is right.
    #[test]
    fn the_harness_asks_the_same_of_the_same_rows() {
        let tasks: Vec<Value> = serde_json::from_str(include_str!("../../tests/fixtures/tasks.json")).unwrap();
        let tokenizer = ModelFiles::at(Path::new("tests/fixtures/harness/bos")).unwrap().tokenizer().unwrap();
        for task in &tasks {
            let name = task["task"].as_str().unwrap();
            let name = if name.starts_with("mmlu") { "mmlu" } else { name };
            let dataset: Dataset = match task.get("template") {
                Some(own) => {
                    let mut of_file = Dataset::of_file("path:rows.jsonl".parse().unwrap(), vec![]);
                    of_file.template = Some(serde_json::from_value(own.clone()).unwrap());
                    of_file
                }
                None => toml::from_str(crate::bundled::dataset(name).unwrap()).unwrap(),
            };
            let (part, shown) = (dataset.part(None, "test").unwrap(), dataset.shots(None, None).unwrap());
            let own = task["shots"].as_array().unwrap();
            // Those of another subject are none of them, wherever they stand.
            let mut shots = own.clone();
            if let Some(first) = own.first() {
                let mut other = first.clone();
                other["subject"] = "anatomy".into();
                shots.insert(0, other);
            }
            let how = Prompting {
                limit: None,
                shots: own.len(),
                seed: 0,
                chat: false,
                context: 1 << 20,
                new_tokens: 0,
                as_choices: true,
            };
            let shots = if own.is_empty() { Rows::default() } else { rows(&shots) };
            let all = rows(task["rows"].as_array().unwrap());
            let asked = asked((&all, &part), (&shots, &shown), &tokenizer, &how).unwrap();
            let theirs = task["asked"].as_array().unwrap();
            assert_eq!(asked.len(), theirs.len());
            for (asked, theirs) in asked.iter().zip(theirs) {
                let (pairs, right): (Vec<[String; 2]>, Value) = match &asked.content {
                    Content::Choice { choices, answer, also, delimiter, .. } => {
                        let behind = |text: &String, then: &str| [text.clone(), format!("{delimiter}{then}")];
                        let pairs = match asked.content.endings() {
                            Some((_, then)) => asked.endings.iter().map(|text| behind(text, then)).collect(),
                            None => choices.iter().map(|choice| behind(&asked.text, choice)).collect(),
                        };
                        let right = if theirs["gold"].is_array() {
                            json!([&[*answer], &also[..]].concat())
                        } else {
                            json!(answer)
                        };
                        (pairs, right)
                    }
                    _ => (vec![[asked.text.clone(), asked.target.clone()]], Value::Null),
                };
                assert_eq!(serde_json::to_value(&pairs).unwrap(), theirs["requests"], "{name}");
                assert_eq!(theirs["gold"], right, "{name}");
            }
            assert!(prompts(asked, &tokenizer, &how).unwrap().iter().all(|prompt| prompt.passage().is_some()));
        }
    }
}
