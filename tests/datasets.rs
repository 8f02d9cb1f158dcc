//! The bundled data sets hold what the README says of them.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

fn rows(name: &str) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(format!("datasets/{name}.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(row: &'a Map<String, Value>, key: &str) -> &'a str {
    row[key].as_str().unwrap()
}

fn counts<'a>(rows: &'a [Map<String, Value>], key: &str) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(text(row, key)).or_default() += 1);
    counts
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// Pairs of neighbouring words; a single word pairs with nothing.
fn pairs(text: &str) -> HashSet<(String, String)> {
    let words = words(text);
    match words.as_slice() {
        [one] => HashSet::from([(one.clone(), String::new())]),
        words => words.windows(2).map(|w| (w[0].clone(), w[1].clone())).collect(),
    }
}

/// Jaccard similarity of the nearest pair of texts across the split.
fn nearest_across_the_split(rows: &[Map<String, Value>], key: &str) -> (f64, String) {
    let of = |split: &str| -> Vec<(&str, HashSet<_>)> {
        rows.iter().filter(|r| text(r, "split") == split).map(|r| (text(r, key), pairs(text(r, key)))).collect()
    };
    let (train, test) = (of("train"), of("test"));
    let mut nearest = (0.0, String::new());
    for (a, a_pairs) in &train {
        for (b, b_pairs) in &test {
            let shared = a_pairs.intersection(b_pairs).count() as f64;
            let similarity = shared / (a_pairs.len() + b_pairs.len()) as f64 * 2.0;
            if similarity > nearest.0 {
                nearest = (similarity, format!("{a} / {b}"));
            }
        }
    }
    nearest
}

#[test]
fn prose_is_passages_of_a_hundred_to_two_hundred_words_over_many_fields() {
    let rows = rows("prose");
    assert!(rows.len() >= 160);
    assert!(counts(&rows, "field").len() >= 12);
    assert!(counts(&rows, "split")["test"] >= 60);
    for row in &rows {
        let length = text(row, "text").split_whitespace().count();
        assert!((100..=200).contains(&length), "{}: {length} words", text(row, "title"));
    }
    assert_eq!(counts(&rows, "title").len(), rows.len(), "no title twice");
    let (similarity, pair) = nearest_across_the_split(&rows, "text");
    assert!(similarity < 0.3, "{similarity}: {pair}");
}

#[test]
fn instruct_has_short_answers_to_many_kinds_of_task() {
    let rows = rows("instruct");
    assert!(rows.len() >= 480);
    let tasks = counts(&rows, "task");
    assert!(tasks.len() >= 8 && tasks.values().all(|&n| n >= 30), "{tasks:?}");
    assert!(counts(&rows, "split")["test"] >= 150);
    for row in &rows {
        assert!(!text(row, "instruction").is_empty() && !text(row, "input").is_empty());
        let answer = text(row, "output").split_whitespace().count();
        assert!((1..=8).contains(&answer), "{row:?}");
    }
}

#[test]
fn no_instruction_of_the_test_split_is_a_near_copy_of_one_to_train_on() {
    let rows = rows("instruct");
    let (similarity, pair) = nearest_across_the_split(&rows, "input");
    assert!(similarity < 0.6, "{similarity}: {pair}");
    let key = |row: &Map<String, Value>| (words(text(row, "instruction")), words(text(row, "input")));
    let unique: HashSet<_> = rows.iter().map(key).collect();
    assert_eq!(unique.len(), rows.len(), "no row twice");
}
