//! Transposes of small squares: between rows of a matrix, and columns whose values lie side by side.

/// Rows and columns of a square: a register each.
pub const SIDE: usize = 16;

/// Values that lie side by side.
pub type Lanes = [f32; SIDE];

/// Calls `f` with every column of the first `columns`, of the first `count` rows (at most [`SIDE`]) that lie `stride`
/// values apart: its number, and its values, 0 beyond the last row.
pub fn columns_of(rows: &[f32], stride: usize, count: usize, columns: usize, mut f: impl FnMut(usize, &Lanes)) {
    for first in (0..columns).step_by(SIDE) {
        let width = SIDE.min(columns - first);
        let mut square = [[0f32; SIDE]; SIDE];
        for (r, lanes) in square.iter_mut().enumerate().take(count) {
            let row = &rows[r * stride + first..][..width];
            match row.first_chunk() {
                Some(row) => *lanes = *row,
                None => lanes[..width].copy_from_slice(row),
            }
        }
        transpose(&mut square);
        square.iter().take(width).enumerate().for_each(|(i, column)| f(first + i, column));
    }
}

/// Writes columns to the first `count` rows (at most [`SIDE`]), which lie `stride` values apart.
pub fn write_columns(rows: &mut [f32], stride: usize, count: usize, columns: &[Lanes]) {
    for (i, here) in columns.chunks(SIDE).enumerate() {
        let mut square = [[0f32; SIDE]; SIDE];
        square[..here.len()].copy_from_slice(here);
        transpose(&mut square);
        for (r, lanes) in square.iter().enumerate().take(count) {
            let row = &mut rows[r * stride + i * SIDE..][..here.len()];
            match row.first_chunk_mut() {
                Some(row) => *row = *lanes,
                None => row.copy_from_slice(&lanes[..here.len()]),
            }
        }
    }
}

/// The transpose of a square, in its place.
fn transpose(square: &mut [Lanes; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_avx512() {
        // SAFETY: the machine has these instructions.
        return unsafe { transpose_avx512(square) };
    }
    let before = *square;
    for (i, row) in square.iter_mut().enumerate() {
        row.iter_mut().zip(&before).for_each(|(x, column)| *x = column[i]);
    }
}

/// By halves: the quarters off the diagonal change places, and so within each quarter.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose_avx512(square: &mut [Lanes; SIDE]) {
    use std::arch::x86_64::*;
    let mut rows = [_mm512_setzero_ps(); SIDE];
    for (row, lanes) in rows.iter_mut().zip(&*square) {
        // SAFETY: sixteen f32.
        *row = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
    }
    exchange::<8>(&mut rows);
    exchange::<4>(&mut rows);
    exchange::<2>(&mut rows);
    exchange::<1>(&mut rows);
    for (to, row) in square.iter_mut().zip(rows) {
        // SAFETY: sixteen f32.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), row) };
    }
}

/// Of every two rows `HALF` apart, the upper's later `HALF` lanes of every 2·`HALF` change places with the lower's earlier.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn exchange<const HALF: usize>(rows: &mut [std::arch::x86_64::__m512; SIDE]) {
    use std::arch::x86_64::*;
    // Lanes of the upper row, and from 16 on of the lower one.
    let (mut upper, mut lower) = ([0i32; SIDE], [0i32; SIDE]);
    for (lane, (upper, lower)) in (0i32..).zip(upper.iter_mut().zip(&mut lower)) {
        let (all, half) = (SIDE as i32, HALF as i32);
        (*upper, *lower) = if lane & half == 0 { (lane, lane + half) } else { (all + lane - half, all + lane) };
    }
    // SAFETY: sixteen i32 each.
    let (upper, lower) =
        unsafe { (_mm512_loadu_si512(upper.as_ptr().cast()), _mm512_loadu_si512(lower.as_ptr().cast())) };
    for i in 0..SIDE {
        if i & HALF == 0 {
            let (a, b) = (rows[i], rows[i + HALF]);
            rows[i] = _mm512_permutex2var_ps(a, upper, b);
            rows[i + HALF] = _mm512_permutex2var_ps(a, lower, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_transposed() {
        let value = |i: usize, j: usize| (i * SIDE + j) as f32;
        let mut square: [Lanes; SIDE] = std::array::from_fn(|i| std::array::from_fn(|j| value(i, j)));
        transpose(&mut square);
        for (i, row) in square.iter().enumerate() {
            (0..SIDE).for_each(|j| assert_eq!(row[j], value(j, i)));
        }
    }

    #[test]
    fn columns_are_those_of_the_rows_and_go_back_to_them() {
        for (count, columns) in [(1, 1), (16, 16), (5, 40), (16, 33), (3, 0)] {
            let stride = columns + 3;
            let rows: Vec<f32> = (0..count * stride).map(|i| i as f32).collect();
            let mut all = vec![];
            columns_of(&rows, stride, count, columns, |j, column| {
                assert_eq!(j, all.len());
                all.push(*column);
            });
            assert_eq!(all.len(), columns);
            for (j, column) in all.iter().enumerate() {
                for (r, &x) in column.iter().enumerate() {
                    assert_eq!(x, if r < count { rows[r * stride + j] } else { 0.0 });
                }
            }
            let mut again = vec![-1.0; count * stride];
            write_columns(&mut again, stride, count, &all);
            for (i, (x, expected)) in again.iter().zip(&rows).enumerate() {
                assert_eq!(*x, if i % stride < columns { *expected } else { -1.0 });
            }
        }
    }
}
