//! Hidden states of passages on their way through a model.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::{Watch, stop_if_interrupted};
use crate::data::{Passage, Target};
use crate::metrics::Prediction;
use crate::model::{Block, Flow, Rope, Site, Span, embed};

/// Tokens that go through a block at once.
const BATCH_TOKENS: usize = 2048;

/// Passages as hidden states, batch by batch.
pub struct Stream {
    batches: Vec<Batch>,
}

/// Some consecutive passages.
pub struct Batch {
    pub hidden: Tensor, // (tokens, hidden)
    spans: Vec<Span>,
    /// The first row of each passage.
    starts: Vec<usize>,
}

impl Stream {
    /// The passages' embeddings, in batches of about [`BATCH_TOKENS`], one passage at least.
    pub fn embed(passages: &[Passage], embedding: &Tensor) -> Result<Self> {
        let mut batches = Vec::new();
        let mut rest = passages;
        while !rest.is_empty() {
            let mut tokens = 0;
            let count = rest.iter().take_while(|p| (tokens += p.ids.len(), tokens <= BATCH_TOKENS).1).count().max(1);
            let (here, after) = rest.split_at(count);
            let mut at = 0;
            let starts: Vec<usize> = here.iter().map(|p| (at, at += p.ids.len()).0).collect();
            let ids: Vec<u32> = here.iter().flat_map(|p| p.ids.iter().copied()).collect();
            let hidden = embed(embedding, &ids)?;
            let spans = here.iter().zip(&starts).flat_map(|(p, &start)| p.spans_at(start)).collect();
            batches.push(Batch { hidden, spans, starts });
            rest = after;
        }
        Ok(Self { batches })
    }

    /// Takes every batch through a whole block.
    pub fn pass(&mut self, block: &Block, rope: &Rope, watch: &dyn Watch) -> Result<()> {
        for batch in &mut self.batches {
            stop_if_interrupted(watch)?;
            batch.hidden = block.forward(batch.hidden.clone(), &batch.spans, rope)?;
        }
        Ok(())
    }

    /// Starts every batch on its way through a block, for one that is watched on the way.
    pub fn start(&self) -> Vec<Flow> {
        self.batches.iter().map(|b| Flow::new(b.hidden.clone(), b.spans.clone())).collect()
    }

    /// Ends what [`Stream::start`] began: the block's outputs become the hidden states.
    pub fn finish(&mut self, flows: Vec<Flow>, block: &Block, watch: &dyn Watch) -> Result<()> {
        for (batch, flow) in self.batches.iter_mut().zip(flows) {
            stop_if_interrupted(watch)?;
            batch.hidden = block.finish(flow)?;
        }
        Ok(())
    }

    /// The hidden states, batch by batch.
    pub fn hidden(&self) -> impl Iterator<Item = &Tensor> {
        self.batches.iter().map(|b| &b.hidden)
    }

    /// Whether these could be its hidden states.
    pub fn fits(&self, hidden: &[Tensor]) -> bool {
        self.hidden().map(Tensor::dims).eq(hidden.iter().map(Tensor::dims))
    }

    /// Sets the hidden states.
    pub fn replace(&mut self, hidden: &[Tensor], device: &Device) -> Result<()> {
        for (batch, hidden) in self.batches.iter_mut().zip(hidden) {
            batch.hidden = hidden.to_device(device)?;
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
        let rows = Tensor::new(rows, self.hidden.device())?;
        Ok(Some((self.hidden.index_select(&rows, 0)?, predictions)))
    }
}

/// Takes flows to the next site of a block.
pub fn advance(flows: &mut [Flow], site: Site, block: &Block, rope: &Rope, watch: &dyn Watch) -> Result<()> {
    for flow in flows {
        stop_if_interrupted(watch)?;
        block.advance(site, flow, rope)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_passages_whole() {
        let embedding = Tensor::zeros((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let passages: Vec<Passage> =
            [1000, 1000, 1000, 3000, 1].iter().map(|&n| Passage::window(&vec![0; n])).collect();
        let stream = Stream::embed(&passages, &embedding).unwrap();
        let starts: Vec<&[usize]> = stream.batches.iter().map(|b| b.starts.as_slice()).collect();
        assert_eq!(starts, [&[0, 1000][..], &[0], &[0], &[0]]);
        assert_eq!(stream.batches[0].spans[1].own, 1000..2000);
    }
}
