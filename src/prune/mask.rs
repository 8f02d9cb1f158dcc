//! Which weights are left, for masks to be compared by: of a large weight a sample, the same in every mask of its size.

use std::borrow::Cow;

/// Weights of a matrix that are looked at, at most: of so many a share has a standard error of 0.002 or less where half are
/// left.
const OF_MATRIX: usize = 1 << 16;

/// Weights of a block that are looked at, at most: where there are many experts, fewer of each.
const OF_BLOCK: usize = 1 << 22;

/// How many weights of a matrix are looked at, of a block that has so many matrices.
pub fn looked_at(weights: usize, matrices: usize) -> usize {
    let most = OF_MATRIX.min(OF_BLOCK / matrices.max(1)) & !7;
    if weights <= most { weights } else { most }
}

/// The bits of the weights that are looked at, of those of all (a bit a weight, eight a byte): eight neighbours at a time, from
/// all parts of the matrix alike.
///
/// # Panics
/// Where there are not as many bits as `weights` need.
pub fn sampled(left: &[u8], weights: usize, matrices: usize) -> Cow<'_, [u8]> {
    let count = looked_at(weights, matrices);
    if count == weights {
        return Cow::Borrowed(left);
    }
    // One byte of each of so many stretches of equal length. Steps of equal length would meet the same columns of each row.
    let (whole, stretches) = (weights / 8, count / 8);
    let start = |stretch: usize| stretch * whole / stretches;
    let byte = |stretch: usize| {
        let (from, to) = (start(stretch), start(stretch + 1));
        left[from + (scattered(stretch as u64) % (to - from) as u64) as usize]
    };
    (0..stretches).map(byte).collect()
}

/// A number that looks random, of another: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast Splittable
/// Pseudorandom Number Generators").
fn scattered(x: u64) -> u64 {
    let x = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How many bits are set in both; the rest of the longer one counts for nothing.
pub fn in_both(a: &[u8], b: &[u8]) -> u64 {
    const WORD: usize = size_of::<u64>();
    let (words, others) = (a.as_chunks::<WORD>().0, b.as_chunks::<WORD>().0);
    let bytes =
        |from: usize| a[from..].iter().zip(&b[from..]).map(|(a, b)| u64::from((a & b).count_ones())).sum::<u64>();
    let both =
        |(a, b): (&[u8; WORD], &[u8; WORD])| u64::from((u64::from_le_bytes(*a) & u64::from_le_bytes(*b)).count_ones());
    let whole = words.len().min(others.len());
    words.iter().zip(others).map(both).sum::<u64>() + bytes(whole * WORD)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn bits(mask: &[bool]) -> Vec<u8> {
        let byte = |eight: &[bool]| eight.iter().rev().fold(0, |byte, &left| byte << 1 | u8::from(left));
        mask.chunks(8).map(byte).collect()
    }

    #[test]
    fn words_count_what_a_loop_counts() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for weights in [0, 1, 7, 8, 9, 63, 64, 65, 1000, 4099] {
            let mut mask = || (0..weights).map(|_| rng.random_range(0..3) > 0).collect::<Vec<bool>>();
            let (a, b) = (mask(), mask());
            let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count() as u64;
            assert_eq!(in_both(&bits(&a), &bits(&b)), both, "{weights}");
            assert_eq!(in_both(&bits(&a), &bits(&a)), a.iter().filter(|left| **left).count() as u64);
        }
    }

    #[test]
    fn a_small_matrix_is_looked_at_whole_and_a_large_one_in_all_parts_alike() {
        assert_eq!((looked_at(1000, 7), looked_at(1 << 16, 7)), (1000, 1 << 16));
        assert_eq!((looked_at((1 << 16) + 1, 7), looked_at(1 << 24, 388)), (1 << 16, 10_808));
        let left: Vec<u8> = (0..125).collect();
        assert_eq!(sampled(&left, 1000, 7), left);
        // Each byte says in which of 256 columns of bytes it lies, and each row has 256.
        let left: Vec<u8> = (0..1 << 17).map(|byte| byte as u8).collect();
        let sample = sampled(&left, 1 << 20, 7);
        assert_eq!((sample.len(), sampled(&left, 1 << 20, 7)), (1 << 13, sample.clone()));
        let mut columns = [0; 256];
        sample.iter().for_each(|&column| columns[usize::from(column)] += 1);
        // 32 of each are expected, give or take 5.6.
        assert!(columns.iter().all(|count| (8..=60).contains(count)), "{columns:?}");
        let rows: Vec<u8> = (0..1 << 17).map(|byte| (byte >> 9) as u8).collect();
        let mut of_rows = [0; 256];
        sampled(&rows, 1 << 20, 7).iter().for_each(|&row| of_rows[usize::from(row)] += 1);
        assert_eq!(of_rows, [32; 256]);
    }

    #[test]
    fn a_sample_tells_an_overlap_within_its_standard_error() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let weights = 1 << 19;
        let a: Vec<bool> = (0..weights).map(|_| rng.random_range(0..2) == 0).collect();
        let b: Vec<bool> = a.iter().map(|left| left ^ (rng.random_range(0..10) == 0)).collect();
        let (a, b) = (bits(&a), bits(&b));
        let share = |a: &[u8], b: &[u8]| 2.0 * in_both(a, b) as f64 / (in_both(a, a) + in_both(b, b)) as f64;
        let sample = share(&sampled(&a, weights, 7), &sampled(&b, weights, 7));
        assert!((sample - share(&a, &b)).abs() < 0.005, "{sample} {}", share(&a, &b));
    }
}
