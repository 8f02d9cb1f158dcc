//! What a cell leaves behind on its way, so that it can go on after whatever ended the run: its pruned blocks, and
//! where its walk stands.

use std::cell::Cell;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Key, Stage};
use super::cell::{BlockRecord, ErrorsRecord, PrunedRecord};
use super::errors::HeldOut;
use super::stream::Stream;
use crate::digest::Digest;
use crate::guard::defect;
use crate::linalg::CHUNK;
use crate::model::{Block, Linear, Model};
use crate::tensors;

/// A cell's place in the cache.
pub struct Progress<'a> {
    cache: &'a Cache,
    pruned: Key,
    /// What tells the statistics of its calibration, as the dense model gives them, from others.
    statistics: Option<Digest>,
    /// When the walk's standing was last saved, and what that took.
    saved: Cell<(Instant, Option<Duration>)>,
}

/// Saving where the walk stands may take this much of the time that it would take to get there again.
const SHARE: u32 = 50;

/// Bytes of hidden states that are saved once without knowing what it takes.
const MEASURED_BY_DOING: usize = 64 << 20;

/// Where a walk stands: before block `next`.
pub struct Standing {
    pub next: usize,
    pub record: PrunedRecord,
    /// None where nothing has to be calibrated any more.
    pub calibration: Option<Stream>,
    pub suites: Vec<SuiteStream>,
    /// None where output errors are known, or not measured.
    pub held_out: Option<HeldOut>,
}

/// A suite on its way.
pub struct SuiteStream {
    pub id: Digest,
    pub stream: Stream,
    /// Seconds of its way so far, in this run.
    pub seconds: f64,
}

/// What is said of a standing's hidden states: how many tensors are the calibration's, and each suite's.
#[derive(Serialize, Deserialize)]
struct StandingHeader {
    next: usize,
    record: PrunedRecord,
    calibration: Option<usize>,
    suites: Vec<(String, usize)>,
    /// What tells the held-out tokens from others, the errors so far, and how many tensors are theirs.
    held_out: Option<(String, ErrorsRecord, usize)>,
}

impl<'a> Progress<'a> {
    /// The progress of the cell whose pruning has this key, and whose calibration has these statistics.
    pub fn of(cache: &'a Cache, pruned: Key, statistics: Option<Digest>) -> Self {
        Self { cache, pruned, statistics, saved: Cell::new((Instant::now(), None)) }
    }

    /// The entry of a pruned block.
    pub fn block_key(&self, index: usize) -> Key {
        Stage::Block.key(&(self.pruned.digest(), index))
    }

    /// The entry of where the walk stands.
    pub fn walk_key(&self) -> Key {
        Stage::Walk.key(&self.pruned.digest())
    }

    /// Whether the pruned block is there.
    pub fn has_block(&self, index: usize) -> bool {
        self.cache.contains(self.block_key(index))
    }

    /// The entry of a site's statistic as the dense model gives it; None where the cell has no calibration.
    pub fn statistics_key(&self, index: usize, site: usize) -> Option<Key> {
        Some(Stage::Statistic.key(&(self.statistics?, index, site)))
    }

    /// Whether the statistics of these sites of a block are there.
    pub fn has_statistics(&self, index: usize, mut sites: impl Iterator<Item = usize>) -> bool {
        sites.all(|site| self.statistics_key(index, site).is_some_and(|key| self.has_entry(key)))
    }

    /// Whether an entry is there.
    pub fn has_entry(&self, key: Key) -> bool {
        self.cache.contains(key)
    }

    /// Keeps a site's statistic, for other cells, and how many tokens were routed there, where it is an expert's.
    pub fn save_statistic(&self, key: Key, statistic: &Tensor, routed: Option<u64>) -> Result<()> {
        self.cache.write_tensors(key, &routed, std::slice::from_ref(statistic))
    }

