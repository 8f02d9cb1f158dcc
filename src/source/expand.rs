//! `~` and `$VARIABLE` in paths that no shell has seen, by the rules of Python's `os.path.expanduser` and `expandvars`,
//! which Hugging Face's tools apply.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What stands around a path: variables, and users' home folders.
pub trait Surroundings {
    /// A variable; it may be empty.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The home folder that the system knows of a user; None asks for the one that runs this.
    fn home(&self, user: Option<&str>) -> Option<PathBuf>;
}

/// The process's own.
pub struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<OsString> {
        // The standard library panics at names that cannot be one.
        let can_be = !name.is_empty() && !name.contains(['=', '\0']);
        can_be.then(|| std::env::var_os(name)).flatten()
    }

    fn home(&self, user: Option<&str>) -> Option<PathBuf> {
        match user {
            None => std::env::home_dir(),
            Some(user) => home_of(user),
        }
    }
}

/// The home folder in the system's list of users.
#[cfg(unix)]
fn home_of(user: &str) -> Option<PathBuf> {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;

    let name = CString::new(user).ok()?;
    let mut buffer = vec![0; 1 << 14];
    // SAFETY: all-zero bytes are a `passwd`, whose fields are numbers and pointers that are not followed before they are set.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to what lives until after the call, and the length is the buffer's.
    let failed = unsafe { libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
    if failed != 0 || found.is_null() || entry.pw_dir.is_null() {
        return None;
    }
    // SAFETY: the call has set it to a text in the buffer.
    let home = unsafe { CStr::from_ptr(entry.pw_dir) };
    Some(OsStr::from_bytes(home.to_bytes()).into())
}

#[cfg(not(unix))]
fn home_of(_: &str) -> Option<PathBuf> {
    None
}

/// A path with its `~` and `$VARIABLE`s in full. What is not known stays as it is written.
pub fn expanded(path: &OsStr, around: &impl Surroundings) -> OsString {
    // What is not UTF-8 was not written by hand.
    let Some(text) = path.to_str() else { return path.to_owned() };
    let home = home(text, around);
    let Some(home) = home.to_str() else { return home };
    variables(home, around)
}

/// `~/…` and `~user/…`: Python's `expanduser`.
fn home(text: &str, around: &impl Surroundings) -> OsString {
    let Some(rest) = text.strip_prefix('~') else { return text.into() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (user, rest) = rest.split_at(end);
    let home = match user {
        "" => around.variable("HOME").or_else(|| around.home(None).map(Into::into)),
        user => around.home(Some(user)).map(Into::into),
    };
    let Some(home) = home else { return text.into() };
    let mut path: OsString = match home.to_str() {
        Some(home) => home.trim_end_matches('/').into(),
        None => home,
    };
    path.push(rest);
    if path.is_empty() { "/".into() } else { path }
}

/// `$NAME` and `${NAME}`: Python's `expandvars`. What a variable holds is not looked through again.
fn variables(text: &str, around: &impl Surroundings) -> OsString {
    let (mut path, mut rest) = (OsString::new(), text);
    while let Some(start) = rest.find('$') {
        let (before, after) = (&rest[..start], &rest[start + 1..]);
        path.push(before);
        let plain = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, end) = match after.strip_prefix('{').and_then(|inner| inner.find('}')) {
            Some(close) => (&after[1..=close], close + 2),
            None => (&after[..plain], plain),
        };
        match around.variable(name).filter(|_| end > 0) {
            Some(value) => path.push(value),
            None => path.push(&rest[start..=start + end]),
        }
        rest = &after[end..];
    }
    path.push(rest);
    path
}

/// The variables that a path names and that are not set.
pub fn unset(path: &OsStr, around: &impl Surroundings) -> Vec<String> {
    let Some(text) = path.to_str() else { return vec![] };
    let name = |after: &str| match after.strip_prefix('{') {
        Some(inner) => inner.split_once('}').map_or(String::new(), |(name, _)| name.to_owned()),
        None => after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect(),
    };
    let names = text.split('$').skip(1).map(name);
    names.filter(|name| !name.is_empty() && around.variable(name).is_none()).collect()
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// What tests/scripts/places.py says of Python and huggingface_hub.
    #[derive(Deserialize)]
    pub struct Places {
        pub around: BTreeMap<String, String>,
        paths: BTreeMap<String, String>,
        pub caches: Vec<Cached>,
    }

    #[derive(Deserialize)]
    pub struct Cached {
        pub variables: BTreeMap<String, String>,
        pub folder: String,
    }

    impl Places {
        pub fn read() -> Self {
            serde_json::from_str(include_str!("../../tests/fixtures/places.json")).unwrap()
        }
    }

    /// Made up, for tests.
    pub struct Made(pub BTreeMap<String, String>);

    impl Surroundings for Made {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(Into::into)
        }

        fn home(&self, user: Option<&str>) -> Option<PathBuf> {
            match user {
                None => Some("/home/listed".into()),
                Some("ann") => Some("/home/ann".into()),
                Some(_) => None,
            }
        }
    }

    fn made(variables: &[(&str, &str)]) -> Made {
        Made(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn paths_expand_as_python_expands_them() {
        let Places { around, paths, .. } = Places::read();
        let around = Made(around);
        for (path, expected) in &paths {
            assert_eq!(expanded(path.as_ref(), &around), *expected.as_str(), "{path}");
        }
        assert_eq!(expanded("~ann/x".as_ref(), &around), "/home/ann/x");
        assert_eq!(expanded("~/x".as_ref(), &made(&[])), "/home/listed/x");
        assert_eq!(expanded("~/x".as_ref(), &made(&[("HOME", "")])), "/x");
        assert_eq!(expanded("~".as_ref(), &made(&[("HOME", "/")])), "/");
        assert_eq!(unset("$A/${B}/$/$C".as_ref(), &around), ["B", "C"]);
    }

    #[cfg(unix)]
    #[test]
    fn the_system_knows_its_first_user() {
        assert_eq!(home_of("root"), Some("/root".into()));
        assert_eq!(home_of("no such user"), None);
        assert_eq!(Process.variable("a=b"), None);
    }
}
