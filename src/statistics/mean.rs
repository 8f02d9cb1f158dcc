//! A mean of samples: the test of what it is, and the interval that the test leaves.
//!
//! The p-value is the larger of two. The sign-flip test ([`super::flips`]) holds its level on all symmetric differences, however
//! heavy their tails, but says too much of skewed ones: 9% false alarms at 12 exponential differences, 15% at log-normal ones.
//! Hall's transformation of Student's t (Journal of the Royal Statistical Society B 54, 1992) takes the skewness out of it, but
//! says too much where tails are heavy. Neither errs where the other does.
//!
//! The interval is made of all means that the test does not reject, so that it has 0 in it exactly where p ≥ 0.05.

use std::cell::RefCell;
use std::collections::HashMap;

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::flips;
use super::verdict::LEVEL;

/// Beyond so many samples, the sign-flip test and Student's t are the same to three digits, and the latter takes less time.
const MANY: usize = 2000;
/// Below so many samples only this part of the skewness is taken for true: more costs too much power.
const FEW: usize = 10;
const OF_FEW: f64 = 0.75;
/// Below so many, it is not looked at: all that can be found is that every sample has one sign.
const FEWER: usize = 8;

/// Samples, as what they are apart from their mean.
pub struct Sample {
    values: Vec<f64>,
    pub mean: f64,
    /// Of the mean: its standard error.
    pub error: f64,
    skewness: f64,
}

impl Sample {
    /// None of fewer than two, or of what is no number.
    pub fn new(values: Vec<f64>) -> Option<Self> {
        let n = values.len() as f64;
        if values.len() < 2 || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let moment = |power: i32| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / n;
        let variance = moment(2);
        // What rounding leaves of equal values is nothing.
        let size = values.iter().fold(0.0f64, |size, value| size.max(value.abs()));
        let same = variance.sqrt() <= 1e-12 * size;
        let adjusted = if values.len() < FEW { OF_FEW } else { (n * (n - 1.0)).sqrt() / (n - 2.0) };
        let skewness = if same { 0.0 } else { adjusted * moment(3) / variance.powf(1.5) };
        let error = if same { 0.0 } else { (variance / (n - 1.0)).sqrt() };
        Some(Self { values, mean, error, skewness })
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The two-sided p-value of "the mean is `mean`".
    pub fn p_value(&self, mean: f64) -> f64 {
        if self.error == 0.0 {
            // Equal values speak by their signs alone.
            return if (self.mean - mean).abs() <= 1e-12 * self.mean.abs() { 1.0 } else { flips::least(self.len()) };
        }
        let skewed = self.skewed(mean);
        if self.len() > MANY {
            return skewed.max(two_sided((self.mean - mean) / self.error, self.len() - 1));
        }
        let flipped = || flips::p_value(&self.values.iter().map(|value| value - mean).collect::<Vec<_>>());
        if self.len() < FEWER {
            return flipped();
        }
        // The larger one counts: what is surely smaller need not be had to the last digit.
        let is_smaller = flips::estimate(&self.values, mean).is_some_and(|near| near < skewed * (1.0 - flips::APART));
        if is_smaller { skewed } else { flipped().max(skewed) }
    }

    /// Whether the p-value of "the mean is `mean`" is at least 0.05.
    fn is_kept(&self, mean: f64) -> bool {
        if self.error == 0.0 || self.len() > MANY || self.len() < FEWER {
            return self.p_value(mean) >= LEVEL;
        }
        self.skewed(mean) >= LEVEL || flips::reaches(&self.values, mean, LEVEL)
    }

    /// Hall's eq. 3, and the distribution of Student's t.
    fn skewed(&self, mean: f64) -> f64 {
        let (n, skewness) = (self.len() as f64, self.skewness);
        let t = (self.mean - mean) / self.error / n.sqrt();
        let transformed = t + skewness * t.powi(2) / 3.0 + skewness.powi(2) * t.powi(3) / 27.0 + skewness / (6.0 * n);
        two_sided(transformed * n.sqrt(), self.len() - 1)
    }

    /// The means with a p-value of at least 0.05. None where that is every mean (fewer than six samples), or one alone (equal
    /// values).
    pub fn interval(&self) -> Option<(f64, f64)> {
        (self.error > 0.0 && flips::least(self.len()) < LEVEL).then(|| (self.bound(-1.0), self.bound(1.0)))
    }

    /// The last mean on one side that is not rejected. Where 0 is on that side, it is on the side of the bound that its own
    /// p-value says.
    fn bound(&self, side: f64) -> f64 {
        let is_kept = |mean: f64| self.is_kept(mean);
        let (mut kept, mut step) = (self.mean, 2.0 * self.error);
        let mut rejected = f64::NAN;
        if self.mean * side < 0.0 {
            *(if is_kept(0.0) { &mut kept } else { &mut rejected }) = 0.0;
        }
        if rejected.is_nan() {
            rejected = kept + side * step;
            while is_kept(rejected) && step < 1e9 * self.error {
                kept = rejected;
                step *= 2.0;
                rejected += side * step;
            }
        }
        while (rejected - kept).abs() > 1e-4 * self.error {
            let middle = (kept + rejected) / 2.0;
            *(if is_kept(middle) { &mut kept } else { &mut rejected }) = middle;
        }
        kept
    }
}

/// P(|T| ≥ |t|) of Student's t.
pub fn two_sided(t: f64, freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).map_or(1.0, |student| (2.0 * student.sf(t.abs())).min(1.0))
}

