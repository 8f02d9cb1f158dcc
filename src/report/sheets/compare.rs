//! Studies side by side.

use super::super::compare::{Compared, ComparedRow, SideBySide};
use super::super::text::list;
use super::contrasts::counts;
use super::{Column, Entry, Sheet};

/// What differs, then a sheet a suite.
pub fn sheets(side_by_side: &SideBySide) -> Vec<Sheet> {
    let mut all = vec![differs(side_by_side)];
    all.extend(side_by_side.suites.iter().map(|suite| sheet(side_by_side, suite)));
    all.retain(|sheet| !sheet.rows.is_empty());
    all
}

fn differs(side_by_side: &SideBySide) -> Sheet {
    let studies = side_by_side.studies.iter().map(|study| Column::text(study));
    let columns = [Column::text("what")].into_iter().chain(studies).collect();
    let mut sheet = Sheet::new("differs", "What was run otherwise", columns);
    for differs in &side_by_side.differs {
        let values = differs.values.iter().map(|value| Entry::text(value.as_deref().unwrap_or("none")));
        sheet.row([Entry::text(&differs.name)].into_iter().chain(values));
    }
    sheet
}

fn sheet(side_by_side: &SideBySide, suite: &Compared) -> Sheet {
    let studies = &side_by_side.studies;
    let mut columns = vec![Column::text("setting"), Column::text("metric")];
    columns.extend(studies.iter().map(|study| Column::number(study)));
    for study in &studies[1..] {
        let of = |what: &str| if studies.len() == 2 { what.to_owned() } else { format!("{what}, {study}") };
        columns.extend([
            Column::number(&of("difference")),
            Column::text(&of("verdict")),
            Column::number(&of("adj. p")),
        ]);
    }
    let mut sheet = Sheet::new(&format!("suite-{}", suite.suite), &format!("On {}", suite.suite), columns);
    suite.rows.iter().for_each(|row| sheet.row(entries(row)));
    sheet.notes = notes(side_by_side, suite);
    sheet.without_empty_columns()
}

/// What differences rest on.
fn notes(side_by_side: &SideBySide, suite: &Compared) -> Vec<String> {
    let (first, others) = side_by_side.studies.split_first().expect("there are two or more studies");
    let mut notes = vec![];
    let mut unpaired = vec![];
    for (i, study) in others.iter().enumerate().map(|(i, study)| (i + 1, study)) {
        match (suite.samples[i], suite.shared[i]) {
            (None, _) => {}
            (_, 0) => unpaired.push(study.clone()),
            (samples, shared) if samples == Some(shared) && suite.samples[0] == Some(shared) => {
                notes.push(format!("{study} is paired with {first} on all {shared} samples."));
            }
            (_, shared) => notes.push(format!(
                "{study} shares the first {shared} samples with {first}: the difference is over these, values over all."
            )),
        }
    }
    if !notes.is_empty() {
        let families: Vec<usize> = suite.comparisons.values().map(|&n| n as usize).collect();
        let comparisons = counts(&families).map_or(String::new(), |n| {
            format!("; p and verdicts are adjusted for the {n} comparisons of each metric (Holm)")
        });
        notes.push(format!("Differences are to {first}, with 95% intervals{comparisons}."));
    }
    let has_other_tokens = |i: &usize| suite.shared[*i] > 0 && !suite.same_tokens[*i];
    for i in (1..side_by_side.studies.len()).filter(has_other_tokens) {
        notes.push(format!(
            "{} has another tokenizer than {first}: what is counted by the token is not compared.",
            side_by_side.studies[i]
        ));
    }
    if !unpaired.is_empty() {
        notes.push(format!("No sample of {} is one of {first}, so that nothing is paired.", list(&unpaired)));
    }
    notes
}

fn entries(row: &ComparedRow) -> Vec<Entry> {
    let mut entries = vec![Entry::text(&row.setting), Entry::text(&row.metric)];
    let value = |value: &Option<super::super::Value>| match value {
        Some(value) => Entry::measured(value.value, value.low, value.high),
        None => Entry::default(),
    };
    entries.extend(row.values.iter().map(value));
    for difference in &row.differences[1..] {
        entries.extend(match difference {
            Some(difference) => [
                Entry::difference(difference),
                Entry::text(difference.verdict.name()),
                Entry::p_value(difference.p_adjusted),
            ],
            None => [Entry::default(), Entry::default(), Entry::default()],
        });
    }
    entries
}
