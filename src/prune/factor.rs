//! The factor that SparseGPT needs, of a Gram matrix on any device.

use candle_core::{DType, Device, Result, Tensor};

use crate::linalg::{self, NotPositiveDefinite};
use crate::tensors;

/// A factor, or why there is none.
type Factor = std::result::Result<Tensor, NotPositiveDefinite>;

/// Rows of a diagonal block that goes to the host: below this, a device has more to wait than to do.
const LEAF: usize = 256;

/// The diagonal of a square matrix.
pub fn diagonal(h: &Tensor) -> Result<Vec<f32>> {
    h.flatten_all()?.index_select(&diagonal_places(h)?, 0)?.to_vec1()
}

/// Where the diagonal's values stand among all.
fn diagonal_places(h: &Tensor) -> Result<Tensor> {
    let d = h.dim(0)? as u32;
    Tensor::arange_step(0, d * d, d + 1, h.device())
}

/// U (d × d, upper triangular) with H⁻¹ = Uᵀ·U, where H is the symmetric `h` (d × d) with this diagonal in place of its
/// own.
pub fn upper_inverse_factor(h: &Tensor, diagonal: &[f32]) -> Result<Factor> {
    if h.device().is_cpu() {
        return on_host(h, diagonal);
    }
    let diagonal = Tensor::new(diagonal, h.device())?;
    blocked(&h.flatten_all()?.scatter(&diagonal_places(h)?, &diagonal, 0)?.reshape(h.shape())?, LEAF)
}

/// Roundings in the sums over tokens that a Gram matrix is made of, as far as they do not cancel.
const ROUNDINGS: f64 = 1024.0;

/// Whether H, of which this is the factor and the diagonal, is singular as far as f32 can tell: a pivot is no larger than
/// what rounding may leave of a difference that is 0, so that it says nothing. The bound is that of LAPACK's pivoted
/// Cholesky factorisation (`spstrf`), 2⁻²⁴ of the diagonal, here of the column's own, for each of d subtractions, and as
/// much for what rounding has made of H itself.
pub fn is_lost_in_rounding(u: &Tensor, diagonal_of_h: &[f32]) -> Result<bool> {
    let bound = (diagonal_of_h.len() as f64 + ROUNDINGS) * f64::from(f32::EPSILON) / 2.0;
    // The diagonal of U has the roots of the pivots, inverted.
    let told = |(u, h): (f32, &f32)| f64::from(u).powi(-2) > bound * f64::from(*h);
    Ok(!diagonal(u)?.into_iter().zip(diagonal_of_h).all(told))
}

fn on_host(h: &Tensor, diagonal: &[f32]) -> Result<Factor> {
    match tensors::with_values(h, |h| linalg::upper_inverse_factor(h, diagonal))? {
        Ok(u) => Ok(Ok(Tensor::from_vec(u, h.shape(), &Device::Cpu)?)),
        Err(error) => Ok(Err(error)),
    }
}

