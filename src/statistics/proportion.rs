//! Rows that are right or wrong: the share of right ones, and the difference between two models on the same rows.
//!
//! A share has the interval of Clopper & Pearson (Biometrika 26, 1934). Wilson's is shorter, by a fifth at 6 rows and a
//! fortieth at 500, but covers a share near 0 or 1 as seldom as 84% of the time, however many rows there are.
//!
//! A difference has the interval and the test against a margin that come from Tango's score ([`super::tango`]). That it
//! is zero is tested by the exact form of McNemar's test (Psychometrika 12, 1947).

use statrs::distribution::{Beta, Binomial, ContinuousCDF, DiscreteCDF};

use super::tango::Table;
use super::verdict::LEVEL;

/// The 95% interval of a share, from how many of `n` were right. All of (0, 1) where `n` is 0.
pub fn exact(successes: u64, n: u64) -> (f64, f64) {
    let (right, wrong) = (successes.min(n) as f64, n.saturating_sub(successes) as f64);
    let quantile = |right: f64, wrong: f64, level: f64| Beta::new(right, wrong).ok().map(|b| b.inverse_cdf(level));
    // No share is too small where none was right, none too large where all were: these have no beta distribution.
    (
        quantile(right, wrong + 1.0, LEVEL / 2.0).unwrap_or(0.0),
        quantile(right + 1.0, wrong, 1.0 - LEVEL / 2.0).unwrap_or(1.0),
    )
}

/// The 95% interval of the difference (b - c) / n, where of `n` rows `b` are right only with the first and `c` only with
/// the second. It excludes zero exactly if [`sign_test`] is below the level: Tango's by itself would at times exclude it
/// where the test, which is conservative, says nothing (5 rows to 0), so the interval takes in the one that belongs to
/// the test, Clopper and Pearson's of `b` among the rows that differ. Never of width zero, also where no row differs.
pub fn paired(b: u64, c: u64, n: u64) -> (f64, f64) {
    let Some(table) = Table::new(b, c, n) else { return (-1.0, 1.0) };
    let (low, high) = exact(b, table.b + table.c);
    let of_test = |share: f64| (2.0 * share - 1.0) * (table.b + table.c) as f64 / table.n as f64;
    ((-table.swapped().upper()).min(of_test(low)), table.upper().max(of_test(high)))
}

/// p of "each model is as often the only one that is right": two-sided, binomial among the rows that differ.
pub fn sign_test(b: u64, c: u64) -> f64 {
    let Ok(binomial) = Binomial::new(0.5, b.saturating_add(c)) else { return 1.0 };
    (2.0 * binomial.cdf(b.min(c))).min(1.0)
}