/// The t with P(|T| ≥ t) = p.
///
/// Whoever halves an interval of levels asks for the same ones again and again, and of many settings for most of them: what was
/// found is kept, by thread.
pub fn quantile(p: f64, freedom: usize) -> f64 {
    thread_local! {
        static FOUND: RefCell<HashMap<(u64, usize), f64>> = RefCell::default();
    }
    /// Then all is forgotten: 50 MB.
    const MOST: usize = 1 << 20;
    let find =
        || StudentsT::new(0.0, 1.0, freedom as f64).map_or(f64::INFINITY, |student| -student.inverse_cdf(p / 2.0));
    FOUND.with_borrow_mut(|found| {
        if found.len() >= MOST {
            found.clear();
        }
        *found.entry((p.to_bits(), freedom)).or_insert_with(find)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values.to_vec()).unwrap()
    }

    #[test]
    fn an_interval_has_zero_in_it_exactly_where_the_test_does_not_reject_it() {
        for k in 0..200 {
            let values: Vec<f64> =
                (0..9).map(|i| ((i * 37 + k * 11) % 97) as f64 / 97.0 - 0.2 - k as f64 / 500.0).collect();
            let sample = sample(&values);
            let (low, high) = sample.interval().unwrap();
            assert!(low < sample.mean && sample.mean < high);
            assert_eq!(low > 0.0 || high < 0.0, sample.p_value(0.0) < LEVEL, "{values:?}");
        }
    }

    #[test]
    fn what_is_not_looked_at_changes_no_bit_of_a_p_value_or_a_bound() {
        /// All of it, as the definition has it.
        fn p_value(sample: &Sample, mean: f64) -> f64 {
            let differences: Vec<f64> = sample.values.iter().map(|value| value - mean).collect();
            flips::p_value(&differences).max(sample.skewed(mean))
        }
        fn bound(sample: &Sample, side: f64) -> f64 {
            let is_kept = |mean: f64| p_value(sample, mean) >= LEVEL;
            let (mut kept, mut step, mut rejected) = (sample.mean, 2.0 * sample.error, f64::NAN);
            if sample.mean * side < 0.0 {
                *(if is_kept(0.0) { &mut kept } else { &mut rejected }) = 0.0;
            }
            if rejected.is_nan() {
                rejected = kept + side * step;
                while is_kept(rejected) && step < 1e9 * sample.error {
                    (kept, step) = (rejected, 2.0 * step);
                    rejected += side * step;
                }
            }
            while (rejected - kept).abs() > 1e-4 * sample.error {
                let middle = (kept + rejected) / 2.0;
                *(if is_kept(middle) { &mut kept } else { &mut rejected }) = middle;
            }
            kept
        }
        for k in 0..120usize {
            let n = [9, 15, 24, 60, 333, 1000][k % 6];
            let value = |i: usize| {
                let u = ((i * 7919 + k * 104_729) % 9973) as f64 / 9973.0;
                [u - 0.45, (u - 0.5).powi(5) * 40.0, 0.4 * (-(1.0 - u).ln() - 0.9), (8.0 * u).floor() - 3.0][k % 4]
            };
            let sample = sample(&(0..n).map(value).collect::<Vec<_>>());
            for mean in [0.0, 0.02, -0.02, sample.mean, sample.mean + 3.0 * sample.error] {
                assert_eq!(sample.p_value(mean).to_bits(), p_value(&sample, mean).to_bits(), "{n}, {k}");
            }
            assert_eq!(sample.interval(), Some((bound(&sample, -1.0), bound(&sample, 1.0))), "{n}, {k}");
        }
    }

    #[test]
    fn many_symmetric_samples_have_students_interval() {
        let values: Vec<f64> = (0..400).map(|i| ((i * 7 % 400) as f64 - 199.5) / 100.0).collect();
        let (low, high) = sample(&values).interval().unwrap();
        // scipy.stats.t.interval(0.95, 399, 0, numpy.std(values, ddof=1) / 20)
        assert!((high - 0.11364).abs() < 2e-3 && (low + 0.11364).abs() < 2e-3, "{low} {high}");
    }

    #[test]
    fn few_samples_have_no_interval_and_equal_ones_none_of_width_zero() {
        assert_eq!(sample(&[1.0, 2.0, 3.0, 1.5, 2.5]).interval(), None);
        assert!(sample(&[1.0, 2.0, 3.0, 1.5, 2.5, 2.0]).interval().is_some());
        let equal = sample(&[0.1; 12]);
        assert_eq!((equal.interval(), equal.p_value(0.1), equal.p_value(0.0)), (None, 1.0, 0.5f64.powi(11)));
        assert!(Sample::new(vec![1.0]).is_none() && Sample::new(vec![1.0, f64::INFINITY]).is_none());
    }

    #[test]
    fn quantiles_undo_probabilities() {
        // scipy.stats.t.ppf(0.975, 2), scipy.stats.t.sf(3.0, 7) * 2
        assert!((quantile(0.05, 2) - 4.302652729911275).abs() < 1e-8);
        assert!((two_sided(3.0, 7) - 0.019942126132).abs() < 1e-8);
    }
}
