//! `[suite.NAME.judge]`: who judges generated answers, by what, and what that may cost.

use minijinja::syntax::SyntaxConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::prompt::Prompts;
use crate::source::web::{host, shown};

/// A language model that judges the answers of a suite.
///
/// It is asked through an OpenAI-compatible server (chat completions), at temperature 0. Its metrics are `judge_score`
/// and, where it is asked to compare, `judge_win_rate`; the suite has them without naming them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// The base address of the server, such as "https://api.openai.com/v1" or "http://127.0.0.1:8000/v1".
    pub endpoint: String,
    /// The model that judges, as the server calls it.
    pub model: String,
    /// The environment variable that holds the key, never the key itself; by default OPENAI_API_KEY, where that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is judged, each from 1 to 10: a name, or a name and what it means ("tone: it is polite").
    #[serde(default = "criteria")]
    pub criteria: Vec<String>,
    /// The question, a minijinja template of `question`, `reference`, `references`, `answer`, `criteria` (with `name` and
    /// `meaning`) and `example` (the JSON that is wanted); by default calipr's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Whether answers are also compared with the dense model's, asked twice with the order swapped.
    #[serde(default)]
    pub pairwise: bool,
    /// The question of a comparison, of `answer_a` and `answer_b` instead of `answer`; by default calipr's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairwise_prompt: Option<String>,
    /// Tokens of a reply, at most.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// Rows whose answers are judged, from the start; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// How often a reply that cannot be used is asked for again, with what was wrong.
    #[serde(default = "repeats")]
    pub repeats: usize,
    /// Requests in a minute, at most; by default as many as the server answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<usize>,
    /// Tokens of all prompts and replies of this suite, at most: what would go beyond is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens_total: Option<u64>,
    /// Requests at once.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: usize,
    /// Seconds that a reply may take.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1))]
    pub timeout: usize,
}

/// Khanal & Capone (2024, arXiv:2409.11233) had GPT-4o give five scores from 1 to 10; these five are calipr's own.
fn criteria() -> Vec<String> {
    [
        "accuracy: what it says is true, and agrees with the reference",
        "completeness: it has all that the reference has",
        "relevance: it answers what was asked, and nothing else",
        "coherence: its parts follow from one another",
        "fluency: it is well written, without repetitions",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn max_tokens() -> usize {
    512
}

fn repeats() -> usize {
    2
}

fn concurrency() -> usize {
    4
}

fn timeout() -> usize {
    60
}

/// The variable that has the key where none is named.
pub const OPENAI_KEY: &str = "OPENAI_API_KEY";

/// How keys begin that are in use.
const KEYS: [&str; 8] = ["sk-", "sk_", "gsk_", "hf_", "xai-", "AIza", "pplx-", "Bearer"];

/// A criterion that answers are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Criterion {
    pub name: String,
    pub meaning: String,
}

impl Criterion {
    fn of(text: &str) -> Self {
        let (name, meaning) = text.split_once(':').unwrap_or((text, ""));
        Self { name: name.trim().to_owned(), meaning: meaning.trim().to_owned() }
    }

    fn has_name(&self) -> bool {
        let plain = |c: char| c.is_alphanumeric() || " _-".contains(c);
        !self.name.is_empty() && self.name.chars().count() <= 40 && self.name.chars().all(plain)
    }
}

impl JudgeSpec {
    pub fn criteria(&self) -> Vec<Criterion> {
        self.criteria.iter().map(|text| Criterion::of(text)).collect()
    }

    /// Whether rows have to have a reference.
    pub fn wants_reference(&self) -> bool {
        Prompts::of(self).wants_reference()
    }

    /// The address that questions go to.
    pub fn url(&self) -> String {
        format!("{}/chat/completions", self.endpoint.trim_end_matches('/'))
    }

    /// What tells how fast it answers: the model, the server, and the limits within which it is asked.
    pub fn pace(&self) -> String {
        let Self { model, endpoint, concurrency, requests_per_minute, .. } = self;
        let paced = requests_per_minute.map_or(String::new(), |requests| format!(", {requests} a minute"));
        format!("judge {model} at {}, {concurrency} at once{paced}", shown(endpoint.trim_end_matches('/')))
    }

    /// The least time between two answers, in seconds, that the recipe's limit leaves; 0 where it sets none.
    pub fn least_seconds(&self) -> f64 {
        self.requests_per_minute.map_or(0.0, |requests| 60.0 / requests.max(1) as f64)
    }

    /// What decides what is said of an answer: studies that differ in it have other scores.
    pub fn asks(&self) -> Value {
        let Self { model, criteria, prompt, pairwise_prompt, max_tokens, limit, .. } = self;
        json!({
            "model": model,
            "criteria": criteria,
            "prompt": prompt,
            "pairwise_prompt": pairwise_prompt,
            "max_tokens": max_tokens,
            "limit": limit,
        })
    }

    /// Whether the key's place holds what looks like a key: what it is has to stay out of every message.
    pub fn holds_a_key(&self) -> bool {
        self.key.as_deref().is_some_and(looks_like_a_key)
    }

    /// What is wrong with it, by its keys.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = vec![];
        let mut add = |key, said: String| problems.push((key, said));
        match host(&self.endpoint) {
            _ if self.endpoint.contains('@') => add(
                "endpoint",
                "it has a name or a password in it; give the address alone, and in `key` the environment variable that has \
                 the key"
                    .into(),
            ),
            None => add(
                "endpoint",
                format!("\"{}\" is no address; expected one such as https://api.openai.com/v1", self.endpoint),
            ),
            Some(_) if self.endpoint.contains(['?', '#']) => {
                add("endpoint", format!("expected an address without a query, such as {}", shown(&self.endpoint)));
            }
            Some(_) if self.endpoint.trim_end_matches('/').ends_with("/chat/completions") => {
                add("endpoint", "it is taken for a base address, to which /chat/completions is added; leave that out".into());
            }
            Some(_) => {}
        }
        if self.model.trim().is_empty() {
            add("model", "it names no model; expected one as the server calls it, such as gpt-4o".into());
        }
        match &self.key {
            Some(key) if looks_like_a_key(key) => {}
            Some(key) if !is_variable(key) => add(
                "key",
                "it is no name of an environment variable; expected one such as OPENAI_API_KEY, which holds the key"
                    .into(),
            ),
            _ => {}
        }
        let criteria = self.criteria();
        if criteria.is_empty() {
            add("criteria", "the list is empty; expected at least one".into());
        }
        for (i, criterion) in criteria.iter().enumerate() {
            if !criterion.has_name() {
                let said =
                    "expected a name of letters, digits, spaces, '-' and '_', or a name, a colon and what it means";
                add("criteria", format!("\"{}\": {said}", self.criteria[i]));
            } else if criteria[..i].iter().any(|earlier| earlier.name == criterion.name) {
                add("criteria", format!("\"{}\" is there twice", criterion.name));
            }
        }
        for (key, value) in [
            ("max_tokens", Some(self.max_tokens as u64)),
            ("limit", self.limit.map(|n| n as u64)),
            ("requests_per_minute", self.requests_per_minute.map(|n| n as u64)),
            ("max_tokens_total", self.max_tokens_total),
            ("concurrency", Some(self.concurrency as u64)),
            ("timeout", Some(self.timeout as u64)),
        ] {
            if value == Some(0) {
                add(key, "0 is too small; expected at least 1".into());
            }
        }
        if self.concurrency > 64 {
            add("concurrency", format!("{} is too large; expected at most 64", self.concurrency));
        }
        if self.pairwise_prompt.is_some() && !self.pairwise {
            add("pairwise_prompt", "without `pairwise = true` nothing is compared".into());
        }
        if !criteria.is_empty() {
            problems.extend(Prompts::of(self).problems());
        }
        problems
    }
}

