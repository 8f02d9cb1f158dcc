//! The walk over the blocks: each is read, pruned from the statistics of its inputs, and passed by
//! the calibration windows and the suites before the next one is read.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

use super::cache::Key;
use super::cell::{BlockRecord, LayerRecord, PrunedRecord};
use super::progress::{Progress, Saver, Standing, SuiteStream};
use super::stream::Stream;
use super::{Doing, Watch, stop_if_interrupted};
use crate::data::Passage;
use crate::digest::Digest;
use crate::linalg::CHUNK;
use crate::model::{Block, Linear, LinearName, Model, Rope, Site};
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
    pub embedding: &'a Tensor,
    pub rope: &'a Rope,
    pub watch: &'a dyn Watch,
    /// None leaves the model dense.
    pub pruner: Option<Pruner<'a>>,
    /// What statistics are gathered on, where the method looks at inputs.
    pub calibration: Option<&'a [Passage]>,
    /// The passages of each suite that goes through the model, and what tells the suite from others.
    pub suites: Vec<(Digest, &'a [Passage])>,
    /// Whether the blocks are to stay in memory.
    pub keep: bool,
    /// Where pruned blocks and the walk's standing are kept, and found again.
    pub progress: Progress<'a>,
}

/// What a walk came to.
pub struct Walked {
    pub record: PrunedRecord,
    /// What the blocks took here and now.
    pub seconds: BlockSeconds,
    /// The most tokens that went through a block at once; None where none did.
    pub batch_tokens: Option<u64>,
    /// The suites behind the last block.
    pub suites: Vec<SuiteStream>,
    /// The blocks as they were pruned, where they were to be kept.
    pub blocks: Vec<Block>,
}

/// Where the time of blocks went, but for what suites took of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockSeconds {
    /// Reading weights, statistics, and the calibration windows' way.
    pub calibrate: f64,
    /// The method itself.
    pub prune: f64,
}

/// A pruned block or its statistics, which were in the cache when the walk began, have gone since.
#[derive(Debug)]
struct Lost(Key);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "the cache entry {} is lost", self.0.digest())
    }
}

impl std::error::Error for Lost {}

/// Whether the inputs of a block are the dense model's, whatever is pruned: then cells of one calibration share them.
pub fn sees_dense(spec: PruneSpec, index: usize) -> bool {
    spec.propagation == Propagation::Dense || index == 0
}

/// Whether the later sites of a block see what its pruned linears make.
fn prunes_within(spec: PruneSpec) -> bool {
    spec.propagation == Propagation::Pruned && spec.schedule == Schedule::Linear
}

/// Rows of inputs, from all over the calibration set, that a pruned weight's output error is measured on.
const ERROR_SAMPLE: usize = 256;

/// Every how many rows of so many one is measured on.
fn sample_step(tokens: usize) -> usize {
    tokens.div_ceil(ERROR_SAMPLE).max(1)
}

/// How many of so many rows are measured on.
pub fn sample_rows(tokens: usize) -> usize {
    tokens.div_ceil(sample_step(tokens))
}

