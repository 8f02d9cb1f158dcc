//! The columns of a weight on the CPU, from left to right: what SparseGPT removes, and what makes up for it.

use std::ops::Range;

use rayon::prelude::*;

use super::{Sparsity, select};
use crate::linalg::elimination::{at_most, eliminate};
use crate::linalg::squares::{self, Lanes, SIDE};
use crate::linalg::tiles::{self, Line, PANEL, Sum, TILE};
use crate::linalg::{Mat, PIECE, in_chunks, in_pool, simd};

/// Columns whose errors are held until all columns to their right are made up for them at once.
const SPAN: usize = 1024;

/// Columns to the right that are compensated at once.
const STRIPE: usize = 4096;

/// Prunes the columns of `w` (rows × d), `width` of them at a time, by U (d × d) and 1/u_jj (d).
///
/// The published code makes up for a block's errors E in all columns to its right as soon as it is done, W −= E·U. The
/// same products are taken away here when columns are needed: from those of a span of blocks when their turn comes, from
/// all others when the span is done. They are the same sums, one after the other, of the same numbers.
pub fn solve(w: &mut [f32], d: usize, u: &[f32], inverse_diagonal: &[f32], width: usize, sparsity: Sparsity) {
    if !w.is_empty() {
        in_pool(|| solve_spans(w, d, u, inverse_diagonal, width, sparsity));
    }
}

fn solve_spans(w: &mut [f32], d: usize, u: &[f32], inverse_diagonal: &[f32], width: usize, sparsity: Sparsity) {
    let rows = w.len() / d;
    let span = (SPAN / width).max(1) * width;
    let mut errors = in_chunks(rows * span.min(d), PIECE, |_, _| ());
    let mut panels = vec![];
    for first in (0..d).step_by(span) {
        let end = d.min(first + span);
        for start in (first..end).step_by(width) {
            let block = Block::new(u, d, start, width.min(end - start), &inverse_diagonal[start..]);
            let before = 0..start - first;
            let u = Mat::strided(&u[first * d + start..], before.len(), block.b, d);
            compensate(w, (d, start..start + block.b), &errors, (span.min(d), before.clone()), u, width, &mut panels);
            block.solve(w, &mut errors, (span.min(d), before.end), sparsity);
        }
        for start in (end..d).step_by(STRIPE) {
            let columns = start..d.min(start + STRIPE);
            let u = Mat::strided(&u[first * d + start..], end - first, columns.len(), d);
            compensate(w, (d, columns), &errors, (span.min(d), 0..end - first), u, width, &mut panels);
        }
    }
}

/// W[:, to] −= E[:, from]·U, for `width` errors after the other.
fn compensate(
    w: &mut [f32],
    (d, to): (usize, Range<usize>),
    errors: &[f32],
    (span, from): (usize, Range<usize>),
    u: Mat,
    width: usize,
    panels: &mut Vec<Vec<Line>>,
) {
    if from.is_empty() {
        return;
    }
    let count = to.len().div_ceil(PANEL);
    panels.resize_with(count.max(panels.len()), Vec::new);
    let columns = |i: usize| i * PANEL..to.len().min((i + 1) * PANEL);
    panels[..count].par_iter_mut().enumerate().for_each(|(i, panel)| tiles::pack(u, columns(i), panel));
    // Enough tasks for every thread, of as many rows as stay in the cache while the panels pass.
    let rows = w.len() / d;
    let band = rows.div_ceil(8 * rayon::current_num_threads()).next_multiple_of(TILE).min(BAND);
    w.par_chunks_mut(band * d).zip(errors.par_chunks(band * span)).for_each(|(w, errors)| {
        for (i, panel) in panels[..count].iter().enumerate() {
            let here = to.start + columns(i).start..to.start + columns(i).end;
            tiles::of_rows(w, (d, here), errors, (span, from.clone()), panel, width, Sum::Subtract);
        }
    });
}

/// Rows that panels pass together.
const BAND: usize = 96;

/// One block of columns `start .. start + b` of the solver.
struct Block<'a> {
    d: usize,
    start: usize,
    b: usize,
    /// The block's own part of U, without gaps, (b, b).
    u1: Vec<f32>,
    /// 1/u_jj of the block's columns.
    inverse_diagonal: &'a [f32],
}

/// Rows of a block side by side: a column of them is a register.
struct Side {
    weights: Vec<Lanes>,
    errors: Vec<Lanes>,
    /// The rows whose weight goes: a bit each.
    gone: Vec<u16>,
}

impl<'a> Block<'a> {
    fn new(u: &[f32], d: usize, start: usize, b: usize, inverse_diagonal: &'a [f32]) -> Self {
        let rows: Vec<&[f32]> = (start..start + b).map(|i| &u[i * d + start..][..b]).collect();
        let u1 = rows.concat();
        Self { d, start, b, u1, inverse_diagonal: &inverse_diagonal[..b] }
    }

