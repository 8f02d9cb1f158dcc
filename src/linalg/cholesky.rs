//! The factor that SparseGPT needs: U upper triangular with H⁻¹ = Uᵀ·U.
//!
//! The published code gets it from a Cholesky factorisation of H, the inverse, and a Cholesky
//! factorisation of that (4/3·d³). One factorisation and one triangular inverse (2/3·d³) give the
//! same: with J the reversal of the order of the columns and J·H·J = L·Lᵀ, we have
//! H = (J·L·J)·(J·L·J)ᵀ where J·L·J is upper triangular, hence H⁻¹ = Uᵀ·U with U = J·L⁻¹·J.

use std::fmt;

use rayon::prelude::*;

use super::{Mat, MatMut, Threads, product};

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

/// U (d × d, upper triangular, row-major, zeros below the diagonal) with H⁻¹ = Uᵀ·U.
///
/// `h` is symmetric, d × d; only its upper triangle is read.
pub fn upper_inverse_factor(h: &[f32], d: usize) -> Result<Vec<f32>, NotPositiveDefinite> {
    assert_eq!(h.len(), d * d);
    // Lower triangle of J·H·J: element (i, j), i ≥ j, is H[d-1-i, d-1-j], in H's upper triangle.
    let mut l = vec![0f32; d * d];
    l.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| {
        for (j, x) in row[..=i].iter_mut().enumerate() {
            *x = h[(d - 1 - i) * d + (d - 1 - j)];
        }
    });
    factorize(&mut l, d).map_err(|e| NotPositiveDefinite { column: d - 1 - e.column })?;
    let inverse = lower_inverse(&l, d);
    let mut u = l;
    u.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| {
        for (j, x) in row.iter_mut().enumerate() {
            *x = inverse[(d - 1 - i) * d + (d - 1 - j)];
        }
    });
    Ok(u)
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
        let diagonal = &above[k * d..];
        // L21 = A21·L11⁻ᵀ, a row at a time.
        below.par_chunks_mut(d).for_each(|row| {
            for j in 0..b {
                let l_row = &diagonal[j * d + k..];
                let dot: f32 = (0..j).map(|p| row[k + p] * l_row[p]).sum();
                row[k + j] = (row[k + j] - dot) / l_row[j];
            }
        });
        // A22 -= L21·L21ᵀ, lower triangle only.
        let rest = d - k - b;
        let mut panel = vec![0f32; rest * b]; // a copy of L21, so that `below` can be written
        panel.par_chunks_mut(b).zip(below.par_chunks(d)).for_each(|(to, from)| to.copy_from_slice(&from[k..k + b]));
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
    for i in k..k + b {
        for j in k..=i {
            let dot: f32 = (k..j).map(|p| a[i * d + p] * a[j * d + p]).sum();
            let value = a[i * d + j] - dot;
            a[i * d + j] = if i != j {
                value / a[j * d + j]
            } else if value > 0.0 && value.is_finite() {
                value.sqrt()
            } else {
                return Err(NotPositiveDefinite { column: i });
            };
        }
    }
    Ok(())
}

/// L⁻¹ (lower triangular) of a lower triangular L with a nonzero diagonal, block row by block row:
/// X[i, :] = L[i,i]⁻¹ · (I[i, :] − L[i, :i]·X[:i, :]).
pub fn lower_inverse(l: &[f32], d: usize) -> Vec<f32> {
    let mut x = vec![0f32; d * d];
    for k in (0..d).step_by(PANEL) {
        let b = PANEL.min(d - k);
        let (done, rest) = x.split_at_mut(k * d);
        let rows = &mut rest[..b * d];
        if k > 0 {
            product(
                MatMut::strided(rows, b, k, d),
                0.0,
                -1.0,
                Mat::strided(&l[k * d..], b, k, d),
                Mat::strided(done, k, k, d),
                Threads::All,
            );
        }
        for i in 0..b {
            rows[i * d + k + i] = 1.0;
        }
        // Forward substitution with the diagonal panel; every earlier row is final when it is used.
        for i in 0..b {
            let (before, row) = rows.split_at_mut(i * d);
            let row = &mut row[..k + b];
            for j in 0..i {
                let factor = l[(k + i) * d + k + j];
                let other = &before[j * d..j * d + k + b];
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= factor * o);
            }
            let pivot = l[(k + i) * d + k + i];
            row.iter_mut().for_each(|r| *r /= pivot);
        }
    }
    x
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
            let u = upper_inverse_factor(&h, d).unwrap();
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
        let u = upper_inverse_factor(&[4.0, 2.0, 2.0, 3.0], 2).unwrap();
        let expected = [(3f32 / 8.0).sqrt(), -0.25 / (3f32 / 8.0).sqrt(), 0.0, (0.5f32 - 1.0 / 6.0).sqrt()];
        for (a, b) in u.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{u:?} {expected:?}");
        }
    }

    #[test]
    fn an_indefinite_matrix_is_an_error_and_never_nan() {
        assert_eq!(upper_inverse_factor(&[1.0, 2.0, 2.0, 1.0], 2), Err(NotPositiveDefinite { column: 0 }));
        assert_eq!(upper_inverse_factor(&[1.0, 0.0, 0.0, f32::NAN], 2), Err(NotPositiveDefinite { column: 1 }));
    }
}
