//! What a contrast comes to, in one of four words that tables and sentences share.
//!
//! A difference that was shown to be smaller than the margin is *within the margin* even where it was also shown not to
//! be zero: whoever sets a margin has said that less than that does not matter. (Wellek, Testing Statistical Hypotheses
//! of Equivalence and Noninferiority, 2010, §1.)

use serde::{Serialize, Serializer};

/// The level of every test, and of one minus every interval's coverage.
pub const LEVEL: f64 = 0.05;

/// Written in JSON by its name, as in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Better,
    Worse,
    WithinMargin,
    NotToldApart,
}

impl Verdict {
    pub const ALL: [Self; 4] = [Self::Better, Self::Worse, Self::WithinMargin, Self::NotToldApart];

    /// As sentences and tables of a report say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::WithinMargin => "within the margin",
            Self::NotToldApart => "not told apart",
        }
    }

    /// The verdict of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}

/// The verdict on a difference, score minus the score it is compared with. The p values are those adjusted within the
/// family: that the difference is zero, and that it is at least as large as the margin. None, or NaN: not tested.
pub fn verdict(higher_is_better: bool, delta: f64, p_adjusted: Option<f64>, p_margin_adjusted: Option<f64>) -> Verdict {
    let shown = |p: Option<f64>| p.is_some_and(|p| p < LEVEL);
    if shown(p_margin_adjusted) {
        Verdict::WithinMargin
    } else if !shown(p_adjusted) || delta.is_nan() || delta == 0.0 {
        Verdict::NotToldApart
    } else if (delta > 0.0) == higher_is_better {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_and_the_direction_of_the_metric_say_which_is_better() {
        for (higher_is_better, delta, expected) in [
            (true, 0.1, Verdict::Better),
            (true, -0.1, Verdict::Worse),
            (false, 0.1, Verdict::Worse),
            (false, -0.1, Verdict::Better),
        ] {
            assert_eq!(verdict(higher_is_better, delta, Some(0.049), None), expected);
            assert_eq!(verdict(higher_is_better, delta, Some(LEVEL), None), Verdict::NotToldApart);
        }
    }

    #[test]
    fn the_margin_comes_before_the_sign() {
        assert_eq!(verdict(true, 0.1, Some(0.001), Some(0.001)), Verdict::WithinMargin);
        assert_eq!(verdict(true, 0.1, None, Some(0.001)), Verdict::WithinMargin);
        assert_eq!(verdict(true, 0.1, Some(0.001), Some(LEVEL)), Verdict::Better);
    }

    #[test]
    fn what_was_not_tested_or_has_no_sign_is_not_told_apart() {
        for (delta, p, p_margin) in [
            (0.1, None, None),
            (0.1, Some(f64::NAN), Some(f64::NAN)),
            (f64::NAN, Some(0.001), None),
            (0.0, Some(0.001), None),
        ] {
            assert_eq!(verdict(true, delta, p, p_margin), Verdict::NotToldApart);
        }
    }

    #[test]
    fn a_name_leads_back_to_its_verdict() {
        assert!(Verdict::ALL.into_iter().all(|verdict| Verdict::named(verdict.name()) == Some(verdict)));
        assert_eq!(Verdict::named("equal"), None);
    }
}
