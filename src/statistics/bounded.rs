//! The mean of values that have a bound: how likely is a mean beyond `t`, where values far from the others are rare?
//!
//! Of twelve answers that two models give alike nobody knows how many more would have differed, and by how much: a test that knows
//! nothing but the samples finds no difference at all, however small the margin. What can be is that the next value is the bound.
//! Gaffke's test (Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable,
//! Mathematical Methods of Statistics 14, 2005; Learned-Miller & Thomas, 2020) puts one at the bound beside the samples and weighs
//! all of them by what uniform order statistics lie apart: its p-value is P(Σ Eᵢ (xᵢ − t) + E₀ (bound − t) ≥ 0), all E exponential.
//! Of values that are 0 or 1 that is Clopper and Pearson's, and of none that differs (1 − t)ⁿ.
//!
//! The probability is had by a saddlepoint (Lugannani & Rice 1980), which is up to 3% too large and hardly ever too small.

use statrs::distribution::{Continuous, ContinuousCDF, Normal};

/// p of "the mean is `t` or more", of values that are at most `bound`. At most 1, also where the values speak for it.
pub fn at_least(values: &[f64], bound: f64, t: f64) -> f64 {
    let distances = || values.iter().map(|value| value - t).chain([bound - t]);
    let most = distances().fold(f64::NEG_INFINITY, f64::max);
    match distances().sum::<f64>() {
        // No value, nor any that could have been, reaches as far.
        _ if most <= 0.0 => return 0.0,
        sum if sum < 0.0 => {}
        _ => return 1.0,
    }
    // The slope of the cumulant generating function −Σ ln(1 − s c) rises from below 0 at 0 to infinity at 1 / most.
    let slope = |s: f64| distances().map(|c| c / (1.0 - s * c)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0 / most);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        *(if slope(middle) < 0.0 { &mut low } else { &mut high }) = middle;
    }
    let s = low;
    let cumulant = -distances().map(|c| (-s * c).ln_1p()).sum::<f64>();
    let curvature = distances().map(|c| (c / (1.0 - s * c)).powi(2)).sum::<f64>();
    let (w, u) = ((-2.0 * cumulant).max(0.0).sqrt(), s * curvature.sqrt());
    // Next to where the sum is what is expected, the expansion divides nothing by nothing.
    if w < 1e-4 {
        return 1.0;
    }
    let normal = Normal::standard();
    (normal.sf(w) + normal.pdf(w) * (1.0 / u - 1.0 / w)).clamp(0.0, 1.0)
}

/// p of "the mean is `margin` or more away from 0", of values between −`bound` and `bound`: the larger of two one-sided tests.
pub fn beyond(values: &[f64], bound: f64, margin: f64) -> f64 {
    let mirrored: Vec<f64> = values.iter().map(|value| -value).collect();
    at_least(values, bound, margin).max(at_least(&mirrored, bound, margin))
}

#[cfg(test)]
mod tests {
    use super::super::proportion::within;
    use super::*;

    #[track_caller]
    fn assert_near(found: f64, expected: f64) {
        let ratio = found / expected;
        assert!((0.995..1.03).contains(&ratio), "{found} for {expected}");
    }

    #[test]
    fn of_values_that_do_not_differ_the_next_one_may() {
        for (n, t) in [(6, 0.5), (12, 0.3), (60, 0.05), (149, 0.02), (500, 0.02), (2000, 0.005)] {
            assert_near(at_least(&vec![0.0; n], 1.0, t), (1.0 - t).powi(n as i32));
            // As the test of rows that are right or wrong has it.
            assert_near(beyond(&vec![0.0; n], 1.0, t), within(0, 0, n as u64, t));
        }
    }

    #[test]
    fn of_zeros_and_ones_it_is_clopper_and_pearsons() {
        // scipy.stats.binom.cdf(3, 40, 0.2), …
        for (ones, n, t, p) in [
            (3, 40, 0.2, 0.028526065),
            (2, 100, 0.07, 0.025788541),
            (10, 30, 0.55, 0.013835826),
            (0, 20, 0.1, 0.121576655),
        ] {
            let values: Vec<f64> = (0..n).map(|i| f64::from(i < ones)).collect();
            assert_near(at_least(&values, 1.0, t), p);
        }
    }

    #[test]
    fn what_speaks_for_it_or_cannot_be_is_sure() {
        assert_eq!(at_least(&[0.5; 9], 1.0, 0.5), 1.0);
        assert_eq!(at_least(&[0.4, 0.7], 1.0, 0.55), 1.0);
        assert_eq!(at_least(&[0.5; 9], 1.0, 1.0), 0.0);
        assert_eq!(at_least(&[], 1.0, 0.5), 1.0);
        assert!(at_least(&[-1.0; 40], 1.0, 0.9) < 1e-9);
    }

    #[test]
    fn the_further_away_the_less_likely() {
        let values: Vec<f64> = (0..60).map(|i| f64::from(i * 37 % 60) / 60.0 - 0.5).collect();
        let p: Vec<f64> = (1..40).map(|t| at_least(&values, 1.0, f64::from(t) / 80.0)).collect();
        assert!(p.windows(2).all(|pair| pair[1] <= pair[0]), "{p:?}");
        assert_eq!(beyond(&values, 1.0, 0.1), at_least(&values, 1.0, 0.1).max(beyond(&values, 1.0, 0.1)));
    }
}
