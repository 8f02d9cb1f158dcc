//! What a row says, as people are shown it.

use crate::data::Content;

/// Characters of a text that are shown, at most.
const LONGEST: usize = 600;

/// What the model reads and what it should answer, each under its name.
pub fn shown(content: &Content) -> String {
    match content {
        Content::Text { prompt, target, .. } if target.is_empty() => part("text", prompt),
        Content::Text { prompt, target, references, .. } => {
            let others = references.iter().filter(|other| other.trim() != target.trim());
            let others: String = others.map(|other| part("or", other)).collect();
            part("prompt", prompt) + &part("answer", target) + &others
        }
        Content::Choice { prompt, choices, answer, also, continuation, .. } => {
            let is_right = |i: usize| i == *answer || also.contains(&i);
            let choice = |(i, text): (usize, &String)| part(if is_right(i) { "right" } else { "wrong" }, text);
            let then = continuation.as_ref().map_or(String::new(), |text| part("then", text));
            part("prompt", prompt) + &choices.iter().enumerate().map(choice).collect::<String>() + &then
        }
        Content::Chat(chat) => {
            let turn = |turn: &serde_json::Value| {
                let said = turn["content"].as_str().map_or_else(|| turn["content"].to_string(), str::to_owned);
                part(turn["role"].as_str().unwrap_or("turn"), &said)
            };
            chat.messages.iter().map(turn).collect()
        }
        Content::Tokens(ids) => {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            part("tokens", &ids.join(", "))
        }
    }
}

/// A text behind its name; further lines of it stand below its first.
fn part(name: &str, text: &str) -> String {
    let begun: String = text.chars().take(LONGEST).collect();
    let more = if begun.len() < text.len() { "…" } else { "" };
    let mut lines = begun.split('\n');
    let mut out = format!("  {name:<10}|{}", lines.next().unwrap_or_default());
    lines.for_each(|line| out += &format!("\n  {:<10}|{line}", ""));
    out + more + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_text_is_seen_with_its_spaces() {
        let content = Content::Choice {
            prompt: "Question: a\nAnswer:".into(),
            choices: vec!["b".into(), "c".into()],
            answer: 1,
            also: vec![],
            other: None,
            continuation: None,
            delimiter: " ".into(),
        };
        let expected = "  prompt    |Question: a\n            |Answer:\n  wrong     |b\n  right     |c\n";
        assert_eq!(shown(&content), expected);
        assert!(part("text", &"x".repeat(700)).ends_with("x…\n"));
    }
}
