//! Which weights a cell keeps.

use super::super::cache::Key;
use super::super::masks::BlockMasks;
use super::Study;
use crate::recipe::Cell;

impl Study<'_> {
    /// Which weights a pruned cell keeps of a block, but for linears that the recipe leaves dense; None where masks and pruned
    /// block have left the cache.
    pub fn masks(&self, cell: &Cell, block: usize) -> Option<BlockMasks> {
        self.progress(cell).masks(block)
    }

    /// The entry of these.
    pub fn masks_key(&self, cell: &Cell, block: usize) -> Key {
        self.keys().of_cell(cell).place.mask(block)
    }
}
