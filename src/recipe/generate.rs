//! What is wrong with how a calibration's texts are to be written.

use super::check::Checker;
use super::{Calibration, Recipe};
use crate::calibration::Generate;
use crate::data::Library;
use crate::model::Spec;
use crate::source::Source;

impl Checker<'_> {
    /// Keys that say how texts are written.
    pub(super) fn generate(&mut self, name: &str, set: &Calibration, library: &Library) {
        let Some(how) = &set.generate else { return };
        let key = |key| ["calibration", name, "generate", key];
        self.part(&["calibration", name], &["generate", "from"], library, (&how.from, set.split.as_deref(), "train"));
        how.model.iter().for_each(|source| self.source(&key("model"), source, library));
        for (option, value) in [("prefix", how.prefix), ("max_new_tokens", how.max_new_tokens), ("top_k", how.top_k)] {
            self.at_least(&key(option), value, 1);
        }
        how.texts.iter().for_each(|&texts| self.at_least(&key("texts"), texts, 1));
        let table = ["calibration", name, "generate"];
        self.drawing(&table, Some(how.temperature), Some(how.top_p), Some(how.repetition_penalty));
        if !(how.drop >= 0.0 && how.drop < 1.0) {
            let message = format!("{} is no share that leaves texts; expected a number from 0, below 1", how.drop);
            self.add(&key("drop"), message, None);
        }
    }

    /// The context of the model that writes, the recipe's or another (`author`), has room for what texts begin with, and for
    /// a token behind it.
    pub(super) fn generate_in_context(&mut self, recipe: &Recipe, author: Option<&Source>, model: &Spec) {
        let whose = author.map_or("the model".into(), ToString::to_string);
        for (name, set) in &recipe.calibration {
            let of_it = set.generate.as_ref().filter(|how| how.model.as_ref() == author);
            let (room, ends) = Generate::room(model);
            if let Some(how) = of_it.filter(|how| how.prefix >= room) {
                let message = format!("{} tokens leave no room in {whose}'s {ends} of {room}", how.prefix);
                self.add(&["calibration", name, "generate", "prefix"], message, None);
            }
        }
    }
}
