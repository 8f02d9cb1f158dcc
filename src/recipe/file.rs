//! The text of a recipe's file, and what to say where there is none.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::problem::{Place, Problem};
use crate::{bundled, words};

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// The folder that a bare name is looked for in, besides this one.
const RECIPES: &str = "recipes";

/// The recipe that a command line means. A bare name, such as `quickstart`, is that of a file here, else of one with
/// `.toml`, here or in `recipes`; where there is none, it stays what it is, and may be that of a recipe in the program.
pub fn found(path: PathBuf) -> PathBuf {
    if !is_bare(&path) || path.is_file() {
        return path;
    }
    let here = path.with_added_extension("toml");
    let places = [here.clone(), Path::new(RECIPES).join(here)];
    places.into_iter().find(|place| place.is_file()).unwrap_or(path)
}

/// Whether a path is a name alone, without a folder and without `.toml`.
fn is_bare(path: &Path) -> bool {
    path != Path::new(STANDARD_INPUT)
        && path.file_name() == Some(path.as_os_str())
        && path.extension().is_none_or(|ending| ending != "toml")
}

/// What errors call the file.
pub fn name(path: &Path) -> String {
    match bundled::recipe(path) {
        Some(_) => format!("calipr's recipe {}", path.display()),
        None if path == Path::new(STANDARD_INPUT) => "standard input".into(),
        None => path.display().to_string(),
    }
}

/// The text of a recipe, without a byte-order mark.
pub fn read(path: &Path) -> Result<String, Problem> {
    if let Some(text) = bundled::recipe(path) {
        return Ok(text.to_owned());
    }
    let whole = |message: String, hint| Problem { place: Place::File(name(path)), message, hint };
    let mut bytes = Vec::new();
    let read = match path == Path::new(STANDARD_INPUT) {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes),
        false => fs::read(path),
    };
    let bytes = read.map_err(|e| match path.is_dir() {
        true => whole("it is a folder, not a recipe".into(), in_folder(path)),
        false => whole(format!("cannot read the recipe: {e}"), beside(path)),
    })?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(whole("it is written in UTF-16, but TOML is UTF-8".into(), Some("save it as UTF-8".into())));
    }
    let text =
        String::from_utf8(bytes).map_err(|e| not_utf8(&name(path), e.as_bytes(), e.utf8_error().valid_up_to()))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The first byte that is not UTF-8, with its place.
fn not_utf8(file: &str, bytes: &[u8], at: usize) -> Problem {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let text = String::from_utf8_lossy(&bytes[line_start..]).lines().next().unwrap_or_default().to_owned();
    Problem {
        place: Place::Line {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text,
        },
        message: format!("the byte 0x{:02X} is not UTF-8, as TOML is", bytes[at]),
        hint: Some("the file is in another encoding, perhaps Windows-1252; save it as UTF-8".into()),
    }
}

/// The recipes in a folder, in order.
fn recipes(folder: &Path) -> Vec<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.ends_with(".toml"));
    names.sort();
    names
}

fn did_you_mean(path: &Path) -> Option<String> {
    Some(format!("did you mean {}?", path.display()))
}

/// What a folder was probably named for.
fn in_folder(folder: &Path) -> Option<String> {
    if folder.join("run.json").is_file() {
        let dir = folder.display();
        return Some(format!(
            "it holds results: `calipr report {dir}` shows them, `calipr reproduce {dir}` runs the study again"
        ));
    }
    match recipes(folder).as_slice() {
        [] => None,
        [one] => did_you_mean(&folder.join(one)),
        several => Some(format!("its recipes are {}", several.join(", "))),
    }
}

/// What stands where a file was probably looked for: with `.toml`, in `recipes`, in the program, or under a name that is
/// like it.
fn beside(path: &Path) -> Option<String> {
    if path.exists() {
        return None;
    }
    if let Ok(target) = path.read_link() {
        return Some(format!("it is a link to {}, which is not there", target.display()));
    }
    if is_bare(path) {
        return known_by_name(path.to_str()?);
    }
    let with_ending = path.with_added_extension("toml");
    let in_recipes = [Path::new(RECIPES).join(path), Path::new(RECIPES).join(&with_ending)];
    let there = std::iter::once(&with_ending).chain(&in_recipes).find(|path| path.is_file());
    if let Some(there) = there {
        return did_you_mean(there);
    }
    let bare = path.with_extension("");
    if is_bare(&bare) && bundled::recipe(&bare).is_some() {
        return Some(format!("did you mean {}, which comes with calipr?", bare.display()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let known = recipes(folder);
    let nearest = words::nearest(path.file_name()?.to_str()?, known.iter().map(String::as_str))?;
    did_you_mean(&folder.join(nearest))
}

/// The recipes that a bare name could have meant, the one that is most like it first.
fn known_by_name(name: &str) -> Option<String> {
    let here = [Path::new(""), Path::new(RECIPES)].into_iter().flat_map(recipes);
    let mut here: Vec<String> = here.filter_map(|file| Some(file.strip_suffix(".toml")?.to_owned())).collect();
    here.sort();
    here.dedup();
    let own: Vec<&str> = bundled::recipes().filter(|name| !here.iter().any(|here| here == name)).collect();
    let known = here.iter().map(String::as_str).chain(own.iter().copied());
    let nearest = words::nearest(name, known).map_or(String::new(), |name| format!("did you mean {name}? "));
    let lists = [("here", here.join(", ")), ("with calipr", own.join(", "))];
    let lists = lists.into_iter().filter(|(_, names)| !names.is_empty());
    let lists: Vec<String> = lists.map(|(place, names)| format!("{place}: {names}")).collect();
    Some(format!("{nearest}recipes known by name are, {}", lists.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_without_its_mark_and_other_encodings_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            super::read(&path)
        };
        assert_eq!(read(b"\xef\xbb\xbfname = \"a\"\r\n").unwrap(), "name = \"a\"\r\n");
        let problem = read(b"name = \"a\"\r\n# caf\xe9\r\nseed = 1\r\n").unwrap_err();
        let Place::Line { line, column, text, .. } = &problem.place else { panic!("{problem}") };
        assert_eq!((*line, *column, text.as_str()), (2, 6, "# caf\u{fffd}"));
        assert!(problem.message.contains("0xE9") && problem.hint.unwrap().contains("Windows-1252"));
        assert!(read(b"\xff\xfen\0a\0").unwrap_err().message.contains("UTF-16"));
    }

    #[test]
    fn a_path_that_is_no_recipe_leads_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let hint = |name: &str| read(&dir.path().join(name)).unwrap_err().hint.unwrap_or_default();
        fs::write(dir.path().join("study.toml"), "").unwrap();
        for name in ["study", "stduy.toml", ""] {
            assert!(hint(name).ends_with("study.toml?"), "{name}: {}", hint(name));
        }
        assert_eq!(hint("nothing-like-it"), "");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("gone.toml", dir.path().join("link.toml")).unwrap();
            assert_eq!(hint("link.toml"), "it is a link to gone.toml, which is not there");
        }
        fs::create_dir(dir.path().join("results")).unwrap();
        fs::write(dir.path().join("results/run.json"), "").unwrap();
        assert!(hint("results").contains("calipr report"));
    }
}
