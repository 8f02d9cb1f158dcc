//! What was handed over, in the folder of jobs: who goes on with it, and who asks how far it is, finds it there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::EngineName;
use super::shell::RECIPE;

/// The command that was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Where it was given, and relative paths start.
    pub folder: String,
    pub recipe: String,
    pub set: Vec<String>,
    pub cache: String,
}

/// A study that was handed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub engine: EngineName,
    /// The engine's ids, in the order of [`super::Engine::parts`].
    pub ids: Vec<String>,
    /// What was given behind `--`.
    pub options: Vec<String>,
    pub asked: Asked,
}

impl Record {
    /// Its name in the folder of jobs.
    pub const FILE: &str = "submitted.json";
    /// The name of the recipe's copy there.
    pub const RECIPE: &str = RECIPE;

    /// What was handed over last; None where nothing was.
    ///
    /// # Errors
    /// Where the file cannot be read, or is none of calipr's.
    pub fn read(jobs: &Path) -> Result<Option<Self>> {
        let path = jobs.join(Self::FILE);
        let read = || format!("cannot read {}", path.display());
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(read).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(read),
        }
    }

    /// Whether the recipe is another than its copy in `jobs`, where workers find it so, too, and end. One of the program's is no
    /// file, and does not change.
    pub fn is_changed(&self, jobs: &Path) -> bool {
        let read = |path: &Path| fs::read_to_string(path).ok();
        let both = read(Path::new(&self.asked.recipe)).zip(read(&jobs.join(RECIPE)));
        // As the scripts compare them: a shell drops line breaks at the end.
        both.is_some_and(|(now, then)| now.trim_end_matches('\n') != then.trim_end_matches('\n'))
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, jobs: &Path) -> Result<()> {
        super::submission::write(&jobs.join(Self::FILE), &(serde_json::to_string_pretty(self)? + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let asked = Asked { folder: "/home/me".into(), recipe: "a.toml".into(), set: vec![], cache: "/shared".into() };
        let record = Record { engine: EngineName::Hq, ids: vec!["7".into()], options: vec![], asked };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        fs::write(dir.path().join(Record::FILE), "{").unwrap();
        assert!(format!("{:#}", Record::read(dir.path()).unwrap_err()).contains("submitted.json"));
    }
}
