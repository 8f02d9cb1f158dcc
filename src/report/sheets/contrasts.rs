//! Settings that differ in one thing, compared with each other.

use super::super::Contrast;
use super::{Column, Entry, Row, Sheet, distinct};

/// A sheet for each thing in which settings differ. What they are against dense, the tables before have told.
pub fn sheets(contrasts: &[Contrast]) -> Vec<Sheet> {
    let axes = distinct(contrasts.iter().map(|c| c.axis.as_str()).filter(|axis| *axis != "dense"));
    axes.into_iter().map(|axis| sheet(axis, contrasts.iter().filter(|c| c.axis == axis).collect())).collect()
}

fn sheet(axis: &str, contrasts: Vec<&Contrast>) -> Sheet {
    let columns = vec![
        Column::text("on"),
        Column::text("setting"),
        Column::text("other"),
        Column::number("value"),
        Column::number("other's value"),
        Column::text("verdict"),
        Column::number("difference"),
        Column::number("p"),
        Column::number("adj. p"),
    ];
    let title = match axis {
        "checkpoint" => "Checkpoints against other settings".to_owned(),
        axis => format!("One {axis} against another"),
    };
    let mut sheet = Sheet::new(&format!("contrasts-{axis}"), &title, columns);
    // What was corrected together stands together.
    let families = distinct(contrasts.iter().map(|c| c.family.as_str()));
    let mut sizes = vec![];
    for family in families {
        let members: Vec<&&Contrast> = contrasts.iter().filter(|c| c.family == family).collect();
        sizes.push(members.iter().filter(|c| c.difference.p_value.is_some()).count());
        for (i, contrast) in members.into_iter().enumerate() {
            let is_first = i == 0 && !sheet.rows.is_empty();
            sheet.rows.push(Row { entries: entries(contrast).into(), is_best: false, is_first });
        }
    }
    if let Some(metric) = sheet.take_constant("on") {
        sheet.title += &format!(", by {metric}");
    }
    sheet.notes.push("The verdict is of the setting, against the other.".into());
    sheet.notes.push("Differences are paired over the same samples, with 95% intervals.".into());
    sheet.notes.extend(corrected(&sizes));
    sheet.without_empty_columns()
}

/// For how many comparisons p is corrected, of families of these sizes.
fn corrected(sizes: &[usize]) -> Option<String> {
    let each = if sizes.len() == 1 { "" } else { " of each metric on a suite" };
    Some(format!("p and verdicts are adjusted for the {} comparisons{each} (Holm).", counts(sizes)?))
}

/// How many comparisons families of these sizes have; None where none has more than one.
pub fn counts(sizes: &[usize]) -> Option<String> {
    let (fewest, most) = (*sizes.iter().min()?, *sizes.iter().max()?);
    (most > 1).then(|| if fewest == most { most.to_string() } else { format!("{fewest} to {most}") })
}

fn entries(c: &Contrast) -> [Entry; 9] {
    // Of one difference: as many digits as it carries.
    let value = |value: f64| {
        let half = c.difference.low.zip(c.difference.high).map(|(low, high)| (high - low) / 2.0);
        let (low, high) = (half.map(|h| value - h), half.map(|h| value + h));
        Entry { interval: String::new(), low: None, high: None, ..Entry::measured(value, low, high) }
    };
    [
        Entry::text(format!("{} on {}", c.metric, c.suite)),
        Entry::text(&c.setting.name),
        Entry::text(&c.other.name),
        value(c.value),
        value(c.other_value),
        Entry::text(c.difference.verdict.name()),
        Entry::difference(&c.difference),
        Entry::p_value(c.difference.p_value),
        Entry::p_value(c.difference.p_adjusted),
    ]
}