/// p of "the difference is `margin` or more, one way or the other": the larger of two one-sided tests. 1 where there is
/// no row or no margin.
pub fn within(b: u64, c: u64, n: u64, margin: f64) -> f64 {
    match Table::new(b, c, n) {
        Some(table) if margin > 0.0 => table.tail(margin).max(table.swapped().tail(margin)),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use statrs::distribution::Discrete;

    use super::*;

    #[track_caller]
    fn assert_close(found: (f64, f64), expected: (f64, f64), by: f64) {
        let differ = (found.0 - expected.0).abs().max((found.1 - expected.1).abs());
        assert!(differ < by, "{found:?} is not {expected:?}");
    }

    #[test]
    fn an_interval_of_a_share_covers_it_whatever_it_is_and_has_a_width() {
        for n in [6, 8, 12, 16, 30, 60, 500] {
            let intervals: Vec<_> = (0..=n).map(|right| exact(right, n)).collect();
            assert!(intervals.iter().all(|(low, high)| low < high));
            for step in 0..=1000 {
                let p = f64::from(step) / 1000.0;
                let binomial = Binomial::new(p, n).unwrap();
                let covers = |right: &u64| (intervals[*right as usize].0..=intervals[*right as usize].1).contains(&p);
                let coverage: f64 = (0..=n).filter(covers).map(|right| binomial.pmf(right)).sum();
                assert!(coverage >= 0.95 - 1e-9, "{coverage} at {n} rows, {p}");
            }
        }
    }

    #[test]
    fn an_interval_of_a_share_is_that_of_statsmodels() {
        // proportion_confint(40, 40, method="beta"), …
        assert_close(exact(40, 40), (0.9119026971212, 1.0), 1e-9);
        assert_close(exact(0, 20), (0.0, 0.1684334709831), 1e-9);
        assert_close(exact(7, 12), (0.2766696856821, 0.8483477701916), 1e-9);
        assert_close(exact(263, 500), (0.4811900062324, 0.5705008747118), 1e-9);
        assert_eq!(exact(0, 0), (0.0, 1.0));
    }

    #[test]
    fn a_sign_test_is_that_of_statsmodels() {
        // mcnemar([[0, 5], [0, 0]], exact=True).pvalue, …
        for (b, c, p) in
            [(5, 0, 0.0625), (12, 2, 0.012939453125), (25, 17, 0.27995623852893914), (9, 9, 1.0), (0, 0, 1.0)]
        {
            assert!((sign_test(b, c) - p).abs() < 1e-10 && sign_test(b, c) == sign_test(c, b), "{b} to {c}");
        }
    }

    #[test]
    fn a_test_against_a_margin_is_the_sum_over_all_tables() {
        // scipy: the trinomial's probabilities at (q + d, q), summed over the tables with a score as far or further.
        for (b, c, n, margin, p) in [
            (12, 10, 200, 0.05, 0.0525486248),
            (3, 2, 60, 0.1, 0.0337899496),
            (0, 0, 40, 0.1, 0.0147808829),
            (9, 14, 500, 0.04, 0.0025086729),
        ] {
            assert!((within(b, c, n, margin) - p).abs() < 1e-7, "{}", within(b, c, n, margin));
        }
        assert!(within(3, 3, 6, 0.1) > LEVEL && within(3, 3, 6, 2.0) < LEVEL);
        for (n, margin) in [(0, 0.1), (9, 0.0), (9, -1.0), (9, f64::NAN)] {
            assert_eq!(within(0, 0, n, margin), 1.0);
        }
    }

    /// The probability that a table of `n` rows is one of those chosen.
    fn probability(n: u64, first: f64, second: f64, chosen: impl Fn(u64, u64) -> bool) -> f64 {
        let of_second = Binomial::new(second, n).unwrap();
        let given = |c| Binomial::new((first / (1.0 - second)).min(1.0), n - c).unwrap();
        (0..=n)
            .map(|c| of_second.pmf(c) * (0..=n - c).filter(|&b| chosen(b, c)).map(|b| given(c).pmf(b)).sum::<f64>())
            .sum()
    }

    #[test]
    fn intervals_cover_a_difference_and_tests_against_a_margin_hold_their_level() {
        for n in [6, 8, 12, 16, 30] {
            let of_all = |f: &dyn Fn(u64, u64) -> (f64, f64)| -> Vec<Vec<_>> {
                (0..=n).map(|b| (0..=n - b).map(|c| f(b, c)).collect()).collect()
            };
            let intervals = of_all(&|b, c| paired(b, c, n));
            assert!(intervals.iter().flatten().all(|(low, high)| low < high));
            for delta in [0.0, 0.03, 0.1, 0.2, 0.32, 0.4, 0.6] {
                let p = of_all(&|b, c| (within(b, c, n, delta), 0.0));
                for second in (0..=20).map(|step| f64::from(step) / 40.0 * (1.0 - delta)) {
                    let covers = |b: u64, c: u64| {
                        let (low, high) = intervals[b as usize][c as usize];
                        low <= delta && delta <= high
                    };
                    let coverage = probability(n, second + delta, second, covers);
                    assert!(coverage >= 0.93, "{coverage} at {n} rows, {delta}, {second}");
                    let claims = probability(n, second + delta, second, |b, c| p[b as usize][c as usize].0 < LEVEL);
                    assert!(claims <= 0.055, "{claims} at {n} rows, {delta}, {second}");
                }
            }
        }
    }

    #[test]
    fn an_interval_excludes_zero_exactly_where_the_sign_test_does() {
        for (b, c) in (0..=30).flat_map(|b| (0..=30).map(move |c| (b, c))) {
            let (low, high) = paired(b, c, 75);
            assert!(low < high);
            assert_eq!(low > 0.0 || high < 0.0, sign_test(b, c) < LEVEL, "{b} to {c}: {low} to {high}");
        }
    }

    #[test]
    fn what_cannot_be_is_not_a_panic() {
        assert_eq!(paired(0, 0, 0), (-1.0, 1.0));
        assert!(paired(7, 9, 8).0 < paired(7, 9, 8).1);
        assert_eq!(paired(8, 0, 8).1, 1.0);
        assert_eq!(sign_test(u64::MAX, u64::MAX), 1.0);
        assert_eq!(exact(9, 8), exact(8, 8));
    }
}
