//! The elementwise and attention parts of a block.
//!
//! On the CPU they are fused loops of our own, parallel over windows, heads or rows; on other devices
//! the same function composed of candle operations. Each kernel is tested against its composition.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::rope::Rope;
use crate::linalg::{Mat, MatMut, Threads, product, simd};

/// How the columns of q, k and v divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

/// Rotary embedding and causal softmax attention within each window.
///
/// q (tokens × query·dim), k and v (tokens × key_value·dim) → (tokens × query·dim). `windows` are the
/// ranges of tokens that see each other; positions count from the start of each.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    windows: &[Range<usize>],
    heads: Heads,
    rope: &Rope,
) -> Result<Tensor> {
    let longest = windows.iter().map(|w| w.len()).max().unwrap_or(0);
    if longest > rope.cos.dim(0)? {
        bail!("a window of {longest} tokens is longer than the rotary table");
    }
    if !matches!(q.device(), Device::Cpu) {
        return composed_attention(q, k, v, windows, heads, rope);
    }
    let op = Attention {
        windows: windows.to_vec(),
        heads,
        cos: rope.cos.flatten_all()?.to_vec1()?,
        sin: rope.sin.flatten_all()?.to_vec1()?,
    };
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &op)
}

/// Root-mean-square norm of each row: x / √(mean(x²) + ε) · weight.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.contiguous()?.apply_op2_no_bwd(weight, &RmsNorm { epsilon }),
        _ => candle_nn::ops::rms_norm(x, weight, epsilon),
    }
}

/// silu(gate) · up, where silu(x) = x / (1 + e⁻ˣ).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match gate.device() {
        Device::Cpu => gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &SwiGlu),
        _ => candle_nn::ops::silu(gate)? * up,
    }
}

/// The same attention from candle's operations, for devices other than the CPU.
fn composed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    windows: &[Range<usize>],
    heads: Heads,
    rope: &Rope,
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(windows.len());
    for window in windows {
        let len = window.len();
        let split = |x: &Tensor, n: usize| -> Result<Tensor> {
            let x = x.narrow(0, window.start, len)?.reshape((1, len, n, heads.dim))?;
            x.transpose(1, 2)?.contiguous() // (1, n, len, dim)
        };
        let (cos, sin) = (rope.cos.narrow(0, 0, len)?, rope.sin.narrow(0, 0, len)?);
        let (cos, sin) = (cos.to_dtype(q.dtype())?, sin.to_dtype(q.dtype())?);
        let q = candle_nn::rotary_emb::rope(&split(q, heads.query)?, &cos, &sin)?;
        let k = candle_nn::rotary_emb::rope(&split(k, heads.key_value)?, &cos, &sin)?;
        let group = heads.query / heads.key_value;
        let k = candle_transformers::utils::repeat_kv(k, group)?;
        let v = candle_transformers::utils::repeat_kv(split(v, heads.key_value)?, group)?;
        let scores = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? / (heads.dim as f64).sqrt())?;
        let mask = candle_transformers::utils::build_causal_mask(len, 0, q.device())?.broadcast_as(scores.shape())?;
        let never = Tensor::new(f32::NEG_INFINITY, q.device())?.broadcast_as(scores.shape())?;
        let weights = candle_nn::ops::softmax_last_dim(&mask.where_cond(&never, &scores)?)?;
        let out = weights.to_dtype(v.dtype())?.matmul(&v.contiguous()?)?; // (1, query, len, dim)
        outputs.push(out.transpose(1, 2)?.reshape((len, heads.query * heads.dim))?);
    }
    Tensor::cat(&outputs, 0)
}

fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

struct RmsNorm {
    epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, weight: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (f32s(x, xl)?, f32s(weight, wl)?);
        let mut out = vec![0f32; x.len()];
        out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).for_each(|(out, x)| {
            simd::vectorized(|| {
                let scale = (simd::sum_of_squares(x) / x.len() as f32 + self.epsilon).sqrt().recip();
                for (o, (x, w)) in out.iter_mut().zip(x.iter().zip(weight)) {
                    *o = x * scale * w;
                }
            });
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (f32s(gate, gl)?, f32s(up, ul)?);
        let mut out = vec![0f32; gate.len()];
        const CHUNK: usize = 1 << 14;
        let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
        out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (gate, up))| {
            simd::vectorized(|| {
                for (o, (g, u)) in out.iter_mut().zip(gate.iter().zip(up)) {
                    *o = g / (1.0 + simd::exp(-g)) * u;
                }
            });
        });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }
}

struct Attention {
    windows: Vec<Range<usize>>,
    heads: Heads,
    cos: Vec<f32>, // (positions, dim / 2)
    sin: Vec<f32>,
}

/// Rows of queries whose scores are held at once.
const QUERY_ROWS: usize = 64;

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
        let (q, k, v) = (f32s(q, ql)?, f32s(k, kl)?, f32s(v, vl)?);
        let Heads { query, key_value, dim } = self.heads;
        let group = query / key_value;
        let width = query * dim;

        // One task a window and key-value head; each returns the columns of its group of query heads.
        let tasks: Vec<(usize, usize)> =
            (0..self.windows.len()).flat_map(|w| (0..key_value).map(move |h| (w, h))).collect();
        let parts: Vec<Vec<f32>> = tasks.par_iter().map(|&(w, h)| self.group(q, k, v, w, h)).collect();

        let mut out = vec![0f32; q.len()];
        let mut rest = out.as_mut_slice();
        let mut at = 0;
        for (window, parts) in self.windows.iter().zip(parts.chunks(key_value)) {
            let (here, after) = rest.split_at_mut((window.end - at) * width);
            let here = &mut here[(window.start - at) * width..];
            here.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
                for (stripe, part) in row.chunks_mut(group * dim).zip(parts) {
                    stripe.copy_from_slice(&part[t * group * dim..][..group * dim]);
                }
            });
            (rest, at) = (after, window.end);
        }
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

