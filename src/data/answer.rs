//! Choices, and which of them is right, as lm-evaluation-harness reads them (`doc_to_choice` and `doc_to_target` of
//! api/task.py), and beyond it by letter.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::value::{called, same, shortened, text};

/// More choices than any question has.
const MOST_CHOICES: usize = 1000;

/// What names the right choice.
pub enum Answer<'a> {
    /// A row's own field, with its name: a text is the text of a choice, a number its place from 0.
    Field(&'a str, &'a Value),
    /// What a template printed: digits are a place.
    Printed(String),
    /// A row's own list, with its name, of which each names one that is right, as a field does.
    Several(&'a str, &'a Value),
    /// A row's own list, with its name, which has 1 for each choice that is right and 0 for each that is not.
    Labels(&'a str, &'a Value),
}

/// Choices, and which of them is right.
#[derive(Debug)]
pub struct Chosen {
    pub texts: Vec<String>,
    pub right: usize,
    /// Others that are right as well.
    pub also: Vec<usize>,
    /// Another choice that the answer could mean: the one of that text, where it was read as a place, or the other way
    /// round.
    pub other: Option<usize>,
}

/// The texts of the choices, and which of them is right.
///
/// # Errors
/// Where the choices are no list of texts, or none of them is named.
pub fn chosen(choices: &Value, answer: &Answer) -> Result<Chosen> {
    let (texts, labels) = texts_and_labels(choices)?;
    ensure!(texts.len() <= MOST_CHOICES, "the row has {} choices; expected at most {MOST_CHOICES}", texts.len());
    ensure!(
        texts.len() > 1,
        "the row has {} to choose from; expected two choices at least",
        if texts.is_empty() { "nothing" } else { "one choice" }
    );
    let (right, other) = match answer {
        Answer::Several(name, list) => {
            let list =
                list.as_array().with_context(|| format!("`{name}` is {}, no list of right choices", called(list)))?;
            let one = |value| place(&texts, labels.as_deref(), &Answer::Field(name, value)).map(|(right, _)| right);
            (list.iter().map(one).collect::<Result<Vec<_>>>()?, None)
        }
        Answer::Labels(name, list) => (marked(name, list, texts.len())?, None),
        answer => place(&texts, labels.as_deref(), answer).map(|(right, other)| (vec![right], other))?,
    };
    let mut also: Vec<usize> = Vec::new();
    right.iter().skip(1).filter(|i| **i != right[0]).for_each(|&i| {
        if !also.contains(&i) {
            also.push(i);
        }
    });
    let right = *right.first().context("none of the choices is right, by the list that says which of them are")?;
    Ok(Chosen { right, also, other, texts })
}

/// The places of those that a list of 1 and 0 has a 1 for.
fn marked(name: &str, list: &Value, choices: usize) -> Result<Vec<usize>> {
    let list = list.as_array().with_context(|| format!("`{name}` is {}, no list of 1 and 0", called(list)))?;
    ensure!(list.len() == choices, "`{name}` has {} labels for {choices} choices", list.len());
    let is_right = |(i, value): (usize, &Value)| match value {
        Value::Bool(truth) => Ok(*truth),
        value if value.as_u64() == Some(1) => Ok(true),
        value if value.as_u64() == Some(0) => Ok(false),
        value => bail!("`{name}` has {} in place {}, where 1 (right) or 0 (wrong) is expected", called(value), i + 1),
    };
    let marks = list.iter().enumerate().map(is_right).collect::<Result<Vec<bool>>>()?;
    Ok(marks.iter().enumerate().filter(|(_, right)| **right).map(|(i, _)| i).collect())
}

