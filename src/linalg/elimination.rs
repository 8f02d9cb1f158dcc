//! Columns that go one after the other, each of them made up for by those to its right: sixteen rows at a time, a lane
//! each, so that which of a row's values go costs no branch.

use super::simd;
use super::squares::{Lanes, SIDE};

/// Which lanes of each column have w·scale of at most `threshold` in size: a bit each.
pub fn at_most(columns: &[Lanes], scales: &[f32], threshold: f32, masks: &mut [u16]) {
    for ((mask, column), scale) in masks.iter_mut().zip(columns).zip(scales) {
        *mask = mask_of(column, *scale, threshold);
    }
}

simd::vectorized! {
    fn mask_of(column: &Lanes, scale: f32, threshold: f32) -> u16 {
        let mut bits = [0u32; SIDE];
        for (lane, (bit, w)) in bits.iter_mut().zip(column).enumerate() {
            *bit = u32::from(w.abs() * scale <= threshold) << lane;
        }
        bits.iter().fold(0, |mask, bit| mask | bit) as u16
    }
}

/// From left to right: where a lane of column j is `gone`, its error is w_j/u_jj, the weight becomes 0, and error·u_jk is
/// taken from each column k to the right; elsewhere the error is 0. `u` has a row for each column; only these of the
/// columns `range` go.
pub fn eliminate(u: &[f32], columns: &mut [Lanes], errors: &mut [Lanes], gone: &[u16], range: std::ops::Range<usize>) {
    let b = columns.len();
    assert!(u.len() == b * b && errors.len() == b && gone.len() == b && range.end <= b);
    let mut first = range.start;
    while first < range.end {
        // As many as are held in registers while those to the right pass.
        let left = range.end - first;
        let step = if left >= 8 {
            step::<8>
        } else if left >= 4 {
            step::<4>
        } else {
            step::<1>
        };
        first += step(u, columns, errors, gone, first);
    }
}

/// [`eliminate`] of the `N` columns from `first` on; how many these are.
fn step<const N: usize>(u: &[f32], columns: &mut [Lanes], errors: &mut [Lanes], gone: &[u16], first: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if simd::has_avx512() {
        // SAFETY: the machine has these instructions.
        unsafe { step_avx512::<N>(u, columns, errors, gone, first) };
        return N;
    }
    let b = columns.len();
    for j in first..first + N {
        let row = &u[j * b..(j + 1) * b];
        for lane in 0..SIDE {
            let (w, goes) = (columns[j][lane], gone[j] >> lane & 1 == 1);
            (errors[j][lane], columns[j][lane]) = if goes { (w / row[j], 0.0) } else { (0.0, w) };
        }
        take(&mut columns[j + 1..], &errors[j], &row[j + 1..]);
    }
    N
}

simd::vectorized! {
    /// Takes from each column the error times its number.
    fn take(columns: &mut [Lanes], error: &Lanes, u: &[f32]) {
        for (column, u) in columns.iter_mut().zip(u) {
            for (x, error) in column.iter_mut().zip(error) {
                *x -= error * u;
            }
        }
    }
}

