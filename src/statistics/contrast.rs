//! Two settings beside each other, on the same samples.

use super::bounded;
use super::mean::Sample;
use super::proportion::{paired, sign_test, within};
use super::seeds::{Setting, Spread, p_value, widened};
use super::summary::figure;
use super::{Link, Quantity};

/// How far a setting is from another.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    pub value: f64,
    pub other: f64,
    /// `value - other`.
    pub delta: f64,
    /// The 95% interval of that, paired on samples; it has 0 in it exactly where `p_value` is at least 0.05. None where there
    /// are too few samples, or where all differ by the same.
    pub interval: Option<(f64, f64)>,
    /// Two-sided, of no difference. None where the samples are not the same ones.
    pub p_value: Option<f64>,
    /// Of a difference at least as large as the margin, in either direction: the larger of two one-sided p-values
    /// (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).
    pub p_margin: Option<f64>,
}

/// Compares two settings on the same samples in the same order, over replicates by their means. Exponentials are compared by
/// their logarithms, and `margin` is one of logarithms then, so that loss and perplexity have the same p-values.
pub fn contrast(quantity: &Quantity, setting: &Setting, other: &Setting, margin: f64) -> Contrast {
    Compared::new(quantity, setting, other).contrast(quantity, margin)
}

/// Two settings on the same samples, tested: what all figures that are made of the same shares have in common.
pub struct Compared<'a> {
    setting: &'a Setting,
    other: &'a Setting,
    tested: Option<Tested>,
    p_value: Option<f64>,
    /// Of the difference of means.
    interval: Option<(f64, f64)>,
}

impl<'a> Compared<'a> {
    /// Compares them as the figures of this quantity are, and as all are whose rows are right or wrong exactly where its are.
    pub fn new(quantity: &Quantity, setting: &'a Setting, other: &'a Setting) -> Self {
        let is_paired = setting.samples() == other.samples();
        let tested = if is_paired { Tested::of(quantity, setting, other) } else { None };
        let (p_value, interval) = (tested.as_ref().map(|t| t.p_value(0.0)), tested.as_ref().and_then(Tested::interval));
        Self { setting, other, tested, p_value, interval }
    }

    /// How far the figures of a quantity are apart.
    pub fn contrast(&self, quantity: &Quantity, margin: f64) -> Contrast {
        let [value, other] = [self.setting, self.other].map(|setting| figure(quantity, setting));
        let interval = self.interval.map(|(low, high)| {
            let (least, most) = quantity.range;
            let (low, high) = (low.max(least - most), high.min(most - least));
            match quantity.link {
                Link::Identity => (low, high),
                Link::Exp => (other * low.exp_m1(), other * high.exp_m1()),
            }
        });
        let p_margin = self.tested.as_ref().map(|tested| tested.beyond(margin));
        Contrast { value, other, delta: value - other, interval, p_value: self.p_value, p_margin }
    }
}

/// The differences of two settings, in the way that they are tested.
enum Tested {
    /// Rows that only the one, only the other has right, of all.
    Rows { first: u64, second: u64, all: u64 },
    Means {
        sample: Sample,
        over_samples: Option<(f64, f64)>,
        spreads: Vec<Spread>,
        /// How far a row can be from the same row of the other, where there is a bound.
        bound: Option<f64>,
    },
}

impl Tested {
    fn of(quantity: &Quantity, setting: &Setting, other: &Setting) -> Option<Self> {
        let (own, others) = (setting.averages(), other.averages());
        if setting.is_of_rows(quantity) && other.is_of_rows(quantity) {
            let count = |of: &dyn Fn(f64, f64) -> bool| own.iter().zip(others).filter(|(a, b)| of(**a, **b)).count();
            let (first, second) = (count(&|a, b| a > b) as u64, count(&|a, b| a < b) as u64);
            return Some(Self::Rows { first, second, all: own.len() as u64 });
        }
        let sample = Sample::new(own.iter().zip(others).map(|(a, b)| a - b).collect())?;
        let spreads = [setting, other].into_iter().filter_map(Setting::spread).collect();
        let (least, most) = quantity.range;
        // Of rows none of which are alike, as by divergences, each has said how far it may be.
        let are_some_alike = setting.is_plain() && other.is_plain() && sample.values().contains(&0.0);
        let bound = Some(most - least).filter(|width| width.is_finite() && are_some_alike);
        Some(Self::Means { over_samples: sample.interval(), sample, spreads, bound })
    }

