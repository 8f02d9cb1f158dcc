//! Dense f32 matrices in memory: views, products, and the factorisation that SparseGPT needs.
//!
//! Everything on the CPU that is hot goes through [`product`], which is the `gemm` crate (the one
//! candle multiplies with) behind bounds checks.

pub mod bf16;
pub mod cholesky;
pub mod elimination;
pub mod rows;
pub mod simd;
pub mod squares;
pub mod tiles;

use std::mem::MaybeUninit;

use rayon::prelude::*;

pub use cholesky::{NotPositiveDefinite, mirror_upper, upper_inverse_factor};

/// A read-only matrix over a slice, with arbitrary strides (so a transpose or a column stripe is free).
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The smallest slice length that holds a `rows × cols` matrix with these strides.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl<'a> Mat<'a> {
    /// `rows × cols`, row after row without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with `row_stride` values from one row to the next.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, row_stride, 1), "slice too short for {rows}x{cols}");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A mutable row-major matrix over a slice.
pub struct MatMut<'a> {
    data: &'a mut [MaybeUninit<f32>],
    /// Whether there are values in it that may be read.
    has_values: bool,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `rows × cols`, row after row without gaps.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with `row_stride` values from one row to the next.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, row_stride, 1), "slice too short for {rows}x{cols}");
        assert!(row_stride >= cols || rows <= 1, "rows of a mutable matrix must not overlap");
        // SAFETY: the same memory; `product` writes only values to it.
        let data = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), data.len()) };
        Self { data, has_values: true, rows, cols, row_stride }
    }

    /// `rows × cols` without gaps, of memory that holds nothing yet.
    fn empty(data: &'a mut [MaybeUninit<f32>], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols);
        Self { data, has_values: false, rows, cols, row_stride: cols }
    }
}

/// Who computes a product: the calling thread alone (inside a parallel loop), or all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// `dst ← keep·dst + scale·a·b`. `keep` is 0 (overwrite) or any factor.
///
/// The inner dimension is never split over threads, so the result does not depend on how many there are.
pub fn product(dst: MatMut, keep: f32, scale: f32, a: Mat, b: Mat, threads: Threads) {
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    assert_eq!((dst.rows, dst.cols), (a.rows, b.cols), "the product has another shape than its destination");
    assert!(dst.has_values || keep == 0.0, "there is nothing to keep");
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: the constructors checked that every element reached through these shapes and strides
    // lies inside its slice, and `dst` is borrowed mutably, so it aliases neither input.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.data.as_mut_ptr().cast(),
            1,
            dst.row_stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `a·b`, by all threads, as a vector of its own (rows × columns).
pub fn new_product(a: Mat, b: Mat) -> Vec<f32> {
    let len = a.rows * b.cols;
    let mut values = Vec::with_capacity(len);
    product(MatMut::empty(&mut values.spare_capacity_mut()[..len], a.rows, b.cols), 0.0, 1.0, a, b, Threads::All);
    // SAFETY: a product writes every element of its destination.
    unsafe { values.set_len(len) };
    values
}

/// What `f` makes on a thread of the pool. A loop in it that all threads share then begins where it is called, and wakes
/// none for what this one does itself; of many short loops that is much of the time. `f` must not wait for other work.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Values that one task of an elementwise loop takes: enough to be worth a task, and within a core's cache.
pub const CHUNK: usize = 1 << 14;

/// Values that [`in_chunks`] makes at once, where they are made one by one: with two others that each is made of, they stay
/// in the first cache.
pub const PIECE: usize = 1 << 11;

/// A vector of `len` values made in parallel, `chunk` at a time: `fill` overwrites a chunk, given which it is.
pub fn in_chunks<T: Copy + Default + Send>(len: usize, chunk: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    let chunk = chunk.max(1);
    let chunks = values.spare_capacity_mut()[..len].par_chunks_mut(chunk).enumerate();
    chunks.with_min_len((CHUNK / chunk).max(1)).for_each(|(i, room)| {
        fill(i, filled(room));
    });
    // SAFETY: every chunk was filled.
    unsafe { values.set_len(len) };
    values
}

/// Memory that holds nothing yet, with a value in every place. By the thread that overwrites it, for which it is then in the
/// cache; all at once would be a pass through memory by one thread.
pub fn filled<T: Copy + Default>(room: &mut [MaybeUninit<T>]) -> &mut [T] {
    room.fill(MaybeUninit::new(T::default()));
    // SAFETY: it was just filled.
    unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) }
}

/// A copy, made in parallel.
pub fn copied(values: &[f32]) -> Vec<f32> {
    in_chunks(values.len(), PIECE, |i, to| to.copy_from_slice(&values[i * PIECE..][..to.len()]))
}

/// Columns of one stripe of a Gram matrix.
const STRIPE: usize = 256;

/// Upper triangle of `sums` (d × d) += XᵀX of x (tokens × d, row-major), in stripes of columns: half the work of the
/// whole square. What lies below the diagonal may be written too.
pub fn add_gram(sums: &mut [f32], x: &[f32], d: usize) {
    let tokens = x.len() / d;
    for (i, rows) in sums.chunks_mut(STRIPE * d).enumerate() {
        let first = i * STRIPE;
        let count = rows.len() / d;
        product(
            MatMut::strided(&mut rows[first..], count, d - first, d),
            1.0,
            1.0,
            Mat::strided(&x[first..], tokens, count, d).t(),
            Mat::strided(&x[first..], tokens, d - first, d),
            Threads::All,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_strided_views_equals_the_triple_loop() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * 10).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.73).cos()).collect();
        let mut c = vec![1.0; m * 4];
        product(
            MatMut::strided(&mut c, m, n, 4),
            0.5,
            -2.0,
            Mat::strided(&a, m, k, 10),
            Mat::new(&b, n, k).t(),
            Threads::All,
        );
        for i in 0..m {
            for j in 0..n {
                let dot: f32 = (0..k).map(|p| a[i * 10 + p] * b[j * k + p]).sum();
                assert!((c[i * 4 + j] - (0.5 - 2.0 * dot)).abs() < 1e-5);
            }
        }
        assert_eq!(c[3], 1.0, "the gap between rows is left alone");
    }

    #[test]
    #[should_panic(expected = "slice too short")]
    fn a_view_larger_than_its_slice_is_refused() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
