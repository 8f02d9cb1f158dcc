//! The factor that SparseGPT needs: U upper triangular with H⁻¹ = Uᵀ·U.
//!
//! The published code gets it from a Cholesky factorisation of H, the inverse, and a Cholesky
//! factorisation of that (4/3·d³). One factorisation and one triangular inverse (2/3·d³) give the
//! same: with J the reversal of the order of the columns and J·H·J = L·Lᵀ, we have
//! H = (J·L·J)·(J·L·J)ᵀ where J·L·J is upper triangular, hence H⁻¹ = Uᵀ·U with U = J·L⁻¹·J.

use std::cmp::Ordering;
use std::fmt;
use std::mem::swap;
use std::ops::Range;

use rayon::prelude::*;

use super::squares::{self, SIDE};
use super::tiles::{self, PANEL, Sum, TILE};
use super::{CHUNK, Mat, in_pool, simd};

/// A pivot was zero, negative or not a number: the matrix is not positive definite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositiveDefinite {
    /// The column of H at which the factorisation stopped.
    pub column: usize,
}

impl fmt::Display for NotPositiveDefinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the matrix is not positive definite (column {})", self.column)
    }
}

impl std::error::Error for NotPositiveDefinite {}

/// U (d × d, upper triangular, row-major, zeros below the diagonal) with H⁻¹ = Uᵀ·U, in memory of its own and no more.
///
/// `h` (d × d) is symmetric and has this diagonal in place of its own; only its upper triangle is read.
pub fn upper_inverse_factor(h: &[f32], diagonal: &[f32]) -> Result<Vec<f32>, NotPositiveDefinite> {
    in_pool(|| factor(h, diagonal))
}

fn factor(h: &[f32], diagonal: &[f32]) -> Result<Vec<f32>, NotPositiveDefinite> {
    let d = diagonal.len();
    assert_eq!(h.len(), d * d);
    // Lower triangle of J·H·J: element (i, j), i ≥ j, is H[d-1-i, d-1-j], in H's upper triangle.
    let mut a = vec![0f32; d * d];
    a.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| {
        let from = h[(d - 1 - i) * d..][d - i..d].iter().rev();
        row[..i].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        row[i] = diagonal[d - 1 - i];
    });
    factorize_and_invert(&mut a, d).map_err(|e| NotPositiveDefinite { column: d - 1 - e.column })?;
    // J·L⁻¹·J: rows and columns of the transpose of what is in the upper triangle, from the last to the first.
    mirror_upper(&mut a, d);
    a.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| row[i + 1..].fill(0.0));
    reverse(&mut a);
    Ok(a)
}

/// Cholesky and the inverse of its factor at once: of the lower triangle of `a` (d × d), which is overwritten, the upper
/// one and the diagonal become (L⁻¹)ᵀ with L·Lᵀ = A.
///
/// Both go from left to right, [`PANEL`] columns at a time, and read what was made before and no more, which is when
/// sums take long and what they are added to is at hand: with L₁ the rows of a panel left of its diagonal block L₁₁,
/// and L₂ those below it,
///
/// L₂₁ = (A₂₁ − L₂·L₁ᵀ)·L₁₁⁻ᵀ, and of Y = (L⁻¹)ᵀ the columns above it are −(Y·L₁ᵀ)·L₁₁⁻ᵀ.
fn factorize_and_invert(a: &mut [f32], d: usize) -> Result<(), NotPositiveDefinite> {
    let (mut left, mut inverse_panel) = (vec![], vec![]);
    for k in (0..d).step_by(PANEL) {
        let b = PANEL.min(d - k);
        let here = k..k + b;
        tiles::pack(Mat::strided(&a[k * d..], b, k, d).t(), 0..b, &mut left); // L₁ᵀ
        a[k * d..(k + b) * d]
            .par_chunks_mut(TILE * d)
            .for_each(|rows| tiles::within_rows(rows, d, (0..k, here.clone()), &left, PANEL, Sum::Subtract));
        factorize_diagonal(a, d, k, b)?;
        let inverse = invert_diagonal(&a[k * d + k..], d, b);
        tiles::pack(Mat::new(&inverse, b, b).t(), 0..b, &mut inverse_panel);
        let (left, inverse_panel) = (left.as_slice(), inverse_panel.as_slice());
        a.par_chunks_mut(PANEL * d).enumerate().for_each(|(block, rows)| {
            let first = block * PANEL;
            let by_inverse = |rows: &mut [f32], sum: Sum| {
                tiles::within_rows(rows, d, (here.clone(), here.clone()), inverse_panel, PANEL, sum);
            };
            match first.cmp(&k) {
                Ordering::Less => {
                    for (i, part) in parts(first..k, k).enumerate() {
                        let (panel, sum) = (&left[part.clone()], if i == 0 { Sum::Set } else { Sum::Add });
                        tiles::within_rows(rows, d, (part, here.clone()), panel, DEPTH, sum);
                    }
                    by_inverse(rows, Sum::SetNegative);
                }
                Ordering::Equal => {
                    for (i, row) in rows.chunks_exact_mut(d).enumerate() {
                        row[here.clone()].iter_mut().enumerate().for_each(|(j, x)| *x = inverse[j * b + i]);
                    }
                }
                Ordering::Greater => {
                    tiles::within_rows(rows, d, (0..k, here.clone()), left, PANEL, Sum::Subtract);
                    by_inverse(rows, Sum::Set);
                }
            }
        });
    }
    Ok(())
}

