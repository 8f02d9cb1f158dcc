//! Products of f32 matrices a panel at a time, by the calling thread: what a factor, and compensation by it, are made of.
//!
//! `gemm` packs both factors at every call, wakes threads for it, and goes through its destination once. Here the
//! right-hand factor is packed once for all rows, and a destination that many products are added to or taken from, one
//! after the other, stays in the cache meanwhile.
//!
//! With AVX-512 a register tile of our own multiplies; elsewhere `gemm` does, one chunk after the other. Both fuse
//! multiplication and addition and sum from left to right within a chunk, so they come to the same.

use std::ops::Range;

use super::{Mat, MatMut, Threads, product, squares};

/// Columns of the right-hand factor that a panel holds: four registers of 16.
pub const PANEL: usize = 64;

/// Rows of a register tile: with [`PANEL`], 24 registers of sums.
pub const TILE: usize = 6;

/// Lines of a panel that stay in the second cache while rows of the left-hand factor pass.
const DEPTH: usize = 1024;

/// A row of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line([f32; PANEL]);

/// What becomes of a destination by a sum of products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    Set,
    SetNegative,
    Add,
    Subtract,
}

impl Sum {
    /// By the sums of later chunks.
    fn further(self) -> Self {
        match self {
            Self::Set | Self::Add => Self::Add,
            Self::SetNegative | Self::Subtract => Self::Subtract,
        }
    }
}

/// The columns `columns` of b, at most [`PANEL`], as a panel; 0 in what is left of its lines.
pub fn pack(b: Mat, columns: Range<usize>, panel: &mut Vec<Line>) {
    assert!(columns.len() <= PANEL && columns.end <= b.cols);
    panel.clear();
    panel.resize(b.rows, Line([0.0; PANEL]));
    if b.row_stride == 1 {
        // A transpose, squares of which are read along its columns.
        for first in columns.clone().step_by(squares::SIDE) {
            let rows = &b.data[first * b.col_stride..];
            let (count, at) = (squares::SIDE.min(columns.end - first), first - columns.start);
            squares::columns_of(rows, b.col_stride, count, b.rows, |p, column| {
                panel[p].0[at..at + squares::SIDE].copy_from_slice(column);
            });
        }
        return;
    }
    for (p, line) in panel.iter_mut().enumerate() {
        let row = &b.data[p * b.row_stride..];
        if b.col_stride == 1 {
            line.0[..columns.len()].copy_from_slice(&row[columns.clone()]);
        } else {
            line.0.iter_mut().zip(columns.clone()).for_each(|(to, j)| *to = row[j * b.col_stride]);
        }
    }
}

/// In each of `rows` (`stride` values long), what stands in the columns `to` becomes what `sum` says of the columns `from`
/// times the panel, which has a line for each of these: a sum for every `chunk` of them, one after the other. They may be
/// the same columns, where they are one chunk.
pub fn within_rows(
    rows: &mut [f32],
    stride: usize,
    (from, to): (Range<usize>, Range<usize>),
    panel: &[Line],
    chunk: usize,
    sum: Sum,
) {
    assert!(from.len() == panel.len() && from.end <= stride && to.end <= stride && to.len() <= PANEL && chunk > 0);
    assert!(from.end <= to.start || to.end <= from.start || (from.len() <= chunk.min(DEPTH)), "sums of themselves");
    let count = rows.len() / stride.max(1);
    let (a, c) = (rows.as_ptr().wrapping_add(from.start), rows.as_mut_ptr().wrapping_add(to.start));
    // SAFETY: both lie in `rows`, where every row has the columns `from` and `to`.
    unsafe { multiply((c, stride), (a, stride), (count, to.len()), panel, chunk, sum) }
}

/// The same with the columns `from` of the rows of another matrix.
pub fn of_rows(
    rows: &mut [f32],
    (stride, to): (usize, Range<usize>),
    others: &[f32],
    (other_stride, from): (usize, Range<usize>),
    panel: &[Line],
    chunk: usize,
    sum: Sum,
) {
    assert!(
        from.len() == panel.len() && from.end <= other_stride && to.end <= stride && to.len() <= PANEL && chunk > 0
    );
    let count = rows.len() / stride.max(1);
    assert!(others.len() / other_stride.max(1) >= count, "fewer rows than there are destinations");
    let (a, c) = (others.as_ptr().wrapping_add(from.start), rows.as_mut_ptr().wrapping_add(to.start));
    // SAFETY: every row of either has these columns.
    unsafe { multiply((c, stride), (a, other_stride), (count, to.len()), panel, chunk, sum) }
}

