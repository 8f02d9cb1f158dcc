//! Replicates: how far a figure is from what other seeds would have given.
//!
//! The mean over R replicates on n samples varies with the samples, by σ²(samples)/n + σ²(both)/(Rn), which the spread of each
//! sample's mean over replicates tells, and with the seeds, by σ²(seeds)/R. The latter is what the replicates' means vary by
//! beyond what a sample's reaction to a seed explains: Var(means)/R − MS(both)/(Rn), or 0, with R − 1 degrees of freedom (the
//! components of variance of a crossed design, Searle, Casella & McCulloch 1992, §4.3). Half of what is taken off there is
//! taken off here.
//!
//! The two are put together as half-widths: √(h² + Σ t²·σ²(seeds)/R), h the interval's over samples, t Student's quantile with
//! R − 1 degrees of freedom (Zou & Donner's method of variance estimates recovery, Statistics in Medicine 27, 2008). With degrees
//! of freedom as few as these, Satterthwaite's approximation gives up to three times as many false alarms as it should.

use super::mean::quantile;
use super::verdict::LEVEL;
use super::{Quantity, Share};

/// Of what a sample's reaction to a seed adds to the variance of the replicates' means, the part that is taken off. All of it would
/// leave seeds no variance by chance too often: 6% false alarms with two of them; none, and three seeds that do not differ would
/// widen an interval by a third.
const TAKEN_OFF: f64 = 0.5;

/// What was measured of a setting, its samples once for each replicate in the same order: all that tests and intervals take of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    drawn: bool,
    /// How many samples each replicate has.
    samples: usize,
    /// The mean of each replicate.
    means: Vec<f64>,
    /// Each sample's value, mean over replicates.
    averages: Vec<f64>,
    /// Whether every sample counts for one.
    is_plain: bool,
    spread: Option<Spread>,
}

/// The samples that have a share in all replicates of all of these: one that was not measured says nothing, and what others
/// make of it says nothing beside it.
pub fn in_all<const N: usize>(mut all: [Vec<Vec<Share>>; N]) -> [Vec<Vec<Share>>; N] {
    let samples = all.iter().flatten().map(Vec::len).min().unwrap_or(0);
    let is_there = |i: &usize| all.iter().flatten().all(|shares| shares[*i].weight > 0.0);
    let there: Vec<usize> = (0..samples).filter(is_there).collect();
    for shares in all.iter_mut().flatten() {
        *shares = there.iter().map(|&i| shares[i]).collect();
    }
    all
}

impl Setting {
    /// Replicates that are drawn from more that there could have been. With one, how far others would be is unknown.
    pub fn drawn(replicates: Vec<Vec<Share>>) -> Self {
        Self::of(&replicates, true)
    }

    /// Nothing is random but the samples.
    pub fn fixed(samples: Vec<Share>) -> Self {
        Self::of(&[samples], false)
    }

    fn of(replicates: &[Vec<Share>], drawn: bool) -> Self {
        let means: Vec<f64> = replicates.iter().map(|shares| total(shares)).collect();
        let values: Vec<Vec<f64>> = replicates.iter().zip(&means).map(|(shares, mean)| values(shares, *mean)).collect();
        let mut setting = Self {
            drawn,
            samples: replicates.first().map_or(0, Vec::len),
            averages: averages(&values),
            means,
            is_plain: replicates.iter().flatten().all(|share| share.weight == 1.0),
            spread: None,
        };
        setting.spread = setting.spread_of(&values);
        setting
    }

    /// How many samples each replicate has.
    pub fn samples(&self) -> usize {
        self.samples
    }

    pub fn replicates(&self) -> usize {
        self.means.len()
    }

    /// The mean of each replicate: sum of sums over sum of weights. NaN where that is nothing by nothing.
    pub(super) fn means(&self) -> &[f64] {
        &self.means
    }

    /// Each sample's value, mean over replicates.
    pub(super) fn averages(&self) -> &[f64] {
        &self.averages
    }

    /// Whether every sample counts for one, as rows do: of windows, no single position can be far from all others.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Whether its samples are rows that are right or wrong, and nothing between, whatever the seed.
    pub(super) fn is_of_rows(&self, quantity: &Quantity) -> bool {
        *quantity == Quantity::SHARE
            && self.samples > 0
            && self.is_plain
            && self.averages.iter().all(|&value| value == 0.0 || value == 1.0)
    }

    /// What seeds add to the variance of the mean over replicates. None where they add nothing, or nobody knows.
    pub(super) fn spread(&self) -> Option<Spread> {
        self.spread
    }

    fn spread_of(&self, values: &[Vec<f64>]) -> Option<Spread> {
        let (replicates, samples) = (self.replicates(), self.samples);
        if !self.drawn || replicates < 2 || samples < 2 {
            return None;
        }
        let (r, n) = (replicates as f64, samples as f64);
        let of_seeds = variance(&self.means) / r;
        let grand = self.means.iter().sum::<f64>() / r;
        let residual = |(of_seed, mean): (&Vec<f64>, &f64)| {
            of_seed.iter().zip(&self.averages).map(|(x, average)| (x - mean - average + grand).powi(2)).sum::<f64>()
        };
        let both = values.iter().zip(&self.means).map(residual).sum::<f64>() / ((r - 1.0) * (n - 1.0));
        let variance = of_seeds - TAKEN_OFF * both / (r * n);
        (variance > 0.0).then_some(Spread { variance, freedom: replicates - 1 })
    }
}

/// The mean of a replicate.
fn total(shares: &[Share]) -> f64 {
    let add = |total: Share, share: &Share| Share { sum: total.sum + share.sum, weight: total.weight + share.weight };
    shares.iter().fold(Share::default(), add).mean()
}

