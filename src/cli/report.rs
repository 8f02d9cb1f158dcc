//! `calipr report`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::print;
use super::terminal::columns;
use crate::fault::Fault;
use crate::report::formats::Format;
use crate::report::{Report, Wanted};
use crate::results::replace;

#[derive(Args)]
pub struct ReportArgs {
    /// A folder of results, such as results/quickstart.
    results: PathBuf,
    /// How it is written; by default as the ending of --to says, or else as text for a terminal.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to this file, not to stdout; its ending (.md, .html, .csv, .tex, .json, .txt) tells the format.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Show samples of these two settings [default: dense and the best]
    #[arg(long, num_args = 2, value_names = ["SETTING", "OTHER"])]
    samples: Option<Vec<String>>,
    /// Show samples of this suite only [default: of every one that has some]
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,
    /// Show so many samples a suite.
    #[arg(long, value_name = "N", default_value_t = Wanted::default().count)]
    count: usize,
}

impl ReportArgs {
    /// Prints what a study says.
    pub fn report(&self) -> Result<()> {
        // Before the work of reading: a file's name may be refused.
        let format = format(self.format, self.to.as_deref())?;
        let report = Report::read(&self.results, &self.wanted())?;
        let text = format.write(&report, columns().filter(|_| self.to.is_none()))?;
        match &self.to {
            Some(path) => write_to(path, text.as_bytes()),
            None => print(&text),
        }
    }

    fn wanted(&self) -> Wanted {
        let samples = self.samples.as_deref().and_then(|settings| settings.to_vec().try_into().ok());
        Wanted { samples, suite: self.suite.clone(), count: self.count }
    }
}

/// The format that was asked for, or the one that the file's name says.
pub fn format(asked: Option<Format>, to: Option<&Path>) -> Result<Format> {
    let Some(path) = to.filter(|_| asked.is_none()) else { return Ok(asked.unwrap_or(Format::Terminal)) };
    let endings = Format::ALL.iter().flat_map(|format| format.endings()).map(|ending| format!(".{ending}"));
    let known = || endings.collect::<Vec<_>>().join(", ");
    let refused =
        || format!("--to {}: expected a name that ends in one of {}; or add --format", path.display(), known());
    Format::of(path).ok_or_else(|| Fault(refused()).into())
}

/// Writes what a user asked for: over a file at once, behind a link to the file that it means, and into what is
/// no file (`/dev/stdout`, a pipe) as it is.
pub fn write_to(path: &Path, bytes: &[u8]) -> Result<()> {
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
    fn the_files_name_tells_the_format_unless_another_is_asked_for() {
        let by_name = |name: &str| format(None, Some(Path::new(name)));
        assert_eq!(by_name("a.csv").unwrap(), Format::Csv);
        assert_eq!(format(None, None).unwrap(), Format::Terminal);
        assert_eq!(format(Some(Format::Json), Some(Path::new("a.csv"))).unwrap(), Format::Json);
        assert_eq!(format(Some(Format::Json), Some(Path::new("/dev/stdout"))).unwrap(), Format::Json);
        for name in ["a.pdf", "a", "/dev/stdout"] {
            let error = by_name(name).unwrap_err();
            assert!(error.is::<Fault>());
            let text = error.to_string();
            assert!(text.starts_with(&format!("--to {name}: ")) && text.contains(".csv, .tex, .json"), "{text}");
        }
    }

    #[test]
    fn samples_are_of_two_settings() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            report: ReportArgs,
        }
        let parse = |line: &str| <Line as clap::Parser>::try_parse_from(line.split(' '));
        let wanted = parse("report dir --samples dense wanda-0.5 --suite task --count 3").unwrap().report.wanted();
        assert_eq!(wanted.samples, Some(["dense", "wanda-0.5"].map(String::from)));
        assert_eq!((wanted.suite.as_deref(), wanted.count), (Some("task"), 3));
        assert_eq!(parse("report dir").unwrap().report.wanted().samples, None);
        assert!(parse("report dir --samples dense").is_err());
    }
}
