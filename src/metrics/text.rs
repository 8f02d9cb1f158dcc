//! A predicted text against reference texts: the scores of SQuAD and ROUGE.
//!
//! SQuAD's are those of its official scripts (v1.1: Rajpurkar et al., 2016, arXiv:1606.05250; v2: 2018,
//! arXiv:1806.03822), ROUGE's (Lin, 2004,
//! <https://aclanthology.org/W04-1013>) the F-measures of the Python package rouge-score, and both give what
//! the Python gives, on any Unicode. Python's and Rust's Unicode versions may know different letters.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::registry::{Traits, metrics};
use super::stem;

/// A ROUGE, which may compare stems.
const ROUGE: Traits = Traits { compares_stems: true, ..Traits::SCORE };

metrics! { Text:
    /// Fraction of generated answers that are the reference, but for case, punctuation and articles (SQuAD v1.1; v2
    /// where the data has questions without an answer), or but for what the suite's `exact_match` says.
    EXACT_MATCH = "exact_match", |s| s.exact_match, Traits::SCORE;
    /// Overlap of the words of answer and reference, harmonic mean of precision and recall (SQuAD v1.1
    /// or v2, as `exact_match`).
    F1 = "f1", |s| s.f1, Traits::SCORE;
    /// Overlap of words, F-measure of rouge-score.
    ROUGE1 = "rouge1", |s| s.rouge1, ROUGE;
    /// Overlap of pairs of words, F-measure of rouge-score.
    ROUGE2 = "rouge2", |s| s.rouge2, ROUGE;
    /// Longest common subsequence of words, F-measure of rouge-score.
    ROUGE_L = "rougeL", |s| s.rouge_l, ROUGE;
    /// Fraction of generated answers in which the reference stands, but for case, punctuation and articles.
    CONTAINS_ANSWER = "contains_answer", |s| s.contains_answer, Traits::SCORE;
}

/// Scores of a prediction, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TextScores {
    /// SQuAD: 1 if the words are the same but for case, punctuation and articles, else 0.
    pub exact_match: f64,
    /// SQuAD: F1 of the bags of words, again but for case, punctuation and articles.
    ///
    /// Two texts without a word match exactly and yet have an F1 of 0, as in the script.
    pub f1: f64,
    /// F-measure of the words that both have.
    pub rouge1: f64,
    /// F-measure of the pairs of neighbouring words that both have.
    pub rouge2: f64,
    /// F-measure of the longest common subsequence of words, the text taken as one sentence.
    pub rouge_l: f64,
    /// 1 if the words that `exact_match` compares stand in the prediction as a run, else 0. A reference of which nothing
    /// is left to compare (an article or punctuation, such as `A` or `+`) is looked for as it is written, with its case:
    /// else the article of any sentence would be the answer `A`. An empty one is contained only in a prediction without
    /// a word.
    pub contains_answer: f64,
}

impl TextScores {
    /// The greater of each score.
    fn max(self, other: Self) -> Self {
        Self {
            exact_match: self.exact_match.max(other.exact_match),
            f1: self.f1.max(other.f1),
            rouge1: self.rouge1.max(other.rouge1),
            rouge2: self.rouge2.max(other.rouge2),
            rouge_l: self.rouge_l.max(other.rouge_l),
            contains_answer: self.contains_answer.max(other.contains_answer),
        }
    }
}

/// Which of SQuAD's scripts judges `exact_match` and `f1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squad {
    /// evaluate-v1.1.py: every question has an answer.
    One,
    /// evaluate-v2.0.py: where no reference has a word, nothing is right but to say nothing, and that has an F1 of 1.
    Two,
}

/// The scores of a prediction: with several references the best of each score, not necessarily all
/// against the same one; without a reference zeros.
///
/// `stem` is rouge-score's `use_stemmer`: ROUGE compares the stems of words, SQuAD's scores never do.
pub fn score(prediction: &str, references: &[String], stem: bool, squad: Squad) -> TextScores {
    let prediction = Words::of(prediction, stem);
    let references: Vec<Words> = references.iter().map(|reference| Words::of(reference, stem)).collect();
    let scores = references.iter().map(|reference| prediction.against(reference));
    let best = scores.fold(TextScores::default(), TextScores::max);
    if squad == Squad::One {
        return best;
    }
    // References without a word are none to the second script, and all else without them is as in the first.
    let with_words = references.iter().filter(|reference| !reference.squad.is_empty());
    let scores = with_words.clone().map(|reference| prediction.against(reference));
    let mut squad = scores.fold(TextScores::default(), TextScores::max);
    if with_words.count() == 0 {
        let says_nothing = f64::from(prediction.squad.is_empty());
        squad = TextScores { exact_match: says_nothing, f1: says_nothing, ..squad };
    }
    TextScores { exact_match: squad.exact_match, f1: squad.f1, ..best }
}

