//! Attention on the CPU, in loops of our own.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kv::KvCache;
use super::{Attention, Precision, Span};
use crate::linalg::bf16::{self, Packed, Rounded};
use crate::linalg::{Mat, MatMut, Threads, product, rows, simd};
use crate::model::rope::Rope;
use crate::model::spec::Heads;
use crate::tensors;

/// [`Attention::within`].
pub fn within(how: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &Within { how, spans })
}

/// [`Attention::after`].
pub fn after(
    how: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (own, caches): (&[Range<usize>], &mut [KvCache]),
) -> Result<Tensor> {
    let mut attend = |q: &[f32], k: &[f32], v: &[f32]| -> Vec<f32> {
        // In f32 throughout: what a token is compared with is packed for no one token.
        let group = |tokens: usize| Group::of(how, Precision::F32, tokens);
        let mut tasks: Vec<_> = (own.iter().zip(&mut *caches))
            .flat_map(|(own, cache)| {
                let before = cache.tokens;
                cache.heads.iter_mut().enumerate().map(move |(h, head)| (own, before, h, head))
            })
            .collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter_mut()
            .map(|(own, before, h, (keys, values))| {
                let group = group(*before + own.len());
                group.append(k, v, own, *h, *before, keys, values);
                group.attend_by_rows(q, own, *h, *before, keys, values)
            })
            .collect();
        side_by_side(own.iter(), &parts, how.heads, q.len())
    };
    let attended =
        tensors::with_values(q, |q| tensors::with_values(k, |k| tensors::with_values(v, |v| attend(q, k, v))))???;
    own.iter().zip(caches).for_each(|(own, cache)| cache.tokens += own.len());
    Tensor::from_vec(attended, q.shape(), q.device())
}

struct Within<'a> {
    how: &'a Attention,
    spans: &'a [Span],
}

/// Rows of queries whose scores are held at once.
const QUERY_ROWS: usize = 60;

/// Rows from which on packing keys and values for products in bf16 pays.
const PACKED_ROWS: usize = 32;

impl CustomOp3 for Within<'_> {
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
        let heads = self.how.heads;
        // One task a span and key-value head; each returns the columns of its group of query heads.
        let tasks: Vec<(&Span, usize)> =
            self.spans.iter().flat_map(|span| (0..heads.key_value).map(move |h| (span, h))).collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(span, h)| {
                let Span { prefix, own } = span;
                let group = Group::of(self.how, self.how.precision, span.seen());
                let (mut keys, mut values) = (vec![], vec![]);
                group.append(k, v, prefix, h, 0, &mut keys, &mut values);
                group.append(k, v, own, h, prefix.len(), &mut keys, &mut values);
                group.attend(q, own, h, prefix.len(), &keys, &values)
            })
            .collect();
        let out = side_by_side(self.spans.iter().map(|s| &s.own), &parts, heads, q.len());
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
    how: &'a Attention,
    precision: Precision,
    /// The rotary table of a window of its length.
    rope: Option<&'a Rope>,
}

