//! Templates that make of a row's fields what it says.

use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Expression, UndefinedBehavior};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, Chosen, chosen};
use super::value::{Fields, MARK, called, is_unheld, shortened, text};
use super::{Content, Row};
use crate::templates;

/// How a row becomes text: minijinja templates over its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Templates {
    /// What stands once in front of all that a suite asks: before the solved examples, where there are some, and before the
    /// prompt; as the conversation's system message, where the chat template is put around it. Calibrations do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preamble: Option<String>,
    /// What the model reads.
    pub prompt: String,
    /// What it should answer.
    #[serde(default)]
    pub target: String,
    /// The answers to choose from: a template each, or the field that holds them, such as `choices.text`.
    /// They follow the prompt after the `delimiter`.
    pub choices: Option<Choices>,
    /// What stands between the prompt and a choice, and before a `continuation`: by default a space; in a chat template,
    /// where a choice is a turn of its own, nothing. lm-evaluation-harness calls it `target_delimiter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Which choice is right: its number from 0, its letter, or its text.
    pub answer: Option<String>,
    /// Where several choices are right, instead of `answer`: the field with a list of them, each a number from 0, a letter or
    /// a text. Any of them counts; solved examples show the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// Where several choices are right, instead of `answer`: the field with a list that has 1 for each choice that is right
    /// and 0 for each that is not, such as `mc2_targets.labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Where choices are ends of the prompt: what follows whichever of them, after the `delimiter`, and is scored in their
    /// place, as lm-evaluation-harness scores WinoGrande.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<String>,
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

/// What [`has_literal_break`] found, in words.
pub const LITERAL_BREAK: &str = "it has a backslash and an n, as TOML reads \\n in single quotes; in double quotes it is a line \
                                 break";

/// Whether a text has a backslash and an n where a line break was meant: outside of a template's tags, in which `'\n'` is one.
pub fn has_literal_break(text: &str) -> bool {
    TAGS.replace_all(text, "").contains("\\n")
}

/// What a template prints or does.
static TAGS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}").expect("a valid expression"));

impl Templates {
    /// An error where one of the templates is not minijinja.
    pub fn check(&self) -> Result<()> {
        let choices = match &self.choices {
            Some(Choices::Templates(templates)) => templates.as_slice(),
            _ => &[],
        };
        for template in [&self.prompt, &self.target]
            .into_iter()
            .chain(choices)
            .chain(&self.answer)
            .chain(&self.continuation)
            .chain(&self.preamble)
        {
            templates::check(template)?;
            if has_literal_break(template) {
                tracing::warn!("the template \"{}\": {LITERAL_BREAK}", shortened(template));
            }
            environment()
                .template_from_str(template)
                .map_err(|e| anyhow::anyhow!("the template \"{template}\" is wrong: {}", templates::said(&e)))?;
        }
        let field = match &self.choices {
            Some(Choices::Field(field)) => Some(field),
            _ => None,
        };
        for field in field.into_iter().chain(&self.references).chain(&self.answers).chain(&self.labels) {
            // minijinja counts steps, but not what a product of a list and a number takes.
            ensure!(!field.contains('*'), "\"{field}\" multiplies where the name of a field is expected");
            ensure!(field.len() < 1000, "the name of a field is {} bytes long", field.len());
            ensure!(
                !field.contains("{{"),
                "\"{field}\" is a template where the name of a field is expected, such as \"choices.text\""
            );
            environment()
                .compile_expression(field)
                .map_err(|e| anyhow::anyhow!("\"{field}\" names no field: {}", templates::said(&e)))?;
        }
        let right = [("answer", &self.answer), ("answers", &self.answers), ("labels", &self.labels)];
        let right: Vec<&str> = right.iter().filter(|(_, key)| key.is_some()).map(|(name, _)| *name).collect();
        match (right.as_slice(), self.choices.is_some()) {
            ([], true) | ([_], false) => bail!(
                "`choices` and `answer` belong together, but the template has only one of them (where several choices are \
                 right, `answers` or `labels` takes the place of `answer`)"
            ),
            ([one, other, ..], _) => {
                bail!("`{one}` and `{other}` both say which choices are right; expected one of them")
            }
            _ => {}
        }
        if let Some(delimiter) = &self.delimiter {
            ensure!(
                self.choices.is_some(),
                "`delimiter` stands between a prompt and its choices, and the template has none; a `target` begins with what \
                 stands before it"
            );
            ensure!(
                !delimiter.contains("{{"),
                "`delimiter` is \"{delimiter}\", a template where a text is expected, the same for all rows, such as \"\""
            );
        }
        ensure!(
            self.continuation.is_none() || (self.choices.is_some() && self.target.is_empty()),
            "`continuation` follows choices that end the prompt, and takes the place of a `target`; expected `choices` and \
             `answer` beside it, and no `target`"
        );
        Ok(())
    }

