//! What is said where something is not had from the Hub: why, and what to do.

use anyhow::{Error, anyhow};

use super::client::shown;
use super::failure::{Failure, Refused};
use super::fetch::Repository;
use super::notes::nearest;
use super::settings::HUB;

/// Why a source is not had, with what is to be said of it.
pub enum Told {
    Failure(Failure),
    /// What to do, as a sentence about the source.
    Advice(String),
    NoFile {
        file: String,
        /// What there is.
        names: Vec<String>,
    },
}

impl From<Failure> for Told {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The user wants an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("what came of the download is kept, and the same command goes on from there")
    }
}

impl std::error::Error for Interrupted {}

impl Repository<'_> {
    /// In words. `why` says why it was not taken from the cache.
    pub fn explained(&self, told: Told, why: &str) -> Error {
        let (source, wanted) = (self.wanted.to_string(), self.wanted);
        let (what, repo) = (if wanted.dataset { "data set" } else { "model" }, wanted.repo);
        let kind = if wanted.dataset { "datasets/" } else { "" };
        let page = format!("{HUB}/{kind}{repo}");
        let token = self.client.settings.token.as_ref().map(|token| token.from.as_str());
        let endpoint = shown(&self.client.settings.endpoint);
        let login = "log in with `hf auth login`, or set HF_TOKEN";
        let failure = match told {
            Told::Advice(said) => return anyhow!("{source} {said}"),
            Told::NoFile { file, names } => return anyhow!("{source}: {}", no_file(&file, &names, wanted.revision)),
            Told::Failure(failure) => failure,
        };
        match failure {
            Failure::Interrupted => Interrupted.into(),
            Failure::Here(error) => error.context(source),
            Failure::Strange(said) => anyhow!("{source}: {said}"),
            Failure::Passing { said, .. } | Failure::Unreachable(said) => anyhow!(
                "{source} is not in the Hugging Face cache: {why}; and the Hub cannot be asked: {said}. Run the same command \
                 again where there is a network, or fetch it elsewhere with `{}` and copy the cache; HTTPS_PROXY names a \
                 proxy, HF_ENDPOINT a mirror",
                wanted.download_command()
            ),
            Failure::Refused(Refused::Gated) => match token {
                None => anyhow!("{source} is gated: accept its conditions at {page}, then {login}"),
                Some(from) => anyhow!(
                    "{source} is gated, and not open to the account of the token in {from}: accept its conditions at {page} \
                     (with some, access is granted only later), and see that the token may read gated repositories"
                ),
            },
            Failure::Refused(Refused::NoRepository) => match token {
                None => anyhow!(
                    "{source}: there is no {what} {repo} at {endpoint}, or it is private; look for slips in its name, or {login}"
                ),
                Some(from) => anyhow!(
                    "{source}: there is no {what} {repo} at {endpoint}, or it is private and not open to the token in {from}; \
                     look for slips in its name"
                ),
            },
            Failure::Refused(Refused::BadToken) => anyhow!(
                "{source}: the Hub does not know the token in {}: it may have been revoked; {login}, or unset it, if {repo} is \
                 open to all",
                token.unwrap_or("HF_TOKEN")
            ),
            Failure::Refused(Refused::NoRevision) => {
                let known = self.revisions();
                let known = match known.is_empty() {
                    true => String::new(),
                    false => format!("; it has {}", known.join(", ")),
                };
                anyhow!("{source}: {repo} has no revision \"{}\"{known}", wanted.revision)
            }
            Failure::Refused(Refused::NoFile) => anyhow!("{source}: {repo} lacks a file that it lists; try again"),
            Failure::Refused(Refused::Other(status, said)) => {
                let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
                let hint = if self.client.settings.endpoint == HUB { "" } else { "; HF_ENDPOINT names the Hub" };
                anyhow!("{source}: {endpoint} refuses with {status}{said}{hint}")
            }
        }
    }

    /// Branches and tags.
    fn revisions(&self) -> Vec<String> {
        let Ok((refs, _)) = self.client.json(&format!("{}/refs", self.api())) else { return vec![] };
        let kinds = ["branches", "tags"].into_iter().filter_map(|kind| refs[kind].as_array()).flatten();
        kinds.filter_map(|one| one["name"].as_str()).take(20).map(str::to_owned).collect()
    }
}

fn no_file(file: &str, names: &[String], revision: &str) -> String {
    let at = if revision == "main" { String::new() } else { format!(" at \"{revision}\"") };
    let near = nearest(file, names);
    let hint = match (near.is_empty(), names.len()) {
        (false, _) => {
            format!("; did you mean {}?", near.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", "))
        }
        (true, 0) => String::new(),
        (true, 1..=10) => format!("; it has {}", names.join(", ")),
        (true, more) => format!("; it has {more} others, such as {}", names[..3].join(", ")),
    };
    format!("it has no file \"{file}\"{at}{hint}")
}
