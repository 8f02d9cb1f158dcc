//! A language model that judges generated answers: what it is asked, whom, and what is made of its replies.
//!
//! A [`Judge`] is of one suite. It asks several questions at once, in their order, within a budget of tokens; what it is to
//! keep of the replies, and what is already known, its caller says.

mod client;
mod completion;
mod prompt;
mod reply;
mod spec;

use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, ensure};

pub use client::Failed;
use client::{Client, Key};
use prompt::Prompts;
pub use prompt::{Answered, Question, Wanted};
pub use reply::{Reply, Verdict, Winner};
pub use spec::JudgeSpec;

use crate::guard;
use crate::source::web;

/// The judge of a suite.
pub struct Judge {
    spec: JudgeSpec,
    prompts: Prompts,
    /// None where nothing may be asked.
    client: Option<Client>,
    /// Tokens that were spent on this suite.
    spent: Mutex<u64>,
}

/// Questions that nobody answers, one after the other, before a server counts as gone.
const GIVEN_UP: usize = 3;

/// Tokens of a message that says what was wrong, at most.
const CORRECTION: usize = 150;

/// What became of questions that were put together.
#[derive(Debug, Default)]
pub struct Asked {
    /// How many were answered, usably or not.
    pub answered: usize,
    /// How many were not asked, since the tokens did not suffice.
    pub beyond: usize,
    /// Why others were not answered.
    pub failed: Vec<String>,
}

impl Judge {
    /// Of a suite, which is called `name`.
    ///
    /// # Errors
    /// Where the environment lacks the key.
    pub fn open(name: &str, spec: &JudgeSpec, offline: bool) -> Result<Self> {
        let client = match offline {
            true => None,
            false => {
                let key = key(name, spec)?;
                warn_of_plain_text(name, spec, key.as_ref());
                Some(Client::new(spec, key))
            }
        };
        Ok(Self { spec: spec.clone(), prompts: Prompts::of(spec), client, spent: Mutex::new(0) })
    }

    pub fn spec(&self) -> &JudgeSpec {
        &self.spec
    }

    /// Whether it may ask.
    pub fn is_online(&self) -> bool {
        self.client.is_some()
    }

    /// # Errors
    /// Where the template asks for what there is not.
    pub fn question(&self, answered: Answered) -> Result<Question> {
        self.prompts.question(answered)
    }

    /// What tells the reply to a question from others: not where the server is.
    pub fn identity<'a>(&'a self, question: &'a Question) -> (&'a str, &'a Question, usize, Vec<&'a str>, usize) {
        let criteria = match question.wanted {
            Wanted::Scores => self.prompts.criteria().iter().map(|criterion| criterion.name.as_str()).collect(),
            Wanted::Winner => vec![],
        };
        (&self.spec.model, question, self.spec.max_tokens, criteria, self.spec.repeats)
    }

    /// What a reply says; None where it cannot be used.
    pub fn verdict(&self, question: &Question, reply: &Reply) -> Option<Verdict> {
        reply.verdict(question.wanted, self.prompts.criteria())
    }

    /// Counts what a reply has cost that was had before.
    pub fn count(&self, reply: &Reply) {
        *locked(&self.spent) += reply.tokens;
    }

    /// About how many tokens a question and its reply take: four bytes each, and a dozen for a criterion.
    pub fn estimate(&self, bytes: usize) -> u64 {
        (bytes / 4 + 12 * (self.prompts.criteria().len() + 1)) as u64
    }

    /// Asks something of no consequence, to see whether the server is there, takes the key and has the model.
    ///
    /// # Errors
    /// Where it does not.
    pub fn reach(&self) -> Result<(), Failed> {
        let Some(client) = &self.client else { return Ok(()) };
        let question = Answered { question: "Say hello.", references: &["Hello.".to_owned()], answers: &["Hello."] };
        let question = self.prompts.question(question).map_err(|error| Failed::ForAll(format!("{error:#}")))?;
        let said = client.ask(&[question.text], &self.prompts.schema(question.wanted));
        said.map(drop).map_err(|failed| match failed {
            Failed::ForThis(said) | Failed::Gone(said) => Failed::ForAll(said),
            other => other,
        })
    }

    /// Puts questions, several at once; `keep` gets every reply with the question's number, as soon as it is there. What
    /// the budget has no room for is not asked, nor what comes after.
    ///
    /// # Errors
    /// Where none of them will be answered, or a reply cannot be kept, or the user wants an end.
    pub fn ask(
        &self,
        questions: &[&Question],
        keep: &(impl Fn(usize, &Reply) -> Result<()> + Sync),
    ) -> Result<Asked, Failed> {
        let Some(client) = &self.client else {
            return Ok(Asked::default());
        };
        let queue = Queue { state: Mutex::default(), settled: Condvar::new() };
        let work = || {
            while let Some(i) = queue.next(questions, self) {
                let asked = self.persist(client, questions[i]);
                queue.settle(self, self.most(questions[i]), asked, |reply| keep(i, reply));
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.spec.concurrency.min(questions.len()) {
                // Where there is no room for another thread, those that there are do it all.
                if guard::thread().and_then(|thread| thread.spawn_scoped(scope, work)).is_err() {
                    break;
                }
            }
            work();
        });
        let state = queue.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.end {
            Some(failed) => Err(failed),
            None => Ok(Asked { beyond: questions.len() - state.taken, ..state.asked }),
        }
    }

    /// What a question may take at most, taken three bytes a token: each time that it is asked again, it has the last reply
    /// and what was wrong behind it.
    fn most(&self, question: &Question) -> u64 {
        let (prompt, reply) = (question.text.len().div_ceil(3), self.spec.max_tokens);
        (prompt + reply + self.spec.repeats * (prompt + 2 * reply + CORRECTION)) as u64
    }

    /// Asks until the reply can be used, as often as it may.
    fn persist(&self, client: &Client, question: &Question) -> Result<Reply, Failed> {
        let schema = self.prompts.schema(question.wanted);
        let mut messages = vec![question.text.clone()];
        let (mut tokens, mut wrong, mut last) = (0, String::new(), String::new());
        let mut requests = 0;
        while requests <= self.spec.repeats {
            let said = client.ask(&messages, &schema)?;
            requests += 1;
            let counted = said.tokens.unwrap_or_else(|| {
                let bytes = messages.iter().map(String::len).sum::<usize>() + said.text.as_ref().map_or(0, String::len);
                bytes.div_ceil(4) as u64
            });
            tokens += counted;
            match said.text {
                Ok(text) => match reply::read(&text, question.wanted, self.prompts.criteria()) {
                    Ok(_) => return Ok(Reply { text, unusable: None, tokens, requests }),
                    Err(what) => {
                        wrong = if said.cut { format!("{what} (it was cut at max_tokens)") } else { what };
                        messages.truncate(1);
                        messages.extend([
                            text.clone(),
                            format!(
                                "That reply cannot be used: {wrong}. Reply with the JSON object that was asked for, and \
                                 nothing else."
                            ),
                        ]);
                        last = text;
                    }
                },
                Err(why) => {
                    wrong = why;
                    if wrong.starts_with("it refuses") {
                        break;
                    }
                }
            }
        }
        Ok(Reply { text: last, unusable: Some(wrong), tokens, requests })
    }
}

