//! The Hugging Face Hub: files that its own tools have downloaded, and those that are fetched into the same cache.
//!
//! What is in it, huggingface_hub's file_download.py and _snapshot_download.py say.

mod client;
mod download;
mod failure;
mod fetch;
mod listing;
mod messages;
mod notes;
mod place;
mod proxies;
mod settings;
mod store;
mod watch;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use client::Client;
pub use client::{agents, broken, is_transient, origin, pause, shown, unreached};
pub use failure::{Failure, wait};
pub use fetch::Extent;
use fetch::Repository;
use listing::{CONVERSION, Conversion, is_pattern, matches};
pub use listing::{OfSplit, without_weights};
pub use messages::Interrupted;
use notes::Kept;
use place::Place;
pub use proxies::Proxies;
use settings::Settings;
pub use watch::{Watch, is_interrupted, sleep, watched_by};

use super::expand::Process;

/// A repository's revision, a file of it, files, or a split of a data set.
pub struct Wanted<'a> {
    pub dataset: bool,
    pub repo: &'a str,
    /// A name, or a pattern of names.
    pub file: Option<&'a str>,
    pub revision: &'a str,
    /// Of a data set that is named without a file.
    pub split: Option<OfSplit<'a>>,
}

/// What no model is read without, and tools that only load weights leave out.
const TOKENIZER: &str = "tokenizer.json";

/// The commit that a file of the cache is of; None of a file that lies elsewhere.
pub fn commit_of(path: &Path) -> Option<String> {
    let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    parts.find(|part| part == "snapshots")?;
    parts.next().filter(|commit| fetch::is_commit(commit)).map(Into::into)
}

