//! A setting by itself: its figure, and how far it may be from that of all samples and seeds that there could have been.

use super::Quantity;
use super::mean::Sample;
use super::proportion::exact;
use super::seeds::{Setting, variance, widened};

/// A figure with its 95% interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Mean over replicates; of exponentials the exponential of the mean over replicates, so that loss and perplexity say the
    /// same.
    pub value: f64,
    /// Standard deviation of the replicates' figures; None with one.
    pub spread: Option<f64>,
    /// Over samples and, where there are several, over replicates. None where there are too few samples, or where all are the
    /// same and not 0 or 1: never of width zero.
    pub interval: Option<(f64, f64)>,
    pub samples: usize,
    pub replicates: usize,
}

/// The figure of a setting.
pub fn summary(quantity: &Quantity, setting: &Setting) -> Summary {
    let figures: Vec<f64> = setting.means().iter().map(|mean| quantity.of(*mean)).collect();
    Summary {
        value: figure(quantity, setting),
        spread: (figures.len() > 1).then(|| variance(&figures).sqrt()),
        interval: interval(quantity, setting),
        samples: setting.samples(),
        replicates: setting.replicates(),
    }
}

/// The figure over all replicates.
pub(super) fn figure(quantity: &Quantity, setting: &Setting) -> f64 {
    let means = setting.means();
    if means.is_empty() {
        return f64::NAN;
    }
    // The mean of equal values is that value, to the last bit.
    let same = means.iter().all(|mean| *mean == means[0]);
    quantity.of(if same { means[0] } else { means.iter().sum::<f64>() / means.len() as f64 })
}

fn interval(quantity: &Quantity, setting: &Setting) -> Option<(f64, f64)> {
    let averages = setting.averages();
    if setting.is_of_rows(quantity) {
        let right = averages.iter().filter(|&&value| value == 1.0).count();
        return Some(exact(right as u64, averages.len() as u64));
    }
    let sample = Sample::new(averages.to_vec())?;
    let (low, high) = sample.interval()?;
    let spreads: Vec<_> = setting.spread().into_iter().collect();
    let reached = |half: f64| widened(half, &spreads);
    let (least, most) = quantity.range;
    let low = (sample.mean - reached(sample.mean - low)).max(least);
    let high = (sample.mean + reached(high - sample.mean)).min(most);
    Some((quantity.of(low), quantity.of(high)))
}

#[cfg(test)]
mod tests {
    use super::super::Share;
    use super::*;

    fn fixed(values: &[f64]) -> Setting {
        Setting::fixed(values.iter().copied().map(Share::one).collect())
    }

    #[test]
    fn all_right_is_no_certainty() {
        let (low, high) = summary(&Quantity::SHARE, &fixed(&[1.0; 40])).interval.unwrap();
        assert!((low - 0.9119026971212).abs() < 1e-9 && high == 1.0);
        // Three seeds that do not differ are no more rows.
        let seeds = Setting::drawn(vec![vec![Share::one(1.0); 40]; 3]);
        assert_eq!(summary(&Quantity::SHARE, &seeds).interval, Some((low, high)));
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_loss_and_so_are_its_bounds() {
        let setting = fixed(&[2.0, 2.5, 3.0, 2.2, 2.7, 3.1, 2.4]);
        let (loss, perplexity) = (summary(&Quantity::MEAN, &setting), summary(&Quantity::EXP, &setting));
        let (low, high) = loss.interval.unwrap();
        assert_eq!((perplexity.value, perplexity.interval), (loss.value.exp(), Some((low.exp(), high.exp()))));
    }

    #[test]
    fn an_interval_over_seeds_is_wider_and_their_spread_is_said() {
        let values: Vec<f64> = (0..30).map(|i| f64::from(i * 11 % 30)).collect();
        let more: Vec<f64> = values.iter().map(|value| value + 6.0).collect();
        let shares = |values: &[f64]| values.iter().copied().map(Share::one).collect::<Vec<_>>();
        let two = summary(&Quantity::MEAN, &Setting::drawn(vec![shares(&values), shares(&more)]));
        let one = summary(&Quantity::MEAN, &Setting::drawn(vec![shares(&values)]));
        let width = |summary: &Summary| summary.interval.map(|(low, high)| high - low).unwrap();
        assert!(width(&two) > 2.0 * width(&one));
        assert_eq!((two.value, one.spread), (one.value + 3.0, None));
        assert!((two.spread.unwrap() - 18f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn intervals_stay_where_the_mean_can_be() {
        let values = [0.0, 0.02, 0.0, 0.01, 0.0, 0.0, 0.05, 0.0];
        let (low, high) = summary(&Quantity::SHARE, &fixed(&values)).interval.unwrap();
        assert!(low == 0.0 && high < 0.1, "{low} {high}");
    }

    #[test]
    fn what_is_no_number_has_no_interval() {
        let summary = |values: &[f64]| super::summary(&Quantity::MEAN, &fixed(values));
        assert_eq!(summary(&[f64::INFINITY, 1.0, 2.0]).interval, None);
        assert!(summary(&[f64::NAN; 8]).value.is_nan() && summary(&[]).value.is_nan());
        assert_eq!(summary(&[]).interval, None);
        assert_eq!(summary(&[0.5; 20]).interval, None);
        // A divergence that is nothing everywhere is no row that is wrong.
        assert_eq!(summary(&[0.0; 20]).interval, None);
    }
}
