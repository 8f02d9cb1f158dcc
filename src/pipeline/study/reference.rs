//! The dense model's hidden states on the suites, which every other cell is compared with.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::super::stream::Batch;
use super::super::walk::Walk;
use super::Study;
use crate::model::device;
use crate::recipe::Cell;
use crate::tensors;

impl Study<'_> {
    /// The dense model's hidden states where a suite is scored (positions, hidden), from the dense cell, which
    /// ran before.
    pub(super) fn teacher(&self, suite: &str) -> Result<Tensor> {
        if let Some(states) = self.on_device().get(suite) {
            return Ok(states.clone());
        }
        if let Some(((), mut states)) = self.cache.read_tensors(self.keys.teacher(suite))
            && let Some(states) = states.pop()
        {
            return self.keep_on_device(suite, states);
        }
        // The entry was lost since: make it again.
        let walk = Walk { suites: vec![self.passages(suite)], ..self.plain_walk(&Cell::Dense)? };
        let walked = walk.run()?;
        walk.progress.forget();
        let stream = walked.suites.into_iter().next().expect("the walk took one suite along").stream;
        self.teach(suite, &self.subject()?.last_states(stream)?)
    }

    /// Keeps the dense model's hidden states where a suite is scored.
    pub(super) fn teach(&self, suite: &str, batches: &[Batch]) -> Result<Tensor> {
        let mut passages = self.materials[suite].passages.as_slice();
        let mut parts = Vec::new();
        for batch in batches {
            let (here, rest) = passages.split_at(batch.passages());
            passages = rest;
            let texts = here.iter().map(|p| p.scored.as_slice()).enumerate();
            if let Some((states, _)) = batch.predictions(texts)? {
                let in_f32 = tensors::finite(&states, "dense model's hidden states")?;
                // A device has them in the model's precision, which is half as much to keep.
                parts.push(if states.device().is_cpu() { in_f32 } else { states });
            }
        }
        let states = match parts.is_empty() {
            true => Tensor::zeros((0, self.model.spec.embedding.width), DType::F32, &Device::Cpu)?,
            false => Tensor::cat(&parts, 0)?,
        };
        let key = self.keys.teacher(suite);
        self.cache.write_tensors(key, &(), &[states.to_device(&Device::Cpu)?])?;
        self.keep_on_device(suite, states)
    }

    /// Has the dense model's states stay on a device that has room for them: every cell is compared with them.
    fn keep_on_device(&self, suite: &str, states: Tensor) -> Result<Tensor> {
        let bytes = (states.elem_count() * states.dtype().size_in_bytes()) as u64;
        if !device::has_room(&self.model.device, bytes) {
            return Ok(states.to_device(&Device::Cpu)?);
        }
        let states = states.to_device(&self.model.device)?;
        self.on_device().insert(suite.to_owned(), states.clone());
        Ok(states)
    }

    fn on_device(&self) -> MutexGuard<'_, BTreeMap<String, Tensor>> {
        self.on_device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
