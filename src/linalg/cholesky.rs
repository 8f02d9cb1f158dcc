//! The factor that SparseGPT needs: U upper triangular with H⁻¹ = Uᵀ·U.
//!
//! The published code gets it from a Cholesky factorisation of H, the inverse, and a Cholesky
//! factorisation of that (4/3·d³). One factorisation and one triangular inverse (2/3·d³) give the
//! same: with J the reversal of the order of the columns and J·H·J = L·Lᵀ, we have
//! H = (J·L·J)·(J·L·J)ᵀ where J·L·J is upper triangular, hence H⁻¹ = Uᵀ·U with U = J·L⁻¹·J.

use std::fmt;

use rayon::prelude::*;

use super::{Mat, MatMut, Threads, new_product, product, simd};

/// Columns handled by the unblocked loops; the rest of the work is matrix products.
const PANEL: usize = 64;

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
    let d = diagonal.len();
    assert_eq!(h.len(), d * d);
    // Lower triangle of J·H·J: element (i, j), i ≥ j, is H[d-1-i, d-1-j], in H's upper triangle.
    let mut l = vec![0f32; d * d];
    l.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| {
        for (j, x) in row[..i].iter_mut().enumerate() {
            *x = h[(d - 1 - i) * d + (d - 1 - j)];
        }
        row[i] = diagonal[d - 1 - i];
    });
    factorize(&mut l, d).map_err(|e| NotPositiveDefinite { column: d - 1 - e.column })?;
    invert_lower(&mut l, d);
    // J·L⁻¹·J: rows and columns from the last to the first.
    l.reverse();
    Ok(l)
}

/// Cholesky: the lower triangle of `a` (d × d) becomes L with L·Lᵀ = A; the upper triangle becomes zero.
///
/// Right-looking and blocked: factor a diagonal panel, solve the panel below it, subtract its product
/// from what remains (only the lower triangle, block row by block row).
pub fn factorize(a: &mut [f32], d: usize) -> Result<(), NotPositiveDefinite> {
    for k in (0..d).step_by(PANEL) {
        let b = PANEL.min(d - k);
        factorize_diagonal(a, d, k, b)?;
        let (above, below) = a.split_at_mut((k + b) * d);
        let inverse = invert_diagonal(&above[k * d + k..], d, b);
        // L21 = A21·L11⁻ᵀ
        let rest = d - k - b;
        let mut panel = vec![0f32; rest * b];
        if rest > 0 {
            let (a21, l11) = (Mat::strided(&below[k..], rest, b, d), Mat::new(&inverse, b, b).t());
            product(MatMut::new(&mut panel, rest, b), 0.0, 1.0, a21, l11, Threads::All);
        }
        below.par_chunks_mut(d).zip(panel.par_chunks(b)).for_each(|(to, from)| to[k..k + b].copy_from_slice(from));
        // A22 -= L21·L21ᵀ, lower triangle only.
        for (i, rows) in below.chunks_mut(4 * PANEL * d).enumerate() {
            let first = i * 4 * PANEL;
            let count = rows.len() / d;
            product(
                MatMut::strided(&mut rows[k + b..], count, first + count, d),
                1.0,
                -1.0,
                Mat::new(&panel[first * b..], count, b),
                Mat::new(&panel, first + count, b).t(),
                Threads::All,
            );
        }
    }
    a.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| row[i + 1..].fill(0.0));
    Ok(())
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

/// A lower triangular L (d × d) with a nonzero diagonal, and zeros above it, becomes X = L⁻¹, block row by block row:
/// X[i, :] = L[i,i]⁻¹ · (I[i, :] − L[i, :i]·X[:i, :]), which reads no row of L above.
pub fn invert_lower(l: &mut [f32], d: usize) {
    for k in (0..d).step_by(PANEL) {
        let b = PANEL.min(d - k);
        let (done, rest) = l.split_at_mut(k * d);
        let rows = &mut rest[..b * d];
        let inverse = invert_diagonal(&rows[k..], d, b);
        if k > 0 {
            let below = new_product(Mat::strided(rows, b, k, d), Mat::strided(done, k, k, d)); // (b, k)
            let (inverse, below) = (Mat::new(&inverse, b, b), Mat::new(&below, b, k));
            product(MatMut::strided(rows, b, k, d), 0.0, -1.0, inverse, below, Threads::All);
        }
        rows.chunks_exact_mut(d).zip(inverse.chunks_exact(b)).for_each(|(to, from)| to[k..k + b].copy_from_slice(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