/// c (rows × columns) by a (rows × lines) times the panel (lines × columns); either with so many values from one row to
/// the next.
///
/// # Safety
/// There are so many rows of both, and c may be written to. They share no value, or there is one chunk.
unsafe fn multiply(
    (c, c_stride): (*mut f32, usize),
    (a, a_stride): (*const f32, usize),
    (rows, columns): (usize, usize),
    panel: &[Line],
    chunk: usize,
    sum: Sum,
) {
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_avx512() {
        let chunk = chunk.min(panel.len().max(1));
        let depth = (DEPTH / chunk).max(1) * chunk;
        for (i, part) in panel.chunks(depth).enumerate() {
            for start in (0..rows).step_by(TILE) {
                let count = TILE.min(rows - start);
                let tile = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>][count - 1];
                for (j, lines) in part.chunks(chunk).enumerate() {
                    let at = i * depth + j * chunk;
                    let sum = if at == 0 { sum } else { sum.further() };
                    // SAFETY: the caller's; the machine has the instructions.
                    unsafe {
                        let (a, c) = (a.add(start * a_stride + at), c.add(start * c_stride));
                        tile(lines, (a, a_stride), (c, c_stride), columns, sum);
                    }
                }
            }
        }
        return;
    }
    // SAFETY: the caller's.
    unsafe { multiply_by_gemm((c, c_stride), (a, a_stride), (rows, columns), panel, chunk, sum) }
}

/// [`multiply`] on any machine.
///
/// # Safety
/// As there.
unsafe fn multiply_by_gemm(
    (c, c_stride): (*mut f32, usize),
    (a, a_stride): (*const f32, usize),
    (rows, columns): (usize, usize),
    panel: &[Line],
    chunk: usize,
    sum: Sum,
) {
    let right = values(panel);
    // Copies, since they may lie in the same rows.
    let mut made = vec![0f32; rows * columns];
    let mut left = vec![0f32; rows * panel.len()];
    for row in 0..rows {
        let (to, from) = (&mut made[row * columns..][..columns], &mut left[row * panel.len()..][..panel.len()]);
        // SAFETY: the caller's.
        unsafe {
            to.copy_from_slice(std::slice::from_raw_parts(c.add(row * c_stride), columns));
            from.copy_from_slice(std::slice::from_raw_parts(a.add(row * a_stride), panel.len()));
        }
    }
    for at in (0..panel.len()).step_by(chunk) {
        let here = chunk.min(panel.len() - at);
        let (keep, scale) = match if at == 0 { sum } else { sum.further() } {
            Sum::Set => (0.0, 1.0),
            Sum::SetNegative => (0.0, -1.0),
            Sum::Add => (1.0, 1.0),
            Sum::Subtract => (1.0, -1.0),
        };
        let left = Mat::strided(&left[at..], rows, here, panel.len());
        let right = Mat::strided(&right[at * PANEL..], here, columns, PANEL);
        product(MatMut::new(&mut made, rows, columns), keep, scale, left, right, Threads::One);
    }
    for row in 0..rows {
        let made = &made[row * columns..][..columns];
        // SAFETY: the caller's.
        unsafe { c.add(row * c_stride).copy_from_nonoverlapping(made.as_ptr(), columns) };
    }
}

/// A register tile: `ROWS` rows × `width` columns (up to a panel). All of a is read before c is written.
///
/// # Safety
/// The machine has the instructions, and there are so many rows of a and c, each with a value for every line and column.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize>(
    panel: &[Line],
    (a, row): (*const f32, usize),
    (c, stride): (*mut f32, usize),
    width: usize,
    how: Sum,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller answers for the pointers; lanes beyond the width are masked off.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); PANEL / 16]; ROWS];
        for (p, line) in panel.iter().enumerate() {
            let mut right = [_mm512_setzero_ps(); PANEL / 16];
            for (i, right) in right.iter_mut().enumerate() {
                *right = _mm512_load_ps(line.0.as_ptr().add(16 * i));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(r * row + p));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate().take(width.div_ceil(16)) {
                let to = c.add(r * stride + 16 * i);
                let mask = if width - 16 * i >= 16 { 0xffff } else { (1u16 << (width - 16 * i)) - 1 };
                let sum = match how {
                    Sum::Set => sum,
                    Sum::SetNegative => _mm512_sub_ps(_mm512_set1_ps(-0.0), sum),
                    Sum::Add => _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)),
                    Sum::Subtract => _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, to), sum),
                };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// Lines as their values.
