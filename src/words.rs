//! Help with names that a person mistyped.

/// The known name that is most like `word`, if any is like enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|k| (strsim::jaro_winkler(&word.to_lowercase(), &k.to_lowercase()), k));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score > 0.75).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_none() {
        let known = ["magnitude", "wanda", "sparsegpt"];
        assert_eq!(nearest("wnada", known), Some("wanda"));
        assert_eq!(nearest("SparseGPT", known), Some("sparsegpt"));
        assert_eq!(nearest("zzz", known), None);
    }
}
