//! The sign-flip test: where differences are as likely to have either sign, every way of giving them signs is as likely as the
//! one that was found (Fisher 1935; Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, §3.2).
//!
//! Its p-value is the share of the 2ⁿ ways whose sum is as far from 0 as the one found. Up to [`EXACT`] differences that are
//! not 0 all ways are counted. Beyond, the distribution of the sum is had from its cumulant generating function
//! Σ ln cosh(t dᵢ) by a saddlepoint (Robinson, Annals of Statistics 10, 1982; Lugannani & Rice 1980), whose error is a few
//! thousandths of the p-value, however small that is: drawn signs could not tell what 200 comparisons need.

use statrs::distribution::{Continuous, ContinuousCDF, Normal};

use crate::linalg::simd::{exp_down, vectorized};

/// So many differences have all their 2ⁿ signs counted.
const EXACT: usize = 14;

/// The two-sided p-value of "the differences are symmetric about 0". 1 where all are 0. They are finite.
pub fn p_value(differences: &[f64]) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).filter(|&size| size > 0.0).collect();
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    if sizes.is_empty() {
        return 1.0;
    }
    let sizes: Vec<f64> = sizes.iter().map(|size| size / largest).collect();
    let sum = (differences.iter().sum::<f64>() / largest).abs();
    if sizes.len() <= EXACT { counted(&sizes, sum) } else { saddlepoint(&sizes, sum) }
}

/// The least p-value that so many differences can have.
pub fn least(n: usize) -> f64 {
    0.5f64.powi(n.min(1000) as i32 - 1).min(1.0)
}

/// About the p-value of the differences of `values` from `mean`, by a fraction of [`APART`] of itself: a tenth of the time, for
/// whoever only wants to know on which side of something it is. None where it is counted, near an end, or hard to find.
pub fn estimate(values: &[f64], mean: f64) -> Option<f64> {
    let [sum, total, squares, largest, differ] = moments(values, mean);
    let sum = sum.abs();
    let is_plain = (EXACT as f64 + 1.0..=MOST).contains(&differ) && (1e-100..1e100).contains(&largest);
    if !is_plain || sum >= total * (1.0 - 1e-6) || sum < 2e-3 * squares.sqrt() {
        return None;
    }
    // From the left, where tanh x ≤ x puts it, Newton's steps never go beyond.
    let mut t = sum / squares;
    for _ in 0..40 {
        let [value, slope] = tilted(values, mean, t);
        let step = (sum - value) / slope;
        if !step.is_finite() || step < -1e-6 * t {
            return None;
        }
        t += step;
        if step.abs() <= 1e-7 * t {
            let [_, curvature] = tilted(values, mean, t);
            let p = tail(t, sum, cumulant(values, mean, t), curvature, differ as usize);
            return Some(p).filter(|p| *p > 1e-250);
        }
    }
    None
}

/// Two p-values that are this share of the larger one apart are not the same for rounding alone.
pub const APART: f64 = 1e-6;

/// So many differences [`cumulant`] takes the product of.
const MOST: f64 = 4000.0;

/// Whether the p-value of the differences of `values` from `mean` is at least `level`.
pub fn reaches(values: &[f64], mean: f64, level: f64) -> bool {
    match estimate(values, mean) {
        Some(p) if (p - level).abs() > APART * level => p >= level,
        _ => p_value(&values.iter().map(|value| value - mean).collect::<Vec<_>>()) >= level,
    }
}

vectorized! {
    /// Of the differences: their sum, the sum of their sizes and of their squares, the largest size, and how many are not 0.
    fn moments(values: &[f64], mean: f64) -> [f64; 5] {
        let mut lanes = [[0.0f64; LANES]; 5];
        let [sums, sizes, squares, largest, differ] = &mut lanes;
        for chunk in values.chunks(LANES) {
            for (i, value) in chunk.iter().enumerate() {
                let d = value - mean;
                sums[i] += d;
                sizes[i] += d.abs();
                squares[i] += d * d;
                largest[i] = if d.abs() > largest[i] { d.abs() } else { largest[i] };
                differ[i] += if d != 0.0 { 1.0 } else { 0.0 };
            }
        }
        let all = |lane: &[f64; LANES]| lane.iter().sum::<f64>();
        [all(sums), all(sizes), all(squares), largest.iter().copied().fold(0.0, f64::max), all(differ)]
    }
}

