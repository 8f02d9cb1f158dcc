//! What the cache may hold, and who says so: the command line, else the environment, else a line of the cache's own file.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use serde::Deserialize;
use toml::Spanned;

use super::Cache;
use crate::fault::Fault;
use crate::size::Size;

/// The variable that says how much.
const VARIABLE: &str = "CALIPR_CACHE_SIZE";

/// The cache's own file.
const FILE: &str = "config.toml";

const DEFAULT: Size = Size(50_000_000_000);

/// What the stages in the cache may take together.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    pub size: Size,
    pub by: LimitBy,
}

/// Who says how much that is.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitBy {
    Argument,
    Variable,
    File(PathBuf),
    Default,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ", self.size)?;
        match &self.by {
            LimitBy::Argument => f.write_str("(--cache-size)"),
            LimitBy::Variable => write!(f, "({VARIABLE})"),
            LimitBy::File(path) => write!(f, "({})", path.display()),
            LimitBy::Default => f.write_str("(the default)"),
        }
    }
}

/// The content of the cache's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    size: Option<Spanned<Size>>,
}

impl Cache {
    /// What it may hold: as the command line `asked`, else the environment, else its own file, else 50 GB. What is not
    /// needed is not looked at.
    ///
    /// # Errors
    /// Where what says so says no size.
    pub fn limit(&self, asked: Option<Size>) -> Result<Limit> {
        let variable = std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned());
        self.limit_by(asked, variable.as_deref())
    }

    fn limit_by(&self, asked: Option<Size>, variable: Option<&str>) -> Result<Limit> {
        if let Some(size) = asked {
            return Ok(Limit { size, by: LimitBy::Argument });
        }
        if let Some(text) = variable.filter(|text| !text.is_empty()) {
            let size = text.parse().map_err(|e| Fault(format!("environment variable {VARIABLE}: {e}")))?;
            return Ok(Limit { size, by: LimitBy::Variable });
        }
        let path = self.dir.join(FILE);
        let size = read(&path)?.and_then(|text| parse(&path, &text).transpose()).transpose()?;
        Ok(match size {
            Some(size) => Limit { size: size.into_inner(), by: LimitBy::File(path) },
            None => Limit { size: DEFAULT, by: LimitBy::Default },
        })
    }

    /// Writes into the cache's file what it may hold, and leaves all else there as it is.
    ///
    /// # Errors
    /// Where the file that is there is damaged, or cannot be written.
    pub fn set_limit(&self, size: Size) -> Result<()> {
        const NEW: &str = "# What this cache may hold; CALIPR_CACHE_SIZE and --cache-size say otherwise.\n";
        let path = self.dir.join(FILE);
        let mut text = read(&path)?.unwrap_or_else(|| NEW.into());
        let value = toml::Value::try_from(size)?.to_string();
        match parse(&path, &text)? {
            Some(before) => text.replace_range(before.span(), &value),
            None => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text += &format!("size = {value}\n");
            }
        }
        let write = || -> Result<()> {
            std::fs::create_dir_all(&self.dir)?;
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                builder.permissions(std::fs::Permissions::from_mode(0o644));
            }
            let mut file = builder.prefix(crate::UNFINISHED).tempfile_in(&self.dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The text of the file, where there is one.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| {
            let whole = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
            at(path, &whole, whole.len(), "not UTF-8, as TOML is")
        }),
        // Where a folder on the way is a file (a home of /dev/null), there is no such file either.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn parse(path: &Path, text: &str) -> Result<Option<Spanned<Size>>> {
    let config: Config = toml::from_str(text)
        .map_err(|e| at(path, text, e.span().map_or(0, |span| span.start), e.message().trim_end()))?;
    Ok(config.size)
}

