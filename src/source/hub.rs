//! Files that Hugging Face's own tools have downloaded: the cache that `hf download` and transformers fill.
//!
//! Where it is, huggingface_hub's constants.py says; what is in it, its file_download.py and _snapshot_download.py.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::expand::{Process, Surroundings, expanded};

/// The cache's folder, and what says that it is this one.
#[derive(Debug, PartialEq)]
struct Place {
    folder: PathBuf,
    /// The variable; None where it is the default.
    by: Option<&'static str>,
    /// Whether the variable is set but empty, which Python takes for the working directory.
    empty: bool,
}

impl Place {
    /// HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, `~/.cache`: the first that is set, even if to nothing.
    fn of(around: &impl Surroundings) -> Self {
        let set = |name: &'static str| around.variable(name).map(|value| (value, Some(name)));
        let join = |folder: OsString, name: &str| PathBuf::from(folder).join(name).into_os_string();
        let (home, by) = set("HF_HOME").unwrap_or_else(|| {
            let cache = set("XDG_CACHE_HOME");
            let (cache, by) = cache.unwrap_or_else(|| (join(expanded("~".as_ref(), around), ".cache"), None));
            (join(cache, "huggingface"), by)
        });
        let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let (folder, by) = named.unwrap_or_else(|| (join(expanded(&home, around), "hub"), by));
        let empty = by.and_then(|name| around.variable(name)).is_some_and(|value| value.is_empty());
        Self { folder: expanded(&folder, around).into(), by, empty }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        write!(f, "{} (", folder.display())?;
        match self.by {
            Some(name) if self.empty => write!(f, "where {name} points: it is set, but empty)"),
            Some(name) => write!(f, "where {name} points)"),
            None => f.write_str("the default; HF_HOME or HF_HUB_CACHE may name another)"),
        }
    }
}

/// A repository's revision, or a file of it.
pub struct Wanted<'a> {
    pub dataset: bool,
    pub repo: &'a str,
    pub file: Option<&'a str>,
    pub revision: &'a str,
}

