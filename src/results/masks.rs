//! Which weights cells keep, beside each other: calibrations, their seeds, and methods.

use std::collections::HashMap;

use super::Finished;
use crate::pipeline::{SharedWeights, Study};
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

/// One row of `masks.parquet`.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskRow {
    pub axis: Axis,
    pub setting: Setting,
    /// The same, where the two differ in the seed.
    pub other: Setting,
    /// Pairs of cells.
    pub pairs: usize,
    pub block: usize,
    pub linear: String,
    pub weights: u64,
    pub compared: u64,
    pub overlap: Overlap,
}

/// Two settings, or twice the same one, and the pairs of their cells.
struct Beside<'a> {
    axis: Axis,
    settings: [Setting; 2],
    cells: Vec<[&'a Cell; 2]>,
}

/// What pairs of cells share, as it was counted for the tables before; None where masks are lost.
#[derive(Default)]
pub struct Memory {
    shared: HashMap<[String; 2], Option<Vec<SharedWeights>>>,
}

impl Memory {
    /// The rows of all cells that are done, by axis, then in the order of the grid.
    pub fn rows(&mut self, study: &Study, finished: &[&Finished]) -> Vec<MaskRow> {
        let records = finished.iter().map(|finished| &finished.outcome.record);
        let done: Vec<&Cell> = records.filter(|record| record.pruned.is_some()).map(|record| &record.cell).collect();
        let mut all: Vec<Beside> = Vec::new();
        for (i, &a) in done.iter().enumerate() {
            for &b in &done[i + 1..] {
                let Some(axis) = axis(a, b) else { continue };
                let settings = [a.setting(), b.setting()];
                match all.iter_mut().find(|beside| beside.axis == axis && beside.settings == settings) {
                    Some(beside) => beside.cells.push([a, b]),
                    None => all.push(Beside { axis, settings, cells: vec![[a, b]] }),
                }
            }
        }
        all.sort_by_key(|beside| beside.axis);
        self.count(study, all.iter().flat_map(|beside| &beside.cells));
        all.iter().flat_map(|beside| self.together(beside)).collect()
    }

    /// Counts what is not known yet.
    fn count<'a>(&mut self, study: &Study, pairs: impl Iterator<Item = &'a [&'a Cell; 2]>) {
        let mut lost = None;
        for pair in pairs {
            let count = || match study.shared_weights(*pair) {
                Ok(shared) => Some(shared),
                Err(no_masks) => {
                    lost.get_or_insert(no_masks.cell);
                    None
                }
            };
            self.shared.entry(pair.map(Cell::id)).or_insert_with(count);
        }
        if let Some(cell) = lost {
            let lacking = self.shared.values().filter(|shared| shared.is_none()).count();
            tracing::info!(
                "masks.parquet lacks {lacking} of {} pairs of cells: which weights {cell}, for one, keeps is not in the cache \
                 any more",
                self.shared.len()
            );
        }
    }

    /// Pairs of cells of two settings, as one row a weight matrix.
    fn together(&self, beside: &Beside) -> Vec<MaskRow> {
        let Beside { axis, settings: [setting, other], cells } = beside;
        let known: Vec<_> = cells.iter().filter_map(|pair| self.shared.get(&pair.map(Cell::id))?.as_ref()).collect();
        let row = |(i, first): (usize, &SharedWeights)| {
            let mut overlap = Overlap::default();
            known.iter().filter_map(|shared| shared.get(i)).for_each(|s| overlap.add(s.kept, s.both, s.compared));
            MaskRow {
                axis: *axis,
                setting: setting.clone(),
                other: other.clone(),
                pairs: known.len(),
                block: first.block,
                linear: first.linear.clone(),
                weights: first.weights,
                compared: first.compared,
                overlap,
            }
        };
        known.first().map(|first| first.iter().enumerate().map(row).collect()).unwrap_or_default()
    }
}

/// In what two pruned cells differ, where it is one thing. Methods see the same windows, where both look at any; of two
/// calibrations no seeds belong together.
fn axis(a: &Cell, b: &Cell) -> Option<Axis> {
    a.pruning().and(b.pruning())?;
    if a.setting() == b.setting() {
        return Some(Axis::Seed);
    }
    match a.setting().differs(&b.setting())? {
        recipe::Axis::Calibration => Some(Axis::Calibration),
        recipe::Axis::Method => a.seed().zip(b.seed()).is_none_or(|(a, b)| a == b).then_some(Axis::Method),
        _ => None,
    }
}
