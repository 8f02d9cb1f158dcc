//! Which of two metrics ranks the settings better: a permutation test for pairs (Good, Permutation, Parametric, and
//! Bootstrap Tests of Hypotheses, 2005). If they rank equally well, nothing changes where a setting's two ranks change
//! places. What then stands in for a metric is ranked anew: without that, metrics that agree nearly perfectly with what
//! they are held against differ by chance in up to 10% of tests at a level of 5%.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::correlation::{DRAWS, FEWEST, correlation, is_constant, ranks};
use super::holm::among;

/// The most settings of which all exchanges are looked at: 2^14 = 16,384.
const ALL_EXCHANGES: usize = 14;

/// p of "`a` and `b` rank the settings equally well as `y` does", two-sided. All three have one value a setting, and `a`
/// and `b` the same direction (a loss against an accuracy has to be negated). Among all exchanges of the two ranks up to
/// 14 settings, among 16,383 drawn ones and the one found beyond; 5 settings cannot have less than 2/2^5 = 0.06. None
/// as in [`spearman`](super::correlation::spearman).
pub fn difference(a: &[f64], b: &[f64], y: &[f64]) -> Option<f64> {
    let is_known = |i: &usize| [a, b, y].iter().all(|side| !side[*i].is_nan());
    let known: Vec<usize> = (0..a.len().min(b.len()).min(y.len())).filter(is_known).collect();
    let [a, b, y] = [a, b, y].map(|side| ranks(&known.iter().map(|&i| side[i]).collect::<Vec<_>>()));
    if known.len() < FEWEST || [&a, &b, &y].into_iter().any(|side| is_constant(side)) {
        return None;
    }
    let (mut first, mut second) = (a.clone(), b.clone());
    let mut apart = |is_exchanged: &dyn Fn(usize) -> bool| {
        for i in 0..y.len() {
            (first[i], second[i]) = if is_exchanged(i) { (b[i], a[i]) } else { (a[i], b[i]) };
        }
        (correlation(&ranked_anew(&first), &y) - correlation(&ranked_anew(&second), &y)).abs()
    };
    // What is equal but for rounding counts as equal.
    let found = apart(&|_| false) - 1e-12;
    let (as_far, all) = if y.len() <= ALL_EXCHANGES {
        let all: usize = 1 << y.len();
        ((0..all).filter(|exchanged| apart(&|i| exchanged >> i & 1 == 1) >= found).count(), all)
    } else {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let drawn = (0..DRAWS).filter(|_| {
            let words: Vec<u64> = (0..y.len().div_ceil(64)).map(|_| random.next_u64()).collect();
            apart(&|i| words[i / 64] >> (i % 64) & 1 == 1) >= found
        });
        (drawn.count() + 1, DRAWS + 1)
    };
    Some(as_far as f64 / all as f64)
}

/// p of "it ranks the settings as well as `best` does" for each of `others`, where `best` is the one of all of them that ranks these
/// best: which two lie that far apart nobody had said beforehand, so that it is adjusted (Holm) for all pairs. With eight metrics
/// that rank equally well, up to 19% of studies would say otherwise if it were adjusted for the comparisons with the best alone.
/// None of one that has not the same settings.
pub fn to_best(best: &[f64], others: &[Vec<f64>], y: &[f64]) -> Vec<Option<f64>> {
    let of_other = |other: &Vec<f64>| (other.len() == best.len()).then(|| difference(best, other, y)).flatten();
    let p_values: Vec<f64> = others.iter().map(|other| of_other(other).unwrap_or(f64::NAN)).collect();
    let pairs = others.len() * (others.len() + 1) / 2;
    among(&p_values, pairs).into_iter().map(|p| Some(p).filter(|p| !p.is_nan())).collect()
}

/// As [`ranks`], of what are ranks already: counted, not sorted, as it is done for every exchange.
fn ranked_anew(values: &[f64]) -> Vec<f64> {
    let place = |rank: &f64| (rank + (values.len() - 1) as f64) as usize;
    let mut counts = vec![0; 2 * values.len() - 1];
    values.iter().for_each(|rank| counts[place(rank)] += 1);
    let mut below = 0;
    for count in &mut counts {
        (*count, below) = (2 * below + *count, below + *count);
    }
    values.iter().map(|rank| counts[place(rank)] as f64 - values.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::super::correlation::tests::{noisy, normal, share};
    use super::*;

    #[test]
    fn a_p_value_is_that_of_all_exchanges() {
        // By itertools.product and scipy.stats.rankdata: 18 of 2^7.
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [4.0, 1.0, 6.0, 2.0, 7.0, 5.0, 3.0]);
        assert_eq!(difference(&a, &b, &[1.0, 3.0, 2.0, 4.0, 6.0, 5.0, 7.0]), Some(18.0 / 128.0));
    }

    #[test]
    fn metrics_that_rank_equally_well_are_told_apart_as_seldom_as_the_level_says() {
        for (n, times) in [(6, 2000), (8, 1000), (12, 200), (18, 60)] {
            for share_of_truth in [0.0, 0.7, 0.95] {
                let (found, at_most) = share(times, 2, |random| {
                    let y: Vec<f64> = (0..n).map(|_| normal(random)).collect();
                    let (a, b) = (noisy(&y, share_of_truth, random), noisy(&y, share_of_truth, random));
                    difference(&a, &b, &y).unwrap() < 0.05
                });
                assert!(found <= at_most, "{found} of differences at {n} settings, {share_of_truth}");
            }
        }
    }

    #[test]
    fn a_metric_that_tells_is_told_from_noise() {
        let (power, _) = share(40, 3, |random| {
            let y: Vec<f64> = (0..18).map(|_| normal(random)).collect();
            let (a, b) = (noisy(&y, 0.95, random), noisy(&y, 0.0, random));
            difference(&a, &b, &y).unwrap() < 0.05
        });
        assert!(power > 0.5, "{power}");
    }

    #[test]
    fn equal_rankings_are_not_told_apart_whatever_their_values() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.1, 0.2, 0.3, 0.4, 5.0, 60.0]);
        assert_eq!(difference(&a, &b, &[6.0, 1.0, 2.0, 5.0, 4.0, 3.0]), Some(1.0));
        // Two other rankings, each with one pair of neighbours the wrong way round.
        let (a, b) = ([2.0, 1.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 6.0, 5.0]);
        assert_eq!(difference(&a, &b, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Some(1.0));
    }

    #[test]
    fn ranks_of_ranks_are_counted_as_they_are_sorted() {
        for values in [[4.0, -4.0, 0.0, 4.0, 2.0], [-2.0, -2.0, -2.0, 3.0, 3.0], [1.0; 5]] {
            assert_eq!(ranked_anew(&values), ranks(&values));
        }
    }

    #[test]
    fn settings_without_a_value_are_left_out() {
        let (a, b, y) =
            ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [4.0, 1.0, 6.0, 2.0, 3.0, 5.0], [1.0, 3.0, 2.0, 4.0, 6.0, 5.0]);
        let with = |value: f64| {
            difference(&[&a[..], &[7.0]].concat(), &[&b[..], &[value]].concat(), &[&y[..], &[8.0]].concat())
        };
        assert_eq!(with(f64::NAN), difference(&a, &b, &y));
        assert_eq!(with(f64::INFINITY), with(9.0));
        assert_eq!(difference(&a[..4], &b[..4], &y[..4]), None);
        assert_eq!(difference(&[1.0; 6], &b, &y), None);
    }
}