    /// Two-sided, of "the difference is `delta`"; of rows only for none.
    fn p_value(&self, delta: f64) -> f64 {
        match self {
            Self::Rows { first, second, .. } => sign_test(*first, *second),
            Self::Means { sample, over_samples, spreads, .. } => {
                let distance = (sample.mean - delta).abs();
                let half = over_samples.map(
                    |(low, high)| {
                        if delta < sample.mean { sample.mean - low } else { high - sample.mean }
                    },
                );
                p_value(sample.p_value(delta), distance, half, sample.len(), spreads)
            }
        }
    }

    /// Of "the difference is as large as the margin, or larger".
    fn beyond(&self, margin: f64) -> f64 {
        match self {
            Self::Rows { first, second, all } => within(*first, *second, *all, margin),
            Self::Means { sample, bound, .. } => {
                // Rows that are alike say little of rare ones that are not.
                let of_rare = bound.map_or(0.0, |bound| bounded::beyond(sample.values(), bound, margin));
                let one_sided = |bound: f64, is_inside: bool| {
                    let p = self.p_value(bound) / 2.0;
                    if is_inside { p } else { 1.0 - p }
                };
                // Half a p-value is never more than one less half a p-value: of a mean outside, the side that it is on counts.
                let of_all = match (sample.mean > -margin, sample.mean < margin) {
                    (true, false) => one_sided(margin, false),
                    (false, true) => one_sided(-margin, false),
                    (above, below) => one_sided(margin, below).max(one_sided(-margin, above)),
                };
                of_all.max(of_rare)
            }
        }
    }

    fn interval(&self) -> Option<(f64, f64)> {
        match self {
            Self::Rows { first, second, all } => Some(paired(*first, *second, *all)),
            Self::Means { sample, over_samples, spreads, .. } => {
                let (low, high) = (*over_samples)?;
                let mean = sample.mean;
                Some((mean - widened(mean - low, spreads), mean + widened(high - mean, spreads)))
            }
        }
    }
}

/// The fewest samples of which the surest can be told from chance among so many comparisons: all differ in one direction.
pub fn fewest(comparisons: usize) -> usize {
    (1..).find(|&n| super::flips::least(n) * (comparisons.max(1) as f64) < super::LEVEL).expect("it falls for ever")
}

