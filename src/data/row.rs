//! What a row says: its tokens, or a prompt and a target.

use anyhow::{Context, Result, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Row;

/// How a row becomes text: minijinja templates over its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Templates {
    /// What the model reads.
    pub prompt: String,
    /// What it should answer.
    #[serde(default)]
    pub target: String,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A text in two parts; plain text has no target.
    Text { prompt: String, target: String },
    /// A conversation for the model's chat template.
    Chat(Value),
    /// Token ids as they are.
    Tokens(Vec<u32>),
}

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

/// Steps that one template may take; enough for any honest one.
const FUEL: u64 = 1_000_000;

impl Content {
    /// Reads a row, by the templates or, without them, by the fields that it has.
    ///
    /// # Errors
    /// Where a template fails, or the row has none of the usual shapes.
    pub fn of(row: &Row, templates: Option<&Templates>) -> Result<Self> {
        match templates {
            Some(templates) => {
                Ok(Self::Text { prompt: render(&templates.prompt, row)?, target: render(&templates.target, row)? })
            }
            None => Self::of_usual_shape(row),
        }
    }

    fn of_usual_shape(row: &Row) -> Result<Self> {
        let string = |key: &str| row.get(key).and_then(Value::as_str);
        let text = |prompt: &str, target: &str| Self::Text { prompt: prompt.into(), target: target.into() };
        if let Some(ids) = row.get("input_ids") {
            let ids = serde_json::from_value(ids.clone()).context("`input_ids` is no list of token ids")?;
            return Ok(Self::Tokens(ids));
        }
        if let Some(messages) = row.get("messages") {
            return Ok(Self::Chat(messages.clone()));
        }
        if let (Some(instruction), Some(output)) = (string("instruction"), string("output")) {
            let prompt = alpaca(instruction, string("input").unwrap_or(""));
            return Ok(text(&prompt, output));
        }
        if let (Some(question), Some(choices), Some(answer)) =
            (string("question"), row.get("choices"), row.get("answer").or(row.get("answerKey")))
        {
            return Ok(text(&format!("Question: {question}\nAnswer:"), &format!(" {}", chosen(choices, answer)?)));
        }
        if let (Some(prompt), Some(completion)) = (string("prompt"), string("completion")) {
            return Ok(text(prompt, completion));
        }
        match string("text") {
            Some(plain) => Ok(text(plain, "")),
            None => bail!(
                "a row with the fields {} needs a template; without one calipr reads text, prompt + completion, \
                 instruction + input + output, messages, question + choices + answer, or input_ids",
                row.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// The choice that `answer` names: by its index, by its letter, or by its text.
fn chosen<'a>(choices: &'a Value, answer: &Value) -> Result<&'a str> {
    // The Hub's ARC and CommonsenseQA have {"text": […], "label": […]}.
    let texts = choices.get("text").unwrap_or(choices).as_array().context("`choices` is no list")?;
    let labels = choices.get("label").and_then(Value::as_array);
    let index = match answer {
        Value::Number(n) => n.as_u64().map(|n| n as usize),
        Value::String(s) => labels
            .and_then(|labels| labels.iter().position(|l| l == s))
            .or_else(|| texts.iter().position(|t| t == s))
            .or_else(|| s.parse().ok())
            .or_else(|| match s.as_bytes() {
                [letter] if letter.is_ascii_alphabetic() => Some(usize::from(letter.to_ascii_uppercase() - b'A')),
                _ => None,
            }),
        _ => None,
    };
    let text = index.and_then(|i| texts.get(i)).and_then(Value::as_str);
    text.with_context(|| format!("`answer` {answer} is none of the {} choices", texts.len()))
}

impl Templates {
    /// An error where one of the templates is not minijinja.
    pub fn check(&self) -> Result<()> {
        for template in [&self.prompt, &self.target] {
            environment()
                .template_from_str(template)
                .map_err(|e| anyhow::anyhow!("the template \"{template}\" is wrong: {e:#}"))?;
        }
        Ok(())
    }
}

/// Nothing to load or include from, and an end to every loop.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the usual delimiters"));
    env.set_fuel(Some(FUEL));
    env
}

fn render(template: &str, row: &Row) -> Result<String> {
    environment().render_str(template, Serde(row)).map_err(|e| {
        let fields = row.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        anyhow::anyhow!("the template \"{template}\" fails on a row with the fields {fields}: {e:#}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(row: Value) -> Result<Content> {
        Content::of(row.as_object().unwrap(), None)
    }

    fn text(prompt: &str, target: &str) -> Content {
        Content::Text { prompt: prompt.into(), target: target.into() }
    }

    #[test]
    fn the_usual_shapes_need_no_template() {
        assert_eq!(of(json!({"id": 3, "text": "plain"})).unwrap(), text("plain", ""));
        assert_eq!(of(json!({"prompt": "a", "completion": "b"})).unwrap(), text("a", "b"));
        assert_eq!(of(json!({"input_ids": [1, 2]})).unwrap(), Content::Tokens(vec![1, 2]));
        let messages = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(of(json!({"messages": messages})).unwrap(), Content::Chat(messages));
        let Content::Text { prompt, target } = of(json!({"instruction": "Do", "input": "x", "output": "y"})).unwrap()
        else {
            panic!()
        };
        assert!(prompt.contains("### Input:\nx\n\n### Response:\n") && target == "y");
        let Content::Text { prompt, .. } = of(json!({"instruction": "Do", "input": "", "output": "y"})).unwrap() else {
            panic!()
        };
        assert!(!prompt.contains("Input"));
    }

    #[test]
    fn an_answer_may_be_an_index_a_letter_a_label_or_the_text() {
        let choices = json!(["red", "blue"]);
        for answer in [json!(1), json!("B"), json!("b"), json!("1"), json!("blue")] {
            let row = json!({"question": "Sky?", "choices": choices, "answer": answer});
            assert_eq!(of(row).unwrap(), text("Question: Sky?\nAnswer:", " blue"));
        }
        let row = json!({"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answer": "2"});
        assert_eq!(of(row).unwrap(), text("Question: Sky?\nAnswer:", " blue"));
        let arc =
            json!({"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"});
        assert_eq!(of(arc).unwrap(), text("Question: Sky?\nAnswer:", " blue"));
        assert!(of(json!({"question": "Sky?", "choices": choices, "answer": 2})).is_err());
    }

    #[test]
    fn braces_in_an_instruction_are_text() {
        let row = json!({"instruction": "What does {input} print?", "input": "x", "output": "y"});
        let Content::Text { prompt, .. } = of(row).unwrap() else { panic!() };
        assert!(prompt.contains("What does {input} print?") && prompt.contains("### Input:\nx\n"), "{prompt}");
    }

    #[test]
    fn a_template_names_the_field_it_misses() {
        let templates = Templates { prompt: "{{ titel }}".into(), target: String::new() };
        let row = json!({"title": "x"});
        let error = Content::of(row.as_object().unwrap(), Some(&templates)).unwrap_err().to_string();
        assert!(error.contains("titel") && error.contains("`title`"), "{error}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let prompt = "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}";
        let templates = Templates { prompt: prompt.into(), target: String::new() };
        assert!(Content::of(&Row::new(), Some(&templates)).is_err());
    }
}
