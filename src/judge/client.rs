//! Questions to an OpenAI-compatible server: what is tried again, what is given up, and what ends the run.

use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;

use super::completion::{self, Answer, Said, Words};
use crate::source::web::{self, Failure, Proxies};

/// Speaks to the server of a judge, from several threads.
pub struct Client {
    agents: Proxies<Agent>,
    url: String,
    model: String,
    max_tokens: usize,
    key: Option<Key>,
    timeout: Duration,
    /// The time between two requests, where it is limited, and when the next may begin.
    pace: Option<Duration>,
    next: Mutex<Instant>,
    dialect: Mutex<Dialect>,
}

/// What the server is addressed with. Only a header has it: it has no way into a message.
pub struct Key {
    pub secret: String,
    /// The variable that it stands in.
    pub from: String,
}

/// What the server understands, as far as it has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    format: Format,
    /// The name of the bound: `max_completion_tokens` instead of `max_tokens`.
    new_bound: bool,
    /// Some models have only a temperature of their own.
    temperature: bool,
}

/// How JSON is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Schema,
    Object,
    Plain,
}

/// Why there is no reply.
#[derive(Debug)]
pub enum Failed {
    /// There will be none to any question: a wrong key, an unknown model.
    ForAll(String),
    /// The server will not answer this question; others it may.
    ForThis(String),
    /// Nobody answered, however often it was tried.
    Gone(String),
    /// Something on this machine.
    Here(anyhow::Error),
    Interrupted,
}

/// Bytes of an answer that are read.
const LONGEST: u64 = 16 << 20;

/// How often a connection is tried again that cannot be made.
const CONNECTIONS: u32 = 2;

/// How often a server is waited for in vain that takes longer than it may.
const TIMEOUTS: u32 = 2;

/// What a single request came to.
enum Once {
    Said(Said),
    /// The server does not know what it was asked with.
    Other(Dialect),
}

impl Client {
    pub fn new(spec: &super::JudgeSpec, key: Option<Key>) -> Self {
        let timeout = Duration::from_secs(spec.timeout as u64);
        let agent = format!("calipr/{}", env!("CARGO_PKG_VERSION"));
        Self {
            agents: web::agents(&agent, timeout, timeout),
            url: spec.url(),
            model: spec.model.clone(),
            max_tokens: spec.max_tokens,
            key,
            timeout,
            pace: spec.requests_per_minute.map(|n| Duration::from_secs_f64(60.0 / n as f64)),
            next: Mutex::new(Instant::now()),
            dialect: Mutex::new(Dialect { format: Format::Schema, new_bound: false, temperature: true }),
        }
    }

    /// Asks, and tries again what fails in passing. `messages` are of the roles user and assistant in turn, and the reply
    /// is wanted in JSON of this `schema`.
    pub fn ask(&self, messages: &[String], schema: &Value) -> Result<Said, Failed> {
        let (mut tries, mut timeouts, mut connections) = (0, 0, 0);
        loop {
            let dialect = *locked(&self.dialect);
            let failure = match self.once(messages, schema, dialect) {
                Ok(Once::Said(said)) => return Ok(said),
                Ok(Once::Other(other)) => {
                    let mut known = locked(&self.dialect);
                    // Another thread may have found out meanwhile.
                    if *known == dialect {
                        *known = other;
                    }
                    continue;
                }
                Err(Attempt::Failed(failed)) => return Err(failed),
                Err(Attempt::Late) => {
                    timeouts += 1;
                    let seconds = self.timeout.as_secs();
                    if timeouts > TIMEOUTS {
                        let said =
                            format!("{} does not answer within {seconds} s (tried {timeouts} times)", self.host());
                        return Err(Failed::Gone(said));
                    }
                    (format!("{} does not answer within {seconds} s", self.host()), None)
                }
                Err(Attempt::Unconnected(said)) => {
                    connections += 1;
                    if connections > CONNECTIONS {
                        return Err(Failed::Gone(self.without_key(&said)));
                    }
                    (said, None)
                }
                Err(Attempt::Passing(said, wait)) => (format!("{}: {said}", self.host()), wait),
            };
            let (said, wait) = failure;
            web::pause(&mut tries, &said, wait).map_err(|failure| self.failed(failure))?;
        }
    }

