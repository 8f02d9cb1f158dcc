//! Rows of the usual shapes, which need no template: texts, pairs, instructions, questions, conversations.
//!
//! A field that is there decides the shape, also where it is null: then the row is refused, not read as another.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::answer::{Answer, Chosen, chosen};
use super::row::DELIMITER;
use super::value::{called, has_unheld, is_unheld, shortened, text};
use super::{Content, Row};
use crate::model::Conversation;

/// Fields that hold a conversation, as TRL and most of the Hub's data sets name them.
const CONVERSATIONS: [&str; 3] = ["messages", "conversations", "conversation"];

/// The prompt that Alpaca was trained with (Taori et al. 2023), with and without an input.
fn alpaca(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\
             \n\n### Instruction:\n{instruction}\n\n### Response:\n"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. \
         Write a response that appropriately completes the request.\
         \n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    )
}

/// The shape of a row, by the fields that it has.
enum Usual {
    Tokens,
    Conversation(&'static str),
    PromptOfTurns,
    Instruction,
    Question(&'static str),
    Pair,
    Text,
}

fn usual(row: &Row) -> Option<Usual> {
    let has = |name: &str| row.contains_key(name);
    let turns = |name: &str| row.get(name).is_some_and(Value::is_array);
    let conversations = || CONVERSATIONS.into_iter().filter(|name| has(name));
    // Where a table has columns for two names, a row has one of them.
    let conversation = conversations().find(|name| !row[*name].is_null()).or(conversations().next());
    let answer = ["answer", "answerKey"].into_iter().filter(|name| has(name));
    let answer = answer.clone().find(|name| !row[*name].is_null()).or(answer.clone().next());
    Some(match (conversation, answer) {
        _ if has("input_ids") => Usual::Tokens,
        (Some(name), _) => Usual::Conversation(name),
        _ if turns("prompt") && (!has("completion") || turns("completion")) && !has("chosen") => Usual::PromptOfTurns,
        _ if has("instruction") && has("output") => Usual::Instruction,
        (_, Some(answer)) if has("question") && has("choices") => Usual::Question(answer),
        _ if has("prompt") && has("completion") => Usual::Pair,
        _ if has("text") => Usual::Text,
        _ => return None,
    })
}

/// A row has no usual shape; why.
#[derive(Debug)]
pub struct Unusual(String);

impl std::fmt::Display for Unusual {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusual {}

/// Whether a row has the fields of a usual shape.
pub fn is_usual(row: &Row) -> bool {
    usual(row).is_some()
}

/// What a row of a usual shape says.
pub fn content(row: &Row) -> Result<Content> {
    let field = |name: &str| text_of(row, name);
    let pair = |prompt: String, target: String| Content::Text { prompt, target, references: vec![], answerable: true };
    let Some(usual) = usual(row) else { return Err(Unusual(unusual(row)).into()) };
    Ok(match usual {
        Usual::Tokens => Content::Tokens(tokens(row)?),
        Usual::Conversation(name) => {
            let turns = conversation(&row[name], name)?;
            // LLaMA-Factory's form of ShareGPT, in which the field counts; TRL passes over it beside `messages`.
            let apart = row.get("system").and_then(Value::as_str).filter(|system| !system.trim().is_empty());
            if apart.is_some() && row[name][0].get("from").is_some() && turns[0]["role"] != "system" {
                bail!(
                    "`system` stands beside `{name}`: make it the first turn, {{\"from\": \"system\", \"value\": …}}"
                );
            }
            Content::Chat(Conversation::of(&turns, row)?)
        }
        Usual::PromptOfTurns => {
            let mut turns = conversation(&row["prompt"], "prompt")?;
            if let (Some(all), Some(answer)) = (turns.as_array_mut(), row.get("completion")) {
                all.extend(conversation(answer, "completion")?.as_array().cloned().unwrap_or_default());
            }
            Content::Chat(Conversation::of(&turns, row)?)
        }
        Usual::Instruction => {
            // LLaMA-Factory's Alpaca has these, too; the prompt that Alpaca was trained with has no place for them.
            let is_there = |name: &&str| match row.get(*name) {
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::String(text)) => *name == "system" && !text.trim().is_empty(),
                _ => false,
            };
            if let Some(name) = ["history", "system"].iter().find(|name| is_there(name)) {
                bail!(
                    "`{name}` stands beside `instruction`, and Alpaca's prompt has no place for it: write the row as \
                     `messages`, or give the data set a template"
                );
            }
            // Alpaca's rows have an input of "", tables without one null.
            let input = match row.get("input") {
                None | Some(Value::Null) => String::new(),
                Some(_) => field("input")?,
            };
            pair(alpaca(&field("instruction")?, &input), field("output")?)
        }
        Usual::Question(answer) => {
            let question = field("question")?;
            let chosen = chosen(&row["choices"], &Answer::Field(answer, &row[answer]))?;
            let Chosen { texts: choices, right: answer, also, other } = chosen;
            let prompt = format!("Question: {question}\nAnswer:");
            Content::Choice {
                prompt,
                choices,
                answer,
                also,
                other,
                continuation: None,
                delimiter: DELIMITER.to_owned(),
            }
        }
        Usual::Pair => pair(field("prompt")?, field("completion")?),
        Usual::Text => pair(field("text")?, String::new()),
    })
}

/// A field that has to be a text.
fn text_of(row: &Row, name: &str) -> Result<String> {
    let value = row.get(name).with_context(|| format!("there is no `{name}`"))?;
    text(value).with_context(|| format!("`{name}` is {} where a text is expected", called(value)))
}

/// Token ids, without the padding that an `attention_mask` tells of. Where transformers would make something else of
/// the lists that stand beside them, the row is refused.
fn tokens(row: &Row) -> Result<Vec<u32>> {
    let ids = ids(&row["input_ids"])?;
    let beside = |name: &str| -> Result<Option<&Vec<Value>>> {
        let Some(value) = row.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let list = value.as_array();
        let list = list.with_context(|| format!("`{name}` is {}, no list of a value a token", called(value)))?;
        ensure!(list.len() == ids.len(), "`{name}` has {} values for {} `input_ids`", list.len(), ids.len());
        Ok(Some(list))
    };
    let kept = beside("attention_mask")?.map_or(Ok(0..ids.len()), |mask| unmasked(mask))?;
    if let Some(labels) = beside("labels")?
        && let Some(i) = kept.clone().find(|&i| labels[i].as_u64() != Some(ids[i].into()))
    {
        bail!(
            "`labels` has {} in place {}, where `input_ids` has {}; calipr counts every token of such a row: take \
             `labels` out where that is meant, or write the row as `prompt` and `completion`",
            called(&labels[i]),
            i + 1,
            ids[i]
        );
    }
    if let Some(positions) = beside("position_ids")?
        && let Some(i) =
            kept.clone().skip(1).find(|&i| positions[i].as_u64() != positions[i - 1].as_u64().map(|p| p + 1))
    {
        bail!(
            "`position_ids` has {} in place {}, which does not follow the one before: write a row for each of the texts",
            called(&positions[i]),
            i + 1
        );
    }
    Ok(ids[kept].to_vec())
}

/// The places that a mask leaves: all but padding at both ends.
fn unmasked(mask: &[Value]) -> Result<std::ops::Range<usize>> {
    let counts = |(i, value): (usize, &Value)| match value {
        Value::Bool(counts) => Ok(*counts),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        other => bail!("`attention_mask` has {} in place {}; expected 0 or 1", called(other), i + 1),
    };
    let counts: Vec<bool> = mask.iter().enumerate().map(counts).collect::<Result<_>>()?;
    let Some(start) = counts.iter().position(|&counts| counts) else { return Ok(0..0) };
    let end = counts.iter().rposition(|&counts| counts).map_or(start, |last| last + 1);
    if let Some(hole) = counts[start..end].iter().position(|&counts| !counts) {
        bail!(
            "`attention_mask` has 0 in place {}, between tokens that count; calipr attends to all tokens: leave these \
             out of `input_ids`, or write a row for each of the texts",
            start + hole + 1
        );
    }
    Ok(start..end)
}

fn ids(value: &Value) -> Result<Vec<u32>> {
    let list = value.as_array().with_context(|| format!("`input_ids` is {}, no list of token ids", called(value)))?;
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("`input_ids` has {} in place {}, which is no token id", called(value), i + 1))
    };
    list.iter().enumerate().map(id).collect()
}