impl Walk<'_> {
    /// Walks all blocks: prunes each, from the calibration windows where the method looks at inputs, and takes the
    /// suites through what became of it. Goes on where an earlier walk of the same cell was ended, and does not prune
    /// what is in the cache.
    pub fn run(&self) -> Result<Walked> {
        let mut lost = HashSet::new();
        loop {
            let walked: Result<Walked> = thread::scope(|scope| {
                let mut saver = self.progress.saver(scope, &self.model.device);
                let walked = self.walk(&mut saver)?;
                saver.finish()?;
                Ok(walked)
            });
            let Some(&Lost(key)) = walked.as_ref().err().and_then(|error| error.downcast_ref()) else {
                return walked;
            };
            if !lost.insert(key) {
                return walked.context("a damaged entry of the cache cannot be removed; can the cache be written to?");
            }
            // The next attempt does not find it, and makes all of it anew.
            self.progress.drop_entry(key);
            self.progress.forget();
        }
    }

    fn walk(&self, saver: &mut Saver) -> Result<Walked> {
        let blocks = self.model.config.blocks;
        let mut standing = self.progress.resume(self.start()?, &self.model.device)?;
        let is_pruned = |from: usize| self.pruner.is_some() && (from..blocks).all(|i| self.progress.has_block(i));
        let of_dense = self.pruner.as_ref().is_some_and(|p| p.spec.propagation == Propagation::Dense);
        let is_known = |from: usize| of_dense && (from..blocks).all(|i| self.progress.has_statistics(i));
        let needs_calibration = |from| self.calibration.is_some() && !is_pruned(from) && !is_known(from);
        if standing.calibration.is_none() && needs_calibration(standing.next) {
            standing = self.start()?;
        }
        let restores = is_pruned(standing.next);
        if !needs_calibration(standing.next) {
            standing.calibration = None;
        }
        if standing.next > 0 {
            tracing::info!("going on after {} of {blocks} blocks", standing.next);
        }
        let (mut kept, mut seconds) = (Vec::new(), BlockSeconds::default());
        for index in 0..standing.next * usize::from(self.keep) {
            self.watch.progress(index, blocks, Doing::Read);
            kept.push(self.again(index, &mut seconds)?.0);
        }
        while standing.next < blocks {
            let index = standing.next;
            let (block, record) = match &self.pruner {
                Some(pruner) if !restores => {
                    self.prune(pruner, index, standing.calibration.as_mut(), saver, &mut seconds)?
                }
                _ => self.again(index, &mut seconds)?,
            };
            standing.record.add(record);
            self.watch.progress(index, blocks, Doing::Evaluate);
            for suite in &mut standing.suites {
                let started = Instant::now();
                suite.stream.pass(&block, self.rope, self.watch)?;
                self.model.device.synchronize()?;
                suite.seconds += started.elapsed().as_secs_f64();
            }
            if self.keep {
                kept.push(block);
            }
            standing.next += 1;
            self.progress.save(&standing)?;
        }
        let streams = standing.calibration.iter().chain(standing.suites.iter().map(|suite| &suite.stream));
        let batch_tokens = streams.map(|stream| stream.batch_tokens() as u64).max();
        Ok(Walked { record: standing.record, seconds, batch_tokens, suites: standing.suites, blocks: kept })
    }

    /// Before the first block.
    fn start(&self) -> Result<Standing> {
        let embed = |passages: &[Passage]| Stream::embed(passages, self.embedding);
        let suite =
            |(id, passages): &(Digest, &[Passage])| Ok(SuiteStream { id: *id, stream: embed(passages)?, seconds: 0.0 });
        Ok(Standing {
            next: 0,
            record: PrunedRecord::default(),
            calibration: self.calibration.map(embed).transpose()?,
            suites: self.suites.iter().map(suite).collect::<Result<_>>()?,
        })
    }

    /// Prunes a block, and keeps it.
    fn prune(
        &self,
        pruner: &Pruner,
        index: usize,
        calibration: Option<&mut Stream>,
        saver: &mut Saver,
        seconds: &mut BlockSeconds,
    ) -> Result<(Block, BlockRecord)> {
        let blocks = self.model.config.blocks;
        self.watch.progress(index, blocks, Doing::Prune);
        let started = Instant::now();
        let dense = self.model.block(index)?;
        let mut block = dense.clone();
        let mut block_pruner =
            BlockPruner { walk: self, pruner, index, solving: Duration::ZERO, zeros: 0, weights: 0, layers: vec![] };
        block_pruner.prune(&mut block, calibration, index + 1 == blocks).with_context(|| format!("block {index}"))?;
        self.model.device.synchronize()?;
        let BlockPruner { layers, solving, zeros, weights, .. } = block_pruner;
        seconds.calibrate += (started.elapsed() - solving).as_secs_f64();
        seconds.prune += solving.as_secs_f64();
        let record = BlockRecord { layers, zeros, weights };
        saver.save(self.progress.pack_block(index, &dense, &block, &record, self.model.dtype)?)?;
        Ok((block, record))
    }

    /// A block that needs no pruning, because it was pruned before or stays dense.
    fn again(&self, index: usize, seconds: &mut BlockSeconds) -> Result<(Block, BlockRecord)> {
        let started = Instant::now();
        let mut block = self.model.block(index)?;
        if self.pruner.is_some() {
            let record = self
                .progress
                .restore_block(index, &mut block, self.model)?
                .ok_or(Lost(self.progress.block_key(index)))?;
            seconds.calibrate += started.elapsed().as_secs_f64();
            return Ok((block, record));
        }
        let (zeros, weights) = zeros_of_block(&block)?;
        seconds.calibrate += started.elapsed().as_secs_f64();
        Ok((block, BlockRecord { layers: vec![], zeros, weights }))
    }
}