impl<'a> Group<'a> {
    /// In a window of so many tokens.
    fn of(how: &'a Attention, precision: Precision, tokens: usize) -> Self {
        Self { how, precision, rope: how.rope.as_ref().map(|rope| rope.in_window(tokens)) }
    }

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
        let Heads { key_value, dim, .. } = self.how.heads;
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
        let Heads { query, key_value, dim } = self.how.heads;
        let group = query / key_value;
        let (len, width) = (own.len(), query * dim);
        let mut out = vec![0f32; len * group * dim];
        let mut queries = vec![0f32; len * dim];
        let mut scores = vec![0f32; QUERY_ROWS.min(len) * (first + len)];
        let all = first + len;
        let packed = (self.precision == Precision::Bf16 && len >= PACKED_ROWS)
            .then(|| (Packed::rounded(keys, all, dim), Packed::transposed(values, dim, all)));
        for g in 0..group {
            self.rotate(&q[own.start * width + (h * group + g) * dim..], width, first, self.how.scale, &mut queries);
            for start in (0..len).step_by(QUERY_ROWS) {
                let rows = QUERY_ROWS.min(len - start);
                let seen = first + start + rows; // no row of this stripe looks further
                let queries = &queries[start * dim..(start + rows) * dim];
                let out = &mut out[(start * group + g) * dim..];
                if let Some((keys, values)) = &packed {
                    let scores = &mut scores[..rows * seen];
                    bf16::product_of_part(scores, seen, &Rounded::new(queries, rows, dim), keys, seen);
                    self.weigh(scores, 0..seen, first + start, h * group + g);
                    bf16::product_of_part(out, group * dim, &Rounded::new(scores, rows, seen), values, dim);
                    continue;
                }
                let low = self.first_seen(first + start); // nor further back
                let (keys, values) = (&keys[low * dim..], &values[low * dim..]);
                let scores = &mut scores[..rows * (seen - low)];
                let (queries, keys) = (Mat::new(queries, rows, dim), Mat::new(keys, seen - low, dim).t());
                product(MatMut::new(scores, rows, seen - low), 0.0, 1.0, queries, keys, Threads::One);
                self.weigh(scores, low..seen, first + start, h * group + g);
                let out = MatMut::strided(out, rows, dim, group * dim);
                let values = Mat::new(values, seen - low, dim);
                product(out, 0.0, 1.0, Mat::new(scores, rows, seen - low), values, Threads::One);
            }
        }
        out
    }

    /// The same row by row, for few rows: what a token sees comes to the same whatever goes through with it.
    fn attend_by_rows(
        &self,
        q: &[f32],
        own: &Range<usize>,
        h: usize,
        first: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Vec<f32> {
        let Heads { query, key_value, dim } = self.how.heads;
        let (group, width) = (query / key_value, query * dim);
        let mut out = vec![0f32; own.len() * group * dim];
        let mut queries = vec![0f32; group * dim];
        let mut scores = vec![0f32; group * (first + own.len())];
        for ((row, position), out) in own.clone().zip(first..).zip(out.chunks_exact_mut(group * dim)) {
            for (g, query) in queries.chunks_exact_mut(dim).enumerate() {
                let head = &q[row * width + (h * group + g) * dim..][..dim];
                self.rotate(head, width, position, self.how.scale, query);
            }
            let seen = self.first_seen(position)..position + 1;
            let (keys, values) = (&keys[seen.start * dim..seen.end * dim], &values[seen.start * dim..seen.end * dim]);
            let scores = &mut scores[..group * seen.len()];
            rows::product(scores, &queries, keys, dim);
            for ((g, scores), out) in scores.chunks_exact_mut(seen.len()).enumerate().zip(out.chunks_exact_mut(dim)) {
                self.weigh(scores, seen.clone(), position, h * group + g);
                rows::weighted(out, scores, values);
            }
        }
        out
    }

    /// The first position that a token at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.how.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Makes weights of the scores of a query head's rows, the first of which stands at `position`, to the keys of the
    /// positions `seen`: (rows × seen).
    fn weigh(&self, scores: &mut [f32], seen: Range<usize>, position: usize, head: usize) {
        let Attention { cap, window, alibi, .. } = self.how;
        if (cap, window).eq(&(&None, &None)) && alibi.is_none() {
            return causal_softmax(scores, seen.len(), position - seen.start);
        }
        for (row, position) in scores.chunks_exact_mut(seen.len()).zip(position..) {
            let (row, future) = row.split_at_mut(position + 1 - seen.start);
            let (past, row) = row.split_at_mut(self.first_seen(position).max(seen.start) - seen.start);
            if let Some(cap) = cap {
                row.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
            }
            if alibi.is_some() {
                let first = seen.start + past.len();
                row.iter_mut().zip(first..).for_each(|(score, key)| *score += self.how.bias(head, key));
            }
            softmax_row(row);
            past.fill(0.0);
            future.fill(0.0);
        }
    }

    /// Turns one head's rows (stride `stride`), which stand at the positions from `first` on, into `out` (len × dim),
    /// times `scale`: (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin) with x₁, x₂ the halves of what is turned, or
    /// neighbours in it.
    fn rotate(&self, rows: &[f32], stride: usize, first: usize, scale: f32, out: &mut [f32]) {
        let dim = self.how.heads.dim;
        let Some(rope) = self.rope else { return scaled(rows, stride, dim, scale, out) };
        let (half, table) = (rope.dim() / 2, rope.values());
        let (cos, sin) = (&table.cos[first * half..], &table.sin[first * half..]);
        match (rope.interleaved, 2 * half == dim) {
            (false, true) => rotate(rows, stride, cos, sin, half, scale, out),
            (interleaved, _) => rotate_part(rows, stride, (cos, sin), (dim, half, interleaved), scale, out),
        }
    }
}

/// Rows (stride `stride`) of `dim` values times `scale`.
fn scaled(rows: &[f32], stride: usize, dim: usize, scale: f32, out: &mut [f32]) {
    for (row, out) in rows.chunks(stride).zip(out.chunks_exact_mut(dim)) {
        out.iter_mut().zip(row).for_each(|(o, x)| *o = x * scale);
    }
}

/// [`Group::rotate`] of the first 2 · `half` of `dim` values, by halves or neighbours; the rest stays as it is.
fn rotate_part(
    rows: &[f32],
    stride: usize,
    (cos, sin): (&[f32], &[f32]),
    (dim, half, interleaved): (usize, usize, bool),
    scale: f32,
    out: &mut [f32],
) {
    scaled(rows, stride, dim, scale, out);
    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for (out, (cos, sin)) in out.chunks_exact_mut(dim).zip(angles) {
        for i in 0..half {
            let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
            (out[a], out[b]) = (out[a] * cos[i] - out[b] * sin[i], out[b] * cos[i] + out[a] * sin[i]);
        }
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

simd::vectorized! {
    /// [`softmax`] of a row by itself.
    fn softmax_row(row: &mut [f32]) {
        softmax(row);
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
