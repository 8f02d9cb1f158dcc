//! The grid's points.

use serde::Serialize;

use super::Recipe;
use crate::prune::{MethodName, Sparsity, StatisticKind};

/// One pruning of the model, or the dense model itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// None: dense.
    pub pruning: Option<Pruning>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drawn {
    pub name: String,
    pub seed: u64,
}

impl Cell {
    /// A name that is unique in its study, such as `wanda-0.5-task-s0`.
    pub fn id(&self) -> String {
        let Some(pruning) = &self.pruning else { return "dense".into() };
        let mut id = format!("{}-{}", pruning.method.as_str(), pruning.sparsity);
        if let Some(drawn) = &pruning.calibration {
            id += &format!("-{}-s{}", drawn.name, drawn.seed);
        }
        id
    }
}

/// The cells of a study: dense first, then by method, sparsity, calibration and seed, each in the order
/// that the grid lists them (calibrations that it does not list, as the recipe has them). Cells that cannot differ are
/// one: a method without calibration has one cell a sparsity.
pub fn cells(recipe: &Recipe) -> Vec<Cell> {
    let grid = &recipe.grid;
    let every: Vec<String> = recipe.calibration.keys().cloned().collect();
    let names = grid.calibration.as_ref().unwrap_or(&every);
    let only = [recipe.seed];
    let seeds = grid.seed.as_deref().unwrap_or(&only);
    let mut cells = vec![Cell { pruning: None }];
    for &method in &grid.method {
        let blind = recipe.method.get(method).statistic() == StatisticKind::None;
        for &sparsity in &grid.sparsity {
            let mut push = |calibration| cells.push(Cell { pruning: Some(Pruning { method, sparsity, calibration }) });
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
    cells
}
