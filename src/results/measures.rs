//! What the shares of all samples come to: of each cell, of each setting, and of settings beside each other.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::Finished;
use super::contrasts::{ContrastRow, judged};
use crate::metrics::{Family, Metric};
use crate::recipe::{Axis, Recipe, Setting};
use crate::statistics::{self, Contrast, Share, Summary, contrast, summary};

/// A value of a metric on a suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured<T> {
    pub suite: String,
    pub metric: Metric,
    pub samples: usize,
    pub found: T,
}

/// Everything that the tables say of metrics.
pub struct Measures<'a> {
    /// Each cell, by itself and beside the dense one.
    pub cells: Vec<(&'a Finished, Measured<(Summary, Contrast)>)>,
    pub settings: Vec<(Setting, Measured<Summary>)>,
    pub contrasts: Vec<ContrastRow>,
}

/// Cells that differ in nothing but the seed.
pub struct Group<'a> {
    pub setting: Setting,
    cells: Vec<&'a Finished>,
}

/// What was measured for the tables before: with every cell that is done, only its own setting is new.
#[derive(Default)]
pub struct Memory {
    summaries: HashMap<String, Found<Summary>>,
    contrasts: HashMap<(String, String), Found<Contrast>>,
}

/// On every suite, by every metric.
type Found<T> = Arc<Vec<Measured<T>>>;

impl Memory {
    /// Measures all cells that are done; those of a setting beside each other, seeds as its replicates.
    pub fn measure<'a>(&mut self, recipe: &Recipe, finished: &[&'a Finished]) -> Measures<'a> {
        let alone: Vec<Group> = finished.iter().map(|cell| Group::of(cell)).collect();
        let groups = groups(&alone);
        let Some(dense) = alone.iter().find(|group| group.setting == Setting::Dense) else {
            return Measures { cells: vec![], settings: vec![], contrasts: vec![] };
        };
        let pairs = pairs(&groups);
        let beside_dense = alone.iter().map(|cell| (cell, dense));
        self.remember(recipe, alone.iter().chain(&groups), beside_dense.chain(pairs.iter().map(|&(_, a, b)| (a, b))));

        let of_cell = |cell: &Group<'a>| {
            let (own, beside) = (self.summary(cell), self.contrast(cell, dense));
            let finished = cell.cells[0];
            let both = own.iter().zip(beside.iter()).map(move |(own, beside)| {
                let found = (own.found.clone(), beside.found.clone());
                (finished, Measured { suite: own.suite.clone(), metric: own.metric, samples: own.samples, found })
            });
            both.collect::<Vec<_>>()
        };
        let of_setting = |group: &Group| {
            let setting = group.setting.clone();
            self.summary(group).iter().map(|found| (setting.clone(), found.clone())).collect::<Vec<_>>()
        };
        let of_pair = |&(axis, a, b): &(Axis, &Group, &Group)| {
            let row = |found: &Measured<Contrast>| ContrastRow::new(recipe, axis, [a, b], found);
            self.contrast(a, b).iter().map(row).collect::<Vec<_>>()
        };
        let contrasts = pairs.iter().flat_map(of_pair).collect();
        Measures {
            cells: alone.iter().flat_map(of_cell).collect(),
            settings: groups.iter().flat_map(of_setting).collect(),
            contrasts: judged(contrasts),
        }
    }

    /// Computes what is not known yet.
    fn remember<'a, 'b: 'a>(
        &mut self,
        recipe: &Recipe,
        groups: impl Iterator<Item = &'a Group<'b>>,
        pairs: impl Iterator<Item = (&'a Group<'b>, &'a Group<'b>)>,
    ) {
        let new: HashMap<String, &Group> = groups.map(|group| (group.key(), group)).collect();
        let new = new.into_par_iter().filter(|(key, _)| !self.summaries.contains_key(key));
        let summaries: Vec<_> = new.map(|(key, group)| (key, Arc::new(group.summaries(recipe)))).collect();
        self.summaries.extend(summaries);
        let new: HashMap<(String, String), (&Group, &Group)> =
            pairs.map(|(a, b)| ((a.key(), b.key()), (a, b))).collect();
        let new = new.into_par_iter().filter(|(key, _)| !self.contrasts.contains_key(key));
        let contrasts: Vec<_> = new.map(|(key, (a, b))| (key, Arc::new(a.beside(b, recipe)))).collect();
        self.contrasts.extend(contrasts);
    }

    fn summary(&self, group: &Group) -> &Found<Summary> {
        &self.summaries[&group.key()]
    }

    fn contrast(&self, a: &Group, b: &Group) -> &Found<Contrast> {
        &self.contrasts[&(a.key(), b.key())]
    }
}

