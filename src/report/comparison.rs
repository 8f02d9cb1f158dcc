//! One study's values beside another's.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;

/// How far the values of two reports agree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// To the last bit.
    pub equal: usize,
    /// Not equal, but within the tolerance.
    pub close: usize,
    pub apart: Vec<Apart>,
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
    /// Compares every value. `tolerance` is a share of the recorded value, or of 1 where that is less than 1.
    pub fn of(recorded: &Report, now: &Report, tolerance: f64) -> Self {
        let (recorded, now) = (values(recorded), values(now));
        let names: BTreeSet<&Name> = recorded.keys().chain(now.keys()).collect();
        let mut comparison = Self::default();
        for name in names {
            let (a, b) = (recorded.get(name).copied(), now.get(name).copied());
            let close = |(a, b): (f64, f64)| a.is_finite() && (a - b).abs() <= tolerance * a.abs().max(1.0);
            if a.zip(b).is_some_and(|(a, b)| a.to_bits() == b.to_bits()) {
                comparison.equal += 1;
            } else if a.zip(b).is_some_and(close) {
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

fn values(report: &Report) -> BTreeMap<Name, f64> {
    let mut values = BTreeMap::new();
    for suite in &report.suites {
        for row in &suite.rows {
            for (metric, value) in suite.metrics.iter().zip(&row.values) {
                values.insert((row.cell.clone(), suite.suite.clone(), metric.name.clone()), value.value);
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::super::plots::sample;
    use super::*;

    #[test]
    fn values_are_equal_close_or_apart() {
        let (recorded, mut now) = (sample::report(), sample::report());
        let all = Comparison::of(&recorded, &now, 0.0);
        assert_eq!((all.equal, all.close, all.apart.len()), (all.values(), 0, 0));
        // Loss, 9 in the sample: a score of less than 1 may differ by the tolerance itself, others by that share.
        now.suites[0].rows[1].values[0].value *= 1.015;
        now.suites[0].rows[2].values[0].value *= 1.03;
        now.suites[0].rows.pop();
        let some = Comparison::of(&recorded, &now, 0.02);
        let lacking = recorded.suites[0].metrics.len();
        assert_eq!((some.close, some.apart.len(), some.values()), (1, 1 + lacking, all.values()));
        assert!(some.apart.iter().any(|a| a.now.is_none()) && some.apart.iter().any(|a| a.now.is_some()));
    }
}
