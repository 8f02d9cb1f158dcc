//! What is wrong with where a calibration's windows come from.

use std::collections::BTreeMap;

use super::check::{Checker, unknown};
use super::problem::Problem;
use super::{Calibration, Cell, Layers, Recipe, cells};
use crate::calibration::{InContext, SOURCES, Select, apportion, origin, sources};
use crate::data::{Packing, Templates};

/// How far shares may sum to something else than 1.
const ROUNDING: f64 = 1e-6;

impl Checker<'_> {
    /// A calibration has one source, which is what it should be.
    pub(super) fn sources(&mut self, name: &str, set: &Calibration) {
        let listed = || SOURCES.map(|key| format!("`{key}`")).join(", ");
        match sources(set).as_slice() {
            [_] => {}
            [] => self.add(
                &["calibration", name],
                format!("nothing says where its windows come from; expected one of {}", listed()),
                None,
            ),
            [one, others @ ..] => {
                let message =
                    format!("`{one}` says already where the windows come from; expected only one of {}", listed());
                others.iter().for_each(|other| self.add(&["calibration", name, other], message.clone(), None));
            }
        }
        if let Some(shares) = &set.mix {
            self.shares(name, set, shares);
        }
        if let Some(how) = &set.select {
            self.select(name, set, how);
        }
        if let Some(how) = &set.in_context {
            self.in_context(name, set, how);
        }
    }

    /// Windows are chosen by one thing, from as many as are asked for.
    fn select(&mut self, name: &str, set: &Calibration, how: &Select) {
        let key = ["calibration", name, "select"];
        let within = |part| [key[0], key[1], key[2], part];
        match (how.by, how.part, &how.near) {
            (Some(_), Some(_), None) | (None, None, Some(_)) => {}
            (Some(_), None, None) => {
                let message =
                    "which of them are taken is missing; expected part = \"lowest\", \"middle\" or \"highest\"";
                self.add(&within("by"), message, None);
            }
            (Some(_), _, Some(_)) => {
                self.add(
                    &within("near"),
                    "`by` says already what windows are chosen by; expected only one of them",
                    None,
                );
            }
            (None, Some(_), Some(_)) => {
                self.add(&within("part"), "it goes with `by`; of `near` the nearest are taken", None);
            }
            (None, _, None) => {
                let message =
                    "nothing says what windows are chosen by; expected by = \"perplexity\" or near = \"SUITE\"";
                self.add(&key, message, None);
            }
        }
        if how.of < set.windows {
            let message = format!("{} are too few to choose {} windows from", how.of, set.windows);
            self.add(&within("of"), message, None);
        }
    }

    /// Solved examples are rows of a data set, packed as they are.
    fn in_context(&mut self, name: &str, set: &Calibration, how: &InContext) {
        let key = ["calibration", name, "in_context"];
        if set.dataset.is_none() {
            return self.add(&key, "it makes solved examples of a data set's rows; expected `dataset` beside it", None);
        }
        if set.packing != Packing::Pack {
            let message = "solved examples are not cut in two; expected packing = \"pack\" beside it";
            self.add(&key, message, None);
        }
        self.at_least(&[key[0], key[1], key[2], "shots"], how.shots.unwrap_or(1), 1);
        if let Some(Err(error)) = how.template.as_ref().map(Templates::check) {
            self.add(&[key[0], key[1], key[2], "template"], format!("{error:#}"), None);
        }
    }

    /// The shares of a mix.
    fn shares(&mut self, name: &str, set: &Calibration, shares: &BTreeMap<String, f64>) {
        let key = ["calibration", name, "mix"];
        if shares.is_empty() {
            return self.add(&key, "it names no calibration; expected shares such as { c4 = 0.75, task = 0.25 }", None);
        }
        let wrong: Vec<_> = shares.iter().filter(|(_, share)| !(**share > 0.0 && **share <= 1.0)).collect();
        for (part, share) in &wrong {
            let message = format!("{share} is no share; expected a number above 0, at most 1");
            self.add(&[key[0], key[1], key[2], part], message, None);
        }
        if !wrong.is_empty() {
            return;
        }
        let sum: f64 = shares.values().sum();
        if (sum - 1.0).abs() > ROUNDING {
            let sum = (sum * 1e6).round() / 1e6;
            return self.add(&key, format!("the shares sum to {sum}; expected 1"), None);
        }
        for (part, _) in apportion(set.windows, shares).into_iter().filter(|(_, windows)| *windows == 0) {
            let message = format!("of {} windows none falls to {}; expected more windows", set.windows, shares[part]);
            self.add(&[key[0], key[1], key[2], part], message, None);
        }
    }

    /// What calibrations draw from is there, and none draws from itself.
    pub(super) fn uses(&mut self, recipe: &Recipe) {
        for (name, set) in &recipe.calibration {
            for suite in origin(recipe, name).suites().into_iter().filter(|suite| !recipe.suite.contains_key(*suite)) {
                let (message, hint) = unknown("suite", suite, recipe.suite.keys());
                self.add(&["calibration", name, "select", "near"], message, hint);
            }
            for used in origin(recipe, name).uses() {
                let key = key_of(name, set, used);
                if !recipe.calibration.contains_key(used) {
                    let (message, hint) = unknown("calibration", used, recipe.calibration.keys());
                    self.add(&key, message, hint);
                } else if let Some(way) = way(recipe, used, name) {
                    self.add(&key, format!("{name} would draw from itself: {name} from {}", way.join(" from ")), None);
                }
            }
        }
    }
}

