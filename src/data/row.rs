//! What a row says: its tokens, or a prompt and a target.

use anyhow::{Context, Result, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Row;
use crate::templates;

/// How a row becomes text: minijinja templates over its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Templates {
    /// What the model reads.
    pub prompt: String,
    /// What it should answer.
    #[serde(default)]
    pub target: String,
    /// The answers to choose from: a template each, or the field that holds them, such as `choices.text`.
    /// They follow the prompt after a space.
    pub choices: Option<Choices>,
    /// Which choice is right: its number from 0, its letter, or its text.
    pub answer: Option<String>,
    /// The field that holds a list of right answers, where any one will do, such as `answers.text`.
    pub references: Option<String>,
}

/// The choices of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Choices {
    Templates(Vec<String>),
    Field(String),
}

/// What a row says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A text in two parts; plain text has no target. `references` has other right answers, where the row has.
    Text { prompt: String, target: String, references: Vec<String> },
    /// A question with several answers, of which one is right.
    Choice { prompt: String, choices: Vec<String>, answer: usize },
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

impl Content {
    /// Reads a row, by the templates or, without them, by the fields that it has.
    ///
    /// # Errors
    /// Where a template fails, or the row has none of the usual shapes.
    pub fn of(row: &Row, templates: Option<&Templates>) -> Result<Self> {
        match templates {
            Some(templates) => {
                let (templates, row) = (templates.clone(), row.clone());
                templates::in_time(move || templates.content(&row)).context("the data set's template fails on a row")?
            }
            None => Self::of_usual_shape(row),
        }
    }

    /// A prompt and its target.
    ///
    /// # Errors
    /// Where the row is a conversation, or tokens.
    pub fn parts(&self) -> Result<(String, String)> {
        match self {
            Self::Text { prompt, target, .. } => Ok((prompt.clone(), target.clone())),
            Self::Choice { prompt, choices, answer } => Ok((prompt.clone(), format!(" {}", choices[*answer]))),
            Self::Chat(_) => bail!("the row is a conversation where a prompt and a target are expected"),
            Self::Tokens(_) => bail!("the row has `input_ids`, which are no prompt; give it text"),
        }
    }

