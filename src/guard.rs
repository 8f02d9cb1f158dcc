//! Between calipr and what libraries make of a stranger's file: a panic there is an error here.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use anyhow::{Result, anyhow};

thread_local! {
    /// Whether this thread is inside of [`guarded`], where a panic is not to be printed.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of stack for what recurses as deep as its input is nested.
pub const STACK: usize = 512 << 20;

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

/// What a panic said.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a word")
}

/// Runs the program on a thread with a stack that deeply nested input does not exhaust.
pub fn with_room<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("calipr".into()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, f).expect("a thread can be started");
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
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
