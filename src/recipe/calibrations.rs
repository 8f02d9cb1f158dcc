//! What is wrong with where a calibration's windows come from.

use super::check::{Checker, unknown};
use super::{Calibration, Recipe};
use crate::calibration::{SOURCES, origin, sources};

impl Checker<'_> {
    /// A calibration has one source.
    pub(super) fn sources(&mut self, name: &str, set: &Calibration) {
        let listed = || SOURCES.map(|key| format!("`{key}`")).join(", ");
        match sources(set).as_slice() {
            [_] => {}
            [] => self.add(&["calibration", name], format!("it has no source of windows; expected {}", listed()), None),
            [one, others @ ..] => {
                let message =
                    format!("`{one}` says where windows come from, and so does this; expected one of {}", listed());
                others.iter().for_each(|other| self.add(&["calibration", name, other], message.clone(), None));
            }
        }
    }

    /// What calibrations draw from is there, and none draws from itself.
    pub(super) fn uses(&mut self, recipe: &Recipe) {
        for name in recipe.calibration.keys() {
            let origin = origin(recipe, name);
            let key = sources(&recipe.calibration[name]);
            let key = ["calibration", name.as_str(), key.first().copied().unwrap_or_default()];
            for used in origin.uses() {
                if !recipe.calibration.contains_key(used) {
                    let (message, hint) = unknown("calibration", used, recipe.calibration.keys());
                    self.add(&key, message, hint);
                }
            }
            if let Some(way) = cycle(recipe, name) {
                self.add(&key, format!("it draws from itself: {}", way.join(", which draws from ")), None);
            }
        }
    }
}

/// The way from a calibration back to itself, if there is one.
fn cycle(recipe: &Recipe, name: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![name.to_owned()]];
    let mut seen: Vec<String> = Vec::new();
    while let Some(way) = ways.pop() {
        let last = way.last().filter(|last| recipe.calibration.contains_key(*last))?.clone();
        for used in origin(recipe, &last).uses() {
            let longer = [way.clone(), vec![used.to_owned()]].concat();
            if used == name {
                return Some(longer);
            }
            if recipe.calibration.contains_key(used) && !seen.iter().any(|other| other == used) {
                seen.push(used.to_owned());
                ways.push(longer);
            }
        }
    }
    None
}