    /// A statistic as it was saved under its key; None where the entry is lost.
    pub fn statistic(&self, key: Key) -> Option<(Tensor, Option<u64>)> {
        let (routed, parts) = self.cache.read_tensors(key)?;
        <[Tensor; 1]>::try_from(parts).ok().map(|[statistic]| (statistic, routed))
    }

    /// What is to be kept of a pruned block: which weights of `dense` are left, and, where the method changed them, their
    /// values; on the host.
    pub fn pack_block(
        &self,
        index: usize,
        dense: &Block,
        pruned: &Block,
        record: &BlockRecord,
        dtype: DType,
    ) -> Result<PackedBlock> {
        let changed = |(dense, pruned)| what_changed(dense, pruned, dtype);
        let saved: Vec<(Tensor, Option<Tensor>)> = match dense.linears[0].weight().device().is_cpu() {
            true => dense.linears.par_iter().zip(&pruned.linears).map(changed).collect::<Result<_>>()?,
            // One after the other, a device has less to hold.
            false => dense.linears.iter().zip(&pruned.linears).map(changed).collect::<Result<_>>()?,
        };
        let changed: Vec<bool> = saved.iter().map(|(_, values)| values.is_some()).collect();
        let parts: Vec<Tensor> =
            saved.into_iter().flat_map(|(mask, values)| [mask].into_iter().chain(values)).collect();
        Ok(PackedBlock { key: self.block_key(index), about: (record.clone(), changed), parts })
    }

