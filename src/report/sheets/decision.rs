//! The table to decide by.

use super::super::text::{counted, duration, list, short};
use super::super::{Decision, DecisionRow, Value};
use super::{Column, Entry, Row, Sheet, by_sparsity, direction};
use crate::statistics::Verdict;

pub fn sheet(decision: &Decision) -> Sheet {
    let title = format!("{} on {}", decision.metric, decision.suite);
    let is_one_seed = decision.rows.iter().all(|row| row.value.seeds == 1);
    let columns = vec![
        Column::text("setting"),
        Column::metric(&decision.metric, decision.higher_is_better),
        Column::text("verdict"),
        Column::number("difference to dense"),
        Column::number("adj. p"),
        Column::number("seeds"),
        Column::number(if is_one_seed { "time" } else { "time a seed" }),
        Column::number("nonzero"),
    ];
    let mut sheet = Sheet::new("decision", &title, columns);
    for group in by_sparsity(&decision.rows, |row| &row.setting) {
        // Where all are the best, none is.
        let differ = group.rows.iter().any(|row| !row.best);
        for (i, row) in group.rows.iter().enumerate() {
            let (is_best, is_first) = (row.best && differ, group.is_apart && i == 0);
            sheet.rows.push(Row { entries: entries(row, is_best).into(), is_best, is_first });
        }
    }
    let seeds = sheet.take_constant("seeds");
    sheet.notes = notes(decision, seeds.as_deref());
    sheet.without_empty_columns()
}

fn entries(row: &DecisionRow, is_best: bool) -> [Entry; 8] {
    let Value { value, low, high, seeds, ref to_dense, .. } = row.value;
    let difference = to_dense.as_ref();
    let is_calibrated = row.setting.calibration.is_some();
    [
        Entry::text(&row.setting.name),
        Entry { is_best, ..Entry::measured(value, low, high) },
        difference.map_or_else(Entry::default, |d| Entry::text(d.verdict.name())),
        difference.map_or_else(Entry::default, Entry::difference),
        Entry::p_value(difference.and_then(|d| d.p_adjusted)),
        // What is not calibrated has no seeds to differ by.
        if is_calibrated { Entry::count(seeds) } else { Entry::default() },
        row.seconds.map_or_else(Entry::default, |s| Entry::said(s, duration(s))),
        row.parameters.map_or_else(Entry::default, |n| Entry::said(n as f64, short(n))),
    ]
}

/// What the table rests on; `seeds` is how many each calibrated setting has, where all have as many.
fn notes(decision: &Decision, seeds: Option<&str>) -> Vec<String> {
    let samples = counted(decision.samples, &decision.unit);
    // What is not calibrated has no seeds, and one seed says nothing of others.
    let has_seeds = decision.rows.iter().any(|row| row.value.seeds > 1);
    let over = if has_seeds { " over samples and seeds" } else { "" };
    let mut notes = vec![format!("{samples}; {}; 95% intervals{over}.", direction(decision.higher_is_better))];
    notes.push(margin(decision));
    if decision.comparisons > 1 {
        notes.push(format!("p and verdicts are adjusted for {} comparisons (Holm).", decision.comparisons));
    }
    let is_calibrated = decision.rows.iter().any(|row| row.setting.calibration.is_some());
    let has_one_seed = |row: &DecisionRow| row.setting.calibration.is_some() && row.value.seeds == 1;
    match seeds {
        Some("1") => notes.push("One calibration seed: how far others would differ is unknown.".into()),
        Some(n) => notes.push(format!("Calibrated settings are means over {n} seeds.")),
        None if is_calibrated && decision.rows.iter().any(has_one_seed) => {
            notes.push("Of settings with one seed, how far other seeds would differ is unknown.".into());
        }
        None => {}
    }
    if decision.rows.iter().any(|row| row.parameters.is_some()) {
        notes.push("Nonzero: the parameters left.".into());
    }
    notes.extend(too_few(decision).or_else(|| too_few_for_the_margin(decision)));
    notes
}

/// Where no setting could have been shown to be within the margin, and one is told apart by nothing: what is needed for that.
fn too_few_for_the_margin(decision: &Decision) -> Option<String> {
    let enough = decision.enough_rows.filter(|&enough| decision.samples < enough)?;
    let is_open = |row: &DecisionRow| row.value.to_dense.as_ref().is_some_and(|d| d.verdict == Verdict::NotToldApart);
    let samples = counted(decision.samples, &decision.unit);
    decision.rows.iter().any(is_open).then(|| {
        let enough = counted(enough, &decision.unit);
        format!("{samples} are too few to show a setting within the margin; {enough} could be enough.")
    })
}

/// Where the samples are too few to tell a setting from dense; those of which a row was judged by nobody may have fewer than others.
fn too_few(decision: &Decision) -> Option<String> {
    let differences = decision.rows.iter().filter_map(|row| Some((&row.setting.name, row.value.to_dense.as_ref()?)));
    let all: Vec<(&String, Option<u64>)> = differences.map(|(name, difference)| (name, difference.needed)).collect();
    let of: Vec<String> = all.iter().filter(|(_, needed)| needed.is_some()).map(|(name, _)| (*name).clone()).collect();
    let needed = counted(all.iter().filter_map(|(_, needed)| *needed).max()?, &decision.unit);
    Some(match of.len() {
        n if n == all.len() => {
            let samples = counted(decision.samples, &decision.unit);
            format!("{samples}: too few to tell settings apart; {needed} could be enough.")
        }
        1 => format!("Of {} too few are scored to tell it from dense; {needed} could be enough.", of[0]),
        n => {
            let named = if n > NAMED { format!("{n} settings") } else { list(&of) };
            format!("Of {named} too few are scored to tell them from dense; {needed} could be enough.")
        }
    })
}

/// So many settings are named in a note; more are counted.
const NAMED: usize = 3;

/// Which differences count as none, in words; which may be ratios.
fn margin(decision: &Decision) -> String {
    let margin = match decision.ratio {
        true => format!("{}%", rounded(100.0 * decision.margin.exp_m1(), 10.0)),
        false => rounded(decision.margin, 1e4).to_string(),
    };
    format!("Margin within which a value counts as the dense model's: {margin}.")
}

/// To so many parts of one; written, it has no more digits than it needs.
fn rounded(x: f64, parts: f64) -> f64 {
    (x * parts).round() / parts
}
