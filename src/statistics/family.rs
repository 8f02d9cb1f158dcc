//! Contrasts that are looked at together.

use super::contrast::fewest;
use super::verdict::verdict;
use super::{Contrast, Verdict, holm};

/// What a contrast comes to among all that a table or a sentence looks at with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Holm's; None where nothing was tested.
    pub p_adjusted: Option<f64>,
    /// Of the difference being at least as large as the margin.
    pub p_margin_adjusted: Option<f64>,
    pub verdict: Verdict,
    /// Where the samples are too few to tell any difference among so many: how many could.
    pub needed: Option<usize>,
}

/// Judges a family of contrasts, each with the number of its samples.
pub fn judge(family: &[(&Contrast, usize)], higher_is_better: bool) -> Vec<Judged> {
    let adjusted = |p: fn(&Contrast) -> Option<f64>| {
        holm(&family.iter().map(|(contrast, _)| p(contrast).unwrap_or(f64::NAN)).collect::<Vec<_>>())
    };
    let known = |p: f64| Some(p).filter(|p| !p.is_nan());
    let p_values = adjusted(|c| c.p_value).into_iter().zip(adjusted(|c| c.p_margin));
    let judged = |(&(contrast, samples), (differs, within)): (&(&Contrast, usize), (f64, f64))| {
        let (p_adjusted, p_margin_adjusted) = (known(differs), known(within));
        Judged {
            p_adjusted,
            p_margin_adjusted,
            verdict: verdict(higher_is_better, contrast.delta, p_adjusted, p_margin_adjusted),
            needed: Some(fewest(family.len())).filter(|&needed| samples < needed),
        }
    };
    family.iter().zip(p_values).map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contrast_is_judged_among_its_family() {
        let of = |delta: f64, p_value: Option<f64>, p_margin: Option<f64>| Contrast {
            value: delta,
            other: 0.0,
            delta,
            interval: None,
            p_value,
            p_margin,
        };
        let (clear, weak, same) =
            (of(0.3, Some(0.001), Some(1.0)), of(-0.1, Some(0.04), Some(1.0)), of(0.0, Some(1.0), Some(0.004)));
        let alone = judge(&[(&weak, 40)], true)[0];
        assert_eq!((alone.p_adjusted, alone.verdict, alone.needed), (Some(0.04), Verdict::Worse, None));
        let untested = of(0.1, None, None);
        let found = judge(&[(&clear, 40), (&weak, 40), (&same, 40), (&untested, 5)], true);
        let verdicts: Vec<Verdict> = found.iter().map(|judged| judged.verdict).collect();
        assert_eq!(verdicts, [Verdict::Better, Verdict::NotToldApart, Verdict::WithinMargin, Verdict::NotToldApart]);
        assert_eq!(found[1].p_adjusted, Some(0.08));
        assert_eq!((found[3].p_adjusted, found[3].needed), (None, Some(fewest(4))));
        assert_eq!(judge(&[(&clear, 40)], false)[0].verdict, Verdict::Worse);
    }
}
