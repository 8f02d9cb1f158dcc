//! The walk over the blocks: each is read, pruned from the statistics of its inputs, and passed by
//! the calibration windows and the suites before the next one is read.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::cache::Key;
use super::cell::{BlockRecord, ErrorsRecord, LayerRecord, PrunedRecord};
use super::ends::Ends;
use super::errors::HeldOut;
use super::progress::{Progress, Saver, Standing, SuiteStream};
use super::stream::Stream;
use super::{Doing, Watch, stop_if_interrupted};
use crate::data::Passage;
use crate::digest::Digest;
use crate::model::{Block, Linear, LinearSpec, Model, SiteSpec};
use crate::prune::{Accumulator, Method, Sparsity, Statistic, StatisticKind};
use crate::recipe::{Propagation, PruneSpec, Schedule, Skip};
use crate::tensors;

/// How a walk prunes.
pub struct Pruner<'a> {
    pub method: &'a dyn Method,
    pub sparsity: Sparsity,
    pub spec: &'a PruneSpec,
    /// What stays dense.
    pub skip: &'a Skip,
}

/// A walk over a model.
pub struct Walk<'a> {
    pub model: &'a Model,
    /// The dense model, where the one that is walked is a checkpoint beside it.
    pub beside: Option<&'a Model>,
    pub ends: &'a Ends,
    pub watch: &'a dyn Watch,
    /// None leaves the model as it is.
    pub pruner: Option<Pruner<'a>>,
    /// What statistics are gathered on, where the method looks at inputs.
    pub calibration: Option<&'a [Passage]>,
    /// The passages of each suite that goes through the model, and what tells the suite from others.
    pub suites: Vec<(Digest, &'a [Passage])>,
    /// Held-out passages to measure output errors on, and what tells them from others.
    pub errors_on: Option<(Digest, &'a [Passage])>,
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
    /// The output errors, where they were measured.
    pub errors: Option<ErrorsRecord>,
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
    /// The held-out tokens' way, and the errors on them.
    pub errors: f64,
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
pub fn sees_dense(spec: &PruneSpec, index: usize) -> bool {
    spec.propagation == Propagation::Dense || index == 0
}

/// Whether the later sites of a block see what its pruned linears make.
fn prunes_within(spec: &PruneSpec) -> bool {
    spec.propagation == Propagation::Pruned && spec.schedule == Schedule::Linear
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
        let blocks = self.model.spec.blocks.len();
        let mut standing = self.progress.resume(self.start()?, &self.model.device)?;
        let is_pruned = |from: usize| self.pruner.is_some() && (from..blocks).all(|i| self.progress.has_block(i));
        let of_dense = self.pruner.as_ref().is_some_and(|p| p.spec.propagation == Propagation::Dense);
        let has_statistics = |index: usize| {
            let sites = |pruner: &Pruner| pruner.skip.sites(index, &self.model.spec.blocks[index]).collect::<Vec<_>>();
            self.progress.has_statistics(index, self.pruner.as_ref().map(sites).unwrap_or_default().into_iter())
        };
        let is_known = |from: usize| of_dense && (from..blocks).all(has_statistics);
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
            kept.push(self.again(index, &mut seconds)?.block);
        }
        while standing.next < blocks {
            let index = standing.next;
            let Made { dense, block, record } = match &self.pruner {
                Some(pruner) if !restores => {
                    self.prune(pruner, index, standing.calibration.as_mut(), saver, &mut seconds)?
                }
                _ => self.again(index, &mut seconds)?,
            };
            standing.record.add(record);
            self.watch.progress(index, blocks, Doing::Evaluate);
            if let Some(held_out) = &mut standing.held_out {
                let started = Instant::now();
                held_out.pass(&dense, &block, &self.ends.ropes, self.watch)?;
                seconds.errors += started.elapsed().as_secs_f64();
            }
            drop(dense);
            for suite in &mut standing.suites {
                let started = Instant::now();
                suite.stream.pass(&block, &self.ends.ropes, self.watch)?;
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
        let (record, suites) = (standing.record, standing.suites);
        warn_of_idle_experts(&record);
        let errors = standing.held_out.map(|held_out| held_out.errors);
        Ok(Walked { record, seconds, batch_tokens, suites, errors, blocks: kept })
    }

    /// Before the first block.
    fn start(&self) -> Result<Standing> {
        let embedding = self.ends.embedding(self.model)?;
        let embed = |passages: &[Passage]| Stream::embed(passages, &embedding);
        let suite =
            |(id, passages): &(Digest, &[Passage])| Ok(SuiteStream { id: *id, stream: embed(passages)?, seconds: 0.0 });
        Ok(Standing {
            next: 0,
            record: PrunedRecord::default(),
            calibration: self.calibration.map(embed).transpose()?,
            suites: self.suites.iter().map(suite).collect::<Result<_>>()?,
            held_out: match self.errors_on {
                Some((id, passages)) => Some(HeldOut { id, stream: embed(passages)?, errors: Default::default() }),
                None => None,
            },
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
    ) -> Result<Made> {
        let blocks = self.model.spec.blocks.len();
        self.watch.progress(index, blocks, Doing::Prune);
        let started = Instant::now();
        let dense = self.model.block(index)?;
        let mut block = dense.clone();
        let mut block_pruner = BlockPruner {
            walk: self,
            pruner,
            index,
            solving: Duration::ZERO,
            zeros: 0,
            weights: 0,
            layers: vec![],
            changed: vec![],
        };
        block_pruner.prune(&mut block, calibration, index + 1 == blocks).with_context(|| format!("block {index}"))?;
        self.model.device.synchronize()?;
        let BlockPruner { layers, changed, solving, zeros, weights, .. } = block_pruner;
        seconds.calibrate += (started.elapsed() - solving).as_secs_f64();
        seconds.prune += solving.as_secs_f64();
        let record = BlockRecord { layers, zeros, weights };
        saver.save(self.progress.pack_block(index, &block, &changed, &record, self.model.dtype)?)?;
        Ok(Made { dense, block, record })
    }

    /// A block that needs no pruning, because it was pruned before or stays dense.
    fn again(&self, index: usize, seconds: &mut BlockSeconds) -> Result<Made> {
        let started = Instant::now();
        let dense = self.model.block(index)?;
        let mut block = dense.clone();
        if self.pruner.is_some() {
            let record = self
                .progress
                .restore_block(index, &mut block, self.model)?
                .ok_or(Lost(self.progress.block_key(index)))?;
            seconds.calibrate += started.elapsed().as_secs_f64();
            return Ok(Made { dense, block, record });
        }
        let layers = layers_as_they_are(index, &block)?;
        let zeros = layers.iter().map(|(_, zeros)| zeros).sum();
        let weights = layers.iter().map(|(layer, _)| (layer.rows * layer.columns) as u64).sum();
        let mut record = BlockRecord { layers: vec![], zeros, weights };
        if self.beside.is_some() {
            record.layers = layers.into_iter().map(|(layer, _)| layer).collect();
        }
        // Errors are asked for only where the blocks are alike.
        let dense = match self.beside.filter(|_| self.errors_on.is_some()) {
            Some(model) => model.block(index)?,
            None => dense,
        };
        seconds.calibrate += started.elapsed().as_secs_f64();
        Ok(Made { dense, block, record })
    }
}

/// A block as it was and as it is now, which is the same where it stays dense.
struct Made {
    dense: Block,
    block: Block,
    record: BlockRecord,
}

/// What is known of the inputs of a site's linears.
struct Observed {
    statistic: Statistic,
    /// Calibration tokens that were routed there, where it is an expert's.
    routed: Option<u64>,
}

impl Observed {
    const NOTHING: Self = Self { statistic: Statistic::None, routed: None };
}

/// Tokens below which an expert is pruned from the statistic of all tokens: of so few, a column's norm is off by an eighth.
const FEWEST_ROUTED: u64 = 32;

/// Whether too few tokens were routed to an expert to prune it from them.
pub fn is_too_few(routed: u64) -> bool {
    routed < FEWEST_ROUTED
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
    /// Of each, whether what is left may have other values than before.
    changed: Vec<bool>,
}

impl BlockPruner<'_> {
    /// Prunes the block and takes the calibration stream through it (not through the `last` one:
    /// nothing comes after it).
    fn prune(&mut self, block: &mut Block, calibration: Option<&mut Stream>, last: bool) -> Result<()> {
        let sites = 0..block.spec.sites.len();
        let Some(stream) = calibration else {
            return sites.into_iter().try_for_each(|site| {
                let known = self.known(site)?;
                self.prune_site(block, site, known)
            });
        };
        let (ropes, watch) = (&self.walk.ends.ropes, self.walk.watch);
        let propagation = self.pruner.spec.propagation;

        if prunes_within(self.pruner.spec) {
            for site in sites.clone() {
                stream.advance(site, block, ropes, watch)?;
                let observed = self.observe(block, site, stream)?;
                self.prune_site(block, site, observed)?;
            }
            return if last { Ok(()) } else { stream.finish(block, watch) };
        }

        // Every site is seen with the block still dense.
        let mut seen = Vec::with_capacity(sites.len());
        let are_known = sees_dense(self.pruner.spec, self.index)
            && self.walk.progress.has_statistics(self.index, self.pruner.skip.sites(self.index, &block.spec));
        if are_known && propagation == Propagation::Pruned {
            seen = sites.clone().map(|site| self.known(site)).collect::<Result<_>>()?;
        } else {
            let mut watched = stream.clone();
            for site in sites.clone() {
                watched.advance(site, block, ropes, watch)?;
                seen.push(self.observe(block, site, &mut watched)?);
            }
            if propagation == Propagation::Dense && !last {
                watched.finish(block, watch)?;
                *stream = watched;
            }
        }
        for (site, observed) in sites.zip(seen) {
            self.prune_site(block, site, observed)?;
        }
        if propagation == Propagation::Pruned && !last {
            stream.pass(block, ropes, watch)?;
        }
        Ok(())
    }

    /// What is known of a site without looking at inputs: nothing where the method asks for nothing, or nothing reads the
    /// site, else what another cell has left.
    fn known(&self, site: usize) -> Result<Observed> {
        let kind = self.pruner.method.statistic();
        let is_wanted = self.pruner.skip.is_pruned_at(self.index, &self.walk.model.spec.blocks[self.index], site);
        if kind == StatisticKind::None || !is_wanted {
            return Ok(Observed::NOTHING);
        }
        let progress = &self.walk.progress;
        let key = progress.statistics_key(self.index, site).context("the cell has no calibration")?;
        let (statistic, routed) = progress.statistic(key).ok_or(Lost(key))?;
        Ok(Observed { statistic: Statistic::of(kind, statistic.to_device(&self.walk.model.device)?), routed })
    }

    /// Gathers the statistic of what the linears of a site, where the stream is, are about to read. Where the dense
    /// model feeds them, other cells of the calibration see the same: it is gathered for all. An expert that too few tokens
    /// are routed to is given all of them.
    fn observe(&self, block: &Block, site: usize, stream: &mut Stream) -> Result<Observed> {
        let kind = self.pruner.method.statistic();
        let spec = self.pruner.spec;
        let SiteSpec { place, columns, .. } = &block.spec.sites[site];
        if !self.pruner.skip.is_pruned_at(self.index, &block.spec, site) {
            return Ok(Observed::NOTHING);
        }
        let is_shared = sees_dense(spec, self.index) && (site == 0 || !prunes_within(spec));
        let progress = &self.walk.progress;
        let key = progress.statistics_key(self.index, site).filter(|_| is_shared);
        let mut gather = || {
            let routed = place.expert().map(|_| stream.flows().map(|flow| flow.input.dims()[0] as u64).sum::<u64>());
            let takes_all = routed.is_some_and(is_too_few);
            let mut accumulator = Accumulator::new(kind, *columns, self.walk.model.dtype, &self.walk.model.device)?;
            stream.look(self.walk.watch, |flow| {
                match takes_all {
                    true => accumulator.add(&block.input_of_all(site, flow)?, &flow.windows_of_all())?,
                    false => accumulator.add(&flow.input, &flow.windows())?,
                }
                Ok(())
            })?;
            Ok(Observed { statistic: accumulator.finish()?, routed: routed.filter(|_| kind != StatisticKind::None) })
        };
        let Some(key) = key else { return gather() };
        let known = || if progress.has_entry(key) { self.known(site).map(Some) } else { Ok(None) };
        progress.cache().once(key, self.walk.watch, known, || {
            let observed = gather()?;
            if let Some(statistic) = observed.statistic.tensor() {
                progress.save_statistic(key, statistic, observed.routed)?;
            }
            Ok(observed)
        })
    }

    /// Prunes the linears that read a site.
    fn prune_site(&mut self, block: &mut Block, site: usize, observed: Observed) -> Result<()> {
        let Observed { statistic, routed } = observed;
        // A GPU may still be at what was before, which is not the method's time.
        self.walk.model.device.synchronize()?;
        let mut started = Instant::now();
        let spec = block.spec.clone();
        let in_linear = |index: usize| format!("linear {}", spec.linears[index].name);
        let linears = spec.sites[site].linears.clone();
        let prune = match self.pruner.skip.is_pruned_at(self.index, &spec, site) {
            true => {
                let prune = self.pruner.method.pruner(&statistic, self.pruner.sparsity);
                Some(prune.with_context(|| in_linear(linears.start))?)
            }
            false => None,
        };
        // What is needed of it the method has: a factor, as large as the statistic of a wide site.
        drop(statistic);
        for index in linears {
            stop_if_interrupted(self.walk.watch)?;
            let dense = block.linears[index].weight();
            let (weight, changed, damping) = match prune.as_ref().filter(|_| !self.pruner.skip.has(self.index, index)) {
                Some(prune) => {
                    let pruned = prune(dense).with_context(|| in_linear(index))?;
                    (self.walk.model.round(&pruned.weight)?, !self.pruner.method.keeps_values(), pruned.damping)
                }
                None => (dense.clone(), false, None),
            };
            self.walk.model.device.synchronize()?;
            // What the linears of a site share counts for the first.
            let seconds = started.elapsed();
            self.solving += seconds;
            let (zeros, weights) = zeros(&weight)?;
            (self.zeros, self.weights) = (self.zeros + zeros, self.weights + weights);
            let (rows, columns) = weight.dims2()?;
            if !self.pruner.skip.has(self.index, index) {
                block.linears[index].set_weight(weight);
            }
            self.changed.push(changed);
            self.layers.push(LayerRecord {
                block: self.index,
                linear: spec.linears[index].name.clone(),
                rows,
                columns,
                sparsity: zeros as f64 / weights as f64,
                damping,
                routed,
                skipped: self.pruner.skip.has(self.index, index),
                seconds: seconds.as_secs_f64(),
            });
            started = Instant::now();
        }
        Ok(())
    }
}

/// Says how many experts were pruned from the statistic of all tokens.
fn warn_of_idle_experts(record: &PrunedRecord) {
    let experts = record.layers.iter().filter(|layer| layer.linear.ends_with(".down")).filter_map(|layer| layer.routed);
    let (mut all, mut idle) = (0, 0);
    experts.for_each(|routed| (all, idle) = (all + 1, idle + usize::from(is_too_few(routed))));
    if idle > 0 {
        tracing::warn!(
            "{idle} of {all} experts were routed fewer than {FEWEST_ROUTED} calibration tokens, and are pruned from the \
             statistic of all tokens (`routed_tokens` in layers.parquet); more or longer windows would reach them"
        );
    }
}

/// The linears of a block that nothing pruned here, each with its zeros.
fn layers_as_they_are(block: usize, made: &Block) -> Result<Vec<(LayerRecord, u64)>> {
    let layer = |(linear, spec): (&Linear, &LinearSpec)| {
        let (rows, columns) = linear.weight().dims2()?;
        let (zeros, weights) = zeros(linear.weight())?;
        let layer = LayerRecord {
            block,
            linear: spec.name.clone(),
            rows,
            columns,
            sparsity: zeros as f64 / weights as f64,
            damping: None,
            routed: None,
            skipped: false,
            seconds: 0.0,
        };
        Ok((layer, zeros))
    };
    made.linears.iter().zip(&made.spec.linears).map(layer).collect()
}

/// Zeros of a weight, and its size.
fn zeros(weight: &Tensor) -> Result<(u64, u64)> {
    Ok((tensors::zeros(weight)?, weight.elem_count() as u64))
}