/// A text as each of the two sees it.
struct Words<'a> {
    written: &'a str,
    squad: Vec<String>,
    rouge: Vec<String>,
}

impl<'a> Words<'a> {
    fn of(written: &'a str, stem: bool) -> Self {
        let text = written.to_lowercase();
        Self { written, squad: squad_words(&text), rouge: rouge_words(&text, stem) }
    }

    fn against(&self, reference: &Self) -> TextScores {
        TextScores {
            exact_match: f64::from(self.squad == reference.squad),
            f1: f_of_runs(&self.squad, &reference.squad, 1),
            rouge1: f_of_runs(&self.rouge, &reference.rouge, 1),
            rouge2: f_of_runs(&self.rouge, &reference.rouge, 2),
            rouge_l: f_measure(
                longest_common_subsequence(&self.rouge, &reference.rouge),
                self.rouge.len(),
                reference.rouge.len(),
            ),
            contains_answer: f64::from(self.contains(reference)),
        }
    }

    /// Whether the words of a reference follow each other somewhere in the text.
    fn contains(&self, reference: &Self) -> bool {
        let (words, wanted) = (&self.squad, &reference.squad);
        match (wanted.is_empty(), reference.written.trim()) {
            (true, "") => words.is_empty(),
            (true, written) => words.is_empty() || stands_in(self.written, written),
            (false, _) => words.windows(wanted.len()).any(|run| run == wanted),
        }
    }
}

/// A word to Python's regular expressions (but for `_`, which is removed before this is used): unlike
/// `char::is_alphanumeric` and this crate's `\w`, Python's `\w` leaves out combining marks.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}]+").expect("a valid expression"));

/// The words of a lower-case text that SQuAD compares: no punctuation of ASCII, no articles.
fn squad_words(text: &str) -> Vec<String> {
    let text: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = WORD.replace_all(&text, |word: &Captures| match &word[0] {
        "a" | "an" | "the" => " ".to_owned(),
        other => other.to_owned(),
    });
    // Python splits at the separators U+001C to U+001F, too.
    let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    text.split(space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words of a lower-case text that ROUGE compares: letters and digits of ASCII; all else parts words.
fn rouge_words(text: &str, stem: bool) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| if stem && word.len() > 3 { stem::porter(word) } else { word.to_owned() }).collect()
}

/// F-measure of the runs of `n` words that both texts have, each as often as both have it.
fn f_of_runs(prediction: &[String], reference: &[String], n: usize) -> f64 {
    let (predicted, wanted) = (prediction.windows(n), reference.windows(n));
    let (in_prediction, in_reference) = (predicted.len(), wanted.len());
    f_measure(common(predicted, wanted), in_prediction, in_reference)
}

/// The size of the intersection of two bags.
fn common<T: Eq + Hash>(left: impl Iterator<Item = T>, right: impl Iterator<Item = T>) -> usize {
    let mut unmatched: HashMap<T, usize> = HashMap::new();
    left.for_each(|item| *unmatched.entry(item).or_default() += 1);
    let matched = right.filter(|item| match unmatched.get_mut(item) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    });
    matched.count()
}

/// The harmonic mean of precision and recall, 0 if nothing is in common.
fn f_measure(common: usize, in_prediction: usize, in_reference: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / in_prediction as f64;
    let recall = common as f64 / in_reference as f64;
    2.0 * precision * recall / (precision + recall)
}

/// The length of it, by dynamic programming over prefixes; two rows of the table exist at a time.
fn longest_common_subsequence(left: &[String], right: &[String]) -> usize {
    let mut above = vec![0; right.len() + 1];
    let mut row = above.clone();
    for l in left {
        for (j, r) in right.iter().enumerate() {
            row[j + 1] = if l == r { above[j] + 1 } else { above[j + 1].max(row[j]) };
        }
        std::mem::swap(&mut above, &mut row);
    }
    above[right.len()]
}