fn values(lines: &[Line]) -> &[f32] {
    // SAFETY: a line is so many f32, without gaps.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * PANEL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547).map(|x| x - x.floor() - 0.5).collect()
    }

    const SUMS: [(Sum, f64, f64); 4] =
        [(Sum::Set, 0.0, 1.0), (Sum::SetNegative, 0.0, -1.0), (Sum::Add, 1.0, 1.0), (Sum::Subtract, 1.0, -1.0)];

    #[test]
    fn a_product_by_a_panel_equals_the_triple_loop_at_sizes_around_the_tiles() {
        for (rows, inner, width, chunk) in
            [(1, 1, 1, 1), (5, 7, 63, 3), (6, 64, 64, 64), (13, 300, 17, 128), (70, 2500, 64, 128), (2, 1030, 33, 9000)]
        {
            let (stride, first) = (width + 5, 3);
            let (a, b) = (noise(rows * (inner + 2), 1.0), noise(inner * (width + 9), 2.0));
            let mut panels = [vec![], vec![]];
            pack(Mat::strided(&b, inner, width + 9, width + 9), 4..4 + width, &mut panels[0]);
            let b = |p: usize, j: usize| b[p * (width + 9) + 4 + j];
            let transposed: Vec<f32> = (0..width).flat_map(|j| (0..inner).map(move |p| b(p, j))).collect();
            pack(Mat::new(&transposed, width, inner).t(), 0..width, &mut panels[1]);
            assert_eq!(values(&panels[0]), values(&panels[1]), "a transpose is packed like what it is of");
            for (sum, keep, scale) in SUMS {
                let before = noise(rows * stride, 7.0);
                let mut c = before.clone();
                let from = 1..1 + inner;
                of_rows(&mut c, (stride, first..first + width), &a, (inner + 2, from), &panels[0], chunk, sum);
                for (i, (c, before)) in c.iter().zip(&before).enumerate() {
                    let (row, column) = (i / stride, (i % stride).wrapping_sub(first));
                    if column >= width {
                        assert_eq!(c, before, "the gap between rows is left alone");
                        continue;
                    }
                    let dot: f64 =
                        (0..inner).map(|p| f64::from(a[row * (inner + 2) + 1 + p]) * f64::from(b(p, column))).sum();
                    let expected = keep * f64::from(*before) + scale * dot;
                    assert!((f64::from(*c) - expected).abs() < 1e-6 * inner.max(10) as f64, "{c} {expected}");
                }
            }
        }
    }

    #[test]
    fn gemm_multiplies_by_a_panel_to_the_same_bits() {
        let (rows, inner, width) = (37, 420, 50);
        let (a, mut panel) = (noise(rows * inner, 1.0), vec![]);
        pack(Mat::new(&noise(inner * width, 2.0), inner, width), 0..width, &mut panel);
        for (sum, ..) in SUMS {
            let mut ours = noise(rows * width, 3.0);
            let mut theirs = ours.clone();
            of_rows(&mut ours, (width, 0..width), &a, (inner, 0..inner), &panel, 128, sum);
            let (c, a) = ((theirs.as_mut_ptr(), width), (a.as_ptr(), inner));
            // SAFETY: two matrices of these sizes.
            unsafe { multiply_by_gemm(c, a, (rows, width), &panel, 128, sum) };
            assert!(ours.iter().zip(&theirs).all(|(x, y)| x.to_bits() == y.to_bits()), "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn columns_become_products_of_themselves() {
        let (rows, d, b) = (9, 30, 20);
        let (mut values, mut panel) = (noise(rows * d, 1.0), vec![]);
        let (before, by) = (values.clone(), noise(b * b, 2.0));
        pack(Mat::new(&by, b, b), 0..b, &mut panel);
        within_rows(&mut values, d, (4..24, 4..24), &panel, PANEL, Sum::Set);
        for (i, x) in values.iter().enumerate() {
            let (row, column) = (i / d, i % d);
            let expected = match (4..24).contains(&column) {
                true => (0..b).map(|p| before[row * d + 4 + p] * by[p * b + column - 4]).sum(),
                false => before[i],
            };
            assert!((x - expected).abs() < 1e-5, "({row}, {column}): {x} {expected}");
        }
    }
}
