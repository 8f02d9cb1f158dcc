//! Causal attention within spans of a batch, and after cached keys and values.
//!
//! On the CPU one task a span and key-value head, in loops of our own; on CUDA devices an operation of our own too; on
//! others the same composed of candle's. They are tested against each other.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::rope::{Rope, RopeValues};
use super::spec::Heads;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::linalg::bf16::{self, Packed, Rounded};
use crate::linalg::{Mat, MatMut, Threads, product, simd};
use crate::tensors;

/// Consecutive tokens of a batch that see each other causally, and before them those of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Earlier tokens of the batch, a whole span themselves, which every token of this one sees; may be
    /// empty. Several spans may share a prefix.
    pub prefix: Range<usize>,
    pub own: Range<usize>,
}

impl Span {
    /// Tokens that only see each other.
    pub fn window(own: Range<usize>) -> Self {
        Self { prefix: 0..0, own }
    }

    /// Positions that its last token sees.
    pub fn seen(&self) -> usize {
        self.prefix.len() + self.own.len()
    }
}

/// Rotary embedding and causal softmax attention within each span, with products in `precision`.
///
/// q (tokens × query·dim), k and v (tokens × key_value·dim) → (tokens × query·dim). The spans lie one
/// after the other; positions count from the start of each, or of its prefix.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    heads: Heads,
    (rope, precision): (&Rope, Precision),
) -> Result<Tensor> {
    rope.check(spans.iter().map(Span::seen).max().unwrap_or(0))?;
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        let spans = spans.iter().map(|span| (span.prefix.clone(), span.own.clone())).collect();
        let heads = (heads.query, heads.key_value, heads.dim);
        let attention = gpu::SpanAttention { spans, heads, cos: rope.cos.clone(), sin: rope.sin.clone() };
        return q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &gpu::OnDevice(attention));
    }
    if !matches!(q.device(), Device::Cpu) {
        return composed_attention(q, k, v, spans, heads, rope);
    }
    let op = Attention { spans: spans.to_vec(), heads, table: rope.values(), precision };
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &op)
}

/// What products of attention are computed in, on the CPU; sums and the softmax are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// Rotated keys and values of one sequence in one block, for decoding token by token.
#[derive(Default)]
pub struct Cache {
    /// By key-value head: keys and values of the tokens so far, (tokens, dim) each.
    heads: Vec<(Vec<f32>, Vec<f32>)>,
    /// The same on a device, (key_value, room, dim) each; None before the first token.
    on_device: Option<(Tensor, Tensor)>,
    tokens: usize,
    /// Tokens that there is room for.
    room: usize,
}

impl Cache {
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
    fn on_device(&mut self, like: &Tensor, heads: Heads) -> Result<(Tensor, Tensor)> {
        if self.on_device.is_none() {
            let room = || Tensor::zeros((heads.key_value, self.room, heads.dim), like.dtype(), like.device());
            self.on_device = Some((room()?, room()?));
        }
        Ok(self.on_device.clone().expect("room was just made"))
    }

    /// Adds rotated keys and values of the next tokens on a device, (key_value, tokens, dim) each.
    fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (key_value, tokens, dim) = keys.dims3()?;
        let (held_keys, held_values) = self.on_device(keys, Heads { query: key_value, key_value, dim })?;
        held_keys.slice_set(&keys.contiguous()?, 1, self.tokens)?;
        held_values.slice_set(&values.contiguous()?, 1, self.tokens)?;
        self.tokens += tokens;
        Ok(())
    }
}

