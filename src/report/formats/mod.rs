//! A report as each format writes it, a file a format.

mod compare;
mod csv;
mod html;
mod json;
mod latex;
mod markdown;
mod shown;
mod terminal;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

pub use terminal::summary;

use super::{Report, SideBySide};

/// Lists the formats: the endings of files that are written so, and what writes them.
macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident $endings:expr, |$report:ident, $columns:ident| $written:expr;)*) => {
        /// How a report can be written.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub enum Format { $($(#[$doc])* $name),* }

        impl Format {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// How the names of files end that are written in this format, in lower case.
            pub fn endings(self) -> &'static [&'static str] {
                match self { $(Self::$name => &$endings),* }
            }

            /// The report in this format; text is made for a terminal of so many columns, or of any number.
            pub fn write(self, report: &Report, columns: Option<usize>) -> Result<String> {
                match self { $(Self::$name => { let ($report, $columns) = (report, columns); $written })* }
            }
        }
    };
}

formats! {
    /// Text with aligned columns, as wide as the terminal.
    Terminal ["txt"], |report, columns| Ok(terminal::terminal(report, columns));
    /// For a pull request or a notebook.
    Markdown ["md", "markdown"], |report, _columns| Ok(markdown::markdown(report));
    /// One file with tables that sort and plots, which needs no network.
    Html ["html", "htm"], |report, _columns| html::html(report);
    /// Every value of every setting in one table, for pandas or a spreadsheet.
    Csv ["csv"], |report, _columns| csv::csv(report);
    /// Tables for a paper, with booktabs.
    Latex ["tex"], |report, _columns| Ok(latex::latex(report));
    /// Everything that the other formats show.
    Json ["json"], |report, _columns| json::json(report);
}

impl Format {
    /// Studies side by side, in this format.
    ///
    /// # Errors
    /// Where it has none for them.
    pub fn write_side_by_side(self, studies: &SideBySide, columns: Option<usize>) -> Result<String> {
        compare::compare(self, studies, columns)
    }

    /// The format of a file with this name; None where its ending is none that is known.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|format| format.endings().contains(&ending.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_ending_of_a_file_tells_the_format() {
        let format = |path: &str| Format::of(Path::new(path));
        assert_eq!(
            [format("a.HTML"), format("b.md"), format("c.d.json"), format("e.tex"), format("f.csv"), format("g.txt")],
            [Format::Html, Format::Markdown, Format::Json, Format::Latex, Format::Csv, Format::Terminal].map(Some)
        );
        assert_eq!([format("a"), format("a.pdf"), format(".html"), format("a.")], [None; 4]);
    }

    #[test]
    fn every_format_has_every_setting_and_verdict_of_the_decision() {
        let report = sample::report();
        for &format in Format::ALL {
            let text = format.write(&report, Some(100)).unwrap();
            for row in &report.decision.as_ref().unwrap().rows {
                assert!(text.contains(&row.setting.name), "{format:?} lacks {}", row.setting.name);
                let Some(difference) = &row.value.to_dense else { continue };
                let verdict = match format {
                    Format::Json => serde_json::to_string(&difference.verdict).unwrap(),
                    _ => difference.verdict.name().into(),
                };
                assert!(text.contains(&verdict), "{format:?} lacks {verdict}");
            }
        }
    }
}
