//! The windows and prompts of a study, made of its data or found in the cache.

use anyhow::Result;

use super::super::cache::Key;
use super::super::inputs::InputPart;
use super::super::material::Material;
use super::Study;
use crate::data::{Order, Packing, Prompt, Rows, Windows, cut, prompts};
use crate::recipe::{Unit, WindowUnit};

impl Study<'_> {
    pub(super) fn read_material(&self, name: &str) -> Result<Material> {
        let suite = &self.recipe.suite[name];
        let (key, input) = (self.inputs.suite_key(self.recipe, name), &self.inputs.suites[name]);
        if let Unit::Windows(WindowUnit { packing, length, windows }) = suite.unit() {
            let windows = self.windows(key, input, (packing, length, windows), Order::Given, &mut None)?;
            return Ok(Material::of_windows(&windows));
        }
        let spec = &self.model.spec;
        if let Some(prompts) = self.cache.read_json(key) {
            return Material::of_prompts(name, suite, prompts, spec);
        }
        let how = self.inputs.prompting(self.recipe, name).expect("a suite of rows has prompts");
        let asked = self.inputs.asked(name, &how, &self.tokenizer)?;
        let made: Vec<Prompt> = prompts(asked, &self.tokenizer, &how)?;
        self.cache.write_json(key, &made)?;
        Material::of_prompts(name, suite, made, spec)
    }

    /// A calibration set as drawn by a seed; its `rows` are read where they are needed and were not read before.
    pub(super) fn calibration_windows(&self, name: &str, seed: u64, rows: &mut Option<Rows>) -> Result<Windows> {
        let c = &self.recipe.calibration[name];
        let key = self.inputs.calibration_key(self.recipe, name, seed);
        let packing = (c.packing, c.length, Some(c.windows));
        self.windows(key, &self.inputs.calibrations[name], packing, Order::Random(seed), rows)
    }

    fn windows(
        &self,
        key: Key,
        input: &InputPart,
        packing: (Packing, usize, Option<usize>),
        order: Order,
        rows: &mut Option<Rows>,
    ) -> Result<Windows> {
        if let Some((ids, ends)) = self.cache.read_json(key) {
            return Windows::new(ids, ends);
        }
        let vocabulary = self.model.spec.vocabulary;
        if rows.is_none() {
            *rows = Some(input.checked(&self.tokenizer, vocabulary)?);
        }
        let rows = rows.as_ref().expect("they were read");
        let windows = cut(rows, &input.part, &self.tokenizer, vocabulary, packing, order)?;
        self.cache.write_json(key, &(windows.ids(), windows.ends()))?;
        Ok(windows)
    }
}
