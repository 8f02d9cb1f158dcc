//! Samples of a suite under two models, side by side.

use anyhow::{Result, ensure};
use indexmap::IndexMap;

use super::read::Wanted;
use super::tables::{Part, Tables, some_count};
use super::{Sample, Samples, Side, SuiteReport, text};
use crate::fault::Fault;
use crate::words::nearest;

impl Tables<'_> {
    /// For each suite of rows, those on which the two differ most.
    pub fn samples(&self, suites: &[SuiteReport], wanted: &Wanted) -> Result<Vec<Samples>> {
        if let Some(name) = &wanted.suite
            && !suites.iter().any(|suite| suite.suite == *name)
        {
            let meant = meant(name, suites.iter().map(|s| s.suite.as_str()));
            return Err(Fault(format!("there is no suite \"{name}\"{meant}")).into());
        }
        let mut cells: IndexMap<String, Option<u64>> = IndexMap::new();
        self.scan("metrics", &["cell", "seed"], |rows| {
            let (names, seeds) = (rows.texts("cell")?, rows.counts("seed")?);
            for i in 0..rows.len() {
                if !cells.contains_key(names.value(i)) {
                    cells.insert(names.value(i).to_owned(), some_count(seeds, i));
                }
            }
            Ok(())
        })?;
        let cells: Vec<(String, Option<u64>)> = cells.into_iter().collect();
        if let Some(names) = &wanted.samples {
            names.iter().try_for_each(|name| cell_of(name, &cells).map(|_| ()))?;
            let has_some = suites.iter().any(|suite| suite.metrics.iter().any(|metric| metric.downstream));
            ensure!(
                has_some,
                Fault("no suite has answers or choices: there are no samples to set side by side".into())
            );
        }
        let is_wanted = |suite: &&SuiteReport| wanted.suite.as_ref().is_none_or(|name| suite.suite == *name);
        let mut all = vec![];
        for suite in suites.iter().filter(is_wanted) {
            let Some(metric) = suite.metrics.iter().position(|m| m.downstream) else {
                ensure!(
                    wanted.suite.is_none(),
                    Fault(format!(
                        "suite {} has windows, and no samples to read; those with answers or choices have",
                        suite.suite
                    ))
                );
                continue;
            };
            let pair = match &wanted.samples {
                Some(names) => Some([cell_of(&names[0], &cells)?, cell_of(&names[1], &cells)?]),
                None => best(suite, metric)
                    .map(|best| Ok::<_, anyhow::Error>(["dense".into(), cell_of(best, &cells)?]))
                    .transpose()?,
            };
            if let Some(pair) = pair {
                all.extend(self.of_suite(suite, metric, pair, wanted.count)?);
            }
        }
        Ok(all)
    }

    fn of_suite(
        &self,
        suite: &SuiteReport,
        metric: usize,
        cells: [String; 2],
        count: usize,
    ) -> Result<Option<Samples>> {
        let (metric, of_answers) = (&suite.metrics[metric].name, suite.metrics[metric].of_answers);
        let [a, b] = [self.sides(suite, metric, &cells[0])?, self.sides(suite, metric, &cells[1])?];
        ensure!(
            a.numbers == b.numbers,
            "samples.parquet has other samples of {} for {} than for {}; did several studies write it?",
            suite.suite,
            cells[1],
            cells[0]
        );
        let differs = |i: &usize| match of_answers {
            // An answer that was not judged has no score to look at.
            true if a.sides[*i].score.is_nan() || b.sides[*i].score.is_nan() => false,
            true => a.sides[*i].prediction != b.sides[*i].prediction,
            false => a.sides[*i].chosen != b.sides[*i].chosen || a.sides[*i].score != b.sides[*i].score,
        };
        let mut differing: Vec<usize> = (0..a.numbers.len()).filter(differs).collect();
        let gap = |i: usize| (a.sides[i].score - b.sides[i].score).abs();
        differing.sort_by(|&i, &j| gap(j).total_cmp(&gap(i)));
        let found = differing.len();
        differing.truncate(count);
        if differing.is_empty() {
            return Ok(None);
        }
        let what = if of_answers { "answer" } else { "choose in" };
        let how = format!(
            "The two {what} {found} of {} differently; shown are {}, where {metric} differs most first",
            text::counted(a.numbers.len() as u64, &suite.unit),
            if differing.len() == found { "all of these".to_owned() } else { format!("{} of these", differing.len()) },
        );
        let sample = |&i: &usize| Sample { sides: [a.sides[i].clone(), b.sides[i].clone()], ..a.samples[i].clone() };
        let samples = differing.iter().map(sample).collect();
        Ok(Some(Samples { suite: suite.suite.clone(), metric: metric.clone(), cells, how, samples }))
    }

    /// What a cell made of every sample of a suite.
    fn sides(&self, suite: &SuiteReport, metric: &str, cell: &str) -> Result<Sides> {
        let part = Part {
            columns: Some(&[
                "suite",
                "cell",
                "sample",
                "prompt",
                "reference",
                "prediction",
                "choices",
                "answer",
                "log_likelihoods",
                "chosen",
                metric,
            ]),
            rows: &[("suite", &suite.suite), ("cell", cell)],
        };
        let table = self.query_some("samples", part, |t| t.sort(["sample"], Default::default()))?;
        let (numbers, prompts) = (table.counts("sample")?, table.texts("prompt")?);
        let (references, answers) = (table.texts("reference")?, table.some_counts("answer")?);
        let (predictions, scores) = (table.some_texts("prediction")?, table.reals(metric)?);
        let (choices, chosen) = (table.some_text_lists("choices")?, table.some_counts("chosen")?);
        let likelihoods = table.some_real_lists("log_likelihoods")?;
        let side = |i: usize| Side {
            prediction: predictions[i].clone(),
            log_likelihoods: likelihoods[i].clone().unwrap_or_default(),
            chosen: chosen[i],
            score: scores[i],
        };
        let sides: Vec<Side> = (0..numbers.len()).map(side).collect();
        let sample = |i: usize| Sample {
            sample: numbers[i],
            prompt: prompts[i].clone(),
            reference: references[i].clone(),
            choices: choices[i].clone().unwrap_or_default(),
            answer: answers[i],
            sides: [sides[i].clone(), sides[i].clone()],
        };
        Ok(Sides { samples: (0..numbers.len()).map(sample).collect(), sides, numbers })
    }
}

