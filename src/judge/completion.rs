//! What OpenAI-compatible servers answer: a completion, or why there is none, in each of the ways that they write it.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use serde_json::Value;

use super::reply::short;

/// What the server said to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// None where it has no text, or the model refuses: then why.
    pub text: Result<String, String>,
    /// Whether the text was cut at the bound.
    pub cut: bool,
    /// None where the server does not count them.
    pub tokens: Option<u64>,
}

/// An answer whose status is one of success.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Said(Said),
    /// An error all the same, as OpenRouter and LM Studio send it; with the status that it should have had, where it says so.
    Failed(Option<u16>, Words),
    /// Nothing that a chat completion is.
    Strange,
}

/// A server's words for an error.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Words {
    /// For people.
    pub short: String,
    /// All that it says, in lower case, but for what it repeats of the question.
    pub all: String,
}

/// The text of an answer, unpacked where a server packs what it was not asked to. What is no UTF-8 is a page for people.
pub fn text(bytes: &[u8], most: u64) -> io::Result<String> {
    let mut unpacked = Vec::new();
    let bytes = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => {
            GzDecoder::new(bytes).take(most).read_to_end(&mut unpacked)?;
            &unpacked
        }
        false => bytes,
    };
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Reads an answer whose status is one of success.
pub fn read(text: &str) -> Answer {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Answer::Strange };
    let choice = value["choices"].get(0);
    // A provider behind the server may break off in the middle.
    let error = [&value["error"], &choice.unwrap_or(&Value::Null)["error"]].into_iter().find(|error| !error.is_null());
    if let Some(error) = error {
        let status = error["code"].as_u64().or_else(|| error["code"].as_str()?.parse().ok());
        let status = status.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        return Answer::Failed(status, words_of(&serde_json::json!({ "error": error })));
    }
    if !value["choices"].is_array() {
        return Answer::Strange;
    }
    let tokens = tokens(&value["usage"]);
    let Some(choice) = choice else {
        return Answer::Said(Said { text: Err("it has no choices".into()), cut: false, tokens });
    };
    let reason = choice["finish_reason"].as_str().unwrap_or_default();
    if reason == "error" {
        let words = Words { short: "the model broke off".into(), ..Words::default() };
        return Answer::Failed(None, words);
    }
    let (message, cut) = (&choice["message"], reason == "length");
    let text = match (refusal(message), content(message)) {
        (Some(refusal), _) => Err(format!("it refuses: {}", short(&refusal))),
        (None, _) if reason.starts_with("content_filter") => Err("its content filter holds it back".into()),
        (None, Some(content)) if !content.is_empty() => Ok(content),
        (None, _) if cut => {
            Err("it has no text, and was cut at max_tokens; a judge that thinks first needs more".into())
        }
        (None, _) if message["tool_calls"].get(0).is_some() => Err("it calls a tool, and has no text".into()),
        (None, _) => Err("it has no text".into()),
    };
    Answer::Said(Said { text, cut, tokens })
}

/// Tokens of prompt and reply; some servers leave it to others to sum them.
fn tokens(usage: &Value) -> Option<u64> {
    let of = |name: &str| usage[name].as_u64();
    of("total_tokens").or_else(|| Some(of("prompt_tokens")? + of("completion_tokens")?))
}

/// A message's text: a string, or parts, of which those that are thoughts are no part of the reply.
fn content(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let of_part = |part: &Value| match part["type"].as_str() {
                Some("text" | "output_text") => part["text"].as_str().map(str::to_owned),
                _ => None,
            };
            Some(parts.iter().filter_map(of_part).collect())
        }
        _ => None,
    }
}

/// Why the model refuses.
fn refusal(message: &Value) -> Option<String> {
    let parts = message["content"].as_array().into_iter().flatten().map(|part| &part["refusal"]);
    let mut said = [&message["refusal"]].into_iter().chain(parts).filter_map(Value::as_str);
    said.find(|refusal| !refusal.is_empty()).map(str::to_owned)
}

/// A server's words for an error, of an answer whose status is one.
pub fn words(text: &str) -> Words {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => words_of(&value),
        // A page for people.
        Err(_) if text.trim_start().starts_with('<') => Words::default(),
        Err(_) => Words { short: short(text.trim()), all: text.to_lowercase() },
    }
}

fn words_of(value: &Value) -> Words {
    let (error, value) = (&value["error"], without_question(value));
    let places = [&error["message"], error, &value["message"], &value["detail"], &value["errors"][0]["message"]];
    let code = error["code"].as_str().map_or(String::new(), |code| format!(" [{code}]"));
    // What the provider said to whom the server passed the question on.
    let raw = error["metadata"]["raw"].as_str().map_or(String::new(), |raw| format!(" ({})", short(raw)));
    let short = match places.into_iter().find_map(Value::as_str) {
        Some(said) => short(said) + &code + &raw,
        None if value.is_null() => String::new(),
        None => short(&value.to_string()),
    };
    Words { short, all: value.to_string().to_lowercase() }
}

