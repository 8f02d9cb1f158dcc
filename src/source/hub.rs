//! Files that Hugging Face's own tools have downloaded: the cache that `hf download` and transformers fill.

use std::path::PathBuf;

/// `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`.
pub fn cache_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("HF_HUB_CACHE")
        .or_else(|| var("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
}

/// The snapshot folder of a revision (a branch, a tag or a commit), or a file in it.
pub fn cached(dataset: bool, repo: &str, file: Option<&str>, revision: &str) -> Option<PathBuf> {
    let kind = if dataset { "datasets" } else { "models" };
    let root = cache_dir()?.join(format!("{kind}--{}", repo.replace('/', "--")));
    let commit = std::fs::read_to_string(root.join("refs").join(revision)).unwrap_or_else(|_| revision.into());
    let snapshot = root.join("snapshots").join(commit.trim());
    let path = match file {
        Some(file) => snapshot.join(file),
        None => snapshot,
    };
    path.exists().then_some(path)
}

/// The command that fetches it.
pub fn download_command(dataset: bool, repo: &str, file: Option<&str>, revision: &str) -> String {
    let mut command = format!("hf download {repo}");
    file.iter().for_each(|file| command += &format!(" {file}"));
    if dataset {
        command += " --repo-type dataset";
    }
    if revision != "main" {
        command += &format!(" --revision {revision}");
    }
    command
}