/// As [`attention`], where the rows `own` of sequence i follow what `caches[i]` holds, and are added to it.
pub fn cached_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (own, caches): (&[Range<usize>], &mut [Cache]),
    heads: Heads,
    rope: &Rope,
) -> Result<Tensor> {
    let longest = own.iter().zip(&*caches).map(|(own, cache)| cache.tokens + own.len()).max().unwrap_or(0);
    rope.check(longest)?;
    if !matches!(q.device(), Device::Cpu) {
        return cached_attention_on_device(q, k, v, (own, caches), heads, rope);
    }
    let table = rope.values();
    let mut attend = |q: &[f32], k: &[f32], v: &[f32]| -> Vec<f32> {
        // In f32 throughout: what a token is compared with is packed for no one token.
        let group = Group { heads, table: &table, precision: Precision::F32 };
        let mut tasks: Vec<_> = (own.iter().zip(&mut *caches))
            .flat_map(|(own, cache)| {
                let before = cache.tokens;
                cache.heads.iter_mut().enumerate().map(move |(h, head)| (own, before, h, head))
            })
            .collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter_mut()
            .map(|(own, before, h, (keys, values))| {
                group.append(k, v, own, *h, *before, keys, values);
                group.attend(q, own, *h, *before, keys, values)
            })
            .collect();
        side_by_side(own.iter(), &parts, heads, q.len())
    };
    let attended =
        tensors::with_values(q, |q| tensors::with_values(k, |k| tensors::with_values(v, |v| attend(q, k, v))))???;
    own.iter().zip(caches).for_each(|(own, cache)| cache.tokens += own.len());
    Tensor::from_vec(attended, q.shape(), q.device())
}

/// [`cached_attention`] on other devices: all sequences at once where each has one new token and there is a kernel for
/// it, else one after the other.
fn cached_attention_on_device(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (own, caches): (&[Range<usize>], &mut [Cache]),
    heads: Heads,
    rope: &Rope,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() && own.iter().all(|own| own.len() == 1) {
        let held = caches.iter_mut().map(|cache| cache.on_device(k, heads)).collect::<Result<_>>()?;
        let positions = caches.iter().map(|cache| cache.tokens as u32).collect();
        let (cos, sin) = (rope.cos.clone(), rope.sin.clone());
        let decode = gpu::DecodeAttention { caches: held, positions, cos, sin, key_values: heads.key_value };
        let out = q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &gpu::OnDevice(decode))?;
        caches.iter_mut().for_each(|cache| cache.tokens += 1);
        return Ok(out);
    }
    let mut outputs = Vec::with_capacity(own.len());
    for (own, cache) in own.iter().zip(caches) {
        let part = |x: &Tensor| x.narrow(0, own.start, own.len());
        let before = cache.tokens;
        let held = |x: &Tensor| x.narrow(1, 0, before)?.unsqueeze(0);
        let past = match cache.on_device.as_ref().filter(|_| before > 0) {
            Some((keys, values)) => Some((held(keys)?, held(values)?)),
            None => None,
        };
        let out = composed_span(&part(q)?, &part(k)?, &part(v)?, past, heads, rope)?;
        let new = |x: &Tensor| x.narrow(2, before, own.len())?.squeeze(0);
        cache.append(&new(&out.keys)?, &new(&out.values)?)?;
        outputs.push(out.attended);
    }
    Tensor::cat(&outputs, 0)
}

/// The same attention from candle's operations, for devices other than the CPU.
fn composed_attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], heads: Heads, rope: &Rope) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(spans.len());
    for Span { prefix, own } in spans {
        let part = |x: &Tensor, range: &Range<usize>| x.narrow(0, range.start, range.len());
        let past = match prefix.is_empty() {
            true => None,
            false => {
                let ends = composed_span(&part(q, prefix)?, &part(k, prefix)?, &part(v, prefix)?, None, heads, rope)?;
                Some((ends.keys, ends.values))
            }
        };
        outputs.push(composed_span(&part(q, own)?, &part(k, own)?, &part(v, own)?, past, heads, rope)?.attended);
    }
    Tensor::cat(&outputs, 0)
}

/// What [`composed_span`] makes: (len, query·dim), and keys and values with the past in front,
/// (1, key_value, past + len, dim).
struct Composed {
    attended: Tensor,
    keys: Tensor,
    values: Tensor,
}

