//! Settings beside each other: what is to be made of a difference, among all that are looked at with it.

use std::collections::BTreeMap;

use super::measures::{Group, Measured};
use crate::metrics::Metric;
use crate::recipe::{Axis, Recipe, Setting};
use crate::statistics::{Contrast, Verdict, fewest, holm, verdict};

/// One row of `contrasts.parquet`.
#[derive(Debug, Clone, PartialEq)]
pub struct ContrastRow {
    pub axis: Axis,
    pub setting: Setting,
    pub other: Setting,
    pub suite: String,
    pub metric: Metric,
    pub samples: usize,
    /// Seeds of each; None where a method draws no calibration.
    pub seeds: [Option<usize>; 2],
    /// Of perplexity a difference of logarithms.
    pub margin: f64,
    pub contrast: Contrast,
    pub judged: Judged,
}

/// What is to be made of a difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The comparisons that it was looked at with, in words.
    pub family: String,
    /// Holm's, within that family.
    pub p_adjusted: Option<f64>,
    pub p_margin_adjusted: Option<f64>,
    pub verdict: Verdict,
    /// Where the samples are too few to tell any difference among so many comparisons: how many could.
    pub needed: Option<usize>,
}

impl ContrastRow {
    /// Not yet judged.
    pub fn new(recipe: &Recipe, axis: Axis, [setting, other]: [&Group; 2], found: &Measured<Contrast>) -> Self {
        let nothing = Judged {
            family: String::new(),
            p_adjusted: None,
            p_margin_adjusted: None,
            verdict: Verdict::NotToldApart,
            needed: None,
        };
        Self {
            axis,
            setting: setting.setting.clone(),
            other: other.setting.clone(),
            seeds: [setting.seeds(), other.seeds()],
            suite: found.suite.clone(),
            metric: found.metric,
            samples: found.samples,
            margin: recipe.report.margin.of(found.metric),
            contrast: found.found.clone(),
            judged: nothing,
        }
    }
}

/// Corrects every difference for those that a table or a sentence looks at with it: all along one axis, on one suite, by one
/// metric. Loss and perplexity have the same p-values, so that they say the same in their two families.
pub fn judged(mut rows: Vec<ContrastRow>) -> Vec<ContrastRow> {
    let mut families: BTreeMap<(Axis, String, Metric), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        families.entry((row.axis, row.suite.clone(), row.metric)).or_default().push(i);
    }
    for ((axis, suite, metric), members) in families {
        let adjusted = |p: fn(&Contrast) -> Option<f64>| {
            let p_values: Vec<f64> = members.iter().map(|&i| p(&rows[i].contrast).unwrap_or(f64::NAN)).collect();
            holm(&p_values)
        };
        let (differs, within) = (adjusted(|c| c.p_value), adjusted(|c| c.p_margin));
        let family = format!("{}, on {suite} by {}: {}", axis.comparisons(), metric.as_str(), members.len());
        for (k, &i) in members.iter().enumerate() {
            let known = |p: f64| Some(p).filter(|p| !p.is_nan());
            let (p_adjusted, p_margin_adjusted) = (known(differs[k]), known(within[k]));
            let delta = rows[i].contrast.delta;
            let verdict = verdict(metric.higher_is_better(), delta, p_adjusted, p_margin_adjusted);
            let needed = Some(fewest(members.len())).filter(|&needed| rows[i].samples < needed);
            rows[i].judged = Judged { family: family.clone(), p_adjusted, p_margin_adjusted, verdict, needed };
        }
    }
    rows
}
