//! Conversations as a model's chat template has them (transformers: `apply_chat_template`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::model::json_file;
use crate::templates::{self, Date, Template};

/// A conversation, with what else a template may be shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// Objects, each with a `role`, and most with a `content`.
    pub messages: Vec<Value>,
    /// The tools that the model is offered, as JSON schemas, and documents; as they stand in the row.
    pub tools: Option<Value>,
    pub documents: Option<Value>,
    /// Variables of a template's own, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// Variables that every template is given.
const OWN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Names that a turn's reasoning goes by; templates read the first, and gpt-oss's the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Conversation {
    /// Of these messages, and the fields `tools`, `documents` and `chat_template_kwargs` of their row.
    ///
    /// # Errors
    /// Where the messages are no list of objects, or the variables no object.
    pub fn of(messages: &Value, row: &Map<String, Value>) -> Result<Self> {
        let messages = messages.as_array().with_context(|| {
            format!("`messages` is {}; expected a list of objects with `role` and `content`", kind(messages))
        })?;
        let variables = match row.get("chat_template_kwargs").map(|value| read("chat_template_kwargs", value)) {
            None => Map::new(),
            Some(value) => match value? {
                Value::Null => Map::new(),
                Value::Object(variables) => variables,
                other => bail!("`chat_template_kwargs` is {}; expected an object", kind(&other)),
            },
        };
        if let Some(name) = OWN.iter().find(|name| variables.contains_key(**name)) {
            bail!("`chat_template_kwargs` has `{name}`, which is a field of its own");
        }
        let field = |name: &str| row.get(name).filter(|value| !value.is_null()).cloned();
        let (tools, documents) = (field("tools"), field("documents"));
        let conversation = Self { messages: messages.clone(), tools, documents, variables };
        conversation.check()?;
        Ok(conversation)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.messages.is_empty(), "`messages` is empty; a conversation has one message at least");
        for (i, message) in self.messages.iter().enumerate() {
            ensure!(
                message.is_object(),
                "`messages` has {} as number {}; expected an object with `role` and `content`",
                kind(message),
                i + 1
            );
        }
        Ok(())
    }

    /// The messages as templates see them: without keys that are null, and with reasoning under both of its names.
    fn normalized(&self) -> Vec<Value> {
        let normalize = |message: &Value| {
            let fields = message.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
            let message: Map<String, Value> = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
            let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name)).cloned() else {
                return Value::Object(message);
            };
            let mut with = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
            with.extend(message);
            with.insert("reasoning_content".into(), reasoning);
            Value::Object(with)
        };
        self.messages.iter().map(normalize).collect()
    }
}

/// A field's value. As in TRL, it may be JSON text, which is how tables hold what has no fixed columns.
fn read(name: &str, value: &Value) -> Result<Value> {
    match value {
        Value::String(text) => serde_json::from_str(text).with_context(|| format!("`{name}` is text that is no JSON")),
        value => Ok(value.clone()),
    }
}

/// What a value is, for a message.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => "JSON text".into(),
        Value::String(_) => "text".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// The chat templates of a model. Most have one; several have names.
#[derive(Debug, Default)]
pub struct ChatTemplates {
    several: bool,
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    source: String,
    read: OnceLock<Result<Arc<Template>, String>>,
}

impl Named {
    fn new(name: &str, source: String) -> Self {
        Self { name: name.to_owned(), source, read: OnceLock::new() }
    }

    fn template(&self) -> Result<Arc<Template>> {
        let read = || {
            templates::check(&self.source)?;
            let source = self.source.clone();
            templates::in_time(move || Template::parse(&source).map(Arc::new))?
        };
        let read = self.read.get_or_init(|| read().map_err(|error| format!("{error:#}")));
        let read = read.clone().map_err(|error| anyhow!(error));
        read.context("the model's chat template cannot be rendered as transformers renders it")
    }
}

impl ChatTemplates {
    /// One template.
    pub fn one(source: String) -> Self {
        Self { several: false, named: vec![Named::new("default", source)] }
    }

