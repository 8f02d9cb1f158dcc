//! How near texts are to others: TF-IDF and the cosine, as scikit-learn's `TfidfVectorizer` has them by default.

use std::collections::HashMap;

use regex::Regex;

/// A text as weights of words, of length 1; empty of a text without words.
type Vector = Vec<(usize, f64)>;

/// Words, as scikit-learn's `token_pattern` has them.
const WORDS: &str = r"\b\w\w+\b";

/// How often each word stands in each text; words are numbered in the order in which they are first met.
fn counted(texts: &[&str]) -> Vec<Vector> {
    let words = Regex::new(WORDS).expect("the pattern is one");
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let count = |text: &&str| {
        let mut counts: HashMap<usize, f64> = HashMap::new();
        for word in words.find_iter(&text.to_lowercase()) {
            let next = numbers.len();
            *counts.entry(*numbers.entry(word.as_str().to_owned()).or_insert(next)).or_default() += 1.0;
        }
        let mut counts: Vector = counts.into_iter().collect();
        counts.sort_by_key(|(word, _)| *word);
        counts
    };
    texts.iter().map(count).collect()
}

/// The mean cosine of each candidate to the targets. A word weighs the more the fewer of all texts have it:
/// ln((1 + texts) / (1 + texts that have it)) + 1.
pub fn nearness(candidates: &[String], targets: &[String]) -> Vec<f64> {
    let texts: Vec<&str> = candidates.iter().chain(targets).map(String::as_str).collect();
    let mut vectors = counted(&texts);
    let words = vectors.iter().flatten().map(|(word, _)| word + 1).max().unwrap_or(0);
    let mut having = vec![0usize; words];
    vectors.iter().flatten().for_each(|(word, _)| having[*word] += 1);
    let weight = |word: usize| ((1 + texts.len()) as f64 / (1 + having[word]) as f64).ln() + 1.0;
    for vector in &mut vectors {
        vector.iter_mut().for_each(|(word, count)| *count *= weight(*word));
        let length = vector.iter().map(|(_, x)| x * x).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|(_, x)| *x /= length);
    }
    let (candidates, targets) = vectors.split_at(candidates.len());
    let mut mean = vec![0.0; words];
    targets.iter().flatten().for_each(|(word, x)| mean[*word] += x / targets.len() as f64);
    // The sum of nothing is -0.0, which is not to come before 0.0.
    let cosine = |vector: &Vector| vector.iter().map(|(word, x)| x * mean[*word]).sum::<f64>() + 0.0;
    candidates.iter().map(cosine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/scripts/nearness.py prints these, by scikit-learn.
    #[test]
    fn nearness_is_scikit_learns() {
        let fixture = include_str!("../../tests/fixtures/nearness.json");
        let (candidates, targets, expected): (Vec<String>, Vec<String>, Vec<f64>) =
            serde_json::from_str(fixture).unwrap();
        let found = nearness(&candidates, &targets);
        for ((found, expected), text) in found.iter().zip(&expected).zip(&candidates) {
            assert!((found - expected).abs() < 1e-12, "{text}: {found}, not {expected}");
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn texts_without_words_are_near_to_nothing() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let found = nearness(&texts(&["", "a b", "one two"]), &texts(&["one two", "?"]));
        assert!(found[..2].iter().all(|x| x.to_bits() == 0) && (found[2] - 0.5).abs() < 1e-12, "{found:?}");
        assert_eq!(nearness(&texts(&["one"]), &[]), [0.0]);
    }
}
