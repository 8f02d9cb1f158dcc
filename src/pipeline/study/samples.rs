//! The windows and prompts of a study's suites, made of its data or found in the cache.

use anyhow::Result;

use super::super::cache::Key;
use super::super::inputs::InputPart;
use super::super::material::Material;
use super::Study;
use crate::data::{Order, Packing, Prompt, Windows, cut, prompts};
use crate::recipe::{Unit, WindowUnit};

impl Study<'_> {
    pub(super) fn read_material(&self, name: &str) -> Result<Material> {
        let suite = &self.recipe.suite[name];
        let (key, input) = (self.keys.samples(name), &self.inputs.suites[name]);
        if let Unit::Windows(WindowUnit { packing, length, windows }) = suite.unit() {
            let windows = self.windows(key, input, (packing, length, windows))?;
            return Ok(Material::of_windows(&windows));
        }
        let spec = &self.model.spec;
        let make = || {
            let how = self.inputs.prompting(self.recipe, name).expect("a suite of rows has prompts");
            let asked = self.inputs.asked(name, &how, &self.tokenizer)?;
            let made: Vec<Prompt> = prompts(asked, &self.tokenizer, &how)?;
            self.cache.write_json(key, &made)?;
            Ok(made)
        };
        let made = self.cache.once(key, self.watch, || Ok(self.cache.read_json(key)), make)?;
        Material::of_prompts(name, suite, made, spec)
    }

    fn windows(&self, key: Key, input: &InputPart, packing: (Packing, usize, Option<usize>)) -> Result<Windows> {
        let found = || match self.cache.read_json(key) {
            Some((ids, ends)) => Windows::new(ids, ends).map(Some),
            None => Ok(None),
        };
        let make = || {
            let vocabulary = self.model.spec.vocabulary;
            let rows = input.checked(&self.tokenizer, vocabulary)?;
            let windows = cut(&rows, &input.part, &self.tokenizer, vocabulary, packing, Order::Given)?;
            self.cache.write_json(key, &(windows.ids(), windows.ends()))?;
            Ok(windows)
        };
        self.cache.once(key, self.watch, found, make)
    }
}
