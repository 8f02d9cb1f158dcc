//! What is done now and then beside the work of a run, such as writing its tables: as often as costs little.

use std::time::{Duration, Instant};

/// One part of so many of the time that a run takes may go into it.
const SHARE: u32 = 50;

/// So much may go into it in any case: what takes a moment is done every time, and small studies see it at once.
const AT_ONCE: Duration = Duration::from_secs(3);

/// How often something has been done, by what it has cost.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Instant,
    spent: Duration,
    last: Duration,
    /// How large it was then.
    size: usize,
}

impl Pace {
    /// Of something that is done beside a run that begins now.
    pub fn new(now: Instant) -> Self {
        Self { began: now, spent: Duration::ZERO, last: Duration::ZERO, size: 1 }
    }

    /// Whether there is time to do it once more, if it takes as long as it took last, or longer as it has grown.
    pub fn allows(&self, now: Instant, size: usize) -> bool {
        let expected = self.last.mul_f64(size as f64 / self.size as f64);
        self.spent + expected <= AT_ONCE + now.saturating_duration_since(self.began) / SHARE
    }

    /// How long it took last.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// Notes that it was done, how long that took, and how large it was.
    pub fn took(&mut self, cost: Duration, size: usize) {
        (self.spent, self.last, self.size) = (self.spent + cost, cost, size.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has so many cells end, each after so long, and something done after a cell wherever the pace allows it; that takes
    /// longer with each cell. When it was done, by the numbers of the cells, and how long all of it took.
    fn run(cells: u32, each: Duration, cost: impl Fn(u32) -> Duration) -> (Vec<u32>, Duration) {
        let began = Instant::now();
        let (mut now, mut pace, mut done) = (began, Pace::new(began), vec![]);
        for cell in 1..=cells {
            now += each;
            if pace.allows(now, cell as usize) {
                now += cost(cell);
                pace.took(cost(cell), cell as usize);
                done.push(cell);
            }
        }
        (done, now - began - each * cells)
    }

    #[test]
    fn a_small_study_has_it_after_every_cell() {
        let (done, _) = run(40, Duration::from_millis(20), |_| Duration::from_millis(30));
        assert_eq!(done, (1..=40).collect::<Vec<_>>());
        let (done, _) = run(300, Duration::from_secs(60), |cell| Duration::from_millis(u64::from(cell)));
        assert_eq!(done, (1..=300).collect::<Vec<_>>());
    }

    #[test]
    fn ten_thousand_quick_cells_pay_a_share_of_their_time_and_no_more_for_being_many() {
        let cost = |cell: u32| Duration::from_millis(2) * cell;
        for cells in [1_000, 10_000] {
            let each = Duration::from_millis(50);
            let (done, spent) = run(cells, each, cost);
            let whole = each * cells + spent;
            assert!(spent <= AT_ONCE + whole / SHARE + cost(1), "{spent:?} of {whole:?}");
            assert!(done.len() >= 3, "{done:?}");
        }
    }

    #[test]
    fn what_takes_long_waits_until_the_run_has_taken_fifty_times_as_long() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert!(pace.allows(began, 400));
        pace.took(Duration::from_secs(10), 400);
        // Twice 10 s, less the 3 that are free; of twice the size three times 10 s.
        for (size, seconds) in [(400, 17 * 50), (800, 27 * 50)] {
            let due = began + Duration::from_secs(seconds);
            assert!(!pace.allows(due - Duration::from_millis(1), size) && pace.allows(due, size));
        }
    }
}
