//! What a study will keep in the cache, and what room there is for it.

use std::path::Path;

use super::cache::{Cache, Limit};
use super::plan::{Plan, PlannedStage};
use crate::disk::Disk;
use crate::size::Size;

/// A study's need of room, and what there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    /// What the stages that are still to be computed will take.
    pub needed: Size,
    /// Whether that is all of it; else some depends on data not yet read.
    pub is_all: bool,
    /// What all stages of the study take, the cached ones too.
    pub whole: Size,
    /// The most that one cell adds.
    pub largest: Size,
    /// What the stages in the cache take already, of this study and of others.
    pub used: Size,
    pub limit: Limit,
    /// What the disks of the cache and of the results have, where the system tells; the latter only where it is another.
    pub disk: Option<Size>,
    pub results_disk: Option<Size>,
}

impl Room {
    /// The room for a planned study in this cache.
    pub fn of(plan: &Plan, cache: &Cache, limit: &Limit, results: &Path) -> Self {
        let to_do = |stage: &&PlannedStage| stage.is_to_do();
        let all = || plan.cells.iter().flat_map(|cell| &cell.stages);
        let sum = |stages: &mut dyn Iterator<Item = &PlannedStage>| {
            Size(stages.filter_map(|stage| stage.bytes).fold(0, u64::saturating_add))
        };
        let cells = plan.cells.iter().map(|cell| sum(&mut cell.stages.iter().filter(to_do)));
        let (disk, results) = (Disk::of(cache.dir()), Disk::of(results));
        let is_another = |results: &Disk| disk.is_none_or(|disk| !disk.is(results));
        Self {
            needed: sum(&mut all().filter(to_do)),
            is_all: all().filter(to_do).all(|stage| stage.bytes.is_some()),
            whole: sum(&mut all()),
            largest: cells.max().unwrap_or(Size(0)),
            used: cache.stages_size(),
            limit: limit.clone(),
            disk: disk.map(|disk| Size(disk.free)),
            results_disk: results.filter(is_another).map(|disk| Size(disk.free)),
        }
    }

    /// What is free up to the limit.
    pub fn free(&self) -> Size {
        Size(self.limit.size.0.saturating_sub(self.used.0))
    }

    /// What will have to make room.
    pub fn evicted(&self) -> Size {
        Size(self.needed.0.saturating_sub(self.free().0).min(self.used.0))
    }

    /// Whether the study's own stages are more than the cache may hold.
    pub fn exceeds_limit(&self) -> bool {
        self.whole > self.limit.size
    }

    /// What the study surely adds to the disk at some time, where that is more than the disk has: what is beyond the limit
    /// makes room only when a cell is done.
    pub fn fills_disk(&self) -> Option<Size> {
        let added = Size(self.needed.0.min(self.free().0.saturating_add(self.largest.0)));
        self.disk.is_some_and(|free| added > free).then_some(added)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stage;
    use super::super::cache::LimitBy;
    use super::super::plan::{PlannedCell, Work};
    use super::*;
    use crate::recipe::Cell;

    fn room(needed: u64, used: u64, limit: u64, disk: u64) -> Room {
        Room {
            needed: Size(needed),
            is_all: true,
            whole: Size(needed),
            largest: Size(10),
            used: Size(used),
            limit: Limit { size: Size(limit), by: LimitBy::Default },
            disk: Some(Size(disk)),
            results_disk: None,
        }
    }

    #[test]
    fn what_is_beyond_the_limit_makes_room_and_what_is_beyond_the_disk_fills_it() {
        let fits = room(60, 30, 100, 60);
        assert_eq!((fits.free(), fits.evicted(), fits.exceeds_limit()), (Size(70), Size(0), false));
        assert_eq!((fits.fills_disk(), room(60, 30, 100, 59).fills_disk()), (None, Some(Size(60))));
        let crowded = room(60, 80, 100, 30);
        assert_eq!((crowded.free(), crowded.evicted(), crowded.exceeds_limit()), (Size(20), Size(40), false));
        // 20 up to the limit, and 10 of a cell before anything goes.
        assert_eq!((crowded.fills_disk(), room(60, 80, 100, 29).fills_disk()), (None, Some(Size(30))));
        // A cache that holds more than it may, because its limit was lowered.
        let lowered = room(60, 80, 50, 1000);
        assert_eq!((lowered.free(), lowered.evicted(), lowered.exceeds_limit()), (Size(0), Size(60), true));
        assert_eq!(Room { disk: None, ..room(60, 0, 100, 0) }.fills_disk(), None);
    }

    #[test]
    fn a_plans_need_is_the_sum_of_what_is_not_cached() {
        let stage = |cached, bytes| PlannedStage {
            name: String::new(),
            stage: Stage::Scores,
            cached,
            bytes,
            work: Some(Work::default()),
        };
        let cell = |stages| PlannedCell { id: String::new(), cell: Cell::Dense, stages, memory: None, begun: false };
        let plan = Plan {
            cells: vec![
                cell(vec![stage(Some(true), Some(100)), stage(Some(false), Some(20))]),
                cell(vec![stage(Some(false), Some(3)), stage(None, Some(4))]),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        let limit = Limit { size: Size(1000), by: LimitBy::Argument };
        let cache = Cache::in_dir(&dir.path().join("cache"));
        let room = Room::of(&plan, &cache, &limit, &dir.path().join("results"));
        assert_eq!((room.needed, room.whole, room.largest, room.used), (Size(27), Size(127), Size(20), Size(0)));
        assert!(room.is_all && room.results_disk.is_none() && room.disk.is_some() == cfg!(unix));
        let unknown = Plan { cells: vec![cell(vec![stage(Some(true), None), stage(None, None)])] };
        assert!(!Room::of(&unknown, &cache, &limit, dir.path()).is_all);
    }
}
