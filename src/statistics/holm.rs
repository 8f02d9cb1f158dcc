//! p values of one family, adjusted so that the chance of any false claim in it stays at the level.
//!
//! Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979). It holds
//! however the tests depend on each other.

/// The adjusted p values, in the order given: the `i`-th smallest of `m` times `m - i` (`i` from 0), at most 1, and
/// never below a smaller one's. What is NaN was not tested: it stays NaN and does not count among the `m`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    among(p, 0)
}

/// As [`holm`], of some of `all` p values, where whoever chose them looked at all: as large as they could be among these.
pub fn among(p: &[f64], all: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let all = all.max(order.len());
    let mut largest: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(p[i] * (all - rank) as f64).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }

    #[test]
    fn adjusted_values_are_those_of_statsmodels() {
        // multipletests([0.01, 0.04, 0.03, 0.005, 0.2, 0.03], method="holm")[1]
        let found = holm(&[0.01, 0.04, 0.03, 0.005, 0.2, 0.03]);
        assert_close(&found, &[0.05, 0.12, 0.12, 0.03, 0.2, 0.12]);
        // multipletests([0.9, 0.0, 0.3, 1.0, 0.016], method="holm")[1]
        assert_close(&holm(&[0.9, 0.0, 0.3, 1.0, 0.016]), &[1.0, 0.0, 0.9, 1.0, 0.064]);
    }

    #[test]
    fn what_was_not_tested_counts_for_nothing() {
        let found = holm(&[f64::NAN, 0.02, f64::NAN, 0.01]);
        assert!(found[0].is_nan() && found[2].is_nan());
        assert_close(&[found[1], found[3]], &holm(&[0.02, 0.01]));
        assert!(holm(&[f64::NAN])[0].is_nan());
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn some_of_many_are_corrected_for_all() {
        assert_close(&among(&[0.01, 0.02], 5), &[0.05, 0.08]);
        assert_close(&among(&[0.01, 0.02], 1), &holm(&[0.01, 0.02]));
    }

    #[test]
    fn the_order_of_the_values_does_not_matter() {
        let p = [0.04, 0.001, 0.04, 0.3, 0.012];
        let mut backwards = p;
        backwards.reverse();
        let mut found = holm(&backwards);
        found.reverse();
        assert_close(&found, &holm(&p));
    }
}