    /// What writes blocks, in a thread of `scope` where the host is not the one that computes.
    pub fn saver<'scope>(&self, scope: &'scope Scope<'scope, 'a>, device: &Device) -> Saver<'scope, 'a> {
        Saver { cache: self.cache, scope: (!device.is_cpu()).then_some(scope), writing: None }
    }

    /// Forgets an entry that turned out to be of no use.
    pub fn drop_entry(&self, key: Key) {
        self.cache.remove(key);
    }

    /// Makes the pruned block of the dense one. None where the entry is lost, or of no use.
    pub fn restore_block(&self, index: usize, block: &mut Block, model: &Model) -> Result<Option<BlockRecord>> {
        let read: Option<((BlockRecord, Vec<bool>), _)> = self.cache.read_tensors(self.block_key(index));
        let Some(((record, changed), parts)) = read else { return Ok(None) };
        let mut parts = parts.into_iter();
        for (linear, changed) in block.linears.iter_mut().zip(changed) {
            let Some(mask) = parts.next() else { return Ok(None) };
            let mask = mask.to_vec1::<u8>()?;
            let mut weights = tensors::values(linear.weight())?;
            let values = if changed { parts.next().map(|v| tensors::values(&v)).transpose()? } else { None };
            let mut values = values.map(Vec::into_iter);
            if mask.len() != weights.len().div_ceil(8) {
                return Ok(None);
            }
            for (i, weight) in weights.iter_mut().enumerate() {
                let is_left = mask[i / 8] >> (i % 8) & 1 == 1;
                *weight = match &mut values {
                    _ if !is_left => 0.0,
                    None => *weight,
                    Some(values) => match values.next() {
                        Some(value) => value,
                        None => return Ok(None),
                    },
                };
            }
            let shape = linear.weight().shape().clone();
            linear.set_weight(model.round(&Tensor::from_vec(weights, shape, &Device::Cpu)?)?);
        }
        Ok(Some(record))
    }

    /// Saves where the walk stands, if that costs little beside getting there again.
    pub fn save(&self, standing: &Standing) -> Result<()> {
        let calibration = standing.calibration.as_ref();
        let held_out = standing.held_out.as_ref();
        let suites = || standing.suites.iter().map(|s| &s.stream);
        let streams = || calibration.into_iter().chain(suites()).chain(held_out.map(|held_out| &held_out.stream));
        let tensors: Vec<Tensor> = streams().flat_map(Stream::hidden).cloned().collect();
        let bytes: usize = tensors.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
        let (last, cost) = self.saved.get();
        // What is small is measured by doing it; else, as long as nothing was measured, a disk writes 1 GB/s.
        let unmeasured = if bytes < MEASURED_BY_DOING { Duration::ZERO } else { Duration::from_nanos(bytes as u64) };
        let cost = cost.unwrap_or(unmeasured);
        if last.elapsed() < SHARE * cost {
            return Ok(());
        }
        let started = Instant::now();
        let header = StandingHeader {
            next: standing.next,
            record: standing.record.clone(),
            calibration: calibration.map(|stream| stream.hidden().count()),
            suites: (standing.suites.iter()).map(|s| (s.id.to_string(), s.stream.hidden().count())).collect(),
            held_out: held_out.map(|h| (h.id.to_string(), h.errors.clone(), h.stream.hidden().count())),
        };
        self.cache.write_tensors(self.walk_key(), &header, &tensors)?;
        self.saved.set((Instant::now(), Some(started.elapsed())));
        Ok(())
    }

    /// Goes on from where a walk was saved, if that has every suite of `start`, and its held-out tokens: hidden states and
    /// record are from there. Else, this is `start` itself.
    pub fn resume(&self, mut start: Standing, device: &Device) -> Result<Standing> {
        let read: Option<(StandingHeader, _)> = self.cache.read_tensors(self.walk_key());
        let Some((header, tensors)) = read else { return Ok(start) };
        let mut tensors = tensors.into_iter();
        let of_calibration: Vec<Tensor> = tensors.by_ref().take(header.calibration.unwrap_or(0)).collect();
        let mut of_suites = Vec::new();
        for (id, count) in header.suites {
            of_suites.push((id, tensors.by_ref().take(count).collect::<Vec<Tensor>>()));
        }
        let of_held_out =
            header.held_out.map(|(id, errors, count)| (id, errors, tensors.take(count).collect::<Vec<_>>()));
        let found = |id: &Digest| of_suites.iter().find(|(name, ..)| *name == id.to_string());
        if !start.suites.iter().all(|s| found(&s.id).is_some_and(|(.., hidden)| s.stream.fits(hidden))) {
            return Ok(start);
        }
        if let Some(held_out) = &mut start.held_out {
            match of_held_out {
                Some((id, errors, hidden)) if id == held_out.id.to_string() && held_out.stream.fits(&hidden) => {
                    held_out.stream.replace(&hidden, device)?;
                    held_out.errors = errors;
                }
                _ => return Ok(start),
            }
        }
        for suite in &mut start.suites {
            let (_, hidden) = found(&suite.id).expect("every suite was just found");
            suite.stream.replace(hidden, device)?;
        }
        start.calibration = match start.calibration.take() {
            Some(mut stream) if header.calibration.is_some() && stream.fits(&of_calibration) => {
                stream.replace(&of_calibration, device)?;
                Some(stream)
            }
            _ => None,
        };
        (start.next, start.record) = (header.next, header.record);
        Ok(start)
    }

    /// Forgets where the walk stood.
    pub fn forget(&self) {
        self.cache.remove(self.walk_key());
    }
}

/// A pruned block as the cache has it.
pub struct PackedBlock {
    key: Key,
    /// The record, and which linears have values.
    about: (BlockRecord, Vec<bool>),
    parts: Vec<Tensor>,
}

/// Writes blocks, one behind the walk at most.
pub struct Saver<'scope, 'a> {
    cache: &'a Cache,
    /// None where they are written at once.
    scope: Option<&'scope Scope<'scope, 'a>>,
    writing: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl Saver<'_, '_> {
    /// Writes a block, or begins to, as soon as the one before is written.
    pub fn save(&mut self, block: PackedBlock) -> Result<()> {
        self.finish()?;
        let cache = self.cache;
        let write = move || cache.write_tensors(block.key, &block.about, &block.parts);
        let Some(scope) = self.scope else { return write() };
        self.writing = Some(scope.spawn(write));
        Ok(())
    }

    /// Waits until all is written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        writing.join().unwrap_or_else(|panic| Err(defect(&*panic)))
    }
}

