//! Attention on the CPU, in loops of our own.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kv::KvCache;
use super::{Attention, Precision, Span};
use crate::linalg::bf16::{self, Packed, Rounded};
use crate::linalg::{Mat, MatMut, Threads, filled, product, rows, simd};
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

/// Rows of queries whose scores are held at once, and that are one task.
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
        let group = |span: &Span| Group::of(self.how, self.how.precision, span.seen());
        let of_heads: Vec<(&Span, usize)> =
            self.spans.iter().flat_map(|span| (0..heads.key_value).map(move |h| (span, h))).collect();
        let seen: Vec<Seen> = of_heads.par_iter().map(|&(span, h)| group(span).seen(k, v, span, h)).collect();

        let width = heads.query * heads.dim;
        let mut out = Vec::with_capacity(q.len());
        let stripes = stripes(self.spans, &mut out.spare_capacity_mut()[..q.len()], width);
        // Later stripes see more, so that what a thread takes at once must not be much.
        let at_once = (stripes.len() / (8 * rayon::current_num_threads())).max(1);
        stripes.into_par_iter().with_max_len(at_once).for_each_init(
            Scratch::default,
            |scratch, (span, start, rows)| {
                let rows: &mut [f32] = filled(rows);
                let Some(span) = span else { return };
                let group = group(&self.spans[span]);
                for (h, seen) in seen[span * heads.key_value..][..heads.key_value].iter().enumerate() {
                    group.attend(q, &self.spans[span], (start, h), seen, scratch, rows);
                }
            },
        );
        // SAFETY: the stripes are all of it, and each was filled.
        unsafe { out.set_len(q.len()) };
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Rows of a result: which span they are of, None where of none, where they begin in it, and their values.
type Stripe<'a> = (Option<usize>, usize, &'a mut [MaybeUninit<f32>]);

/// The rows of the result (tokens × `width`), a stripe after the other.
fn stripes<'a>(spans: &[Span], out: &'a mut [MaybeUninit<f32>], width: usize) -> Vec<Stripe<'a>> {
    let (mut stripes, mut rest, mut at) = (Vec::new(), out, 0);
    for (i, Span { own, .. }) in spans.iter().enumerate() {
        let (before, after) = rest.split_at_mut((own.start - at) * width);
        let (here, after) = after.split_at_mut(own.len() * width);
        stripes.push((None, 0, before));
        let here = here.chunks_mut((QUERY_ROWS * width).max(1)).enumerate();
        stripes.extend(here.map(|(stripe, rows)| (Some(i), stripe * QUERY_ROWS, rows)));
        (rest, at) = (after, own.end);
    }
    stripes.push((None, 0, rest));
    stripes
}

/// The keys and values of one key-value head that the queries of a span are multiplied with.
enum Seen {
    /// (positions × dim) each.
    Plain(Vec<f32>, Vec<f32>),
    Packed(Packed, Packed),
}

/// What a thread uses anew for every stripe and head.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

/// The first `len` values of a vector that is as long as it was ever asked to be.
fn first_of(values: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if values.len() < len {
        values.resize(len, 0.0);
    }
    &mut values[..len]
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

    /// What the queries of a span are multiplied with at key-value head `h`.
    fn seen(&self, k: &[f32], v: &[f32], Span { prefix, own }: &Span, h: usize) -> Seen {
        let (mut keys, mut values) = (vec![], vec![]);
        self.append(k, v, prefix, h, 0, &mut keys, &mut values);
        self.append(k, v, own, h, prefix.len(), &mut keys, &mut values);
        let (all, dim) = (prefix.len() + own.len(), self.how.heads.dim);
        match self.precision == Precision::Bf16 && own.len() >= PACKED_ROWS {
            true => Seen::Packed(Packed::rounded(&keys, all, dim), Packed::transposed(&values, dim, all)),
            false => Seen::Plain(keys, values),
        }
    }

    /// The output of the query heads that share key-value head `h` in a stripe of a span's rows, from `start` on:
    /// into their columns of `out` (rows × query·dim).
    fn attend(
        &self,
        q: &[f32],
        span: &Span,
        (start, h): (usize, usize),
        seen: &Seen,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Heads { query, key_value, dim } = self.how.heads;
        let (group, width) = (query / key_value, query * dim);
        let (rows, first) = (out.len() / width, span.prefix.len() + start);
        let all = first + rows; // no row of this stripe looks further
        let low = self.first_seen(first); // nor further back
        let q = &q[(span.own.start + start) * width..][..rows * width];
        let queries = first_of(&mut scratch.queries, rows * dim);
        for head in h * group..(h + 1) * group {
            self.rotate(&q[head * dim..], width, first, self.how.scale, queries);
            let out = &mut out[head * dim..];
            match seen {
                Seen::Packed(keys, values) => {
                    let scores = first_of(&mut scratch.scores, rows * all);
                    bf16::product_of_part(scores, all, &Rounded::new(queries, rows, dim), keys, all);
                    self.weigh(scores, 0..all, first, head);
                    bf16::product_of_part(out, width, &Rounded::new(scores, rows, all), values, dim);
                }
                Seen::Plain(keys, values) => {
                    let (keys, values) = (&keys[low * dim..all * dim], &values[low * dim..all * dim]);
                    let scores = first_of(&mut scratch.scores, rows * (all - low));
                    let (queries, keys) = (Mat::new(queries, rows, dim), Mat::new(keys, all - low, dim).t());
                    product(MatMut::new(scores, rows, all - low), 0.0, 1.0, queries, keys, Threads::One);
                    self.weigh(scores, low..all, first, head);
                    let (scores, values) = (Mat::new(scores, rows, all - low), Mat::new(values, all - low, dim));
                    product(MatMut::strided(out, rows, dim, width), 0.0, 1.0, scores, values, Threads::One);
                }
            }
        }
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
