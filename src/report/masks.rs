//! Which weights settings keep, beside each other: read, taken together, and in words.

use std::collections::HashMap;

use anyhow::Result;

use super::tables::{Tables, some_real};
use super::text::{capital, list};
use super::{MaskPoint, Report, Setting};

/// So many pairs of calibrations are named in a sentence; of more, the two that share the least and the most.
const NAMED: usize = 3;

/// Two settings' masks of all blocks; of one setting, those of its seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair<'a> {
    pub axis: &'a str,
    pub setting: &'a Setting,
    pub other: &'a Setting,
    /// Pairs of cells.
    pub pairs: u64,
    /// Share of the kept weights that both keep.
    pub overlap: f64,
    /// The same by chance.
    pub chance: f64,
}

impl Tables<'_> {
    /// What settings share, block by block; nothing of a study of an earlier version, which has no such table.
    pub fn masks(&self) -> Result<Vec<MaskPoint>> {
        if !self.dir.join("masks.parquet").exists() {
            return Ok(vec![]);
        }
        const COLUMNS: [&str; 16] = [
            "axis",
            "setting",
            "method",
            "pattern",
            "sparsity",
            "calibration",
            "other",
            "other_method",
            "other_pattern",
            "other_sparsity",
            "other_calibration",
            "block",
            "weights",
            "pairs",
            "overlap",
            "chance",
        ];
        // Rows of a block of two settings stand together; shares are sums until all of them are there.
        let mut points: Vec<MaskPoint> = vec![];
        self.scan("masks", &COLUMNS, |rows| {
            let (axes, blocks) = (rows.texts("axis")?, rows.counts("block")?);
            let (names, other_names) = (rows.texts("setting")?, rows.texts("other")?);
            let (setting, other) = (rows.settings("setting", "")?, rows.settings("other", "other_")?);
            let (weights, pairs) = (rows.counts("weights")?, rows.counts("pairs")?);
            let (overlaps, chances) = (rows.reals("overlap")?, rows.reals("chance")?);
            for i in 0..rows.len() {
                // Where nothing is kept, nothing is shared.
                let Some(overlap) = some_real(overlaps, i) else { continue };
                let is_of = |point: &MaskPoint| {
                    point.block == blocks.value(i)
                        && point.axis == axes.value(i)
                        && point.setting.name == names.value(i)
                        && point.other.name == other_names.value(i)
                };
                if !points.last().is_some_and(is_of) {
                    points.push(MaskPoint {
                        axis: axes.value(i).to_owned(),
                        setting: setting(i),
                        other: other(i),
                        block: blocks.value(i),
                        weights: 0,
                        pairs: pairs.value(i),
                        overlap: 0.0,
                        chance: 0.0,
                    });
                }
                let (point, own) = (points.last_mut().expect("a point was just pushed"), weights.value(i));
                point.weights += own;
                point.overlap += own as f64 * overlap;
                point.chance += own as f64 * chances.value(i);
            }
            Ok(())
        })?;
        for point in &mut points {
            point.overlap /= point.weights as f64;
            point.chance /= point.weights as f64;
        }
        Ok(points)
    }
}

/// The settings that are set beside each other, over all blocks, in the order of the table.
pub fn pairs(points: &[MaskPoint]) -> Vec<Pair<'_>> {
    let mut pairs: Vec<(Pair, f64)> = Vec::new();
    let mut places: HashMap<(&str, &str, &str), usize> = HashMap::new();
    for point in points {
        let (axis, setting, other) = (point.axis.as_str(), &point.setting, &point.other);
        let place = *places.entry((axis, &setting.name, &other.name)).or_insert_with(|| {
            pairs.push((Pair { axis, setting, other, pairs: point.pairs, overlap: 0.0, chance: 0.0 }, 0.0));
            pairs.len() - 1
        });
        let (pair, weights) = &mut pairs[place];
        // A running mean, weighted by sizes.
        *weights += point.weights as f64;
        let share = point.weights as f64 / *weights;
        pair.overlap += share * (point.overlap - pair.overlap);
        pair.chance += share * (point.chance - pair.chance);
    }
    pairs.into_iter().map(|(pair, _)| pair).collect()
}

