//! Causal attention on a device: products and a softmax for some rows of all heads at a time, so that no more scores
//! exist than a part of them, and none are computed that causality hides from all of these rows. Decoding, where every
//! sequence has one new token, has kernels of its own.

use std::ops::Range;

#[cfg(feature = "cuda")]
pub use cuda::{CausalAttention, DecodeAttention, SpanAttention};

/// Rows of queries whose scores exist at once.
const QUERY_ROWS: usize = 256;

/// Where heads lie: q and k with `dim` values a row and head, out with rows of its own width. Steps lead from what one
/// key-value head has to what the next has.
#[derive(Debug, Clone, Copy)]
struct Places {
    dim: usize,
    query_step: usize,
    key_step: usize,
    out_stride: usize,
    out_step: usize,
}

/// Consecutive positions that queries see.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Where the first one's key is, and its value, in those of the first head.
    at: usize,
    positions: usize,
    /// The column of scores that it has.
    column: usize,
}

/// Some rows of one query head of each group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    rows: usize,
    /// Positions before the first row, which it sees besides itself.
    past: usize,
    query: usize,
    out: usize,
    /// What is seen, in the order of positions: a prefix, and what came before in the span itself.
    seen: Vec<Seen>,
}

impl Piece {
    /// Positions that the last row sees.
    fn columns(&self) -> usize {
        self.past + self.rows
    }

    /// From one row of scores to the next: a multiple of what cuBLAS reads at once.
    #[cfg(feature = "cuda")]
    fn stride(&self) -> usize {
        self.columns().next_multiple_of(8)
    }
}

/// The pieces of a span whose rows are `own`, behind the rows `prefix` (which may be empty) or behind `before` positions
/// that lie right in front of its own keys. Query heads are in groups of `group`; a head's queries are `query_head`
/// values apart, and its outputs `out_head`.
fn pieces(
    (prefix, own): (&Range<usize>, &Range<usize>),
    before: usize,
    group: usize,
    places: Places,
    (query_head, out_head): (usize, usize),
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for head in 0..group {
        for start in (0..own.len()).step_by(QUERY_ROWS) {
            let rows = QUERY_ROWS.min(own.len() - start);
            let of_prefix = Seen { at: prefix.start * places.dim, positions: prefix.len(), column: 0 };
            let of_own = Seen { at: own.start * places.dim, positions: before + start + rows, column: prefix.len() };
            pieces.push(Piece {
                rows,
                past: prefix.len() + before + start,
                query: head * query_head + (own.start + start) * places.dim,
                out: head * out_head + (own.start + start) * places.out_stride,
                seen: [of_prefix, of_own].into_iter().filter(|seen| seen.positions > 0).collect(),
            });
        }
    }
    pieces
}

/// The places of queries (heads × tokens × dim) and keys alike, and outputs of all heads side by side; the pieces of all
/// spans of such a batch.
fn span_pieces(
    spans: &[(Range<usize>, Range<usize>)],
    tokens: usize,
    (query, key_value, dim): (usize, usize, usize),
) -> (Places, Vec<Piece>) {
    let group = query / key_value;
    let places = Places {
        dim,
        query_step: group * tokens * dim,
        key_step: tokens * dim,
        out_stride: query * dim,
        out_step: group * dim,
    };
    let of_span =
        |(prefix, own): &(Range<usize>, Range<usize>)| pieces((prefix, own), 0, group, places, (tokens * dim, dim));
    (places, spans.iter().flat_map(of_span).collect())
}

