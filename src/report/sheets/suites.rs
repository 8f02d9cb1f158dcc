//! All metrics of a suite.

use super::super::text::counted;
use super::super::{MetricColumn, SettingRow, SuiteReport};
use super::{Column, Entry, Row, Sheet, by_sparsity, metric_columns};
use crate::statistics::Verdict;

/// A row a setting, a column a metric.
pub fn sheet(suite: &SuiteReport) -> Sheet {
    let columns = std::iter::once(Column::text("setting")).chain(metric_columns(&suite.metrics)).collect();
    let mut sheet = Sheet::new(&format!("suite-{}", suite.suite), &format!("Suite {}", suite.suite), columns);
    for group in by_sparsity(&suite.rows, |row| &row.setting) {
        for (i, row) in group.rows.iter().enumerate() {
            let values = (0..row.values.len()).map(|metric| entry(&group.rows, &suite.metrics[metric], row, metric));
            let entries = std::iter::once(Entry::text(&row.setting.name)).chain(values).collect();
            sheet.rows.push(Row { entries, is_best: false, is_first: group.is_apart && i == 0 });
        }
    }
    sheet.notes = notes(suite);
    sheet
}

/// `rivals` are the rows of the same sparsity.
fn entry(rivals: &[&SettingRow], column: &MetricColumn, row: &SettingRow, metric: usize) -> Entry {
    let v = &row.values[metric];
    let mark = v.to_dense.as_ref().map_or("", |d| mark(d.verdict));
    let sign = if column.higher_is_better { 1.0 } else { -1.0 };
    let lead = |rival: &&SettingRow| sign * (v.value - rival.values[metric].value);
    // Where all are the best, none is.
    let is_best = rivals.iter().any(|rival| lead(rival) > 0.0) && !rivals.iter().any(|rival| lead(rival) < 0.0);
    Entry { mark, is_best, ..Entry::measured(v.value, v.low, v.high) }
}

/// Of a verdict against dense.
fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "+",
        Verdict::Worse => "-",
        Verdict::WithinMargin => "=",
        Verdict::NotToldApart => "~",
    }
}

fn notes(suite: &SuiteReport) -> Vec<String> {
    let has_seeds = suite.rows.iter().flat_map(|row| &row.values).any(|value| value.seeds > 1);
    let over = if has_seeds { " over samples and seeds" } else { "" };
    let samples = counted(suite.samples, &suite.unit);
    let mut notes = vec![format!("{samples}; ↑ more is better, ↓ less is better; 95% intervals{over}.")];
    let shown = |verdict: &Verdict| {
        let mut differences = suite.rows.iter().flat_map(|row| &row.values).filter_map(|v| v.to_dense.as_ref());
        differences.any(|d| d.verdict == *verdict)
    };
    let all = [Verdict::Better, Verdict::Worse, Verdict::WithinMargin, Verdict::NotToldApart];
    let marks: Vec<String> = all.into_iter().filter(shown).map(|v| format!("{} {}", mark(v), v.name())).collect();
    if !marks.is_empty() {
        notes.push(format!("Against dense: {}.", marks.join(", ")));
    }
    notes
}