    /// What stands in front of what each row asks.
    ///
    /// # Errors
    /// Where the template fails on a row.
    pub fn preambles(&self, rows: &[Row]) -> Result<Vec<String>> {
        let Some(text) = self.preamble.clone() else { return Ok(vec![String::new(); rows.len()]) };
        let several = rows.to_vec();
        let render = move || -> Result<Vec<String>> {
            let environment = environment();
            let literal = literal_names(&text);
            let template = environment.template_from_str(&text)?;
            let rendered = Rendered { key: "preamble", text: &text, literal, template };
            several.iter().map(|row| rendered.on(row)).collect()
        };
        templates::in_time(render).and_then(|rendered| rendered).context(FAILS)
    }

    /// What rows say, by the templates.
    pub(super) fn contents(&self, rows: &[Row]) -> Vec<Result<Content>> {
        let environment = environment();
        match Compiled::of(self, &environment) {
            Ok(compiled) => rows.iter().map(|row| compiled.content(row).context(FAILS)).collect(),
            Err(error) => rows.iter().map(|_| Err(anyhow::anyhow!("{error:#}"))).collect(),
        }
    }
}

/// What stands between a prompt and a choice where nothing else is said, as in lm-evaluation-harness.
pub(super) const DELIMITER: &str = " ";

pub(super) const FAILS: &str = "the data set's template fails on a row";

/// Templates, ready to be rendered for many rows.
struct Compiled<'a> {
    prompt: Rendered<'a>,
    target: Rendered<'a>,
    choices: Vec<Rendered<'a>>,
    choices_field: Option<Field<'a>>,
    right: Option<Right<'a>>,
    continuation: Option<Rendered<'a>>,
    delimiter: &'a str,
    references: Option<Field<'a>>,
}

struct Rendered<'a> {
    key: &'static str,
    text: &'a str,
    /// What stands in it as it is, and would be a field's value in other programs.
    literal: Vec<String>,
    template: minijinja::Template<'a, 'a>,
}

/// What says which choices are right.
enum Right<'a> {
    Answer(Rendered<'a>),
    Answers(Field<'a>),
    Labels(Field<'a>),
}

struct Field<'a> {
    name: &'a str,
    expression: Expression<'a, 'a>,
}

impl<'a> Compiled<'a> {
    fn of(templates: &'a Templates, environment: &'a Environment<'a>) -> Result<Self> {
        let template = |key: &'static str, text: &'a String| -> Result<Rendered<'a>> {
            Ok(Rendered { key, text, literal: literal_names(text), template: environment.template_from_str(text)? })
        };
        let field = |name: &'a String| -> Result<Field<'a>> {
            Ok(Field { name, expression: environment.compile_expression(name)? })
        };
        let (choices, choices_field) = match &templates.choices {
            Some(Choices::Templates(templates)) => (templates.as_slice(), None),
            Some(Choices::Field(name)) => ([].as_slice(), Some(field(name)?)),
            None => ([].as_slice(), None),
        };
        Ok(Self {
            prompt: template("prompt", &templates.prompt)?,
            target: template("target", &templates.target)?,
            choices: choices.iter().map(|text| template("choices", text)).collect::<Result<_>>()?,
            choices_field,
            right: match templates {
                Templates { answer: Some(text), .. } => Some(Right::Answer(template("answer", text)?)),
                Templates { answers: Some(name), .. } => Some(Right::Answers(field(name)?)),
                Templates { labels: Some(name), .. } => Some(Right::Labels(field(name)?)),
                _ => None,
            },
            continuation: templates.continuation.as_ref().map(|text| template("continuation", text)).transpose()?,
            delimiter: templates.delimiter.as_deref().unwrap_or(DELIMITER),
            references: templates.references.as_ref().map(field).transpose()?,
        })
    }

    fn content(&self, row: &Row) -> Result<Content> {
        let prompt = self.prompt.on(row)?;
        if let Some(right) = &self.right {
            let choices = match &self.choices_field {
                Some(field) => field.of(row)?,
                None => self.choices.iter().map(|t| Ok(Value::String(t.on(row)?))).collect::<Result<Vec<_>>>()?.into(),
            };
            let chosen = match right {
                Right::Answer(text) => chosen(&choices, &Answer::Printed(text.on(row).context("`answer`")?)),
                Right::Answers(field) => chosen(&choices, &Answer::Several(field.name, &field.of(row)?)),
                Right::Labels(field) => chosen(&choices, &Answer::Labels(field.name, &field.of(row)?)),
            };
            let Chosen { texts: choices, right: answer, also, other } = chosen?;
            let continuation = self.continuation.as_ref().map(|text| text.on(row)).transpose()?;
            let delimiter = self.delimiter.to_owned();
            return Ok(Content::Choice { prompt, choices, answer, also, other, continuation, delimiter });
        }
        let references = match &self.references {
            None => None,
            Some(field) => Some(references(field.name, &field.of(row)?)?),
        };
        let mut target = self.target.on(row)?;
        if target.is_empty()
            && let Some(first) = references.iter().flatten().next()
        {
            target = format!(" {first}");
        }
        let answerable = references.as_ref().is_none_or(|references| !references.is_empty());
        Ok(Content::Text { prompt, target, references: references.unwrap_or_default(), answerable })
    }
}