/// One span of `len` rows, after the keys and values of what came before it.
fn composed_span(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<(Tensor, Tensor)>,
    heads: Heads,
    rope: &Rope,
) -> Result<Composed> {
    let len = q.dim(0)?;
    let before = past.as_ref().map_or(Ok(0), |(keys, _)| keys.dim(2))?;
    let split = |x: &Tensor, n: usize| x.reshape((1, len, n, heads.dim))?.transpose(1, 2)?.contiguous(); // (1, n, len, dim)
    let (cos, sin) = (rope.cos.narrow(0, before, len)?, rope.sin.narrow(0, before, len)?);
    let (cos, sin) = (cos.to_dtype(q.dtype())?, sin.to_dtype(q.dtype())?);
    let q = candle_nn::rotary_emb::rope(&split(q, heads.query)?, &cos, &sin)?;
    let (mut keys, mut values) =
        (candle_nn::rotary_emb::rope(&split(k, heads.key_value)?, &cos, &sin)?, split(v, heads.key_value)?);
    if let Some((past_keys, past_values)) = past {
        keys = Tensor::cat(&[past_keys, keys], 2)?;
        values = Tensor::cat(&[past_values, values], 2)?;
    }
    let out = causal(&q, &keys, &values)?;
    Ok(Composed { attended: out.transpose(1, 2)?.reshape((len, heads.query * heads.dim))?, keys, values })
}

/// Attention of q (1, query, len, dim), the last of the positions of k and v (1, key_value, all, dim), to those up to
/// its own: (1, query, len, dim).
fn causal(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        let [q, k, v] = [q, k, v].map(|x| x.squeeze(0)?.contiguous());
        return q?.apply_op3_no_bwd(&k?, &v?, &gpu::OnDevice(gpu::CausalAttention))?.unsqueeze(0);
    }
    let (_, heads, len, dim) = q.dims4()?;
    let (_, key_value, all, _) = k.dims4()?;
    let k = candle_transformers::utils::repeat_kv(k.clone(), heads / key_value)?;
    let v = candle_transformers::utils::repeat_kv(v.clone(), heads / key_value)?;
    let scores = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? / (dim as f64).sqrt())?;
    let mask =
        candle_transformers::utils::build_causal_mask(len, all - len, q.device())?.broadcast_as(scores.shape())?;
    let never = Tensor::new(f32::NEG_INFINITY, q.device())?.broadcast_as(scores.shape())?;
    let weights = candle_nn::ops::softmax_last_dim(&mask.where_cond(&never, &scores)?)?;
    weights.to_dtype(v.dtype())?.matmul(&v.contiguous()?)
}

struct Attention {
    spans: Vec<Span>,
    heads: Heads,
    table: Arc<RopeValues>,
    precision: Precision,
}

/// Rows of queries whose scores are held at once.
const QUERY_ROWS: usize = 60;

/// Rows from which on packing keys and values for products in bf16 pays.
const PACKED_ROWS: usize = 32;

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (tensors::slice(q, ql)?, tensors::slice(k, kl)?, tensors::slice(v, vl)?);
        let key_value = self.heads.key_value;
        let group = Group { heads: self.heads, table: &self.table, precision: self.precision };
        // One task a span and key-value head; each returns the columns of its group of query heads.
        let tasks: Vec<(&Span, usize)> =
            self.spans.iter().flat_map(|span| (0..key_value).map(move |h| (span, h))).collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(Span { prefix, own }, h)| {
                let (mut keys, mut values) = (vec![], vec![]);
                group.append(k, v, prefix, h, 0, &mut keys, &mut values);
                group.append(k, v, own, h, prefix.len(), &mut keys, &mut values);
                group.attend(q, own, h, prefix.len(), &keys, &values)
            })
            .collect();
        let out = side_by_side(self.spans.iter().map(|s| &s.own), &parts, self.heads, q.len());
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Puts the parts of each span, one a key-value head, side by side: (tokens × query·dim), `size` values.
fn side_by_side<'a>(
    spans: impl Iterator<Item = &'a Range<usize>>,
    parts: &[Vec<f32>],
    heads: Heads,
    size: usize,
) -> Vec<f32> {
    let (width, stripe) = (heads.query * heads.dim, heads.query / heads.key_value * heads.dim);
    let mut out = vec![0f32; size];
    let mut rest = out.as_mut_slice();
    let mut at = 0;
    for (span, parts) in spans.zip(parts.chunks(heads.key_value)) {
        let (here, after) = rest.split_at_mut((span.end - at) * width);
        let here = &mut here[(span.start - at) * width..];
        here.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
            for (to, part) in row.chunks_mut(stripe).zip(parts) {
                to.copy_from_slice(&part[t * stripe..][..stripe]);
            }
        });
        (rest, at) = (after, span.end);
    }
    out
}

