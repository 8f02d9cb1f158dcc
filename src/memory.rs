//! What happens where memory cannot be had: an address space that `ulimit -v` limits, or a system that promises no more
//! than it has.

use std::alloc::{GlobalAlloc, Layout};
use std::fmt::{self, Write};
use std::{fs, io};

use mimalloc::MiMalloc;

/// mimalloc, which ends the program with words where memory runs out, and not by a signal.
pub struct Told;

/// More bytes than any machine has: whoever asks for so many was told so by a damaged file, and has to cope.
const ABSURD: usize = 1 << 44;

// SAFETY: mimalloc does all of it; what is done beside it does not allocate.
unsafe impl GlobalAlloc for Told {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very function.
        had(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        had(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        had(unsafe { MiMalloc.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) }
    }
}

#[inline]
fn had(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() && bytes < ABSURD {
        run_out(bytes);
    }
    block
}

/// Ends the program. What was finished of a study is in the cache.
#[cold]
fn run_out(bytes: usize) {
    let mut line = Line { text: [0; 300], length: 0 };
    let _ = write!(line, "error: memory ran out: {} MB more cannot be had", bytes.div_ceil(1_000_000));
    if let Some(limit) = limit() {
        let _ = write!(line, ": {limit}; raise it, or ask for less");
    }
    let _ = writeln!(line);
    #[cfg(unix)]
    // SAFETY: the text is as long as is said. Nothing that this process has open needs more than its end.
    unsafe {
        libc::write(2, line.text.as_ptr().cast(), line.length);
        libc::_exit(1);
    }
}

/// A text without memory of its own.
struct Line {
    text: [u8; 300],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

/// A limit of this process's address space.
pub struct Limit(u64);

impl Limit {
    pub fn bytes(&self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the address space of this process is limited to {} MB (ulimit -v)", self.0 / 1_000_000)
    }
}

/// The limit, where there is one.
#[cfg(unix)]
pub fn limit() -> Option<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a place of the right type.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(Limit(limit.rlim_cur))
}

#[cfg(not(unix))]
pub fn limit() -> Option<Limit> {
    None
}

/// An error where the address space is limited and has no room for so many bytes more. For libraries that do not cope with
/// a refusal.
///
/// # Errors
/// With the limit.
pub fn ensure_room(bytes: u64) -> io::Result<()> {
    let Some(limit) = limit() else { return Ok(()) };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    match used.is_some_and(|used| (used << 10).saturating_add(bytes) > limit.0) {
        true => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        false => Ok(()),
    }
}

/// Bytes of a thread's stack where nothing else is asked for: the standard library's own default.
pub const STACK: usize = 2 << 20;

/// [`ensure_room`] for threads with stacks of `stack` bytes. The standard library ends the program by a signal where a
/// thread has got its own stack, but not the few pages more that it begins with.
///
/// # Errors
/// With the limit.
pub fn ensure_room_for_threads(count: usize, stack: usize) -> io::Result<()> {
    const BEGINNING: usize = 1 << 20;
    ensure_room((count as u64).saturating_mul((stack + BEGINNING) as u64))
}

/// The place of the delay, in milliseconds, among mimalloc's options (mimalloc.h), which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has the allocator give freed memory back to the system only when nothing has needed it for ten seconds: longer than
/// a block takes, whose activations are as large as those of the next one.
pub fn keep_what_is_freed() {
    // SAFETY: it only sets a number of the allocator's.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 10_000) };
}

/// Where the address space is limited: has all threads share one arena of glibc's allocator, which libraries in C
/// use, and which otherwise sets 64 MB aside for each.
pub fn save_address_space() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if limit().is_some() {
        // SAFETY: it only sets a number of the allocator's.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_that_is_set_is_the_delay() {
        // SAFETY: it only reads a number of the allocator's.
        let now = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(now(), 1000, "mimalloc's own; another option has another");
        keep_what_is_freed();
        assert_eq!(now(), 10_000);
    }

    #[test]
    fn a_line_takes_what_it_has_room_for() {
        let mut line = Line { text: [0; 300], length: 0 };
        write!(line, "{}bc", "a".repeat(299)).unwrap();
        assert_eq!((line.length, &line.text[298..]), (300, &b"ab"[..]));
    }
}
