//! Which weights cells keep, beside each other: calibrations, their seeds, and methods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::Finished;
use crate::pipeline::{BlockMasks, MaskedLinear, Study};
use crate::prune::mask;
use crate::recipe::{self, Cell, Setting};
use crate::statistics::Overlap;

/// In what the cells of a pair differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    Calibration,
    /// In the seed alone: how much of a difference is that of other windows of one set.
    Seed,
    Method,
}

impl Axis {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calibration => "calibration",
            Self::Seed => "seed",
            Self::Method => "method",
        }
    }
}

/// Two settings, or twice the same one, and what pairs of their cells share.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    pub axis: Axis,
    pub setting: Arc<Setting>,
    /// The same, where the two differ in the seed.
    pub other: Arc<Setting>,
    /// The pairs of their cells, by their places among those that are pruned.
    cells: Vec<[usize; 2]>,
    /// How many of the pairs have masks.
    pub pairs: usize,
    /// Weight matrix by weight matrix; empty where no pair has masks.
    pub shared: Vec<SharedWeights>,
}

/// What pairs of cells keep of a weight matrix, among the weights that are looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedWeights {
    pub block: usize,
    pub about: Arc<MaskedLinear>,
    pub overlap: Overlap,
}

/// What was said before of masks that the cache has lost.
#[derive(Default)]
pub struct Told(usize);

/// All cells that are done beside each other, by axis, then in the order of the grid.
pub fn besides(study: &Study, finished: &[&Finished], told: &mut Told) -> Vec<Beside> {
    let done: Vec<&Cell> = finished.iter().filter(|f| f.achieved.is_some()).map(|f| &f.cell).collect();
    let mut all = grouped(&done);
    let lost = count(study, &done, &mut all);
    if let Some((cell, lacking)) = first_lost(&all, &lost)
        && lacking > told.0
    {
        tracing::info!(
            "masks.parquet lacks {lacking} of {} pairs of cells: which weights {}, for one, keeps is not in the cache any more",
            all.iter().map(|beside| beside.cells.len()).sum::<usize>(),
            done[cell].id()
        );
        told.0 = lacking;
    }
    all
}