/// Attention of the query heads that share one key-value head.
struct Group<'a> {
    heads: Heads,
    table: &'a RopeValues,
    precision: Precision,
}

impl Group<'_> {
    /// Appends the rotated keys and the values of head `h` of the rows `own`, which stand at the positions
    /// from `first` on.
    #[allow(clippy::too_many_arguments)] // the parts of two matrices and where they go
    fn append(
        &self,
        k: &[f32],
        v: &[f32],
        own: &Range<usize>,
        h: usize,
        first: usize,
        keys: &mut Vec<f32>,
        values: &mut Vec<f32>,
    ) {
        let Heads { key_value, dim, .. } = self.heads;
        let (width, at) = (key_value * dim, keys.len());
        if own.is_empty() {
            return;
        }
        keys.resize(at + own.len() * dim, 0.0);
        self.rotate(&k[own.start * width + h * dim..], width, first, 1.0, &mut keys[at..]);
        for row in v[own.start * width..own.end * width].chunks_exact(width) {
            values.extend_from_slice(&row[h * dim..(h + 1) * dim]);
        }
    }

    /// The output (len × group·dim) of the query heads that share key-value head `h`, for the rows `own`,
    /// which stand at the positions from `first` on; `keys` and `values` reach from 0 to their last.
    fn attend(&self, q: &[f32], own: &Range<usize>, h: usize, first: usize, keys: &[f32], values: &[f32]) -> Vec<f32> {
        let Heads { query, key_value, dim } = self.heads;
        let group = query / key_value;
        let (len, width) = (own.len(), query * dim);
        let mut out = vec![0f32; len * group * dim];
        let mut queries = vec![0f32; len * dim];
        let mut scores = vec![0f32; QUERY_ROWS.min(len) * (first + len)];
        let scale = (dim as f32).sqrt().recip();
        let all = first + len;
        let packed = (self.precision == Precision::Bf16 && len >= PACKED_ROWS)
            .then(|| (Packed::rounded(keys, all, dim), Packed::transposed(values, dim, all)));
        for g in 0..group {
            self.rotate(&q[own.start * width + (h * group + g) * dim..], width, first, scale, &mut queries);
            for start in (0..len).step_by(QUERY_ROWS) {
                let rows = QUERY_ROWS.min(len - start);
                let seen = first + start + rows; // no row of this stripe looks further
                let scores = &mut scores[..rows * seen];
                let queries = &queries[start * dim..(start + rows) * dim];
                let out = &mut out[(start * group + g) * dim..];
                if let Some((keys, values)) = &packed {
                    bf16::product_of_part(scores, seen, &Rounded::new(queries, rows, dim), keys, seen);
                    causal_softmax(scores, seen, first + start);
                    bf16::product_of_part(out, group * dim, &Rounded::new(scores, rows, seen), values, dim);
                    continue;
                }
                let (queries, keys) = (Mat::new(queries, rows, dim), Mat::new(keys, seen, dim).t());
                product(MatMut::new(scores, rows, seen), 0.0, 1.0, queries, keys, Threads::One);
                causal_softmax(scores, seen, first + start);
                let out = MatMut::strided(out, rows, dim, group * dim);
                product(out, 0.0, 1.0, Mat::new(scores, rows, seen), Mat::new(values, seen, dim), Threads::One);
            }
        }
        out
    }

    /// Rotates one head's rows (stride `stride`), which stand at the positions from `first` on, into `out`
    /// (len × dim), times `scale`:
    /// (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin) with x₁, x₂ the halves of the head.
    fn rotate(&self, rows: &[f32], stride: usize, first: usize, scale: f32, out: &mut [f32]) {
        let half = self.heads.dim / 2;
        let (cos, sin) = (&self.table.cos[first * half..], &self.table.sin[first * half..]);
        rotate(rows, stride, cos, sin, half, scale, out);
    }
}

