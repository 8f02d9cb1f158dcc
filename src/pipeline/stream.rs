//! Hidden states of passages on their way through a model.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::{Watch, stop_if_interrupted};
use crate::data::{Passage, Target};
use crate::metrics::Prediction;
use crate::model::{Block, Embedding, Flow, Ropes, device, positions};

/// Tokens that go through a block at once: of the CPU as many as its caches have use for, of a device as many as keep
/// it busy.
pub(super) fn tokens_at_once(device: &Device) -> usize {
    if device.is_cpu() { 2048 } else { 8192 }
}

/// Passages as hidden states, batch by batch.
#[derive(Clone)]
pub struct Stream {
    batches: Vec<Batch>,
}

/// Some consecutive passages.
#[derive(Clone)]
pub struct Batch {
    /// Between blocks its input is the hidden states.
    pub flow: Flow,
    /// The first row of each passage.
    starts: Vec<usize>,
}

impl Stream {
    /// The passages' embeddings, in batches of about as many tokens as go through a block at once, one passage at least.
    pub fn embed(passages: &[Passage], embedding: &Embedding) -> Result<Self> {
        let at_once = tokens_at_once(embedding.device());
        let mut batches = Vec::new();
        let mut rest = passages;
        while !rest.is_empty() {
            let mut tokens = 0;
            let count = rest.iter().take_while(|p| (tokens += p.ids.len(), tokens <= at_once).1).count().max(1);
            let (here, after) = rest.split_at(count);
            let mut at = 0;
            let starts: Vec<usize> = here.iter().map(|p| (at, at += p.ids.len()).0).collect();
            let ids: Vec<u32> = here.iter().flat_map(|p| p.ids.iter().copied()).collect();
            let spans: Vec<_> = here.iter().zip(&starts).flat_map(|(p, &start)| p.spans_at(start)).collect();
            let hidden = embedding.embed(&ids, positions(&spans))?;
            batches.push(Batch { flow: Flow::new(hidden, spans), starts });
            rest = after;
        }
        Ok(Self { batches })
    }

    /// Takes every batch through a whole block.
    pub fn pass(&mut self, block: &Block, ropes: &Ropes, watch: &dyn Watch) -> Result<()> {
        self.each(watch, |flow| {
            let hidden = block.forward(flow.hidden.clone(), &flow.spans, ropes)?;
            Ok(Flow::new(hidden, flow.spans.clone()))
        })
    }

    /// Takes every batch to the next site of a block.
    pub fn advance(&mut self, site: usize, block: &Block, ropes: &Ropes, watch: &dyn Watch) -> Result<()> {
        self.each(watch, |flow| {
            let mut flow = flow.clone();
            block.advance(site, &mut flow, ropes)?;
            Ok(flow)
        })
    }

    /// Takes every batch from the last site of a block out of it.
    pub fn finish(&mut self, block: &Block, watch: &dyn Watch) -> Result<()> {
        self.each(watch, |flow| Ok(Flow::new(block.finish(flow.clone())?, flow.spans.clone())))
    }

    /// Shows every batch as it is.
    pub fn look(&mut self, watch: &dyn Watch, mut f: impl FnMut(&Flow) -> Result<()>) -> Result<()> {
        self.each(watch, |flow| f(flow).map(|()| flow.clone()))
    }

    /// Puts in place of every batch what `f` makes of it. Where that takes more memory than the device has, batches are
    /// halved, and stay so; `f` then changed nothing.
    fn each(&mut self, watch: &dyn Watch, mut f: impl FnMut(&Flow) -> Result<Flow>) -> Result<()> {
        let mut most = usize::MAX;
        let mut waiting: VecDeque<Batch> = self.batches.drain(..).collect();
        let mut outcome = Ok(());
        while let Some(batch) = waiting.pop_front() {
            if outcome.is_err() {
                self.batches.push(batch);
                continue;
            }
            let halves = if batch.tokens() > most { batch.halves() } else { Ok(None) };
            let passed = match halves {
                Ok(Some((first, second))) => {
                    waiting.push_front(second);
                    waiting.push_front(first);
                    continue;
                }
                Ok(None) => stop_if_interrupted(watch).and_then(|()| f(&batch.flow)),
                // Not even room for the halves.
                Err(error) => Err(error.context("halving a batch")),
            };
            match passed {
                Ok(flow) => self.batches.push(Batch { flow, ..batch }),
                Err(error) if device::is_out_of_memory(&error) && batch.starts.len() > 1 && batch.tokens() <= most => {
                    most = batch.tokens() / 2;
                    tracing::warn!(
                        "the device's memory does not suffice for {} tokens at once; going on with half as many",
                        batch.tokens()
                    );
                    waiting.push_front(batch);
                }
                Err(error) => {
                    outcome = Err(error).with_context(|| format!("{} tokens in a block", batch.tokens()));
                    self.batches.push(batch);
                }
            }
        }
        outcome
    }

    /// The most tokens of a batch.
    pub fn batch_tokens(&self) -> usize {
        self.batches.iter().map(Batch::tokens).max().unwrap_or(0)
    }

