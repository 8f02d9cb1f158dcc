//! Hidden states of token windows on their way through a model.

use anyhow::Result;
use candle_core::Tensor;

use super::{Watch, stop_if_interrupted};
use crate::data::Windows;
use crate::model::{Block, Flow, Rope, Site};

/// Tokens that go through a block at once.
const BATCH_TOKENS: usize = 2048;

/// Windows as hidden states, batch by batch.
pub struct Stream {
    batches: Vec<Batch>,
}

/// Some consecutive windows.
pub struct Batch {
    pub windows: Windows,
    pub hidden: Tensor, // (tokens, hidden)
}

impl Stream {
    /// The windows' embeddings.
    pub fn embed(windows: &Windows, embedding: &Tensor) -> Result<Self> {
        let batch = |windows: Windows| -> Result<Batch> {
            let ids = Tensor::new(windows.ids(), embedding.device())?;
            Ok(Batch { hidden: embedding.index_select(&ids, 0)?, windows })
        };
        Ok(Self { batches: windows.batches(BATCH_TOKENS).into_iter().map(batch).collect::<Result<_>>()? })
    }

    /// Takes every batch through a whole block.
    pub fn pass(&mut self, block: &Block, rope: &Rope, watch: &dyn Watch) -> Result<()> {
        for batch in &mut self.batches {
            stop_if_interrupted(watch)?;
            let ranges: Vec<_> = batch.windows.ranges().collect();
            batch.hidden = block.forward(batch.hidden.clone(), &ranges, rope)?;
        }
        Ok(())
    }

    /// Starts every batch on its way through a block, for one that is watched on the way.
    pub fn start(&self) -> Vec<Flow> {
        self.batches.iter().map(|b| Flow::new(b.hidden.clone(), b.windows.ranges().collect())).collect()
    }

    /// Ends what [`Stream::start`] began: the block's outputs become the hidden states.
    pub fn finish(&mut self, flows: Vec<Flow>, block: &Block, watch: &dyn Watch) -> Result<()> {
        for (batch, flow) in self.batches.iter_mut().zip(flows) {
            stop_if_interrupted(watch)?;
            batch.hidden = block.finish(flow)?;
        }
        Ok(())
    }

    /// The windows with their hidden states, in order.
    pub fn into_batches(self) -> Vec<Batch> {
        self.batches
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
