//! The report as text.

use super::super::sheets::{Entry, Sheet, sheets};
use super::super::text::number;
use super::super::{Report, Sample, Samples};
use super::shown::{choices, has_best, shortened};
use crate::table::{Table, wrapped};

/// Columns of running text, where there are as many.
const WIDTH: usize = 100;

/// So many warnings stand on the first screen.
const WARNINGS: usize = 3;

/// So many cells that failed do.
const FAILED: usize = 3;

/// All of the report but its plots, in at most so many columns, if that can be. Nothing is cut but the samples' texts.
pub fn terminal(report: &Report, columns: Option<usize>) -> String {
    let width = width(columns);
    let mut text = summary(report, columns);
    if report.warnings.len() > WARNINGS {
        text += &heading("Warnings", width);
        text += &report.warnings.iter().map(|warning| wrapped(warning, width, "- ", "  ")).collect::<String>();
    }
    for sheet in sheets(report).iter().filter(|sheet| sheet.id != "decision") {
        text += &section(sheet, columns);
    }
    text + &report.samples.iter().map(|samples| of_suite(samples, columns)).collect::<String>()
}

/// A table under its title.
pub fn section(sheet: &Sheet, columns: Option<usize>) -> String {
    let width = width(columns);
    let rows = if is_list(sheet) { list(sheet, width) } else { table(sheet, columns) };
    heading(&sheet.title, width) + &rows + &notes(sheet, width)
}

/// The first screen: what is missing, what was warned of, the table to decide by and a few sentences.
pub fn summary(report: &Report, columns: Option<usize>) -> String {
    let width = width(columns);
    let mut text = wrapped(&report.study, width, "", "");
    let whole = report.unfinished.iter().map(|note| wrapped(note, width, "unfinished: ", "  "));
    let failed = report.failed.iter().take(FAILED);
    let failed = failed.map(|cell| wrapped(&format!("{} failed: {}", cell.cell, cell.error), width, "", "  "));
    let warned = report.warnings.iter().take(WARNINGS).map(|warning| wrapped(warning, width, "warning: ", "  "));
    text.extend(whole.chain(failed).chain(warned));
    match report.warnings.len().saturating_sub(WARNINGS) {
        0 => {}
        1 => text += "1 more warning is in the report\n",
        more => text += &format!("{more} more warnings are in the report\n"),
    }
    for sheet in sheets(report).iter().filter(|sheet| sheet.id == "decision") {
        text += &heading(&sheet.title, width);
        text += &table(sheet, columns);
        text += &notes(sheet, width);
    }
    if !report.sentences.is_empty() {
        text.push('\n');
    }
    text.extend(report.sentences.iter().map(|sentence| wrapped(sentence, width, "- ", "  ")));
    text
}

fn width(columns: Option<usize>) -> usize {
    columns.map_or(WIDTH, |columns| columns.min(WIDTH))
}

/// An underlined title, a line after what stands before.
fn heading(title: &str, width: usize) -> String {
    let text = wrapped(title, width, "", "");
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    format!("\n{text}{}\n", "─".repeat(longest))
}

fn notes(sheet: &Sheet, width: usize) -> String {
    let best = has_best(sheet).then(|| "* the best of its sparsity.".to_owned());
    let notes: Vec<String> = best.into_iter().chain(sheet.notes.clone()).collect();
    if notes.is_empty() { String::new() } else { wrapped(&notes.join(" "), width, "", "") }
}

fn table(sheet: &Sheet, columns: Option<usize>) -> String {
    let is_number = |c: &usize| sheet.columns[*c].is_number;
    let numbers = (0..sheet.columns.len()).filter(is_number);
    let mut table = Table::new(sheet.columns.iter().map(|c| c.name.clone())).right(numbers);
    let aligned: Vec<Vec<String>> = (0..sheet.columns.len()).map(|c| aligned(sheet, c)).collect();
    for (i, row) in sheet.rows.iter().enumerate() {
        if row.is_first {
            table.space();
        }
        table.row(aligned.iter().map(|column| column[i].clone()));
    }
    table.fitting(columns)
}

/// The entries of a column, in which values, intervals and marks each line up.
fn aligned(sheet: &Sheet, column: usize) -> Vec<String> {
    let entries: Vec<&Entry> = sheet.rows.iter().map(|row| &row.entries[column]).collect();
    let value = |e: &Entry| if e.is_best { format!("*{}", e.text) } else { e.text.clone() };
    let longest = |of: &dyn Fn(&Entry) -> usize| entries.iter().map(|e| of(e)).max().unwrap_or(0);
    let intervals = longest(&|e| e.interval.chars().count());
    let marks = longest(&|e| e.mark.len());
    let part = |text: &str, width: usize| if width == 0 { String::new() } else { format!(" {text:<width$}") };
    entries.iter().map(|e| value(e) + &part(&e.interval, intervals) + &part(e.mark, marks)).collect()
}

