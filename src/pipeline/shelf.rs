//! Rows of a file that several calibrations and suites of a study read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::data::Rows;

/// Rows that several read: they stay in memory until all of these have had them, or it is cleared.
#[derive(Default)]
pub struct Shelf(Mutex<OnShelf>);

#[derive(Default)]
struct OnShelf {
    /// Who has not had them yet.
    readers: usize,
    rows: Option<Arc<Rows>>,
}

impl Shelf {
    /// One more will read them.
    pub fn expect_reader(&self) {
        self.open().readers += 1;
    }

    /// The rows go, whoever has not had them yet.
    pub fn clear(&self) {
        self.open().rows = None;
    }

    fn open(&self) -> MutexGuard<'_, OnShelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows, which `read` reads unless they are there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn take(&self, read: impl FnOnce() -> Result<Rows>) -> Result<Arc<Rows>> {
        let mut shelf = self.open();
        shelf.readers = shelf.readers.saturating_sub(1);
        let rows = match shelf.rows.take() {
            Some(rows) => rows,
            None => Arc::new(read()?),
        };
        shelf.rows = Some(rows.clone()).filter(|_| shelf.readers > 0);
        Ok(rows)
    }
}
