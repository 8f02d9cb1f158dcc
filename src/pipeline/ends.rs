//! What stands before a model's first block and after its last.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Result;

use crate::model::{Embedding, Head, Model, Ropes};

/// Bytes of an embedding that stays in memory between its uses: it takes no time to speak of to read it again.
const SMALL: usize = 128 << 20;

/// The ends of a model. What is large is in memory for as long as somebody has it, so that a walk over the blocks of a model
/// with a large vocabulary does not have it beside each of them; on a device it stays.
pub struct Ends {
    embedding: Lent<Embedding>,
    head: Lent<Head>,
    pub ropes: Ropes,
}

/// What is read when somebody wants it, and is the same for all who do.
struct Lent<T> {
    /// Who has it; and it itself, where it stays.
    known: Mutex<(Weak<T>, Option<Arc<T>>)>,
    stays: bool,
}

impl<T> Lent<T> {
    fn new(stays: bool) -> Self {
        Self { known: Mutex::new((Weak::new(), None)), stays }
    }

    fn get(&self, read: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.0.upgrade() {
            return Ok(there);
        }
        let read = Arc::new(read()?);
        *known = (Arc::downgrade(&read), self.stays.then(|| read.clone()));
        Ok(read)
    }
}

impl Ends {
    /// Of a model whose texts have at most so many `positions`.
    ///
    /// # Errors
    /// Where its rotary tables cannot be made.
    pub fn of(model: &Model, positions: usize) -> Result<Self> {
        let spec = &model.spec;
        let weights = spec.vocabulary.saturating_mul(spec.embedding.width);
        let stays = !model.device.is_cpu() || weights.saturating_mul(model.dtype.size_in_bytes()) <= SMALL;
        Ok(Self { embedding: Lent::new(stays), head: Lent::new(stays), ropes: model.ropes(positions)? })
    }

    /// # Errors
    /// Where it cannot be read of the model, which is the one that these ends are of.
    pub fn embedding(&self, model: &Model) -> Result<Arc<Embedding>> {
        self.embedding.get(|| model.embedding())
    }

    /// # Errors
    /// As of [`Ends::embedding`].
    pub fn head(&self, model: &Model) -> Result<Arc<Head>> {
        self.head.get(|| model.head_with(|| Ok(self.embedding(model)?.table.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_is_lent_is_read_once_for_all_who_have_it_and_again_when_nobody_had() {
        for (stays, expected) in [(false, 2), (true, 1)] {
            let (lent, times) = (Lent::new(stays), Cell::new(0));
            let get = || {
                let read = || {
                    times.set(times.get() + 1);
                    Ok(times.get())
                };
                lent.get(read).unwrap()
            };
            let (one, other) = (get(), get());
            assert!(Arc::ptr_eq(&one, &other) && times.get() == 1);
            drop((one, other));
            assert_eq!(*get(), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_tried_again() {
        let lent = Lent::new(true);
        assert!(lent.get(|| anyhow::bail!("no")).is_err());
        assert_eq!(*lent.get(|| Ok(7)).unwrap(), 7);
    }
}
