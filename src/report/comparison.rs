//! One study's values beside another's.

use std::collections::{BTreeMap, BTreeSet};

use super::{MetricColumn, Report};
use crate::metrics::Kind;

/// How far the values of two reports agree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// To the last bit.
    pub equal: usize,
    /// Not equal, but within the tolerance.
    pub close: usize,
    pub apart: Vec<Apart>,
    /// Cells that had not come to an end when the study was recorded: there is nothing to compare theirs with.
    pub new: BTreeSet<String>,
}

/// A value that two reports do not agree on; None where one has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Apart {
    pub cell: String,
    pub suite: String,
    pub metric: String,
    pub recorded: Option<f64>,
    pub now: Option<f64>,
}

/// Cell, suite, metric.
type Name = (String, String, String);

impl Comparison {
    /// Compares every value, within the same `tolerance` for all metrics, or within one that fits each.
    pub fn of(recorded: &Report, now: &Report, tolerance: Option<f64>) -> Self {
        let done = recorded.cell_rows.iter().map(|row| &row.cell);
        let ended: BTreeSet<&String> = done.chain(recorded.failed.iter().map(|failed| &failed.cell)).collect();
        let (recorded, now) = (values(recorded), values(now));
        let names: BTreeSet<&Name> = recorded.keys().chain(now.keys()).collect();
        let mut comparison = Self::default();
        for name in names {
            if !ended.contains(&name.0) {
                comparison.new.insert(name.0.clone());
                continue;
            }
            let both = recorded.get(name).zip(now.get(name));
            let (a, b) = (recorded.get(name).map(|(value, _)| *value), now.get(name).map(|(value, _)| *value));
            if a.zip(b).is_some_and(|(a, b)| a.to_bits() == b.to_bits()) {
                comparison.equal += 1;
            } else if both.is_some_and(|((a, column), (b, _))| is_close(column, *a, *b, tolerance)) {
                comparison.close += 1;
            } else {
                let (cell, suite, metric) = name.clone();
                comparison.apart.push(Apart { cell, suite, metric, recorded: a, now: b });
            }
        }
        comparison
    }

    /// How many values were compared.
    pub fn values(&self) -> usize {
        self.equal + self.close + self.apart.len()
    }
}

/// How far values may lie apart, as a share of the recorded one: another processor rounds otherwise.
pub const TOLERANCE: f64 = 0.001;

/// What sums of the same numbers in another order may differ by.
const ROUNDING: f64 = 1e-9;

/// Whether a value is the recorded one but for rounding. Of answers and choices none may differ: where the mean does, a row
/// came out otherwise. A loss may differ by so many nats, which is by that share of its perplexity.
fn is_close(metric: &MetricColumn, recorded: f64, now: f64, tolerance: Option<f64>) -> bool {
    let share = tolerance.unwrap_or(if metric.downstream { 0.0 } else { TOLERANCE });
    let apart = match metric.kind {
        _ if metric.ratio => (now / recorded).ln().abs(),
        Kind::Loss => (now - recorded).abs(),
        Kind::Score | Kind::Divergence | Kind::Judge => {
            ((now - recorded).abs() - ROUNDING).max(0.0) / recorded.abs().max(f64::MIN_POSITIVE)
        }
    };
    apart <= share + ROUNDING
}

fn values(report: &Report) -> BTreeMap<Name, (f64, &MetricColumn)> {
    let mut values = BTreeMap::new();
    for row in &report.cell_rows {
        let metrics = report.suites.iter().find(|suite| suite.suite == row.suite).map(|suite| &suite.metrics);
        for (metric, value) in metrics.into_iter().flatten().zip(&row.values) {
            values.insert((row.cell.clone(), row.suite.clone(), metric.name.clone()), (value.value, metric));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::super::{CellRow, sample};
    use super::*;

    #[test]
    fn values_are_equal_close_or_apart() {
        let (mut recorded, mut now) = (sample::report(), sample::report());
        let all = Comparison::of(&recorded, &now, Some(0.0));
        assert_eq!((all.equal, all.close, all.apart.len()), (all.values(), 0, 0));
        // The loss of two cells of the language suite.
        let set = |row: &mut CellRow, value: f64| row.values[0].value = value;
        for (cell, changed) in [(1, 3.0009), (2, 3.0011)] {
            set(&mut recorded.cell_rows[cell], 3.0);
            set(&mut now.cell_rows[cell], changed);
        }
        let lacking = now.cell_rows.pop().map_or(0, |row| row.values.len());
        let some = Comparison::of(&recorded, &now, None);
        assert_eq!((some.close, some.apart.len(), some.values()), (1, 1 + lacking, all.values()));
        assert!(some.apart.iter().any(|a| a.now.is_none()) && some.apart.iter().any(|a| a.now.is_some()));
    }

    #[test]
    fn a_cell_that_was_not_yet_done_is_compared_with_nothing_and_one_that_failed_is_apart() {
        let (mut recorded, now) = (sample::report(), sample::report());
        let cell = "wanda-0.5-prose-s0";
        let lacking =
            recorded.cell_rows.iter().filter(|row| row.cell == cell).map(|row| row.values.len()).sum::<usize>();
        recorded.cell_rows.retain(|row| row.cell != cell);
        let some = Comparison::of(&recorded, &now, None);
        assert_eq!((some.apart.len(), some.new.iter().map(String::as_str).collect::<Vec<_>>()), (0, vec![cell]));
        recorded.failed[0].cell = cell.into();
        let some = Comparison::of(&recorded, &now, None);
        assert_eq!((some.apart.len(), some.new.len()), (lacking, 0));
        assert!(lacking > 0);
    }

    #[test]
    fn a_tolerance_fits_its_metric() {
        let within = |metric, recorded, now, tolerance| is_close(&sample::column(metric), recorded, now, tolerance);
        let close = |metric, recorded, now| within(metric, recorded, now, None);
        // A row of a thousand.
        assert!(!close("exact_match", 0.5, 0.501) && close("exact_match", 0.5, 0.5 + 1e-12));
        assert!(close("perplexity", 600.0, 600.5) && !close("perplexity", 600.0, 600.7));
        assert!(close("loss", 6.0, 6.0009) && !close("loss", 6.0, 6.0011));
        assert!(close("js_divergence", 0.002, 0.002001) && !close("js_divergence", 0.002, 0.00201));
        assert!(close("js_divergence", 0.0, 0.0) && !close("js_divergence", 0.0, 1e-4));
        assert!(!close("perplexity", f64::INFINITY, 9.0) && !close("loss", 2.0, f64::NAN));
        assert!(within("exact_match", 0.5, 0.505, Some(0.01)) && !within("loss", 2.0, 2.02, Some(0.01)));
    }
}