    /// Prunes the block's columns of `w` (rows × d), and writes the errors from a column of theirs on (rows × span).
    fn solve(&self, w: &mut [f32], errors: &mut [f32], (span, at): (usize, usize), sparsity: Sparsity) {
        let &Self { d, start, b, .. } = self;
        let threshold = match sparsity {
            Sparsity::Ratio(ratio) => {
                let scores = in_chunks(w.len() / d * b, b, |row, scores| {
                    score(&w[row * d + start..][..b], self.inverse_diagonal, scores);
                });
                select::threshold(&scores, ratio)
            }
            Sparsity::NOfM { .. } => 0.0, // groups decide as they are reached
        };
        w.par_chunks_mut(SIDE * d).zip(errors.par_chunks_mut(SIDE * span)).for_each_init(
            || Side { weights: vec![[0.0; SIDE]; b], errors: vec![[0.0; SIDE]; b], gone: vec![0; b] },
            |side, (rows, errors)| {
                let count = rows.len() / d;
                squares::columns_of(&rows[start..], d, count, b, |j, column| side.weights[j] = *column);
                match sparsity {
                    Sparsity::Ratio(_) => {
                        at_most(&side.weights, self.inverse_diagonal, threshold, &mut side.gone);
                        self.remove(side, 0..b);
                    }
                    Sparsity::NOfM { n, m } => {
                        let (mut scores, mut pairs) = (vec![0f32; m], vec![]);
                        for j in (0..b).step_by(m) {
                            let gone = &mut side.gone[j..j + m];
                            gone.fill(0);
                            for lane in 0..count {
                                for (i, score) in scores.iter_mut().enumerate() {
                                    *score = side.weights[j + i][lane].abs() * self.inverse_diagonal[j + i];
                                }
                                select::smallest_of_group(&scores, m - n, &mut pairs, |i| gone[i] |= 1 << lane);
                            }
                            self.remove(side, j..j + m);
                        }
                    }
                }
                squares::write_columns(&mut rows[start..], d, count, &side.weights);
                squares::write_columns(&mut errors[at..], span, count, &side.errors);
            },
        );
    }

    /// Removes the weights marked as gone among `columns`, from left to right.
    fn remove(&self, side: &mut Side, columns: Range<usize>) {
        eliminate(&self.u1, &mut side.weights, &mut side.errors, &side.gone, columns);
    }
}

simd::vectorized! {
    fn score(weights: &[f32], scales: &[f32], scores: &mut [f32]) {
        scores.iter_mut().zip(weights.iter().zip(scales)).for_each(|(s, (w, k))| *s = w.abs() * k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    /// Pseudo-random values in (-0.5, 0.5) that are not correlated.
    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547).map(|x| x - x.floor() - 0.5).collect()
    }

    /// Algorithm 1 of the paper, row by row and weight by weight, in f64: columns to the right are made up for at once.
    /// What is `gone` has to be what the scores say, but for rounding.
    fn plain(w: &[f32], d: usize, u: &[f32], width: usize, sparsity: Sparsity, gone: &[bool]) -> Vec<f64> {
        let rows = w.len() / d;
        let mut w: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        let u = |i: usize, j: usize| f64::from(u[i * d + j]);
        // The largest score that goes, and the smallest that stays.
        let check = |w: &[f64], r: Range<usize>, columns: Range<usize>, count: usize| {
            let (mut goes, mut stays, mut found) = (0f64, f64::INFINITY, 0);
            for (r, j) in r.flat_map(|r| columns.clone().map(move |j| (r, j))) {
                let score = w[r * d + j].abs() / u(j, j);
                match gone[r * d + j] {
                    true => (goes, found) = (goes.max(score), found + 1),
                    false => stays = stays.min(score),
                }
            }
            assert_eq!(found, count, "{columns:?}");
            assert!(goes < stays + 1e-5, "{columns:?}: {goes} goes, {stays} stays");
        };
        for start in (0..d).step_by(width) {
            let end = d.min(start + width);
            if let Sparsity::Ratio(ratio) = sparsity {
                check(&w, 0..rows, start..end, select::rank(rows * (end - start), ratio) + 1);
            }
            for (r, j) in (0..rows).flat_map(|r| (start..end).map(move |j| (r, j))) {
                if let Sparsity::NOfM { n, m } = sparsity
                    && (j - start) % m == 0
                {
                    check(&w, r..r + 1, j..j + m, m - n);
                }
                if gone[r * d + j] {
                    let error = w[r * d + j] / u(j, j);
                    w[r * d + j] = 0.0;
                    (j + 1..d).for_each(|k| w[r * d + k] -= error * u(j, k));
                }
            }
        }
        w
    }

    #[test]
    fn columns_are_solved_as_weight_by_weight() {
        for (rows, d, width, sparsity) in [
            (1, 1, 128, Sparsity::Ratio(0.0)),
            (5, 40, 16, Sparsity::Ratio(0.5)),
            (33, 70, 32, Sparsity::Ratio(0.6)),
            (7, 2300, 100, Sparsity::Ratio(0.5)),
            (18, 1200, 1100, Sparsity::Ratio(0.3)),
            (19, 60, 20, Sparsity::NOfM { n: 2, m: 4 }),
            (20, 2112, 128, Sparsity::NOfM { n: 4, m: 8 }),
        ] {
            // Of inputs of little correlation, so that sums of thousands stay of the weights' size.
            let value = |(i, x): (usize, &f32)| match (i / d).cmp(&(i % d)) {
                Ordering::Less => x / (d as f32).sqrt(),
                Ordering::Equal => 1.0 + x,
                Ordering::Greater => 0.0,
            };
            let u: Vec<f32> = noise(d * d, 5.0).iter().enumerate().map(value).collect();
            let inverse_diagonal: Vec<f32> = (0..d).map(|i| u[i * d + i].recip()).collect();
            let w = noise(rows * d, 9.0);
            let mut solved = w.clone();
            solve(&mut solved, d, &u, &inverse_diagonal, width, sparsity);
            let gone: Vec<bool> = solved.iter().map(|&x| x == 0.0).collect();
            for (i, (x, y)) in solved.iter().zip(plain(&w, d, &u, width, sparsity, &gone)).enumerate() {
                assert!((f64::from(*x) - y).abs() < 1e-4, "{rows} × {d} by {width}, {sparsity}: {i}: {x} {y}");
            }
        }
    }
}