/// An error at a byte of the file.
fn at(path: &Path, text: &str, byte: usize, message: &str) -> Error {
    let before = &text[..byte.min(text.len())];
    let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |i| i + 1));
    let column = before[start..].chars().count() + 1;
    let remedy = "it says what the cache may hold: size = \"50 GB\"";
    Fault(format!("{}:{line}:{column}: {message}\n       = {remedy}", path.display())).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cache(config: Option<&[u8]>) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        config.iter().for_each(|bytes| fs::write(dir.path().join(FILE), bytes).unwrap());
        let cache = Cache::in_dir(dir.path());
        (dir, cache)
    }

    #[test]
    fn the_narrower_source_wins_and_is_named() {
        let (_dir, cache) = cache(Some(b"size = \"3 GB\" # mine\n"));
        let said = |asked: Option<u64>, variable| cache.limit_by(asked.map(Size), variable).unwrap().to_string();
        assert_eq!(said(Some(1_000), Some("2 GB")), "1.0 kB (--cache-size)");
        assert_eq!(said(None, Some("2 GB")), "2.0 GB (CALIPR_CACHE_SIZE)");
        assert_eq!(said(None, Some("")), format!("3.0 GB ({})", cache.dir.join(FILE).display()));
        let (_dir, empty) = self::cache(None);
        assert_eq!(empty.limit_by(None, None).unwrap().to_string(), "50.0 GB (the default)");
        assert!(!empty.dir.join(FILE).exists());
        // Who can say it elsewhere needs nobody else's file.
        let (_dir, damaged) = self::cache(Some(b"size = "));
        assert_eq!(damaged.limit_by(Some(Size(1)), Some("much")).unwrap().size, Size(1));
    }

    #[test]
    fn what_says_no_size_is_an_error_with_its_place() {
        let (_dir, sound) = cache(None);
        let error = sound.limit_by(None, Some("5")).unwrap_err();
        assert!(error.is::<Fault>() && error.to_string().contains("CALIPR_CACHE_SIZE: \"5\" has no unit"), "{error}");
        for (config, place, says) in [
            (&b"size = 5\n"[..], ":1:8: ", "a size with its unit"),
            (b"\nsize = \"5\"\n", ":2:8: ", "has no unit"),
            (b"# a\n\nsize = \"-1 GB\"\n", ":3:8: ", "less than nothing"),
            (b"size = \"5 GB\"\nsise = 1\n", ":2:1: ", "unknown field `sise`"),
            (b"size = \"5 GB\"\nsize = \"5 GB\"\n", ":2:1: ", "duplicate key"),
            (b"size", ":1:", ""),
            (b"[cache]\nsize = \"5 GB\"\n", ":1:", "unknown field `cache`"),
            (b"size = \"5 GB\" # \xff\n", ":1:17: ", "not UTF-8"),
        ] {
            let (_dir, cache) = cache(Some(config));
            let error = cache.limit_by(None, None).unwrap_err();
            let text = error.to_string();
            assert!(error.is::<Fault>() && text.contains(&format!("{FILE}{place}")) && text.contains(says), "{text}");
            assert!(cache.set_limit(Size(1)).is_err() && fs::read(cache.dir.join(FILE)).unwrap() == config);
        }
    }

    #[test]
    fn a_limit_is_set_in_its_place_and_nothing_else_is_touched() {
        for (before, after) in [
            (
                None,
                "# What this cache may hold; CALIPR_CACHE_SIZE and --cache-size say otherwise.\nsize = \"200 GB\"\n",
            ),
            (Some("# ours\nsize   = '5 GB' # was 3\n"), "# ours\nsize   = \"200 GB\" # was 3\n"),
            (Some("# ours"), "# ours\nsize = \"200 GB\"\n"),
        ] {
            let (_dir, cache) = cache(before.map(str::as_bytes));
            cache.set_limit(Size(200_000_000_000)).unwrap();
            assert_eq!(fs::read_to_string(cache.dir.join(FILE)).unwrap(), after);
            assert_eq!(cache.limit_by(None, None).unwrap().size, Size(200_000_000_000));
        }
    }
}
