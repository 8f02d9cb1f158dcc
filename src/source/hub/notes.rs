//! What a pattern named, and what the Hub had converted, at a commit: a list that never changes, kept in calipr's cache so
//! that the same files are found again without asking.

use std::fs;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::words;

/// The lists of a repository.
pub struct Kept(PathBuf);

/// Stands for all files.
pub const ALL: &str = "**";

impl Kept {
    pub fn of(cache: &Path, repository: &str) -> Self {
        Self(cache.join("sources").join("hub").join(repository))
    }

    fn path(&self, commit: &str, pattern: &str) -> PathBuf {
        let pattern = &Digest::of(&pattern).to_string()[..16];
        self.0.join(format!("{commit}-{pattern}.json"))
    }

    /// Keeps a list. Where it cannot be kept, the Hub is asked again.
    pub fn keep(&self, commit: &str, pattern: &str, names: &[String]) {
        let kept = fs::create_dir_all(&self.0).and_then(|()| {
            let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(&self.0)?;
            serde_json::to_writer(&mut file, names)?;
            file.persist(self.path(commit, pattern))?;
            Ok(())
        });
        if let Err(e) = kept {
            tracing::debug!("{} is not written: {e}", self.0.display());
        }
    }

    /// A list that was kept; or one that huggingface_hub has kept of all files, in `repository`, the folder of its cache.
    pub fn names(&self, commit: &str, pattern: &str, repository: &Path) -> Option<Vec<String>> {
        let own = fs::read(self.path(commit, pattern)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        own.or_else(|| {
            let tree = fs::read(repository.join("trees").join(format!("{commit}.json"))).ok()?;
            let tree: serde_json::Value =
                serde_json::from_slice(&tree).ok().filter(|tree: &serde_json::Value| tree["format_version"] == 1)?;
            let mut names: Vec<String> = tree["files"].as_object()?.keys().cloned().collect();
            names.sort();
            Some(names)
        })
    }
}

/// The names that are most like one, at most three.
pub fn nearest(name: &str, names: &[String]) -> Vec<String> {
    let mut left: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    while let Some(near) = words::nearest(name, left.iter().copied()).filter(|_| found.len() < 3) {
        found.push(near.to_owned());
        left.retain(|other| *other != near);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_found_again_by_its_commit_and_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, repository) = (Kept::of(dir.path(), "datasets--o--n"), dir.path().join("hub"));
        let names = vec!["a.json".to_owned(), "b.json".to_owned()];
        kept.keep("c1", "*.json", &names);
        assert_eq!(kept.names("c1", "*.json", &repository), Some(names));
        assert_eq!(kept.names("c1", "a*", &repository), None);
        assert_eq!(kept.names("c2", "*.json", &repository), None);
        fs::create_dir_all(repository.join("trees")).unwrap();
        let tree =
            r#"{"format_version": 1, "files": {"b": {"size": 1, "blob_id": "x"}, "a": {"size": 1, "blob_id": "y"}}}"#;
        fs::write(repository.join("trees/c2.json"), tree).unwrap();
        assert_eq!(kept.names("c2", "a*", &repository), Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn at_most_three_names_are_near() {
        let names: Vec<String> =
            ["model.Q4_0.gguf", "model.Q4_1.gguf", "model.Q8_0.gguf", "model.Q5.gguf", "README.md"]
                .map(str::to_owned)
                .to_vec();
        let near = nearest("model.Q4_2.gguf", &names);
        assert!(
            near.len() == 3 && near[0].starts_with("model.Q4") && !near.contains(&"README.md".to_owned()),
            "{near:?}"
        );
    }
}
