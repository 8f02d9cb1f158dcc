//! Which weights are left of a pruned block, or of a sample of them: little enough to be kept of every cell, when the block
//! itself has made room for others.

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Key};
use super::cell::BlockRecord;
use crate::model::Spec;
use crate::prune::{Packed, mask};

/// The masks of a block's linears, but for those that the recipe leaves dense.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMasks {
    pub linears: Vec<LinearMask>,
}

/// The mask of a linear's weight.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearMask {
    pub about: MaskedLinear,
    /// Whether a weight is left: a bit each, of those that are looked at.
    pub bits: Vec<u8>,
}

/// What there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskedLinear {
    pub linear: String,
    pub weights: u64,
    /// How many of these are looked at.
    pub compared: u64,
}

impl BlockMasks {
    /// Of a pruned block, as it is kept.
    pub fn of(record: &BlockRecord, packed: &[Packed]) -> Result<Self> {
        let mut linears = Vec::new();
        for (layer, packed) in record.layers.iter().zip(packed).filter(|(layer, _)| !layer.skipped) {
            // Skipped ones count, too: what is looked at of one matrix does not depend on what is done to others.
            let (weights, matrices) = (layer.rows * layer.columns, record.layers.len());
            let about = MaskedLinear {
                linear: layer.linear.clone(),
                weights: weights as u64,
                compared: mask::looked_at(weights, matrices) as u64,
            };
            let left = packed.left.to_vec1::<u8>()?;
            linears.push(LinearMask { about, bits: mask::sampled(&left, weights, matrices).into_owned() });
        }
        Ok(Self { linears })
    }

    /// Keeps them.
    pub fn write(&self, cache: &Cache, key: Key) -> Result<()> {
        let about: Vec<&MaskedLinear> = self.linears.iter().map(|linear| &linear.about).collect();
        let tensor = |linear: &LinearMask| Tensor::new(linear.bits.as_slice(), &Device::Cpu);
        let tensors = self.linears.iter().map(tensor).collect::<candle_core::Result<Vec<_>>>()?;
        cache.write_tensors(key, &about, &tensors)
    }

    /// Those that were kept; None where the entry is lost.
    pub fn read(cache: &Cache, key: Key) -> Option<Self> {
        let (about, tensors): (Vec<MaskedLinear>, _) = cache.read_tensors(key)?;
        let of = |(about, bits): (MaskedLinear, Tensor)| {
            let bits = bits.to_vec1::<u8>().ok()?;
            (bits.len() as u64 == about.compared.div_ceil(8)).then_some(LinearMask { about, bits })
        };
        let linears = about.into_iter().zip(tensors).map(of).collect::<Option<_>>()?;
        Some(Self { linears })
    }
}

/// Bytes that a cell's masks take in the cache.
pub fn kept_bytes(model: &Spec) -> u64 {
    let of_block = |linears: usize, weights: usize| mask::looked_at(weights, linears).div_ceil(8) as u64;
    let blocks = model.blocks.iter();
    blocks.flat_map(|b| b.linears.iter().map(|l| of_block(b.linears.len(), l.parameters()))).sum()
}