/// A conversation as chat templates read it: a list of turns with `role` and `content`. ShareGPT's turns have `from` and
/// `value`.
fn conversation(value: &Value, name: &str) -> Result<Value> {
    let expected = "a list of turns is expected: [{\"role\": \"user\", \"content\": …}, …]";
    if let Value::String(text) = value {
        let is_json = is_unheld(value).is_none() && serde_json::from_str::<Value>(text).is_ok_and(|v| !v.is_number());
        let remedy = if is_json { "; it is JSON inside of a text: write the list itself" } else { "" };
        bail!("`{name}` is {}, a text, where {expected}{remedy}", called(value));
    }
    let list = value.as_array().with_context(|| format!("`{name}` is {} where {expected}", called(value)))?;
    ensure!(!list.is_empty(), "`{name}` is an empty list, a conversation without turns");
    let turns =
        list.iter().enumerate().map(|(i, value)| turn(value).with_context(|| format!("turn {} of `{name}`", i + 1)));
    turns.collect::<Result<_>>().map(Value::Array)
}

fn turn(value: &Value) -> Result<Value> {
    let Value::Object(turn) = value else {
        let remedy = match value.as_str() {
            Some(text) if serde_json::from_str::<Row>(text).is_ok() => {
                "; it is JSON inside of a text: write the object itself"
            }
            Some(_) => "; who says it?",
            None => "",
        };
        bail!("it is {} where an object with `role` and `content` is expected{remedy}", called(value));
    };
    if let Some(what) = has_unheld(value) {
        bail!("it has {what} in it, which no chat template prints as it is");
    }
    match (turn.get("role"), turn.get("from"), turn.contains_key("value")) {
        (Some(Value::String(_)), ..) => Ok(value.clone()),
        (Some(Value::Null) | None, Some(from), true) => {
            let role = match from.as_str() {
                Some("human" | "user") => "user",
                Some("gpt" | "assistant") => "assistant",
                Some("system") => "system",
                Some("tool") => "tool",
                _ => bail!(
                    "`from` is {}; of ShareGPT's speakers calipr knows human, gpt, user, assistant, system and tool",
                    called(from)
                ),
            };
            let mut turn = turn.clone();
            turn.shift_remove("from");
            let content = turn.shift_remove("value").unwrap_or_default();
            turn.insert("role".into(), json!(role));
            turn.insert("content".into(), content);
            Ok(Value::Object(turn))
        }
        (Some(role), ..) => bail!("`role` is {} where a text is expected", called(role)),
        (None, ..) => bail!(
            "it is {}; expected `role` and `content`, or ShareGPT's `from` and `value`; rename its fields, or give the \
             data set a template",
            called(value)
        ),
    }
}

