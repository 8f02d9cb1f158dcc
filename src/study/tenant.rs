//! A study's place in the cache while it runs: what it needs stays, and what is beyond the cache's limit goes.

use anyhow::Result;

use super::room::{Keeper, Said};
use crate::pipeline::{Cache, Hold, Limit, Study};
use crate::recipe::{Cell, Recipe};

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

    /// Keeps what a study needs as long as these cells of it are not done, and makes room.
    pub fn enters<'b>(
        &mut self,
        study: &Study,
        recipe: &Recipe,
        (all, unfinished): (&[Cell], impl Iterator<Item = &'b Cell>),
        out: &std::path::Path,
    ) -> Result<()> {
        let entries = study.entries();
        if let Some(hold) = &mut self.hold {
            hold.keep(entries.iter().copied())?;
            hold.keep(unfinished.flat_map(|cell| study.progress_entries(cell)))?;
        }
        let of_cells = all.iter().flat_map(|cell| study.progress_entries(cell));
        let own = self.keeper.cache.note_study(&recipe.name, out, entries.into_iter().chain(of_cells));
        self.keeper.own = own.inspect_err(|e| tracing::debug!("the study is not noted in the cache: {e:#}")).ok();
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
