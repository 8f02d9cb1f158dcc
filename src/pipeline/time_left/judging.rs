//! What judges still have to answer: the questions about each cell, at the pace of those that this run has put, or at one that is
//! remembered.

use super::Left;

/// The questions about a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hearing {
    /// So many are to be put, as far as it is known.
    ToCome(usize),
    /// So many of `of` are answered; when they began, and when the last answer came.
    Running {
        done: usize,
        of: usize,
        began: f64,
        last: f64,
    },
    Over,
}

/// What judges still have to answer.
#[derive(Debug, Default)]
pub struct Judging {
    cells: Vec<Hearing>,
    /// Seconds for each question, as they are remembered.
    remembered: Option<f64>,
    /// Questions that were answered in this run, and the seconds that they took.
    seen: (usize, f64),
}

impl Judging {
    /// So many questions are to be put about each cell, which take so many seconds each, where that is remembered.
    pub fn of(questions: Vec<usize>, remembered: Option<f64>) -> Self {
        Self { cells: questions.into_iter().map(Hearing::ToCome).collect(), remembered, seen: (0, 0.0) }
    }

    /// The questions about a cell begin to be put.
    pub fn begins(&mut self, cell: usize, of: usize, now: f64) {
        if let Some(hearing) = self.cells.get_mut(cell) {
            *hearing = Hearing::Running { done: 0, of, began: now, last: now };
        }
    }

    /// So many of them are answered.
    pub fn progress(&mut self, cell: usize, answered: usize, now: f64) {
        if let Some(Hearing::Running { done, last, .. }) = self.cells.get_mut(cell)
            && answered > *done
        {
            (*done, *last) = (answered, now);
        }
    }

    /// No more is asked about a cell.
    pub fn ends(&mut self, cell: usize, now: f64) {
        let Some(hearing) = self.cells.get_mut(cell) else { return };
        if let Hearing::Running { done, began, .. } = std::mem::replace(hearing, Hearing::Over) {
            self.seen = (self.seen.0 + done, self.seen.1 + now - began);
        }
    }

    /// Seconds for each question.
    fn each(&self) -> Option<f64> {
        let on_their_way = self.cells.iter().map(|hearing| match hearing {
            Hearing::Running { done, began, last, .. } => (*done, last - began),
            _ => (0, 0.0),
        });
        let (answered, seconds) = on_their_way.fold(self.seen, |(n, s), (done, seconds)| (n + done, s + seconds));
        if answered > 0 { Some(seconds / answered as f64) } else { self.remembered }
    }

    /// What is left to be asked about a cell.
    pub fn left_of(&self, cell: usize, now: f64) -> Left {
        let (questions, since) = match self.cells.get(cell) {
            None | Some(Hearing::Over) => return Left::NOTHING,
            Some(Hearing::ToCome(questions)) => (*questions, now),
            Some(Hearing::Running { done, of, last, .. }) => (of.saturating_sub(*done), *last),
        };
        match self.each() {
            _ if questions == 0 => Left::NOTHING,
            Some(each) => Left::about(each * questions as f64 - (now - since).min(each)),
            None => Left::UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_take_as_long_as_those_before_them_and_else_as_it_is_remembered() {
        let mut judging = Judging::of(vec![4, 10, 0], Some(3.0));
        let left = |judging: &Judging, now| [0, 1, 2].map(|cell| judging.left_of(cell, now));
        let about = |seconds| Left { seconds, is_rough: false };
        assert_eq!(left(&judging, 5.0), [about(12.0), about(30.0), Left::NOTHING]);
        judging.begins(0, 5, 10.0);
        // A second of the first answer is over.
        assert_eq!(left(&judging, 11.0), [about(14.0), about(30.0), Left::NOTHING]);
        judging.progress(0, 2, 14.0);
        assert_eq!(left(&judging, 14.0), [about(6.0), about(20.0), Left::NOTHING]);
        assert_eq!(left(&judging, 15.0)[0], about(5.0));
        // An answer that takes long does not take what comes after it.
        assert_eq!(left(&judging, 90.0)[0], about(4.0));
        judging.ends(0, 20.0);
        assert_eq!(left(&judging, 20.0), [Left::NOTHING, about(50.0), Left::NOTHING]);
    }

    #[test]
    fn of_a_judge_who_was_never_asked_nothing_is_known() {
        let judging = Judging::of(vec![4], None);
        assert_eq!(judging.left_of(0, 1.0), Left::UNKNOWN);
        assert_eq!((judging.left_of(1, 1.0), Judging::default().left_of(0, 1.0)), (Left::NOTHING, Left::NOTHING));
    }
}
