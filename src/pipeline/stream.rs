//! Hidden states of token windows on their way through a model.

use std::ops::Range;

use anyhow::Result;
use candle_core::Tensor;

use super::{Interrupted, Watch};
use crate::data::Windows;
use crate::model::{Block, Flow, Rope, Site};

/// Tokens that go through a block at once.
const BATCH_TOKENS: usize = 2048;

/// Windows as hidden states, batch by batch.
pub struct Stream {
    batches: Vec<Batch>,
}

struct Batch {
    hidden: Tensor, // (tokens, hidden)
    windows: Vec<Range<usize>>,
}

impl Stream {
    /// The windows' embeddings.
    pub fn embed(windows: &Windows, embedding: &Tensor) -> Result<Self> {
        let batch = |windows: &Windows| -> Result<Batch> {
            let ids = Tensor::new(windows.ids(), embedding.device())?;
            Ok(Batch { hidden: embedding.index_select(&ids, 0)?, windows: windows.ranges().collect() })
        };
        Ok(Self { batches: windows.batches(BATCH_TOKENS).iter().map(batch).collect::<Result<_>>()? })
    }

    /// Takes every batch through a whole block.
    pub fn pass(&mut self, block: &Block, rope: &Rope, watch: &dyn Watch) -> Result<()> {
        for batch in &mut self.batches {
            stop_if_interrupted(watch)?;
            batch.hidden = block.forward(batch.hidden.clone(), &batch.windows, rope)?;
        }
        Ok(())
    }

    /// Starts every batch on its way through a block, for one that is watched on the way.
    pub fn start(&self) -> Vec<Flow> {
        self.batches.iter().map(|b| Flow::new(b.hidden.clone(), b.windows.clone())).collect()
    }

    /// Ends what [`Stream::start`] began: the block's outputs become the hidden states.
    pub fn finish(&mut self, flows: Vec<Flow>, block: &Block, watch: &dyn Watch) -> Result<()> {
        for (batch, flow) in self.batches.iter_mut().zip(flows) {
            stop_if_interrupted(watch)?;
            batch.hidden = block.finish(flow)?;
        }
        Ok(())
    }

    /// The hidden states of all windows, (tokens, hidden).
    pub fn concatenated(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&self.batches.iter().map(|b| &b.hidden).collect::<Vec<_>>(), 0)?)
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

fn stop_if_interrupted(watch: &dyn Watch) -> Result<()> {
    if watch.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}