/// What an error says without the parts of the question that it shows (FastAPI's `input`, OpenRouter's `flagged_input`).
fn without_question(value: &Value) -> Value {
    match value {
        Value::Object(of) => {
            let kept = of.iter().filter(|(name, _)| !["input", "flagged_input"].contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name.clone(), without_question(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_question).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(choice: Value) -> Said {
        match read(&json!({ "choices": [choice], "usage": { "total_tokens": 12 } }).to_string()) {
            Answer::Said(said) => said,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_completion_has_a_text_or_says_why_not() {
        let plain = of(json!({ "message": { "content": "a" }, "finish_reason": "stop" }));
        assert_eq!(plain, Said { text: Ok("a".into()), cut: false, tokens: Some(12) });
        assert!(of(json!({ "message": { "content": "a" }, "finish_reason": "length" })).cut);
        for (choice, why) in [
            (json!({ "message": { "content": null, "refusal": "No." } }), "it refuses: No."),
            (json!({ "message": { "content": [{ "type": "refusal", "refusal": "No." }] } }), "it refuses: No."),
            (json!({ "message": { "content": "" }, "finish_reason": "content_filter" }), "content filter"),
            (json!({ "message": { "content": "{" }, "finish_reason": "content_filter: SAFETY" }), "content filter"),
            (json!({ "message": {} }), "no text"),
            (json!({ "message": null }), "no text"),
            (
                json!({ "message": { "content": "", "reasoning_content": "Hm" }, "finish_reason": "length" }),
                "max_tokens",
            ),
            (json!({ "message": { "content": null, "tool_calls": [{ "id": "1" }] } }), "calls a tool"),
        ] {
            let found = of(choice).text.unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let Answer::Said(empty) = read("{\"choices\": []}") else { panic!() };
        assert_eq!((empty.text.is_err(), empty.tokens), (true, None));
        for strange in ["<html>", "{\"ok\": true}", "[]", "{\"choices\": null}", "data: {\"choices\": []}"] {
            assert_eq!(read(strange), Answer::Strange, "{strange}");
        }
    }

    #[test]
    fn a_text_in_parts_is_joined_without_the_thoughts() {
        let parts = json!([
            { "type": "thinking", "thinking": [{ "type": "text", "text": "{\"tone\": 1}" }] },
            { "type": "text", "text": "{\"tone\":" },
            { "type": "text", "text": " 3}" },
        ]);
        assert_eq!(of(json!({ "message": { "content": parts } })).text, Ok("{\"tone\": 3}".into()));
    }

    #[test]
    fn tokens_are_summed_where_the_server_does_not_sum_them() {
        for (usage, tokens) in [
            (json!({ "total_tokens": 12 }), Some(12)),
            (json!({ "prompt_tokens": 90, "completion_tokens": 7, "total_tokens": null }), Some(97)),
            (json!({ "prompt_tokens": 90 }), None),
            (Value::Null, None),
        ] {
            let text = json!({ "choices": [{ "message": { "content": "a" } }], "usage": usage }).to_string();
            assert!(matches!(read(&text), Answer::Said(Said { tokens: found, .. }) if found == tokens), "{usage}");
        }
    }

    #[test]
    fn an_error_that_comes_as_a_success_is_one() {
        for (text, status, said) in [
            ("{\"error\": {\"code\": 429, \"message\": \"Slow down\"}}", Some(429), "Slow down"),
            ("{\"error\": {\"code\": \"503\", \"message\": \"No\"}, \"choices\": []}", Some(503), "No [503]"),
            ("{\"error\": \"Unexpected endpoint or method.\"}", None, "Unexpected endpoint or method."),
            (
                "{\"choices\": [{\"error\": {\"code\": 502, \"message\": \"gone\"}, \"message\": {\"content\": \"\"}}]}",
                Some(502),
                "gone",
            ),
            ("{\"choices\": [{\"finish_reason\": \"error\", \"message\": {\"content\": \"{\"}}]}", None, "broke off"),
        ] {
            match read(text) {
                Answer::Failed(found, words) => {
                    assert!(found == status && words.short.contains(said), "{text}: {found:?} {words:?}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        // OpenAI's own completions have no error, and some servers write that down.
        assert!(matches!(read("{\"error\": null, \"choices\": []}"), Answer::Said(_)));
    }

    #[test]
    fn an_error_is_said_in_the_words_of_the_server() {
        for (text, expected) in [
            ("{\"error\": {\"message\": \"no\\nway\", \"code\": \"c\"}}", "no way [c]"),
            ("{\"error\": {\"message\": \"no\", \"code\": 400, \"metadata\": {\"raw\": \"why\"}}}", "no (why)"),
            ("{\"error\": \"no\"}", "no"),
            ("{\"detail\": \"no\"}", "no"),
            ("{\"detail\": [1]}", "{\"detail\":[1]}"),
            ("{\"errors\": [{\"code\": 7003, \"message\": \"no\"}]}", "no"),
            // axum, of which text-generation-inference is made, and Go's servers write plain text.
            (
                "Failed to deserialize the JSON body: response_format: unknown variant `json_schema`\n",
                "Failed to deserialize the JSON body: response_format: unknown variant `json_schema`",
            ),
            ("404 page not found", "404 page not found"),
            ("<html>no</html>", ""),
            ("", ""),
        ] {
            assert_eq!(words(text).short, expected);
        }
    }

    #[test]
    fn what_an_error_shows_of_the_question_is_none_of_its_words() {
        let text = json!({ "detail": [{ "loc": ["body", "Response_Format"], "input": { "temperature": 0 } }] });
        let all = words(&text.to_string()).all;
        assert!(all.contains("response_format") && !all.contains("temperature"), "{all}");
    }

    #[test]
    fn an_answer_is_unpacked_where_it_is_packed() {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all("{\"ä\": 1}".as_bytes()).unwrap();
        assert_eq!(text(&packer.finish().unwrap(), 100).unwrap(), "{\"ä\": 1}");
        assert_eq!(text("ä".as_bytes(), 100).unwrap(), "ä");
        assert_eq!(text(b"<p>\xe4</p>", 100).unwrap(), "<p>\u{fffd}</p>");
        assert!(text(&[0x1f, 0x8b, 8], 100).is_err());
    }
}
