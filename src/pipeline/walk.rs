//! The walk over the blocks: each is read, pruned from the statistics of its inputs, and passed by
//! the calibration windows and the suites before the next one is read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::cell::{LayerRecord, PrunedRecord};
use super::stream::{Stream, advance};
use super::{Watch, stop_if_interrupted};
use crate::model::{Block, Flow, LinearName, Model, Rope, Site};
use crate::prune::{Accumulator, Method, Sparsity, Statistic, StatisticKind};
use crate::recipe::{Propagation, PruneSpec, Schedule};
use crate::tensors;

/// How a walk prunes.
pub struct Pruner<'a> {
    pub method: &'a dyn Method,
    pub sparsity: Sparsity,
    pub spec: PruneSpec,
}

/// A walk over a model.
pub struct Walk<'a> {
    pub model: &'a Model,
    pub rope: &'a Rope,
    pub watch: &'a dyn Watch,
}

/// Rows of inputs that a pruned weight's output error is measured on.
const ERROR_SAMPLE: usize = 512;

impl Walk<'_> {
    /// Walks all blocks. With a pruner, prunes each, from the calibration stream where the method looks at
    /// inputs; takes the suites through what became of it. `keep` has the blocks stay in memory.
    pub fn run(
        &self,
        pruner: Option<&Pruner>,
        mut calibration: Option<Stream>,
        suites: &mut [Stream],
        keep: bool,
    ) -> Result<Walked> {
        let blocks = self.model.config.blocks;
        let mut record = PrunedRecord::default();
        let mut suite_seconds = vec![0.0; suites.len()];
        let mut kept = Vec::new();
        for index in 0..blocks {
            let started = Instant::now();
            let mut block = self.model.block(index)?;
            if let Some(pruner) = pruner {
                self.watch.progress(index, blocks, "prune");
                let mut block_pruner =
                    BlockPruner { walk: self, pruner, index, solving: Duration::ZERO, layers: vec![] };
                block_pruner
                    .prune(&mut block, calibration.as_mut(), index + 1 == blocks)
                    .with_context(|| format!("block {index}"))?;
                record.prune_seconds += block_pruner.solving.as_secs_f64();
                record.calibrate_seconds += (started.elapsed() - block_pruner.solving).as_secs_f64();
                record.layers.append(&mut block_pruner.layers);
            }
            for linear in LinearName::ALL {
                let (zeros, weights) = zeros(&block.linear(linear).weight)?;
                record.zeros += zeros;
                record.weights += weights;
            }
            self.watch.progress(index, blocks, "evaluate");
            for (suite, seconds) in suites.iter_mut().zip(&mut suite_seconds) {
                let started = Instant::now();
                suite.pass(&block, self.rope, self.watch)?;
                *seconds += started.elapsed().as_secs_f64();
            }
            if keep {
                kept.push(block);
            }
        }
        Ok(Walked { record, suite_seconds, blocks: kept })
    }
}

/// What a walk came to.
pub struct Walked {
    pub record: PrunedRecord,
    /// Seconds of each suite's way through the blocks.
    pub suite_seconds: Vec<f64>,
    /// The blocks as they were pruned, where they were to be kept.
    pub blocks: Vec<Block>,
}

/// Prunes one block.
struct BlockPruner<'a> {
    walk: &'a Walk<'a>,
    pruner: &'a Pruner<'a>,
    index: usize,
    solving: Duration,
    layers: Vec<LayerRecord>,
}

/// What is known of a site's inputs: the statistic, and a few rows to measure output errors on.
struct Observed {
    statistic: Statistic,
    sample: Option<Tensor>,
}

