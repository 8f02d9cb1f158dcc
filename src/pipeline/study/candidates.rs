//! The dense model's losses on windows that a calibration chooses from.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::super::cache::Key;
use super::super::keys::Place;
use super::super::progress::Progress;
use super::super::stop_if_interrupted;
use super::super::walk::Walk;
use super::Study;
use crate::data::{Passage, Windows};
use crate::metrics::score_positions;
use crate::recipe::Cell;

impl Study<'_> {
    /// The dense model's mean loss of the tokens of each window. They go through the model group by group, each of which
    /// is kept under its key, and so is how far a group has come; `what` they are is said meanwhile.
    ///
    /// # Errors
    /// Where the model cannot be run, or a loss is not a number.
    pub(crate) fn losses(&self, windows: &Windows, groups: &[(Key, Range<usize>)], what: &str) -> Result<Vec<f64>> {
        let passages = windows.passages();
        let make = |number: usize| {
            let (key, range) = &groups[number];
            stop_if_interrupted(self.watch)?;
            self.watch.cell_begins(number + 1, groups.len(), what);
            self.cache.write_json(*key, &self.losses_of(*key, &passages[range.clone()])?)
        };
        let keys: Vec<Key> = groups.iter().map(|(key, _)| *key).collect();
        self.cache.each_once(&keys, self.watch, make)?;
        let mut losses: Vec<f64> = Vec::new();
        for (number, (key, range)) in groups.iter().enumerate() {
            let known = || self.cache.read_json(*key).filter(|known: &Vec<f64>| known.len() == range.len());
            losses.extend(match known() {
                Some(known) => known,
                // It was damaged.
                None => {
                    make(number)?;
                    known().context("the losses of windows are not kept by the cache")?
                }
            });
        }
        Ok(losses)
    }

    fn losses_of(&self, key: Key, passages: &[Passage]) -> Result<Vec<f64>> {
        let plain = self.plain_walk(&Cell::Dense)?;
        let progress = Progress::of(self.cache, Place { pruned: key, statistics: None });
        let walk = Walk { suites: vec![(key.digest(), passages)], progress, ..plain };
        self.ensure_memory(&walk)?;
        let walked = walk.run()?;
        let stream = walked.suites.into_iter().next().expect("the walk took them along").stream;
        let subject = self.subject()?;
        let (mut losses, mut rest) = (Vec::new(), passages);
        for batch in subject.last_states(stream)? {
            stop_if_interrupted(self.watch)?;
            let (here, after) = rest.split_at(batch.passages());
            rest = after;
            let texts = here.iter().map(|passage| passage.scored.as_slice()).enumerate();
            let Some((states, predictions)) = batch.predictions(texts)? else { continue };
            let scores = score_positions(&predictions, here.len(), None, (&states, &subject.ends.head))?;
            losses.extend(scores.iter().map(|scores| scores.loss / scores.positions));
        }
        let is_whole = losses.len() == passages.len() && losses.iter().all(|loss| loss.is_finite());
        ensure!(is_whole, "the dense model's loss on a window to choose from is not a number");
        walk.progress.forget();
        Ok(losses)
    }
}