/// Products that are summed at once; sums of so many are added to each other.
const DEPTH: usize = 512;

/// The columns `columns`, which end where a sum over the first `all` does, cut where that sum is: in equal parts of at
/// most [`DEPTH`] but for the last.
fn parts(columns: Range<usize>, all: usize) -> impl Iterator<Item = Range<usize>> {
    let width = all.div_ceil(all.div_ceil(DEPTH).max(1)).max(1);
    let cuts = (columns.start / width * width..columns.end).step_by(width);
    cuts.map(move |cut| cut.max(columns.start)..(cut + width).min(columns.end))
}

/// Below the diagonal of `a` (d × d) comes what is above it.
pub fn mirror_upper(a: &mut [f32], d: usize) {
    /// Rows that are made of finished ones above them.
    const BAND: usize = 256;
    for first in (0..d).step_by(BAND) {
        let count = BAND.min(d - first);
        let (above, below) = a.split_at_mut(first * d);
        let band = &mut below[..count * d];
        // As many rows at once as the values of a line of the cache.
        band.par_chunks_mut(SIDE * d).enumerate().for_each(|(chunk, rows)| {
            let (start, count) = (first + chunk * SIDE, rows.len() / d);
            for (j, above) in above.chunks(SIDE * d).enumerate() {
                let columns = above.len() / d;
                squares::columns_of(&above[start..], d, columns, count, |i, column| {
                    rows[i * d + j * SIDE..][..columns].copy_from_slice(&column[..columns]);
                });
            }
        });
        for i in 0..count {
            (0..i).for_each(|j| band[i * d + first + j] = band[j * d + first + i]);
        }
    }
}

/// The values from the last to the first.
fn reverse(values: &mut [f32]) {
    let (first, rest) = values.split_at_mut(values.len() / 2);
    let middle = rest.len() - first.len(); // 1 of an odd number
    let last = &mut rest[middle..];
    let pairs = first.par_chunks_mut(CHUNK).zip(last.par_rchunks_mut(CHUNK));
    pairs.for_each(|(first, last)| first.iter_mut().zip(last.iter_mut().rev()).for_each(|(a, b)| swap(a, b)));
}

/// The textbook loop on the `b × b` diagonal panel that starts at `k`.
fn factorize_diagonal(a: &mut [f32], d: usize, k: usize, b: usize) -> Result<(), NotPositiveDefinite> {
    let mut panel = [0f32; PANEL * PANEL];
    for (to, from) in panel.chunks_exact_mut(PANEL).zip(a[k * d..].chunks(d)).take(b) {
        to[..b].copy_from_slice(&from[k..k + b]);
    }
    if let Some(column) = factorize_panel(&mut panel, b) {
        return Err(NotPositiveDefinite { column: k + column });
    }
    for (i, (from, to)) in panel.chunks_exact(PANEL).zip(a[k * d..].chunks_mut(d)).take(b).enumerate() {
        to[k..=k + i].copy_from_slice(&from[..=i]);
    }
    Ok(())
}

