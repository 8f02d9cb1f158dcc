//! What the environment says of the Hub, under the names that huggingface_hub gives it (constants.py, utils/_auth.py,
//! utils/_headers.py).

use std::time::Duration;

use super::place::token_file;
use crate::source::expand::Surroundings;

/// The Hub that everybody uses.
pub const HUB: &str = "https://huggingface.co";

/// How the Hub is spoken to.
pub struct Settings {
    /// Where it is, without a slash at the end.
    pub endpoint: String,
    pub token: Option<Token>,
    /// How long an answer about files may take.
    pub about: Duration,
    /// How long a download may stand still.
    pub standstill: Duration,
    /// What this program calls itself.
    pub agent: String,
    /// Whether snapshots may have links to their files.
    pub links: bool,
}

/// What one is logged in by. Only a header has it: it has no way into a message.
pub struct Token {
    pub secret: String,
    /// Where it was found, for messages.
    pub from: String,
}

/// What Python's tools take for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

fn text(around: &impl Surroundings, name: &str) -> Option<String> {
    around.variable(name).and_then(|value| value.into_string().ok())
}

/// The variable that forbids to reach out: of HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE the first that is not empty decides.
pub fn offline(around: &impl Surroundings) -> Option<&'static str> {
    let set = |name: &'static str| text(around, name).filter(|value| !value.is_empty()).map(|value| (name, value));
    let (name, value) = set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"))?;
    is_true(&value).then_some(name)
}

impl Settings {
    pub fn of(around: &impl Surroundings) -> Self {
        let seconds = |name| {
            let set =
                text(around, name).and_then(|value| value.trim().parse().ok()).filter(|&seconds: &u64| seconds > 0);
            Duration::from_secs(set.unwrap_or(10))
        };
        let endpoint = text(around, "HF_ENDPOINT").map(|value| value.trim_end_matches('/').to_owned());
        let origin = text(around, "HF_HUB_USER_AGENT_ORIGIN").filter(|origin| origin.chars().all(is_plain));
        Self {
            endpoint: endpoint.filter(|endpoint| !endpoint.is_empty()).unwrap_or_else(|| HUB.into()),
            token: Token::of(around),
            about: seconds("HF_HUB_ETAG_TIMEOUT"),
            standstill: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
            agent: format!(
                "calipr/{}{}",
                env!("CARGO_PKG_VERSION"),
                origin.map_or(String::new(), |origin| format!("; origin/{origin}"))
            ),
            links: !text(around, "HF_HUB_DISABLE_SYMLINKS").is_some_and(|value| is_true(&value)),
        }
    }
}

/// What may stand in a header.
fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

impl Token {
    /// HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or what `hf auth login` has left; none where HF_HUB_DISABLE_IMPLICIT_TOKEN is set.
    fn of(around: &impl Surroundings) -> Option<Self> {
        if text(around, "HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            return None;
        }
        let clean = |secret: String| {
            let secret = secret.replace(['\r', '\n'], "").trim().to_owned();
            (!secret.is_empty() && secret.chars().all(is_plain)).then_some(secret)
        };
        let set =
            |name: &str| text(around, name).filter(|value| !value.is_empty()).map(|value| (value, name.to_owned()));
        let named = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let named = named.and_then(|(secret, from)| Some(Self { secret: clean(secret)?, from }));
        named.or_else(|| {
            let file = token_file(around);
            let secret = clean(std::fs::read_to_string(&file).ok()?)?;
            Some(Self { secret, from: file.display().to_string() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::expand::tests::Made;

    fn made(variables: &[(&str, &str)]) -> Made {
        Made(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::of(&made(variables))
    }

    #[test]
    fn the_environment_says_where_the_hub_is_and_how_long_it_may_take() {
        let plain = settings(&[]);
        assert_eq!((plain.endpoint.as_str(), plain.about.as_secs(), plain.standstill.as_secs()), (HUB, 10, 10));
        assert!(plain.token.is_none() && plain.links);
        assert_eq!(plain.agent, format!("calipr/{}", env!("CARGO_PKG_VERSION")));
        let set = settings(&[
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_HUB_ETAG_TIMEOUT", "30"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
            ("HF_HUB_USER_AGENT_ORIGIN", "lab"),
            ("HF_HUB_DISABLE_SYMLINKS", "yes"),
        ]);
        let times = (set.about.as_secs(), set.standstill.as_secs());
        assert_eq!((set.endpoint.as_str(), times, set.links), ("https://mirror.example", (30, 10), false));
        assert!(set.agent.ends_with("; origin/lab"));
    }

    #[test]
    fn the_first_offline_variable_that_is_not_empty_decides() {
        for (variables, expected) in [
            (&[("HF_HUB_OFFLINE", "1")][..], Some("HF_HUB_OFFLINE")),
            (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "true")], Some("TRANSFORMERS_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], None),
            (&[("HF_HUB_OFFLINE", "2")], None),
        ] {
            assert_eq!(offline(&made(variables)), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_token_is_that_of_the_environment_or_of_the_login() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hf_kept\n").unwrap();
        let file = file.to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            let around = [variables, &[("HF_TOKEN_PATH", file)]].concat();
            settings(&around).token.map(|token| (token.secret, token.from))
        };
        let expected = |secret: &str, from: &str| Some((secret.to_owned(), from.to_owned()));
        assert_eq!(token(&[("HF_TOKEN", " hf_a\n")]), expected("hf_a", "HF_TOKEN"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "hf_b")]), expected("hf_b", "HUGGING_FACE_HUB_TOKEN"));
        assert_eq!(token(&[("HF_TOKEN", " ")]), expected("hf_kept", file));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "hf_a")]), None);
    }
}