vectorized! {
    /// Σ d tanh(t d) and Σ d² / cosh²(t d).
    fn tilted(values: &[f64], mean: f64, t: f64) -> [f64; 2] {
        let mut lanes = [[0.0f64; LANES]; 2];
        let [tilts, slopes] = &mut lanes;
        let mut add = |i: usize, value: f64| {
            let d = (value - mean).abs();
            let e = exp_down(-2.0 * t * d);
            let tanh = (1.0 - e) / (1.0 + e);
            tilts[i] += d * tanh;
            slopes[i] += d * d * (1.0 - tanh * tanh);
        };
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for (i, value) in chunk.iter().enumerate() {
                add(i, *value);
            }
        }
        rest.iter().for_each(|value| add(0, *value));
        lanes.map(|lane| lane.iter().sum())
    }
}

vectorized! {
    /// Σ ln cosh(t d), by one logarithm: of the product of (1 + e⁻²ˣ) / 2, none of whose lanes comes near the smallest number.
    fn cumulant(values: &[f64], mean: f64, t: f64) -> f64 {
        let (mut sums, mut products) = ([0.0f64; LANES], [1.0f64; LANES]);
        let mut add = |i: usize, value: f64| {
            let x = t * (value - mean).abs();
            sums[i] += x;
            products[i] *= 0.5 + 0.5 * exp_down(-2.0 * x);
        };
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for (i, value) in chunk.iter().enumerate() {
                add(i, *value);
            }
        }
        rest.iter().for_each(|value| add(0, *value));
        sums.iter().sum::<f64>() + products.iter().map(|product| product.ln()).sum::<f64>()
    }
}

/// Sums that are taken side by side.
const LANES: usize = 8;

/// Counts the ways whose sum is as large. One sign is held: its two halves mirror each other. From way to way one sign changes
/// (Gray's code).
fn counted(sizes: &[f64], sum: f64) -> f64 {
    let ways = 1usize << (sizes.len() - 1);
    let mut signed = sizes.to_vec();
    let mut total: f64 = sizes.iter().sum();
    // Sums that differ by rounding alone are equal.
    let least = sum - 1e-9 * total;
    let mut count = usize::from(total.abs() >= least);
    for way in 1..ways {
        let size = &mut signed[way.trailing_zeros() as usize];
        total -= 2.0 * *size;
        *size = -*size;
        count += usize::from(total.abs() >= least);
    }
    count as f64 / ways as f64
}

fn saddlepoint(sizes: &[f64], sum: f64) -> f64 {
    let (total, squares) = (sizes.iter().sum::<f64>(), sizes.iter().map(|d| d * d).sum::<f64>());
    if sum >= total * (1.0 - 1e-9) {
        return least(sizes.len());
    }
    // Where the sum is what is expected, the expansion divides nothing by nothing.
    if sum < 1e-3 * squares.sqrt() {
        return 1.0;
    }
    let t = solve(sizes, sum, squares);
    let (mut cumulant, mut curvature) = (0.0, 0.0);
    for d in sizes {
        let x = t * d;
        cumulant += x + (-2.0 * x).exp().ln_1p() - std::f64::consts::LN_2;
        curvature += d * d * (1.0 - x.tanh().powi(2));
    }
    tail(t, sum, cumulant, curvature, sizes.len())
}

/// Lugannani and Rice's formula, on both sides.
fn tail(t: f64, sum: f64, cumulant: f64, curvature: f64, n: usize) -> f64 {
    let normal = Normal::standard();
    let w = (2.0 * (t * sum - cumulant)).max(0.0).sqrt();
    let u = t * curvature.sqrt();
    let one_sided = normal.sf(w) + normal.pdf(w) * (1.0 / u - 1.0 / w);
    (2.0 * one_sided).clamp(least(n), 1.0)
}