/// Prunes one block.
struct BlockPruner<'a> {
    walk: &'a Walk<'a>,
    pruner: &'a Pruner<'a>,
    index: usize,
    solving: Duration,
    /// Zeros among the weights pruned so far, and how many weights these are.
    zeros: u64,
    weights: u64,
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
            return Site::ALL.into_iter().try_for_each(|site| {
                let known = self.known(site)?;
                self.prune_site(block, site, known)
            });
        };
        let (rope, watch) = (self.walk.rope, self.walk.watch);
        let propagation = self.pruner.spec.propagation;

        if prunes_within(self.pruner.spec) {
            for site in Site::ALL {
                stream.advance(site, block, rope, watch)?;
                let observed = self.observe(site, stream)?;
                self.prune_site(block, site, observed)?;
            }
            return if last { Ok(()) } else { stream.finish(block, watch) };
        }

        // Every site is seen with the block still dense.
        let mut seen = Vec::with_capacity(Site::ALL.len());
        let are_known = sees_dense(self.pruner.spec, self.index) && self.walk.progress.has_statistics(self.index);
        if are_known && propagation == Propagation::Pruned {
            seen = Site::ALL.into_iter().map(|site| self.known(site)).collect::<Result<_>>()?;
        } else {
            let mut watched = stream.clone();
            for site in Site::ALL {
                watched.advance(site, block, rope, watch)?;
                seen.push(self.observe(site, &mut watched)?);
            }
            if propagation == Propagation::Dense && !last {
                watched.finish(block, watch)?;
                *stream = watched;
            }
        }
        for (site, observed) in Site::ALL.into_iter().zip(seen) {
            self.prune_site(block, site, observed)?;
        }
        if propagation == Propagation::Pruned && !last {
            stream.pass(block, rope, watch)?;
        }
        Ok(())
    }

    /// What is known of a site without looking at inputs: nothing where the method asks for nothing, else what another
    /// cell has left.
    fn known(&self, site: Site) -> Result<Observed> {
        let kind = self.pruner.method.statistic();
        if kind == StatisticKind::None {
            return Ok(Observed { statistic: Statistic::None, sample: None });
        }
        let progress = &self.walk.progress;
        let key = progress.statistics_key(self.index, site).context("the cell has no calibration")?;
        let parts = progress.statistics(key).and_then(|parts| <[Tensor; 2]>::try_from(parts).ok()).ok_or(Lost(key))?;
        let device = &self.walk.model.device;
        let [statistic, sample] = [parts[0].to_device(device)?, parts[1].to_device(device)?];
        Ok(Observed { statistic: Statistic::of(kind, statistic), sample: Some(sample) })
    }

    /// Gathers the statistic of what the linears of a site, where the stream is, are about to read. Where the dense
    /// model feeds them, other cells of the calibration see the same: it is gathered for all.
    fn observe(&self, site: Site, stream: &mut Stream) -> Result<Observed> {
        let kind = self.pruner.method.statistic();
        let spec = self.pruner.spec;
        let is_shared = sees_dense(spec, self.index) && (site == Site::ALL[0] || !prunes_within(spec));
        let progress = &self.walk.progress;
        let key = progress.statistics_key(self.index, site).filter(|_| is_shared);
        if key.is_some_and(|key| progress.has_entry(key)) {
            return self.known(site);
        }
        let columns = stream.flows().next().context("there are windows to calibrate on")?.input.dim(1)?;
        let mut accumulator = Accumulator::new(kind, columns, self.walk.model.dtype, &self.walk.model.device)?;
        stream.look(self.walk.watch, |flow| {
            let windows: Vec<_> = flow.spans.iter().map(|s| s.own.clone()).collect();
            Ok(accumulator.add(&flow.input, &windows)?)
        })?;
        let statistic = accumulator.finish()?;
        let sample = (kind != StatisticKind::None).then(|| sample(stream)).transpose()?;
        if let (Some(key), Some(statistic), Some(sample)) = (key, statistic.tensor(), &sample) {
            progress.save_statistics(key, &[statistic.clone(), sample.clone()])?;
        }
        Ok(Observed { statistic, sample })
    }

    /// Prunes the linears that read a site.
    fn prune_site(&mut self, block: &mut Block, site: Site, observed: Observed) -> Result<()> {
        // A GPU may still be at what was before, which is not the method's time.
        self.walk.model.device.synchronize()?;
        let mut started = Instant::now();
        let in_linear = |name: LinearName| format!("linear {}", name.as_str());
        let prune = self.pruner.method.pruner(&observed.statistic, self.pruner.sparsity);
        let prune = prune.with_context(|| in_linear(site.linears()[0]))?;
        for &name in site.linears() {
            stop_if_interrupted(self.walk.watch)?;
            // A linear of its own, so that the form it is packed in goes when the error is measured.
            let dense = Linear::new(block.linear(name).weight().clone(), None);
            let pruned = prune(dense.weight()).with_context(|| in_linear(name))?;
            let weight = self.walk.model.round(&pruned.weight)?;
            self.walk.model.device.synchronize()?;
            // What the linears of a site share counts for the first.
            let seconds = started.elapsed();
            self.solving += seconds;
            let (zeros, weights) = zeros(&weight)?;
            (self.zeros, self.weights) = (self.zeros + zeros, self.weights + weights);
            let (rows, columns) = weight.dims2()?;
            // What is packed to measure the error serves the pass behind it too.
            block.linear_mut(name).set_weight(weight);
            let linear = block.linear(name);
            self.layers.push(LayerRecord {
                block: self.index,
                linear: name.as_str().into(),
                rows,
                columns,
                sparsity: zeros as f64 / weights as f64,
                relative_error: observed.sample.as_ref().map(|x| relative_error(x, &dense, linear)).transpose()?,
                damping: pruned.damping,
                seconds: seconds.as_secs_f64(),
            });
            started = Instant::now();
        }
        Ok(())
    }
}