impl BlockPruner<'_> {
    /// Prunes the block and takes the calibration stream through it (not through the `last` one:
    /// nothing comes after it).
    fn prune(&mut self, block: &mut Block, calibration: Option<&mut Stream>, last: bool) -> Result<()> {
        let Some(stream) = calibration else {
            let nothing = || Observed { statistic: Statistic::None, sample: None };
            return Site::ALL.into_iter().try_for_each(|site| self.prune_site(block, site, nothing()));
        };
        let Walk { rope, watch, .. } = *self.walk;
        let PruneSpec { schedule, propagation } = self.pruner.spec;

        if propagation == Propagation::Pruned && schedule == Schedule::Linear {
            let mut flows = stream.start();
            for site in Site::ALL {
                advance(&mut flows, site, block, rope, watch)?;
                let observed = self.observe(&flows)?;
                self.prune_site(block, site, observed)?;
            }
            return if last { Ok(()) } else { stream.finish(flows, block, watch) };
        }

        // Every site is seen with the block still dense.
        let mut flows = stream.start();
        let mut seen = Vec::with_capacity(Site::ALL.len());
        for site in Site::ALL {
            advance(&mut flows, site, block, rope, watch)?;
            seen.push(self.observe(&flows)?);
        }
        if propagation == Propagation::Dense && !last {
            stream.finish(flows, block, watch)?;
        }
        for (site, observed) in Site::ALL.into_iter().zip(seen) {
            self.prune_site(block, site, observed)?;
        }
        if propagation == Propagation::Pruned && !last {
            stream.pass(block, rope, watch)?;
        }
        Ok(())
    }

    /// Gathers the statistic of what the linears of the current site are about to read.
    fn observe(&self, flows: &[Flow]) -> Result<Observed> {
        let kind = self.pruner.method.statistic();
        let first = &flows[0].input;
        let mut accumulator = Accumulator::new(kind, first.dim(1)?, first.device())?;
        for flow in flows {
            let windows: Vec<_> = flow.spans.iter().map(|s| s.own.clone()).collect();
            accumulator.add(&flow.input, &windows)?;
        }
        let sample = (kind != StatisticKind::None).then(|| first.narrow(0, 0, first.dim(0)?.min(ERROR_SAMPLE)));
        Ok(Observed { statistic: accumulator.finish()?, sample: sample.transpose()? })
    }

    /// Prunes the linears that read a site.
    fn prune_site(&mut self, block: &mut Block, site: Site, observed: Observed) -> Result<()> {
        for &name in site.linears() {
            stop_if_interrupted(self.walk.watch)?;
            let started = Instant::now();
            let dense = block.linear(name).weight.clone();
            let pruned = self
                .pruner
                .method
                .prune(&dense, &observed.statistic, self.pruner.sparsity)
                .with_context(|| format!("linear {}", name.as_str()))?;
            let weight = self.walk.model.round(&pruned.weight)?;
            let seconds = started.elapsed();
            self.solving += seconds;
            let (zeros, weights) = zeros(&weight)?;
            let (rows, columns) = weight.dims2()?;
            self.layers.push(LayerRecord {
                block: self.index,
                linear: name.as_str().into(),
                rows,
                columns,
                sparsity: zeros as f64 / weights as f64,
                relative_error: observed.sample.as_ref().map(|x| relative_error(x, &dense, &weight)).transpose()?,
                damping: pruned.damping,
                seconds: seconds.as_secs_f64(),
            });
            block.linear_mut(name).weight = weight;
        }
        Ok(())
    }
}

/// Zeros of a weight, and its size.
fn zeros(weight: &Tensor) -> Result<(u64, u64)> {
    let count = |w: &[f32]| w.iter().filter(|&&x| x == 0.0).count() as u64;
    Ok((tensors::with_values(weight, count)?, weight.elem_count() as u64))
}

/// ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖².
fn relative_error(x: &Tensor, dense: &Tensor, pruned: &Tensor) -> Result<f64> {
    let squares = |y: Tensor| -> Result<f64> {
        Ok(tensors::with_values(&y, |y| y.iter().map(|&v| f64::from(v) * f64::from(v)).sum())?)
    };
    let lost = squares(x.matmul(&(dense - pruned)?.t()?)?)?;
    let whole = squares(x.matmul(&dense.t()?)?)?;
    Ok(if whole > 0.0 { lost / whole } else { 0.0 })
}