/// Whether a value is a list of turns, whatever it is called.
pub fn is_conversation(value: &Value) -> bool {
    let is_turn = |turn: &Value| {
        let pairs = [("role", "content"), ("from", "value")];
        pairs.iter().any(|(who, what)| turn.get(who).is_some() && turn.get(what).is_some())
    };
    value.as_array().is_some_and(|turns| !turns.is_empty() && turns.iter().all(is_turn))
}

/// Why a row has no usual shape.
fn unusual(row: &Row) -> String {
    let known = "text, prompt + completion, instruction + input + output, messages (or conversations), question + \
                 choices + answer, or input_ids";
    let fields: Vec<String> = row.keys().take(40).map(|k| format!("`{}`", shortened(k))).collect();
    let fields =
        if fields.is_empty() { "without fields".into() } else { format!("with the fields {}", fields.join(", ")) };
    let has = |names: &[&str]| names.iter().all(|name| row.contains_key(*name));
    let named = |name: &str| ["dialog", "chat", "conversation", "turns", "utterances"].iter().any(|n| name.contains(n));
    let talk = row.iter().find(|(name, value)| named(name) && value.as_array().is_some_and(|list| !list.is_empty()));
    let remedy = match row.iter().find(|(_, value)| is_conversation(value)).or(talk) {
        Some((name, value)) if !is_conversation(value) => {
            format!("; `{name}` is a list of {}: a conversation has turns with `role` and `content`", called(&value[0]))
        }
        Some((name, _)) if has(&["chosen"]) => {
            format!(
                "; `{name}` is a conversation, and the row one of preferences: write the one that counts as `messages`"
            )
        }
        Some((name, _)) => format!("; `{name}` is a conversation: rename it to `messages`"),
        None if has(&["chosen", "rejected"]) => {
            "; it is one of preferences: write the one that counts as `completion`, or as `messages`".into()
        }
        None if has(&["question", "choices"]) => "; it has no `answer`".into(),
        None if has(&["question", "answers"]) => {
            "; the template's `references` names the field of right answers".into()
        }
        None if has(&["question", "answer"]) => {
            "; `calipr init FILE` writes a template, from the names of the fields".into()
        }
        None if has(&["instruction"]) => "; it has no `output`".into(),
        None if has(&["prompt"]) => "; it has no `completion`".into(),
        None => String::new(),
    };
    format!("a row {fields} needs a template; without one calipr reads {known}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(row: Value) -> Result<Content> {
        content(row.as_object().unwrap())
    }

    fn text(prompt: &str, target: &str) -> Content {
        Content::Text { prompt: prompt.into(), target: target.into(), references: vec![], answerable: true }
    }

    fn chat(messages: &Value) -> Conversation {
        Conversation { messages: messages.as_array().unwrap().clone(), ..Conversation::default() }
    }

    #[test]
    fn the_usual_shapes_need_no_template() {
        assert_eq!(of(json!({"id": 3, "text": "plain"})).unwrap(), text("plain", ""));
        assert_eq!(of(json!({"prompt": "a", "completion": "b"})).unwrap(), text("a", "b"));
        assert_eq!(of(json!({"input_ids": [1, 2]})).unwrap(), Content::Tokens(vec![1, 2]));
        let messages = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(of(json!({"messages": messages})).unwrap(), Content::Chat(chat(&messages)));
        let Content::Text { prompt, target, .. } =
            of(json!({"instruction": "Do", "input": "x", "output": "y"})).unwrap()
        else {
            panic!()
        };
        assert!(prompt.contains("### Input:\nx\n\n### Response:\n") && target == "y");
        for row in [json!({"input": ""}), json!({"input": null}), json!({})] {
            let mut row = row;
            row.as_object_mut()
                .unwrap()
                .extend(json!({"instruction": "Do", "output": "y"}).as_object().unwrap().clone());
            let Content::Text { prompt, .. } = of(row).unwrap() else { panic!() };
            assert!(!prompt.contains("Input"));
        }
    }

    #[test]
    fn braces_in_an_instruction_are_text() {
        let row = json!({"instruction": "What does {input} print?", "input": "x", "output": "y"});
        let Content::Text { prompt, .. } = of(row).unwrap() else { panic!() };
        assert!(prompt.contains("What does {input} print?") && prompt.contains("### Input:\nx\n"), "{prompt}");
    }

    #[test]
    fn conversations_are_read_under_their_names_and_sharegpts_speakers_are_roles() {
        let turns = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"},
                           {"role": "assistant", "content": "yo"}]);
        let sharegpt = json!([{"from": "system", "value": "s"}, {"from": "human", "value": "hi"},
                              {"from": "gpt", "value": "yo"}]);
        for row in [
            json!({"messages": turns}),
            json!({"conversations": turns, "messages": null}),
            json!({"conversation": turns}),
            json!({"messages": sharegpt}),
            json!({"conversations": sharegpt, "id": "a_0"}),
            json!({"prompt": [turns[0], turns[1]], "completion": [turns[2]]}),
        ] {
            assert_eq!(of(row.clone()).unwrap(), Content::Chat(chat(&turns)), "{row}");
        }
    }

    #[test]
    fn padding_around_token_ids_is_cut_off_by_the_mask() {
        for (row, ids) in [
            (json!({"input_ids": [9, 9, 1, 2], "attention_mask": [0, 0, 1, 1]}), vec![1, 2]),
            (
                json!({"input_ids": [1, 2, 0, 0], "attention_mask": [1, 1, 0, 0], "labels": [1, 2, -100, -100]}),
                vec![1, 2],
            ),
            (json!({"input_ids": [0, 1, 2, 0], "attention_mask": [false, true, true, false]}), vec![1, 2]),
            (json!({"input_ids": [3, 1, 2], "attention_mask": [0, 1, 1], "position_ids": [1, 0, 1]}), vec![1, 2]),
            (json!({"input_ids": [1, 2], "attention_mask": null, "labels": null}), vec![1, 2]),
            (json!({"input_ids": [1, 2], "labels": [1, 2], "token_type_ids": [0, 0]}), vec![1, 2]),
            (json!({"input_ids": [1, 2], "attention_mask": [0, 0]}), vec![]),
        ] {
            assert_eq!(of(row.clone()).unwrap(), Content::Tokens(ids), "{row}");
        }
        for (row, says) in [
            (json!({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}), "`attention_mask` has 0 in place 2"),
            (json!({"input_ids": [1, 2, 3], "attention_mask": [1, 1]}), "has 2 values for 3 `input_ids`"),
            (
                json!({"input_ids": [1, 2], "attention_mask": [1, 2]}),
                "`attention_mask` has 2 in place 2; expected 0 or 1",
            ),
            (json!({"input_ids": [1, 2], "attention_mask": [[1, 0], [1, 1]]}), "has a list in place 1"),
            (json!({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}), "`labels` has -100 in place 1"),
            (json!({"input_ids": [1, 2, 3], "labels": [1, 2, 4]}), "`labels` has 4 in place 3"),
            (json!({"input_ids": [1, 2, 3], "labels": 1}), "`labels` is 1, no list of a value a token"),
            (json!({"input_ids": [1, 2, 3], "position_ids": [0, 1, 0]}), "`position_ids` has 0 in place 3"),
        ] {
            let error = format!("{:#}", of(row.clone()).unwrap_err());
            assert!(error.contains(says), "{row}: {error}");
        }
    }

    #[test]
    fn what_alpacas_prompt_has_no_place_for_is_named() {
        let row = |more: Value| {
            let mut row = json!({"instruction": "Do", "input": "", "output": "y"});
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of(row)
        };
        for more in [json!({"history": [["a", "b"]]}), json!({"system": "Be brief."})] {
            let error = row(more.clone()).unwrap_err().to_string();
            assert!(error.contains("stands beside `instruction`"), "{more}: {error}");
        }
        for more in [json!({"history": [], "system": ""}), json!({"history": null}), json!({"history": "of Rome"})] {
            row(more).unwrap();
        }
    }

    #[test]
    fn what_has_no_usual_shape_is_named_by_what_it_is() {
        let turn = json!({"role": "user", "content": "hi"});
        for (row, says) in [
            (json!({"text": null}), "`text` is null where a text"),
            (json!({"text": true}), "`text` is true where"),
            (json!({"text": ["a"]}), "`text` is a list where"),
            (json!({"text": {"en": "a"}}), "`text` is an object with `en` where"),
            (json!({"text": super::super::value::number(f64::NAN)}), "`text` is NaN where"),
            (json!({"prompt": "x", "completion": null, "text": "y"}), "`completion` is null"),
            (json!({"prompt": null, "completion": "x"}), "`prompt` is null"),
            (json!({"instruction": "x", "input": "", "output": null}), "`output` is null"),
            (json!({"instruction": "x", "input": 7.5, "output": {}}), "`output` is an object with nothing in it"),
            (json!({"messages": null}), "`messages` is null where a list of turns"),
            (json!({"messages": null, "conversations": null}), "`messages` is null"),
            (json!({"messages": []}), "`messages` is an empty list"),
            (json!({"messages": {"role": "user"}}), "`messages` is an object with `role`"),
            (json!({"messages": "hello"}), "`messages` is \"hello\", a text"),
            (json!({"messages": json!([turn]).to_string()}), "JSON inside of a text"),
            (json!({"messages": [turn, turn.to_string()]}), "turn 2 of `messages`: it is"),
            (json!({"conversations": ["hi", "yo"]}), "turn 1 of `conversations`: it is \"hi\""),
            (json!({"messages": [{"speaker": "a", "text": "b"}]}), "an object with `speaker`, `text`; expected `role`"),
            (json!({"conversations": [{"from": "bing", "value": "b"}]}), "`from` is \"bing\""),
            (json!({"conversations": [{"role": 1, "content": "b"}]}), "`role` is 1"),
            (json!({"conversations": [{"from": "human", "value": "b"}], "system": "s"}), "`system` stands beside"),
            (json!({"question": "a", "choices": ["b", "c"]}), "it has no `answer`"),
            (json!({"prompt": "a", "chosen": "b"}), "it has no `completion`"),
            (
                json!({"dialog": [{"speaker": "a"}]}),
                "`dialog` is a list of an object with `speaker`: a conversation has",
            ),
            (json!({"dialogue": [turn]}), "`dialogue` is a conversation: rename it to `messages`"),
            (json!({"chosen": [turn], "rejected": [turn]}), "one of preferences"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), "one of preferences"),
            (json!({"input_ids": [1, -2]}), "`input_ids` has -2 in place 2"),
            (json!({"input_ids": [[1, 2]]}), "`input_ids` has a list in place 1"),
            (json!({"input_ids": [1.0]}), "`input_ids` has 1.0 in place 1"),
            (json!({"input_ids": "1 2"}), "`input_ids` is \"1 2\", no list"),
            (json!({"title": "x", "body": null}), "`title`, `body` needs a template"),
            (json!({"id": 1, "question": "x", "answer": "y"}), "`calipr init FILE` writes a template"),
            (json!({}), "a row without fields needs a template"),
        ] {
            let error = format!("{:#}", of(row.clone()).unwrap_err());
            assert!(error.contains(says), "{row}: {error}");
        }
    }
}
