//! Which models a folder of results has: those that were written there at a study's end, and what they were made of.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::digest::Digest;
use crate::results::replace;

/// A digest for each file or folder in `models`, of all that its weights depend on.
pub struct Kept {
    path: PathBuf,
    made_of: BTreeMap<String, String>,
}

impl Kept {
    /// What a folder of results says of its models; nothing of those that it does not know.
    ///
    /// # Errors
    /// Where the file cannot be read. One that is none of calipr's says nothing.
    pub fn read(results: &Path) -> Result<Self> {
        let path = results.join("models.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            text => text.unwrap_or_default(),
        };
        Ok(Self { path, made_of: serde_json::from_str(&text).unwrap_or_default() })
    }

    /// Whether the model of this name is known to be made of that.
    pub fn is(&self, name: &str, made_of: Digest) -> bool {
        self.made_of.get(name).is_some_and(|known| *known == made_of.to_string())
    }

    /// A model of this name is about to be written.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn note(&mut self, name: &str, made_of: Digest) -> Result<()> {
        self.made_of.insert(name.to_owned(), made_of.to_string());
        replace(&self.path, &(serde_json::to_vec_pretty(&self.made_of)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_what_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = [Digest::of(&1), Digest::of(&2)];
        let mut kept = Kept::read(dir.path()).unwrap();
        assert!(!kept.is("a", first));
        kept.note("a", first).unwrap();
        kept.note("b", second).unwrap();
        let again = Kept::read(dir.path()).unwrap();
        assert!(again.is("a", first) && !again.is("a", second) && again.is("b", second));
        fs::write(dir.path().join("models.json"), "[]").unwrap();
        assert!(!Kept::read(dir.path()).unwrap().is("a", first));
    }
}