/// The right answers of a field: a list of texts, which may be empty, or a single text.
fn references(name: &str, value: &Value) -> Result<Vec<String>> {
    if let Some(one) = text(value) {
        return Ok(vec![one]);
    }
    let list = value.as_array().with_context(|| format!("\"{name}\" is {}, no list of texts", called(value)))?;
    let answer = |(i, value): (usize, &Value)| {
        text(value).with_context(|| format!("\"{name}\" has {} in place {}, no text", called(value), i + 1))
    };
    list.iter().enumerate().map(answer).collect()
}

/// Names that a template has outside of `{{ }}`, and that other programs would take for fields: in
/// lm-evaluation-harness a text that is nothing but a name (api/task.py: `doc_to_text`), in Python's formats a name in
/// single braces.
fn literal_names(template: &str) -> Vec<String> {
    static BRACES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{\s*([^{}!:.\[\]]+?)\s*(?:[!:.\[][^{}]*)?\}").expect("a valid expression"));
    // What tags print is no text of the template.
    let text = TAGS.replace_all(template, "\u{0}");
    let alone = text.trim();
    let in_braces = BRACES.captures_iter(&text).map(|name| name[1].to_owned());
    std::iter::once(alone.to_owned()).filter(|name| !name.is_empty()).chain(in_braces).collect()
}

impl Rendered<'_> {
    fn on(&self, row: &Row) -> Result<String> {
        if let Some(name) = self.literal.iter().find(|name| row.contains_key(*name)) {
            bail!(
                "`{}` is \"{}\", where `{name}` stands as it is, though the row has a field of that name: write {{{{ \
                 {name} }}}} for the field, or {{{{ '…' }}}} around what is meant to the letter",
                self.key,
                shortened(self.text)
            );
        }
        self.template.render(Serde(Fields(row))).map_err(|e| {
            let fields = row.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
            let what = lacking(&self.template, row, &e);
            anyhow::anyhow!("the template \"{}\" fails on a row with the fields {fields}: {what}", self.text)
        })
    }
}

impl Field<'_> {
    /// The value of a field, such as `choices.text`.
    fn of(&self, row: &Row) -> Result<Value> {
        let value = self.expression.eval(Serde(Fields(row)));
        let value = value.map_err(|e| anyhow::anyhow!("\"{}\" fails on a row: {}", self.name, templates::said(&e)))?;
        ensure!(!value.is_undefined(), "\"{}\" is missing from the row", self.name);
        Ok(serde_json::to_value(value)?)
    }
}

