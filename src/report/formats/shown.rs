//! What formats that people read have in common.

use serde::Serialize;

use super::super::sheets::Sheet;
use super::super::text::number;
use super::super::{Sample, Side};

/// The opening and the end of a long text, on one line: an end has the question that shots stand before.
pub fn shortened(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A model may say anything, even what would move a terminal's cursor.
    let letters: Vec<char> = words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if letters.len() <= OPENING + END {
        return letters.into_iter().collect();
    }
    let part = |letters: &[char]| letters.iter().collect::<String>().trim().to_owned();
    format!("{} … {}", part(&letters[..OPENING]), part(&letters[letters.len() - END..]))
}

/// So many letters of a text are shown at either side of what is left out.
const OPENING: usize = 80;
const END: usize = 160;

/// A choice of a sample, and what two cells gave it.
#[derive(Serialize)]
pub struct Choice {
    pub text: String,
    pub is_right: bool,
    /// Log-likelihood in nats, and whether the cell chose it.
    pub sides: [(String, bool); 2],
}

pub fn choices(sample: &Sample) -> Vec<Choice> {
    let of = |side: &Side, i: usize| {
        let log_likelihood = side.log_likelihoods.get(i).map_or(String::new(), |x| number(*x));
        (log_likelihood, side.chosen == Some(i as u64))
    };
    let choice = |(i, text): (usize, &String)| Choice {
        text: shortened(text),
        is_right: sample.answer == Some(i as u64),
        sides: [of(&sample.sides[0], i), of(&sample.sides[1], i)],
    };
    sample.choices.iter().enumerate().map(choice).collect()
}

/// Whether some value of a sheet is set off as the best of its sparsity.
pub fn has_best(sheet: &Sheet) -> bool {
    sheet.rows.iter().flat_map(|row| &row.entries).any(|entry| entry.is_best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_their_opening_and_their_end() {
        assert_eq!(shortened("a\n  short\x1b one"), "a short\u{fffd} one");
        let text = shortened(&format!("first {} last?", "middle ".repeat(100)));
        assert!(text.starts_with("first middle") && text.ends_with("middle last?") && text.contains(" … "), "{text}");
        assert!(text.chars().count() <= OPENING + END + 3);
    }
}
