//! Products of matrices in bf16, with sums in f32.
//!
//! Where the machine has AVX-512 BF16, a register tile of our own does them (`vdpbf16ps` multiplies pairs and is twice
//! as fast as f32); elsewhere the same rounded factors are multiplied in f32 by [`super::product`]. Products of two
//! bf16 numbers are exact in f32, so the two differ in the order of sums only.
//!
//! A sum runs over pairs of columns from left to right, in chunks of [`CHUNK`] columns that are added to the result
//! one after the other. Threads share out rows and columns of the result and never a sum, so their number changes nothing.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;
use half::vec::HalfBitsVecExt;
use rayon::prelude::*;

use super::{Mat, MatMut, PIECE, Threads, in_chunks, simd};

/// Columns of the result that one panel holds: four registers of 16.
const PANEL: usize = 64;

/// Rows of the result that a register tile holds: with [`PANEL`], 24 registers of sums.
const TILE: usize = 6;

/// Columns of the factors that go into the sums of a tile at once; a panel's share of them stays in the second cache.
const CHUNK: usize = 1024;

/// Bytes of the left-hand factor that a task goes over panel by panel.
const CACHED: usize = 1 << 18;

/// Whether this machine multiplies bf16 itself.
pub fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    return simd::has_avx512() && std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix W (rows × columns) as the right-hand factor of x·Wᵀ.
pub struct Packed {
    rows: usize,
    columns: usize,
    form: Form,
}

enum Form {
    /// By panel of [`PANEL`] rows, then by pair of columns: the pair of each row side by side, 0 where there is none.
    Panels(Vec<Line>),
    /// Widened, row-major.
    Wide(Vec<f32>),
}

/// Pairs of 16 rows: one register, one line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Registers side by side in a panel.
const LINES: usize = PANEL / 16;

impl Packed {
    /// Packs `w` (rows × columns, row-major), rounded.
    pub fn rounded(w: &[f32], rows: usize, columns: usize) -> Self {
        Self::new(&rounded(w), rows, columns)
    }

    /// Packs the transpose of `x` (columns × rows, row-major), rounded.
    pub fn transposed(x: &[f32], rows: usize, columns: usize) -> Self {
        assert_eq!(x.len(), rows * columns);
        if is_native() {
            return Self { rows, columns, form: Form::Panels(transposed_panels(x, rows, columns)) };
        }
        let value = |i: usize| f32::from_bits(rounded_bits(x[i % columns * rows + i / columns]) & 0xffff_0000);
        Self { rows, columns, form: Form::Wide((0..rows * columns).map(value).collect()) }
    }

    /// Packs `w` (rows × columns, row-major).
    pub fn new(w: &[bf16], rows: usize, columns: usize) -> Self {
        assert_eq!(w.len(), rows * columns);
        let form = if is_native() {
            let pairs = columns.div_ceil(2);
            let mut panels = vec![Line([0; 16]); rows.div_ceil(PANEL) * pairs * LINES];
            panels.par_chunks_mut((pairs * LINES).max(1)).enumerate().for_each(|(p, panel)| {
                let here = &w[p * PANEL * columns..rows.min((p + 1) * PANEL) * columns];
                // Pair by pair, so that what is written lies side by side; 64 rows are read side by side.
                for (pair, lines) in panel.chunks_exact_mut(LINES).enumerate() {
                    let lanes = lines.iter_mut().flat_map(|line| &mut line.0);
                    for (lane, row) in lanes.zip(here.chunks_exact(columns)) {
                        *lane = pair_of(row[2 * pair], row.get(2 * pair + 1).copied());
                    }
                }
            });
            Form::Panels(panels)
        } else {
            Form::Wide(w.iter().map(|x| x.to_f32()).collect())
        };
        Self { rows, columns, form }
    }
}

/// Two neighbours, rounded, as a register lane holds them.
#[inline(always)]
fn rounded_pair(first: f32, second: f32) -> u32 {
    rounded_bits(first) >> 16 | rounded_bits(second) & 0xffff_0000
}

/// Two neighbours as a register lane holds them.
fn pair_of(first: bf16, second: Option<bf16>) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.unwrap_or(bf16::ZERO).to_bits()) << 16
}