/// Each sample's value in a replicate. Where samples weigh differently, it is the mean and what the sample adds to it
/// (the ratio's linearisation, Cochran, Sampling Techniques, 1977, §6.3), so that the mean of all is the ratio.
fn values(shares: &[Share], mean: f64) -> Vec<f64> {
    let weight = shares.iter().map(|share| share.weight).sum::<f64>() / shares.len() as f64;
    let value = |share: &Share| mean + (share.sum - mean * share.weight) / weight;
    let plain = shares.iter().all(|share| share.weight == 1.0);
    shares.iter().map(|share| if plain { share.sum } else { value(share) }).collect()
}

fn averages(values: &[Vec<f64>]) -> Vec<f64> {
    let same = |i: usize| values.iter().all(|of_seed| of_seed[i] == values[0][i]);
    // The mean of equal values is that value, to the last bit.
    let mean = |i: usize| values.iter().map(|of_seed| of_seed[i]).sum::<f64>() / values.len() as f64;
    (0..values.first().map_or(0, Vec::len)).map(|i| if same(i) { values[0][i] } else { mean(i) }).collect()
}

/// The variance of equally likely values, by n − 1.
pub(super) fn variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)
}

/// What seeds add to the variance of a mean, and how many degrees of freedom that was estimated with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub variance: f64,
    pub freedom: usize,
}

/// A half-width over samples and seeds, from the one over samples.
pub(super) fn widened(half: f64, spreads: &[Spread]) -> f64 {
    if spreads.is_empty() { half } else { half.hypot(of_seeds(spreads, LEVEL)) }
}

/// The half-width over seeds at a level.
fn of_seeds(spreads: &[Spread], level: f64) -> f64 {
    spreads.iter().map(|spread| quantile(level, spread.freedom).powi(2) * spread.variance).sum::<f64>().sqrt()
}

/// The p-value of a mean that is `distance` away, over samples and seeds: the level at which the half-width is the distance.
/// `half` is the half-width over samples at 0.05, which goes to other levels as Student's t does; `p` is their own p-value.
pub(super) fn p_value(p: f64, distance: f64, half: Option<f64>, samples: usize, spreads: &[Spread]) -> f64 {
    let Some(half) = half.filter(|_| !spreads.is_empty()) else { return p };
    let freedom = samples.saturating_sub(1).max(1);
    let unit = half / quantile(LEVEL, freedom);
    let reaches = |level: f64| (unit * quantile(level, freedom)).hypot(of_seeds(spreads, level)) >= distance;
    if distance <= 0.0 {
        return 1.0;
    }
    // No smaller than what Student's t is had for in all digits.
    let (mut low, mut high) = (1e-12f64.ln(), 0.0);
    while high - low > 1e-4 {
        let middle = (low + high) / 2.0;
        *(if reaches(f64::exp(middle)) { &mut low } else { &mut high }) = middle;
    }
    f64::exp(low).max(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(replicates: &[&[f64]]) -> Setting {
        Setting::drawn(replicates.iter().map(|values| values.iter().copied().map(Share::one).collect()).collect())
    }

    #[test]
    fn a_sample_that_one_lacks_is_left_out_of_all() {
        let (here, lacking) = (Share::one, Share::default());
        let one = vec![vec![here(1.0), here(2.0), here(3.0)], vec![here(4.0), lacking, here(6.0)]];
        let other = vec![vec![lacking, here(8.0), here(9.0)]];
        assert_eq!(in_all([one.clone(), other]), [vec![vec![here(3.0)], vec![here(6.0)]], vec![vec![here(9.0)]]]);
        assert_eq!(in_all([one]), [vec![vec![here(1.0), here(3.0)], vec![here(4.0), here(6.0)]]]);
    }

    #[test]
    fn what_seeds_add_is_the_component_of_a_crossed_design() {
        // Two-way analysis of variance without repetition, by hand: means 2, 4, 3 of seeds, 1, 3, 5 of samples, no residual.
        let seeds = setting(&[&[0.0, 2.0, 4.0], &[2.0, 4.0, 6.0], &[1.0, 3.0, 5.0]]);
        let spread = seeds.spread().unwrap();
        assert!((spread.variance - 1.0 / 3.0).abs() < 1e-12 && spread.freedom == 2, "{spread:?}");
        // All that seeds differ in is samples' own reaction to them.
        assert_eq!(setting(&[&[1.0, -1.0, 1.0, -1.0], &[-1.0, 1.0, -1.0, 1.0]]).spread(), None);
        assert_eq!(setting(&[&[0.0, 2.0, 4.0]]).spread(), None);
    }

    #[test]
    fn samples_that_weigh_more_count_for_more() {
        let shares = vec![Share { sum: 9.0, weight: 3.0 }, Share { sum: 1.0, weight: 1.0 }];
        let setting = Setting::fixed(shares);
        assert_eq!(setting.means(), [2.5]);
        let averages = setting.averages();
        assert!((averages.iter().sum::<f64>() / 2.0 - 2.5).abs() < 1e-12, "{averages:?}");
    }

    #[test]
    fn a_p_value_over_seeds_is_below_the_level_exactly_where_the_half_width_is_short_of_the_distance() {
        let spreads = [Spread { variance: 0.01, freedom: 2 }];
        for k in 1..100 {
            let distance = f64::from(k) / 50.0;
            let p = p_value(0.0, distance, Some(0.3), 20, &spreads);
            assert_eq!(p < LEVEL * 0.9999, widened(0.3, &spreads) < distance * 0.9999, "{distance}: {p}");
        }
        assert_eq!(p_value(0.03, 1.0, Some(0.3), 20, &[]), 0.03);
        assert_eq!(p_value(0.03, 1.0, None, 20, &spreads), 0.03);
    }
}
