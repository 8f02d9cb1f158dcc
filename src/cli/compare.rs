//! `calipr compare`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::print;
use super::report::{format, write_to};
use super::terminal::columns;
use crate::report::SideBySide;
use crate::report::formats::Format;

#[derive(Args)]
pub struct CompareArgs {
    /// Folders of results; the others are compared with the first.
    #[arg(required = true, num_args = 1..)]
    results: Vec<PathBuf>,
    /// How it is written; by default as the ending of --to says, or else as text for a terminal.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to this file, not to stdout; its ending (.md, .csv, .tex, .json, .txt) tells the format.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl CompareArgs {
    /// Prints studies side by side.
    pub fn compare(&self) -> Result<()> {
        let format = format(self.format, self.to.as_deref())?;
        let studies = SideBySide::read(&self.results)?;
        let text = format.write_side_by_side(&studies, columns().filter(|_| self.to.is_none()))?;
        match &self.to {
            Some(path) => write_to(path, text.as_bytes()),
            None => print(&text),
        }
    }
}