simd::vectorized! {
    /// Column by column: each is divided by the root of its pivot, and its products are taken from what lies to the
    /// right. The column whose pivot is not positive, if there is one.
    fn factorize_panel(a: &mut [f32; PANEL * PANEL], b: usize) -> Option<usize> {
        let mut column = [0f32; PANEL];
        for j in 0..b {
            let value = a[j * PANEL + j];
            if !(value > 0.0 && value.is_finite()) {
                return Some(j);
            }
            let pivot = value.sqrt();
            a[j * PANEL + j] = pivot;
            for (i, row) in a.chunks_exact_mut(PANEL).enumerate().take(b).skip(j + 1) {
                let factor = row[j] / pivot;
                (row[j], column[i]) = (factor, factor);
                for (x, y) in row[j + 1..=i].iter_mut().zip(&column[j + 1..=i]) {
                    *x -= factor * y;
                }
            }
        }
        None
    }
}

simd::vectorized! {
    /// The inverse (b × b) of the lower triangular `l` with `d` values from one row to the next.
    fn invert_diagonal(l: &[f32], d: usize, b: usize) -> Vec<f32> {
        let mut x = vec![0f32; b * b];
        for i in 0..b {
            let (done, row) = x.split_at_mut(i * b);
            let row = &mut row[..b];
            row[i] = 1.0;
            for (j, done) in done.chunks_exact(b).enumerate() {
                let factor = l[i * d + j];
                for (r, x) in row[..=j].iter_mut().zip(done) {
                    *r -= factor * x;
                }
            }
            let pivot = l[i * d + i];
            for r in &mut row[..=i] {
                *r /= pivot;
            }
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{MatMut, Threads, product};

    /// A well-conditioned symmetric matrix: Xᵀ·X of pseudo-random rows plus a ridge.
    fn gram(d: usize) -> Vec<f32> {
        let x: Vec<f32> = (0..2 * d * d).map(|i| ((i as f32 * 12.9898).sin() * 43758.547).fract()).collect();
        let mut h = vec![0f32; d * d];
        product(
            MatMut::new(&mut h, d, d),
            0.0,
            1.0 / d as f32,
            Mat::new(&x, 2 * d, d).t(),
            Mat::new(&x, 2 * d, d),
            Threads::All,
        );
        (0..d).for_each(|i| h[i * d + i] += 0.05);
        h
    }

    #[test]
    fn the_factor_inverts_h_at_sizes_around_the_panel() {
        for d in [1, 2, 63, 64, 65, 200, 333] {
            let h = gram(d);
            let diagonal: Vec<f32> = (0..d).map(|i| h[i * d + i]).collect();
            // The diagonal counts that is said.
            let mut others = h.clone();
            (0..d).for_each(|i| others[i * d + i] = f32::NAN);
            let u = upper_inverse_factor(&others, &diagonal).unwrap();
            for i in 0..d {
                assert!(u[i * d..i * d + i].iter().all(|&x| x == 0.0), "U is upper triangular");
            }
            // Uᵀ·U·H = I, summed in f64.
            for i in (0..d).step_by(7) {
                let row: Vec<f64> =
                    (0..d).map(|j| (0..d).map(|p| f64::from(u[p * d + i]) * f64::from(u[p * d + j])).sum()).collect();
                for j in 0..d {
                    let x: f64 = (0..d).map(|p| row[p] * f64::from(h[p * d + j])).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((x - expected).abs() < 2e-3, "d={d} ({i},{j}): {x}");
                }
            }
        }
    }

    #[test]
    fn a_two_by_two_matrix_has_its_textbook_factor() {
        // H = [[4, 2], [2, 3]]; H⁻¹ = 1/8·[[3, -2], [-2, 4]] = Uᵀ·U.
        let u = upper_inverse_factor(&[4.0, 2.0, 2.0, 3.0], &[4.0, 3.0]).unwrap();
        let expected = [(3f32 / 8.0).sqrt(), -0.25 / (3f32 / 8.0).sqrt(), 0.0, (0.5f32 - 1.0 / 6.0).sqrt()];
        for (a, b) in u.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{u:?} {expected:?}");
        }
    }

    #[test]
    fn an_indefinite_matrix_is_an_error_and_never_nan() {
        assert_eq!(upper_inverse_factor(&[1.0, 2.0, 2.0, 1.0], &[1.0, 1.0]), Err(NotPositiveDefinite { column: 0 }));
        assert_eq!(
            upper_inverse_factor(&[1.0, 0.0, 0.0, 1.0], &[1.0, f32::NAN]),
            Err(NotPositiveDefinite { column: 1 })
        );
    }
}
