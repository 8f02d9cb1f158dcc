//! The tables of a report for a paper, with booktabs.

use super::super::Report;
use super::super::sheets::{Entry, Row, Sheet, sheets};
use super::shown::has_best;

/// The table to decide by, published figures, the suites and the contrasts, each in a `table` that can be copied alone.
pub fn latex(report: &Report) -> String {
    let mut text = opening(&report.study);
    text.extend(report.unfinished.iter().map(|note| format!("% unfinished: {}\n", one_line(note))));
    text.extend(report.warnings.iter().map(|warning| format!("% warning: {}\n", one_line(warning))));
    let is_shown = |sheet: &&Sheet| {
        ["decision", "published", "masks"].contains(&sheet.id.as_str())
            || ["suite-", "contrasts-"].iter().any(|start| sheet.id.starts_with(start))
    };
    text.extend(sheets(report).iter().filter(is_shown).map(table));
    text
}

/// What stands before the tables of a study, or of several.
pub fn opening(study: &str) -> String {
    format!("% {}: tables by calipr. Needs \\usepackage{{booktabs}}\n", one_line(study))
}

pub fn table(sheet: &Sheet) -> String {
    let best = has_best(sheet).then_some("Bold: the best of its sparsity.");
    let notes: Vec<&str> = best.into_iter().chain(sheet.notes.iter().map(String::as_str)).collect();
    let caption = escape(&format!("{}. {}", sheet.title, notes.join(" ")));
    let alignment: String = sheet.columns.iter().map(|column| if column.is_number { 'r' } else { 'l' }).collect();
    let header = line(sheet.columns.iter().map(|column| escape(&column.name)));
    let space = |is_first: bool| if is_first { "\\addlinespace\n" } else { "" };
    let row = |row: &Row| space(row.is_first).to_owned() + &line(row.entries.iter().map(entry));
    let rows: String = sheet.rows.iter().map(row).collect();
    let lines = [
        "\\begin{table}",
        "\\centering",
        // So that the widest usual table fits a page of one column.
        "\\footnotesize",
        "\\setlength{\\tabcolsep}{4pt}",
        &format!("\\caption{{{}}}", caption.trim_end()),
        &format!("\\label{{tab:{}}}", sheet.id),
        &format!("\\begin{{tabular}}{{{alignment}}}"),
        "\\toprule",
        &(header + "\\midrule"),
        &(rows + "\\bottomrule"),
        "\\end{tabular}",
        "\\end{table}",
    ];
    format!("\n{}\n", lines.join("\n"))
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "))
}

/// `$0.41\;[0.36, 0.47]$`: the value, its mark above it, its interval.
fn entry(entry: &Entry) -> String {
    if !is_number(&entry.text) {
        return escape(&entry.text);
    }
    let value = if entry.is_best { format!("\\mathbf{{{}}}", entry.text) } else { entry.text.clone() };
    let mark = match entry.mark {
        "" => String::new(),
        "~" => "^{\\sim}".into(),
        mark => format!("^{{{mark}}}"),
    };
    let interval = if entry.interval.is_empty() { String::new() } else { format!("\\;{}", entry.interval) };
    format!("${value}{mark}{interval}$")
}

/// Whether a text is set as a number is: with a minus, not a hyphen.
fn is_number(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_digit() || "+-.<".contains(c))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that LaTeX shows as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '_' | '%' | '&' | '#' | '$' | '{' | '}' => out.extend(['\\', c]),
            '~' => out += "$\\sim$",
            '^' => out += "\\textasciicircum{}",
            '\\' => out += "\\textbackslash{}",
            '<' => out += "$<$",
            '>' => out += "$>$",
            '|' => out += "$|$",
            '↑' => out += "$\\uparrow$",
            '↓' => out += "$\\downarrow$",
            '±' => out += "$\\pm$",
            '\n' | '\r' => out.push(' '),
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
    fn values_have_their_intervals_and_the_best_is_bold() {
        let text = latex(&sample::report());
        let row = "wanda-0.5-prose & $\\mathbf{0.61}\\;[0.50, 0.73]$ & within the margin & $0.00\\;[-0.11, 0.11]$ & ";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("$0.54^{\\sim}\\;[0.42, 0.65]$") && text.contains("f1 $\\uparrow$ &"), "{text}");
        assert!(text.starts_with("% a study: tables by calipr. Needs \\usepackage{booktabs}\n"), "{text}");
    }

    #[test]
    fn every_row_has_as_many_columns_as_its_table() {
        let text = latex(&sample::report());
        let mut tables = 0;
        for part in text.split("\\begin{tabular}{").skip(1) {
            let (alignment, rest) = part.split_once('}').unwrap();
            let rows: Vec<&str> = rest.lines().filter(|line| line.ends_with("\\\\")).collect();
            assert!(
                rows.len() > 1 && rows.iter().all(|row| row.matches(" & ").count() + 1 == alignment.len()),
                "{part}"
            );
            tables += 1;
        }
        assert_eq!(tables, 1 + 1 + 2 + 2 + 1);
    }

    #[test]
    fn nothing_of_a_text_is_taken_for_a_command() {
        let escaped = escape("a_b 5% & #1 $x$ {y} ~ ^ \\z <0.1");
        assert_eq!(
            escaped,
            "a\\_b 5\\% \\& \\#1 \\$x\\$ \\{y\\} $\\sim$ \\textasciicircum{} \\textbackslash{}z $<$0.1"
        );
        let mut report = sample::report();
        report.decision.as_mut().unwrap().rows[0].setting.name = "a_b&c".into();
        assert!(latex(&report).contains("\na\\_b\\&c & $0.61"));
        report.study = "two\n\\lines".into();
        assert!(latex(&report).starts_with("% two \\lines: tables"));
    }
}