/// Values rounded to the nearest, ties to even.
pub fn rounded(values: &[f32]) -> Vec<bf16> {
    let bits = in_chunks(values.len(), PIECE, |i, to: &mut [u16]| round_slice(&values[i * PIECE..][..to.len()], to));
    bits.reinterpret_into()
}

/// Values in f32, which loses nothing.
pub fn widened(values: &[bf16]) -> Vec<f32> {
    in_chunks(values.len(), PIECE, |i, to| {
        to.iter_mut().zip(&values[i * PIECE..]).for_each(|(to, x)| *to = f32::from_bits(u32::from(x.to_bits()) << 16));
    })
}

/// Rows x (rows × columns), rounded, as the left-hand factor of x·Wᵀ.
pub struct Rounded {
    rows: usize,
    columns: usize,
    /// Pairs of columns, row-major.
    pairs: Vec<u32>,
}

impl Rounded {
    /// Rounds `x` (rows × columns, row-major) to the nearest, ties to even.
    pub fn new(x: &[f32], rows: usize, columns: usize) -> Self {
        assert_eq!(x.len(), rows * columns);
        let width = columns.div_ceil(2);
        let pairs = in_chunks(rows * width, width, |row, to| round_row(&x[row * columns..(row + 1) * columns], to));
        Self { rows, columns, pairs }
    }

    fn widened(&self) -> Vec<f32> {
        let width = self.columns.div_ceil(2);
        let both = |pair: &u32| [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)];
        self.pairs.chunks(width.max(1)).flat_map(|row| row.iter().flat_map(both).take(self.columns)).collect()
    }
}

/// The bits of a value rounded to bf16, in the upper half.
#[inline(always)]
fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Rounding up must not make an infinity of what is no number.
    if x.is_nan() { bits | 0x0040_0000 } else { up }
}

simd::vectorized! {
    fn round_row(from: &[f32], to: &mut [u32]) {
        let (whole, rest) = from.as_chunks::<2>();
        for (to, [low, high]) in to.iter_mut().zip(whole) {
            *to = rounded_pair(*low, *high);
        }
        if let [last] = rest {
            to[whole.len()] = rounded_bits(*last) >> 16;
        }
    }
}

/// x·Wᵀ as a vector of its own (x.rows × w.rows), by all threads.
pub fn new_product(x: &Rounded, w: &Packed) -> Vec<f32> {
    let len = x.rows * w.rows;
    let mut values = Vec::with_capacity(len);
    product_into(&mut values.spare_capacity_mut()[..len], x, w);
    // SAFETY: a product writes every element of its destination.
    unsafe { values.set_len(len) };
    values
}

/// `dst ← x·Wᵀ` (x.rows × w.rows, row-major), by all threads.
pub fn product(dst: &mut [f32], x: &Rounded, w: &Packed) {
    // SAFETY: the same memory; only values are written to it.
    product_into(unsafe { std::slice::from_raw_parts_mut(dst.as_mut_ptr().cast(), dst.len()) }, x, w);
}

/// `dst ← x·Wᵀ` of the first `rows` rows of W, with as many of its first columns as x has, by the calling thread;
/// `stride` values from one row of `dst` to the next.
pub fn product_of_part(dst: &mut [f32], stride: usize, x: &Rounded, w: &Packed, rows: usize) {
    assert!(x.columns <= w.columns && rows <= w.rows && rows <= stride && x.rows > 0);
    assert!(dst.len() >= (x.rows - 1) * stride + rows, "the destination is too small");
    match &w.form {
        Form::Panels(panels) => {
            let (pairs, all) = (x.columns.div_ceil(2), w.columns.div_ceil(2));
            let left = Left { pairs: &x.pairs, row: pairs, pair: 1 };
            let dst = Dst { values: dst.as_mut_ptr(), row: stride };
            for panel in 0..rows.div_ceil(PANEL) {
                let columns = panel * PANEL..rows.min((panel + 1) * PANEL);
                let lines = &panels[panel * all * LINES..][..pairs * LINES];
                multiply_panel(dst, 0..x.rows, columns, left, lines, false);
            }
        }
        Form::Wide(values) => {
            let (a, b) = (x.widened(), Mat::strided(values, rows, x.columns, w.columns).t());
            let dst = MatMut::strided(dst, x.rows, rows, stride);
            super::product(dst, 0.0, 1.0, Mat::new(&a, x.rows, x.columns), b, Threads::One);
        }
    }
}