    /// Of a folder with this `tokenizer_config.json`: files come before what the config has.
    pub fn of(dir: &Path, config: &Value) -> Result<Self> {
        let mut named = Vec::new();
        let path = dir.join("chat_template.jinja");
        if path.is_file() {
            named.push(Named::new("default", json_file::text(&path)?));
        }
        for path in Self::additional(dir)? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            named.push(Named::new(&name, json_file::text(&path)?));
        }
        if let [only] = &named[..]
            && only.name == "default"
        {
            return Ok(Self { several: false, named });
        }
        if !named.is_empty() {
            return Ok(Self { several: true, named });
        }
        Ok(match &config["chat_template"] {
            Value::Null => Self::default(),
            Value::String(source) => Self::one(source.clone()),
            Value::Array(items) => {
                let read =
                    |item: &Value| Some(Named::new(item["name"].as_str()?, item["template"].as_str()?.to_owned()));
                let named = items.iter().map(read).collect::<Option<_>>();
                let named = named
                    .context("`chat_template` of tokenizer_config.json has an item without `name` or `template`")?;
                Self { several: true, named }
            }
            Value::Object(items) => {
                let read = |(name, source): (&String, &Value)| Some(Named::new(name, source.as_str()?.to_owned()));
                let named = items.iter().map(read).collect::<Option<_>>();
                Self { several: true, named: named.context("`chat_template` of tokenizer_config.json has no texts")? }
            }
            other => bail!("`chat_template` of tokenizer_config.json is {}; expected a text", kind(other)),
        })
    }

    /// Files of further templates.
    pub fn additional(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
        let folder = dir.join("additional_chat_templates");
        if !folder.is_dir() {
            return Ok(vec![]);
        }
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jinja") && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Adds a template under a name; then there are several.
    pub fn add(&mut self, name: &str, source: String) {
        self.several = true;
        self.named.push(Named::new(name, source));
    }

    /// The sources, by their names.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|template| (template.name.as_str(), template.source.as_str()))
    }

    /// The one for a conversation with or without tools.
    fn choose(&self, tools: bool) -> Result<&Named> {
        ensure!(
            !self.named.is_empty(),
            "a conversation needs a chat template, but the model has none (neither a chat_template.jinja nor \
             `chat_template` in tokenizer_config.json)"
        );
        let named = |name: &str| self.named.iter().find(|template| template.name == name);
        if !self.several {
            return Ok(&self.named[0]);
        }
        named("tool_use").filter(|_| tools).or_else(|| named("default")).with_context(|| {
            let names: Vec<&str> = self.named.iter().map(|template| template.name.as_str()).collect();
            format!("the model has several chat templates ({}), but none called default", names.join(", "))
        })
    }

    /// An error where conversations cannot be rendered, whatever they say.
    pub fn check(&self) -> Result<()> {
        self.choose(false)?.template().map(|_| ())
    }
}

impl Tokenizer {
    /// The text of a conversation as the model's chat template has it. `answer` ends it where the model is to answer.
    ///
    /// # Errors
    /// Where the model has no chat template, or one that is not known, or it rejects the conversation.
    pub fn chat(&self, conversation: &Conversation, answer: bool) -> Result<String> {
        conversation.check()?;
        let chosen = self.templates.choose(conversation.tools.is_some())?;
        let template = chosen.template()?;
        // A field that the template does not look at may be what it wants.
        let list = |name: &str, value: &Option<Value>| match value {
            Some(value) if chosen.source.contains(name) => match read(name, value)? {
                Value::Array(items) if items.iter().all(Value::is_object) => Ok(Value::Array(items)),
                Value::Null => Ok(Value::Null),
                other => bail!("`{name}` is {}; the chat template expects a list of objects", kind(&other)),
            },
            _ => Ok(Value::Null),
        };
        let mut variables: Map<String, Value> =
            self.variables.iter().map(|(name, token)| (name.clone(), Value::String(token.clone()))).collect();
        variables.extend(conversation.variables.clone());
        variables.insert("messages".into(), Value::Array(conversation.normalized()));
        variables.insert("tools".into(), list("tools", &conversation.tools)?);
        variables.insert("documents".into(), list("documents", &conversation.documents)?);
        variables.insert("add_generation_prompt".into(), json!(answer));
        let today = self.today;
        let rendered = templates::in_time(move || template.render(&variables, today));
        rendered.and_then(|text| text).context("the model's chat template rejects a row")
    }