    fn failed(&self, failure: Failure) -> Failed {
        match failure {
            Failure::Interrupted => Failed::Interrupted,
            Failure::Passing { said, .. } | Failure::Unreachable(said) | Failure::Strange(said) => {
                Failed::Gone(self.without_key(&said))
            }
            Failure::Here(error) => Failed::Here(error),
            Failure::Refused(refused) => Failed::Gone(self.without_key(&format!("{refused:?}"))),
        }
    }

    fn host(&self) -> String {
        web::host(&self.url).unwrap_or_else(|| web::shown(&self.url))
    }

    /// Whatever a server says of the key, it is not passed on.
    fn without_key(&self, said: &str) -> String {
        match &self.key {
            Some(key) if !key.secret.is_empty() => said.replace(&key.secret, "…"),
            _ => said.to_owned(),
        }
    }

    /// Waits for its turn.
    fn wait(&self) -> Result<(), Attempt> {
        let Some(pace) = self.pace else { return Ok(()) };
        let turn = {
            let mut next = locked(&self.next);
            let turn = (*next).max(Instant::now());
            *next = turn + pace;
            turn
        };
        web::sleep(turn.saturating_duration_since(Instant::now())).map_err(|_| Attempt::Failed(Failed::Interrupted))
    }

    fn once(&self, messages: &[String], schema: &Value, dialect: Dialect) -> Result<Once, Attempt> {
        self.wait()?;
        if web::is_interrupted() {
            return Err(Attempt::Failed(Failed::Interrupted));
        }
        let body = self.body(messages, schema, dialect).to_string();
        let mut request = self.agents.of_url(&self.url).0.post(&self.url).header("content-type", "application/json");
        request = request.header("accept-encoding", "identity");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {}", key.secret));
        }
        let response = request.config().timeout_global(Some(self.timeout)).build().send(body.as_bytes());
        let (parts, body) = response.map_err(|error| self.unreached(&error))?.into_parts();
        let header = |name: &str| parts.headers.get(name)?.to_str().ok().map(str::to_owned);
        let status = parts.status.as_u16();
        if (300..400).contains(&status) {
            let to = header("location").map_or(String::new(), |to| format!(" to {}", web::shown(&to)));
            return Err(self.for_all(&format!("it redirects{to}, where the key does not go; give the address itself")));
        }
        let mut bytes = Vec::new();
        let read = body.into_reader().take(LONGEST).read_to_end(&mut bytes);
        let text = completion::text(&bytes, LONGEST);
        match status {
            200..300 => {
                read.map_err(|error| broken(&error))?;
                self.completed(completion::read(&text.map_err(|error| broken(&error))?), web::wait(header), dialect)
            }
            _ => self.refused(status, &completion::words(&text.unwrap_or_default()), web::wait(header), dialect),
        }
    }

    /// What is to be made of an answer whose status is one of success.
    fn completed(&self, answer: Answer, wait: Option<Duration>, dialect: Dialect) -> Result<Once, Attempt> {
        match answer {
            // Replies are kept.
            Answer::Said(said) => Ok(Once::Said(Said { text: said.text.map(|text| self.without_key(&text)), ..said })),
            Answer::Failed(Some(status), words) => self.refused(status, &words, wait, dialect),
            Answer::Failed(None, words) => match self.refused(500, &words, wait, dialect) {
                Err(Attempt::Passing(_, wait)) => {
                    let said = self.without_key(&words.short);
                    Err(Attempt::Passing(format!("it answers with an error ({said})"), wait))
                }
                other => other,
            },
            Answer::Strange => {
                Err(Attempt::Passing("it answers with something other than a chat completion".into(), None))
            }
        }
    }

    fn body(&self, messages: &[String], schema: &Value, dialect: Dialect) -> Value {
        let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
        let messages: Vec<Value> =
            (messages.iter().enumerate()).map(|(i, content)| json!({ "role": role(i), "content": content })).collect();
        let mut body = json!({ "model": self.model, "messages": messages });
        body[if dialect.new_bound { "max_completion_tokens" } else { "max_tokens" }] = json!(self.max_tokens);
        if dialect.temperature {
            body["temperature"] = json!(0);
        }
        match dialect.format {
            Format::Schema => {
                let named = json!({ "name": "verdict", "strict": true, "schema": schema });
                body["response_format"] = json!({ "type": "json_schema", "json_schema": named });
            }
            Format::Object => body["response_format"] = json!({ "type": "json_object" }),
            Format::Plain => {}
        }
        body
    }

    /// What is to be made of an answer that is no success.
    fn refused(&self, status: u16, said: &Words, wait: Option<Duration>, dialect: Dialect) -> Result<Once, Attempt> {
        let Words { short, all } = said;
        let said = self.without_key(short);
        let words = if said.is_empty() { String::new() } else { format!(": {said}") };
        let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
        let says = |words: &[&str]| words.iter().any(|word| said.to_lowercase().contains(word));
        match status {
            // Servers differ in how they say that they do not know a part of the question.
            400 | 422 | 500 | 501 if has(&["response_format", "json_schema", "json_object", "grammar"]) => {
                match dialect.format {
                    Format::Schema => return Ok(Once::Other(Dialect { format: Format::Object, ..dialect })),
                    Format::Object => return Ok(Once::Other(Dialect { format: Format::Plain, ..dialect })),
                    Format::Plain => {}
                }
            }
            400 | 422 if has(&["max_completion_tokens"]) && !dialect.new_bound => {
                return Ok(Once::Other(Dialect { new_bound: true, ..dialect }));
            }
            400 | 422 if has(&["temperature"]) && dialect.temperature => {
                tracing::warn!(
                    "{} has no temperature 0: asked again, it may judge otherwise; replies are kept, so that tables stay",
                    self.model
                );
                return Ok(Once::Other(Dialect { temperature: false, ..dialect }));
            }
            _ => {}
        }
        Err(match (status, &self.key) {
            // A question that is not let through, not a key.
            (403, _) if has(&["moderation", "flagged"]) => {
                Attempt::Failed(Failed::ForThis(format!("{} refuses ({status}{words})", self.host())))
            }
            (401 | 403, Some(key)) => {
                self.for_all(&format!("it does not take the key in {} ({status}{words})", key.from))
            }
            (401 | 403, None) => self.for_all(&format!(
                "it asks for a key ({status}{words}); `key` names the environment variable that holds it"
            )),
            (404, _) => {
                self.for_all(&format!("it has no model \"{}\", or no chat completions there (404{words})", self.model))
            }
            // An account without money does not come right by waiting.
            (402, _) => self.for_all(&format!("it wants to be paid (402{words})")),
            (429, _) if has(&["insufficient_quota"]) => self.for_all(&format!("the quota is used up (429{words})")),
            (400 | 422, _) if says(&["model"]) && says(&["not found", "does not exist", "unknown", "not exist"]) => {
                self.for_all(&format!("it has no model \"{}\" ({status}{words})", self.model))
            }
            (408 | 409 | 425 | 429 | 500..600, _) => Attempt::Passing(format!("{status}{words}"), wait),
            _ => Attempt::Failed(Failed::ForThis(format!("{} refuses ({status}{words})", self.host()))),
        })
    }

    fn for_all(&self, said: &str) -> Attempt {
        Attempt::Failed(Failed::ForAll(format!("{}: {said}", web::shown(&self.url))))
    }

    fn unreached(&self, error: &ureq::Error) -> Attempt {
        match web::unreached(&self.agents, &self.url, error) {
            Failure::Passing { said, .. } if matches!(error, ureq::Error::Timeout(_)) => {
                tracing::debug!("{said}");
                Attempt::Late
            }
            Failure::Passing { said, wait } => Attempt::Passing(said, wait),
            // A server that is started anew is not there for a moment.
            Failure::Unreachable(said) if matches!(error, ureq::Error::Io(e) if web::is_transient(e)) => {
                Attempt::Unconnected(said)
            }
            failure => Attempt::Failed(self.failed(failure)),
        }
    }
}