simd::vectorized! {
    /// [`Group::rotate`], where the tables begin with the first row.
    fn rotate(rows: &[f32], stride: usize, cos: &[f32], sin: &[f32], half: usize, scale: f32, out: &mut [f32]) {
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for ((t, out), (cos, sin)) in out.chunks_exact_mut(2 * half).enumerate().zip(angles) {
            let (x1, x2) = rows[t * stride..t * stride + 2 * half].split_at(half);
            let (o1, o2) = out.split_at_mut(half);
            for i in 0..half {
                o1[i] = (x1[i] * cos[i] - x2[i] * sin[i]) * scale;
                o2[i] = (x2[i] * cos[i] + x1[i] * sin[i]) * scale;
            }
        }
    }
}

simd::vectorized! {
    /// Softmax of each row of scores (rows × seen), of which the first sees `past` positions and itself, the next one
    /// more; 0 for what is not seen.
    fn causal_softmax(scores: &mut [f32], seen: usize, past: usize) {
        for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
            let (row, future) = row.split_at_mut(past + i + 1);
            softmax(row);
            future.fill(0.0);
        }
    }
}

/// Softmax of one row, in place.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let max = simd::max(row);
    let mut lanes = [0f32; simd::LANES];
    let (chunks, rest) = row.as_chunks_mut::<{ simd::LANES }>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = simd::exp(*x - max);
            *lane += *x;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for x in rest {
        *x = simd::exp(*x - max);
        sum += *x;
    }
    let inverse = sum.recip();
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parts::elementwise::tests::{close, random};
    use crate::model::{RopeScaling, RopeSpec};

    fn rope(positions: usize, dim: usize) -> Rope {
        let frequencies = RopeSpec { theta: 10_000.0, dim, scaling: RopeScaling::None }.frequencies();
        let angles: Vec<f32> = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (positions, dim / 2), &Device::Cpu).unwrap();
        Rope::of(angles.cos().unwrap(), angles.sin().unwrap()).unwrap()
    }

    const HEADS: Heads = Heads { query: 6, key_value: 2, dim: 16 };

    #[test]
    fn attention_equals_candles_operations_on_spans_of_unequal_length() {
        let (q, k, v) = (random((200, 96), 0.1), random((200, 32), 0.2), random((200, 32), 0.3));
        let mut spans = [0..70, 70..71, 71..160].map(Span::window).to_vec();
        spans.extend([160..163, 163..200].map(|own| Span { prefix: 0..70, own }));
        let rope = rope(130, 16);
        let composed = composed_attention(&q, &k, &v, &spans, HEADS, &rope).unwrap();
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)] {
            close(&attention(&q, &k, &v, &spans, HEADS, (&rope, precision)).unwrap(), &composed, tolerance);
        }
    }

    #[test]
    fn a_span_after_a_prefix_equals_the_end_of_the_whole_window() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        let rope = rope(90, 16);
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)] {
            let how = (&rope, precision);
            let whole = attention(&q, &k, &v, &[Span::window(0..90)], HEADS, how).unwrap();
            let spans = [Span::window(0..50), Span { prefix: 0..50, own: 50..90 }];
            close(&attention(&q, &k, &v, &spans, HEADS, how).unwrap(), &whole, tolerance);
        }
    }

    #[test]
    fn attention_with_a_cache_equals_the_whole_window_piece_by_piece() {
        let (q, k, v) = (random((90, 96), 0.1), random((90, 32), 0.2), random((90, 32), 0.3));
        let rope = rope(90, 16);
        let whole = attention(&q, &k, &v, &[Span::window(0..90)], HEADS, (&rope, Precision::F32)).unwrap();
        let (mut caches, mut on_device) = ([Cache::new(HEADS, 90)], [Cache::new(HEADS, 90)]);
        for piece in [0..70, 70..71, 71..72, 72..90] {
            let part = |x: &Tensor| x.narrow(0, piece.start, piece.len()).unwrap();
            let own = 0..piece.len();
            let here = (std::slice::from_ref(&own), caches.as_mut_slice());
            let expected = part(&whole);
            close(&cached_attention(&part(&q), &part(&k), &part(&v), here, HEADS, &rope).unwrap(), &expected, 2e-6);
            let here = (std::slice::from_ref(&own), on_device.as_mut_slice());
            let composed = cached_attention_on_device(&part(&q), &part(&k), &part(&v), here, HEADS, &rope).unwrap();
            close(&composed, &expected, 2e-6);
            on_device = [on_device[0].with_room(90).unwrap()];
        }
    }
}
