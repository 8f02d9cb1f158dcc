//! The grid's points.

use serde::Serialize;

use super::{Grid, Recipe};
use crate::prune::{MethodName, Sparsity, StatisticKind};

/// A model that a study judges.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Cell {
    /// The recipe's model as it is.
    Dense,
    /// The same, pruned.
    Pruned(Pruning),
    /// What others made of it: a `[checkpoint.NAME]`.
    Checkpoint(String),
}

/// What distinguishes a pruned cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pruning {
    pub method: MethodName,
    pub sparsity: Sparsity,
    /// None where the method needs none.
    pub calibration: Option<Drawn>,
}

/// A calibration set, as drawn by a seed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Drawn {
    pub name: String,
    pub seed: u64,
}

/// Cells that differ in nothing but the seed that their calibration windows were drawn by: its replicates.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    Dense,
    Checkpoint(String),
    Pruned {
        method: MethodName,
        sparsity: Sparsity,
        /// None where the method needs none.
        calibration: Option<String>,
    },
}

/// The one thing in which two settings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// One of them is pruned, the other is the dense model.
    Dense,
    /// Methods; of two of which one needs no calibration, that is no further difference.
    Method,
    Calibration,
    Sparsity,
    /// One of them is a checkpoint, the other another or a pruned setting.
    Checkpoint,
}

impl Recipe {
    /// The recipe of one cell alone, which nothing judges: of the same model, calibrated and pruned as it is here. Suites are
    /// only those that its calibration looks at.
    pub fn of_cell(&self, cell: &Cell) -> Self {
        let mut recipe = self.clone();
        recipe.checkpoint.clear();
        recipe.export = None;
        recipe.published.clear();
        let (pruning, drawn) = (cell.pruning(), cell.drawn());
        recipe.grid = Grid {
            method: pruning.iter().map(|pruning| pruning.method).collect(),
            sparsity: pruning.iter().map(|pruning| pruning.sparsity).collect(),
            calibration: drawn.map(|drawn| vec![drawn.name.clone()]),
            seed: drawn.map(|drawn| vec![drawn.seed]),
        };
        let used = crate::calibration::used(&recipe);
        recipe.calibration.retain(|name, _| used.contains(name));
        // What its calibration looks at is none to judge it by.
        let seen = crate::calibration::suites_seen(&recipe);
        recipe.suite.retain(|name, _| seen.contains(name));
        recipe
    }
}

impl Grid {
    /// Whether it is not there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Cell {
    /// A name that is unique in its study, such as `wanda-0.5-task-s0`.
    pub fn id(&self) -> String {
        let id = self.setting().id();
        self.seed().map_or(id.clone(), |seed| format!("{id}-s{seed}"))
    }

    pub fn setting(&self) -> Setting {
        match self {
            Self::Dense => Setting::Dense,
            Self::Pruned(Pruning { method, sparsity, calibration }) => Setting::Pruned {
                method: *method,
                sparsity: *sparsity,
                calibration: calibration.as_ref().map(|drawn| drawn.name.clone()),
            },
            Self::Checkpoint(name) => Setting::Checkpoint(name.clone()),
        }
    }

    /// How the model is pruned; None where it is not.
    pub fn pruning(&self) -> Option<&Pruning> {
        match self {
            Self::Pruned(pruning) => Some(pruning),
            Self::Dense | Self::Checkpoint(_) => None,
        }
    }

    /// The checkpoint that it is.
    pub fn checkpoint(&self) -> Option<&str> {
        match self {
            Self::Checkpoint(name) => Some(name),
            Self::Dense | Self::Pruned(_) => None,
        }
    }

    /// The calibration that it is pruned from.
    pub fn drawn(&self) -> Option<&Drawn> {
        self.pruning()?.calibration.as_ref()
    }

    /// The seed that its calibration windows were drawn by.
    pub fn seed(&self) -> Option<u64> {
        Some(self.drawn()?.seed)
    }
}

impl Setting {
    /// A name that is unique in its study, such as `wanda-0.5-task`.
    pub fn id(&self) -> String {
        match self {
            Self::Dense => "dense".into(),
            Self::Checkpoint(name) => name.clone(),
            Self::Pruned { method, sparsity, calibration: None } => format!("{}-{sparsity}", method.as_str()),
            Self::Pruned { method, sparsity, calibration: Some(name) } => {
                format!("{}-{sparsity}-{name}", method.as_str())
            }
        }
    }

