//! Between calipr and what libraries make of a stranger's file: a panic there is an error here.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::{io, thread};

use anyhow::{Context, Error, Result, anyhow};

use crate::memory;

thread_local! {
    /// Whether this thread is inside of [`guarded`], where a panic is not to be printed.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of stack for what recurses as deep as its input is nested.
const STACK: usize = 512 << 20;

/// As many where the address space is limited: enough for anything that is not nested on purpose.
const SMALL_STACK: usize = 64 << 20;

/// Bytes of stack for a thread that reads what strangers wrote.
fn stack() -> usize {
    memory::limit().map_or(STACK, |limit| (limit.bytes() / 8).clamp(SMALL_STACK, STACK))
}

/// A thread to be started, with a stack that deeply nested input does not exhaust.
///
/// # Errors
/// Where there is no room for it.
pub fn thread() -> io::Result<thread::Builder> {
    let size = stack();
    memory::ensure_room_for_threads(1, size)?;
    Ok(thread::Builder::new().stack_size(size))
}

/// Calls a library. A panic in it becomes an error, which says what the panic said.
pub fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                print(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    result
        .unwrap_or_else(|panic| Err(anyhow!("it is damaged, or of a kind that calipr cannot read ({})", said(&*panic))))
}

/// What a panic says that nobody foresaw: a defect of calipr or of a library.
pub fn defect(panic: &(dyn Any + Send)) -> Error {
    anyhow!("calipr failed, which is a defect of it, please report it: {}", said(panic))
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a word")
}

/// Runs the program on a thread with a stack that deeply nested input does not exhaust.
///
/// # Errors
/// Where there is no room for it.
pub fn with_room<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let started = self::thread().and_then(|thread| thread.name("calipr".into()).spawn_scoped(scope, f));
        let started = started.with_context(|| format!("cannot start a thread with {} MB of stack", stack() >> 20))?;
        started.join().map_err(|panic| defect(&*panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let error = guarded(|| -> Result<()> { panic!("index {} of 3", 7) }).unwrap_err();
        assert!(error.to_string().contains("index 7 of 3"), "{error}");
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
        assert!(!GUARDED.get());
    }
}
