//! Answers to prompts: decoding as a suite asks, and the text that comes of it.

use anyhow::Result;
use candle_core::Device;

use super::cell::AnswersRecord;
use super::stops::Stops;
use super::{Doing, Watch, memory, stop_if_interrupted};
use crate::data::Prompt;
use crate::model::{Generator, Sampling, Tokenizer, device};
use crate::recipe::RowUnit;
use crate::size::Size;

/// Bytes of keys and values at once where the system does not say how much memory is free.
const SMALL_BUDGET: u64 = 2 << 30;

/// Bytes of keys and values below which less at once does not help.
const LEAST_BUDGET: u64 = 16 << 20;

/// A whole model with its tokenizer.
pub struct Answerer<'a> {
    pub generator: Generator<'a>,
    pub tokenizer: &'a Tokenizer,
    /// What the model's folder says of it, where the suite does not.
    pub repetition_penalty: f32,
    pub watch: &'a dyn Watch,
    /// How many prompts of the cell were answered before, and how many it has.
    pub before: usize,
    pub all: usize,
}

impl Answerer<'_> {
    /// Answers every prompt. `separator` stands between shots.
    pub fn answer(&self, prompts: &[Prompt], unit: &RowUnit, separator: &str, seed: u64) -> Result<AnswersRecord> {
        let decoding = &unit.decoding;
        let stop =
            decoding.stop.clone().unwrap_or_else(|| match unit.shots > 0 && !unit.chat && !separator.is_empty() {
                // After its answer a model goes on with the next example.
                true => vec![separator.to_owned()],
                false => vec![],
            });
        let sampling = Sampling {
            max_new_tokens: decoding.max_new_tokens,
            temperature: decoding.temperature,
            top_k: decoding.top_k,
            top_p: decoding.top_p,
            repetition_penalty: decoding.repetition_penalty.unwrap_or(self.repetition_penalty),
            seed,
            end: self.tokenizer.end().to_vec(),
        };
        let stops = Stops::new(self.tokenizer, &stop);
        let ended = |_: usize, ids: &[u32]| stops.is_there(ids);
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let generation = within_memory(self.generator.embedding.device(), |budget| {
            self.generator.generate(&ids, &sampling, budget, &ended, |done| {
                self.watch.progress(self.before + done, self.all, Doing::Generate);
                stop_if_interrupted(self.watch)
            })
        })?;
        let texts = generation.ids.iter().map(|ids| Ok(stops.cut(ids)?.0));
        Ok(AnswersRecord {
            texts: texts.collect::<Result<_>>()?,
            tokens: generation.ids.iter().map(|ids| ids.len() as u64).sum(),
            widest: generation.widest,
        })
    }
}

/// Decodes with as many bytes of keys and values as there is room for. What is decoded side by side does not show in the
/// texts, so they may be begun again with less at once, where a device has less than it said.
pub fn within_memory<T>(device: &Device, mut decode: impl FnMut(u64) -> Result<T>) -> Result<T> {
    let of_device = device::available_bytes(device);
    let mut budget = of_device.or_else(memory::available_bytes).map_or(SMALL_BUDGET, |bytes| bytes / 4);
    loop {
        match decode(budget) {
            Err(error) if device::is_out_of_memory(&error) && budget > LEAST_BUDGET => {
                budget /= 2;
                tracing::warn!(
                    "the device's memory does not suffice; answering again, with {} of keys and values",
                    Size(budget)
                );
            }
            decoded => return decoded,
        }
    }
}
