//! Which entries there are, for whoever asks about many.

use std::cell::{Cell, OnceCell};
use std::collections::HashSet;
use std::fs;

use super::{Cache, Key, Stage};
use crate::digest::Digest;

/// Questions about a stage before its folder is read instead: what a folder of a few thousand entries takes.
const ASKED_ONE_BY_ONE: usize = 500;

/// Answers whether an entry is there: the first questions by a look at each, further ones by one look at the whole folder.
/// What is made or removed meanwhile is not noticed.
pub struct Present<'a> {
    cache: &'a Cache,
    stages: [OfStage; Stage::ALL.len()],
}

#[derive(Default)]
struct OfStage {
    asked: Cell<usize>,
    listed: OnceCell<HashSet<Digest>>,
}

impl Cache {
    /// The entries that are there from now on.
    pub fn present(&self) -> Present<'_> {
        Present { cache: self, stages: Default::default() }
    }

    fn listed(&self, stage: Stage) -> HashSet<Digest> {
        let files = fs::read_dir(self.dir.join(stage.as_str())).into_iter().flatten().flatten();
        // What bears an entry's name and is none is a folder, a pipe or the like.
        let is_file = |file: &fs::DirEntry| file.file_type().is_ok_and(|kind| kind.is_file());
        files.filter(is_file).filter_map(|file| Digest::parsed(file.file_name().to_str()?)).collect()
    }
}

impl Present<'_> {
    pub fn has(&self, key: Key) -> bool {
        let OfStage { asked, listed } = &self.stages[key.stage as usize];
        asked.set(asked.get() + 1);
        match asked.get() > ASKED_ONE_BY_ONE {
            true => listed.get_or_init(|| self.cache.listed(key.stage)).contains(&key.digest),
            false => self.cache.contains(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_questions_are_answered_like_few() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let keys: Vec<Key> = (0..3 * ASKED_ONE_BY_ONE).map(|i| Stage::Scores.key(&i)).collect();
        for &key in keys.iter().step_by(3) {
            cache.write_json(key, &0).unwrap();
        }
        fs::create_dir(cache.path(keys[1])).unwrap();
        fs::write(cache.path(keys[2]).with_extension("jsonl"), "beside").unwrap();
        let present = cache.present();
        for (i, &key) in keys.iter().enumerate() {
            assert_eq!(present.has(key), i % 3 == 0, "{i}");
        }
        assert!(!present.has(keys[1]) && !present.has(Stage::Answers.key(&0)));
    }
}