    /// What is asked, without the answer.
    pub fn asks(&self) -> impl PartialEq + use<'_> {
        let turns = |messages: &Value| {
            let mut turns = messages.as_array().cloned().unwrap_or_default();
            turns.pop_if(|last| last["role"] == "assistant");
            turns
        };
        match self {
            Self::Text { prompt, .. } => (prompt.as_str(), [].as_slice(), vec![]),
            Self::Choice { prompt, choices, .. } => (prompt.as_str(), choices.as_slice(), vec![]),
            Self::Chat(messages) => ("", [].as_slice(), turns(messages)),
            Self::Tokens(_) => ("", [].as_slice(), vec![]),
        }
    }

    fn of_usual_shape(row: &Row) -> Result<Self> {
        let string = |key: &str| row.get(key).and_then(string);
        let text = |prompt: &str, target: &str| Self::Text {
            prompt: prompt.into(),
            target: target.into(),
            references: vec![],
        };
        if let Some(ids) = row.get("input_ids") {
            let ids = serde_json::from_value(ids.clone()).context("`input_ids` is no list of token ids")?;
            return Ok(Self::Tokens(ids));
        }
        if let Some(messages) = row.get("messages") {
            return Ok(Self::Chat(messages.clone()));
        }
        if let (Some(instruction), Some(output)) = (string("instruction"), string("output")) {
            let prompt = alpaca(&instruction, &string("input").unwrap_or_default());
            return Ok(text(&prompt, &output));
        }
        if let (Some(question), Some(choices), Some(answer)) =
            (string("question"), row.get("choices"), row.get("answer").or(row.get("answerKey")))
        {
            let (choices, answer) = chosen(choices, answer)?;
            return Ok(Self::Choice { prompt: format!("Question: {question}\nAnswer:"), choices, answer });
        }
        if let (Some(prompt), Some(completion)) = (string("prompt"), string("completion")) {
            return Ok(text(&prompt, &completion));
        }
        match string("text") {
            Some(plain) => Ok(text(&plain, "")),
            None => bail!(
                "a row with the fields {} needs a template; without one calipr reads text, prompt + completion, \
                 instruction + input + output, messages, question + choices + answer, or input_ids",
                row.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// More choices than any question has.
const MOST_CHOICES: usize = 1000;

/// The texts of the choices, and which of them `answer` names: by its index, its letter, its label or its text.
fn chosen(choices: &Value, answer: &Value) -> Result<(Vec<String>, usize)> {
    // The Hub's ARC and CommonsenseQA have {"text": […], "label": […]}.
    let texts = strings(choices.get("text").unwrap_or(choices)).context("`choices` is no list of texts")?;
    ensure!(texts.len() <= MOST_CHOICES, "the row has {} choices; expected at most {MOST_CHOICES}", texts.len());
    ensure!(
        texts.len() > 1,
        "the row has {} to choose from; expected two choices at least",
        match texts.len() {
            0 => "nothing",
            _ => "one choice",
        }
    );
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
    let index = index.filter(|&i| i < texts.len());
    let index = index.with_context(|| format!("`answer` {answer} is none of the {} choices", texts.len()))?;
    Ok((texts, index))
}

/// A text; a number is its digits.
fn string(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The texts of a list.
fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(string).collect()
}

impl Templates {
    /// An error where one of the templates is not minijinja.
    pub fn check(&self) -> Result<()> {
        let choices = match &self.choices {
            Some(Choices::Templates(templates)) => templates.as_slice(),
            _ => &[],
        };
        for template in [&self.prompt, &self.target].into_iter().chain(choices).chain(&self.answer) {
            templates::check(template)?;
            environment()
                .template_from_str(template)
                .map_err(|e| anyhow::anyhow!("the template \"{template}\" is wrong: {e:#}"))?;
        }
        let field = match &self.choices {
            Some(Choices::Field(field)) => Some(field),
            _ => None,
        };
        for field in field.into_iter().chain(&self.references) {
            // minijinja counts steps, but not what a product of a list and a number takes.
            ensure!(!field.contains('*'), "\"{field}\" multiplies where the name of a field is expected");
            ensure!(field.len() < 1000, "the name of a field is {} bytes long", field.len());
            ensure!(
                !field.contains("{{"),
                "\"{field}\" is a template where the name of a field is expected, such as \"choices.text\""
            );
            environment()
                .compile_expression(field)
                .map_err(|e| anyhow::anyhow!("\"{field}\" names no field: {e:#}"))?;
        }
        ensure!(
            self.choices.is_some() == self.answer.is_some(),
            "`choices` and `answer` belong together, but the template has only one of them"
        );
        Ok(())
    }

    fn content(&self, row: &Row) -> Result<Content> {
        let prompt = render(&self.prompt, row)?;
        if let (Some(choices), Some(answer)) = (&self.choices, &self.answer) {
            let choices = match choices {
                Choices::Templates(templates) => {
                    templates.iter().map(|t| Ok(Value::String(render(t, row)?))).collect::<Result<Vec<_>>>()?.into()
                }
                Choices::Field(field) => evaluate(field, row)?,
            };
            let answer = render(answer, row)?.trim().to_owned();
            // A number is an index, also where a choice's text happens to be that number; labels come first.
            let index = if choices.get("label").is_none() { answer.parse::<u64>().ok() } else { None };
            let (choices, answer) = chosen(&choices, &index.map_or(Value::String(answer), Value::from))?;
            return Ok(Content::Choice { prompt, choices, answer });
        }
        let references = match &self.references {
            None => vec![],
            Some(field) => {
                let list = evaluate(field, row)?;
                strings(&list).with_context(|| format!("\"{field}\" is no list of texts, but {list}"))?
            }
        };
        let mut target = render(&self.target, row)?;
        if target.is_empty()
            && let Some(first) = references.first()
        {
            target = format!(" {first}");
        }
        Ok(Content::Text { prompt, target, references })
    }
}

/// Where a data set's templates are rendered: what a row lacks is an error, and a last line break is kept.
fn environment() -> Environment<'static> {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the usual delimiters");
    let mut env = templates::environment(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env
}

fn render(text: &str, row: &Row) -> Result<String> {
    environment().render_str(text, Serde(row)).map_err(|e| {
        let fields = row.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        anyhow::anyhow!("the template \"{text}\" fails on a row with the fields {fields}: {}", lacking(text, row, &e))
    })
}

/// What went wrong: the fields that a template asks for and the row lacks, or what minijinja says.
fn lacking(template: &str, row: &Row, error: &minijinja::Error) -> String {
    let environment = environment();
    let asked = environment.template_from_str(template).map(|t| t.undeclared_variables(false)).unwrap_or_default();
    let mut lacking: Vec<String> = asked.into_iter().filter(|name| !row.contains_key(name)).collect();
    lacking.sort();
    match lacking.is_empty() {
        true => format!("{error:#}"),
        false => format!("it has no `{}`", lacking.join("`, `")),
    }
}

/// The value of a field, such as `choices.text`.
fn evaluate(field: &str, row: &Row) -> Result<Value> {
    let environment = environment();
    let value = environment.compile_expression(field).and_then(|e| e.eval(Serde(row)));
    let value = value.map_err(|e| anyhow::anyhow!("\"{field}\" fails on a row: {e:#}"))?;
    Ok(serde_json::to_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(row: Value) -> Result<Content> {
        Content::of(row.as_object().unwrap(), None)
    }

    fn text(prompt: &str, target: &str) -> Content {
        Content::Text { prompt: prompt.into(), target: target.into(), references: vec![] }
    }

    fn templates(toml: &str) -> Templates {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn the_usual_shapes_need_no_template() {
        assert_eq!(of(json!({"id": 3, "text": "plain"})).unwrap(), text("plain", ""));
        assert_eq!(of(json!({"prompt": "a", "completion": "b"})).unwrap(), text("a", "b"));
        assert_eq!(of(json!({"input_ids": [1, 2]})).unwrap(), Content::Tokens(vec![1, 2]));
        let messages = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(of(json!({"messages": messages})).unwrap(), Content::Chat(messages));
        let Content::Text { prompt, target, .. } =
            of(json!({"instruction": "Do", "input": "x", "output": "y"})).unwrap()
        else {
            panic!()
        };
        assert!(prompt.contains("### Input:\nx\n\n### Response:\n") && target == "y");
        let Content::Text { prompt, .. } = of(json!({"instruction": "Do", "input": "", "output": "y"})).unwrap() else {
            panic!()
        };
        assert!(!prompt.contains("Input"));
    }

    fn answer_of(row: Value) -> (Vec<String>, usize) {
        let Content::Choice { prompt, choices, answer } = of(row).unwrap() else { panic!() };
        assert_eq!(prompt, "Question: Sky?\nAnswer:");
        (choices, answer)
    }

    #[test]
    fn templates_make_choices_from_fields_or_from_a_list() {
        let row = json!({"q": "Sky?", "a": "red", "b": "blue", "label": "B", "options": {"text": ["red", "blue"]}});
        let row = row.as_object().unwrap();
        let expected = Content::Choice { prompt: "Sky?".into(), choices: vec!["red".into(), "blue".into()], answer: 1 };
        for choices in [r#"["{{ a }}", "{{ b }}"]"#, r#""options.text""#] {
            let templates =
                templates(&format!("prompt = '{{{{ q }}}}'\nchoices = {choices}\nanswer = '{{{{ label }}}}'"));
            templates.check().unwrap();
            assert_eq!(Content::of(row, Some(&templates)).unwrap(), expected);
        }
        assert!(templates("prompt = ''\nchoices = 'options.text'").check().is_err());
    }

    #[test]
    fn a_number_is_an_index_though_a_choice_may_be_that_number() {
        let templates = templates("prompt = 'How many?'\nchoices = 'options'\nanswer = '{{ label }}'");
        let row = json!({"options": ["3", "1", "2"], "label": 1});
        let Content::Choice { answer, .. } = Content::of(row.as_object().unwrap(), Some(&templates)).unwrap() else {
            panic!()
        };
        assert_eq!(answer, 1);
    }

    #[test]
    fn templates_know_pythons_methods() {
        let templates = templates("prompt = \"{{ text.strip().lower() }}\"");
        let row = json!({"text": " Hi "});
        let Content::Text { prompt, .. } = Content::of(row.as_object().unwrap(), Some(&templates)).unwrap() else {
            panic!()
        };
        assert_eq!(prompt, "hi");
    }

    #[test]
    fn the_first_of_several_references_is_the_target() {
        let row = json!({"q": "Who?", "answers": {"text": ["Ada", "Ada Lovelace"]}});
        let templates = templates("prompt = '{{ q }}'\nreferences = 'answers.text'");
        let content = Content::of(row.as_object().unwrap(), Some(&templates)).unwrap();
        let references = vec!["Ada".into(), "Ada Lovelace".into()];
        assert_eq!(content, Content::Text { prompt: "Who?".into(), target: " Ada".into(), references });
    }

    #[test]
    fn an_answer_may_be_an_index_a_letter_a_label_or_the_text() {
        let choices = json!(["red", "blue"]);
        for answer in [json!(1), json!("B"), json!("b"), json!("1"), json!("blue")] {
            let row = json!({"question": "Sky?", "choices": choices, "answer": answer});
            assert_eq!(answer_of(row), (vec!["red".into(), "blue".into()], 1));
        }
        let row = json!({"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answer": "2"});
        assert_eq!(answer_of(row).1, 1);
        let arc =
            json!({"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"});
        assert_eq!(answer_of(arc).1, 1);
        assert!(of(json!({"question": "Sky?", "choices": choices, "answer": 2})).is_err());
        let numbers = json!({"question": "Sky?", "choices": [3, 4.5], "answer": 1});
        assert_eq!(answer_of(numbers), (vec!["3".into(), "4.5".into()], 1));
    }

    #[test]
    fn braces_in_an_instruction_are_text() {
        let row = json!({"instruction": "What does {input} print?", "input": "x", "output": "y"});
        let Content::Text { prompt, .. } = of(row).unwrap() else { panic!() };
        assert!(prompt.contains("What does {input} print?") && prompt.contains("### Input:\nx\n"), "{prompt}");
    }

    #[test]
    fn a_template_names_the_field_it_misses() {
        let templates = templates("prompt = '{{ titel }}'");
        let row = json!({"title": "x"});
        let error = Content::of(row.as_object().unwrap(), Some(&templates)).unwrap_err().to_string();
        assert!(error.contains("titel") && error.contains("`title`"), "{error}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let prompt = "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}";
        let templates = templates(&format!("prompt = '{prompt}'"));
        assert!(Content::of(&Row::new(), Some(&templates)).is_err());
    }
}
