//! Causal attention on a device: two products and a softmax for some rows of all heads at a time, so that no more scores
//! exist than a part of them, and none are computed that causality hides from all of these rows. Decoding, where every
//! sequence has one new token, has kernels of its own.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, PushKernelArg};
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::kernels::{WARP, count, grid, kernel, view};
use super::products::{Matrix, MatrixMut, Value, View, product};

/// Rows of queries whose scores exist at once.
const QUERY_ROWS: usize = 256;

/// Softmax attention of q (query heads × len × dim) to k and v (key-value heads × seen × dim): (query heads × len × dim).
/// Row i sees all but the last len − 1 − i positions. Scores and softmax are in f32, products of what the tensors hold.
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
        let (group, past) = (queries / key_values, all - len);
        let device = &q.device;
        let scale = (dim as f32).sqrt().recip();
        let most = key_values * QUERY_ROWS.min(len) * all;
        // SAFETY: products and the softmax write what is read of these.
        let mut scores = unsafe { device.alloc::<f32>(most)? };
        macro_rules! attend {
            ($type:ty, $stored:expr) => {{
                let (q, k, v) = (view::<$type>(q, ql)?, view::<$type>(k, kl)?, view::<$type>(v, vl)?);
                let mut weights = unsafe { device.alloc::<$type>(most)? };
                let mut out = unsafe { device.alloc::<$type>(queries * len * dim)? };
                let softmax = kernel(device, "causal_softmax", &[("STORED", $stored)])?;
                // Heads that share keys and values, one of each group at a time.
                for (head, start) in (0..group).flat_map(|head| (0..len).step_by(QUERY_ROWS).map(move |s| (head, s))) {
                    let rows = QUERY_ROWS.min(len - start);
                    let seen = past + start + rows;
                    let at = (head * len + start) * dim;
                    let (of_heads, of_keys) = (group * len * dim, all * dim);
                    let part = View::new(rows, seen, seen);
                    let own = q.slice(at..);
                    product::<$type, f32>(
                        device,
                        MatrixMut { values: &mut scores, view: part, step: rows * seen },
                        (0.0, 1.0),
                        Matrix { values: &own, view: View::new(rows, dim, dim), step: of_heads },
                        Matrix { values: &k, view: View::new(seen, dim, dim).t(), step: of_keys },
                        key_values,
                    )?;
                    let (columns, before) = (count(seen)?, count(past + start)?);
                    let mut launch = softmax.builder();
                    launch.arg(&scores).arg(&mut weights).arg(&columns).arg(&before).arg(&scale);
                    // SAFETY: the arguments are those of the kernel; both have key_values × rows × seen values.
                    unsafe { launch.launch(grid(rows, key_values)?) }.w()?;
                    let mut to = out.slice_mut(at..);
                    product::<$type, $type>(
                        device,
                        MatrixMut { values: &mut to, view: View::new(rows, dim, dim), step: of_heads },
                        (0.0, 1.0),
                        Matrix { values: &weights, view: part, step: rows * seen },
                        Matrix { values: &v, view: View::new(seen, dim, dim), step: of_keys },
                        key_values,
                    )?;
                }
                CudaStorage::wrap_cuda_slice(out, device.clone())
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
            if (heads, width) != (self.key_values, dim) || *position as usize >= room || keys.shape() != values.shape()
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
        let on_table = |table: &Tensor| -> Result<u64> {
            let (storage, layout) = table.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else { bail!("the rotary table is on another device") };
            Ok(view::<f32>(storage, layout)?.device_ptr(&stream).0)
        };
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
