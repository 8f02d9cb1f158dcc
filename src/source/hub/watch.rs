//! Who looks on while something is downloaded: what draws progress, and asks to end.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::failure::Failure;

/// Who looks on. Of a download everything is told from the thread that works on it.
pub trait Watch: Sync + Send {
    /// So many files of a source begin to come, of which so many bytes are still to come.
    fn begins(&self, source: &str, files: usize, bytes: u64);

    /// So many bytes have come.
    fn receives(&self, bytes: u64);

    /// What came is thrown away: so many bytes will come again.
    fn loses(&self, bytes: u64);

    /// All has come, or nothing more will.
    fn ends(&self, whole: bool);

    /// Whether the user wants an end.
    fn interrupted(&self) -> bool;
}

static WATCH: OnceLock<Box<dyn Watch>> = OnceLock::new();

/// Says who looks on from now on, in this process: what is fetched is fetched deep inside of what asks for it. Only the
/// first is heard.
pub fn watched_by(watch: Box<dyn Watch>) {
    let _ = WATCH.set(watch);
}

pub fn tell(what: impl FnOnce(&dyn Watch)) {
    if let Some(watch) = WATCH.get() {
        what(watch.as_ref());
    }
}

pub fn is_interrupted() -> bool {
    WATCH.get().is_some_and(|watch| watch.interrupted())
}

/// Waits, unless the user wants an end.
pub fn sleep(time: Duration) -> Result<(), Failure> {
    let until = Instant::now() + time;
    loop {
        if is_interrupted() {
            return Err(Failure::Interrupted);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}