/// Whether it may name a variable of the environment.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Keys are long, and of all sorts of characters; names of variables are not.
fn looks_like_a_key(text: &str) -> bool {
    let has = |kind: fn(&char) -> bool| text.chars().any(|c| kind(&c));
    let is_mixed = has(char::is_ascii_lowercase) && has(char::is_ascii_digit);
    KEYS.iter().any(|begins| text.starts_with(begins)) || (text.len() >= 20 && (is_mixed || !is_variable(text)))
}

/// The syntax of its templates: that of data sets'.
pub fn syntax() -> SyntaxConfig {
    SyntaxConfig::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(toml: &str) -> JudgeSpec {
        let given = |key: &str| toml.lines().any(|line| line.starts_with(key));
        let endpoint = if given("endpoint") { "" } else { "endpoint = 'http://127.0.0.1:8000/v1/'\n" };
        let model = if given("model") { "" } else { "model = 'judge'\n" };
        toml::from_str(&format!("{endpoint}{model}{toml}")).unwrap()
    }

    #[test]
    fn an_endpoint_a_model_and_nothing_else_will_do() {
        let spec = spec("");
        assert_eq!(spec.problems(), []);
        assert_eq!(spec.url(), "http://127.0.0.1:8000/v1/chat/completions");
        assert_eq!(spec.criteria().len(), 5);
        assert!(!spec.holds_a_key());
    }

    #[test]
    fn what_cannot_be_meant_is_told_by_its_key() {
        for (toml, key, said) in [
            ("endpoint = 'api.openai.com/v1'", "endpoint", "is no address"),
            ("endpoint = 'https://me:word@h/v1'", "endpoint", "password"),
            ("endpoint = 'https://h/v1?key=1'", "endpoint", "without a query"),
            ("endpoint = 'https://h/v1/chat/completions'", "endpoint", "leave that out"),
            ("model = ' '", "model", "names no model"),
            ("key = 'OPENAI KEY'", "key", "no name of an environment variable"),
            ("criteria = []", "criteria", "empty"),
            ("criteria = ['tone', 'tone: polite']", "criteria", "twice"),
            ("criteria = ['{tone}']", "criteria", "expected a name"),
            ("limit = 0", "limit", "at least 1"),
            ("concurrency = 65", "concurrency", "at most 64"),
            ("pairwise_prompt = '{{ answer_a }} {{ answer_b }}'", "pairwise_prompt", "pairwise = true"),
            ("prompt = '{{ answer'", "prompt", "template"),
            ("prompt = '{{ answer }} {{ nonsense }}'", "prompt", "undefined"),
            ("prompt = '{{ question }}'", "prompt", "{{ answer }}"),
            ("pairwise = true\npairwise_prompt = '{{ answer_a }}'", "pairwise_prompt", "{{ answer_b }}"),
        ] {
            let problems = spec(toml).problems();
            assert_eq!(problems.len(), 1, "{toml}: {problems:?}");
            assert!(problems[0].0 == key && problems[0].1.contains(said), "{toml}: {problems:?}");
        }
    }

    #[test]
    fn a_key_is_told_from_the_name_of_a_variable() {
        for key in
            ["sk-proj-abc", "gsk_x", "hf_abc", "AIzaSyD", "0123456789abcdef0123456789abcdef", "a b c d e f g h i j k"]
        {
            assert!(spec(&format!("key = '{key}'")).holds_a_key(), "{key}");
        }
        for name in ["OPENAI_API_KEY", "MY_KEY_2", "A_VERY_LONG_NAME_OF_A_VARIABLE_1", "key"] {
            assert!(!spec(&format!("key = '{name}'")).holds_a_key(), "{name}");
        }
    }
}
