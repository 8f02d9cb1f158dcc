//! What a model makes of a suite: scores of its samples, and answers to its prompts.

use anyhow::{Result, ensure};

use super::super::answers::Answerer;
use super::super::cell::{AnswersRecord, ScoresRecord};
use super::super::stop_if_interrupted;
use super::super::stream::Batch;
use super::Study;
use super::subject::Subject;
use crate::data::{Passage, Target};
use crate::metrics::{Family, Scores, are_greedy, log_likelihoods, score_positions};
use crate::model::{Block, Generator};
use crate::recipe::{Cell, Unit};

impl Study<'_> {
    /// Scores a suite sample by sample, against the teacher (the dense model is its own): the language scores,
    /// and where they are asked for log-likelihoods of the choices, or of targets.
    pub(super) fn score(&self, suite: &str, cell: &Cell, subject: &Subject, batches: &[Batch]) -> Result<ScoresRecord> {
        let (head, dense_head) = (subject.head()?, self.subject()?.head()?);
        let teacher = if *cell == Cell::Dense { None } else { Some(self.teacher(suite)?) };
        let wants_choices = self.recipe.suite[suite].wants(Family::Choice);
        let mut passages = self.materials[suite].passages.as_slice();
        let wants_greedy = wants_choices && passages.iter().any(|passage| passage.choices.is_empty());
        let mut record = ScoresRecord { samples: vec![], choices: vec![], greedy: vec![] };
        let mut first = 0;
        for batch in batches {
            stop_if_interrupted(self.watch)?;
            let (here, rest) = passages.split_at(batch.passages());
            passages = rest;
            let texts = here.iter().map(|p| p.scored.as_slice()).enumerate();
            match batch.predictions(texts)? {
                None => {
                    record.samples.extend(here.iter().map(|_| Scores::default()));
                    if wants_greedy {
                        record.greedy.extend(here.iter().map(|_| false));
                    }
                }
                Some((states, predictions)) => {
                    let here = here.len();
                    let dense = teacher.as_ref().map(|t| t.narrow(0, first, predictions.len())).transpose()?;
                    let dense = dense.as_ref().map(|dense| (dense, &*dense_head));
                    record.samples.extend(score_positions(&predictions, here, dense, (&states, &head))?);
                    if wants_greedy {
                        record.greedy.extend(are_greedy(&predictions, here, &states, &head)?);
                    }
                    first += predictions.len();
                }
            }
            if wants_choices {
                let texts: Vec<(usize, &[Target])> = (here.iter().enumerate())
                    .flat_map(|(i, p)| compared(p).iter().map(move |c| (i, c.as_slice())))
                    .collect();
                let count = texts.len();
                let mut likelihoods = match batch.predictions(texts.into_iter())? {
                    Some((states, predictions)) => log_likelihoods(&predictions, count, &states, &head)?,
                    None => vec![],
                }
                .into_iter();
                let of = |p: &Passage| likelihoods.by_ref().take(compared(p).len()).collect::<Vec<f64>>();
                record.choices.extend(here.iter().map(of));
            }
        }
        let ScoresRecord { samples, choices, .. } = &record;
        let finite = samples.iter().all(|s| s.loss.is_finite()) && choices.iter().flatten().all(|l| l.is_finite());
        ensure!(finite, "the model's loss on suite {suite} is not a number");
        Ok(record)
    }

    /// Generates the answers to a suite's prompts. So many were answered `before`, of `all`.
    pub(super) fn answer(
        &self,
        name: &str,
        subject: &Subject,
        blocks: &[Block],
        (before, all): (usize, usize),
    ) -> Result<AnswersRecord> {
        let Unit::Rows(unit) = self.recipe.suite[name].unit() else {
            unreachable!("only suites of rows have answers");
        };
        let separator = &self.inputs.suites[name].part.separator;
        let (embedding, head) = (&*subject.embedding()?, &*subject.head()?);
        let answerer = Answerer {
            generator: Generator { blocks, embedding, head, ropes: &subject.ends.ropes },
            tokenizer: subject.tokenizer,
            repetition_penalty: subject.repetition_penalty,
            watch: self.watch,
            before,
            all,
        };
        answerer.answer(&self.materials[name].prompts, &unit, separator, self.recipe.seed)
    }
}

/// The texts whose log-likelihoods are compared: the choices, or without them the target alone.
fn compared(passage: &Passage) -> &[Vec<Target>] {
    match passage.choices.as_slice() {
        [] => std::slice::from_ref(&passage.scored),
        choices => choices,
    }
}