/// Whether the Hub may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Out,
    /// This was said by what is named here.
    Never(&'static str),
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "hf:{}{}", if self.dataset { "datasets/" } else { "" }, self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))?;
        if let Some(OfSplit { config, split }) = self.split {
            return write!(
                f,
                " ({}split \"{split}\")",
                config.map_or(String::new(), |config| format!("config \"{config}\", "))
            );
        }
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl<'a> Wanted<'a> {
    fn kind(&self) -> &'static str {
        if self.dataset { "datasets" } else { "models" }
    }

    fn folder(&self) -> String {
        format!("{}--{}", self.kind(), self.repo.replace('/', "--"))
    }

    /// The same, with the branch of the Hub's conversion where that is meant.
    fn settled(&self) -> Wanted<'a> {
        let revision = if self.split.is_some() { CONVERSION } else { self.revision };
        Wanted { revision, ..*self }
    }

    /// The snapshot folder of the revision (a branch, a tag or a commit, also the beginning of one), or files in it. What
    /// patterns and splits name was noted in the folder `cache`.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn find(&self, cache: &Path) -> Result<Vec<PathBuf>, String> {
        self.settled().find_in(&Place::of(&Process), cache, false)
    }

    /// The same, fetched where it is not there.
    ///
    /// # Errors
    /// Why it is not there, and cannot be fetched; what to do.
    pub fn fetch(&self, cache: &Path, reach: Reach, extent: Extent) -> anyhow::Result<Vec<PathBuf>> {
        let place = Place::of(&Process);
        let wanted = self.settled();
        let why = match wanted.find_in(&place, cache, false) {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        let reach = settings::offline(&Process).map_or(reach, |variable| match reach {
            Reach::Out => Reach::Never(variable),
            never => never,
        });
        if let Reach::Never(by) = reach {
            return wanted.find_in(&place, cache, true).map_err(|_| {
                anyhow::anyhow!(
                    "{self} is not in the Hugging Face cache: {why}; and {by} forbids fetching it: run the same command \
                     without it, or fetch it with `{}` where there is a network",
                    self.download_command()
                )
            });
        }
        let mut repository = Repository::new(&wanted, &place, Client::new(Settings::of(&Process)));
        let kept = Kept::of(cache, &wanted.folder());
        let one = |found: Result<PathBuf, _>| found.map(|path| vec![path]);
        let fetched = repository.up_to_date(|repository| match (wanted.file, wanted.split) {
            (Some(pattern), _) if is_pattern(pattern) => repository.pattern(pattern, &kept),
            (Some(file), _) => one(repository.file(file)),
            (None, Some(split)) => repository.split(split, &kept),
            (None, None) => one(repository.model(extent)),
        });
        fetched.map_err(|told| repository.explained(told, &why))
    }

    /// `all_counts` takes the files of a pattern or a split that are there, where nothing tells whether there are others.
    fn find_in(&self, place: &Place, cache: &Path, all_counts: bool) -> Result<Vec<PathBuf>, String> {
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
        let snapshot = snapshots.join(&commit);
        let pattern = self.file.filter(|file| is_pattern(file));
        if let Some(pattern) = pattern.or(self.split.map(|_| notes::ALL)) {
            let noted = Kept::of(cache, &self.folder()).names(&commit, pattern, &root);
            return self.find_several(&snapshot, pattern, noted, all_counts);
        }
        match self.file {
            Some(file) => {
                let path = snapshot.join(file);
                match exists(&path)? {
                    true => match listing::parts(file).iter().find(|part| !snapshot.join(part).exists()) {
                        Some(part) => Err(format!("{} lacks {part}", snapshot.display())),
                        None => Ok(vec![path]),
                    },
                    false if path.is_symlink() => {
                        Err(format!("{} is a link to nothing: its download was not finished", path.display()))
                    }
                    false => Err(format!("{} lacks this file", snapshot.display())),
                }
            }
            None => match self.lacking(&snapshot, &root.join(".no_exist").join(&commit))? {
                None => Ok(vec![snapshot]),
                Some(lacking) => Err(format!("{} {lacking}", snapshot.display())),
            },
        }
    }

    /// The files of a pattern or a split, of which `noted` are known.
    fn find_several(
        &self,
        snapshot: &Path,
        pattern: &str,
        noted: Option<Vec<String>>,
        all_counts: bool,
    ) -> Result<Vec<PathBuf>, String> {
        let is_known = noted.is_some();
        let names = match noted {
            Some(names) => names,
            None if all_counts => below(snapshot)?,
            None => return Err(format!("what files it is of is not known in {}", snapshot.display())),
        };
        let found: Vec<String> = match self.split {
            Some(split) => Conversion::of(&names).files(split).map_err(|said| format!("{} {said}", self.repo))?,
            None => names.into_iter().filter(|name| matches(pattern, name)).collect(),
        };
        if let Some(lacking) = found.iter().find(|name| !snapshot.join(name).exists()) {
            return Err(format!("{} lacks {lacking}", snapshot.display()));
        }
        if found.is_empty() {
            return Err(format!("{} has no such files", snapshot.display()));
        }
        if !is_known {
            tracing::warn!(
                "{self} is taken to be the {} files of it that are in {}; whether there are others only the Hub knows",
                found.len(),
                snapshot.display()
            );
        }
        Ok(found.iter().map(|name| snapshot.join(name)).collect())
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
    /// files out. What the repository has not is in `absent`.
    fn lacking(&self, snapshot: &Path, absent: &Path) -> Result<Option<String>, String> {
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
        if !names.iter().any(|name| name == TOKENIZER) && !absent.join(TOKENIZER).exists() {
            return Ok(Some(unfinished(&[TOKENIZER.into()])));
        }
        // Whoever has other weights gets to know what can be read.
        let has_weights = [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack"].into_iter().any(has);
        Ok((!has_weights).then(|| unfinished(&["model.safetensors".into()])))
    }

    /// The command of Hugging Face's that fetches it.
    pub fn download_command(&self) -> String {
        let wanted = self.settled();
        // Where this says that the Hub is not to be asked, the command would not.
        let offline = settings::offline(&Process).is_some();
        let mut command = format!("{}hf download {}", if offline { "HF_HUB_OFFLINE=0 " } else { "" }, wanted.repo);
        match (wanted.file, wanted.split) {
            (Some(pattern), _) if is_pattern(pattern) => command += &format!(" --include '{pattern}'"),
            (Some(file), _) => command += &format!(" {file}"),
            (None, Some(OfSplit { config, split })) => {
                command += &format!(" --include '{}/{split}/*'", config.unwrap_or("*"));
            }
            (None, None) => {}
        }
        if wanted.dataset {
            command += " --repo-type dataset";
        }
        if wanted.revision != "main" {
            command += &format!(" --revision {}", wanted.revision);
        }
        command
    }
}

/// The names of all files below a folder, in order.
fn below(folder: &Path) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for name in names(folder)? {
        match folder.join(&name).is_dir() {
            true => all.extend(below(&folder.join(&name))?.into_iter().map(|inner| format!("{name}/{inner}"))),
            false => all.push(name),
        }
    }
    all.sort();
    Ok(all)
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
    use super::*;

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
        Wanted { dataset: false, repo, file, revision, split: None }
    }

    fn find(wanted: Wanted, place: &Place) -> Result<PathBuf, String> {
        wanted.find_in(place, Path::new("no/notes"), false).map(|mut found| found.remove(0))
    }

    #[test]
    fn revisions_are_branches_pull_requests_and_commits_however_short() {
        let (_dir, place) = cache(&[("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "")]);
        for revision in ["main", "refs/pr/1", COMMIT, &COMMIT[..7], &COMMIT[..12]] {
            let found = find(wanted("Owner/name", None, revision), &place).unwrap();
            assert!(found.ends_with(format!("snapshots/{COMMIT}")), "{revision}");
        }
        for revision in ["dev", "refs", &COMMIT[..6], "0123456f", "refs/pr/2"] {
            let why = find(wanted("Owner/name", None, revision), &place).unwrap_err();
            assert!(why.contains(&format!("no revision \"{revision}\"")) && why.contains("main"), "{why}");
        }
        let other = place.folder.join("models--Owner--name/snapshots").join(format!("{}ff", &COMMIT[..10]));
        fs::create_dir(other).unwrap();
        assert!(find(wanted("Owner/name", None, &COMMIT[..8]), &place).is_err(), "two commits begin like this");
        assert!(find(wanted("Owner/name", None, &COMMIT[..12]), &place).is_ok());
    }

    #[test]
    fn what_is_not_there_is_told_with_the_folder_and_what_named_it() {
        let (_dir, place) = cache(&[("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "")]);
        let why = |repo, file, revision| find(wanted(repo, file, revision), &place).unwrap_err();
        let folder = place.folder.display().to_string();
        let said = why("owner/other", None, "main");
        assert!(said.contains(&folder) && said.contains("HF_HOME") && said.contains("models--owner--other"), "{said}");
        assert!(why("owner/Name", None, "main").contains("did you mean \"hf:Owner/name\"?"));
        assert!(why("Owner/name", Some("b.gguf"), "main").contains("lacks this file"));
        let nowhere = Place { folder: "/no/such".into(), by: Some("HF_HUB_CACHE"), empty: false };
        let said = find(wanted("a/b", None, "main"), &nowhere).unwrap_err();
        assert!(said.contains("/no/such (where HF_HUB_CACHE points) does not exist"), "{said}");
    }

    #[test]
    fn a_snapshot_that_is_not_whole_is_none() {
        let index = "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}";
        for (files, says) in [
            (&[("README.md", "")][..], "lacks config.json: its download was not finished"),
            (&[("config.json", "{}"), ("tokenizer.json", "")], "lacks model.safetensors"),
            (&[("config.json", "{}"), ("model.safetensors", "")], "lacks tokenizer.json"),
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
            let why = find(wanted("Owner/name", None, "main"), &place).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let (_dir, place) = cache(&[("config.json", "{}"), ("pytorch_model.bin", ""), ("tokenizer.json", "")]);
        assert!(find(wanted("Owner/name", None, "main"), &place).is_ok(), "the model's reader tells what it reads");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_blob_that_is_not_there_is_an_unfinished_download() {
        let (_dir, place) = cache(&[("config.json", "{}")]);
        let snapshot = place.folder.join("models--Owner--name/snapshots").join(COMMIT);
        std::os::unix::fs::symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
        for file in [None, Some("model.safetensors")] {
            let why = find(wanted("Owner/name", file, "main"), &place).unwrap_err();
            assert!(why.contains("model.safetensors") && why.contains("not finished"), "{why}");
        }
    }
}