/// A suite's samples, and what one cell made of them.
struct Sides {
    numbers: Vec<u64>,
    samples: Vec<Sample>,
    sides: Vec<Side>,
}

/// The pruned setting that is best by a metric; of equal ones the first.
fn best(suite: &SuiteReport, metric: usize) -> Option<&str> {
    let sign = if suite.metrics[metric].higher_is_better { -1.0 } else { 1.0 };
    let pruned = suite.rows.iter().filter(|row| !row.setting.is_dense());
    let best = pruned.min_by(|a, b| (sign * a.values[metric].value).total_cmp(&(sign * b.values[metric].value)));
    best.map(|row| row.setting.name.as_str())
}

/// The cell of that name, or the first seed of the setting of that name.
fn cell_of(name: &str, cells: &[(String, Option<u64>)]) -> Result<String> {
    let is_of = |(cell, seed): &&(String, Option<u64>)| {
        cell == name || seed.is_some_and(|seed| cell.strip_suffix(&format!("-s{seed}")) == Some(name))
    };
    match cells.iter().find(is_of) {
        Some((cell, _)) => Ok(cell.clone()),
        None => {
            let meant = meant(name, cells.iter().map(|(cell, _)| cell.as_str()));
            Err(Fault(format!("there is no setting \"{name}\"{meant}")).into())
        }
    }
}

/// What a name that there is not may have been meant to be.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None => format!("; there are {}", text::list(&known.map(str::to_owned).collect::<Vec<_>>())),
    }
}
