//! Windows of other calibrations, mixed by shares.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use super::{Ask, Checking, Made, Making, Origin, origin, planned, planned_behind, windows};
use crate::data::Windows;
use crate::digest::Digest;
use crate::pipeline::{Inputs, Key, PlannedStage, Planner, Stage};
use crate::recipe::Recipe;

/// `mix = { c4 = 0.75, task = 0.25 }`
pub struct Mixed<'a> {
    pub recipe: &'a Recipe,
    pub name: &'a str,
    pub shares: &'a BTreeMap<String, f64>,
}

/// How many of so many windows fall to each share: its whole part of them, and those that are left to the largest
/// remainders, of equal ones to the first.
pub fn apportion(windows: usize, shares: &BTreeMap<String, f64>) -> Vec<(&str, usize)> {
    let sum: f64 = shares.values().sum();
    let exact: Vec<f64> = shares.values().map(|share| share / sum * windows as f64).collect();
    let mut counts: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let left = windows.saturating_sub(counts.iter().sum());
    by_remainder.into_iter().take(left).for_each(|part| counts[part] += 1);
    shares.keys().map(String::as_str).zip(counts).collect()
}

impl Mixed<'_> {
    /// What is asked of each part; not of those that no window falls to.
    fn parts(&self, ask: Ask) -> Vec<(&str, Ask)> {
        let counts = apportion(ask.windows, self.shares).into_iter().filter(|(_, windows)| *windows > 0);
        counts.map(|(name, windows)| (name, Ask { windows, ..ask })).collect()
    }
}

impl Origin for Mixed<'_> {
    fn what(&self) -> String {
        let parts: Vec<String> = self.shares.iter().map(|(name, share)| format!("{share} {name}")).collect();
        format!("a mix of {}", parts.join(" and "))
    }

    fn uses(&self) -> Vec<&str> {
        self.shares.keys().map(String::as_str).collect()
    }

    fn computes(&self) -> bool {
        self.shares.keys().any(|name| origin(self.recipe, name).computes())
    }

    fn key(&self, inputs: &Inputs, ask: Ask) -> Key {
        let key = |(name, ask)| origin(self.recipe, name).key(inputs, ask).digest();
        let parts: Vec<Digest> = self.parts(ask).into_iter().map(key).collect();
        Stage::Windows.key(&("mix", parts, ask.seed))
    }

    fn entries(&self, inputs: &Inputs, ask: Ask) -> Vec<Key> {
        let of_parts =
            self.parts(ask).into_iter().flat_map(|(name, ask)| origin(self.recipe, name).entries(inputs, ask));
        of_parts.chain([self.key(inputs, ask)]).collect()
    }

    fn check(&self, checking: &Checking, ask: Ask) -> Result<()> {
        self.parts(ask).into_iter().try_for_each(|(name, ask)| checking.check(name, ask))
    }

    fn make(&self, making: &Making, ask: Ask) -> Result<Made> {
        let (mut all, mut said) = (Vec::new(), Map::new());
        for (name, ask) in self.parts(ask) {
            let Made { windows, details } = windows(making, name, ask)?;
            let mut part = json!({"windows": windows.len()});
            if !details.is_null() {
                part["details"] = details;
            }
            said.insert(name.to_owned(), part);
            all.extend(windows.slices().map(<[u32]>::to_vec));
        }
        all.shuffle(&mut ChaCha8Rng::seed_from_u64(ask.seed));
        let windows: Windows = all.iter().map(Vec::as_slice).collect();
        Ok(Made { windows, details: json!({"mix": Value::Object(said)}) })
    }

    fn stages(&self, planner: &Planner, ask: Ask) -> Vec<PlannedStage> {
        let parts = self.parts(ask);
        let counts: Vec<String> = parts.iter().map(|(name, ask)| format!("{} of {name}", ask.windows)).collect();
        let own = planned(self.name, self, planner, ask, &format!(": {}", counts.join(", ")));
        let of_parts = parts.into_iter().flat_map(|(name, ask)| origin(self.recipe, name).stages(planner, ask));
        planned_behind(own, of_parts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(shares: &[(&str, f64)]) -> BTreeMap<String, f64> {
        shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect()
    }

    #[test]
    fn windows_fall_to_shares_by_the_largest_remainder() {
        let two = shares(&[("c4", 0.75), ("task", 0.25)]);
        assert_eq!(apportion(128, &two), [("c4", 96), ("task", 32)]);
        assert_eq!(apportion(10, &two), [("c4", 8), ("task", 2)]);
        assert_eq!(apportion(1, &two), [("c4", 1), ("task", 0)]);
        let thirds = shares(&[("a", 1.0 / 3.0), ("b", 1.0 / 3.0), ("c", 1.0 / 3.0)]);
        assert_eq!(apportion(11, &thirds), [("a", 4), ("b", 4), ("c", 3)]);
    }

    #[test]
    fn no_window_is_lost_and_none_is_off_by_one() {
        for (parts, step) in [(2, 7), (3, 11), (7, 13), (23, 29)] {
            for windows in 0..200 {
                let weights: Vec<f64> = (0..parts).map(|i| 1.0 + (i * step % 17) as f64).collect();
                let sum: f64 = weights.iter().sum();
                let shares = (0..parts).map(|i| (format!("{i:02}"), weights[i] / sum)).collect();
                let counts = apportion(windows, &shares);
                assert_eq!(counts.iter().map(|(_, n)| n).sum::<usize>(), windows);
                for ((name, count), share) in counts.iter().zip(shares.values()) {
                    let off = (*count as f64 - share * windows as f64).abs();
                    assert!(off < 1.0 + 1e-9, "{count} of {windows} to {name} of {share}");
                }
            }
        }
    }
}