/// By halves, and matrix products. H = V·Vᵀ with V = U⁻¹ upper triangular, so of the parts
///
/// H = [[A, B], [Bᵀ, C]], V₂₂V₂₂ᵀ = C, V₁₂ = B·V₂₂⁻ᵀ = B·U₂₂ᵀ, V₁₁V₁₁ᵀ = A − V₁₂V₁₂ᵀ,
///
/// and the inverse of V has the parts U₁₁, U₂₂ and U₁₂ = −U₁₁·V₁₂·U₂₂: V itself is not needed.
fn blocked(h: &Tensor, leaf: usize) -> Result<Factor> {
    let d = h.dim(0)?;
    if d <= leaf {
        return match on_host(h, &diagonal(h)?)? {
            Ok(u) => Ok(Ok(u.to_device(h.device())?)),
            error => Ok(error),
        };
    }
    let (first, second) = (d / 2, d - d / 2);
    let part = |rows: (usize, usize), columns: (usize, usize)| {
        h.narrow(0, rows.0, rows.1)?.narrow(1, columns.0, columns.1)?.contiguous()
    };
    let u22 = match blocked(&part((first, second), (first, second))?, leaf)? {
        Ok(u) => u,
        Err(error) => return Ok(Err(NotPositiveDefinite { column: first + error.column })),
    };
    let v12 = part((0, first), (first, second))?.matmul(&u22.t()?)?;
    let u11 = match blocked(&(part((0, first), (0, first))? - v12.matmul(&v12.t()?)?)?, leaf)? {
        Ok(u) => u,
        error => return Ok(error),
    };
    let u12 = u11.matmul(&v12.matmul(&u22)?)?.neg()?;
    let below = Tensor::zeros((second, first), DType::F32, h.device())?;
    Ok(Ok(Tensor::cat(&[Tensor::cat(&[&u11, &u12], 1)?, Tensor::cat(&[&below, &u22], 1)?], 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2/n·XᵀX of correlated pseudo-random inputs, well conditioned.
    fn gram(d: usize) -> Tensor {
        let x: Vec<f32> = (0..3 * d * d).map(|i| ((i as f32 * 12.9898).sin() * 43758.547).fract()).collect();
        let x = Tensor::from_vec(x, (3 * d, d), &Device::Cpu).unwrap();
        (x.t().unwrap().matmul(&x).unwrap() / (3 * d) as f64).unwrap()
    }

    fn raised(h: &Tensor) -> Vec<f32> {
        diagonal(h).unwrap().iter().map(|x| x + 0.05).collect()
    }

    #[test]
    fn what_is_singular_but_for_rounding_is_told_from_what_is_nearly_so() {
        let lost = |h: &Tensor| {
            let diagonal = diagonal(h).unwrap();
            upper_inverse_factor(h, &diagonal).unwrap().map_or(true, |u| is_lost_in_rounding(&u, &diagonal).unwrap())
        };
        for d in [8, 32, 100] {
            // Of rank one, and of fewer tokens than columns.
            for tokens in [1, 3, d / 2] {
                let x: Vec<f32> = (0..tokens * d).map(|i| ((i as f32 * 12.9898).sin() * 43758.547).fract()).collect();
                let x = Tensor::from_vec(x, (tokens, d), &Device::Cpu).unwrap();
                assert!(lost(&x.t().unwrap().matmul(&x).unwrap()), "{tokens} tokens, {d} columns");
            }
            assert!(!lost(&gram(d)), "{d}");
            // Columns of any scale are as good as others.
            let scale: Vec<f32> = (0..d).map(|i| 10f32.powi(i as i32 % 9 - 4)).collect();
            let scale = Tensor::from_vec(scale, (1, d), &Device::Cpu).unwrap();
            let scaled = gram(d).broadcast_mul(&scale).unwrap().broadcast_mul(&scale.t().unwrap()).unwrap();
            assert!(!lost(&scaled), "{d}");
        }
    }

    #[test]
    fn by_halves_it_is_the_factor_of_the_host() {
        for (d, leaf) in [(5, 2), (64, 16), (301, 50)] {
            let (h, diagonal) = (gram(d), raised(&gram(d)));
            let expected = upper_inverse_factor(&h, &diagonal).unwrap().unwrap();
            let places = diagonal_places(&h).unwrap();
            let damped =
                h.flatten_all().unwrap().scatter(&places, &Tensor::new(diagonal, &Device::Cpu).unwrap(), 0).unwrap();
            let u = blocked(&damped.reshape((d, d)).unwrap(), leaf).unwrap().unwrap();
            let (u, expected) = (tensors::values(&u).unwrap(), tensors::values(&expected).unwrap());
            let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (i, (a, b)) in u.iter().zip(&expected).enumerate() {
                assert!((a - b).abs() < 1e-4 * largest, "{d}: ({}, {}): {a} {b}", i / d, i % d);
            }
        }
    }

    #[test]
    fn by_halves_the_column_of_a_failure_is_the_hosts() {
        let d = 40;
        let mut h = tensors::values(&gram(d)).unwrap();
        for bad in [3, 25] {
            h[bad * d + bad] = -1.0;
            let h = Tensor::from_slice(&h, (d, d), &Device::Cpu).unwrap();
            let expected = upper_inverse_factor(&h, &diagonal(&h).unwrap()).unwrap().unwrap_err();
            assert_eq!(blocked(&h, 8).unwrap().unwrap_err(), expected);
        }
    }
}
