//! Warnings of a run: each is told once, and all are kept for `run.json`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of warnings that calibration has seen what a suite is judged on: they matter most.
pub const LEAK: &str = "calipr::leak";

/// The warnings so far. As a layer of the log it lets each text through once.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<Warning>>>);

#[derive(Debug, PartialEq)]
struct Warning {
    is_leak: bool,
    text: String,
}

impl Warnings {
    /// All of them, leaks first, else in order.
    pub fn all(&self) -> Vec<String> {
        let mut warnings: Vec<(bool, String)> =
            self.heard().iter().map(|warning| (!warning.is_leak, warning.text.clone())).collect();
        warnings.sort_by_key(|(later, _)| *later);
        warnings.into_iter().map(|(_, text)| text).collect()
    }

    /// Keeps it, unless it was there.
    fn is_new(&self, warning: Warning) -> bool {
        let mut heard = self.heard();
        let is_new = !heard.contains(&warning);
        if is_new {
            heard.push(warning);
        }
        is_new
    }

    /// Nothing that holds them leaves them half changed.
    fn heard(&self) -> MutexGuard<'_, Vec<Warning>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() != Level::WARN {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        self.is_new(Warning { is_leak: event.metadata().target() == LEAK, text: message.0 })
    }
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use tracing_subscriber::prelude::*;

    use super::*;

    /// What a log wrote.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_warning_is_told_once_and_leaks_come_first() {
        let (warnings, written) = (Warnings::default(), Written::default());
        let writer = written.clone();
        let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(log).with(warnings.clone());
        tracing::subscriber::with_default(subscriber, || {
            for name in ["a", "b", "a"] {
                tracing::warn!("the row \"{name}\" is long");
                tracing::info!("as often as it is said");
            }
            tracing::warn!(target: LEAK, "seen");
        });
        assert_eq!(warnings.all(), ["seen", "the row \"a\" is long", "the row \"b\" is long"]);
        let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |text: &str| log.matches(text).count();
        assert_eq!((count("\"a\" is long"), count("\"b\" is long"), count("as often")), (1, 1, 3), "{log}");
    }
}
