//! Texts that a model writes by itself: the whole of it in memory, as many at once as there is room for.

use anyhow::{Result, ensure};
use candle_core::DType;

use super::answers::within_memory;
use super::{Doing, Watch, memory, stop_if_interrupted};
use crate::model::{Begun, Block, Continuing, Embedding, Generator, Head, Model, Ropes, Sampling, Spec, Written};
use crate::size::Size;

/// Bytes that a whole model takes on the CPU, where only bf16 is held as it is; those of keys and values are beside it.
pub fn whole_bytes(model: &Spec, dtype: DType) -> u64 {
    let width = if dtype == DType::BF16 { 2 } else { 4 };
    let ends = model.vocabulary * model.hidden * if model.head.tied { 1 } else { 2 };
    (width as u64).saturating_mul((model.linear_parameters() + ends) as u64)
}

/// A model that is ready to write.
pub struct Writer<'a> {
    blocks: Vec<Block>,
    embedding: Embedding,
    head: Head,
    ropes: Ropes,
    watch: &'a dyn Watch,
}

impl<'a> Writer<'a> {
    /// Reads a model for texts of up to so many tokens.
    ///
    /// # Errors
    /// Where it surely does not fit into memory, or cannot be read.
    pub fn open(model: &Model, watch: &'a dyn Watch, tokens: usize) -> Result<Self> {
        if let Some(available) = memory::available_bytes().filter(|_| model.device.is_cpu()) {
            let needed = whole_bytes(&model.spec, model.dtype);
            ensure!(
                needed <= available,
                "the model that writes has to be in memory whole, which takes {} and more, and {} are free; a smaller model, \
                 or dtype = \"bf16\", needs less",
                Size(needed),
                Size(available)
            );
        }
        let embedding = model.embedding()?;
        let (head, ropes) = (model.head(&embedding)?, model.ropes(tokens)?);
        let blocks = (0..model.spec.blocks.len()).map(|index| model.block(index)).collect::<Result<_>>()?;
        Ok(Self { blocks, embedding, head, ropes, watch })
    }

    /// Continues texts, each with the number of its stream of random numbers, the last of `all` of them, and hands over
    /// each, with its index, as soon as it is complete; those that are not to be begun are passed over. `name` is what these are.
    ///
    /// # Errors
    /// Where the run is to end, memory does not suffice for one text, or `complete` fails.
    pub fn write(
        &self,
        name: &str,
        texts: &[(u64, &[u32])],
        all: usize,
        sampling: &Sampling,
        begins: &(dyn Fn(usize) -> bool + Sync),
        mut complete: impl FnMut(usize, Written) -> Result<()>,
    ) -> Result<()> {
        let Self { blocks, embedding, head, ropes, watch } = self;
        let generator = Generator { blocks, embedding, head, ropes };
        let mut left: Vec<usize> = (0..texts.len()).collect();
        watch.texts_begin(name);
        let written = within_memory(embedding.device(), |budget| {
            let begun: Vec<Begun> = left.iter().map(|&i| Begun { stream: texts[i].0, ids: texts[i].1 }).collect();
            let how =
                Continuing { sampling, budget, scores: true, begins: &|text| begins(left[text]), ended: &|_, _| false };
            let (before, mut done) = (all - left.len(), Vec::new());
            let step = |done: usize| {
                watch.progress(before + done, all, Doing::Generate);
                stop_if_interrupted(*watch)
            };
            let written = generator.continue_texts(&begun, &how, step, |index, written| {
                done.push(left[index]);
                complete(left[index], written)
            });
            // What is complete is not begun again where the others have to be.
            left.retain(|index| !done.contains(index));
            written
        });
        watch.texts_end();
        written.map(drop)
    }
}