/// The places of queries (heads × len × dim), keys (heads × all × dim) and outputs as the queries; the pieces, where the
/// queries are the last of all positions.
fn causal_pieces(len: usize, all: usize, (query, key_value, dim): (usize, usize, usize)) -> (Places, Vec<Piece>) {
    let group = query / key_value;
    let places = Places {
        dim,
        query_step: group * len * dim,
        key_step: all * dim,
        out_stride: dim,
        out_step: group * len * dim,
    };
    (places, pieces((&(0..0), &(0..len)), all - len, group, places, (len * dim, len * dim)))
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::*;
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, PushKernelArg};
    use candle_core::{
        CpuStorage, CudaDevice, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail,
    };
    use half::{bf16, f16};

    use crate::gpu::kernels::{NONE, WARP, count, grid, kernel, view};
    use crate::gpu::products::{Matrix, MatrixMut, Value, View, product};

    /// Softmax attention, piece by piece; scores and softmax are in f32.
    fn attend<T: Value>(
        device: &CudaDevice,
        stored: usize,
        (q, k, v): (&CudaView<T>, &CudaView<T>, &CudaView<T>),
        out: &mut CudaSlice<T>,
        (places, pieces): &(Places, Vec<Piece>),
        key_values: usize,
    ) -> Result<()> {
        let most = pieces.iter().map(|piece| key_values * piece.rows * piece.stride()).max().unwrap_or(0);
        // SAFETY: products write the scores that the softmax reads, and that the weights which products read.
        let (mut scores, mut weights) = unsafe { (device.alloc::<f32>(most)?, device.alloc::<T>(most)?) };
        let softmax = kernel(device, "causal_softmax", &[("STORED", stored)])?;
        let scale = (places.dim as f32).sqrt().recip();
        for piece in pieces {
            let (rows, stride) = (piece.rows, piece.stride());
            let step = rows * stride;
            let own = q.slice(piece.query..);
            for seen in &piece.seen {
                let keys = k.slice(seen.at..);
                let mut part = scores.slice_mut(seen.column..);
                product::<T, f32>(
                    device,
                    MatrixMut { values: &mut part, view: View::new(rows, seen.positions, stride), step },
                    (0.0, 1.0),
                    Matrix { values: &own, view: View::new(rows, places.dim, places.dim), step: places.query_step },
                    Matrix {
                        values: &keys,
                        view: View::new(seen.positions, places.dim, places.dim).t(),
                        step: places.key_step,
                    },
                    key_values,
                )?;
            }
            let (width, between, past) = (count(piece.columns())?, count(stride)?, count(piece.past)?);
            let mut launch = softmax.builder();
            launch.arg(&scores).arg(&mut weights).arg(&width).arg(&between).arg(&past).arg(&scale);
            // SAFETY: the arguments are those of the kernel; both have key_values × rows × stride values.
            unsafe { launch.launch(grid(rows, key_values)?) }.w()?;
            for (i, seen) in piece.seen.iter().enumerate() {
                let values = v.slice(seen.at..);
                let part = weights.slice(seen.column..);
                let mut to = out.slice_mut(piece.out..);
                product::<T, T>(
                    device,
                    MatrixMut {
                        values: &mut to,
                        view: View::new(rows, places.dim, places.out_stride),
                        step: places.out_step,
                    },
                    (if i == 0 { 0.0 } else { 1.0 }, 1.0),
                    Matrix { values: &part, view: View::new(rows, seen.positions, stride), step },
                    Matrix {
                        values: &values,
                        view: View::new(seen.positions, places.dim, places.dim),
                        step: places.key_step,
                    },
                    key_values,
                )?;
            }
        }
        Ok(())
    }

    /// Softmax attention of q (query heads × len × dim) to k and v (key-value heads × seen × dim): (query heads × len ×
    /// dim). Row i sees all but the last len − 1 − i positions. Scores and softmax are in f32, products of what the
    /// tensors hold.
    pub struct CausalAttention;

    impl CustomOp3 for CausalAttention {
        fn name(&self) -> &'static str {
            "causal_attention"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            bail!("the CPU has an attention of its own")
        }

        fn cuda_fwd(
            &self,
            q: &CudaStorage,
            ql: &Layout,
            k: &CudaStorage,
            kl: &Layout,
            v: &CudaStorage,
            vl: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            let (queries, len, dim) = ql.shape().dims3()?;
            let (key_values, all, _) = kl.shape().dims3()?;
            let plan = causal_pieces(len, all, (queries, key_values, dim));
            macro_rules! attend {
                ($type:ty, $stored:expr) => {{
                    let (q_values, k, v) = (view::<$type>(q, ql)?, view::<$type>(k, kl)?, view::<$type>(v, vl)?);
                    // SAFETY: every row of every head is one of a piece, which writes it.
                    let mut out = unsafe { q.device.alloc::<$type>(queries * len * dim)? };
                    attend(&q.device, $stored, (&q_values, &k, &v), &mut out, &plan, key_values)?;
                    CudaStorage::wrap_cuda_slice(out, q.device.clone())
                }};
            }
            let out = match q.dtype() {
                DType::F32 => attend!(f32, 0),
                DType::BF16 => attend!(bf16, 1),
                DType::F16 => attend!(f16, 2),
                other => bail!("attention in {other:?}"),
            };
            Ok((out, ql.shape().clone()))
        }
    }

    /// Rotary embedding and attention within the spans of a batch: q (tokens × query heads·dim), k and v (tokens ×
    /// key-value heads·dim) → (tokens × query heads·dim).
    pub struct SpanAttention {
        /// The rows of each span's prefix, which may be empty, and its own; together all tokens are in one span's own.
        pub spans: Vec<(Range<usize>, Range<usize>)>,
        /// Query heads, key-value heads, and values of a head.
        pub heads: (usize, usize, usize),
        /// The rotary table, (positions × dim / 2) each.
        pub cos: Tensor,
        pub sin: Tensor,
    }

    impl CustomOp3 for SpanAttention {
        fn name(&self) -> &'static str {
            "span_attention"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            bail!("the CPU has an attention of its own")
        }

        fn cuda_fwd(
            &self,
            q: &CudaStorage,
            ql: &Layout,
            k: &CudaStorage,
            kl: &Layout,
            v: &CudaStorage,
            vl: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            let out = match q.dtype() {
                DType::F32 => self.attend::<f32>(0, (q, ql), (k, kl), (v, vl)),
                DType::BF16 => self.attend::<bf16>(1, (q, ql), (k, kl), (v, vl)),
                DType::F16 => self.attend::<f16>(2, (q, ql), (k, kl), (v, vl)),
                other => bail!("attention in {other:?}"),
            }?;
            Ok((out, ql.shape().clone()))
        }
    }

    impl SpanAttention {
        fn attend<T: Value>(
            &self,
            stored: usize,
            (q, ql): (&CudaStorage, &Layout),
            (k, kl): (&CudaStorage, &Layout),
            (v, vl): (&CudaStorage, &Layout),
        ) -> Result<CudaStorage> {
            let device = &q.device;
            let (tokens, _) = ql.shape().dims2()?;
            let (query, key_value, dim) = self.heads;
            let mut positions = vec![0u32; tokens];
            for (prefix, own) in &self.spans {
                let from = prefix.len() as u32;
                positions[own.clone()].iter_mut().zip(from..).for_each(|(at, position)| *at = position);
            }
            let positions = device.clone_htod(&positions)?;
            let (cos, sin) = (on_table(&self.cos)?, on_table(&self.sin)?);
            let split = kernel(device, "split_heads", &[("STORED", stored), ("DIM", dim)])?;
            let split = |x: &CudaView<T>, heads: usize, is_rotated: bool| -> Result<CudaSlice<T>> {
                // SAFETY: the kernel writes all of it.
                let mut to = unsafe { device.alloc::<T>(tokens * heads * dim)? };
                let heads = count(heads)?;
                let (cos, sin) = if is_rotated { (cos, sin) } else { (NONE, NONE) };
                let mut launch = split.builder();
                launch.arg(x).arg(&mut to).arg(&heads).arg(&positions).arg(&cos).arg(&sin);
                // SAFETY: the arguments are those of the kernel; x has so many rows, and the table all positions.
                unsafe { launch.launch(grid(tokens, 1)?) }.w()?;
                Ok(to)
            };
            let q = split(&view::<T>(q, ql)?, query, true)?;
            let k = split(&view::<T>(k, kl)?, key_value, true)?;
            let v = split(&view::<T>(v, vl)?, key_value, false)?;
            // SAFETY: every token is in a span, whose pieces write it.
            let mut out = unsafe { device.alloc::<T>(tokens * query * dim)? };
            let plan = span_pieces(&self.spans, tokens, self.heads);
            attend(device, stored, (&q.slice(..), &k.slice(..), &v.slice(..)), &mut out, &plan, key_value)?;
            Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
        }
    }

    /// Where a table of the rotary embedding lies. No stream writes it, so there is nothing to wait for.
    fn on_table(table: &Tensor) -> Result<u64> {
        let (storage, layout) = table.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("the rotary table is on another device") };
        Ok(view::<f32>(storage, layout)?.device_ptr(&storage.device.cuda_stream()).0)
    }

    /// Attention of one new token of each sequence, of q (sequences × query heads·dim), k and v (sequences × key-value
    /// heads·dim), not rotated yet, to what its caches hold and itself: (sequences × query heads·dim). The caches then hold
    /// the token too.
    pub struct DecodeAttention {
        /// Keys and values of each sequence, (key-value heads × room × dim) each.
        pub caches: Vec<(Tensor, Tensor)>,
        /// Where each new token stands: within the room of its caches, and of the table.
        pub positions: Vec<u32>,
        /// The rotary table, (positions × dim / 2) each.
        pub cos: Tensor,
        pub sin: Tensor,
        pub key_values: usize,
    }

    impl CustomOp3 for DecodeAttention {
        fn name(&self) -> &'static str {
            "decode_attention"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            bail!("the CPU has an attention of its own")
        }

        fn cuda_fwd(
            &self,
            q: &CudaStorage,
            ql: &Layout,
            k: &CudaStorage,
            kl: &Layout,
            v: &CudaStorage,
            vl: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            let out = match q.dtype() {
                DType::F32 => self.attend::<f32>(0, (q, ql), (k, kl), (v, vl)),
                DType::BF16 => self.attend::<bf16>(1, (q, ql), (k, kl), (v, vl)),
                DType::F16 => self.attend::<f16>(2, (q, ql), (k, kl), (v, vl)),
                other => bail!("attention in {other:?}"),
            }?;
            Ok((out, ql.shape().clone()))
        }
    }

    impl DecodeAttention {
        fn attend<T: Value>(
            &self,
            stored: usize,
            (q, ql): (&CudaStorage, &Layout),
            (k, kl): (&CudaStorage, &Layout),
            (v, vl): (&CudaStorage, &Layout),
        ) -> Result<CudaStorage> {
            let device = &q.device;
            let stream = device.cuda_stream();
            let (sequences, columns) = ql.shape().dims2()?;
            let dim = kl.shape().dims2()?.1 / self.key_values;
            let mut pointers = Vec::with_capacity(2 * sequences);
            let mut rooms = Vec::with_capacity(sequences);
            for ((keys, values), position) in self.caches.iter().zip(&self.positions) {
                let (heads, room, width) = keys.dims3()?;
                if (heads, width) != (self.key_values, dim)
                    || *position as usize >= room
                    || keys.shape() != values.shape()
                {
                    bail!("a cache of {:?} has no room for a token at {position}", keys.shape());
                }
                rooms.push(count(room)?);
                for cache in [keys, values] {
                    let (storage, layout) = cache.storage_and_layout();
                    let Storage::Cuda(storage) = &*storage else { bail!("a cache is on another device") };
                    // No other stream uses them, so there is nothing to wait for, now or after the launch.
                    pointers.push(view::<T>(storage, layout)?.device_ptr(&stream).0);
                }
            }
            let (cos, sin) = (on_table(&self.cos)?, on_table(&self.sin)?);
            let (pointers, rooms) = (device.clone_htod(&pointers)?, device.clone_htod(&rooms)?);
            let positions = device.clone_htod(&self.positions)?;
            let (q, k, v) = (view::<T>(q, ql)?, view::<T>(k, kl)?, view::<T>(v, vl)?);
            let constants = [("STORED", stored), ("DIM", dim)];

            let keep = kernel(device, "keep_token", &constants)?;
            let mut launch = keep.builder();
            launch.arg(&k).arg(&v).arg(&pointers).arg(&positions).arg(&rooms).arg(&cos).arg(&sin);
            let mut a_warp = grid(self.key_values, sequences)?;
            a_warp.block_dim.0 = WARP as u32;
            // SAFETY: the arguments are those of the kernel; each cache was seen to have room for the token, and the caches
            // belong to their sequences alone, so nothing else reads them meanwhile.
            unsafe { launch.launch(a_warp) }.w()?;

            // SAFETY: the kernel writes all of it.
            let mut out = unsafe { device.alloc::<T>(sequences * columns)? };
            let attend = kernel(device, "decode_attention", &constants)?;
            let (key_values, scale) = (count(self.key_values)?, (dim as f32).sqrt().recip());
            let mut launch = attend.builder();
            launch.arg(&q).arg(&mut out).arg(&pointers).arg(&positions).arg(&rooms).arg(&cos).arg(&sin);
            launch.arg(&key_values).arg(&scale);
            // SAFETY: as above.
            unsafe { launch.launch(grid(columns / dim, sequences)?) }.w()?;
            Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Heads, Precision, Rope, Span, attention};
    use candle_core::{Device, Tensor};

    fn random(rows: usize, columns: usize, seed: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// (rows × heads·dim) → (heads × rows × dim), as the kernel does that splits heads.
    fn split(x: &Tensor, heads: usize) -> Tensor {
        let (rows, columns) = x.dims2().unwrap();
        x.reshape((rows, heads, columns / heads)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    }

    /// What the products and softmaxes of a plan come to, on the host.
    fn carry_out((places, pieces): &(Places, Vec<Piece>), [q, k, v]: [&[f32]; 3], out: &mut [f32], key_values: usize) {
        let dim = places.dim;
        let row = |values: &[f32], at: usize| values[at..at + dim].to_vec();
        for (piece, head) in pieces.iter().flat_map(|piece| (0..key_values).map(move |head| (piece, head))) {
            for i in 0..piece.rows {
                let query = row(q, piece.query + head * places.query_step + i * dim);
                let mut seen = Vec::new();
                for part in &piece.seen {
                    assert_eq!(part.column, seen.len(), "positions are seen in their order");
                    seen.extend((0..part.positions).map(|p| part.at + head * places.key_step + p * dim));
                }
                assert_eq!(seen.len(), piece.columns());
                seen.truncate(piece.past + i + 1);
                let dot =
                    |at: &usize| query.iter().zip(row(k, *at)).map(|(a, b)| a * b).sum::<f32>() / (dim as f32).sqrt();
                let weights: Vec<f32> = seen.iter().map(|at| dot(at).exp()).collect();
                let sum: f32 = weights.iter().sum();
                let to = piece.out + head * places.out_step + i * places.out_stride;
                for (at, weight) in seen.iter().zip(weights) {
                    out[to..to + dim].iter_mut().zip(row(v, *at)).for_each(|(o, v)| *o += weight / sum * v);
                }
            }
        }
    }

    #[test]
    fn the_plan_of_spans_is_the_attention_of_the_cpu() {
        let (query, key_value, dim, tokens) = (6, 2, 8, 700);
        let heads = Heads { query, key_value, dim };
        let mut spans = [0..70, 70..71, 71..600].map(Span::window).to_vec();
        spans.extend([600..603, 603..700].map(|own| Span { prefix: 0..70, own }));
        let [q, k, v] = [(query, 0.1), (key_value, 0.2), (key_value, 0.3)].map(|(n, s)| random(tokens, n * dim, s));
        // The table of no rotation: what is rotated is tested with the kernel that does it.
        let table = |value: f32| Tensor::full(value, (tokens, dim / 2), &Device::Cpu).unwrap();
        let rope = Rope::of(table(1.0), table(0.0)).unwrap();
        let expected = flat(&attention(&q, &k, &v, &spans, heads, (&rope, Precision::F32)).unwrap());
        let ranges: Vec<_> = spans.iter().map(|span| (span.prefix.clone(), span.own.clone())).collect();
        let plan = span_pieces(&ranges, tokens, (query, key_value, dim));
        let mut out = vec![0f32; expected.len()];
        let split = [flat(&split(&q, query)), flat(&split(&k, key_value)), flat(&split(&v, key_value))];
        carry_out(&plan, [&split[0], &split[1], &split[2]], &mut out, key_value);
        for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() < 1e-5, "row {}: {a} {b}", i / (query * dim));
        }
        // The end of a window behind its beginning, as when a prompt goes on after a cache.
        let (window, len) = (71..600, 300);
        let rows = |x: &Tensor, n: usize| split_rows(x, n, &window);
        let (keys, values) = (rows(&k, key_value), rows(&v, key_value));
        let queries = split_rows(&q, query, &(window.end - len..window.end));
        let plan = causal_pieces(len, window.len(), (query, key_value, dim));
        let mut out = vec![0f32; queries.len()];
        carry_out(&plan, [&queries, &keys, &values], &mut out, key_value);
        for head in 0..query {
            for i in 0..len {
                let row = &expected[((window.end - len + i) * query + head) * dim..][..dim];
                let own = &out[(head * len + i) * dim..][..dim];
                assert!(own.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "head {head}, row {i}");
            }
        }
    }

    fn split_rows(x: &Tensor, heads: usize, rows: &Range<usize>) -> Vec<f32> {
        flat(&split(&x.narrow(0, rows.start, rows.len()).unwrap(), heads))
    }
}