/// Why the calibrations of a recipe that was recorded, and is not read with its places, cannot be drawn from.
pub fn unsound(recipe: &Recipe) -> Option<String> {
    let lacks = |name: &str| (!recipe.calibration.contains_key(name)).then(|| format!("it has no calibration.{name}"));
    let of_cells = cells(recipe).iter().filter_map(Cell::drawn).find_map(|drawn| lacks(&drawn.name));
    let of_calibration = |name: &String| {
        let origin = origin(recipe, name);
        let unseen = origin.suites().into_iter().find(|suite| !recipe.suite.contains_key(*suite));
        let wrong = |used: &str| {
            let itself = || way(recipe, used, name).map(|_| format!("calibration.{name} draws from itself"));
            lacks(used).or_else(itself)
        };
        origin.uses().into_iter().find_map(wrong).or_else(|| unseen.map(|suite| format!("it has no suite.{suite}")))
    };
    of_cells.or_else(|| recipe.calibration.keys().find_map(of_calibration))
}

/// Where a calibration names another one.
fn key_of<'a>(name: &'a str, set: &Calibration, used: &'a str) -> Vec<&'a str> {
    let source = sources(set).first().copied().unwrap_or_default();
    let mut key = vec!["calibration", name, source];
    if set.mix.is_some() {
        key.push(used);
    } else if set.select.is_some() {
        key.push("from");
    }
    key
}

/// The calibrations by which one draws from another: the first of them, those between, the last; None where it does not.
fn way(recipe: &Recipe, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = vec![from.to_owned()];
    while let Some(way) = ways.pop() {
        let last = way.last().cloned().unwrap_or_default();
        if last == to {
            return Some(way);
        }
        if !recipe.calibration.contains_key(&last) {
            continue;
        }
        for used in origin(recipe, &last).uses() {
            if !seen.iter().any(|other| other == used) {
                seen.push(used.to_owned());
                ways.push([way.clone(), vec![used.to_owned()]].concat());
            }
        }
    }
    None
}

/// Keys that change nothing beside the source of a calibration, and texts that would be written for nothing.
pub(super) fn inert(recipe: &Recipe, layers: &Layers) -> Vec<Problem> {
    let mut inert = Vec::new();
    for (name, set) in recipe.calibration.iter().filter(|(_, set)| set.rows_of().is_none()) {
        let keys = [("split", set.split.is_some()), ("packing", set.packing != Packing::Concat)];
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
            let why = "it is for a data set's rows, and this calibration draws from others, which have their own";
            inert.push(layers.problem(&["calibration", name, key], why.into(), None));
        }
    }
    let packed = recipe.calibration.iter().filter(|(_, set)| set.packing == Packing::Pack);
    for (name, set, how) in packed.filter_map(|(name, set)| Some((name, set, set.generate.as_ref()?))) {
        let most = how.prefix.saturating_add(how.max_new_tokens);
        if most > set.length {
            let why = format!(
                "texts may have up to {most} tokens, and packing = \"pack\" passes over those that are longer than a window of \
                 {}; lower it, and fewer are written in vain",
                set.length
            );
            inert.push(layers.problem(&["calibration", name, "generate", "max_new_tokens"], why, None));
        }
    }
    inert
}
