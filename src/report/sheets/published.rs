//! What papers have, beside what was found.

use super::super::PublishedRow;
use super::super::published::{other_models, said_of};
use super::super::text::{number, signed};
use super::{Column, Entry, Row, Sheet};

pub fn sheet(figures: &[PublishedRow]) -> Sheet {
    let columns = vec![
        Column::text("setting"),
        Column::text("suite"),
        Column::text("metric"),
        Column::number("published"),
        Column::number("found"),
        Column::number("difference"),
        Column::number("relative"),
        Column::text("published lies"),
        Column::text("where"),
        Column::text("note"),
    ];
    let mut sheet = Sheet::new("published", "Published and found", columns);
    let mut before: Option<(&str, &str)> = None;
    for figure in figures {
        let of = (figure.suite.as_str(), figure.metric.as_str());
        let is_first = before.is_some_and(|before| before != of);
        sheet.rows.push(Row { entries: entries(figure).into(), is_best: false, is_first });
        before = Some(of);
    }
    let suites = sheet.take_constant("suite").map(|suite| format!("on {suite}"));
    let metrics = sheet.take_constant("metric").map(|metric| format!("by {metric}"));
    let of: Vec<String> = metrics.into_iter().chain(suites).collect();
    if !of.is_empty() {
        sheet.title += &format!(", {}", of.join(" "));
    }
    if let Some(place) = sheet.take_constant("where") {
        sheet.notes.push(format!("Published in {place}."));
    }
    let models = other_models(figures);
    if !models.is_empty() {
        sheet.notes.push(format!("Published figures are {}.", said_of(&models)));
    }
    sheet.notes.push(
        "Found with its 95% interval over this study's samples and seeds; the difference is found less published."
            .into(),
    );
    sheet.without_empty_columns()
}

fn entries(figure: &PublishedRow) -> [Entry; 10] {
    let published = match figure.spread {
        Some(spread) => format!("{} ± {spread}", figure.published),
        None => figure.published.to_string(),
    };
    let found = figure.found.as_ref();
    // As many digits as the value that it comes of carries.
    let difference = |delta: f64, low: Option<f64>, high: Option<f64>| {
        let by = |end: Option<f64>| end.map(|end| end - figure.published);
        Entry::said(delta, signed(delta, by(low), by(high)))
    };
    let percent = |share: f64| {
        let percent = 100.0 * share;
        Entry::said(share, format!("{}{}%", if percent > 0.0 { "+" } else { "" }, number(percent)))
    };
    let lies = |within: Option<bool>| match within {
        Some(true) => "within the interval",
        Some(false) => "outside",
        None => "",
    };
    [
        Entry::text(&figure.setting),
        Entry::text(&figure.suite),
        Entry::text(&figure.metric),
        Entry::said(figure.published, published),
        found.map_or_else(Entry::default, |f| Entry::measured(f.value, f.low, f.high)),
        found.map_or_else(Entry::default, |f| difference(f.delta, f.low, f.high)),
        found.and_then(|f| f.relative).map_or_else(Entry::default, percent),
        Entry::text(found.map_or("", |f| lies(f.within))),
        Entry::text(&figure.place),
        Entry::text(figure.note.as_deref().unwrap_or_default()),
    ]
}
