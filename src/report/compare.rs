//! Studies side by side: what differs between them, and every setting that several of them have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indexmap::IndexMap;
use polars::prelude::*;
use serde::Serialize;

use super::read::setting_of;
use super::tables::{Frame, Part, Tables};
use super::{Difference, MetricColumn, Report, SuiteReport, Value, Wanted, facts};
use crate::fault::Fault;
use crate::recipe::{Suite, Unit, WindowUnit};
use crate::results::{Manifest, SampleUnit, SuiteEntry};
use crate::statistics::{self, Share, contrast, judge};

/// Two or more studies. The first is the one that the others are compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideBySide {
    pub studies: Vec<String>,
    /// What was run otherwise, one entry a study; none where a study has no such thing.
    pub differs: Vec<Differs>,
    pub suites: Vec<Compared>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Differs {
    pub name: String,
    pub values: Vec<Option<String>>,
}

/// A suite that several studies have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    pub suite: String,
    /// How many samples each study has.
    pub samples: Vec<Option<u64>>,
    /// How many of the first study's samples each has too: differences are paired on these.
    pub shared: Vec<u64>,
    /// Whether each study's samples are the first one's tokens: what is counted by the token is not compared where they are
    /// another tokenizer's.
    pub same_tokens: Vec<bool>,
    /// How many differences were tested by each metric, and p-values are adjusted for: dense has none by what is a comparison
    /// with it.
    pub comparisons: IndexMap<String, u64>,
    pub rows: Vec<ComparedRow>,
}

/// A setting by a metric, in every study that has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRow {
    pub setting: String,
    pub metric: String,
    pub values: Vec<Option<Value>>,
    /// To the first study over the samples that both have, one entry a study; none of the first itself, and where no
    /// sample is shared.
    pub differences: Vec<Option<Difference>>,
}

/// A study that was read.
struct Study {
    name: String,
    report: Report,
    manifest: Manifest,
    dir: PathBuf,
}

/// A setting's replicates on a suite, by metric.
type Replicates = BTreeMap<(String, String), Vec<Vec<Share>>>;

impl SideBySide {
    /// Reads the tables of studies.
    ///
    /// # Errors
    /// Where there are fewer than two, or one cannot be read.
    pub fn read(dirs: &[PathBuf]) -> Result<Self> {
        if dirs.len() < 2 {
            return Err(Fault("give two or more folders of results, such as results/a results/b".into()).into());
        }
        let studies: Vec<Study> = dirs.iter().map(|dir| Study::read(dir)).collect::<Result<_>>()?;
        let named = |i: usize| {
            let shared = studies.iter().filter(|study| study.name == studies[i].name).count() > 1;
            if shared { studies[i].dir.display().to_string() } else { studies[i].name.clone() }
        };
        let mut suites = vec![];
        for suite in &studies[0].report.suites {
            suites.extend(compared(&studies, suite)?);
        }
        Ok(Self { studies: (0..studies.len()).map(named).collect(), differs: differs(&studies), suites })
    }
}

impl Study {
    fn read(dir: &Path) -> Result<Self> {
        let report = Report::read(dir, &Wanted { count: 0, ..Wanted::default() })?;
        let manifest = Manifest::read(dir)?;
        Ok(Self { name: report.study.clone(), report, manifest, dir: dir.to_owned() })
    }

    fn suite(&self, name: &str) -> Option<&SuiteReport> {
        self.report.suites.iter().find(|suite| suite.suite == name)
    }

    fn value(&self, suite: &str, setting: &str, metric: &str) -> Option<Value> {
        let suite = self.suite(suite)?;
        let column = suite.metrics.iter().position(|column| column.name == metric)?;
        let row = suite.rows.iter().find(|row| row.setting.name == setting)?;
        Some(row.values[column].clone())
    }

    /// The samples of a suite, in their order.
    fn samples(&self, suite: &str) -> Result<Frame> {
        let part = Part { columns: None, rows: &[("suite", suite)] };
        let in_order = |t: LazyFrame| t.sort(["cell", "sample"], Default::default());
        Tables { dir: &self.dir }.query_some("samples", part, in_order)
    }
}