/// The t at which Σ dᵢ tanh(t dᵢ) is the sum: Newton's steps within bounds that close in on it.
fn solve(sizes: &[f64], sum: f64, squares: f64) -> f64 {
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, sum / squares);
    for _ in 0..100 {
        let (mut slope, mut value) = (0.0, -sum);
        for d in sizes {
            let tanh = (t * d).tanh();
            value += d * tanh;
            slope += d * d * (1.0 - tanh * tanh);
        }
        *(if value < 0.0 { &mut low } else { &mut high }) = t;
        let next = t - value / slope;
        let next = if next > low && next < high { next } else { (low + high.min(2.0 * t + 1.0)) / 2.0 };
        if (next - t).abs() <= 1e-10 * t {
            return next;
        }
        t = next;
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_differences_have_all_their_signs_counted() {
        // All of one sign: 2 of 64 ways.
        assert_eq!(p_value(&[0.3, 0.1, 0.2, 0.7, 0.4, 1.1]), 2.0 / 64.0);
        // 1, 2 and -4: sums of ±1 ± 2 ± 4 as large as |-1| are all 8.
        assert_eq!(p_value(&[1.0, 2.0, -4.0]), 1.0);
        // 5, 3 and -1: 7 and more: ±9, ±7.
        assert_eq!(p_value(&[5.0, 3.0, -1.0]), 0.5);
        // What is no difference is no sample.
        assert_eq!(p_value(&[0.0, 0.3, 0.1, 0.0, 0.2, 0.7, 0.4, 1.1]), 2.0 / 64.0);
        assert_eq!([p_value(&[]), p_value(&[0.0; 9])], [1.0; 2]);
    }

    #[test]
    fn equal_differences_are_the_sign_test() {
        // scipy.stats.binomtest(11, 13).pvalue
        let differences: Vec<f64> = (0..13).map(|i| if i < 11 { 0.25 } else { -0.25 }).collect();
        assert!((p_value(&differences) - 0.022460937500000003).abs() < 1e-12);
    }

    #[test]
    fn the_saddlepoint_is_what_counting_all_signs_gives() {
        for (shift, seed) in [(0.1, 1), (0.4, 2), (0.7, 3), (1.2, 4)] {
            let mut state = seed as f64;
            let mut next = || {
                state = (state * 16807.0) % 2147483647.0;
                state / 2147483647.0
            };
            let sizes: Vec<f64> = (0..18).map(|_| next() * 2.0 - 1.0 + shift).collect();
            let sum = sizes.iter().sum::<f64>().abs();
            let absolute: Vec<f64> = sizes.iter().map(|d| d.abs()).collect();
            let (exact, near) = (counted(&absolute, sum), saddlepoint(&absolute, sum));
            assert!((near / exact - 1.0).abs() < 0.02, "{near} for {exact}");
        }
    }

    #[test]
    fn an_estimate_is_the_p_value_within_a_small_part_of_what_counts_as_apart() {
        let mut state = 7.0f64;
        let mut next = || {
            state = (state * 16807.0) % 2147483647.0;
            state / 2147483647.0
        };
        let mut looked = 0;
        for k in 0..600 {
            let n = [15, 16, 30, 61, 400, 1000, 2000][k % 7];
            // Even, heavy-tailed and skewed ones, some of them 0.
            let draw = |u: f64| match k % 4 {
                0 => u - 0.5,
                1 => (u - 0.5).powi(5) * 100.0,
                2 => -u.ln() - 1.0,
                _ => {
                    if u < 0.4 {
                        0.0
                    } else {
                        (u * 7.0).sin()
                    }
                }
            };
            let values: Vec<f64> = (0..n).map(|_| draw(next())).collect();
            let centre = values.iter().sum::<f64>() / n as f64;
            let reach = next() * 6.0 / (n as f64).sqrt();
            let differences: Vec<f64> = values.iter().map(|value| value - (centre + reach)).collect();
            let exact = p_value(&differences);
            if let Some(near) = estimate(&values, centre + reach) {
                looked += 1;
                assert!((near / exact - 1.0).abs() < APART / 20.0, "{near} for {exact}, {n}, {k}");
            }
            for level in [0.05, exact, exact * (1.0 + 1e-12)] {
                assert_eq!(reaches(&values, centre + reach, level), exact >= level, "{exact} at {level}");
            }
        }
        assert!(looked > 450, "{looked}");
        assert_eq!([estimate(&[1.0; 9], 0.0), estimate(&[1.0; 99], 0.0), estimate(&[1.0; 99], 1.0)], [None; 3]);
        assert_eq!(estimate(&[f64::NAN; 99], 1.0), None);
    }

    #[test]
    fn small_p_values_are_told_apart() {
        let differences: Vec<f64> = (0..60).map(|i| 0.5 + (i as f64 * 0.7).sin()).collect();
        let p = p_value(&differences);
        assert!(p > 1e-7 && p < 1e-3, "{p}");
        assert_eq!(p_value(&[1.0; 60]), least(60));
    }
}