    /// The sources of the model's chat templates, by their names.
    pub fn chat_templates(&self) -> BTreeMap<String, String> {
        self.templates.sources().map(|(name, source)| (name.to_owned(), source.to_owned())).collect()
    }

    /// An error where conversations cannot be rendered, whatever they say.
    pub fn check_chat(&self) -> Result<()> {
        self.templates.check()
    }

    /// The same tokenizer on a day: what templates that ask for today's date are told.
    pub fn on(self, today: Option<Date>) -> Self {
        Self { today, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(row: Value) -> Result<Conversation> {
        Conversation::of(&row["messages"], row.as_object().unwrap())
    }

    fn rendered(template: &str, row: Value) -> String {
        let mut tokenizer = Tokenizer::for_tests();
        tokenizer.templates = ChatTemplates::one(template.to_owned());
        let text = conversation(row).and_then(|conversation| tokenizer.chat(&conversation, false));
        text.unwrap_or_else(|error| format!("{error:#}"))
    }

    #[test]
    fn a_turns_null_keys_are_absent_and_inner_ones_are_not() {
        let row = json!({"messages": [{"role": "a", "content": null, "calls": [{"x": null}]}]});
        assert_eq!(
            rendered("{{ messages[0] }}{{ messages[0].content }}", row),
            "{'role': 'a', 'calls': [{'x': None}]}"
        );
    }

    #[test]
    fn reasoning_goes_by_two_names() {
        let row = json!({"messages": [{"role": "a", "reasoning": "r"}]});
        assert_eq!(
            rendered("{{ messages[0] }}", row),
            "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'reasoning_content': 'r'}"
        );
    }

    #[test]
    fn a_rows_tools_and_variables_are_shown_to_the_template() {
        let template = "{{ tools[0].name }}{{ enable_thinking }}{{ documents }}";
        let row = json!({"messages": [{"role": "a"}], "tools": "[{\"name\": \"f\"}]", "chat_template_kwargs": {"enable_thinking": false}});
        assert_eq!(rendered(template, row), "fFalseNone");
    }

    #[test]
    fn a_field_that_the_template_does_not_look_at_may_be_anything() {
        let row = json!({"messages": [{"role": "a"}], "tools": "hammer", "documents": ["x"]});
        assert_eq!(rendered("{{ messages[0].role }}", row.clone()), "a");
        assert!(rendered("{{ tools }}", row.clone()).contains("`tools` is text that is no JSON"));
        assert!(rendered("{{ documents }}", row).contains("`documents` is a list; the chat template expects"));
    }

    #[test]
    fn messages_that_are_no_list_of_objects_are_an_error_that_says_so() {
        let errors = [
            (json!({"messages": "[{}]"}), "JSON text"),
            (json!({"messages": ["{}"]}), "JSON text as number 1"),
            (json!({"messages": [{"role": "a"}, "hi"]}), "text as number 2"),
            (json!({"messages": null}), "null"),
            (json!({"messages": []}), "empty"),
            (json!({"messages": [{"role": "a"}], "chat_template_kwargs": 3}), "`chat_template_kwargs` is 3"),
        ];
        for (row, said) in errors {
            let error = conversation(row).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn of_several_templates_the_one_for_tools_is_taken_with_tools() {
        let config =
            json!({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]});
        let templates = ChatTemplates::of(Path::new("nowhere"), &config).unwrap();
        assert_eq!((&*templates.choose(false).unwrap().source, &*templates.choose(true).unwrap().source), ("d", "t"));
        let config = json!({"chat_template": [{"name": "rag", "template": "r"}]});
        let error = ChatTemplates::of(Path::new("nowhere"), &config).unwrap().choose(false).unwrap_err().to_string();
        assert!(error.contains("rag") && error.contains("default"), "{error}");
    }

    #[test]
    fn files_come_before_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"chat_template": "c"});
        let source = |tools| ChatTemplates::of(dir.path(), &config).unwrap().choose(tools).map(|t| t.source.clone());
        assert_eq!(source(false).unwrap(), "c");
        std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
        std::fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "t").unwrap();
        assert_eq!(source(true).unwrap(), "t");
        assert!(source(false).is_err());
        std::fs::write(dir.path().join("chat_template.jinja"), "f").unwrap();
        assert_eq!((source(false).unwrap(), source(true).unwrap()), ("f".into(), "t".into()));
    }
}
