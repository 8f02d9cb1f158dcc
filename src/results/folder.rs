//! A folder of results, as a command line names it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::TABLES;
use crate::fault::Fault;

/// Names that a hint has room for.
const NAMED: usize = 3;

/// An error where a folder has no results, with the one that was perhaps meant.
///
/// # Errors
/// Where there is no `run.json` in it.
pub fn ensure_has_results(dir: &Path) -> Result<()> {
    if has_results(dir) {
        return Ok(());
    }
    let (shown, expected) = (dir.display(), "expected a folder of results, such as results/quickstart");
    let said = match dir {
        dir if dir.is_dir() => format!("{shown} has no run.json; {expected}"),
        dir if dir.exists() => format!("{shown} is a file; {expected}"),
        _ => format!("there is no folder {shown}; {expected}"),
    };
    Err(Fault(said + &meant(dir)).into())
}

/// Whether a folder has any of a study's tables: there are none before the first cell is done.
pub fn has_tables(dir: &Path) -> bool {
    TABLES.iter().any(|name| dir.join(format!("{name}.parquet")).exists())
}

fn has_results(dir: &Path) -> bool {
    dir.join("run.json").is_file()
}

/// What may have been meant: the folder that a file of results lies in, the results of a recipe or study of this name, or those
/// in a folder.
fn meant(dir: &Path) -> String {
    let around = dir.parent().filter(|_| dir.is_file()).map(Path::to_owned);
    let of_name = dir.file_stem().map(|stem| Path::new("results").join(stem)).filter(|of_name| of_name != dir);
    let inside = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        around.into_iter().chain(of_name).chain(inside).filter(|dir| has_results(dir)).collect();
    found.sort();
    let named: Vec<String> = found.iter().take(NAMED).map(|dir| dir.display().to_string()).collect();
    let more = if found.len() > NAMED { ", …" } else { "" };
    if named.is_empty() { String::new() } else { format!("\n       = did you mean {}{more}?", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_results_is_the_command_lines_fault_and_what_was_meant_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for study in ["a", "b", "c", "d"] {
            fs::create_dir_all(at("results").join(study)).unwrap();
            fs::write(at("results").join(study).join("run.json"), "{}").unwrap();
        }
        ensure_has_results(&at("results/a")).unwrap();
        let refused = |name: &str| {
            let error = ensure_has_results(&at(name)).unwrap_err();
            assert!(error.is::<Fault>());
            error.to_string().replace(&format!("{}/", dir.path().display()), "")
        };
        let expected = "expected a folder of results, such as results/quickstart";
        assert_eq!(refused("nowhere"), format!("there is no folder nowhere; {expected}"));
        let file = refused("results/a/run.json");
        assert_eq!(file, format!("results/a/run.json is a file; {expected}\n       = did you mean results/a?"));
        let all = refused("results");
        let named = "\n       = did you mean results/a, results/b, results/c, …?";
        assert_eq!(all, format!("results has no run.json; {expected}{named}"));
    }
}
