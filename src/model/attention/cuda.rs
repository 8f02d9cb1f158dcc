//! Attention on CUDA devices. Within the spans of a batch and after cached keys it goes piece by piece
//! ([`super::pieces`]); decoding, where every sequence has one new token, has kernels of its own.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, PushKernelArg};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::kv::KvCache;
use super::pieces::{Piece, Places, causal_pieces, span_pieces};
use super::{Attention, Span, composed};
use crate::gpu::kernels::{NONE, WARP, count, grid, kernel, view};
use crate::gpu::products::{Matrix, MatrixMut, Value, by_dtype, product};
use crate::gpu::views::View;
use crate::model::spec::Heads;

/// [`Attention::within`].
pub fn within(how: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &OnDevice(WithinSpans { how, spans }))
}

/// [`Attention::after`]: all sequences at once where each has one new token, else one after the other.
pub fn after(
    how: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (own, caches): (&[Range<usize>], &mut [KvCache]),
) -> Result<Tensor> {
    if own.iter().any(|own| own.len() != 1) {
        return composed::after(how, q, k, v, (own, caches));
    }
    let held = caches.iter_mut().map(|cache| cache.on_device(k, how.heads)).collect::<Result<_>>()?;
    let positions = caches.iter().map(|cache| cache.tokens as u32).collect();
    let decode = Decode { how, caches: held, positions };
    let out = q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &OnDevice(decode))?;
    caches.iter_mut().for_each(|cache| cache.tokens += 1);
    Ok(out)
}

/// Attention of q (1, query, len, dim), the last of the positions of k and v (1, key_value, all, dim), all of them turned,
/// to those up to its own: (1, query, len, dim).
pub fn causal(how: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let [q, k, v] = [q, k, v].map(|x| x.squeeze(0)?.contiguous());
    q?.apply_op3_no_bwd(&k?, &v?, &OnDevice(Turned { how }))?.unsqueeze(0)
}

/// Softmax attention, piece by piece; scores and softmax are in f32.
fn attend<T: Value>(
    device: &CudaDevice,
    (q, k, v): (&CudaView<T>, &CudaView<T>, &CudaView<T>),
    out: &mut CudaSlice<T>,
    (places, pieces): &(Places, Vec<Piece>),
    how: &Attention,
) -> Result<()> {
    let (key_values, scale) = (how.heads.key_value, how.scale);
    let most = pieces.iter().map(|piece| key_values * piece.rows * piece.stride()).max().unwrap_or(0);
    // SAFETY: products write the scores that the softmax reads, and that the weights which products read.
    let (mut scores, mut weights) = unsafe { (device.alloc::<f32>(most)?, device.alloc::<T>(most)?) };
    let softmax = kernel(device, "causal_softmax", &[("STORED", T::STORED)])?;
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

/// A tensor's values, and how they lie.
type Given<'a> = (&'a CudaStorage, &'a Layout);

/// A kind of attention of q to k and v, whose result has the shape of q.
trait Kind {
    const NAME: &'static str;

    fn attend<T: Value>(&self, q: Given, k: Given, v: Given) -> Result<CudaStorage>;
}

/// An attention as candle's operation, on CUDA devices only: the CPU has an attention of its own.
struct OnDevice<A>(A);

impl<A: Kind> CustomOp3 for OnDevice<A> {
    fn name(&self) -> &'static str {
        A::NAME
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
        bail!("{} is for CUDA devices", A::NAME)
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
        let out = by_dtype!(q.dtype(), T => self.0.attend::<T>((q, ql), (k, kl), (v, vl))?);
        Ok((out, ql.shape().clone()))
    }
}

/// Softmax attention of q (query heads × len × dim) to k and v (key-value heads × seen × dim): (query heads × len × dim).
/// Row i sees all but the last len − 1 − i positions. Scores and softmax are in f32, products of what the tensors hold.
struct Turned<'a> {
    how: &'a Attention,
}

impl Kind for Turned<'_> {
    const NAME: &'static str = "causal_attention";

    fn attend<T: Value>(&self, (q, ql): Given, (k, kl): Given, (v, vl): Given) -> Result<CudaStorage> {
        let ((queries, len, dim), (_, all, _)) = (ql.shape().dims3()?, kl.shape().dims3()?);
        let plan = causal_pieces(len, all, self.how.heads);
        // SAFETY: every row of every head is one of a piece, which writes it.
        let mut out = unsafe { q.device.alloc::<T>(queries * len * dim)? };
        let given = (&view::<T>(q, ql)?, &view::<T>(k, kl)?, &view::<T>(v, vl)?);
        attend(&q.device, given, &mut out, &plan, self.how)?;
        Ok(CudaStorage::wrap_cuda_slice(out, q.device.clone()))
    }
}