/// About [`ERROR_SAMPLE`] rows of what linears are about to read, evenly spaced.
fn sample(stream: &Stream) -> Result<Tensor> {
    let tokens: usize = stream.flows().map(|flow| flow.input.dim(0)).sum::<candle_core::Result<_>>()?;
    let step = sample_step(tokens);
    let (mut parts, mut before) = (Vec::new(), 0);
    for flow in stream.flows() {
        let rows = flow.input.dim(0)?;
        let picked: Vec<u32> = (0..rows).filter(|row| (before + row) % step == 0).map(|row| row as u32).collect();
        before += rows;
        if !picked.is_empty() {
            parts.push(flow.input.index_select(&Tensor::new(picked, flow.input.device())?, 0)?);
        }
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// Zeros of all linears of a block, and their size.
fn zeros_of_block(block: &Block) -> Result<(u64, u64)> {
    block.linears.iter().try_fold((0, 0), |sum, linear| {
        let (zeros_here, weights) = zeros(linear.weight())?;
        Ok((sum.0 + zeros_here, sum.1 + weights))
    })
}

/// Zeros of a weight, and its size.
fn zeros(weight: &Tensor) -> Result<(u64, u64)> {
    Ok((tensors::zeros(weight)?, weight.elem_count() as u64))
}

/// ‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖².
fn relative_error(x: &Tensor, dense: &Linear, pruned: &Linear) -> Result<f64> {
    let [dense, pruned] = Linear::products([dense, pruned], x)?;
    if !dense.device().is_cpu() {
        // Sums over rows there, and over all of them here: that is all that comes to the host.
        let dense = dense.to_dtype(DType::F32)?;
        let sum = |x: Tensor| -> Result<f64> {
            Ok(x.sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
        };
        let (lost, whole) = (sum((&dense - pruned.to_dtype(DType::F32)?)?)?, sum(dense)?);
        return Ok(if whole > 0.0 { lost / whole } else { 0.0 });
    }
    // Chunk by chunk and then all chunks in their order, whoever computes them.
    let squares = |(dense, pruned): (&[f32], &[f32])| {
        dense.iter().zip(pruned).fold((0.0, 0.0), |(lost, whole), (&d, &p)| {
            let (d, p) = (f64::from(d), f64::from(p));
            (lost + (d - p) * (d - p), whole + d * d)
        })
    };
    let sums = |dense: &[f32], pruned: &[f32]| -> Vec<(f64, f64)> {
        dense.par_chunks(CHUNK).zip(pruned.par_chunks(CHUNK)).map(squares).collect()
    };
    let sums = tensors::with_values(&dense, |dense| tensors::with_values(&pruned, |pruned| sums(dense, pruned)))??;
    let (lost, whole) = sums.into_iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Ok(if whole > 0.0 { lost / whole } else { 0.0 })
}
