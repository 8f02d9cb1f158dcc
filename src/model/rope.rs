//! Rotary position embedding: the table of angles.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use super::Config;

/// cos and sin of position × frequency, (positions × head_dim / 2) each.
#[derive(Debug, Clone)]
pub struct Rope {
    pub cos: Tensor,
    pub sin: Tensor,
    /// The same numbers, for loops on the host.
    values: Arc<RopeValues>,
}

impl Rope {
    /// The table for positions `0 .. positions`, computed in f32 as transformers does.
    pub fn new(config: &Config, positions: usize, device: &Device) -> Result<Self> {
        let frequencies = config.rope_scaling.frequencies(config.rope_theta, config.head_dim);
        let angles: Vec<f32> = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let shape = (positions, frequencies.len());
        let table =
            |f: fn(f32) -> f32| Tensor::from_vec(angles.iter().map(|&a| f(a)).collect::<Vec<f32>>(), shape, device);
        Self::of(table(f32::cos)?, table(f32::sin)?)
    }

    /// Of cos and sin, (positions × head_dim / 2) each.
    pub fn of(cos: Tensor, sin: Tensor) -> Result<Self> {
        let values = RopeValues { cos: cos.flatten_all()?.to_vec1()?, sin: sin.flatten_all()?.to_vec1()? };
        Ok(Self { cos, sin, values: Arc::new(values) })
    }

    /// An error where the table has fewer than `positions`.
    pub fn check(&self, positions: usize) -> Result<()> {
        match positions > self.cos.dim(0)? {
            true => bail!("a window of {positions} tokens is longer than the rotary table"),
            false => Ok(()),
        }
    }

    /// The numbers, for loops on the host.
    pub fn values(&self) -> Arc<RopeValues> {
        self.values.clone()
    }
}

/// The table's numbers, row-major.
#[derive(Debug)]
pub struct RopeValues {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}
