//! The report as Markdown, for a pull request or a notebook.

use std::fmt::Write;

use super::{Report, counted, interval, number, setting};

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n\n{}\n\n", escape(&report.study), escape(&report.model));
    for sentence in &report.answer {
        text += &format!("- {}\n", escape(sentence));
    }
    for suite in &report.suites {
        let _ = write!(text, "\n## {}\n\n{}\n\n", escape(&suite.suite), counted(suite.samples, &suite.unit));
        let header = suite.metrics.iter().map(|m| format!("{} {}", m.name, if m.higher_is_better { "↑" } else { "↓" }));
        text += &row(std::iter::once("cell".into()).chain(header));
        text += &row(std::iter::repeat_n("---".into(), suite.metrics.len() + 1));
        for cell in &suite.rows {
            let values = cell.values.iter().map(|v| {
                let value = number(v.value) + &interval(v.low, v.high);
                if v.best { format!("**{value}**") } else { value }
            });
            text += &row(std::iter::once(escape(&cell.cell)).chain(values));
        }
    }
    if !report.contrasts.is_empty() {
        text += "\n## Calibrations compared\n\n";
        text += &row(["suite", "metric", "pruning", "better", "worse", "difference", "p"].map(String::from));
        text += &row(std::iter::repeat_n("---".into(), 7));
        for c in &report.contrasts {
            let pruning = format!("{} {}", c.method, setting(&c.pattern, c.sparsity));
            let named = |name: &str, value: f64| format!("{} ({})", escape(name), number(value));
            text += &row([
                escape(&c.suite),
                c.metric.clone(),
                pruning,
                named(&c.better, c.better_value),
                named(&c.worse, c.worse_value),
                number(c.difference) + &interval(c.low, c.high),
                c.p_value.map_or(String::new(), number),
            ]);
        }
    }
    if !report.predictors.is_empty() {
        text += "\n## What predicts the score\n\nSpearman's rank correlation over the pruned cells; 1 is a perfect prediction.\n\n";
        text += &row(["score", "predictor", "correlation", "cells"].map(String::from));
        text += &row(std::iter::repeat_n("---".into(), 4));
        for p in &report.predictors {
            text += &row([
                format!("{} on {}", p.downstream_metric, escape(&p.downstream_suite)),
                format!("{} on {}", p.metric, escape(&p.suite)),
                number(p.spearman) + &interval(p.low, p.high),
                p.cells.to_string(),
            ]);
        }
    }
    if !report.failed.is_empty() {
        text += "\n## Failed cells\n\n";
        for cell in &report.failed {
            text += &format!("- {}: {}\n", escape(&cell.cell), escape(&cell.error));
        }
    }
    text
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    format!("| {} |\n", cells.into_iter().collect::<Vec<_>>().join(" | "))
}

/// Text that Markdown shows as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::plots::sample;
    use super::*;

    #[test]
    fn every_row_of_a_table_has_as_many_cells() {
        let mut report = sample::report();
        report.suites[0].suite = "a|b".into();
        let text = markdown(&report);
        assert!(text.contains("## a\\|b"));
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
}
