//! What the shares of all samples come to: of each cell, of each setting, and of settings beside each other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::Finished;
use super::contrasts::{ContrastRow, judged};
use super::shares::Values;
use crate::metrics::{Family, Metric};
use crate::recipe::{Axis, Recipe, Setting, Suite};
use crate::statistics::{self, Compared, Contrast, Quantity, Share, Summary, contrast, summary};

/// A value of a metric on a suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured<T> {
    pub suite: Arc<str>,
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
    pub setting: Arc<Setting>,
    cells: Vec<&'a Finished>,
    /// A number that no other cells have.
    key: usize,
}

/// What was measured for the tables before: with every cell that is done, only its own setting is new.
#[derive(Default)]
pub struct Memory {
    /// The numbers of groups, by the names of their cells.
    keys: HashMap<Vec<String>, usize>,
    summaries: HashMap<usize, Found<Summary>>,
    contrasts: HashMap<(usize, usize), Found<Contrast>>,
}

/// On every suite, by every metric.
type Found<T> = Arc<Vec<Measured<T>>>;

/// What is asked for: every metric of every suite, in the order of the recipe.
type Asked = Vec<(Arc<str>, Metric)>;

/// A group's samples by each metric that is asked for, ready to be tested; None where no cell has any.
type Samples = Vec<Option<Arc<statistics::Setting>>>;

impl Memory {
    /// Measures all cells that are done; those of a setting beside each other, seeds as its replicates.
    pub fn measure<'a>(&mut self, recipe: &Recipe, finished: &[&'a Finished]) -> Measures<'a> {
        let alone: Vec<Group> =
            finished.iter().map(|&cell| self.group(Arc::new(cell.cell.setting()), vec![cell])).collect();
        let groups = self.groups(&alone);
        let Some(dense) = groups.iter().find(|group| *group.setting == Setting::Dense) else {
            return Measures { cells: vec![], settings: vec![], contrasts: vec![] };
        };
        let pairs = pairs(&groups);
        self.remember(recipe, (&alone, &groups), dense, &pairs);

        let of_cell = |cell: &Group<'a>| {
            let (own, beside) = (&self.summaries[&cell.key], &self.contrasts[&(cell.key, dense.key)]);
            let finished = cell.cells[0];
            let both = own.iter().zip(beside.iter()).map(move |(own, beside)| {
                let found = (own.found.clone(), beside.found.clone());
                (finished, Measured { suite: own.suite.clone(), metric: own.metric, samples: own.samples, found })
            });
            both.collect::<Vec<_>>()
        };
        let of_setting = |group: &Group| {
            let setting = &group.setting;
            self.summaries[&group.key].iter().map(|found| (Setting::clone(setting), found.clone())).collect::<Vec<_>>()
        };
        let of_pair = |&(axis, a, b): &(Axis, &Group, &Group)| {
            let row = |found: &Measured<Contrast>| ContrastRow::new(recipe, axis, [a, b], found);
            self.contrasts[&(a.key, b.key)].iter().map(row).collect::<Vec<_>>()
        };
        let contrasts = pairs.iter().flat_map(of_pair).collect();
        Measures {
            cells: alone.iter().flat_map(of_cell).collect(),
            settings: groups.iter().flat_map(of_setting).collect(),
            contrasts: judged(contrasts),
        }
    }

    fn group<'a>(&mut self, setting: Arc<Setting>, cells: Vec<&'a Finished>) -> Group<'a> {
        let (names, next) = (cells.iter().map(|cell| cell.id.clone()).collect(), self.keys.len());
        let key = *self.keys.entry(names).or_insert(next);
        Group { setting, cells, key }
    }

    /// Cells by their settings, in the order of the grid.
    fn groups<'a>(&mut self, alone: &[Group<'a>]) -> Vec<Group<'a>> {
        let mut members: Vec<(&Arc<Setting>, Vec<&'a Finished>)> = vec![];
        let mut places: HashMap<String, usize> = HashMap::new();
        for cell in alone {
            let place = *places.entry(cell.setting.id()).or_insert_with(|| {
                members.push((&cell.setting, vec![]));
                members.len() - 1
            });
            members[place].1.extend(&cell.cells);
        }
        members.into_iter().map(|(setting, cells)| self.group(setting.clone(), cells)).collect()
    }

    /// Computes what is not known yet, and forgets what is of cells that have been joined by others.
    fn remember(
        &mut self,
        recipe: &Recipe,
        (alone, groups): (&[Group], &[Group]),
        dense: &Group,
        pairs: &[(Axis, &Group, &Group)],
    ) {
        let asked = asked(recipe);
        let of_dense = dense.samples(&asked);
        // The samples of a cell are only made ready for as long as it is measured: there may be many cells.
        let measure = |cell: &Group| {
            let own = cell.samples(&asked);
            let summaries = cell.summaries(&asked, &own);
            let contrasts = cell.beside(dense, (&own, &of_dense), (&asked, recipe));
            (cell.key, Arc::new(summaries), Arc::new(contrasts))
        };
        let new = |group: &&Group| !self.summaries.contains_key(&group.key);
        let found: Vec<_> = alone.par_iter().filter(new).map(measure).collect();
        for (key, summaries, contrasts) in found {
            self.summaries.insert(key, summaries);
            self.contrasts.insert((key, dense.key), contrasts);
        }

        let is_new = |&&(_, a, b): &&(Axis, &Group, &Group)| !self.contrasts.contains_key(&(a.key, b.key));
        let new_pairs: Vec<_> = pairs.iter().filter(is_new).collect();
        let mut concerned: HashMap<usize, &Group> =
            groups.iter().filter(|group| !self.summaries.contains_key(&group.key)).map(|g| (g.key, g)).collect();
        concerned.extend(new_pairs.iter().flat_map(|&&(_, a, b)| [(a.key, a), (b.key, b)]));
        let ready: HashMap<usize, Samples> =
            concerned.par_iter().map(|(key, group)| (*key, group.samples(&asked))).collect();
        let new = groups.par_iter().filter(|group| !self.summaries.contains_key(&group.key));
        let summaries: Vec<_> =
            new.map(|group| (group.key, Arc::new(group.summaries(&asked, &ready[&group.key])))).collect();
        self.summaries.extend(summaries);
        let of_pair = |&&(_, a, b): &&(Axis, &Group, &Group)| {
            let samples = (&ready[&a.key], &ready[&b.key]);
            ((a.key, b.key), Arc::new(a.beside(b, samples, (&asked, recipe))))
        };
        let contrasts: Vec<_> = new_pairs.par_iter().map(of_pair).collect();
        self.contrasts.extend(contrasts);

        let of_cells = alone.iter().map(|cell| (cell.key, dense.key));
        let current: HashSet<(usize, usize)> = of_cells.chain(pairs.iter().map(|(_, a, b)| (a.key, b.key))).collect();
        self.contrasts.retain(|pair, _| current.contains(pair));
    }
}