/// Where a data set's templates are rendered: what a row lacks is an error, and a last line break is kept.
fn environment() -> Environment<'static> {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the usual delimiters");
    let mut env = templates::environment(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    // Texts and numbers are printed as Python prints them, and nothing else: no prompt has a meaning in which "None" or
    // the brackets of a list stand.
    env.set_formatter(|out, state, value| {
        let refused = |what: &str| {
            let message = format!("{NO_TEXT} {what}");
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        };
        match value.kind() {
            ValueKind::None => refused("null"),
            ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
            ValueKind::Seq | ValueKind::Iterable => refused("a list, not its elements"),
            ValueKind::Map => refused("an object, not its fields"),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(number) if !value.is_integer() => Ok(out.write_str(&templates::float(number))?),
                _ => templates::print(out, state, value),
            },
            _ => match value.as_str().and_then(|text| text.strip_prefix(MARK)) {
                Some(what) => refused(what),
                None => templates::print(out, state, value),
            },
        }
    });
    env
}

/// What templates can call by a name that no row need have.
const FUNCTIONS: [&str; 4] = ["debug", "dict", "namespace", "range"];

const NO_TEXT: &str = "it prints";

/// What went wrong: the fields that a template asks for and the row lacks, or what minijinja says.
fn lacking(template: &minijinja::Template, row: &Row, error: &minijinja::Error) -> String {
    let mut asked: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    asked.sort();
    let lacking = asked.iter().filter(|name| !row.contains_key(*name) && !FUNCTIONS.contains(&name.as_str()));
    let lacking: Vec<&str> = lacking.map(String::as_str).collect();
    if !lacking.is_empty() {
        return format!("it has no `{}`", lacking.join("`, `"));
    }
    let said = templates::said(error);
    if !said.contains(NO_TEXT) {
        return said;
    }
    let odd = |name: &&String| row.get(*name).is_some_and(|value| value.is_null() || is_unheld(value).is_some());
    let odd: Vec<String> = asked.iter().filter(odd).map(|name| format!("`{name}` is {}", called(&row[name]))).collect();
    if odd.is_empty() { said } else { format!("{}; {said}", odd.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn templates(toml: &str) -> Templates {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn templates_make_choices_from_fields_or_from_a_list() {
        let row = json!({"q": "Sky?", "a": "red", "b": "blue", "label": "B", "options": {"text": ["red", "blue"]}});
        let row = row.as_object().unwrap();
        let expected = Content::Choice {
            prompt: "Sky?".into(),
            choices: vec!["red".into(), "blue".into()],
            answer: 1,
            also: vec![],
            other: None,
            continuation: None,
            delimiter: " ".into(),
        };
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
        assert_eq!(
            content,
            Content::Text { prompt: "Who?".into(), target: " Ada".into(), references, answerable: true }
        );
    }

    #[test]
    fn a_template_names_the_field_it_misses() {
        let templates = templates("prompt = '{{ titel }}'");
        let row = json!({"title": "x"});
        let error = format!("{:#}", Content::of(row.as_object().unwrap(), Some(&templates)).unwrap_err());
        assert!(error.contains("titel") && error.contains("`title`"), "{error}");
    }

    #[test]
    fn a_fields_name_that_stands_as_it_is_is_refused() {
        let on = |toml: &str| {
            let row = json!({"question": "Sky?", "label": 1, "a": "red", "b": "blue"});
            Content::of(row.as_object().unwrap(), Some(&templates(toml))).map_err(|e| format!("{e:#}"))
        };
        for (toml, says) in [
            ("prompt = 'question'", "`prompt` is \"question\", where `question` stands as it is"),
            ("prompt = \" question\\n\"", "write {{ question }}"),
            ("prompt = 'Q: {question} A:'", "`prompt` is \"Q: {question}"),
            ("prompt = '{ question!r:>9} {{ a }}'", "write {{ question }}"),
            ("prompt = 'Q: {question[0]}'", "write {{ question }}"),
            ("prompt = '{{ question }}'\ntarget = 'label'", "`target` is \"label\""),
            ("prompt = '{{ question }}'\nchoices = ['{a}', '{b}']\nanswer = '{{ label }}'", "`choices` is \"{a}\""),
            ("prompt = '{{ question }}'\nchoices = ['{{ a }}', '{{ b }}']\nanswer = 'label'", "`answer` is \"label\""),
        ] {
            let error = on(toml).unwrap_err();
            assert!(error.contains(says), "{toml}: {error}");
        }
        for toml in [
            "prompt = '{{ question }}'\ntarget = ' yes'",
            "prompt = 'Fill in: {blank}, {} and {\"label\": 1}. The question is {{ question }}'",
            "prompt = \"{{ 'Q: {question}'.format(question=question) }}\"",
            "prompt = \"{{ '{question}' }}{# {label} #}\"",
        ] {
            on(toml).unwrap();
        }
    }

    #[test]
    fn a_backslash_and_an_n_are_told_from_a_line_break() {
        let found = |toml: &str| has_literal_break(&templates(toml).prompt);
        assert!(found(r"prompt = 'Q: {{ q }}\nA:'"));
        assert!(!found(r#"prompt = "Q: {{ q }}\nA:""#) && !found(r"prompt = '''{{ q.split('\n')[0] }}'''"));
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let prompt = "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}";
        let templates = templates(&format!("prompt = '{prompt}'"));
        assert!(Content::of(&Row::new(), Some(&templates)).is_err());
    }

    #[test]
    fn what_a_template_prints_is_a_text_or_a_number() {
        let on = |template: &str, row: Value| {
            let templates = Templates { prompt: template.into(), ..templates("prompt = ''") };
            let content = Content::of(row.as_object().unwrap(), Some(&templates)).map_err(|e| format!("{e:#}"))?;
            let Content::Text { prompt, .. } = content else { panic!() };
            Ok::<String, String>(prompt)
        };
        let nan = super::super::value::number(f64::NAN);
        let floats = json!({"a": 1e-7, "b": 1e16, "c": -1e-5, "d": 123456789012345.0, "e": 1e22});
        let printed = on("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ a * 10 }}", floats).unwrap();
        assert_eq!(printed, "1e-07 1e+16 -1e-05 123456789012345.0 1e+22 1e-06");
        assert_eq!(on("{{ a }} {{ b }} {{ c }}", json!({"a": true, "b": 2.5, "c": nan})).unwrap(), "True 2.5 nan");
        assert_eq!(on("{% if a %}{{ a }}{% else %}-{% endif %}", json!({"a": null})).unwrap(), "-");
        for (template, row, says) in [
            ("{{ a }}", json!({"a": null}), "`a` is null"),
            ("{{ a.b }}", json!({"a": {"b": null}}), "it prints null"),
            ("{{ a }}", json!({"a": ["x"]}), "it prints a list"),
            ("{{ a }}", json!({"a": {"x": 1}}), "it prints an object"),
            (
                "{{ a }}",
                json!({"a": super::super::value::unheld("bytes that are no UTF-8")}),
                "`a` is bytes that are no",
            ),
            ("{{ a }}", json!({"b": 1}), "it has no `a`"),
            ("{% for i in range(10**9) %}{{ i }}{% endfor %}", json!({"b": 1}), "range has too many elements"),
            (
                "\n{{ range(0, 5, 0) }}",
                json!({"b": 1}),
                "line 2: invalid operation: cannot create range with step of 0",
            ),
            ("{{ range(3) ~ a }}", json!({"b": 1}), "it has no `a`"),
        ] {
            let error = on(template, row.clone()).unwrap_err();
            assert!(error.contains(says), "{template} {row}: {error}");
        }
    }

    #[test]
    fn an_empty_list_of_references_is_a_question_without_an_answer() {
        let read = |row: Value, more: &str| {
            let templates = templates(&format!("prompt = 'q'\nreferences = 'answers.text'\n{more}"));
            Content::of(row.as_object().unwrap(), Some(&templates)).map_err(|e| format!("{e:#}"))
        };
        let unanswerable = |target: &str| Content::Text {
            prompt: "q".into(),
            target: target.into(),
            references: vec![],
            answerable: false,
        };
        assert_eq!(read(json!({"answers": {"text": []}}), "").unwrap(), unanswerable(""));
        assert_eq!(read(json!({"answers": {"text": []}}), "target = ' none'").unwrap(), unanswerable(" none"));
        let Content::Text { references, .. } = read(json!({"answers": {"text": "a"}}), "").unwrap() else { panic!() };
        assert_eq!(references, ["a"]);
        for (row, says) in [
            (json!({"answers": {"text": null}}), "is null, no list"),
            (json!({"answers": {"text": ["a", null]}}), "has null in place 2"),
            (json!({"answers": {}}), "is missing from the row"),
        ] {
            let error = read(row, "").unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
