//! What a cell leaves behind on its way, so that it can go on after whatever ended the run: its pruned blocks, and
//! where its walk stands.

use std::cell::Cell;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Key};
use super::cell::{BlockRecord, ErrorsRecord, PrunedRecord};
use super::errors::HeldOut;
use super::keys::Place;
use super::masks::BlockMasks;
use super::stream::Stream;
use crate::digest::Digest;
use crate::guard::defect;
use crate::memory;
use crate::model::{Block, Model};
use crate::prune::Packed;

/// A cell's place in the cache.
pub struct Progress<'a> {
    cache: &'a Cache,
    place: Place,
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
    /// The progress of the cell that has this place.
    pub fn of(cache: &'a Cache, place: Place) -> Self {
        Self { cache, place, saved: Cell::new((Instant::now(), None)) }
    }

    /// The entry of a pruned block.
    pub fn block_key(&self, index: usize) -> Key {
        self.place.block(index)
    }

    /// Whether the pruned block is there.
    pub fn has_block(&self, index: usize) -> bool {
        self.cache.contains(self.block_key(index))
    }

    /// The entry of a site's statistic as the dense model gives it; None where the cell has no calibration.
    pub fn statistics_key(&self, index: usize, site: usize) -> Option<Key> {
        self.place.statistic(index, site)
    }

    /// Whether the statistics of these sites of a block are there.
    pub fn has_statistics(&self, index: usize, mut sites: impl Iterator<Item = usize>) -> bool {
        sites.all(|site| self.statistics_key(index, site).is_some_and(|key| self.has_entry(key)))
    }

    /// Whether an entry is there.
    pub fn has_entry(&self, key: Key) -> bool {
        self.cache.contains(key)
    }

    /// The cache that it lies in.
    pub fn cache(&self) -> &Cache {
        self.cache
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

    /// What is to be kept of a pruned block; `changed` says of which linears the method may have changed what is left.
    pub fn pack_block(
        &self,
        index: usize,
        block: &Block,
        changed: &[bool],
        record: &BlockRecord,
        dtype: DType,
    ) -> Result<PackedBlock> {
        // One after the other, a device has less to hold; on the host each is packed by all threads.
        let linears = block.linears.iter().zip(changed);
        let packed: Vec<Packed> =
            linears.map(|(linear, &changed)| Packed::of(linear.weight(), changed, dtype)).collect::<Result<_>>()?;
        let masks = (self.place.mask(index), BlockMasks::of(record, &packed)?);
        let with_values: Vec<bool> = packed.iter().map(|packed| packed.values.is_some()).collect();
        let parts = packed.into_iter().flat_map(|Packed { left, values }| [left].into_iter().chain(values)).collect();
        Ok(PackedBlock { key: self.block_key(index), about: (record.clone(), with_values), parts, masks })
    }

    /// What writes blocks, in a thread of `scope` where the host is not the one that computes.
    pub fn saver<'scope>(&self, scope: &'scope Scope<'scope, 'a>, device: &Device) -> Saver<'scope, 'a> {
        Saver { cache: self.cache, scope: (!device.is_cpu()).then_some(scope), writing: None }
    }

    /// Forgets an entry that turned out to be of no use.
    pub fn drop_entry(&self, key: Key) {
        self.cache.remove(key);
    }

    /// What is kept of a pruned block, linear by linear. None where the entry is lost.
    pub fn packed_block(&self, index: usize) -> Option<(BlockRecord, Vec<Packed>)> {
        let ((record, with_values), parts): ((BlockRecord, Vec<bool>), _) =
            self.cache.read_tensors(self.block_key(index))?;
        let mut parts = parts.into_iter();
        let packed = |has_values: bool| {
            let left = parts.next()?;
            Some(Packed { left, values: if has_values { Some(parts.next()?) } else { None } })
        };
        Some((record, with_values.into_iter().map(packed).collect::<Option<_>>()?))
    }

    /// Which weights are left of a pruned block: as it was noted, or of the block, where an earlier version pruned it. None
    /// where both entries are lost.
    pub fn masks(&self, index: usize) -> Option<BlockMasks> {
        let key = self.place.mask(index);
        BlockMasks::read(self.cache, key).or_else(|| {
            let (record, packed) = self.packed_block(index)?;
            let masks = BlockMasks::of(&record, &packed).ok()?;
            // Without an entry they are made of the block again.
            let written = masks.write(self.cache, key);
            let _ = written.inspect_err(|e| tracing::debug!("the masks of block {index} are not kept: {e:#}"));
            Some(masks)
        })
    }

    /// Makes the pruned block of the dense one. None where the entry is lost, or of no use.
    pub fn restore_block(&self, index: usize, block: &mut Block, model: &Model) -> Result<Option<BlockRecord>> {
        let Some((record, packed)) = self.packed_block(index) else { return Ok(None) };
        for (linear, packed) in block.linears.iter_mut().zip(packed) {
            let Ok(weight) = packed.applied_to(linear.weight()) else { return Ok(None) };
            linear.set_weight(model.round(&weight)?);
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
        self.cache.write_tensors(self.place.walk(), &header, &tensors)?;
        self.saved.set((Instant::now(), Some(started.elapsed())));
        Ok(())
    }

    /// Goes on from where a walk was saved, if that has every suite of `start`, and its held-out tokens: hidden states and
    /// record are from there. Else, this is `start` itself.
    pub fn resume(&self, mut start: Standing, device: &Device) -> Result<Standing> {
        let read: Option<(StandingHeader, _)> = self.cache.read_tensors(self.place.walk());
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
        self.cache.remove(self.place.walk());
    }
}

/// A pruned block as the cache has it.
pub struct PackedBlock {
    key: Key,
    /// The record, and which linears have values.
    about: (BlockRecord, Vec<bool>),
    parts: Vec<Tensor>,
    masks: (Key, BlockMasks),
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
        let write = move || {
            let (key, masks) = &block.masks;
            masks.write(cache, *key)?;
            cache.write_tensors(block.key, &block.about, &block.parts)
        };
        let room = memory::ensure_room_for_threads(1, memory::STACK);
        let Some(scope) = self.scope.filter(|_| room.is_ok()) else { return write() };
        self.writing = Some(scope.spawn(write));
        Ok(())
    }

    /// Waits until all is written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        writing.join().unwrap_or_else(|panic| Err(defect(&*panic)))
    }
}