/// Whether the answer stands in the text as it is written, and is no part of a longer word, number or sign.
fn stands_in(text: &str, answer: &str) -> bool {
    let joins = |near: Option<char>, end: Option<char>| near.is_some_and(|c| c.is_alphanumeric() || Some(c) == end);
    let ends = (answer.chars().next(), answer.chars().next_back());
    let mut found = text.match_indices(answer).map(|(at, _)| (&text[..at], &text[at + answer.len()..]));
    found.any(|(before, after)| !joins(before.chars().next_back(), ends.0) && !joins(after.chars().next(), ends.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One pair and the scores that the Python originals give it.
    #[derive(serde::Deserialize)]
    struct Row {
        prediction: String,
        reference: String,
        exact_match: f64,
        f1: f64,
        rouge1: f64,
        rouge2: f64,
        #[serde(rename = "rougeL")]
        rouge_l: f64,
        rouge1_stemmed: f64,
        rouge2_stemmed: f64,
        #[serde(rename = "rougeL_stemmed")]
        rouge_l_stemmed: f64,
    }

    fn against(prediction: &str, references: &[&str]) -> TextScores {
        let references: Vec<String> = references.iter().map(|&text| text.to_owned()).collect();
        score(prediction, &references, true, Squad::One)
    }

    #[test]
    fn scores_are_those_of_the_python_originals() {
        let rows: Vec<Row> = serde_json::from_str(include_str!("../../tests/fixtures/text_metrics.json")).unwrap();
        for row in rows {
            let reference = [row.reference];
            let plain = score(&row.prediction, &reference, false, Squad::One);
            let stemmed = score(&row.prediction, &reference, true, Squad::One);
            for (ours, theirs) in [
                (plain.exact_match, row.exact_match),
                (plain.f1, row.f1),
                (plain.rouge1, row.rouge1),
                (plain.rouge2, row.rouge2),
                (plain.rouge_l, row.rouge_l),
                (stemmed.f1, row.f1),
                (stemmed.rouge1, row.rouge1_stemmed),
                (stemmed.rouge2, row.rouge2_stemmed),
                (stemmed.rouge_l, row.rouge_l_stemmed),
            ] {
                assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}: {} | {}", row.prediction, reference[0]);
            }
        }
    }

    /// One prediction and the scores that SQuAD 2's script gives it.
    #[derive(serde::Deserialize)]
    struct Question {
        prediction: String,
        references: Vec<String>,
        exact_match: f64,
        f1: f64,
    }

    #[test]
    fn questions_without_an_answer_are_scored_as_squad_2_scores_them() {
        let rows: Vec<Question> = serde_json::from_str(include_str!("../../tests/fixtures/squad2.json")).unwrap();
        for row in rows {
            let ours = score(&row.prediction, &row.references, false, Squad::Two);
            let said = format!("{:?} | {:?}", row.prediction, row.references);
            assert!((ours.exact_match - row.exact_match).abs() < 1e-9 && (ours.f1 - row.f1).abs() < 1e-9, "{said}");
        }
        let unanswered = |prediction: &str| score(prediction, &[String::new()], false, Squad::Two);
        assert_eq!((unanswered("The!").f1, unanswered("blue").f1, unanswered("").contains_answer), (1.0, 0.0, 1.0));
    }

    #[test]
    fn texts_without_words_match_but_have_no_f1() {
        let empty = TextScores { exact_match: 1.0, contains_answer: 1.0, ..TextScores::default() };
        assert_eq!(against("", &[""]), empty);
        assert_eq!(against("The!", &["..."]).f1, 0.0);
        assert_eq!(against("a word", &["the"]), TextScores::default());
    }

    #[test]
    fn the_best_reference_counts_for_each_score_and_none_gives_zeros() {
        let scores = against("red green blue", &["blue", "green red blue"]);
        assert_eq!((scores.contains_answer, scores.f1, scores.exact_match), (1.0, 1.0, 0.0));
        assert_eq!(against("red", &[]), TextScores::default());
    }

    #[test]
    fn an_article_or_a_sign_is_looked_for_as_it_is_written() {
        let contains = |prediction: &str, reference: &str| against(prediction, &[reference]).contains_answer == 1.0;
        for (prediction, reference) in [
            ("The answer is A.", "A"),
            ("(A) a dog", "A"),
            ("A", "A"),
            ("a", "A"), // nothing is left of either
            ("She wrote \"the\" twice", "the"),
            ("x + y", "+"),
            ("The operator is '+'.", "+"),
            ("It is <=, surely", "<="),
            ("", ""),
        ] {
            assert!(contains(prediction, reference), "{prediction} | {reference}");
        }
        for (prediction, reference) in [
            ("It is a dog", "A"),
            ("The answer is B.", "A"),
            ("ABBA", "A"),
            ("well-known", "-"),
            ("C++", "+"),
            ("minus", "+"),
            ("a word", ""),
        ] {
            assert!(!contains(prediction, reference), "{prediction} | {reference}");
        }
    }

    #[test]
    fn an_answer_is_contained_as_whole_words_in_its_order() {
        assert_eq!(against("It is the North Pole, surely.", &["north pole"]).contains_answer, 1.0);
        assert_eq!(against("northern poles", &["north pole"]).contains_answer, 0.0);
        assert_eq!(against("pole north", &["north pole"]).contains_answer, 0.0);
    }

    #[test]
    fn words_end_where_python_ends_them() {
        let words = squad_words("the_end of\u{1f}a day\u{a0}théa an\u{301} x·the·y");
        assert_eq!(words, ["theend", "of", "day", "théa", "\u{301}", "x·", "·y"]);
        assert_eq!(rouge_words("naïve_t-shirts", true), ["na", "ve", "t", "shirt"]);
    }

    #[test]
    fn a_subsequence_may_skip_words_of_both() {
        let words = |text: &str| rouge_words(text, false);
        assert_eq!(longest_common_subsequence(&words("a b c d e"), &words("x a c y e b")), 3);
    }
}
