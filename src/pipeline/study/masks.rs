//! Two cells' masks beside each other.

use super::Study;
use crate::prune::mask;
use crate::recipe::Cell;

/// What two cells keep of a weight, among those that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedWeights {
    pub block: usize,
    pub linear: String,
    pub weights: u64,
    /// How many of these are looked at: all, or a sample.
    pub compared: u64,
    /// Those that each keeps.
    pub kept: [u64; 2],
    /// Those that both keep.
    pub both: u64,
}

/// Which weights a cell keeps is not known any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMasks {
    /// The cell's id.
    pub cell: String,
}

impl std::fmt::Display for NoMasks {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "which weights {} keeps is not in the cache any more", self.cell)
    }
}

impl std::error::Error for NoMasks {}

impl Study<'_> {
    /// What two pruned cells share, weight matrix by weight matrix; none of those that the recipe leaves dense.
    ///
    /// # Errors
    /// With the cell whose masks and pruned blocks have left the cache.
    pub fn shared_weights(&self, cells: [&Cell; 2]) -> Result<Vec<SharedWeights>, NoMasks> {
        let mut shared = Vec::new();
        for block in 0..self.model.spec.blocks.len() {
            let masks = |cell: &Cell| self.progress(cell).masks(block).ok_or_else(|| NoMasks { cell: cell.id() });
            let (a, b) = (masks(cells[0])?, masks(cells[1])?);
            shared.extend(a.linears.into_iter().zip(b.linears).map(|(a, b)| SharedWeights {
                block,
                kept: [mask::in_both(&a.bits, &a.bits), mask::in_both(&b.bits, &b.bits)],
                both: mask::in_both(&a.bits, &b.bits),
                linear: a.about.linear,
                weights: a.about.weights,
                compared: a.about.compared,
            }));
        }
        Ok(shared)
    }
}