fn product_into(dst: &mut [MaybeUninit<f32>], x: &Rounded, w: &Packed) {
    assert_eq!(x.columns, w.columns, "inner dimensions differ");
    let (m, n) = (x.rows, w.rows);
    assert_eq!(dst.len(), m * n, "the product has another shape than its destination");
    let panels = match &w.form {
        Form::Panels(panels) => panels,
        Form::Wide(values) => {
            let (a, b) = (x.widened(), Mat::new(values, n, w.columns).t());
            super::product(MatMut::empty(dst, m, n), 0.0, 1.0, Mat::new(&a, m, x.columns), b, Threads::All);
            return;
        }
    };
    if m == 0 || n == 0 {
        return;
    }
    let pairs = w.columns.div_ceil(2);
    let left = Left { pairs: &x.pairs, row: pairs, pair: 1 };
    let whole = Dst { values: dst.as_mut_ptr().cast(), row: n };
    let stripe = |rows: Range<usize>, panel: usize| {
        let columns = panel * PANEL..n.min((panel + 1) * PANEL);
        let lines = &panels[panel * pairs * LINES..][..pairs * LINES];
        multiply_panel(whole, rows, columns, left, lines, false);
    };
    // Enough tasks for every thread, each of as many rows as stay in the cache while the panels pass: what is not in it
    // passes once for all of them.
    let tasks = 8 * rayon::current_num_threads();
    let panel_count = n.div_ceil(PANEL);
    let most = (CACHED / (2 * w.columns).max(1)).max(TILE);
    let heights = m.div_ceil(most).max(tasks.div_ceil(panel_count)).min(m.div_ceil(TILE));
    let height = m.div_ceil(heights).next_multiple_of(TILE);
    let heights = m.div_ceil(height);
    let width = panel_count.div_ceil(tasks.div_ceil(heights));
    (0..heights * panel_count.div_ceil(width)).into_par_iter().for_each(|task| {
        let (down, across) = (task % heights, task / heights);
        let rows = down * height..m.min((down + 1) * height);
        for panel in across * width..panel_count.min((across + 1) * width) {
            stripe(rows.clone(), panel);
        }
    });
}

/// Upper triangle of `sums` (d × d) += XᵀX of x (tokens × d, row-major) rounded to bf16; what lies below the
/// diagonal may be written too.
pub fn add_gram(sums: &mut [f32], x: &[f32], d: usize) {
    assert_eq!(sums.len(), d * d);
    let tokens = x.len() / d.max(1);
    if !is_native() {
        let rounded: Vec<f32> = x.iter().map(|&v| f32::from_bits(rounded_bits(v) & 0xffff_0000)).collect();
        return super::add_gram(sums, &rounded, d);
    }
    // Xᵀ in panels is both factors: pairs of tokens of each column, 64 columns side by side.
    let (pairs, panels) = (tokens.div_ceil(2), transposed_panels(x, d, tokens));
    let of = |panel: usize| &panels[panel * pairs * LINES..][..pairs * LINES];
    sums.par_chunks_mut(PANEL * d).enumerate().for_each(|(p, rows)| {
        let left = Left { pairs: as_pairs(of(p)), row: 1, pair: PANEL };
        let dst = Dst { values: rows.as_mut_ptr(), row: d };
        for panel in p..d.div_ceil(PANEL) {
            let columns = panel * PANEL..d.min((panel + 1) * PANEL);
            multiply_panel(dst, 0..rows.len() / d, columns, left, of(panel), true);
        }
    });
}

/// Panels of Xᵀ, for x (tokens × d): pairs of tokens of each column, 64 columns side by side.
fn transposed_panels(x: &[f32], d: usize, tokens: usize) -> Vec<Line> {
    let pairs = tokens.div_ceil(2);
    let mut panels = vec![Line([0; 16]); d.div_ceil(PANEL) * pairs * LINES];
    let of_panel = panels.par_chunks_mut((pairs * LINES).max(1)).enumerate();
    of_panel.for_each(|(p, panel)| pair_tokens(x, d, p * PANEL, panel));
    panels
}

