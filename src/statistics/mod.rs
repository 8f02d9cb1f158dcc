//! What samples and seeds say of a figure: settings, intervals, tests, corrections. Numbers in, numbers out.
//!
//! A *figure* is the mean of something over samples (windows, rows), or the exponential of such a mean. A *setting* is measured
//! on the same samples once for each *replicate* (calibration seed). From there:
//! - [`summary`]: a setting's figure with its 95% interval, over samples and, where there are several, over replicates;
//! - [`contrast`]: two settings beside each other, paired on samples, with tests of no difference and of a margin;
//! - [`judge`]: what contrasts come to that are looked at together, their p-values corrected for their number;
//! - [`correlation`]: how well one quantity ranks settings as another does;
//! - [`Overlap`]: how much of what one mask keeps another keeps too.
//!
//! Which test and which interval stands where is in `mean` (samples), `seeds` (replicates) and [`proportion`] (rows that are
//! right or wrong); what they hold is measured in the simulations of the test suite.

mod bounded;
mod contrast;
pub mod correlation;
mod exchange;
mod family;
mod flips;
mod holm;
mod mean;
mod overlap;
pub mod proportion;
mod seeds;
#[cfg(test)]
mod simulation;
mod summary;
mod tango;
mod verdict;

use serde::{Deserialize, Serialize};

pub use contrast::{Compared, Contrast, contrast, rows_for_margin};
pub use family::{Judged, judge};
pub use holm::holm;
pub use overlap::Overlap;
pub use seeds::{Setting, in_all};
pub use summary::{Summary, summary};
pub use verdict::{LEVEL, Verdict};

/// What a sample adds to a figure: a sum, and what it is divided by (positions of a window, or 1 for a row).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    pub sum: f64,
    pub weight: f64,
}

impl Share {
    /// The share of one row.
    pub fn one(sum: f64) -> Self {
        Self { sum, weight: 1.0 }
    }

    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

/// What a figure is made of the mean: sum of sums over sum of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    Identity,
    /// The exponential, as perplexity is of the mean loss. Compared by the logarithm, so that both say the same.
    Exp,
}

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantity {
    pub link: Link,
    /// Which means there can be: intervals go no further.
    pub range: (f64, f64),
}

impl Quantity {
    /// A mean of anything.
    pub const MEAN: Self = Self { link: Link::Identity, range: (f64::NEG_INFINITY, f64::INFINITY) };
    /// A mean of scores from 0 to 1, such as rows that are right or wrong.
    pub const SHARE: Self = Self::MEAN.within(0.0, 1.0);
    /// The exponential of a mean of anything.
    pub const EXP: Self = Self { link: Link::Exp, range: (f64::NEG_INFINITY, f64::INFINITY) };

    /// The same, where the mean cannot leave these bounds.
    pub const fn within(self, low: f64, high: f64) -> Self {
        Self { range: (low, high), ..self }
    }

    /// The figure of a mean.
    fn of(self, mean: f64) -> f64 {
        match self.link {
            Link::Identity => mean,
            Link::Exp => mean.exp(),
        }
    }
}
