//! Where things lie, seen from a folder of results: what lies beside them is found wherever both are moved.

use std::path::{Component, Path, PathBuf};

/// How `run.json` in the folder `results` names a folder: as it is where it is absolute, else by the way from the
/// results to it. What cannot be found stays as it is.
pub fn seen_from(results: &Path, folder: &Path) -> PathBuf {
    if folder.is_absolute() {
        return folder.to_owned();
    }
    let here = |path: &Path| Path::new(".").join(path).canonicalize();
    match (here(results), here(folder)) {
        (Ok(from), Ok(to)) => way(&from, &to),
        _ => folder.to_owned(),
    }
}

/// The way from a folder to another, both in full.
fn way(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component>, Vec<Component>) = (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return to.iter().collect();
    }
    let way: PathBuf =
        from[shared..].iter().map(|_| Component::ParentDir).chain(to[shared..].iter().copied()).collect();
    if way.as_os_str().is_empty() { Path::new(".").to_owned() } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_between_folders_goes_up_and_down() {
        for (from, to, expected) in [
            ("/a/b/results/x", "/a/b/recipes", "../../recipes"),
            ("/a/b", "/a/b", "."),
            ("/a/b", "/a/b/c/d", "c/d"),
            ("/a/b/c", "/", "../../.."),
        ] {
            assert_eq!(way(Path::new(from), Path::new(to)), Path::new(expected), "{from} {to}");
        }
    }

    #[test]
    fn a_folder_is_named_by_its_way_and_an_absolute_one_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(seen_from(Path::new("src/results"), Path::new("src/data")), Path::new("../data"));
        assert_eq!(seen_from(Path::new("src/results"), Path::new("")), Path::new("../.."));
        assert_eq!(seen_from(Path::new("src"), dir.path()), dir.path());
        assert_eq!(seen_from(Path::new("src"), Path::new("no/such")), Path::new("no/such"));
    }
}
