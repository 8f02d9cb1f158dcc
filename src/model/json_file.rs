//! The JSON files of a Hugging Face directory.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

/// A file's text.
pub fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file's JSON; None where there is no file.
pub fn read(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    parse(path, &text(path)?).map(Some)
}

/// The JSON of a text, which `path` has.
///
/// # Errors
/// Where it is none, with what was found in its place.
pub fn parse(path: &Path, text: &str) -> Result<Value> {
    let file = path.display();
    ensure!(
        !text.starts_with("version https://git-lfs"),
        "{file} is a pointer of Git LFS in the place of the file; fetch it with `git lfs pull`"
    );
    ensure!(
        !text.starts_with('\u{feff}'),
        "{file} begins with a byte order mark, which no JSON has; save it as UTF-8 without one"
    );
    serde_json::from_str(text).map_err(|error| {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        let place = format!("line {}, column {}", error.line(), error.column());
        match ["NaN", "Infinity"].iter().find(|word| line.contains(**word)) {
            Some(word) => anyhow!("{file}: {place} has {word}, which is no JSON; write a number, or take the key out"),
            None => anyhow!("cannot read {file}: {error}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_json_is_told_as_what_it_is() {
        let said = |text: &str| format!("{:#}", parse(Path::new("m/tokenizer.json"), text).unwrap_err());
        let pointer = said("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
        assert!(pointer.contains("m/tokenizer.json") && pointer.contains("git lfs pull"), "{pointer}");
        assert!(said("\u{feff}{}").contains("byte order mark"));
        let number = said("{\n\"model_max_length\": Infinity}");
        assert!(number.contains("line 2") && number.contains("Infinity"), "{number}");
        assert!(said("{").contains("cannot read m/tokenizer.json: EOF"));
    }
}
