//! Why something is not had from the Hub, before it is put into words for a source.

use std::time::Duration;

use crate::clock;

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// The Hub says no, and would say it again.
    Refused(Refused),
    /// It may come right: the Hub is busy, or a connection broke. What was said, and how long to wait, if the Hub says so.
    Passing { said: String, wait: Option<Duration> },
    /// The Hub is not reached, whatever is tried again.
    Unreachable(String),
    /// What was answered is not what the Hub answers.
    Strange(String),
    /// Something on this machine.
    Here(anyhow::Error),
    /// The user wants an end.
    Interrupted,
}

/// What the Hub refuses: its `X-Error-Code`, as huggingface_hub's utils/_http.py reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Its conditions have not been accepted.
    Gated,
    /// There is none, or one that is private.
    NoRepository,
    /// The token is not one.
    BadToken,
    NoRevision,
    NoFile,
    /// By its status, with the Hub's own words.
    Other(u16, String),
}

impl Failure {
    /// Of an answer that is no success.
    pub fn of(status: u16, header: impl Fn(&str) -> Option<String>) -> Self {
        let (code, said) = (header("x-error-code").unwrap_or_default(), header("x-error-message").unwrap_or_default());
        let refused = match (code.as_str(), status) {
            ("RevisionNotFound", _) => Refused::NoRevision,
            ("EntryNotFound", _) => Refused::NoFile,
            ("GatedRepo", _) => Refused::Gated,
            (_, 401) if said == "Invalid credentials in Authorization header" => Refused::BadToken,
            ("RepoNotFound", _) | (_, 401) => Refused::NoRepository,
            (_, 408 | 429 | 500 | 502 | 503 | 504) => {
                let what = if status == 429 { "too many requests" } else { "the server is not up to it" };
                return Self::Passing { said: format!("{status}, {what}"), wait: wait(&header) };
            }
            _ => Refused::Other(status, said.chars().filter(|c| !c.is_control()).take(300).collect()),
        };
        Self::Refused(refused)
    }
}

/// How long the server asks to wait: by `RateLimit` where nothing is left, or else by `Retry-After-Ms`, which OpenAI's and
/// Azure's servers send, or by `Retry-After`, seconds or a date.
pub fn wait(header: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let limit = header("ratelimit").and_then(|limit| {
        let of = |name: &str| {
            let value = limit.split(';').find_map(|part| part.trim().strip_prefix(name)?.trim().strip_prefix('='))?;
            value.trim().parse::<u64>().ok()
        };
        (of("r")? == 0).then(|| of("t")).flatten()
    });
    let seconds = |text: String| text.trim().parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let milliseconds = || Some(seconds(header("retry-after-ms")?)?.div_f64(1000.0));
    let after = || {
        let text = header("retry-after")?;
        // Past is a date only by a clock that is wrong.
        seconds(text.clone()).or_else(|| clock::of_http(&text)?.checked_sub(clock::now()))
    };
    limit.map(Duration::from_secs).or_else(milliseconds).or_else(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, headers: &[(&str, &str)]) -> Failure {
        Failure::of(status, |name| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn refusals_are_told_apart_as_huggingface_hub_tells_them() {
        for (status, headers, expected) in [
            (403, &[("x-error-code", "GatedRepo")][..], Refused::Gated),
            (401, &[("x-error-code", "GatedRepo")], Refused::Gated),
            (401, &[("x-error-code", "RepoNotFound")], Refused::NoRepository),
            (401, &[], Refused::NoRepository),
            (401, &[("x-error-message", "Invalid credentials in Authorization header")], Refused::BadToken),
            (404, &[("x-error-code", "RevisionNotFound")], Refused::NoRevision),
            (404, &[("x-error-code", "EntryNotFound")], Refused::NoFile),
            (403, &[("x-error-message", "no")], Refused::Other(403, "no".into())),
        ] {
            assert!(
                matches!(failure(status, headers), Failure::Refused(refused) if refused == expected),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait() {
        for (status, headers, expected) in [
            (429, &[("retry-after", "7")][..], Some(7)),
            (429, &[("ratelimit", "\"api\";r=0;t=55"), ("retry-after", "7")], Some(55)),
            (429, &[("ratelimit", "\"api\";r=3;t=55")], None),
            (503, &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], None),
        ] {
            let Failure::Passing { wait, .. } = failure(status, headers) else { panic!("{status}") };
            assert_eq!(wait.map(|wait| wait.as_secs()), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_server_says_how_long_to_wait_in_seconds_milliseconds_or_by_a_date() {
        let of = |headers: &[(&str, &str)]| {
            wait(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
        };
        for (headers, seconds) in [
            (&[("retry-after", "20")][..], Some(20.0)),
            (&[("retry-after", "0.5")], Some(0.5)),
            (&[("retry-after", "1"), ("retry-after-ms", "250")], Some(0.25)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], None),
            (&[], None),
        ] {
            assert_eq!(of(headers).map(|wait| wait.as_secs_f64()), seconds, "{headers:?}");
        }
        let far = of(&[("retry-after", "Fri, 31 Dec 2999 23:59:59 GMT")]).unwrap();
        assert!(far > Duration::from_secs(86_400 * 365 * 900));
    }
}
