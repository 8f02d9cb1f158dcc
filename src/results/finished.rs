//! A cell that has ended, as far as tables are made of it again and again; what else there is to say of it, the cache has.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use indexmap::IndexMap;

use super::shares::{Shares, shares};
use crate::metrics::{JudgeScores, Metric};
use crate::pipeline::{ErrorsRecord, Material, Outcome, PrunedRecord, Spent, Status, Study, SuiteRecord};
use crate::recipe::{Cell, Recipe};

/// A finished cell.
#[derive(Debug)]
pub struct Finished {
    pub cell: Cell,
    /// Its cell's.
    pub id: String,
    pub status: Status,
    /// The fraction of zeros among the weights of all linears; None where the cell failed.
    pub achieved: Option<f64>,
    /// How many weight matrices were pruned, or looked at.
    pub layers: usize,
    pub spent: Option<Spent>,
    /// What each sample adds to each metric that is asked for, by suite; empty where the cell failed.
    pub(super) shares: IndexMap<String, Shares>,
    /// What judges made of its answers, by suite: not kept anywhere as it is.
    judged: BTreeMap<String, Vec<JudgeScores>>,
}

impl Finished {
    /// What is held of an outcome, which the cache has in full; beside another cell of the study, where there is one, with
    /// which it then has in common what is the same for both.
    pub fn new(
        recipe: &Recipe,
        materials: &BTreeMap<String, Material>,
        outcome: Outcome,
        beside: Option<&Self>,
    ) -> Self {
        let Outcome { record, mut suites, spent } = outcome;
        let of_suite = |(name, record): (&String, &SuiteRecord)| {
            let suite = &recipe.suite[name];
            let asked = suite.metrics();
            let like = beside.and_then(|other| other.shares.get(name));
            let shares = shares(suite, record, &materials[name], |metric: Metric| asked.contains(&metric), like);
            (name.clone(), shares)
        };
        let shares = suites.iter().map(of_suite).collect();
        let judged = suites.iter_mut().filter_map(|(name, record)| Some((name.clone(), record.judged.take()?)));
        Self {
            id: record.cell.id(),
            cell: record.cell,
            status: record.status,
            achieved: record.pruned.as_ref().map(PrunedRecord::achieved_sparsity),
            layers: record.pruned.as_ref().map_or(0, |pruned| pruned.layers.len()),
            spent,
            shares,
            judged: judged.collect(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.status == Status::Done
    }

    /// Its samples, of all suites.
    pub(super) fn samples(&self, materials: &BTreeMap<String, Material>) -> usize {
        self.shares.keys().map(|suite| materials[suite].samples()).sum()
    }

    /// Its results on each suite, read again.
    ///
    /// # Errors
    /// Where the cache has lost them.
    pub(super) fn results(&self, study: &Study) -> Result<IndexMap<String, SuiteRecord>> {
        if self.shares.is_empty() {
            return Ok(IndexMap::new());
        }
        let mut suites = study.kept_results(&self.cell).ok_or_else(|| self.lost("what its samples came to"))?;
        for (name, judged) in &self.judged {
            if let Some(record) = suites.get_mut(name) {
                record.judged = Some(judged.clone());
            }
        }
        Ok(suites)
    }

    /// How it was pruned, and its output errors, read again; None where it failed.
    ///
    /// # Errors
    /// Where the cache has lost that.
    pub(super) fn pruning(&self, study: &Study) -> Result<Option<(PrunedRecord, Option<ErrorsRecord>)>> {
        match self.achieved {
            Some(_) => Ok(Some(study.kept_pruning(&self.cell).ok_or_else(|| self.lost("how it was pruned"))?)),
            None => Ok(None),
        }
    }

    fn lost(&self, what: &str) -> anyhow::Error {
        anyhow!(
            "the cache no longer has {what} of {}, which was there a while ago; it must not be emptied while a study runs. The \
             same command computes it again",
            self.id
        )
    }
}