/// What the studies' facts say otherwise.
fn differs(studies: &[Study]) -> Vec<Differs> {
    let mut names: Vec<&String> = vec![];
    for fact in studies.iter().flat_map(|study| &study.report.facts) {
        if !names.contains(&&fact.name) {
            names.push(&fact.name);
        }
    }
    // When a study ran, and how long that took, is no other way of running it.
    names.retain(|name| *name != facts::RUN);
    let of = |name: &String| {
        let value = |study: &Study| study.report.facts.iter().find(|f| f.name == *name).map(|f| f.value.clone());
        Differs { name: name.clone(), values: studies.iter().map(value).collect() }
    };
    let mut differs: Vec<Differs> =
        names.into_iter().map(of).filter(|differs| differs.values.iter().any(|v| *v != differs.values[0])).collect();
    let versions = studies.iter().map(|study| study.manifest.versions.get("calipr").cloned());
    let versions = Differs { name: "calipr".into(), values: versions.collect() };
    differs.extend(Some(versions).filter(|versions| versions.values.iter().any(|v| *v != versions.values[0])));
    // Cells that are not there are not compared, which nobody sees who does not know of them.
    if studies.iter().any(|study| study.report.unfinished.is_some()) {
        let done = |study: &Study| Some(study.report.cells.to_string());
        differs.push(Differs { name: "cells".into(), values: studies.iter().map(done).collect() });
    }
    differs
}

/// A suite of the first study, in all that have it.
fn compared(studies: &[Study], suite: &SuiteReport) -> Result<Option<Compared>> {
    let name = &suite.suite;
    if studies.iter().filter(|study| study.suite(name).is_some()).count() < 2 {
        return Ok(None);
    }
    let frames: Vec<Option<Frame>> = studies
        .iter()
        .map(|study| study.suite(name).map(|_| study.samples(name)).transpose())
        .collect::<Result<_>>()?;
    let mut shared = vec![];
    for (study, frame) in studies.iter().zip(&frames) {
        shared.push(match (&frames[0], frame) {
            (Some(of_first), Some(frame)) => shared_samples(&studies[0], study, name, of_first, frame)?,
            _ => 0,
        });
    }
    // Of two studies, a sample that only one of them has says nothing.
    let shares_of = |i: usize, samples: usize| {
        frames[i].as_ref().map_or_else(|| Ok(Replicates::new()), |f| shares(f, suite, samples))
    };
    let mut replicates: Vec<[Replicates; 2]> = vec![];
    for (i, &samples) in shared.iter().enumerate() {
        replicates.push([shares_of(i, samples)?, shares_of(0, samples)?]);
    }
    let same_tokens: Vec<bool> = studies.iter().map(|study| has_same_tokens(&studies[0], study, name)).collect();
    let margin = &studies[0].manifest.recipe.report.margin;
    let mut rows = vec![];
    for setting in suite.rows.iter().map(|row| &row.setting) {
        // What a dense model is to itself differs nowhere.
        for column in suite.metrics.iter().filter(|column| !(column.of_dense && setting.is_dense())) {
            let values: Vec<_> = studies.iter().map(|study| study.value(name, &setting.name, &column.name)).collect();
            if values.iter().flatten().count() < 2 {
                continue;
            }
            let metric = &studies[0].manifest.metrics[&column.name];
            let samples = |of: &Replicates| of.get(&(setting.name.clone(), column.name.clone())).cloned();
            let drawn = |mut found: Vec<Vec<Share>>| match setting.calibration.is_some() {
                true => statistics::Setting::drawn(found),
                false => statistics::Setting::fixed(found.swap_remove(0)),
            };
            let difference = |i: usize| {
                if !metric.downstream && !same_tokens[i] {
                    return None;
                }
                let [own, of_first] = &replicates[i];
                let both = [samples(own)?, samples(of_first)?];
                // Only an answer can be without a score.
                let [own, of_first] = if metric.of_answers { statistics::in_all(both) } else { both };
                let (samples, margin) = (own[0].len(), margin.of_kind(metric.kind));
                Some((contrast(&metric.quantity(), &drawn(own), &drawn(of_first), margin), samples))
            };
            let differences = (0..studies.len()).map(|i| if i == 0 { None } else { difference(i) }).collect();
            rows.push((setting.name.clone(), column, values, differences));
        }
    }
    let samples = studies.iter().map(|study| study.suite(name).map(|suite| suite.samples)).collect();
    let shared = shared.iter().map(|&n| n as u64).collect();
    Ok(Some(judged(
        Compared { suite: name.clone(), samples, shared, same_tokens, comparisons: IndexMap::new(), rows: vec![] },
        rows,
    )))
}

/// How many samples of a suite two studies share; samples come from the start, so that these are the first ones of each.
/// Windows are the same where the same tokenizer cut the same rows alike, prompts where their texts are.
fn shared_samples(first: &Study, other: &Study, suite: &str, of_first: &Frame, of_other: &Frame) -> Result<usize> {
    let entries = [first, other].map(|study| study.manifest.suites.get(suite));
    let [Some(one), Some(two)] = entries else { return Ok(0) };
    let fewest = one.samples.min(two.samples);
    if one.digest == two.digest {
        return Ok(fewest);
    }
    if one.unit == SampleUnit::Windows && two.unit == SampleUnit::Windows {
        let made_of = |study: &Study, entry: &SuiteEntry| {
            let cut = match study.manifest.recipe.suite.get(suite).map(Suite::unit) {
                Some(Unit::Windows(WindowUnit { packing, length, .. })) => Some((packing, length)),
                _ => None,
            };
            let rows = study.manifest.datasets.get(&entry.data.dataset).map(|data| data.definition.digest());
            let tokenizer = study.manifest.model.tokenizer.digest.clone();
            (cut, rows, entry.data.split.clone(), entry.data.digest.clone(), tokenizer)
        };
        return Ok(if made_of(first, one) == made_of(other, two) { fewest } else { 0 });
    }
    let (one, two) = (texts_of_dense(of_first)?, texts_of_dense(of_other)?);
    Ok(one.iter().zip(&two).take_while(|(one, two)| one.0.is_some() && one == two).count())
}