/// The place of the right choice, and of another that the answer could mean.
fn place(texts: &[String], labels: Option<&[Value]>, answer: &Answer) -> Result<(usize, Option<usize>)> {
    let labelled = |value: &Value| labels?.iter().position(|label| same(label, value));
    let place = |digits: &str| digits.parse::<u64>().ok().and_then(|n| usize::try_from(n).ok());
    let of_text = |answer: &str| texts.iter().position(|text| text == answer);
    // Labels of its own are the only letters and digits that a row has.
    let unlabelled = |found: Option<usize>| found.filter(|_| labels.is_none());
    let (name, value) = match answer {
        Answer::Field(name, value) => (*name, (*value).clone()),
        Answer::Printed(text) => ("answer", Value::from(text.trim())),
        Answer::Several(..) | Answer::Labels(..) => bail!("a list names no single choice"),
    };
    let index = labelled(&value).or_else(|| match (&value, answer) {
        (Value::Number(n), _) => n.as_u64().and_then(|n| usize::try_from(n).ok()),
        // Python's True is 1.
        (Value::Bool(truth), _) => Some(usize::from(*truth)),
        (Value::String(s), Answer::Printed(_)) => {
            unlabelled(place(s)).or_else(|| of_text(s)).or_else(|| unlabelled(letter(s)))
        }
        (Value::String(s), _) => {
            let trimmed = s.trim();
            of_text(s).or_else(|| unlabelled(place(trimmed))).or_else(|| unlabelled(letter(trimmed)))
        }
        _ => None,
    });
    let index = index.filter(|&i| i < texts.len());
    let index = index.with_context(|| {
        let shown: Vec<String> = texts.iter().take(6).map(|t| format!("\"{}\"", shortened(t))).collect();
        let known = if labels.is_some() { "label" } else { "place from 0, letter" };
        format!(
            "`{name}` is {}, which is the {known} or text of none of the {} choices: {}{}",
            called(&value),
            texts.len(),
            shown.join(", "),
            if texts.len() > shown.len() { ", …" } else { "" }
        )
    })?;
    let other = value.as_str().filter(|_| labels.is_none()).and_then(|s| {
        let meant = [place(s.trim()).filter(|&i| i < texts.len()), of_text(s)];
        meant.into_iter().flatten().find(|&i| i != index)
    });
    Ok((index, other))
}

fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Some(usize::from(letter.to_ascii_uppercase() - b'A')),
        _ => None,
    }
}