/// Rotary embedding and attention within the spans of a batch: q (tokens × query heads·dim), k and v (tokens ×
/// key-value heads·dim) → (tokens × query heads·dim).
struct WithinSpans<'a> {
    how: &'a Attention,
    /// Together all tokens are in one span's own.
    spans: &'a [Span],
}

impl Kind for WithinSpans<'_> {
    const NAME: &'static str = "span_attention";

    fn attend<T: Value>(&self, (q, ql): Given, (k, kl): Given, (v, vl): Given) -> Result<CudaStorage> {
        let device = &q.device;
        let (tokens, _) = ql.shape().dims2()?;
        let Heads { query, key_value, dim } = self.how.heads;
        let mut positions = vec![0u32; tokens];
        for Span { prefix, own } in self.spans {
            let from = prefix.len() as u32;
            positions[own.clone()].iter_mut().zip(from..).for_each(|(at, position)| *at = position);
        }
        let positions = device.clone_htod(&positions)?;
        let (cos, sin) = tables(self.how)?;
        let split = kernel(device, "split_heads", &[("STORED", T::STORED), ("DIM", dim)])?;
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
        let plan = span_pieces(self.spans, tokens, self.how.heads);
        attend(device, (&q.slice(..), &k.slice(..), &v.slice(..)), &mut out, &plan, self.how)?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
}

/// Where cos and sin lie.
fn tables(how: &Attention) -> Result<(u64, u64)> {
    match &how.rope {
        Some(rope) => Ok((on_table(&rope.cos)?, on_table(&rope.sin)?)),
        None => bail!("the kernels turn what they attend to"),
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
struct Decode<'a> {
    how: &'a Attention,
    /// Keys and values of each sequence, (key-value heads × room × dim) each.
    caches: Vec<(Tensor, Tensor)>,
    /// Where each new token stands: within the room of its caches, and of the rotary table.
    positions: Vec<u32>,
}

impl Kind for Decode<'_> {
    const NAME: &'static str = "decode_attention";

    fn attend<T: Value>(&self, (q, ql): Given, (k, kl): Given, (v, vl): Given) -> Result<CudaStorage> {
        let device = &q.device;
        let stream = device.cuda_stream();
        let (sequences, columns) = ql.shape().dims2()?;
        let Heads { key_value, dim, .. } = self.how.heads;
        let mut pointers = Vec::with_capacity(2 * sequences);
        let mut rooms = Vec::with_capacity(sequences);
        for ((keys, values), position) in self.caches.iter().zip(&self.positions) {
            let (heads, room, width) = keys.dims3()?;
            if (heads, width) != (key_value, dim) || *position as usize >= room || keys.shape() != values.shape() {
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
        let (cos, sin) = tables(self.how)?;
        let (pointers, rooms) = (device.clone_htod(&pointers)?, device.clone_htod(&rooms)?);
        let positions = device.clone_htod(&self.positions)?;
        let (q, k, v) = (view::<T>(q, ql)?, view::<T>(k, kl)?, view::<T>(v, vl)?);
        let constants = [("STORED", T::STORED), ("DIM", dim)];

        let keep = kernel(device, "keep_token", &constants)?;
        let mut launch = keep.builder();
        launch.arg(&k).arg(&v).arg(&pointers).arg(&positions).arg(&rooms).arg(&cos).arg(&sin);
        let mut a_warp = grid(key_value, sequences)?;
        a_warp.block_dim.0 = WARP as u32;
        // SAFETY: the arguments are those of the kernel; each cache was seen to have room for the token, and the caches
        // belong to their sequences alone, so nothing else reads them meanwhile.
        unsafe { launch.launch(a_warp) }.w()?;

        // SAFETY: the kernel writes all of it.
        let mut out = unsafe { device.alloc::<T>(sequences * columns)? };
        let attend = kernel(device, "decode_attention", &constants)?;
        let (key_values, scale) = (count(key_value)?, self.how.scale);
        let mut launch = attend.builder();
        launch.arg(&q).arg(&mut out).arg(&pointers).arg(&positions).arg(&rooms).arg(&cos).arg(&sin);
        launch.arg(&key_values).arg(&scale);
        // SAFETY: as above.
        unsafe { launch.launch(grid(columns / dim, sequences)?) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
}