    /// The batches, where they are on their way.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.batches.iter().map(|b| &b.flow)
    }

    /// The hidden states, batch by batch.
    pub fn hidden(&self) -> impl Iterator<Item = &Tensor> {
        self.flows().map(|flow| &flow.hidden)
    }

    /// Whether these could be its hidden states, however they are divided into batches.
    pub fn fits(&self, hidden: &[Tensor]) -> bool {
        let rows = |tensors: &mut dyn Iterator<Item = &Tensor>| tensors.map(|t| t.dims()[0]).sum::<usize>();
        let columns = self.hidden().next().map(|t| t.dims()[1]);
        hidden.iter().all(|t| t.rank() == 2 && Some(t.dims()[1]) == columns)
            && rows(&mut self.hidden()) == rows(&mut hidden.iter())
    }

    /// Sets the hidden states.
    pub fn replace(&mut self, hidden: &[Tensor], device: &Device) -> Result<()> {
        let mut at = 0;
        let is_divided_alike = self.hidden().map(Tensor::dims).eq(hidden.iter().map(Tensor::dims));
        let all = if is_divided_alike { None } else { Some(Tensor::cat(hidden, 0)?) };
        for (i, batch) in self.batches.iter_mut().enumerate() {
            let own = match &all {
                // A copy of its own: a view would take all of them to the device.
                Some(all) => all.narrow(0, at, batch.tokens())?.force_contiguous()?,
                None => hidden[i].clone(),
            };
            at += batch.tokens();
            batch.flow = Flow::new(own.to_device(device)?, std::mem::take(&mut batch.flow.spans));
        }
        Ok(())
    }

    /// The passages with their hidden states, in order.
    pub fn into_batches(self) -> Vec<Batch> {
        self.batches
    }
}

impl Batch {
    /// How many passages it has.
    pub fn passages(&self) -> usize {
        self.starts.len()
    }

    fn tokens(&self) -> usize {
        self.flow.hidden.dims()[0]
    }

    /// Its first passages and its last; None of one passage.
    fn halves(&self) -> Result<Option<(Self, Self)>> {
        if self.starts.len() < 2 {
            return Ok(None);
        }
        let (first, second) = self.starts.split_at(self.starts.len() / 2);
        let (cut, all) = (second[0], self.tokens());
        let part = |from: usize, to: usize, starts: &[usize]| -> Result<Self> {
            Ok(Self { flow: self.flow.part(from..to)?, starts: starts.iter().map(|start| start - from).collect() })
        };
        Ok(Some((part(0, cut, first)?, part(cut, all, second)?)))
    }

    /// The hidden states that predict the targets of texts, several a passage or one, and what each predicts:
    /// its sample is the number of the text among all. None where there are no targets.
    pub fn predictions<'a>(
        &self,
        texts: impl Iterator<Item = (usize, &'a [Target])>,
    ) -> Result<Option<(Tensor, Vec<Prediction>)>> {
        let (mut rows, mut predictions) = (Vec::new(), Vec::new());
        for (sample, (passage, targets)) in texts.enumerate() {
            rows.extend(targets.iter().map(|t| (self.starts[passage] + t.row) as u32));
            predictions.extend(targets.iter().map(|t| Prediction { sample, id: t.id }));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let hidden = &self.flow.hidden;
        let rows = Tensor::new(rows, hidden.device())?;
        Ok(Some((hidden.index_select(&rows, 0)?, predictions)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unseen;
    use super::*;
    use anyhow::bail;

    fn stream(lengths: &[usize]) -> Stream {
        let embedding = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap().reshape((4, 2)).unwrap();
        let ids = |n: usize| (0..n).map(|i| (i * i % 4) as u32).collect::<Vec<u32>>();
        let passages: Vec<Passage> = lengths.iter().map(|&n| Passage::window(&ids(n))).collect();
        Stream::embed(&passages, &Embedding::plain(embedding)).unwrap()
    }

    fn starts(stream: &Stream) -> Vec<&[usize]> {
        stream.batches.iter().map(|b| b.starts.as_slice()).collect()
    }

    #[test]
    fn batches_keep_passages_whole() {
        let stream = stream(&[1000, 1000, 1000, 3000, 1]);
        assert_eq!(starts(&stream), [&[0, 1000][..], &[0], &[0], &[0]]);
        assert_eq!(stream.batches[0].flow.spans[1].own, 1000..2000);
    }

    #[test]
    fn batches_that_exceed_memory_are_halved_and_lose_nothing() {
        let lengths = [300, 200, 500, 400, 600, 500, 500, 400];
        let (mut halved, whole) = (stream(&lengths), stream(&lengths));
        let mut asked = Vec::new();
        halved
            .each(&Unseen, |flow| {
                let tokens = flow.hidden.dims()[0];
                asked.push(tokens);
                if tokens > 1100 {
                    bail!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
                }
                assert_eq!(flow.spans.last().unwrap().own.end, tokens);
                Ok(Flow::new((&flow.hidden * 2.0)?, flow.spans.clone()))
            })
            .unwrap();
        // What is known to be too much is not tried.
        assert_eq!(asked, [2000, 500, 500, 1000, 500, 900]);
        assert_eq!(halved.batch_tokens(), 1000);
        let all =
            |stream: &Stream| Tensor::cat(&stream.hidden().collect::<Vec<_>>(), 0).unwrap().to_vec2::<f32>().unwrap();
        let twice: Vec<Vec<f32>> =
            all(&whole).into_iter().map(|row| row.into_iter().map(|x| 2.0 * x).collect()).collect();
        assert_eq!(all(&halved), twice);
        let passages: usize = halved.batches.iter().map(Batch::passages).sum();
        assert_eq!(passages, lengths.len());
        // What was saved of the one division fits the other.
        let saved: Vec<Tensor> = halved.hidden().cloned().collect();
        let mut again = whole;
        assert!(again.fits(&saved) && !again.fits(&saved[1..]));
        again.replace(&saved, &Device::Cpu).unwrap();
        assert_eq!(all(&again), twice);
    }

    #[test]
    fn a_passage_that_exceeds_memory_is_an_error_that_says_how_long_it_is() {
        let mut stream = stream(&[700, 900]);
        let error = stream.each(&Unseen, |_| bail!("out of memory")).unwrap_err();
        assert_eq!(format!("{error:#}"), "700 tokens in a block: out of memory");
    }
}
