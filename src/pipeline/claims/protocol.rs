//! The protocol of claims, on any file system that several machines share.
//!
//! What is claimed has a name, and a claim is a file: `NAME.1` the first, `NAME.2` whoever took it over, and so on; the highest
//! number counts. All that is asked of the file system is that a file is made only where there is none, which the server decides
//! ([`Shared::create`]): NFS and Lustre do, and locks between hosts are not needed. What a machine reads may be old.
//!
//! The first line of a claim says who has it. While it is held a character is added every [`Rhythm::beat`], so that its length
//! is a clock that needs no other: whoever waits looks whether it grows, by a clock of its own, and compares no times of two
//! machines. What has not grown for [`Rhythm::silence`] is nobody's any more. A last line says how it ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claimant::Claimant;

/// What claims need of a file system that machines share.
pub trait Shared {
    /// Makes a file of this content unless there is one of this name: whatever this machine has seen, one machine of all succeeds.
    fn create(&self, name: &str, content: &str) -> io::Result<bool>;
    /// What a file has, as far as this machine sees it by now; None of one that it does not see.
    fn read(&self, name: &str) -> io::Result<Option<String>>;
    /// Adds to a file.
    fn append(&self, name: &str, text: &str) -> io::Result<()>;
    /// The time by a clock of this machine that only goes forward.
    fn now(&self) -> Duration;
    /// Seconds since 1970 by this machine's clock: for people to read, and nothing else.
    fn date(&self) -> u64;
}

/// How often a claim is renewed, and how long one is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    pub beat: Duration,
    /// Longer than a beat and what a file system may take to show it: NFS keeps what it has read for a minute.
    pub silence: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { beat: Duration::from_secs(20), silence: Duration::from_secs(150) }
    }
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ended")]
pub enum Ended {
    /// What was claimed is made; `note` says what is to be said of it.
    Done {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        note: Value,
    },
    Failed {
        why: String,
    },
    /// Whoever had it was told to end, or could not go on.
    Left,
}

/// What became of an attempt to claim something.
#[derive(Debug, Clone, PartialEq)]
pub enum Attempt {
    /// It is this one's, under this number.
    Mine(u32),
    /// Another has it; None where it cannot be seen yet who.
    Held(Option<Claimant>),
    /// Another has made it, which may not be seen here yet.
    Done(Value),
    Failed(String),
}

/// A claim as it was last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub by: Option<Claimant>,
    pub ended: Option<Ended>,
}

/// What is remembered of a name.
struct Seen {
    number: u32,
    length: usize,
    /// When it was first seen to be as long as that.
    since: Duration,
}

/// One of those who claim.
pub struct Protocol<S> {
    pub shared: S,
    pub me: Claimant,
    pub rhythm: Rhythm,
    seen: Mutex<HashMap<String, Seen>>,
}

/// The file of a claim.
pub fn file(name: &str, number: u32) -> String {
    format!("{name}.{number}")
}

impl<S: Shared> Protocol<S> {
    pub fn new(shared: S, me: Claimant, rhythm: Rhythm) -> Self {
        Self { shared, me, rhythm, seen: Mutex::default() }
    }

    /// Claims what has this name, which the caller has looked for and not found. What was done on a machine whose files are not
    /// seen here at once is waited for before it is made anew; what failed is taken where it is to be `retried`.
    ///
    /// # Errors
    /// Where files cannot be made or read there.
    pub fn take(&self, name: &str, retried: bool) -> io::Result<Attempt> {
        let mut number = self.last_seen(name);
        loop {
            let Some(text) = self.shared.read(&file(name, number))? else {
                return self.create(name, number);
            };
            // Whoever took it over has the next.
            if self.shared.read(&file(name, number + 1))?.is_some() {
                number += 1;
                continue;
            }
            let State { by, ended } = state(&text);
            let is_here = by.as_ref().is_some_and(|by| by.is_of_machine(&self.me));
            match ended {
                Some(Ended::Done { .. }) if is_here || self.is_silent(name, number, text.len()) => {}
                Some(Ended::Done { note }) => return Ok(Attempt::Done(note)),
                Some(Ended::Failed { why }) if !retried => return Ok(Attempt::Failed(why)),
                Some(Ended::Failed { .. } | Ended::Left) => {}
                None if by.as_ref().is_some_and(|by| by.has_ended(&self.me)) => {}
                None if self.is_silent(name, number, text.len()) => {}
                None => return Ok(Attempt::Held(by)),
            }
            if ended.is_none() {
                let who = by.map_or("somebody".into(), |by| by.to_string());
                tracing::info!("{who} ended without a word; going on from what it left");
            }
            return self.create(name, number + 1);
        }
    }

    /// The claim of this name as it is seen here; None where nobody has claimed it.
    pub fn state(&self, name: &str) -> io::Result<Option<State>> {
        let (mut number, mut last) = (self.last_seen(name), None);
        while let Some(text) = self.shared.read(&file(name, number))? {
            last = Some(state(&text));
            number += 1;
        }
        Ok(last)
    }

    /// Adds a character to a claim.
    pub fn beat(&self, name: &str, number: u32) -> io::Result<()> {
        self.shared.append(&file(name, number), ".")
    }

    /// Says how a claim ended.
    pub fn end(&self, name: &str, number: u32, ended: &Ended) -> io::Result<()> {
        let said = serde_json::to_string(ended).map_err(io::Error::other)?;
        self.shared.append(&file(name, number), &format!("\n{said}\n"))
    }

    fn create(&self, name: &str, number: u32) -> io::Result<Attempt> {
        // Since when this is claimed, not since when the process runs: it claims one after the other.
        let me = Claimant { since: self.shared.date(), ..self.me.clone() };
        let text = format!("{}\n", serde_json::to_string(&me).map_err(io::Error::other)?);
        match self.shared.create(&file(name, number), &text)? {
            true => {
                self.remember(name, number, text.len());
                Ok(Attempt::Mine(number))
            }
            // Another was faster; it may take a while until this machine sees whose it is.
            false => {
                let by = self.shared.read(&file(name, number))?.and_then(|text| state(&text).by);
                Ok(Attempt::Held(by))
            }
        }
    }

    /// Whether a claim has not grown for so long that nobody can be at it.
    fn is_silent(&self, name: &str, number: u32, length: usize) -> bool {
        let now = self.shared.now();
        let is_same = |seen: &Seen| (seen.number, seen.length) == (number, length);
        let since = self.seen().get(name).filter(|seen| is_same(seen)).map(|seen| seen.since);
        match since {
            Some(since) => now.saturating_sub(since) >= self.rhythm.silence,
            None => {
                self.remember(name, number, length);
                false
            }
        }
    }

    fn last_seen(&self, name: &str) -> u32 {
        self.seen().get(name).map_or(1, |seen| seen.number)
    }

    fn remember(&self, name: &str, number: u32, length: usize) {
        self.seen().insert(name.to_owned(), Seen { number, length, since: self.shared.now() });
    }

    /// Nothing that holds it leaves it half changed.
    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a claim's file says. A line that is not yet whole says nothing.
fn state(text: &str) -> State {
    let mut lines = text.lines();
    let by = lines.next().and_then(|line| serde_json::from_str(line).ok());
    State { by, ended: lines.rev().find_map(|line| serde_json::from_str(line).ok()) }
}