/// Whether two studies cut the same samples of a suite into the same tokens.
fn has_same_tokens(first: &Study, other: &Study, suite: &str) -> bool {
    let digests = |study: &Study| {
        let tokens = study.manifest.suites.get(suite).map(|entry| entry.digest.clone());
        (tokens, study.manifest.model.tokenizer.digest.clone())
    };
    let (one, two) = (digests(first), digests(other));
    one.0 == two.0 || one.1 == two.1
}

/// The prompts and references of a suite's rows.
fn texts_of_dense(frame: &Frame) -> Result<Vec<(Option<String>, Option<String>)>> {
    let cells = frame.texts("cell")?;
    let rows = frame.some_texts("prompt")?.into_iter().zip(frame.some_texts("reference")?);
    Ok(cells.iter().zip(rows).filter(|(cell, _)| *cell == "dense").map(|(_, texts)| texts).collect())
}

/// What each of the first `samples` adds to every metric, cell by cell.
fn shares(frame: &Frame, suite: &SuiteReport, samples: usize) -> Result<Replicates> {
    let (cells, seeds) = (frame.texts("cell")?, frame.some_counts("seed")?);
    let (numbers, positions) = (frame.counts("sample")?, frame.some_counts("positions")?);
    let mut replicates = Replicates::new();
    for column in &suite.metrics {
        let values = frame.some_reals(&column.finding)?;
        let mut last: Option<&String> = None;
        for i in (0..cells.len()).filter(|&i| numbers[i] < samples as u64) {
            let of_setting = replicates.entry((setting_of(&cells[i], seeds[i]), column.name.clone())).or_default();
            if last != Some(&cells[i]) {
                of_setting.push(vec![]);
                last = Some(&cells[i]);
            }
            let weight = if column.downstream { 1.0 } else { positions[i].map_or(0.0, |n| n as f64) };
            let share = values[i].map_or(Share::default(), |value| Share { sum: value * weight, weight });
            of_setting.last_mut().expect("one was just pushed").push(share);
        }
    }
    Ok(replicates)
}

type Row<'a> = (String, &'a MetricColumn, Vec<Option<Value>>, Vec<Option<(statistics::Contrast, usize)>>);

/// Corrects the differences for all of them that are of one metric. `compared` has no rows yet.
fn judged(mut compared: Compared, rows: Vec<Row>) -> Compared {
    let mut families: IndexMap<&str, Vec<(usize, usize)>> = IndexMap::new();
    for (r, (_, metric, _, differences)) in rows.iter().enumerate() {
        let found = differences.iter().enumerate().filter(|(_, difference)| difference.is_some()).map(|(i, _)| (r, i));
        families.entry(&metric.name).or_default().extend(found);
    }
    families.retain(|_, members| !members.is_empty());
    compared.rows = rows
        .iter()
        .map(|(setting, metric, values, differences)| ComparedRow {
            setting: setting.clone(),
            metric: metric.name.clone(),
            values: values.clone(),
            differences: differences.iter().map(|_| None).collect(),
        })
        .collect();
    for members in families.into_values() {
        let MetricColumn { name, higher_is_better, .. } = rows[members[0].0].1;
        let found: Vec<(&statistics::Contrast, usize)> = members
            .iter()
            .map(|&(r, i)| {
                let (contrast, samples) = rows[r].3[i].as_ref().expect("members have one");
                (contrast, *samples)
            })
            .collect();
        let tested = found.iter().filter(|(contrast, _)| contrast.p_value.is_some()).count();
        compared.comparisons.insert(name.clone(), tested as u64);
        for ((member, (contrast, _)), judged) in members.iter().zip(&found).zip(judge(&found, *higher_is_better)) {
            let (low, high) = contrast.interval.unzip();
            compared.rows[member.0].differences[member.1] = Some(Difference {
                delta: contrast.delta,
                low,
                high,
                p_value: contrast.p_value,
                p_adjusted: judged.p_adjusted,
                verdict: judged.verdict,
                needed: judged.needed.map(|needed| needed as u64),
            });
        }
    }
    compared
}
