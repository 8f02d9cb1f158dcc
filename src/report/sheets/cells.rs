//! Every cell, seeds apart.

use super::super::{CellRow, SuiteReport};
use super::{Column, Entry, Sheet, distinct, metric_columns};

/// The cells of a suite; no rows where each setting has but one, as the suite's own sheet has shown it then.
pub fn sheet(suite: &SuiteReport, cells: &[CellRow]) -> Sheet {
    let columns = std::iter::once(Column::text("cell")).chain(metric_columns(&suite.metrics)).collect();
    let mut sheet = Sheet::new(&format!("cells-{}", suite.suite), &format!("Cells of {}", suite.suite), columns);
    sheet.notes.push("Seeds apart; 95% intervals over samples.".into());
    let cells: Vec<&CellRow> = cells.iter().filter(|cell| cell.suite == suite.suite).collect();
    if distinct(cells.iter().map(|cell| &cell.setting)).len() < cells.len() {
        for cell in cells {
            let values = cell.values.iter().map(|v| Entry::measured(v.value, v.low, v.high));
            sheet.row(std::iter::once(Entry::text(&cell.cell)).chain(values));
        }
    }
    sheet
}
