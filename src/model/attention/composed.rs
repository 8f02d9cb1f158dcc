//! Attention from candle's operations, for devices that have no kernels of ours.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::kv::KvCache;
use super::{Attention, Span};
use crate::model::rope::Rope;

/// [`Attention::within`].
pub fn within(how: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(spans.len());
    for Span { prefix, own } in spans {
        let part = |x: &Tensor, range: &Range<usize>| x.narrow(0, range.start, range.len());
        let past = match prefix.is_empty() {
            true => None,
            false => {
                let turned = own.len() + prefix.len();
                let ends = span(how, &part(q, prefix)?, &part(k, prefix)?, &part(v, prefix)?, None, turned)?;
                Some((ends.keys, ends.values))
            }
        };
        outputs
            .push(span(how, &part(q, own)?, &part(k, own)?, &part(v, own)?, past, prefix.len() + own.len())?.attended);
    }
    Tensor::cat(&outputs, 0)
}

/// [`Attention::after`], one sequence after the other.
pub fn after(
    how: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (own, caches): (&[Range<usize>], &mut [KvCache]),
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(own.len());
    for (own, cache) in own.iter().zip(caches) {
        let part = |x: &Tensor| x.narrow(0, own.start, own.len());
        let before = cache.tokens;
        let held = |x: &Tensor| x.narrow(1, 0, before)?.unsqueeze(0);
        let past = match cache.on_device.as_ref().filter(|_| before > 0) {
            Some((keys, values)) => Some((held(keys)?, held(values)?)),
            None => None,
        };
        let out = span(how, &part(q)?, &part(k)?, &part(v)?, past, before + own.len())?;
        let new = |x: &Tensor| x.narrow(2, before, own.len())?.squeeze(0);
        cache.append(&new(&out.keys)?, &new(&out.values)?)?;
        outputs.push(out.attended);
    }
    Tensor::cat(&outputs, 0)
}

/// What [`span`] makes: (len, query·dim), and keys and values with the past in front, (1, key_value, past + len, dim).
struct Composed {
    attended: Tensor,
    keys: Tensor,
    values: Tensor,
}

/// One span of `len` rows, after the keys and values of what came before it, in a window of so many tokens.
fn span(
    how: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<(Tensor, Tensor)>,
    tokens: usize,
) -> Result<Composed> {
    let heads = how.heads;
    let len = q.dim(0)?;
    let before = past.as_ref().map_or(Ok(0), |(keys, _)| keys.dim(2))?;
    let split = |x: &Tensor, n: usize| x.reshape((1, len, n, heads.dim))?.transpose(1, 2)?.contiguous(); // (1, n, len, dim)
    let turned = |x: Tensor| match &how.rope {
        Some(rope) => turn(rope.in_window(tokens), &x, before),
        None => Ok(x),
    };
    let q = turned(split(q, heads.query)?)?;
    let (mut keys, mut values) = (turned(split(k, heads.key_value)?)?, split(v, heads.key_value)?);
    if let Some((past_keys, past_values)) = past {
        keys = Tensor::cat(&[past_keys, keys], 2)?;
        values = Tensor::cat(&[past_values, values], 2)?;
    }
    let out = causal(how, &q, &keys, &values)?;
    Ok(Composed { attended: out.transpose(1, 2)?.reshape((len, heads.query * heads.dim))?, keys, values })
}

/// Turns x (1, heads, len, dim), whose rows stand at the positions from `first` on.
fn turn(rope: &Rope, x: &Tensor, first: usize) -> Result<Tensor> {
    let (_, _, len, dim) = x.dims4()?;
    let table = |table: &Tensor| table.narrow(0, first, len)?.to_dtype(x.dtype());
    let (cos, sin) = (table(&rope.cos)?, table(&rope.sin)?);
    let part = x.narrow(3, 0, rope.dim())?.contiguous()?;
    let turned = match rope.interleaved {
        true => candle_nn::rotary_emb::rope_i(&part, &cos, &sin)?,
        false => candle_nn::rotary_emb::rope(&part, &cos, &sin)?,
    };
    if rope.dim() == dim {
        return Ok(turned);
    }
    Tensor::cat(&[turned, x.narrow(3, rope.dim(), dim - rope.dim())?], 3)
}

/// Attention of q (1, query, len, dim), the last of the positions of k and v (1, key_value, all, dim), to those up to
/// its own: (1, query, len, dim).
fn causal(how: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() && how.has_kernels() {
        return super::cuda::causal(how, q, k, v);
    }
    let (_, heads, len, _) = q.dims4()?;
    let (_, key_value, all, _) = k.dims4()?;
    // Each head of keys and values serves several of queries.
    let repeated = |x: &Tensor| -> Result<Tensor> {
        let times = heads / key_value;
        let (_, _, all, dim) = x.dims4()?;
        Tensor::cat(&vec![x; times], 2)?.reshape((1, heads, all, dim))
    };
    let (k, v) = (repeated(k)?, repeated(v)?);
    let mut scores = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? * f64::from(how.scale))?;
    if let Some(cap) = how.cap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    if how.alibi.is_some() {
        let bias: Vec<f32> = (0..heads).flat_map(|head| (0..all).map(move |key| how.bias(head, key))).collect();
        scores = scores.broadcast_add(&Tensor::from_vec(bias, (1, heads, 1, all), q.device())?)?;
    }
    let hidden = |query: usize, key: usize| {
        let position = all - len + query;
        key > position || how.window.is_some_and(|window| key + window <= position)
    };
    let mask: Vec<f32> = (0..len)
        .flat_map(|query| (0..all).map(move |key| if hidden(query, key) { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    scores = scores.broadcast_add(&Tensor::from_vec(mask, (1, 1, len, all), q.device())?)?;
    candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?.matmul(&v.contiguous()?)
}