/// Every two settings that differ in one thing; the dense one is always the other.
fn pairs<'a, 'b>(groups: &'a [Group<'b>]) -> Vec<(Axis, &'a Group<'b>, &'a Group<'b>)> {
    let mut pairs = vec![];
    for (i, a) in groups.iter().enumerate() {
        for b in &groups[i + 1..] {
            let Some(axis) = a.setting.differs(&b.setting) else { continue };
            pairs.push(if *a.setting == Setting::Dense { (axis, b, a) } else { (axis, a, b) });
        }
    }
    pairs.sort_by_key(|&(axis, ..)| axis);
    pairs
}

impl Group<'_> {
    /// How many seeds were drawn; None where the method draws no calibration.
    pub fn seeds(&self) -> Option<usize> {
        let done = self.cells.iter().filter(|cell| !cell.shares.is_empty()).count();
        self.setting.calibration().map(|_| done)
    }

    /// What each cell has on a suite by a metric; nothing of cells that failed.
    fn values<'a>(&'a self, suite: &'a str, metric: Metric) -> impl Iterator<Item = &'a Values> {
        self.cells.iter().filter_map(move |cell| cell.shares.get(suite)?.get(&metric).map(|values| &**values))
    }

    fn replicates(&self, suite: &str, metric: Metric) -> Replicates {
        self.values(suite, metric).map(|values| values.iter().collect()).collect()
    }

    /// Whether every sample has a share in every cell, so that there is nothing to be left out.
    fn is_whole(&self, suite: &str, metric: Metric) -> bool {
        !metric.family().is_of_answers() || self.values(suite, metric).all(Values::is_whole)
    }

    /// Its samples as statistics take them; metrics of the same shares have the same.
    fn samples(&self, asked: &Asked) -> Samples {
        let mut all: Samples = vec![];
        for (i, (suite, metric)) in asked.iter().enumerate() {
            let is_same = |(of, other): &(Arc<str>, Metric)| of == suite && other.finding() == metric.finding();
            let known = asked[..i].iter().position(is_same).and_then(|place| all[place].clone());
            all.push(known.or_else(|| {
                let replicates = self.replicates(suite, *metric);
                let [own] = if replicates.is_empty() { return None } else { whole(metric.family(), [replicates]) };
                Some(Arc::new(self.drawn(own)))
            }));
        }
        all
    }

    fn drawn(&self, mut replicates: Replicates) -> statistics::Setting {
        match self.setting.calibration() {
            Some(_) => statistics::Setting::drawn(replicates),
            None => statistics::Setting::fixed(replicates.swap_remove(0)),
        }
    }

    fn summaries(&self, asked: &Asked, samples: &Samples) -> Vec<Measured<Summary>> {
        let found = |((suite, metric), own): (&(Arc<str>, Metric), &Option<Arc<statistics::Setting>>)| {
            let own = own.as_ref()?;
            let mut found = summary(&metric.quantity(), own);
            if metric.is_of_dense() && *self.setting == Setting::Dense {
                // What the dense model is to itself does not depend on samples.
                found.interval = None;
            }
            Some(Measured { suite: suite.clone(), metric: *metric, samples: own.samples(), found })
        };
        asked.iter().zip(samples).filter_map(found).collect()
    }

    fn beside(
        &self,
        other: &Group,
        (own, others): (&Samples, &Samples),
        (asked, recipe): (&Asked, &Recipe),
    ) -> Vec<Measured<Contrast>> {
        let mut all = vec![];
        // Loss and perplexity are tested once.
        let mut tested: Vec<(usize, Compared)> = vec![];
        for (i, (suite, metric)) in asked.iter().enumerate() {
            let (Some(own), Some(others)) = (&own[i], &others[i]) else { continue };
            let (quantity, margin) = (metric.quantity(), recipe.report.margin.of(*metric));
            let mut push = |samples: usize, found: Contrast| {
                all.push(Measured { suite: suite.clone(), metric: *metric, samples, found });
            };
            if !self.is_whole(suite, *metric) || !other.is_whole(suite, *metric) {
                let both = [self, other].map(|side| side.replicates(suite, *metric));
                let [own, others] = whole(metric.family(), both);
                let (own, others) = (self.drawn(own), other.drawn(others));
                push(own.samples(), contrast(&quantity, &own, &others, margin));
                continue;
            }
            let is_same = |(place, _): &(usize, Compared)| {
                let (of, known) = &asked[*place];
                let is_share = |metric: &Metric| metric.quantity() == Quantity::SHARE;
                of == suite && known.finding() == metric.finding() && is_share(known) == is_share(metric)
            };
            let known = tested.iter().position(is_same).unwrap_or_else(|| {
                tested.push((i, Compared::new(&quantity, own, others)));
                tested.len() - 1
            });
            push(own.samples(), tested[known].1.contrast(&quantity, margin));
        }
        all
    }
}

/// What each sample adds to a metric, once for each seed.
type Replicates = Vec<Vec<Share>>;

/// The samples that all of these have: only an answer can be without a score, where a judge said nothing of it.
fn whole<const N: usize>(family: Family, all: [Replicates; N]) -> [Replicates; N] {
    if family.is_of_answers() { statistics::in_all(all) } else { all }
}

fn asked(recipe: &Recipe) -> Asked {
    let of_suite = |(name, suite): (&String, &Suite)| {
        let name: Arc<str> = name.as_str().into();
        suite.metrics().into_iter().map(move |metric| (name.clone(), metric)).collect::<Vec<_>>()
    };
    recipe.suite.iter().flat_map(of_suite).collect()
}