impl Attention {
    /// The output (len × group·dim) of the query heads that share key-value head `h`, in window `w`.
    fn group(&self, q: &[f32], k: &[f32], v: &[f32], w: usize, h: usize) -> Vec<f32> {
        let Heads { query, key_value, dim } = self.heads;
        let group = query / key_value;
        let Range { start, end } = self.windows[w];
        let len = end - start;
        let (q_width, k_width) = (query * dim, key_value * dim);

        let mut keys = vec![0f32; len * dim];
        self.rotate(&k[start * k_width + h * dim..], k_width, 1.0, &mut keys);
        let values = &v[start * k_width + h * dim..];

        let mut out = vec![0f32; len * group * dim];
        let mut queries = vec![0f32; len * dim];
        let mut scores = vec![0f32; QUERY_ROWS.min(len) * len];
        let scale = (dim as f32).sqrt().recip();
        for g in 0..group {
            self.rotate(&q[start * q_width + (h * group + g) * dim..], q_width, scale, &mut queries);
            for first in (0..len).step_by(QUERY_ROWS) {
                let rows = QUERY_ROWS.min(len - first);
                let seen = first + rows; // no row of this stripe looks further
                let scores = &mut scores[..rows * seen];
                product(
                    MatMut::new(scores, rows, seen),
                    0.0,
                    1.0,
                    Mat::new(&queries[first * dim..], rows, dim),
                    Mat::new(&keys, seen, dim).t(),
                    Threads::One,
                );
                simd::vectorized(|| {
                    for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                        let (past, future) = row.split_at_mut(first + i + 1);
                        softmax(past);
                        future.fill(0.0);
                    }
                });
                product(
                    MatMut::strided(&mut out[(first * group + g) * dim..], rows, dim, group * dim),
                    0.0,
                    1.0,
                    Mat::new(scores, rows, seen),
                    Mat::strided(values, seen, dim, k_width),
                    Threads::One,
                );
            }
        }
        out
    }

    /// Rotates one head's rows (stride `stride`) by their positions into `out` (len × dim), times `scale`:
    /// (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin) with x₁, x₂ the halves of the head.
    fn rotate(&self, rows: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
        let half = self.heads.dim / 2;
        simd::vectorized(|| {
            for (t, out) in out.chunks_exact_mut(2 * half).enumerate() {
                let (x1, x2) = rows[t * stride..t * stride + 2 * half].split_at(half);
                let (o1, o2) = out.split_at_mut(half);
                let (cos, sin) = (&self.cos[t * half..(t + 1) * half], &self.sin[t * half..(t + 1) * half]);
                for i in 0..half {
                    o1[i] = (x1[i] * cos[i] - x2[i] * sin[i]) * scale;
                    o2[i] = (x2[i] * cos[i] + x1[i] * sin[i]) * scale;
                }
            }
        });
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
    use crate::model::config::RopeScaling;
    use crate::tensors;

    fn random(shape: (usize, usize), seed: f32) -> Tensor {
        let n = shape.0 * shape.1;
        let values: Vec<f32> = (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
        let (a, b) = (tensors::values(a).unwrap(), tensors::values(b).unwrap());
        assert_eq!(a.len(), b.len());
        for (i, (x, y)) in a.iter().zip(&b).enumerate() {
            assert!((x - y).abs() <= tolerance, "{i}: {x} {y}");
        }
    }

    #[test]
    fn attention_equals_candles_operations_on_windows_of_unequal_length() {
        let heads = Heads { query: 6, key_value: 2, dim: 16 };
        let windows = [0..70, 70..71, 71..200];
        let (q, k, v) = (random((200, 96), 0.1), random((200, 32), 0.2), random((200, 32), 0.3));
        let frequencies = RopeScaling::None.frequencies(10_000.0, 16);
        let angles: Vec<f32> = (0..130).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (130, 8), &Device::Cpu).unwrap();
        let rope = Rope { cos: angles.cos().unwrap(), sin: angles.sin().unwrap() };
        let fused = attention(&q, &k, &v, &windows, heads, &rope).unwrap();
        let composed = composed_attention(&q, &k, &v, &windows, heads, &rope).unwrap();
        close(&fused, &composed, 2e-6);
    }

    #[test]
    fn rms_norm_equals_candles_operations() {
        let (x, weight) = (random((70, 301), 0.4), random((1, 301), 0.5).flatten_all().unwrap());
        let theirs = candle_nn::ops::rms_norm_slow(&x, &weight, 1e-5).unwrap();
        close(&rms_norm(&x, &weight, 1e-5).unwrap(), &theirs, 2e-6);
    }

    #[test]
    fn swiglu_equals_candles_operations() {
        let (gate, up) = (random((70, 300), 0.7), random((70, 300), 0.9));
        let gate = (gate * 8.0).unwrap();
        close(&swiglu(&gate, &up).unwrap(), &(candle_nn::ops::silu(&gate).unwrap() * &up).unwrap(), 2e-5);
    }
}
