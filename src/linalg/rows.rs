//! Products with few rows, as decoding has them.
//!
//! A matrix of few rows is multiplied as fast as the other one is read, so that one is not packed, as `gemm` packs it: it
//! is read as it lies. And every number is summed in one order, whatever the other rows are and how many: what a sequence
//! comes to does not depend on what is decoded beside it.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd;

/// Rows of w that a task takes: few enough to stay in a core's cache while all rows of x pass.
const TASK: usize = 32;

/// x·wᵀ, by all threads: x (rows × inputs) and w (outputs × inputs) to (rows × outputs).
pub fn new_product(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let len = (x.len() / inputs.max(1)) * (w.len() / inputs.max(1));
    let mut y = Vec::with_capacity(len);
    into(&mut y.spare_capacity_mut()[..len], x, w, inputs, true);
    // SAFETY: a product writes every element.
    unsafe { y.set_len(len) };
    y
}

/// The same into `y`, by the calling thread alone.
pub fn product(y: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
    // SAFETY: the same memory; only values are written to it.
    let y = unsafe { std::slice::from_raw_parts_mut(y.as_mut_ptr().cast(), y.len()) };
    into(y, x, w, inputs, false);
}

fn into(y: &mut [MaybeUninit<f32>], x: &[f32], w: &[f32], inputs: usize, by_all: bool) {
    if inputs == 0 || y.is_empty() {
        return y.fill(MaybeUninit::new(0.0));
    }
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    assert_eq!((y.len(), x.len(), w.len()), (rows * outputs, rows * inputs, outputs * inputs), "shapes differ");
    let to = Columns { y: y.as_mut_ptr().cast(), outputs };
    if by_all && rayon::current_num_threads() > 1 {
        w.par_chunks(TASK * inputs).enumerate().for_each(|(i, w)| multiply(&to, i * TASK, x, w, inputs));
    } else {
        w.chunks(TASK * inputs).enumerate().for_each(|(i, w)| multiply(&to, i * TASK, x, w, inputs));
    }
}

/// Where products go: rows of so many outputs, of which each task writes columns of its own.
struct Columns {
    y: *mut f32,
    outputs: usize,
}

// SAFETY: tasks write to different columns.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    /// There is such a row and column, and no other task writes to it.
    #[inline(always)]
    unsafe fn write(&self, row: usize, column: usize, value: f32) {
        // SAFETY: the caller's.
        unsafe { self.y.add(row * self.outputs + column).write(value) }
    }
}

/// Writes the columns from `first` on, one a row of `w`.
fn multiply(to: &Columns, first: usize, x: &[f32], w: &[f32], inputs: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if simd::has_avx512() {
            // SAFETY: the machine has these instructions, and the shapes were checked.
            return unsafe { x86::multiply_avx512(to, first, x, w, inputs) };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::multiply_avx2(to, first, x, w, inputs) };
        }
    }
    for (row, x) in x.chunks_exact(inputs).enumerate() {
        for (column, w) in w.chunks_exact(inputs).enumerate() {
            // SAFETY: the columns of this task.
            unsafe { to.write(row, first + column, dot(x, w)) };
        }
    }
}