/// What two seeds of a setting share, the mean of both settings of a pair; None where neither has several.
pub fn of_seeds(pairs: &[Pair], pair: &Pair) -> Option<f64> {
    let seeds = pairs.iter().filter(|other| other.axis == "seed");
    let shares: Vec<f64> =
        seeds.filter(|of| [pair.setting, pair.other].contains(&of.setting)).map(|of| of.overlap).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// `prose and instruct`
pub fn calibrations(pair: &Pair) -> String {
    list(&[pair.setting, pair.other].map(|setting| setting.calibration.clone().unwrap_or_default()))
}

/// How many of the same weights are kept whatever calibrates; None where there is one calibration.
pub fn sentence(report: &Report) -> Option<String> {
    let pairs = pairs(&report.masks);
    let compared: Vec<&Pair> = pairs.iter().filter(|pair| pair.axis == "calibration").collect();
    if compared.len() <= NAMED {
        return enumerated(&pairs, &compared);
    }
    let said = |pair: &Pair| {
        let (method, strength) = (&pair.setting.method, pair.setting.strength());
        let beside = beside(&pairs, pair, true);
        format!("{} ({}, {method} at {strength}; {beside})", percent(pair.overlap), calibrations(pair))
    };
    let least = compared.iter().min_by(|a, b| a.overlap.total_cmp(&b.overlap))?;
    let most = compared.iter().max_by(|a, b| a.overlap.total_cmp(&b.overlap))?;
    Some(format!(
        "Of the weights that a method keeps, two calibrations share from {} to {}, in {} comparisons.",
        said(least),
        said(most),
        compared.len()
    ))
}

/// Each pair, and what it is the same in as the one before only once.
fn enumerated(pairs: &[Pair], compared: &[&Pair]) -> Option<String> {
    let mut before: Option<&Pair> = None;
    let mut clauses = Vec::new();
    for pair in compared {
        let is_first = before.is_none();
        let names = match before.replace(pair) {
            Some(before) if calibrations(before) == calibrations(pair) => String::new(),
            Some(_) => calibrations(pair) + " ",
            None => format!("calibrations {} share ", calibrations(pair)),
        };
        let weights = if is_first { "of the weights that" } else { "of those that" };
        let (share, method, strength) = (percent(pair.overlap), &pair.setting.method, pair.setting.strength());
        let beside = beside(pairs, pair, is_first);
        clauses.push(format!("{names}{share} {weights} {method} keeps at {strength} ({beside})"));
    }
    (!clauses.is_empty()).then(|| capital(&(list(&clauses) + ".")))
}

/// What a share is to be seen beside.
fn beside(pairs: &[Pair], pair: &Pair, is_explained: bool) -> String {
    let seeds = of_seeds(pairs, pair).map(|share| match is_explained {
        true => format!("; two seeds of one calibration: {}", percent(share)),
        false => format!("; two seeds: {}", percent(share)),
    });
    format!("chance: {}{}", percent(pair.chance), seeds.unwrap_or_default())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn said(change: impl FnOnce(&mut Report)) -> Option<String> {
        let mut report = sample::report();
        change(&mut report);
        sentence(&report)
    }

    #[test]
    fn a_mean_over_blocks_is_weighted_by_their_sizes() {
        let mut report = sample::report();
        report.masks.retain(|point| point.axis == "calibration");
        report.masks.truncate(2);
        (report.masks[0].weights, report.masks[0].overlap) = (100, 0.9);
        (report.masks[1].weights, report.masks[1].overlap) = (300, 0.7);
        let pairs = pairs(&report.masks);
        assert!(pairs.len() == 1 && (pairs[0].overlap - 0.75).abs() < 1e-12, "{pairs:?}");
    }

    #[test]
    fn few_pairs_of_calibrations_are_named_and_many_bounded() {
        let expected = "Calibrations prose and task share 77.5% of the weights that wanda keeps at 0.5 (chance: 50.0%; two \
                        seeds of one calibration: 95.0%).";
        assert_eq!(said(|_| ()).unwrap(), expected);
        let without_seeds = said(|report| report.masks.retain(|point| point.axis != "seed")).unwrap();
        assert!(without_seeds.ends_with("keeps at 0.5 (chance: 50.0%)."), "{without_seeds}");
        let add = |report: &mut Report, more: usize| {
            let own: Vec<MaskPoint> = report.masks.iter().filter(|p| p.axis == "calibration").cloned().collect();
            for i in 0..more {
                report.masks.extend(own.iter().cloned().map(|mut point| {
                    (point.setting.method, point.setting.name) = (format!("m{i}"), format!("m{i}-0.5-prose"));
                    (point.other.method, point.other.name) = (format!("m{i}"), format!("m{i}-0.5-task"));
                    point.overlap += 0.01 * (i + 1) as f64;
                    point
                }));
            }
        };
        let two = said(|report| add(report, 1)).unwrap();
        assert!(two.ends_with("95.0%) and 78.5% of those that m0 keeps at 0.5 (chance: 50.0%)."), "{two}");
        let other = said(|report| {
            add(report, 1);
            let others = report.masks.iter_mut().filter(|point| point.other.method == "m0");
            others.for_each(|point| point.other.calibration = Some("news".into()));
        });
        assert!(other.unwrap().contains("95.0%) and prose and news 78.5% of those that m0 keeps"));
        let many = said(|report| add(report, 4)).unwrap();
        let expected = "Of the weights that a method keeps, two calibrations share from 77.5% (prose and task, wanda at 0.5; \
                        chance: 50.0%; two seeds of one calibration: 95.0%) to 81.5% (prose and task, m3 at 0.5; chance: \
                        50.0%), in 5 comparisons.";
        assert_eq!(many, expected);
    }

    #[test]
    fn one_calibration_is_not_spoken_of() {
        assert_eq!(said(|report| report.masks.retain(|point| point.axis != "calibration")), None);
        assert_eq!(said(|report| report.masks.clear()), None);
    }
}
