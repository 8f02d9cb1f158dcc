//! The sign-flip test: where differences are as likely to have either sign, every way of giving them signs is as likely as the
//! one that was found (Fisher 1935; Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, §3.2).
//!
//! Its p-value is the share of the 2ⁿ ways whose sum is as far from 0 as the one found. Up to [`EXACT`] differences that are
//! not 0 all ways are counted. Beyond, the distribution of the sum is had from its cumulant generating function
//! Σ ln cosh(t dᵢ) by a saddlepoint (Robinson, Annals of Statistics 10, 1982; Lugannani & Rice 1980), whose error is a few
//! thousandths of the p-value, however small that is: drawn signs could not tell what 200 comparisons need.

use statrs::distribution::{Continuous, ContinuousCDF, Normal};

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
    let normal = Normal::standard();
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
    let w = (2.0 * (t * sum - cumulant)).max(0.0).sqrt();
    let u = t * curvature.sqrt();
    let one_sided = normal.sf(w) + normal.pdf(w) * (1.0 / u - 1.0 / w);
    (2.0 * one_sided).clamp(least(sizes.len()), 1.0)
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
    fn small_p_values_are_told_apart() {
        let differences: Vec<f64> = (0..60).map(|i| 0.5 + (i as f64 * 0.7).sin()).collect();
        let p = p_value(&differences);
        assert!(p > 1e-7 && p < 1e-3, "{p}");
        assert_eq!(p_value(&[1.0; 60]), least(60));
    }
}
