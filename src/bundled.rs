//! What comes with the program: the data sets of `datasets/` and the recipes of `recipes/`, so that both are there
//! wherever it runs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::digest::Digest;

/// A file of the project, in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(File { name: $name, bytes: include_bytes!(concat!("../", $folder, "/", $name)) }),*]
    };
}

const DATASETS: &[File] = files!["datasets":
    "alpaca.toml"
    "anli_r1.toml"
    "anli_r2.toml"
    "anli_r3.toml"
    "arc_challenge.toml"
    "arc_easy.toml"
    "boolq.toml"
    "c4.toml"
    "commonsense_qa.toml"
    "copa.toml"
    "dclm.toml"
    "dolly.toml"
    "e_snli.toml"
    "gsm8k.toml"
    "hellaswag.toml"
    "instruct.jsonl"
    "instruct.toml"
    "lambada_openai.toml"
    "mawps.toml"
    "mmlu.toml"
    "openbookqa.toml"
    "oscar.toml"
    "pile.toml"
    "piqa.toml"
    "prose.jsonl"
    "prose.toml"
    "ptb.toml"
    "race.toml"
    "redpajama.toml"
    "rte.toml"
    "sciq.toml"
    "slimpajama.toml"
    "social_iqa.toml"
    "squad.toml"
    "squad_v2.toml"
    "svamp.toml"
    "truthfulqa_mc1.toml"
    "truthfulqa_mc2.toml"
    "unnatural_instructions.toml"
    "wikipedia.toml"
    "wikitext2.toml"
    "winogrande.toml"
    "yes_no.toml"
];

const RECIPES: &[File] = files!["recipes":
    "calibration_data.toml"
    "downstream.toml"
    "my_task.toml"
    "papers/bandari.toml"
    "papers/ji.toml"
    "papers/khanal_capone.toml"
    "papers/sparsegpt.toml"
    "papers/wanda.toml"
    "papers/williams_aletras.toml"
    "quickstart.toml"
    "task_calibration.toml"
];

/// The folder of the cache in which files lie that have to be files.
pub const FOLDER: &str = "bundled";

impl File {
    /// Where it lies in a cache, if it lies there.
    fn place(&self, cache: &Path) -> PathBuf {
        cache.join(FOLDER).join(Digest::of_bytes(self.bytes).to_string()).join(self.name)
    }

    /// The file itself, written into the cache where it is not there as it is here.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn unpacked(&self, cache: &Path) -> Result<PathBuf> {
        let place = self.place(cache);
        // As long as it, and then the same: what was changed or cut off is written again.
        let is_whole = fs::metadata(&place).is_ok_and(|about| about.len() == self.bytes.len() as u64)
            && fs::read(&place).is_ok_and(|bytes| bytes == self.bytes);
        if !is_whole {
            let cannot = || format!("cannot write {}; --cache or CALIPR_CACHE names another folder", place.display());
            self.write(&place).with_context(cannot)?;
        }
        Ok(place)
    }

    /// Another process that does the same at the same time writes the same.
    fn write(&self, place: &Path) -> Result<()> {
        let folder = place.parent().expect("a file of the cache has a folder");
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(crate::UNFINISHED).tempfile_in(folder)?;
        file.write_all(self.bytes)?;
        file.persist(place)?;
        Ok(())
    }
}

/// The names of files that are TOML, without their ending.
fn names(files: &'static [File]) -> impl Iterator<Item = &'static str> {
    files.iter().filter_map(|file| file.name.strip_suffix(".toml"))
}

/// The text of a TOML.
fn toml(files: &'static [File], name: &str) -> Option<&'static str> {
    let file = files.iter().find(|file| file.name.strip_suffix(".toml") == Some(name))?;
    Some(std::str::from_utf8(file.bytes).expect("TOML is UTF-8"))
}

/// The names of the data sets, in order.
pub fn datasets() -> impl Iterator<Item = &'static str> {
    names(DATASETS)
}

/// The definition of a data set.
pub fn dataset(name: &str) -> Option<&'static str> {
    toml(DATASETS, name)
}

/// The file of rows that a definition calls so.
pub fn rows(name: &Path) -> Option<File> {
    DATASETS.iter().copied().find(|file| Path::new(file.name) == name && !file.name.ends_with(".toml"))
}

/// The names of the recipes, in order.
pub fn recipes() -> impl Iterator<Item = &'static str> {
    names(RECIPES)
}

/// The text of the recipe of that name, whatever lies here.
pub fn recipe_named(name: &str) -> Option<&'static str> {
    toml(RECIPES, name)
}

/// The text of the recipe that a path means which is a bare name, as `quickstart`: none of a file's.
pub fn recipe(path: &Path) -> Option<&'static str> {
    recipe_named(path.to_str()?).filter(|_| !path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_folder(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn all_files_of_both_folders_come_with_the_program() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (folder, files) in [("datasets", DATASETS), ("recipes", RECIPES)] {
            let (mut here, folders): (Vec<String>, Vec<String>) =
                in_folder(&project.join(folder)).into_iter().partition(|name| name.contains('.'));
            for inner in folders {
                let names = in_folder(&project.join(folder).join(&inner)).into_iter();
                here.extend(names.map(|name| format!("{inner}/{name}")));
            }
            // The program prints it: `calipr schema`.
            here.retain(|name| name != "recipe.schema.json");
            here.sort();
            assert_eq!(here, files.iter().map(|file| file.name).collect::<Vec<_>>(), "{folder}");
            for file in files {
                assert!(fs::read(project.join(folder).join(file.name)).unwrap() == file.bytes, "{}", file.name);
            }
        }
    }

    #[test]
    fn rows_are_unpacked_once_and_again_where_they_were_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = rows(Path::new("prose.jsonl")).unwrap();
        let place = file.unpacked(dir.path()).unwrap();
        assert!(fs::read(&place).unwrap() == file.bytes);
        let written = || fs::metadata(&place).unwrap().modified().unwrap();
        let first = written();
        file.unpacked(dir.path()).unwrap();
        assert_eq!(written(), first);
        for damage in [&file.bytes[..100], &[0; 5], &file.bytes.to_ascii_uppercase()] {
            fs::write(&place, damage).unwrap();
            file.unpacked(dir.path()).unwrap();
            assert!(fs::read(&place).unwrap() == file.bytes);
        }
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        assert!(rows(Path::new("prose.toml")).is_none() && rows(Path::new("../prose.jsonl")).is_none());
    }

    #[test]
    fn many_at_once_unpack_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = rows(Path::new("instruct.jsonl")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(fs::read(file.unpacked(dir.path()).unwrap()).unwrap() == file.bytes));
            }
        });
    }
}