/// The pairs of cells that differ in one thing, by their settings; as though every two cells were looked at in their order, and
/// then sorted by axis.
fn grouped(done: &[&Cell]) -> Vec<Beside> {
    let mut settings: Vec<(Arc<Setting>, Vec<usize>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (i, cell) in done.iter().enumerate().filter(|(_, cell)| cell.pruning().is_some()) {
        let setting = cell.setting();
        let place = *places.entry(setting.id()).or_insert_with(|| {
            settings.push((Arc::new(setting), vec![]));
            settings.len() - 1
        });
        settings[place].1.push(i);
    }
    let mut all = Vec::new();
    for (i, (setting, cells)) in settings.iter().enumerate() {
        for (j, (other, others)) in settings[i..].iter().enumerate() {
            let Some(axis) = axis(setting, other, j == 0) else { continue };
            // Methods see the same windows, where both look at any; of two calibrations no seeds belong together.
            let together = |a: usize, b: usize| {
                axis != Axis::Method || done[a].seed().zip(done[b].seed()).is_none_or(|(a, b)| a == b)
            };
            let mut pairs: Vec<[usize; 2]> = Vec::new();
            for &a in cells {
                let after = others.iter().filter(|&&b| j > 0 || b > a);
                pairs.extend(after.filter(|&&b| together(a, b)).map(|&b| if a < b { [a, b] } else { [b, a] }));
            }
            pairs.sort_unstable();
            if !pairs.is_empty() {
                let (setting, other) = (setting.clone(), other.clone());
                all.push(Beside { axis, setting, other, cells: pairs, pairs: 0, shared: vec![] });
            }
        }
    }
    all.sort_by_key(|beside| (beside.axis, beside.cells[0]));
    all
}

/// In what two pruned settings differ, where it is one thing.
fn axis(setting: &Setting, other: &Setting, is_same: bool) -> Option<Axis> {
    if is_same {
        return Some(Axis::Seed);
    }
    match setting.differs(other)? {
        recipe::Axis::Calibration => Some(Axis::Calibration),
        recipe::Axis::Method => Some(Axis::Method),
        _ => None,
    }
}

/// Counts what pairs share, and returns the cells whose masks are lost.
///
/// All that is compared has one sparsity: of the cells of each, the masks of a block are in memory together, and each is read
/// once.
fn count(study: &Study, done: &[&Cell], all: &mut [Beside]) -> BTreeSet<usize> {
    let mut of_sparsity: BTreeMap<String, Vec<&mut Beside>> = BTreeMap::new();
    for beside in all {
        let sparsity = done[beside.cells[0][0]].pruning().map_or(String::new(), |p| p.sparsity.to_string());
        of_sparsity.entry(sparsity).or_default().push(beside);
    }
    let mut lost = BTreeSet::new();
    for mut besides in of_sparsity.into_values() {
        let members: BTreeSet<usize> = besides.iter().flat_map(|b| b.cells.iter().flatten().copied()).collect();
        // A cell of which one block is lost is left out of all: where that shows late, it is counted anew.
        while !count_blocks(study, done, &members, &mut besides, &mut lost) {}
    }
    lost
}

/// Counts block after block; false as soon as a cell turns out to have lost its masks.
fn count_blocks(
    study: &Study,
    done: &[&Cell],
    members: &BTreeSet<usize>,
    besides: &mut [&mut Beside],
    lost: &mut BTreeSet<usize>,
) -> bool {
    for beside in besides.iter_mut() {
        beside.shared.clear();
        beside.pairs = beside.cells.iter().filter(|pair| !pair.iter().any(|cell| lost.contains(cell))).count();
    }
    let there: Vec<usize> = members.iter().copied().filter(|cell| !lost.contains(cell)).collect();
    for block in 0..study.model().spec.blocks.len() {
        let read = |&cell: &usize| (cell, study.masks(done[cell], block).map(Counted::of));
        let read: Vec<(usize, Option<Counted>)> = there.par_iter().map(read).collect();
        let before = lost.len();
        lost.extend(read.iter().filter(|(_, masks)| masks.is_none()).map(|(cell, _)| *cell));
        if lost.len() > before {
            return false;
        }
        let masks: BTreeMap<usize, Counted> =
            read.into_iter().filter_map(|(cell, masks)| Some((cell, masks?))).collect();
        let lost = &*lost;
        besides.par_iter_mut().for_each(|beside| beside.add(block, &masks, lost));
    }
    true
}

/// A block's masks, and how many weights each keeps.
struct Counted {
    masks: BlockMasks,
    about: Vec<Arc<MaskedLinear>>,
    kept: Vec<u64>,
}

impl Counted {
    fn of(masks: BlockMasks) -> Self {
        let kept = masks.linears.iter().map(|linear| mask::in_both(&linear.bits, &linear.bits)).collect();
        let about = masks.linears.iter().map(|linear| Arc::new(linear.about.clone())).collect();
        Self { masks, about, kept }
    }
}

impl Beside {
    /// Adds a block of all pairs that have masks.
    fn add(&mut self, block: usize, masks: &BTreeMap<usize, Counted>, lost: &BTreeSet<usize>) {
        let from = self.shared.len();
        for [a, b] in self.cells.iter().filter(|pair| !pair.iter().any(|cell| lost.contains(cell))) {
            let (Some(a), Some(b)) = (masks.get(a), masks.get(b)) else { continue };
            if self.shared.len() == from {
                let linear = |about: &Arc<MaskedLinear>| SharedWeights {
                    block,
                    about: about.clone(),
                    overlap: Overlap::default(),
                };
                self.shared.extend(a.about.iter().map(linear));
            }
            let pairs = a.masks.linears.iter().zip(&b.masks.linears).zip(a.kept.iter().zip(&b.kept));
            for (((a, b), (kept, others)), shared) in pairs.zip(&mut self.shared[from..]) {
                shared.overlap.add([*kept, *others], mask::in_both(&a.bits, &b.bits), a.about.compared);
            }
        }
    }
}

/// The first cell without masks, and how many pairs lack them.
fn first_lost(all: &[Beside], lost: &BTreeSet<usize>) -> Option<(usize, usize)> {
    let mut pairs =
        all.iter().flat_map(|beside| &beside.cells).filter(|pair| pair.iter().any(|cell| lost.contains(cell)));
    let first = *pairs.next()?.iter().find(|cell| lost.contains(cell))?;
    Some((first, pairs.count() + 1))
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::prune::{MethodName, Sparsity};
    use crate::recipe::{Drawn, Pruning};

    /// Every two cells looked at, as the table was made once.
    fn of_all_pairs(done: &[&Cell]) -> Vec<(Axis, String, String, Vec<[usize; 2]>)> {
        let axis = |a: &Cell, b: &Cell| {
            a.pruning().and(b.pruning())?;
            if a.setting() == b.setting() {
                return Some(Axis::Seed);
            }
            match a.setting().differs(&b.setting())? {
                recipe::Axis::Calibration => Some(Axis::Calibration),
                recipe::Axis::Method => a.seed().zip(b.seed()).is_none_or(|(a, b)| a == b).then_some(Axis::Method),
                _ => None,
            }
        };
        let mut all: Vec<(Axis, String, String, Vec<[usize; 2]>)> = vec![];
        for (i, a) in done.iter().enumerate() {
            for (j, b) in done.iter().enumerate().skip(i + 1) {
                let Some(axis) = axis(a, b) else { continue };
                let (setting, other) = (a.setting().id(), b.setting().id());
                match all.iter_mut().find(|(of, a, b, _)| (*of, a, b) == (axis, &setting, &other)) {
                    Some((.., pairs)) => pairs.push([i, j]),
                    None => all.push((axis, setting, other, vec![[i, j]])),
                }
            }
        }
        all.sort_by_key(|(axis, ..)| *axis);
        all
    }

    #[test]
    fn pairs_by_settings_are_those_of_looking_at_every_two_cells() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut cells = vec![Cell::Dense];
        for method in [MethodName::Magnitude, MethodName::Wanda, MethodName::SparseGpt] {
            for ratio in [0.5, 0.6] {
                let mut push = |calibration| {
                    let sparsity = Sparsity::Ratio(ratio);
                    cells.push(Cell::Pruned(Pruning { method, sparsity, calibration }));
                };
                if method == MethodName::Magnitude {
                    push(None);
                    continue;
                }
                for name in ["prose", "task", "mix"] {
                    for seed in 0..3 {
                        push(Some(Drawn { name: name.into(), seed }));
                    }
                }
            }
        }
        cells.push(Cell::Checkpoint("other".into()));
        for round in 0..40 {
            // All of them, then those that some run has come to.
            let mut left: Vec<usize> = (0..cells.len()).collect();
            if round > 0 {
                left.shuffle(&mut rng);
                left.truncate(rng.random_range(0..cells.len()));
                left.sort_unstable();
            }
            let done: Vec<&Cell> = left.iter().map(|&i| &cells[i]).collect();
            let found = grouped(&done).into_iter().map(|b| (b.axis, b.setting.id(), b.other.id(), b.cells));
            assert_eq!(found.collect::<Vec<_>>(), of_all_pairs(&done), "round {round}");
        }
    }
}