/// [`step`], with the columns and their errors in registers. Multiplication and subtraction are not fused, as elsewhere.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn step_avx512<const N: usize>(u: &[f32], columns: &mut [Lanes], errors: &mut [Lanes], gone: &[u16], first: usize) {
    use std::arch::x86_64::*;
    let b = columns.len();
    let (here, rest) = columns[first..].split_at_mut(N);
    let (here, errors) = (&mut here[..N], &mut errors[first..first + N]);
    let gone = &gone[first..first + N];
    let mut rows: [&[f32]; N] = [&[]; N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &u[(first + i) * b + first..][..b - first];
    }
    let mut held = [_mm512_setzero_ps(); N];
    let mut taken = [_mm512_setzero_ps(); N];
    // SAFETY: every load and store is of sixteen f32 that are there; the rows are as long as the columns are many.
    unsafe {
        for i in 0..N {
            held[i] = _mm512_loadu_ps(here[i].as_ptr());
        }
        for i in 0..N {
            taken[i] = _mm512_maskz_div_ps(gone[i], held[i], _mm512_set1_ps(*rows[i].get_unchecked(i)));
            held[i] = _mm512_maskz_mov_ps(!gone[i], held[i]);
            for (k, held) in held.iter_mut().enumerate().skip(i + 1) {
                let u = _mm512_set1_ps(*rows[i].get_unchecked(k));
                *held = _mm512_sub_ps(*held, _mm512_mul_ps(taken[i], u));
            }
            _mm512_storeu_ps(errors[i].as_mut_ptr(), taken[i]);
            _mm512_storeu_ps(here[i].as_mut_ptr(), held[i]);
        }
        // Four columns at a time: subtractions from one wait for each other.
        let (fours, last) = rest.as_chunks_mut::<4>();
        let fours_end = N + 4 * fours.len();
        for (f, four) in fours.iter_mut().enumerate() {
            let mut x = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                x[i] = _mm512_loadu_ps(four[i].as_ptr());
            }
            for j in 0..N {
                for (i, x) in x.iter_mut().enumerate() {
                    let u = _mm512_set1_ps(*rows[j].get_unchecked(N + 4 * f + i));
                    *x = _mm512_sub_ps(*x, _mm512_mul_ps(taken[j], u));
                }
            }
            for i in 0..4 {
                _mm512_storeu_ps(four[i].as_mut_ptr(), x[i]);
            }
        }
        for (k, lanes) in (fours_end..).zip(last) {
            let mut x = _mm512_loadu_ps(lanes.as_ptr());
            for j in 0..N {
                x = _mm512_sub_ps(x, _mm512_mul_ps(taken[j], _mm512_set1_ps(*rows[j].get_unchecked(k))));
            }
            _mm512_storeu_ps(lanes.as_mut_ptr(), x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547).map(|x| x - x.floor() - 0.5).collect()
    }

    #[test]
    fn columns_go_as_they_do_value_by_value() {
        for (b, range) in [(1, 0..1), (9, 0..9), (40, 0..40), (40, 12..16), (23, 8..23), (16, 3..3)] {
            let u: Vec<f32> = noise(b * b, 1.0).iter().map(|x| x + 0.7).collect();
            let values = noise(b * SIDE, 2.0);
            let mut columns: Vec<Lanes> = values.as_chunks().0.to_vec();
            let gone: Vec<u16> = noise(b, 3.0).iter().map(|x| (x * 60_000.0) as i32 as u16).collect();
            let mut errors = vec![[9.0; SIDE]; b];
            eliminate(&u, &mut columns, &mut errors, &gone, range.clone());
            for lane in 0..SIDE {
                let mut w: Vec<f32> = (0..b).map(|j| values[j * SIDE + lane]).collect();
                for j in 0..b {
                    let goes = range.contains(&j) && gone[j] >> lane & 1 == 1;
                    let error = if goes { w[j] / u[j * b + j] } else { 0.0 };
                    if goes {
                        w[j] = 0.0;
                        (j + 1..b).for_each(|k| w[k] -= error * u[j * b + k]);
                    }
                    assert_eq!(errors[j][lane], if range.contains(&j) { error } else { 9.0 }, "{b} {range:?} {j}");
                }
                (0..b).for_each(|j| assert_eq!(columns[j][lane], w[j], "{b} {range:?} ({j}, {lane})"));
            }
        }
    }

    #[test]
    fn a_mask_has_the_lanes_whose_scores_are_small() {
        let columns: Vec<Lanes> = noise(5 * SIDE, 4.0).as_chunks().0.to_vec();
        let (scales, mut masks) = ([1.0, 0.5, 2.0, 0.0, 1.0], [0; 5]);
        at_most(&columns, &scales, 0.25, &mut masks);
        for (j, mask) in masks.iter().enumerate() {
            for (lane, w) in columns[j].iter().enumerate() {
                assert_eq!(mask >> lane & 1 == 1, w.abs() * scales[j] <= 0.25);
            }
        }
        assert_eq!(masks[3], u16::MAX);
    }
}