/// Says where a key is to be read on its way.
fn warn_of_plain_text(name: &str, spec: &JudgeSpec, key: Option<&Key>) {
    let host = web::host(&spec.endpoint).unwrap_or_default();
    let is_here = host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if let Some(key) = key
        && spec.endpoint.to_lowercase().starts_with("http://")
        && !is_here
    {
        tracing::warn!("[suite.{name}.judge]: the key in {} goes to {host} unencrypted; https would hide it", key.from);
    }
}

/// The key that the environment has.
fn key(name: &str, spec: &JudgeSpec) -> Result<Option<Key>> {
    let clean = |secret: String| secret.trim().to_owned();
    let place = format!("[suite.{name}.judge]");
    let is_plain = |secret: &String| secret.chars().all(|c| c.is_ascii_graphic());
    let not_plain =
        |variable: &str| format!("{place}: what {variable} holds is no key: it has blanks or characters beyond ASCII");
    let Some(variable) = &spec.key else {
        let Some(secret) = std::env::var(spec::OPENAI_KEY).ok().map(clean).filter(|secret| !secret.is_empty()) else {
            return Ok(None);
        };
        ensure!(is_plain(&secret), not_plain(spec::OPENAI_KEY));
        return Ok(Some(Key { secret, from: spec::OPENAI_KEY.to_owned() }));
    };
    let secret = std::env::var(variable).map(clean).unwrap_or_default();
    ensure!(
        !secret.is_empty(),
        "{place}: the environment variable {variable}, which is to hold the judge's key, is not set; set it, or run with \
         --offline to use only the replies in the cache"
    );
    ensure!(is_plain(&secret), not_plain(variable));
    Ok(Some(Key { secret, from: variable.clone() }))
}

/// Questions that are put one after the other, several at once.
struct Queue {
    state: Mutex<State>,
    /// Somebody's tokens are known.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Whether no more are put.
    closed: bool,
    in_flight: usize,
    /// What those in flight may take at most.
    reserved: u64,
    /// How many in a row were not answered.
    given_up: usize,
    asked: Asked,
    end: Option<Failed>,
}

impl Queue {
    /// The number of the next question, where there is one that may be asked. Whether the tokens suffice is decided as if
    /// one was asked after the other.
    fn next(&self, questions: &[&Question], judge: &Judge) -> Option<usize> {
        let mut state = locked(&self.state);
        loop {
            let i = state.taken;
            if state.closed || i >= questions.len() {
                return None;
            }
            let most = judge.most(questions[i]);
            let fits =
                judge.spec.max_tokens_total.is_none_or(|all| *locked(&judge.spent) + state.reserved + most <= all);
            if fits {
                state.taken += 1;
                state.in_flight += 1;
                state.reserved += most;
                return Some(i);
            }
            if state.in_flight == 0 {
                state.closed = true;
                return None;
            }
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn settle(
        &self,
        judge: &Judge,
        reserved: u64,
        asked: Result<Reply, Failed>,
        keep: impl FnOnce(&Reply) -> Result<()>,
    ) {
        let kept = asked.as_ref().map_or(Ok(()), keep);
        let mut state = locked(&self.state);
        state.in_flight -= 1;
        state.reserved -= reserved;
        let end = match (asked, kept) {
            (Ok(_), Err(error)) => Some(Failed::Here(error)),
            (Ok(reply), Ok(())) => {
                *locked(&judge.spent) += reply.tokens;
                state.asked.answered += 1;
                state.given_up = 0;
                None
            }
            (Err(Failed::ForThis(said)), _) => {
                state.asked.failed.push(said);
                state.given_up = 0;
                None
            }
            (Err(Failed::Gone(said)), _) => {
                state.given_up += 1;
                let is_gone = state.given_up >= GIVEN_UP;
                state.asked.failed.push(said.clone());
                is_gone.then(|| Failed::ForAll(format!("{said}; so it was {GIVEN_UP} times in a row")))
            }
            (Err(failed), _) => Some(failed),
        };
        if let Some(end) = end {
            state.closed = true;
            // The first reason is the one to tell.
            state.end.get_or_insert(end);
        }
        self.settled.notify_all();
    }
}

/// Nothing that holds these leaves them half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