/// Cells by their settings, in the order of the grid.
fn groups<'a>(alone: &[Group<'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = vec![];
    for cell in alone {
        match groups.iter_mut().find(|group| group.setting == cell.setting) {
            Some(group) => group.cells.extend(&cell.cells),
            None => groups.push(Group { setting: cell.setting.clone(), cells: cell.cells.clone() }),
        }
    }
    groups
}

/// Every two settings that differ in one thing; the dense one is always the other.
fn pairs<'a, 'b>(groups: &'a [Group<'b>]) -> Vec<(Axis, &'a Group<'b>, &'a Group<'b>)> {
    let mut pairs = vec![];
    for (i, a) in groups.iter().enumerate() {
        for b in &groups[i + 1..] {
            let Some(axis) = a.setting.differs(&b.setting) else { continue };
            pairs.push(if a.setting == Setting::Dense { (axis, b, a) } else { (axis, a, b) });
        }
    }
    pairs.sort_by_key(|&(axis, ..)| axis);
    pairs
}

impl<'a> Group<'a> {
    fn of(cell: &'a Finished) -> Self {
        Self { setting: cell.outcome.record.cell.setting(), cells: vec![cell] }
    }

    /// How many seeds were drawn; None where the method draws no calibration.
    pub fn seeds(&self) -> Option<usize> {
        let done = self.cells.iter().filter(|cell| !cell.shares.is_empty()).count();
        self.setting.calibration().map(|_| done)
    }

    fn key(&self) -> String {
        self.cells.iter().map(|cell| cell.outcome.record.cell.id()).collect::<Vec<_>>().join("\n")
    }

    /// Its samples on a suite, by a metric, and how many; None where no cell of it has any.
    fn samples(&self, suite: &str, metric: Metric) -> Option<Replicates> {
        let shares = self.cells.iter().filter_map(|cell| cell.shares.get(suite)?.get(&metric).cloned());
        let replicates: Replicates = shares.collect();
        (!replicates.is_empty()).then_some(replicates)
    }

    /// Its samples as statistics take them.
    fn drawn(&self, mut replicates: Replicates) -> statistics::Setting {
        match self.setting.calibration() {
            Some(_) => statistics::Setting::drawn(replicates),
            None => statistics::Setting::fixed(replicates.swap_remove(0)),
        }
    }

    fn summaries(&self, recipe: &Recipe) -> Vec<Measured<Summary>> {
        let found = |suite: &str, metric: Metric| {
            let [own] = whole(metric.family(), [self.samples(suite, metric)?]);
            let samples = own[0].len();
            let mut found = summary(&metric.quantity(), &self.drawn(own));
            if metric.is_of_dense() && self.setting == Setting::Dense {
                // What the dense model is to itself does not depend on samples.
                found.interval = None;
            }
            Some(Measured { suite: suite.into(), metric, samples, found })
        };
        asked(recipe).filter_map(|(suite, metric)| found(suite, metric)).collect()
    }

    fn beside(&self, other: &Group, recipe: &Recipe) -> Vec<Measured<Contrast>> {
        let found = |suite: &str, metric: Metric| {
            let [own, others] = whole(metric.family(), [self.samples(suite, metric)?, other.samples(suite, metric)?]);
            let (samples, margin) = (own[0].len(), recipe.report.margin.of(metric));
            let found = contrast(&metric.quantity(), &self.drawn(own), &other.drawn(others), margin);
            Some(Measured { suite: suite.into(), metric, samples, found })
        };
        asked(recipe).filter_map(|(suite, metric)| found(suite, metric)).collect()
    }
}

/// What each sample adds to a metric, once for each seed.
type Replicates = Vec<Vec<Share>>;

/// The samples that all of these have: only an answer can be without a score, where a judge said nothing of it.
fn whole<const N: usize>(family: Family, all: [Replicates; N]) -> [Replicates; N] {
    if family.is_of_answers() { statistics::in_all(all) } else { all }
}

/// Every metric of every suite, in the order of the recipe.
fn asked(recipe: &Recipe) -> impl Iterator<Item = (&str, Metric)> {
    recipe.suite.iter().flat_map(|(name, suite)| suite.metrics().into_iter().map(move |m| (name.as_str(), m)))
}