simd::vectorized! {
    fn round_slice(from: &[f32], to: &mut [u16]) {
        for (to, &x) in to.iter_mut().zip(from) {
            *to = (rounded_bits(x) >> 16) as u16;
        }
    }
}

simd::vectorized! {
    /// Fills a panel with the columns of x (tokens × d) from `first` on, as many as there are.
    fn pair_tokens(x: &[f32], d: usize, first: usize, panel: &mut [Line]) {
        let width = PANEL.min(d - first);
        let (lines, _) = panel.as_chunks_mut::<LINES>();
        for (lines, rows) in lines.iter_mut().zip(x.chunks(2 * d)) {
            let one = &rows[first..first + width];
            let two = if rows.len() > d { &rows[d + first..d + first + width] } else { &[] };
            for (i, line) in lines.iter_mut().enumerate().take(width.div_ceil(16)) {
                let (mut low, mut high) = ([0f32; 16], [0f32; 16]);
                for (part, row) in [(&mut low, one), (&mut high, two)] {
                    match row.get(16 * i..16 * i + 16) {
                        Some(all) => part.copy_from_slice(all),
                        None => part.iter_mut().zip(row.iter().skip(16 * i)).for_each(|(to, from)| *to = *from),
                    }
                }
                for (pair, (low, high)) in line.0.iter_mut().zip(low.iter().zip(&high)) {
                    *pair = rounded_pair(*low, *high);
                }
            }
        }
    }
}

fn as_pairs(lines: &[Line]) -> &[u32] {
    // SAFETY: a line is sixteen u32, without gaps.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// A left-hand factor: where the pairs of a row, and the next pair of it, are.
#[derive(Clone, Copy)]
struct Left<'a> {
    pairs: &'a [u32],
    row: usize,
    pair: usize,
}

/// A result that several threads write to, each its own part.
#[derive(Clone, Copy)]
struct Dst {
    values: *mut f32,
    row: usize,
}

// SAFETY: tasks are given parts that do not overlap.
unsafe impl Send for Dst {}
unsafe impl Sync for Dst {}

