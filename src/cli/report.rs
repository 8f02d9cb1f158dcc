//! `calipr report`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::print;
use super::table::Table;
use super::terminal::columns;
use crate::report::{LEVEL, Report, html, interval, markdown, number, setting};
use crate::results::replace;

#[derive(Args)]
pub struct ReportArgs {
    /// A folder of results, such as results/quickstart.
    results: PathBuf,
    /// How it is written; by default as the ending of --to says, or else as text for a terminal.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to this file, not to stdout.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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

impl Format {
    /// By a file's ending.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" | "htm" => Some(Self::Html),
            "md" | "markdown" => Some(Self::Markdown),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl ReportArgs {
    /// Prints what a study says.
    pub fn report(&self) -> Result<()> {
        let report = Report::read(&self.results)?;
        let by_ending = self.to.as_deref().and_then(Format::of);
        let text = match self.format.or(by_ending).unwrap_or(Format::Terminal) {
            Format::Terminal => terminal(&report, columns().filter(|_| self.to.is_none())),
            Format::Markdown => markdown(&report),
            Format::Html => html(&report).context("cannot write the page")?,
            Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        };
        match &self.to {
            Some(path) => write_to(path, text.as_bytes()),
            None => print(&text),
        }
    }
}

/// Writes what a user asked for: over a file at once, behind a link to the file that it means, and into what is
/// no file (`/dev/stdout`, a pipe) as it is.
fn write_to(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(folder.is_none_or(Path::is_dir), "cannot write {}: there is no such folder", path.display());
    let Ok(target) = path.canonicalize() else { return replace(path, bytes) };
    let metadata = target.metadata().with_context(|| format!("cannot write {}", path.display()))?;
    ensure!(!metadata.is_dir(), "cannot write {}: it is a folder", path.display());
    if metadata.is_file() {
        ensure!(!metadata.permissions().readonly(), "cannot write {}: it is read-only", path.display());
        return replace(&target, bytes);
    }
    let written = OpenOptions::new().write(true).open(&target).and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The end of a run: the answer, then for each suite a row a cell, dense first, each metric with its interval.
///
/// In at most so many columns of a terminal, if that can be.
pub fn summary(report: &Report, columns: Option<usize>) -> String {
    let width = columns.map_or(WIDTH, |columns| columns.min(WIDTH));
    let mut text: String = report.answer.iter().map(|sentence| wrap(sentence, width)).collect();
    for suite in &report.suites {
        let name = format!("{} on {}", report.study, suite.suite);
        let mut table = Table::new([name].into_iter().chain(suite.metrics.iter().map(|m| m.name.clone())));
        for row in &suite.rows {
            let values = row.values.iter().map(|v| number(v.value) + &interval(v.low, v.high));
            table.row(std::iter::once(row.cell.clone()).chain(values));
        }
        text += &format!("\n{}", table.fitting(columns));
    }
    for cell in &report.failed {
        text += &format!("\n{} failed: {}\n", cell.cell, cell.error);
    }
    text
}

/// The report as text: the summary, what predicts the scores, and where calibrations differ.
fn terminal(report: &Report, columns: Option<usize>) -> String {
    let mut text = summary(report, columns);
    if !report.predictors.is_empty() {
        let mut table = Table::new(["what predicts the score", "ranked by", "correlation"]);
        for p in &report.predictors {
            table.row([
                format!("{} on {}", p.downstream_metric, p.downstream_suite),
                format!("{} on {}", p.metric, p.suite),
                number(p.spearman) + &interval(p.low, p.high),
            ]);
        }
        text += &format!("\n{}", table.fitting(columns));
    }
    let sure = |c: &&crate::report::Contrast| c.p_value.is_some_and(|p| p < LEVEL);
    let contrasts: Vec<_> = report.contrasts.iter().filter(sure).collect();
    if !contrasts.is_empty() {
        let mut table = Table::new([
            &format!("calibrations that differ (p < {LEVEL})"),
            "on",
            "better",
            "worse",
            "difference",
            "p",
        ]);
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
        text += &format!("\n{}", table.fitting(columns));
    }
    text
}

/// Columns of running text, where there are as many.
const WIDTH: usize = 100;

/// A sentence over as many lines of this width as it needs.
fn wrap(sentence: &str, most: usize) -> String {
    let (mut text, mut width) = (String::new(), 0);
    for word in sentence.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > most {
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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_read_only_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_to(&link, b"new").unwrap();
        assert!(link.is_symlink() && std::fs::read(&file).unwrap() == b"new");
        let mut permissions = file.metadata().unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&file, permissions).unwrap();
        assert!(write_to(&link, b"newer").unwrap_err().to_string().contains("read-only"));
        assert!(write_to(&dir.path().join("no/file"), b"").unwrap_err().to_string().contains("no such folder"));
        assert!(write_to(dir.path(), b"").unwrap_err().to_string().contains("is a folder"));
        write_to(Path::new("/dev/null"), b"text").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn the_ending_of_a_file_tells_the_format() {
        let format = |path: &str| Format::of(Path::new(path));
        assert_eq!(
            [format("a.HTML"), format("b.md"), format("c.json"), format("d")],
            [Some(Format::Html), Some(Format::Markdown), Some(Format::Json), None]
        );
    }

    #[test]
    fn sentences_wrap_between_words() {
        let text = wrap(&"word ".repeat(50), WIDTH);
        assert!(text.lines().count() == 3 && text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().count(), 50);
    }
}