/// Which weights are left, a bit each, and their values where the method changed any.
fn what_changed(dense: &Linear, pruned: &Linear, dtype: DType) -> Result<(Tensor, Option<Tensor>)> {
    if !pruned.weight().device().is_cpu() {
        return what_changed_on_device(dense.weight(), pruned.weight(), dtype);
    }
    let (before, after) = (tensors::values(dense.weight())?, tensors::values(pruned.weight())?);
    let byte = |eight: &[f32]| eight.iter().rev().fold(0, |byte, x| byte << 1 | u8::from(is_left(x)));
    let mask = Tensor::new(after.chunks(8).map(byte).collect::<Vec<u8>>(), &Device::Cpu)?;
    let changes = before.iter().zip(&after).any(|(b, a)| is_left(a) && a.to_bits() != b.to_bits());
    Ok((mask, if changes { Some(what_is_left(pruned.weight(), dtype)?) } else { None }))
}

/// The same, with no more brought to the host than is kept.
fn what_changed_on_device(dense: &Tensor, pruned: &Tensor, dtype: DType) -> Result<(Tensor, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if pruned.device().is_cuda() && pruned.dtype() == dtype {
        return Ok(super::packing::pack_left(dense, pruned)?);
    }
    let left = pruned.ne(0f32)?;
    let changes = (pruned.ne(dense)? * &left)?.max(D::Minus1)?.max_all()?.to_scalar::<u8>()?;
    // Eight flags become a byte as the sum of powers of two.
    let flags = left.flatten_all()?;
    let flags = flags.pad_with_zeros(0, 0, flags.dim(0)?.next_multiple_of(8) - flags.dim(0)?)?;
    let powers = Tensor::new(&[1f32, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0], flags.device())?;
    let bytes = flags.reshape(((), 8))?.to_dtype(DType::F32)?.broadcast_mul(&powers)?.sum(D::Minus1)?;
    let mask = bytes.to_dtype(DType::U8)?.to_device(&Device::Cpu)?;
    Ok((mask, if changes > 0 { Some(what_is_left(pruned, dtype)?) } else { None }))
}

/// Whether a weight is no zero, of whatever sign.
fn is_left(x: &f32) -> bool {
    *x != 0.0
}

/// The weights that are left. Nothing is lost: pruned weights were rounded to this precision.
fn what_is_left(weights: &Tensor, dtype: DType) -> Result<Tensor> {
    let left = tensors::with_values(weights, |weights| {
        let left = weights.par_chunks(CHUNK).map(|chunk| chunk.iter().copied().filter(is_left).collect::<Vec<f32>>());
        left.collect::<Vec<_>>().concat()
    })?;
    Ok(tensors::to_dtype(&Tensor::new(left, &Device::Cpu)?, dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_what_the_host_keeps() {
        let weight = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..21).map(|i| f((i as f32 * 1.7).sin())).collect();
            Linear::new(Tensor::from_vec(values, (3, 7), &Device::Cpu).unwrap(), None)
        };
        let dense = weight(|x| x);
        let zeroed: fn(f32) -> f32 = |x| if x.abs() < 0.5 { 0.0 } else { x };
        for (pruned, changes) in [(weight(zeroed), false), (weight(|x| if x < 0.2 { 0.0 } else { x * 2.0 }), true)] {
            let (mask, values) = what_changed(&dense, &pruned, DType::F32).unwrap();
            let on_device = what_changed_on_device(dense.weight(), pruned.weight(), DType::F32).unwrap();
            assert_eq!(mask.to_vec1::<u8>().unwrap(), on_device.0.to_vec1::<u8>().unwrap());
            assert_eq!((values.is_some(), on_device.1.is_some()), (changes, changes));
            let numbers = |t: Option<Tensor>| t.map(|t| t.to_vec1::<f32>().unwrap());
            assert_eq!(numbers(values), numbers(on_device.1));
        }
    }
}
