//! `calipr report`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::print;
use super::table::Table;
use crate::report::{Report, html, interval, markdown, number, setting};
use crate::results::replace;

#[derive(Args)]
pub struct ReportArgs {
    /// A folder of results, such as results/quickstart.
    results: PathBuf,
    /// How it is written.
    #[arg(long, value_enum, default_value = "terminal")]
    format: Format,
    /// Write it to this file, not to stdout.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text with aligned columns.
    Terminal,
    /// For a pull request or a notebook.
    Markdown,
    /// One file with tables that sort and plots, which needs no network.
    Html,
    /// Everything that the other formats show.
    Json,
}

impl ReportArgs {
    /// Prints what a study says.
    pub fn report(&self) -> Result<()> {
        let report = Report::read(&self.results)?;
        let text = match self.format {
            Format::Terminal => terminal(&report),
            Format::Markdown => markdown(&report),
            Format::Html => html(&report).context("cannot write the page")?,
            Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        };
        match &self.to {
            Some(path) => replace(path, text.as_bytes()),
            None => print(&text),
        }
    }
}

/// The end of a run: the answer, then for each suite a row a cell, dense first, each metric with its interval.
pub fn summary(report: &Report) -> String {
    let mut text: String = report.answer.iter().map(|sentence| wrap(sentence)).collect();
    for suite in &report.suites {
        let name = format!("{} on {}", report.study, suite.suite);
        let mut table = Table::new([name].into_iter().chain(suite.metrics.iter().map(|m| m.name.clone())));
        for row in &suite.rows {
            let values = row.values.iter().map(|v| number(v.value) + &interval(v.low, v.high));
            table.row(std::iter::once(row.cell.clone()).chain(values));
        }
        text += &format!("\n{table}");
    }
    for cell in &report.failed {
        text += &format!("\n{} failed: {}\n", cell.cell, cell.error);
    }
    text
}

/// The report as text: the summary, what predicts the scores, and where calibrations differ.
fn terminal(report: &Report) -> String {
    let mut text = summary(report);
    if !report.predictors.is_empty() {
        let mut table = Table::new(["what predicts the score", "ranked by", "correlation"]);
        for p in &report.predictors {
            table.row([
                format!("{} on {}", p.downstream_metric, p.downstream_suite),
                format!("{} on {}", p.metric, p.suite),
                number(p.spearman) + &interval(p.low, p.high),
            ]);
        }
        text += &format!("\n{table}");
    }
    let sure = |c: &&crate::report::Contrast| c.p_value.is_some_and(|p| p < 0.05);
    let contrasts: Vec<_> = report.contrasts.iter().filter(sure).collect();
    if !contrasts.is_empty() {
        let mut table = Table::new(["calibrations that differ (p < 0.05)", "on", "better", "worse", "difference", "p"]);
        for c in contrasts {
            table.row([
                format!("{} {}", c.method, setting(&c.pattern, c.sparsity)),
                format!("{} of {}", c.metric, c.suite),
                format!("{} {}", c.better, number(c.better_value)),
                format!("{} {}", c.worse, number(c.worse_value)),
                number(c.difference) + &interval(c.low, c.high),
                c.p_value.map_or(String::new(), number),
            ]);
        }
        text += &format!("\n{table}");
    }
    text
}

/// Columns of running text.
const WIDTH: usize = 100;

/// A sentence over as many lines as it needs.
fn wrap(sentence: &str) -> String {
    let (mut text, mut width) = (String::new(), 0);
    for word in sentence.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            text += "\n  ";
            width = 2;
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text += word;
        width += length;
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_wrap_between_words() {
        let text = wrap(&"word ".repeat(50));
        assert!(text.lines().count() == 3 && text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().count(), 50);
    }
}