/// How many rows that are all alike it takes to show one of so many settings within a margin of another, where a row can differ by 1:
/// that none of so many would have differed, (1 − margin)ⁿ, is less likely than the level.
pub fn rows_for_margin(margin: f64, comparisons: usize) -> usize {
    let margin = margin.clamp(1e-9, 1.0 - 1e-9);
    ((super::LEVEL / comparisons.max(1) as f64).ln() / (-margin).ln_1p()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::super::{LEVEL, Share};
    use super::*;

    fn fixed(values: &[f64]) -> Setting {
        Setting::fixed(values.iter().copied().map(Share::one).collect())
    }

    /// Values that look drawn.
    fn values(n: usize, from: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + from * 104_729) % 997) as f64 / 997.0).collect()
    }

    #[test]
    fn a_setting_against_itself_differs_by_nothing_and_is_within_any_margin() {
        let setting = fixed(&values(30, 1));
        let found = contrast(&Quantity::MEAN, &setting, &setting, 0.02);
        assert_eq!((found.delta, found.p_value, found.interval), (0.0, Some(1.0), None));
        assert!(found.p_margin.unwrap() < 1e-6);
        // Of few rows that are right or wrong, nobody knows how many more would have differed.
        // Nor of scores between.
        for n in [30, 140, 160] {
            let scores = fixed(&values(n, 1));
            let found = contrast(&Quantity::SHARE, &scores, &scores, 0.02);
            assert_eq!(found.p_margin.unwrap() < LEVEL, n == 160, "{n}: {found:?}");
        }
        let rows = fixed(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        let found = contrast(&Quantity::SHARE, &rows, &rows, 0.02);
        assert!(found.p_margin.unwrap() > LEVEL && found.interval.is_some_and(|(low, high)| low < 0.0 && high > 0.0));
    }

    #[test]
    fn rows_that_are_right_or_wrong_are_mcnemars() {
        let first: Vec<f64> = (0..40).map(|i| f64::from(i < 30)).collect();
        let second: Vec<f64> = (0..40).map(|i| f64::from(!(18..38).contains(&i))).collect();
        // scipy.stats.binomtest(2, 14).pvalue
        let found = contrast(&Quantity::SHARE, &fixed(&first), &fixed(&second), 0.02);
        assert!((found.p_value.unwrap() - 0.012939453125).abs() < 1e-12 && found.delta == 0.25, "{found:?}");
        assert!(found.interval.unwrap().0 > 0.0);
    }

    #[test]
    fn loss_and_perplexity_are_one_finding() {
        let (a, b) = (fixed(&values(20, 1)), fixed(&values(20, 2)));
        let (loss, perplexity) = (contrast(&Quantity::MEAN, &a, &b, 0.1), contrast(&Quantity::EXP, &a, &b, 0.1));
        assert_eq!((loss.p_value, loss.p_margin), (perplexity.p_value, perplexity.p_margin));
        let (low, high) = perplexity.interval.unwrap();
        assert!(low < perplexity.delta && perplexity.delta < high);
        assert!((perplexity.delta - (loss.value.exp() - loss.other.exp())).abs() < 1e-12);
    }

    #[test]
    fn seeds_that_hardly_differ_add_hardly_anything() {
        // Three seeds with 12 of 60 rows right, one of them another row, against none.
        let seed =
            |k: usize| (0..60).map(|i| Share::one(f64::from(i % 5 == 0 && i != 0 || i == k))).collect::<Vec<_>>();
        let seeds = Setting::drawn(vec![seed(0), seed(0), seed(1)]);
        let found = contrast(&Quantity::MEAN, &seeds, &fixed(&[0.0; 60]), 0.02);
        assert!(found.p_value.unwrap() < 0.002, "{found:?}");
        // Seeds that differ as much as their mean differs from the other claim nothing.
        let seed = |level: f64| (0..60).map(|i| Share::one(level + f64::from(i % 7) / 100.0)).collect::<Vec<_>>();
        let seeds = Setting::drawn(vec![seed(0.0), seed(0.2), seed(0.4)]);
        let found = contrast(
            &Quantity::MEAN,
            &seeds,
            &fixed(&values(60, 3).iter().map(|v| v / 100.0).collect::<Vec<_>>()),
            0.02,
        );
        assert!(found.p_value.unwrap() > LEVEL && found.interval.unwrap().0 < 0.0, "{found:?}");
    }

    #[test]
    fn other_samples_are_not_paired_and_no_numbers_not_tested() {
        let found = contrast(&Quantity::MEAN, &fixed(&values(20, 1)), &fixed(&values(19, 1)), 0.1);
        assert!(found.p_value.is_none() && found.interval.is_none() && found.delta.is_finite());
        let found = contrast(&Quantity::MEAN, &fixed(&[f64::NAN; 9]), &fixed(&[1.0; 9]), 0.1);
        assert!(found.p_value.is_none() && found.delta.is_nan());
        let found = contrast(&Quantity::EXP, &fixed(&[f64::INFINITY; 9]), &fixed(&[1.0; 9]), 0.1);
        assert!(found.p_value.is_none() && found.value.is_infinite());
        assert_eq!(contrast(&Quantity::MEAN, &fixed(&[]), &fixed(&[]), 0.1).p_value, None);
    }

    #[test]
    fn rows_none_of_which_are_alike_say_by_themselves_how_far_they_may_be() {
        let divergence = Quantity::MEAN.within(0.0, std::f64::consts::LN_2);
        let small: Vec<f64> = values(30, 1).iter().map(|value| 1e-5 * (1.0 + value)).collect();
        let p = |values: &[f64]| contrast(&divergence, &fixed(values), &fixed(&[0.0; 30]), 0.01).p_margin.unwrap();
        assert!(p(&small) < LEVEL);
        // One that is, and nobody knows of how many more.
        assert!(p(&[&[0.0], &small[1..]].concat()) > LEVEL);
    }

    #[test]
    fn as_many_rows_as_are_enough_for_a_margin_show_it() {
        for (margin, comparisons) in [(0.02, 1), (0.02, 5), (0.1, 3)] {
            let enough = rows_for_margin(margin, comparisons);
            let p = |n: usize| within(0, 0, n as u64, margin) * comparisons as f64;
            assert!(p(enough) < LEVEL && p(enough - 1) >= LEVEL, "{enough}");
        }
        assert_eq!(rows_for_margin(0.02, 1), 149);
    }

    #[test]
    fn the_fewest_samples_that_could_tell_are_those_whose_signs_could() {
        assert_eq!([1, 2, 12, 200].map(fewest), [6, 7, 9, 13]);
    }
}