/// A list of texts; or `{"text": […], "label": […]}`, as the Hub's ARC and CommonsenseQA have it; or a text a label.
fn texts_and_labels(choices: &Value) -> Result<(Vec<String>, Option<Vec<Value>>)> {
    let (list, labels) = match choices {
        Value::Object(fields) => match fields.get("text") {
            Some(list) => (list, fields.get("label").and_then(Value::as_array).cloned()),
            None => {
                let texts = fields.values().map(text).collect::<Option<Vec<_>>>();
                let texts = texts.with_context(|| format!("`choices` is {}, no list of texts", called(choices)))?;
                return Ok((texts, Some(fields.keys().map(|key| Value::from(key.as_str())).collect())));
            }
        },
        list => (list, None),
    };
    let list = list.as_array().with_context(|| format!("`choices` is {}, no list of texts", called(list)))?;
    let choice = |(i, value): (usize, &Value)| {
        text(value)
            .with_context(|| format!("choice {} of `choices` is {} where a text is expected", i + 1, called(value)))
    };
    let texts: Vec<String> = list.iter().enumerate().map(choice).collect::<Result<_>>()?;
    if let Some(labels) = &labels {
        ensure!(labels.len() == texts.len(), "`choices` has {} texts and {} labels", texts.len(), labels.len());
    }
    Ok((texts, labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(choices: Value, answer: Value) -> Result<usize> {
        chosen(&choices, &Answer::Field("answer", &answer)).map(|chosen| chosen.right)
    }

    fn printed(choices: Value, answer: &str) -> Result<usize> {
        chosen(&choices, &Answer::Printed(answer.into())).map(|chosen| chosen.right)
    }

    #[test]
    fn a_fields_number_is_a_place_and_its_text_a_text() {
        let choices = json!(["2", "4", "6", "8"]);
        for (answer, index) in [
            (json!("2"), 0),
            (json!(2), 2),
            (json!(true), 1),
            (json!("C"), 2),
            (json!("c"), 2),
            (json!("6"), 2),
            (json!("1"), 1), // no choice's text
            (json!(" 2 "), 2),
        ] {
            assert_eq!(field(choices.clone(), answer.clone()).unwrap(), index, "{answer}");
        }
        for answer in [json!(2.0), json!("2.0"), json!(null), json!(4), json!(-1), json!("E"), json!([0, 1]), json!("")]
        {
            let error = field(choices.clone(), answer.clone()).unwrap_err().to_string();
            assert!(error.contains("`answer` is "), "{answer}: {error}");
        }
    }

    #[test]
    fn what_a_template_prints_in_digits_is_a_place() {
        let choices = json!(["2", "4", "6", "8"]);
        assert_eq!(printed(choices.clone(), "2").unwrap(), 2);
        assert_eq!(printed(choices.clone(), "C").unwrap(), 2);
        assert_eq!(printed(json!(["red", "blue"]), "blue").unwrap(), 1);
        for answer in ["6", "2.0", "True", "None", ""] {
            assert!(printed(choices.clone(), answer).is_err(), "{answer}");
        }
    }

    #[test]
    fn labels_come_first_and_leave_no_other_letters_or_digits() {
        let arc = json!({"text": ["red", "blue"], "label": ["1", "2"]});
        assert_eq!(field(arc.clone(), json!("2")).unwrap(), 1);
        assert_eq!(field(arc.clone(), json!(2)).unwrap(), 1);
        assert_eq!(printed(arc.clone(), "1").unwrap(), 0);
        assert_eq!(field(arc.clone(), json!("blue")).unwrap(), 1);
        assert!(field(arc, json!("A")).is_err());
        let lettered = json!({"text": ["red", "blue"], "label": ["A", "B"]});
        assert_eq!(field(lettered.clone(), json!("B")).unwrap(), 1);
        assert_eq!(field(lettered.clone(), json!(1)).unwrap(), 1);
        assert!(field(lettered, json!("1")).is_err());
        assert_eq!(field(json!({"A": "red", "B": "blue"}), json!("B")).unwrap(), 1);
    }

    #[test]
    fn choices_are_two_texts_at_least() {
        assert_eq!(field(json!([3, 4.5]), json!(1)).unwrap(), 1);
        for (choices, says) in [
            (json!(["one"]), "one choice to choose from"),
            (json!([]), "nothing to choose from"),
            (json!(["a", null]), "choice 2 of `choices` is null"),
            (json!(null), "`choices` is null"),
            (json!("['a', 'b']"), "no list of texts"),
            (json!({"text": ["a", "b"], "label": ["A"]}), "2 texts and 1 labels"),
        ] {
            let error = field(choices.clone(), json!(0)).unwrap_err().to_string();
            assert!(error.contains(says), "{choices}: {error}");
        }
    }

    #[test]
    fn a_list_names_several_right_choices_or_marks_each() {
        let texts = json!(["2", "4", "6", "8"]);
        let right = |answer: &Answer| chosen(&texts, answer).map(|c| [vec![c.right], c.also].concat());
        let several = |list: Value| right(&Answer::Several("gold", &list)).map_err(|e| e.to_string());
        assert_eq!(several(json!([2, 0])).unwrap(), [2, 0]);
        assert_eq!(several(json!(["B", "8", 1, 3])).unwrap(), [1, 3]);
        let labels = |list: Value| right(&Answer::Labels("labels", &list)).map_err(|e| e.to_string());
        assert_eq!(labels(json!([0, 1, true, false])).unwrap(), [1, 2]);
        for (error, says) in [
            (several(json!([])), "none of the choices is right"),
            (several(json!([1, 4])), "`gold` is 4, which is the place from 0, letter or text of none"),
            (several(json!(1)), "`gold` is 1, no list"),
            (labels(json!([0, 0, 0, 0])), "none of the choices is right"),
            (labels(json!([1, 0])), "`labels` has 2 labels for 4 choices"),
            (labels(json!([1, 0, 2, 0])), "`labels` has 2 in place 3"),
            (labels(json!("1000")), "no list of 1 and 0"),
        ] {
            let error = error.unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_an_answer_could_also_mean_is_told() {
        let choices = json!(["2", "4", "6", "8"]);
        let other = |answer: &Answer| chosen(&choices, answer).unwrap().other;
        assert_eq!(other(&Answer::Field("answer", &json!("2"))), Some(2));
        assert_eq!(other(&Answer::Field("answer", &json!(2))), None, "a number is a place");
        assert_eq!(other(&Answer::Printed("2".into())), Some(0));
        for answer in [json!("C"), json!("6"), json!(1), json!(3)] {
            assert_eq!(other(&Answer::Field("answer", &answer)), None, "{answer}");
        }
        let labelled = json!({"text": ["2", "1"], "label": ["1", "2"]});
        assert_eq!(chosen(&labelled, &Answer::Printed("2".into())).unwrap().other, None);
    }
}
