//! Keys and values of a sequence, kept for the tokens that follow.

use candle_core::{Result, Tensor};

use crate::model::spec::Heads;

/// Turned keys, and values, of one sequence in one block, for decoding token by token.
#[derive(Default)]
pub struct KvCache {
    /// By key-value head: keys and values of the tokens so far, (tokens, dim) each.
    pub(super) heads: Vec<(Vec<f32>, Vec<f32>)>,
    /// The same on a device, (key_value, room, dim) each; None before the first token.
    pub(super) on_device: Option<(Tensor, Tensor)>,
    pub(super) tokens: usize,
    /// Tokens that there is room for.
    room: usize,
}

impl KvCache {
    /// An empty cache with room for `capacity` tokens.
    pub fn new(heads: Heads, capacity: usize) -> Self {
        let room = || Vec::with_capacity(capacity * heads.dim);
        Self {
            heads: (0..heads.key_value).map(|_| (room(), room())).collect(),
            on_device: None,
            tokens: 0,
            room: capacity,
        }
    }

    /// Tokens that it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The keys and values of each key-value head on the host.
    #[cfg(test)]
    pub fn on_host(&self) -> &[(Vec<f32>, Vec<f32>)] {
        &self.heads
    }

    /// A copy with room for `capacity` tokens in all.
    pub fn with_room(&self, capacity: usize) -> Result<Self> {
        let tokens = self.tokens.max(1);
        let copy = |values: &Vec<f32>| {
            let mut copy = Vec::with_capacity(values.len() / tokens * capacity);
            copy.extend_from_slice(values);
            copy
        };
        let heads = self.heads.iter().map(|(keys, values)| (copy(keys), copy(values))).collect();
        let mut cache = Self { heads, on_device: None, tokens: 0, room: capacity };
        if let Some((keys, values)) = &self.on_device {
            let held = |x: &Tensor| x.narrow(1, 0, self.tokens)?.contiguous();
            cache.append(&held(keys)?, &held(values)?)?;
        }
        cache.tokens = self.tokens;
        Ok(cache)
    }

    /// The keys and values on a device, with room made for them at the first.
    pub(super) fn on_device(&mut self, like: &Tensor, heads: Heads) -> Result<(Tensor, Tensor)> {
        if self.on_device.is_none() {
            let room = || Tensor::zeros((heads.key_value, self.room, heads.dim), like.dtype(), like.device());
            self.on_device = Some((room()?, room()?));
        }
        Ok(self.on_device.clone().expect("room was just made"))
    }

    /// Adds turned keys and values of the next tokens on a device, (key_value, tokens, dim) each.
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (key_value, tokens, dim) = keys.dims3()?;
        let (held_keys, held_values) = self.on_device(keys, Heads { query: key_value, key_value, dim })?;
        held_keys.slice_set(&keys.contiguous()?, 1, self.tokens)?;
        held_values.slice_set(&values.contiguous()?, 1, self.tokens)?;
        self.tokens += tokens;
        Ok(())
    }
}