/// Whether a sheet is a list of names, each with a text that may be long.
fn is_list(sheet: &Sheet) -> bool {
    sheet.columns.len() == 2 && sheet.columns.iter().all(|column| !column.is_number)
}

/// Names, and beside them texts over as many lines as they need.
fn list(sheet: &Sheet, width: usize) -> String {
    let names = sheet.rows.iter().map(|row| row.entries[0].text.chars().count()).max().unwrap_or(0);
    // Where names leave little room, texts stand below them.
    let indent = if names + 2 > width / 2 { 2 } else { names + 2 };
    let line = |[name, text]: [&str; 2]| match indent {
        2 => wrapped(name, width, "", "") + &wrapped(text, width, "  ", "  "),
        _ => wrapped(text, width, &format!("{name:<indent$}"), &" ".repeat(indent)),
    };
    sheet.rows.iter().map(|row| line([&row.entries[0].text, &row.entries[1].text])).collect()
}

fn of_suite(samples: &Samples, columns: Option<usize>) -> String {
    let width = width(columns);
    let [one, other] = &samples.cells;
    let mut text = heading(&format!("Samples of {}: {one} and {other}", samples.suite), width);
    text += &wrapped(&format!("{}.", samples.how), width, "", "");
    for sample in &samples.samples {
        text += &format!("\n{}", wrapped(&shortened(&sample.prompt), width, &format!("{}: ", sample.sample), "  "));
        text +=
            &if sample.choices.is_empty() { answers(samples, sample, width) } else { choice(samples, sample, columns) };
    }
    text
}

/// What was to be answered, and what two cells answered.
fn answers(samples: &Samples, sample: &Sample, width: usize) -> String {
    let mut text = wrapped(&shortened(&sample.reference), width, "  reference: ", "    ");
    for (cell, side) in samples.cells.iter().zip(&sample.sides) {
        let first = format!("  {cell} ({} {}): ", samples.metric, number(side.score));
        text += &wrapped(&shortened(side.prediction.as_deref().unwrap_or_default()), width, &first, "    ");
    }
    text
}

/// The choices, and how likely two cells found each.
fn choice(samples: &Samples, sample: &Sample, columns: Option<usize>) -> String {
    let mut table = Table::new(["  choice", &samples.cells[0], &samples.cells[1]]);
    for choice in choices(sample) {
        let right = if choice.is_right { " (right)" } else { "" };
        let sides = choice.sides.map(|(text, is_chosen)| if is_chosen { text + " (chosen)" } else { text });
        table.row([format!("  {}{right}", choice.text)].into_iter().chain(sides));
    }
    table.fitting(columns)
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn no_width_loses_a_number() {
        let report = sample::report();
        for columns in 1..=200 {
            let text = terminal(&report, Some(columns));
            let shown = words(&text);
            for entry in sheets(&report).iter().flat_map(|sheet| &sheet.rows).flat_map(|row| &row.entries) {
                let value = words(&format!("{} {} {}", entry.text, entry.interval, entry.mark));
                assert!(shown.contains(&value), "{columns} columns lose {value}:\n{text}");
            }
            // A line of a narrower one may be a single name.
            let wide = text.lines().find(|line| line.chars().count() > columns.max(30));
            assert_eq!(wide, None, "{columns} columns");
        }
    }

    #[test]
    fn the_first_screen_has_what_is_missing_the_warnings_the_decision_and_the_sentences() {
        let mut report = sample::report();
        report.warnings = (0..5).map(|i| format!("something {i}")).collect();
        let text = summary(&report, Some(80));
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("there is no {what} in {text}"));
        let order =
            ["a study", "1 cell failed", "something 2", "2 more warnings", "f1 on task", "*0.61", "On task, f1"];
        assert!(order.map(at).is_sorted(), "{text}");
        assert!(!text.contains("something 3") && terminal(&report, None).contains("- something 4"));
        assert!(text.lines().count() <= 40, "{text}");
    }

    #[test]
    fn samples_show_what_was_right_and_what_was_chosen() {
        let text = words(&terminal(&sample::report(), None));
        assert!(text.contains("honey (right) -3.25 (chosen) -8.50"), "{text}");
        assert!(text.contains("dense (f1 1.00): Because of the cold."), "{text}");
        assert!(text.contains("3: Why do <b>leaves</b> fall? Answer:"), "{text}");
    }
}