simd::vectorized! {
    /// Σ weight·value, row by row of `values`, into `sum`.
    pub fn weighted(sum: &mut [f32], weights: &[f32], values: &[f32]) {
        let width = sum.len();
        sum.fill(0.0);
        let (fours, rest) = weights.as_chunks::<4>();
        let (of_fours, of_rest) = values.split_at(fours.len() * 4 * width);
        for (weights, values) in fours.iter().zip(of_fours.chunks_exact(4 * width)) {
            let (first, second) = values.split_at(2 * width);
            let ((a, b), (c, d)) = (first.split_at(width), second.split_at(width));
            for i in 0..width {
                sum[i] += (weights[0] * a[i] + weights[1] * b[i]) + (weights[2] * c[i] + weights[3] * d[i]);
            }
        }
        for (weight, values) in rest.iter().zip(of_rest.chunks_exact(width)) {
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

/// Σ x·w.
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<{ simd::LANES }>(), w.as_chunks::<{ simd::LANES }>());
    let mut lanes = [0f32; simd::LANES];
    for (x, w) in x.iter().zip(w) {
        lanes.iter_mut().zip(x.iter().zip(w)).for_each(|(lane, (x, w))| *lane += x * w);
    }
    lanes.iter().sum::<f32>() + x_rest.iter().zip(w_rest).map(|(x, w)| x * w).sum::<f32>()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Columns;

    /// Sums tiles of up to `$rows` rows of x and `$columns` of w in registers of `$lanes` numbers.
    macro_rules! kernel {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, [$($fewer:literal)*], $rows:literal, $columns:literal, $zero:ident,
         $load:ident, $multiply_add:ident, $sum:ident) => {
            /// # Safety
            /// The machine has the instructions; x and w have whole rows, and `to` a column from `first` on for each of w.
            #[target_feature(enable = $features)]
            pub unsafe fn $name(to: &Columns, first: usize, x: &[f32], w: &[f32], inputs: usize) {
                let rows = x.len() / inputs;
                let mut top = 0;
                while top < rows {
                    // SAFETY: the caller's; so many rows are left.
                    top += unsafe {
                        match rows - top {
                            $($fewer => $tile::<$fewer>(to, (top, first), x, w, inputs),)*
                            _ => $tile::<$rows>(to, (top, first), x, w, inputs),
                        }
                    };
                }
            }

            /// # Safety
            /// As above; there are `ROWS` rows of x from `top` on. Returns how many.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const ROWS: usize>(
                to: &Columns,
                (top, first): (usize, usize),
                x: &[f32],
                w: &[f32],
                inputs: usize,
            ) -> usize {
                let (outputs, whole) = (w.len() / inputs, inputs - inputs % $lanes);
                let x = x[top * inputs..(top + ROWS) * inputs].as_ptr();
                for left in (0..outputs).step_by($columns) {
                    let mut of_w = [w.as_ptr(); $columns];
                    for (j, row) in of_w.iter_mut().enumerate() {
                        // SAFETY: a row of w; at the edge the last stands for those that there are not.
                        *row = unsafe { w.as_ptr().add((left + j).min(outputs - 1) * inputs) };
                    }
                    let mut sums = [[$zero(); $columns]; ROWS];
                    for at in (0..whole).step_by($lanes) {
                        // SAFETY: within rows of w.
                        let w = of_w.map(|row| unsafe { $load(row.add(at)) });
                        for (i, sums) in sums.iter_mut().enumerate() {
                            // SAFETY: within a row of x.
                            let x = unsafe { $load(x.add(i * inputs + at)) };
                            for (sum, w) in sums.iter_mut().zip(w) {
                                *sum = $multiply_add(x, w, *sum);
                            }
                        }
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        for (j, sum) in sums.iter().enumerate().take(outputs - left) {
                            let mut sum = $sum(*sum);
                            for at in whole..inputs {
                                // SAFETY: within the rows.
                                sum += unsafe { *x.add(i * inputs + at) * *of_w[j].add(at) };
                            }
                            // SAFETY: the caller's.
                            unsafe { to.write(top + i, first + left + j, sum) };
                        }
                    }
                }
                ROWS
            }
        };
    }

    kernel!(
        multiply_avx512, tile_avx512, "avx512f,avx512bw,avx512dq,avx512vl", 16, [1 2 3], 4, 4, _mm512_setzero_ps,
        _mm512_loadu_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps
    );
    kernel!(
        multiply_avx2,
        tile_avx2,
        "avx2,fma",
        8,
        [1],
        2,
        4,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_fmadd_ps,
        sum_of_eight
    );

    #[target_feature(enable = "avx2,fma")]
    fn sum_of_eight(x: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{Mat, MatMut, Threads};

    fn random(len: usize, seed: f32) -> Vec<f32> {
        (0..len).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect()
    }

    #[test]
    fn a_product_equals_gemms_in_every_shape() {
        for (rows, outputs, inputs) in [(1, 1, 1), (3, 70, 33), (9, 5, 16), (4, 64, 576), (33, 131, 100), (2, 3, 0)] {
            let (x, w) = (random(rows * inputs, 0.1), random(outputs * inputs, 0.7));
            let ours = new_product(&x, &w, inputs);
            let mut alone = vec![1f32; ours.len()];
            product(&mut alone, &x, &w, inputs);
            assert_eq!(alone, ours);
            let mut theirs = vec![0f32; ours.len()];
            let (x, w) = (Mat::new(&x, rows, inputs), Mat::new(&w, outputs, inputs).t());
            if inputs > 0 {
                crate::linalg::product(MatMut::new(&mut theirs, rows, outputs), 0.0, 1.0, x, w, Threads::One);
            }
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-3), "{rows} {outputs} {inputs}");
        }
    }

    #[test]
    fn a_row_comes_to_the_same_whatever_the_other_rows_are() {
        for (outputs, inputs) in [(70, 33), (9, 24), (100, 576), (4, 7)] {
            let (x, w) = (random(40 * inputs, 0.1), random(outputs * inputs, 0.7));
            let whole = new_product(&x, &w, inputs);
            for (from, to) in [(0, 1), (1, 2), (3, 5), (3, 6), (0, 4), (5, 12), (39, 40), (1, 40)] {
                let part = new_product(&x[from * inputs..to * inputs], &w, inputs);
                assert_eq!(part, whole[from * outputs..to * outputs], "rows {from}..{to} of {outputs} × {inputs}");
            }
        }
    }

    #[test]
    fn weighted_rows_are_summed() {
        for (count, width) in [(0, 4), (1, 4), (7, 64), (8, 5), (103, 16)] {
            let (weights, values) = (random(count, 0.4), random(count * width, 0.2));
            let mut sum = vec![1f32; width];
            weighted(&mut sum, &weights, &values);
            for (i, sum) in sum.iter().enumerate() {
                let expected: f32 = (0..count).map(|t| weights[t] * values[t * width + i]).sum();
                assert!((sum - expected).abs() < 1e-4);
            }
        }
    }
}
