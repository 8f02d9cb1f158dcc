//! Settings beside each other: what is to be made of a difference, among all that are looked at with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::measures::{Group, Measured};
use crate::metrics::Metric;
use crate::recipe::{Axis, Recipe, Setting};
use crate::statistics::{Contrast, Judged, judge};

/// One row of `contrasts.parquet`.
#[derive(Debug, Clone, PartialEq)]
pub struct ContrastRow {
    pub axis: Axis,
    pub setting: Arc<Setting>,
    pub other: Arc<Setting>,
    pub suite: Arc<str>,
    pub metric: Metric,
    pub samples: usize,
    /// Seeds of each; None where a method draws no calibration.
    pub seeds: [Option<usize>; 2],
    /// Of perplexity a difference of logarithms.
    pub margin: f64,
    pub contrast: Contrast,
    /// The comparisons that it is judged with, in words.
    pub family: Arc<str>,
    pub judged: Judged,
}

impl ContrastRow {
    /// Judged by itself.
    pub fn new(recipe: &Recipe, axis: Axis, [setting, other]: [&Group; 2], found: &Measured<Contrast>) -> Self {
        let (contrast, metric, samples) = (found.found.clone(), found.metric, found.samples);
        Self {
            axis,
            setting: setting.setting.clone(),
            other: other.setting.clone(),
            seeds: [setting.seeds(), other.seeds()],
            suite: found.suite.clone(),
            metric,
            samples,
            margin: recipe.report.margin.of(metric),
            family: "".into(),
            judged: judge(&[(&contrast, samples)], metric.higher_is_better())[0],
            contrast,
        }
    }
}

/// Judges every difference among those that a table or a sentence looks at with it: all along one axis, on one suite, by one
/// metric. Loss and perplexity have the same p-values, so that they say the same in their two families.
pub fn judged(mut rows: Vec<ContrastRow>) -> Vec<ContrastRow> {
    let mut families: BTreeMap<(Axis, Arc<str>, Metric), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        families.entry((row.axis, row.suite.clone(), row.metric)).or_default().push(i);
    }
    for ((axis, suite, metric), members) in families {
        let contrasts: Vec<_> = members.iter().map(|&i| (&rows[i].contrast, rows[i].samples)).collect();
        // What cannot be tested, such as an infinite perplexity, corrects nothing.
        let tested = contrasts.iter().filter(|(contrast, _)| contrast.p_value.is_some()).count();
        let family: Arc<str> = format!("{}, on {suite} by {}: {tested}", axis.comparisons(), metric.as_str()).into();
        for (i, judged) in members.into_iter().zip(judge(&contrasts, metric.higher_is_better())) {
            (rows[i].family, rows[i].judged) = (family.clone(), judged);
        }
    }
    rows
}
