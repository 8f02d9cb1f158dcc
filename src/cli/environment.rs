//! What the environment says that is not meant for calipr, or says nothing.

use std::env;

use crate::memory;

/// Settles what other programs' settings would change. Called before the first thread is started.
pub fn settle() {
    memory::save_address_space();
    memory::keep_what_is_freed();
    // SAFETY: no other thread has been started yet that could read the environment.
    unsafe {
        // Libraries put a backtrace into their errors' texts where RUST_BACKTRACE is set, and texts go into tables.
        // A panic still prints one.
        env::set_var("RUST_LIB_BACKTRACE", "0");
        // A variable that is set to nothing is as good as not set.
        for name in ["CALIPR_CACHE", "CALIPR_CACHE_SIZE", "CALIPR_OFFLINE", "CALIPR_THREADS"] {
            if env::var_os(name).is_some_and(|value| value.is_empty()) {
                env::remove_var(name);
            }
        }
    }
}
