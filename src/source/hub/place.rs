//! Where Hugging Face's tools keep what they download, and their token: huggingface_hub's constants.py.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use crate::source::expand::{Surroundings, expanded};

/// The cache's folder, and what says that it is this one.
#[derive(Debug, PartialEq)]
pub struct Place {
    pub folder: PathBuf,
    /// The variable; None where it is the default.
    pub by: Option<&'static str>,
    /// Whether the variable is set but empty, which Python takes for the working directory.
    pub empty: bool,
}

fn join(folder: &OsStr, name: &str) -> OsString {
    PathBuf::from(folder).join(name).into_os_string()
}

/// The folder of all that Hugging Face's tools keep, and the variable that names it: HF_HOME, XDG_CACHE_HOME, `~/.cache`.
fn home(around: &impl Surroundings) -> (OsString, Option<&'static str>) {
    let set = |name: &'static str| around.variable(name).map(|value| (value, Some(name)));
    let (home, by) = set("HF_HOME").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME");
        let (cache, by) = cache.unwrap_or_else(|| (join(&expanded("~".as_ref(), around), ".cache"), None));
        (join(&cache, "huggingface"), by)
    });
    (expanded(&home, around), by)
}

/// The file of the token that `hf auth login` leaves: HF_TOKEN_PATH, or beside the cache.
pub fn token_file(around: &impl Surroundings) -> PathBuf {
    let named = around.variable("HF_TOKEN_PATH").unwrap_or_else(|| join(&home(around).0, "token"));
    expanded(&named, around).into()
}

impl Place {
    /// HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, `~/.cache`: the first that is set, even if to nothing.
    pub fn of(around: &impl Surroundings) -> Self {
        let set = |name: &'static str| around.variable(name).map(|value| (value, Some(name)));
        let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let (folder, by) = named.unwrap_or_else(|| {
            let (home, by) = home(around);
            (join(&home, "hub"), by)
        });
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::expand::tests::{Cached, Made, Places};

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

    #[test]
    fn the_token_lies_beside_the_cache_unless_its_file_is_named() {
        let file = |variables: &[(&str, &str)]| {
            let around = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            token_file(&Made(around.collect()))
        };
        assert_eq!(file(&[]), Path::new("/home/listed/.cache/huggingface/token"));
        assert_eq!(file(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/n")]), Path::new("/h/token"));
        assert_eq!(file(&[("HF_TOKEN_PATH", "$HOME/t"), ("HOME", "/me")]), Path::new("/me/t"));
    }
}