/// Why a single request came to nothing.
enum Attempt {
    Failed(Failed),
    Passing(String, Option<Duration>),
    /// Nobody is there, or no longer.
    Unconnected(String),
    /// It took longer than it may.
    Late,
}

fn broken(error: &io::Error) -> Attempt {
    let is_late = error.kind() == io::ErrorKind::TimedOut || error.to_string().contains("timeout");
    match web::broken(error) {
        Failure::Interrupted => Attempt::Failed(Failed::Interrupted),
        _ if is_late => Attempt::Late,
        Failure::Passing { said, wait } => Attempt::Passing(said, wait),
        _ => Attempt::Passing("the connection broke".into(), None),
    }
}

/// Nothing that holds these leaves them half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let spec = "endpoint = 'http://h.example/v1'\nmodel = 'm'\nmax_tokens = 9";
        let key = Key { secret: "s3cret".into(), from: "MY_KEY".into() };
        Client::new(&toml::from_str(spec).unwrap(), Some(key))
    }

    #[test]
    fn what_a_server_does_not_know_is_left_out_one_after_the_other() {
        let client = client();
        let mut dialect = *locked(&client.dialect);
        let mut bodies = vec![];
        for said in [
            "response_format json_schema is not supported",
            "Invalid response_format: json_object",
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "'temperature' does not support 0 with this model.",
        ] {
            bodies.push(client.body(&["q".into(), "r".into()], &json!({}), dialect));
            dialect = match client.refused(400, &completion::words(said), None, dialect) {
                Ok(Once::Other(other)) => other,
                _ => panic!("{said}"),
            };
        }
        bodies.push(client.body(&["q".into()], &json!({}), dialect));
        let formats: Vec<&Value> = bodies.iter().map(|body| &body["response_format"]["type"]).collect();
        assert_eq!(formats, [&json!("json_schema"), &json!("json_object"), &Value::Null, &Value::Null, &Value::Null]);
        assert_eq!(bodies[0]["messages"][1], json!({ "role": "assistant", "content": "r" }));
        assert_eq!((&bodies[2]["max_tokens"], &bodies[3]["max_completion_tokens"]), (&json!(9), &json!(9)));
        assert_eq!((&bodies[3]["temperature"], &bodies[4]["temperature"]), (&json!(0), &Value::Null));
        assert!(matches!(
            client.refused(400, &completion::words("response_format"), None, dialect),
            Err(Attempt::Failed(Failed::ForThis(_)))
        ));
    }

    #[test]
    fn a_wrong_key_an_unknown_model_and_an_empty_purse_end_the_run_and_the_key_is_not_told() {
        let client = client();
        let dialect = *locked(&client.dialect);
        for (status, said, expected) in [
            (401, "no: s3cret", "does not take the key in MY_KEY (401: no: …)"),
            (404, "", "no model \"m\""),
            (400, "The model `m` does not exist", "no model \"m\""),
            (429, "{\"error\": {\"message\": \"pay\", \"type\": \"insufficient_quota\"}}", "quota is used up"),
        ] {
            match client.refused(status, &completion::words(said), None, dialect) {
                Err(Attempt::Failed(Failed::ForAll(found))) => {
                    assert!(found.contains(expected) && !found.contains("s3cret"), "{found}");
                    assert!(found.starts_with("http://h.example/v1/chat/completions: "), "{found}");
                }
                _ => panic!("{status}"),
            }
        }
        for status in [408, 429, 500, 503] {
            assert!(
                matches!(client.refused(status, &Words::default(), None, dialect), Err(Attempt::Passing(..))),
                "{status}"
            );
        }
        assert!(matches!(
            client.refused(400, &completion::words("too long"), None, dialect),
            Err(Attempt::Failed(Failed::ForThis(_)))
        ));
    }
}
