//! The report as Markdown, for a pull request or a notebook: as GitHub reads it.

use super::super::sheets::{Entry, Sheet, sheets};
use super::super::text::number;
use super::super::{Report, Sample, Samples};
use super::shown::{choices, has_best, shortened};

/// All of the report but its plots.
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n", escape(&report.study));
    text += &paragraph(&report.unfinished.iter().map(|note| format!("**{}**", escape(note))).collect::<String>());
    text += &bullets(report.warnings.iter().map(|warning| format!("Warning: {warning}")));
    let (decision, rest): (Vec<Sheet>, Vec<Sheet>) = sheets(report).into_iter().partition(|s| s.id == "decision");
    text.extend(decision.iter().map(section));
    text += &bullets(report.sentences.iter().cloned());
    text.extend(rest.iter().map(section));
    text.extend(report.samples.iter().map(of_suite));
    text
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n{text}\n") }
}

fn bullets(items: impl Iterator<Item = String>) -> String {
    let items: String = items.map(|item| format!("- {}\n", escape(&item))).collect();
    paragraph(items.trim_end())
}

/// A table under its title.
pub fn section(sheet: &Sheet) -> String {
    let best = has_best(sheet).then(|| "Bold: the best of its sparsity.".to_owned());
    let notes: Vec<String> = best.iter().chain(&sheet.notes).map(|note| escape(note)).collect();
    let header: Vec<String> = sheet.columns.iter().map(|column| escape(&column.name)).collect();
    let aligned = sheet.columns.iter().map(|column| if column.is_number { "---:" } else { "---" }.to_owned());
    let rows = sheet.rows.iter().map(|row| line(row.entries.iter().map(entry)));
    let table = line(header) + &line(aligned) + &rows.collect::<String>();
    format!("\n## {}\n", escape(&sheet.title)) + &paragraph(table.trim_end()) + &paragraph(&notes.join(" "))
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    format!("| {} |\n", cells.into_iter().collect::<Vec<_>>().join(" | "))
}

fn entry(entry: &Entry) -> String {
    let value = escape(&entry.text);
    let value = if entry.is_best { format!("**{value}**") } else { value };
    // Brackets without a link's address are as they are.
    let parts = [value, entry.interval.clone(), escape(entry.mark)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn of_suite(samples: &Samples) -> String {
    let [one, other] = samples.cells.each_ref().map(|cell| escape(cell));
    let mut text = format!("\n## Samples of {}: {one} and {other}\n", escape(&samples.suite));
    text += &paragraph(&format!("{}.", escape(&samples.how)));
    for sample in &samples.samples {
        text += &paragraph(&format!("**{}** {}", sample.sample, escape(&shortened(&sample.prompt))));
        text += &if sample.choices.is_empty() { answers(samples, sample) } else { choice(samples, sample) };
    }
    text
}

/// What was to be answered, and what two cells answered.
fn answers(samples: &Samples, sample: &Sample) -> String {
    let reference = format!("reference: {}", shortened(&sample.reference));
    let said = samples.cells.iter().zip(&sample.sides).map(|(cell, side)| {
        let prediction = shortened(side.prediction.as_deref().unwrap_or_default());
        format!("{cell} ({} {}): {prediction}", samples.metric, number(side.score))
    });
    bullets(std::iter::once(reference).chain(said))
}

/// The choices, and how likely two cells found each: of the right one the text is bold, of the chosen one the number.
fn choice(samples: &Samples, sample: &Sample) -> String {
    let bold = |text: &str, is_bold: bool| if is_bold { format!("**{}**", escape(text)) } else { escape(text) };
    let header = ["choice (right: bold)".into(), samples.cells[0].clone(), samples.cells[1].clone()];
    let mut table = line(header.map(|name| escape(&name))) + &line(["---", "---:", "---:"].map(String::from));
    for choice in choices(sample) {
        let sides = choice.sides.map(|(text, is_chosen)| bold(&text, is_chosen));
        table += &line([bold(&choice.text, choice.is_right)].into_iter().chain(sides));
    }
    paragraph(table.trim_end())
}

/// Text that Markdown shows as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '$' | '&' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn every_row_of_a_table_has_as_many_cells() {
        let mut report = sample::report();
        report.suites[0].suite = "a|b".into();
        report.facts[0].value = "two\nlines | and a <b>".into();
        let text = markdown(&report);
        assert!(text.contains("## Suite a\\|b\n") && text.contains("| two lines \\| and a \\<b\\> |"), "{text}");
        let mut width = None;
        for line in text.lines() {
            let bars = line.replace("\\|", "").matches('|').count();
            if bars == 0 {
                width = None;
            } else {
                assert_eq!(*width.get_or_insert(bars), bars, "{line}");
            }
        }
    }

    #[test]
    fn the_best_of_a_sparsity_is_bold() {
        let text = markdown(&sample::report());
        assert!(text.contains("| wanda-0.5-prose | **0.61** [0.50, 0.73] | within the margin |"), "{text}");
    }

    #[test]
    fn nothing_of_a_text_is_taken_for_markup() {
        assert_eq!(escape("a_b * <i> #1\n`x` $y$ ~z~ &lt;"), "a\\_b \\* \\<i\\> \\#1 \\`x\\` \\$y\\$ \\~z\\~ \\&lt;");
    }

    #[test]
    fn choices_tell_the_right_one_and_the_chosen_ones() {
        let text = markdown(&sample::report());
        assert!(
            text.contains("| **honey** | **-3.25** | -8.50 |\n| a long answer that wraps | -9.50 | **-8.25** |"),
            "{text}"
        );
    }
}