    /// `dense`, `checkpoint`, or the method.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Checkpoint(_) => "checkpoint",
            Self::Pruned { method, .. } => method.as_str(),
        }
    }

    /// The fraction of weights asked to be zero; None of a checkpoint, of which nothing was asked.
    pub fn ratio(&self) -> Option<f64> {
        match self {
            Self::Dense => Some(0.0),
            Self::Checkpoint(_) => None,
            Self::Pruned { sparsity, .. } => Some(sparsity.ratio()),
        }
    }

    /// `dense`, `checkpoint`, `unstructured`, or N:M.
    pub fn pattern(&self) -> String {
        match self {
            Self::Dense => "dense".into(),
            Self::Checkpoint(_) => "checkpoint".into(),
            Self::Pruned { sparsity, .. } => sparsity.pattern(),
        }
    }

    pub fn calibration(&self) -> Option<&str> {
        match self {
            Self::Dense | Self::Checkpoint(_) => None,
            Self::Pruned { calibration, .. } => calibration.as_deref(),
        }
    }

    /// In what it differs from another, if in one thing alone.
    pub fn differs(&self, other: &Self) -> Option<Axis> {
        let (Self::Pruned { method, sparsity, calibration }, Self::Pruned { method: m, sparsity: s, calibration: c }) =
            (self, other)
        else {
            let axis = if [self, other].contains(&&Self::Dense) { Axis::Dense } else { Axis::Checkpoint };
            return (self != other).then_some(axis);
        };
        let other_data = calibration.as_ref().zip(c.as_ref()).is_some_and(|(a, b)| a != b);
        match (method != m, sparsity != s, other_data) {
            (true, false, false) => Some(Axis::Method),
            (false, true, false) => Some(Axis::Sparsity),
            (false, false, true) => Some(Axis::Calibration),
            _ => None,
        }
    }
}

impl Axis {
    /// As tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Method => "method",
            Self::Calibration => "calibration",
            Self::Sparsity => "sparsity",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// The comparisons along it, in words.
    pub fn comparisons(self) -> &'static str {
        match self {
            Self::Dense => "settings against dense",
            Self::Method => "methods of equal sparsity and calibration",
            Self::Calibration => "calibrations of equal method and sparsity",
            Self::Sparsity => "sparsities of equal method and calibration",
            Self::Checkpoint => "checkpoints against other settings",
        }
    }
}

/// The cells of a study: dense first, then by method, sparsity, calibration and seed, each in the order
/// that the grid lists them (calibrations that it does not list, as the recipe has them), then the checkpoints. Cells that
/// cannot differ are one: a method without calibration has one cell a sparsity.
pub fn cells(recipe: &Recipe) -> Vec<Cell> {
    let grid = &recipe.grid;
    let every: Vec<String> = recipe.calibration.keys().cloned().collect();
    let names = grid.calibration.as_ref().unwrap_or(&every);
    let only = [recipe.seed];
    let seeds = grid.seed.as_deref().unwrap_or(&only);
    let mut cells = vec![Cell::Dense];
    for &method in &grid.method {
        let blind = recipe.method.get(method).statistic() == StatisticKind::None;
        for &sparsity in &grid.sparsity {
            let mut push = |calibration| cells.push(Cell::Pruned(Pruning { method, sparsity, calibration }));
            if blind {
                push(None);
                continue;
            }
            for name in names {
                for &seed in seeds {
                    push(Some(Drawn { name: name.clone(), seed }));
                }
            }
        }
    }
    cells.extend(recipe.checkpoint.keys().cloned().map(Cell::Checkpoint));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(method: MethodName, ratio: f64, calibration: Option<&str>) -> Setting {
        Setting::Pruned { method, sparsity: Sparsity::Ratio(ratio), calibration: calibration.map(Into::into) }
    }

    #[test]
    fn settings_are_compared_where_they_differ_in_one_thing() {
        use MethodName::{Magnitude, SparseGpt, Wanda};
        let wanda = pruned(Wanda, 0.5, Some("c4"));
        for (other, axis) in [
            (Setting::Dense, Some(Axis::Dense)),
            (pruned(SparseGpt, 0.5, Some("c4")), Some(Axis::Method)),
            (pruned(Magnitude, 0.5, None), Some(Axis::Method)),
            (pruned(Wanda, 0.5, Some("task")), Some(Axis::Calibration)),
            (pruned(Wanda, 0.6, Some("c4")), Some(Axis::Sparsity)),
            (pruned(SparseGpt, 0.5, Some("task")), None),
            (pruned(Magnitude, 0.6, None), None),
            (wanda.clone(), None),
        ] {
            assert_eq!((wanda.differs(&other), other.differs(&wanda)), (axis, axis), "{other:?}");
        }
        assert_eq!(Setting::Dense.differs(&Setting::Dense), None);
    }

    #[test]
    fn a_cell_is_its_setting_and_its_seed() {
        let drawn = |seed| Some(Drawn { name: "c4".into(), seed });
        let pruning = |calibration| Pruning { method: MethodName::Wanda, sparsity: Sparsity::Ratio(0.5), calibration };
        let cell = |calibration| Cell::Pruned(pruning(calibration));
        assert_eq!([cell(drawn(3)).id(), cell(None).id()], ["wanda-0.5-c4-s3", "wanda-0.5"]);
        assert_eq!(cell(drawn(3)).setting(), cell(drawn(4)).setting());
        assert_eq!(Cell::Dense.id(), "dense");
    }
}