/// Rows × columns of the result (at most a panel wide), from one panel of the right-hand factor.
fn multiply_panel(dst: Dst, rows: Range<usize>, columns: Range<usize>, left: Left, panel: &[Line], adds: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        let pairs = panel.len() / LINES;
        for from in (0..pairs.max(1)).step_by(CHUNK / 2) {
            let here = from..pairs.min(from + CHUNK / 2);
            let lines = &panel[here.start * LINES..here.end * LINES];
            for start in rows.clone().step_by(TILE) {
                let count = TILE.min(rows.end - start);
                let last = (start + count - 1) * left.row + (here.end.max(1) - 1) * left.pair;
                assert!(here.is_empty() || last < left.pairs.len());
                // SAFETY: callers hold at least `rows` rows of `dst.row` columns behind `dst` for themselves, and the
                // furthest pair that is read lies inside the slice, as was just checked. This form exists only where
                // the machine has the instructions.
                unsafe {
                    let a = left.pairs.as_ptr().add(start * left.row + here.start * left.pair);
                    let c = dst.values.add(start * dst.row + columns.start);
                    let tile = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>][count - 1];
                    tile(lines, (a, left.row, left.pair), (c, dst.row), columns.len(), adds || from > 0);
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!(
        "panels are only made where they can be multiplied: {:?}",
        (dst.row, rows, columns, left.row, left.pair, panel.len(), adds)
    )
}

/// A register tile: `ROWS` rows × `width` columns (up to a panel) of the result.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const ROWS: usize>(
    panel: &[Line],
    (a, row, pair): (*const u32, usize, usize),
    (c, stride): (*mut f32, usize),
    width: usize,
    adds: bool,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller answers for the pointers; lanes beyond the width are masked off.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); LINES]; ROWS];
        for (p, lines) in panel.as_chunks::<LINES>().0.iter().enumerate() {
            let right = lines.each_ref().map(|line| _mm512_load_si512(line.0.as_ptr().cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_epi32(*a.add(r * row + p * pair) as i32);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(left),
                        std::mem::transmute::<__m512i, __m512bh>(right),
                    );
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate().take(width.div_ceil(16)) {
                let to = c.add(r * stride + 16 * i);
                let mask = if width - 16 * i >= 16 { 0xffff } else { (1u16 << (width - 16 * i)) - 1 };
                let sum = if adds { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547).map(|x| x - x.floor() - 0.5).collect()
    }

    fn exact(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&x| bf16::from_f32(x).to_f64()).collect()
    }

    #[test]
    fn products_equal_the_triple_loop_over_rounded_factors_at_sizes_around_the_tiles() {
        for (m, n, k) in [
            (1, 1, 1),
            (5, 63, 7),
            (6, 64, 64),
            (7, 65, 2),
            (13, 130, 301),
            (97, 70, 4100),
            (3, 0, 4),
            (0, 3, 4),
            (2, 3, 0),
        ] {
            let (x, w) = (noise(m * k, 1.0), noise(n * k, 2.0));
            let packed = Packed::new(&w.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>(), n, k);
            let mut all = vec![9.0; m * n];
            product(&mut all, &Rounded::new(&x, m, k), &packed);
            assert_eq!(all, new_product(&Rounded::new(&x, m, k), &Packed::rounded(&w, n, k)));
            if m > 0 {
                let mut one = vec![7.0; m * n];
                product_of_part(&mut one, n, &Rounded::new(&x, m, k), &packed, n);
                assert_eq!(all, one, "threads change nothing");
            }
            let (x, w) = (exact(&x), exact(&w));
            for i in 0..m {
                for j in 0..n {
                    let dot: f64 = (0..k).map(|p| x[i * k + p] * w[j * k + p]).sum();
                    assert!(
                        (f64::from(all[i * n + j]) - dot).abs() < 1e-5 * (k as f64).sqrt().max(1.0),
                        "{m}x{n}x{k} ({i},{j})"
                    );
                }
            }
        }
    }

    #[test]
    fn a_product_of_a_part_of_a_transpose_leaves_the_gaps_alone() {
        let (m, n, k, columns, rows) = (7, 70, 90, 33, 65);
        let (x, w) = (noise(m * columns, 1.0), noise(k * n, 2.0)); // w is (k, n), a transpose
        let mut dst = vec![9.0; m * 68];
        product_of_part(&mut dst, 68, &Rounded::new(&x, m, columns), &Packed::transposed(&w, n, k), rows);
        let (x, w) = (exact(&x), exact(&w));
        for i in 0..m {
            for j in 0..rows {
                let dot: f64 = (0..columns).map(|p| x[i * columns + p] * w[p * n + j]).sum();
                assert!((f64::from(dst[i * 68 + j]) - dot).abs() < 1e-5, "({i},{j})");
            }
            assert_eq!(dst[i * 68 + rows..(i + 1) * 68], [9.0; 3]);
        }
    }

    #[test]
    fn a_gram_matrix_equals_its_definition_over_rounded_inputs() {
        for (tokens, d) in [(1, 1), (7, 65), (300, 130), (2301, 20)] {
            let x = noise(tokens * d, 3.0);
            let mut sums = vec![1.0; d * d];
            add_gram(&mut sums, &x, d);
            let x = exact(&x);
            for i in 0..d {
                for j in i..d {
                    let dot: f64 = (0..tokens).map(|t| x[t * d + i] * x[t * d + j]).sum();
                    assert!(
                        (f64::from(sums[i * d + j]) - 1.0 - dot).abs() < 1e-6 * tokens.max(100) as f64,
                        "{tokens}x{d} ({i},{j})"
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even_and_keeps_what_is_no_number() {
        let values = [1.0, -1.003_906_2, 1.011_718_8, f32::NAN, f32::INFINITY, f32::MAX, 1e-40, 0.1];
        let expected: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        let got = Rounded::new(&values, 1, values.len()).widened();
        assert!(got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{got:?} {expected:?}");
    }
}
