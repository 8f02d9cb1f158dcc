//! A study's place in the cache while it runs: what it needs stays, and what is beyond the cache's limit goes.

use std::path::Path;

use anyhow::Result;

use super::room::{Keeper, Said};
use crate::pipeline::{Cache, Hold, Limit, Study};
use crate::recipe::Cell;

/// What keeps a study's entries in the cache, and makes room there.
pub struct Tenant<'a> {
    /// None where the cache cannot be written to: it holds nothing then.
    hold: Option<Hold>,
    keeper: Keeper<'a>,
}

impl<'a> Tenant<'a> {
    /// Before anything is written. Whether it matters that a cache cannot be written to shows where something is to be kept.
    pub fn new(cache: &'a Cache, limit: &'a Limit) -> Self {
        let hold = cache.hold().inspect_err(|e| tracing::debug!("nothing is held in the cache: {e:#}")).ok();
        Self { hold, keeper: Keeper { cache, limit, own: None, said: Said::default() } }
    }

    /// Keeps what a study needs, and what each of its cells needs that is not done, and makes room. Its tables go to `out`.
    ///
    /// # Errors
    /// Where the hold cannot be written.
    pub fn enters(&mut self, study: &Study, cells: &[Cell], is_done: &[bool], out: Option<&Path>) -> Result<()> {
        let entries = study.entries();
        if let Some(hold) = &mut self.hold {
            let unfinished = cells.iter().zip(is_done).filter(|(_, is_done)| !**is_done);
            hold.keep(entries.iter().copied())?;
            hold.keep(unfinished.flat_map(|(cell, _)| study.progress_entries(cell)))?;
        }
        let noted = out.map(|out| {
            let of_cells = cells.iter().flat_map(|cell| study.progress_entries(cell));
            self.keeper.cache.note_study(&study.recipe().name, out, entries.into_iter().chain(of_cells))
        });
        let own = noted.transpose().inspect_err(|e| tracing::debug!("the study is not noted in the cache: {e:#}"));
        self.keeper.own = own.ok().flatten();
        self.keeper.make_room();
        Ok(())
    }

    /// A cell is done: what only it needed may go.
    pub fn leaves(&mut self, study: &Study, cell: &Cell) -> Result<()> {
        if let Some(hold) = &mut self.hold {
            hold.release(study.progress_entries(cell))?;
        }
        self.keeper.make_room();
        Ok(())
    }
}