impl Wanted<'_> {
    fn kind(&self) -> &'static str {
        if self.dataset { "datasets" } else { "models" }
    }

    fn folder(&self) -> String {
        format!("{}--{}", self.kind(), self.repo.replace('/', "--"))
    }

    /// The snapshot folder of the revision (a branch, a tag or a commit, also the beginning of one), or the file in it.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn find(&self) -> Result<PathBuf, String> {
        self.find_in(&Place::of(&Process))
    }

    fn find_in(&self, place: &Place) -> Result<PathBuf, String> {
        let root = place.folder.join(self.folder());
        if !exists(&root)? {
            return Err(format!("{place} {}", self.absence(place)?));
        }
        let snapshots = root.join("snapshots");
        let commits = names(&snapshots)?;
        let Some(commit) = self.commit(&root, &commits)? else {
            let known: BTreeSet<String> = names(&root.join("refs"))?.into_iter().chain(commits).collect();
            let known: Vec<String> = known.into_iter().collect();
            return Err(match known.is_empty() {
                true => format!("{} holds no snapshot: its download was not finished", root.display()),
                false => format!("{} has no revision \"{}\", but {}", root.display(), self.revision, known.join(", ")),
            });
        };
        let snapshot = snapshots.join(commit);
        match self.file {
            Some(file) => {
                let path = snapshot.join(file);
                match exists(&path)? {
                    true => Ok(path),
                    false if path.is_symlink() => {
                        Err(format!("{} is a link to nothing: its download was not finished", path.display()))
                    }
                    false => Err(format!("{} lacks this file", snapshot.display())),
                }
            }
            None => match self.lacking(&snapshot)? {
                None => Ok(snapshot),
                Some(lacking) => Err(format!("{} {lacking}", snapshot.display())),
            },
        }
    }

    /// What to say where the cache has no folder of the repository.
    fn absence(&self, place: &Place) -> Result<String, String> {
        let known = names(&place.folder)?;
        if known.is_empty() && !exists(&place.folder)? {
            return Ok("does not exist".into());
        }
        // The Hub takes a name in any case; a folder does not.
        let like = known.iter().find(|name| name.eq_ignore_ascii_case(&self.folder()));
        Ok(match like.and_then(|name| name.split_once("--")) {
            Some((_, name)) => format!(
                "has it as {}; did you mean \"hf:{}{}\"?",
                like.map_or("", |name| name),
                if self.dataset { "datasets/" } else { "" },
                name.replacen("--", "/", 1)
            ),
            None => format!("has no {}", self.folder()),
        })
    }

    /// The commit that the revision stands for, among those in the cache.
    fn commit(&self, root: &Path, commits: &[String]) -> Result<Option<String>, String> {
        let noted = root.join("refs").join(self.revision);
        let commit = match fs::read_to_string(&noted) {
            Ok(commit) => commit.trim().to_owned(),
            Err(e) if is_absence(&e) || noted.is_dir() => self.revision.to_owned(),
            Err(e) => return Err(format!("cannot read {}: {e}", noted.display())),
        };
        if commits.contains(&commit) {
            return Ok(Some(commit));
        }
        // As git abbreviates them.
        const SHORTEST: usize = 7;
        let is_short = commit.len() >= SHORTEST && commit.chars().all(|c| c.is_ascii_hexdigit());
        let like: Vec<&String> = commits.iter().filter(|c| is_short && c.starts_with(&commit)).collect();
        Ok(match like.as_slice() {
            [one] => Some((*one).clone()),
            _ => None,
        })
    }

    /// What the snapshot of a model lacks to be one, as far as names tell: downloads end early, or were told to leave
    /// files out.
    fn lacking(&self, snapshot: &Path) -> Result<Option<String>, String> {
        let names = names(snapshot)?;
        let unfinished = |lacking: &[String]| format!("lacks {}: its download was not finished", lacking.join(", "));
        let dangling: Vec<String> = names.iter().filter(|name| !snapshot.join(name).exists()).cloned().collect();
        if !dangling.is_empty() {
            return Ok(Some(unfinished(&dangling)));
        }
        let has = |ending: &str| names.iter().any(|name| name.ends_with(ending));
        if !names.iter().any(|name| name == "config.json") {
            let files: Vec<String> = (names.iter().filter(|name| name.ends_with(".gguf")))
                .map(|name| format!("hf:{}/{name}", self.repo))
                .collect();
            return Ok(Some(match files.is_empty() {
                true => unfinished(&["config.json".into()]),
                false => format!("holds GGUF files; name the one that you mean: {}", files.join(", ")),
            }));
        }
        let index = fs::read_to_string(snapshot.join("model.safetensors.index.json")).ok();
        let index: Option<serde_json::Value> = index.and_then(|text| serde_json::from_str(&text).ok());
        let shards: BTreeSet<&str> = (index.as_ref().and_then(|index| index["weight_map"].as_object()).into_iter())
            .flat_map(|map| map.values().filter_map(|shard| shard.as_str()))
            .collect();
        let lacking: Vec<String> =
            shards.iter().filter(|shard| !snapshot.join(shard).exists()).map(|shard| shard.to_string()).collect();
        if !lacking.is_empty() {
            return Ok(Some(unfinished(&lacking)));
        }
        // Whoever has other weights gets to know what can be read.
        let has_weights = [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack"].into_iter().any(has);
        Ok((!has_weights).then(|| unfinished(&["model.safetensors".into()])))
    }

    /// The command that fetches it.
    pub fn download_command(&self) -> String {
        // Where these say that the Hub is not to be asked, the command would not.
        let set = |name| Process.variable(name).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty());
        let offline = set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"));
        let is_offline = offline.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
        let mut command = format!("{}hf download {}", if is_offline { "HF_HUB_OFFLINE=0 " } else { "" }, self.repo);
        self.file.iter().for_each(|file| command += &format!(" {file}"));
        if self.dataset {
            command += " --repo-type dataset";
        }
        if self.revision != "main" {
            command += &format!(" --revision {}", self.revision);
        }
        command
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether there is such a file; what may not be looked at is not taken for absent.
fn exists(path: &Path) -> Result<bool, String> {
    match path.try_exists() {
        Err(e) if !is_absence(&e) => Err(format!("cannot look at {}: {e}", path.display())),
        found => Ok(found.unwrap_or(false)),
    }
}

/// The names in a folder, in order; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, String> {
    let entries = match fs::read_dir(folder) {
        Err(e) if !is_absence(&e) => return Err(format!("cannot look into {}: {e}", folder.display())),
        entries => entries.into_iter().flatten().flatten(),
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::expand::tests::{Cached, Made, Places};
    use super::*;

    #[test]
    fn the_cache_is_where_huggingface_hub_looks() {
        let places = Places::read();
        for Cached { variables, folder } in &places.caches {
            let mut around = places.around.clone();
            around.extend(variables.clone());
            assert_eq!(Place::of(&Made(around)).folder, Path::new(folder), "{variables:?}");
        }
    }

    #[test]
    fn the_variable_that_names_the_cache_is_told() {
        let shown = |variables: &[(&str, &str)]| {
            let around = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            Place::of(&Made(around.collect())).to_string()
        };
        for (variables, says) in [
            (&[][..], "/home/listed/.cache/huggingface/hub (the default; HF_HOME or HF_HUB_CACHE may name another)"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub (where XDG_CACHE_HOME points)"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub (where HF_HOME points)"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o (where HUGGINGFACE_HUB_CACHE points)"),
            (&[("HF_HUB_CACHE", "/n"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/n (where HF_HUB_CACHE points)"),
            (&[("HF_HUB_CACHE", "")], " (where HF_HUB_CACHE points: it is set, but empty)"),
        ] {
            assert!(shown(variables).ends_with(says), "{}", shown(variables));
        }
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with these files in the one snapshot of `Owner/name`, which `main` and a pull request point to.
    fn cache(files: &[(&str, &str)]) -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models--Owner--name");
        let snapshot = root.join("snapshots").join(COMMIT);
        fs::create_dir_all(root.join("refs/refs/pr")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(root.join("refs/main"), COMMIT).unwrap();
        fs::write(root.join("refs/refs/pr/1"), COMMIT).unwrap();
        files.iter().for_each(|(name, text)| fs::write(snapshot.join(name), text).unwrap());
        let place = Place { folder: dir.path().to_owned(), by: Some("HF_HOME"), empty: false };
        (dir, place)
    }

    fn wanted<'a>(repo: &'a str, file: Option<&'a str>, revision: &'a str) -> Wanted<'a> {
        Wanted { dataset: false, repo, file, revision }
    }

    #[test]
    fn revisions_are_branches_pull_requests_and_commits_however_short() {
        let (_dir, place) = cache(&[("config.json", "{}"), ("model.safetensors", "")]);
        for revision in ["main", "refs/pr/1", COMMIT, &COMMIT[..7], &COMMIT[..12]] {
            let found = wanted("Owner/name", None, revision).find_in(&place).unwrap();
            assert!(found.ends_with(format!("snapshots/{COMMIT}")), "{revision}");
        }
        for revision in ["dev", "refs", &COMMIT[..6], "0123456f", "refs/pr/2"] {
            let why = wanted("Owner/name", None, revision).find_in(&place).unwrap_err();
            assert!(why.contains(&format!("no revision \"{revision}\"")) && why.contains("main"), "{why}");
        }
        let other = place.folder.join("models--Owner--name/snapshots").join(format!("{}ff", &COMMIT[..10]));
        fs::create_dir(other).unwrap();
        assert!(wanted("Owner/name", None, &COMMIT[..8]).find_in(&place).is_err(), "two commits begin like this");
        assert!(wanted("Owner/name", None, &COMMIT[..12]).find_in(&place).is_ok());
    }

    #[test]
    fn what_is_not_there_is_told_with_the_folder_and_what_named_it() {
        let (_dir, place) = cache(&[("config.json", "{}"), ("model.safetensors", "")]);
        let why = |repo, file, revision| wanted(repo, file, revision).find_in(&place).unwrap_err();
        let folder = place.folder.display().to_string();
        let said = why("owner/other", None, "main");
        assert!(said.contains(&folder) && said.contains("HF_HOME") && said.contains("models--owner--other"), "{said}");
        assert!(why("owner/Name", None, "main").contains("did you mean \"hf:Owner/name\"?"));
        assert!(why("Owner/name", Some("b.gguf"), "main").contains("lacks this file"));
        let nowhere = Place { folder: "/no/such".into(), by: Some("HF_HUB_CACHE"), empty: false };
        let said = wanted("a/b", None, "main").find_in(&nowhere).unwrap_err();
        assert!(said.contains("/no/such (where HF_HUB_CACHE points) does not exist"), "{said}");
    }

    #[test]
    fn a_snapshot_that_is_not_whole_is_none() {
        let index = "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}";
        for (files, says) in [
            (&[("README.md", "")][..], "lacks config.json: its download was not finished"),
            (&[("config.json", "{}")], "lacks model.safetensors"),
            (
                &[("config.json", "{}"), ("model.safetensors.index.json", index), ("model-1.safetensors", "")],
                "lacks model-2.safetensors:",
            ),
            (
                &[("a.gguf", ""), ("b.gguf", "")],
                "name the one that you mean: hf:Owner/name/a.gguf, hf:Owner/name/b.gguf",
            ),
        ] {
            let (_dir, place) = cache(files);
            let why = wanted("Owner/name", None, "main").find_in(&place).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let (_dir, place) = cache(&[("config.json", "{}"), ("pytorch_model.bin", "")]);
        assert!(wanted("Owner/name", None, "main").find_in(&place).is_ok(), "the model's reader tells what it reads");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_blob_that_is_not_there_is_an_unfinished_download() {
        let (_dir, place) = cache(&[("config.json", "{}")]);
        let snapshot = place.folder.join("models--Owner--name/snapshots").join(COMMIT);
        std::os::unix::fs::symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
        for file in [None, Some("model.safetensors")] {
            let why = wanted("Owner/name", file, "main").find_in(&place).unwrap_err();
            assert!(why.contains("model.safetensors") && why.contains("not finished"), "{why}");
        }
    }
}
