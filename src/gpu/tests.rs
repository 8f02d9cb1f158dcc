//! The kernels run on the host, thread by thread (tests/gpu/emulator.hpp), and agree with the methods on the CPU; what
//! is asked of cuBLAS means the product that is wanted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use candle_core::{Device, Tensor};

use super::KERNELS;
use super::views::{Call, View};
use crate::linalg::{Mat, MatMut, Threads, product, upper_inverse_factor};
use crate::metrics::{Prediction, log_likelihoods, score_positions};
use crate::model::{Attention, Head, Heads, KvCache, Linear, Precision, Rope};
use crate::prune::{MethodName, MethodOptions, Sparsity, Statistic};
use crate::tensors;

/// The kernels for the host, compiled with constants; None where there is no C++ compiler.
struct Emulator {
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Emulator {
    fn new(constants: &[(&str, usize)]) -> Option<Self> {
        static COMPILER: LazyLock<bool> = LazyLock::new(|| {
            let found = Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success());
            if !found {
                eprintln!("skipped: there is no C++ compiler (c++) to run the CUDA kernels on the host with");
            }
            found
        });
        if !*COMPILER {
            return None;
        }
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu");
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("emulate");
        let compiled = Command::new("c++")
            .args(["-std=c++17", "-O1", "-ffp-contract=off", "-DEMULATED", "-I"])
            .args([&tests, &tests.join("emulate.cpp")])
            .args(constants.iter().map(|(name, value)| format!("-D{name}={value}")))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Some(Self { program, _folder: folder })
    }

    fn run(&self, kernel: &str, numbers: &[usize], inputs: &[&[f32]]) -> Vec<f32> {
        let mut child = Command::new(&self.program)
            .arg(kernel)
            .args(numbers.iter().map(usize::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        inputs.iter().for_each(|values| stdin.write_all(bytemuck::cast_slice(values)).unwrap());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{kernel}: {}", String::from_utf8_lossy(&output.stderr));
        bytemuck::pod_collect_to_vec(&output.stdout)
    }
}

/// Pseudo-random values in (-1, 1), of which some are equal where `steps` is small.
fn noise(n: usize, seed: f32, steps: f32) -> Vec<f32> {
    let value = |i: usize| ((i as f32 + seed) * 12.9898).sin() * 43758.547;
    (0..n).map(|i| ((value(i).fract() * steps).round() + 0.25) / steps).collect()
}

fn tensor(values: &[f32], shape: impl Into<candle_core::Shape>) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn on_cpu(method: MethodName, weight: &[f32], columns: usize, statistic: &Statistic, sparsity: Sparsity) -> Vec<f32> {
    let weight = tensor(weight, (weight.len() / columns, columns));
    let options = MethodOptions::default();
    tensors::values(&options.get(method).prune(&weight, statistic, sparsity).unwrap().weight).unwrap()
}

/// Shapes around the sizes of warps and blocks, with many ties and with none.
const SHAPES: [(usize, usize, f32); 4] = [(1, 8, 1e6), (3, 40, 4.0), (5, 520, 16.0), (4, 1000, 1e6)];

#[test]
fn magnitude_prunes_what_it_prunes_on_the_cpu() {
    let Some(emulator) = Emulator::new(&[]) else { return };
    for (rows, columns, steps) in SHAPES {
        let weight = noise(rows * columns, 0.3, steps);
        for ratio in [0.01, 0.5, 0.99] {
            let expected = on_cpu(MethodName::Magnitude, &weight, columns, &Statistic::None, Sparsity::Ratio(ratio));
            let rank = (weight.len() as f64 * ratio) as usize;
            assert_eq!(emulator.run("prune_up_to", &[rows, columns, rank], &[&weight]), expected, "{columns} {ratio}");
        }
    }
}

#[test]
fn wanda_prunes_what_it_prunes_on_the_cpu() {
    let Some(emulator) = Emulator::new(&[]) else { return };
    for (rows, columns, steps) in SHAPES {
        let weight = noise(rows * columns, 0.3, steps);
        let norms: Vec<f32> = noise(columns, 0.8, 2.0).iter().map(|x| x.abs() + 0.5).collect();
        let statistic = Statistic::ColumnNorms(tensor(&norms, columns));
        for ratio in [0.13, 0.5, 0.99] {
            let expected = on_cpu(MethodName::Wanda, &weight, columns, &statistic, Sparsity::Ratio(ratio));
            let gone = (columns as f64 * ratio) as usize;
            assert_eq!(
                emulator.run("prune_rows", &[rows, columns, gone], &[&weight, &norms]),
                expected,
                "{columns} {ratio}"
            );
        }
    }
}

#[test]
fn groups_lose_what_they_lose_on_the_cpu() {
    for (n, m) in [(2, 4), (1, 4), (4, 8), (5, 40)] {
        let Some(emulator) = Emulator::new(&[("GROUP", m)]) else { return };
        for (rows, columns, steps) in SHAPES.into_iter().filter(|(_, columns, _)| columns % m == 0) {
            let weight = noise(rows * columns, 0.3, steps);
            let norms: Vec<f32> = noise(columns, 0.8, 2.0).iter().map(|x| x.abs() + 0.5).collect();
            let statistic = Statistic::ColumnNorms(tensor(&norms, columns));
            let expected = on_cpu(MethodName::Wanda, &weight, columns, &statistic, Sparsity::NOfM { n, m });
            let pruned = emulator.run("prune_groups", &[rows, columns, m - n], &[&weight, &norms]);
            assert_eq!(pruned, expected, "{n}:{m} of {columns}");
        }
    }
}

#[test]
fn sparsegpt_solves_what_it_solves_on_the_cpu() {
    // Blocks that share the row's copy between lanes, a last one that is shorter, and one too large for shared memory.
    for (d, block_size, sparsity) in [
        (64, 32, Sparsity::Ratio(0.5)),
        (100, 48, Sparsity::Ratio(0.7)),
        (96, 40, Sparsity::NOfM { n: 2, m: 4 }),
        (64, 16, Sparsity::NOfM { n: 3, m: 8 }),
        (1400, 1400, Sparsity::Ratio(0.5)),
    ] {
        let rows = 11;
        let group = if let Sparsity::NOfM { m, .. } = sparsity { m } else { 4 };
        let Some(emulator) = Emulator::new(&[("COLUMNS", block_size), ("GROUP", group)]) else { return };
        let (tokens, weight) = (2 * d, noise(rows * d, 0.4, 1e6));
        let mut x = noise(tokens * d, 0.7, 1e6);
        x.chunks_mut(d).for_each(|row| (1..d).for_each(|j| row[j] += 0.7 * row[j - 1]));
        let mut gram = vec![0f32; d * d];
        let (x, scale) = (Mat::new(&x, tokens, d), 2.0 / tokens as f32);
        product(MatMut::new(&mut gram, d, d), 0.0, scale, x.t(), x, Threads::All);

        let mut options = MethodOptions::default();
        options.sparsegpt.block_size = block_size;
        let statistic = Statistic::Gram(tensor(&gram, (d, d)));
        let method = options.get(MethodName::SparseGpt);
        let expected = method.prune(&tensor(&weight, (rows, d)), &statistic, sparsity).unwrap();
        let expected = tensors::values(&expected.weight).unwrap();

        let mean = (0..d).map(|j| f64::from(gram[j * d + j])).sum::<f64>() / d as f64;
        (0..d).for_each(|j| gram[j * d + j] += (0.01 * mean) as f32);
        let factor = upper_inverse_factor(&gram, &(0..d).map(|i| gram[i * d + i]).collect::<Vec<f32>>()).unwrap();
        let scales: Vec<f32> = (0..d).map(|j| factor[j * d + j].recip()).collect();
        let mut w = weight;
        for start in (0..d).step_by(block_size) {
            let b = block_size.min(d - start);
            let (selects, number) = match sparsity {
                Sparsity::Ratio(ratio) => (1, ((rows * b) as f64 * ratio) as usize),
                Sparsity::NOfM { n, m } => (0, m - n),
            };
            let numbers = [rows, d, start, b, selects, number];
            let solved = emulator.run("solve_block", &numbers, &[&w, &factor, &scales]);
            let (solved, errors) = solved.split_at(rows * d);
            w.copy_from_slice(solved);
            let end = start + b;
            if end < d {
                let (errors, u) = (Mat::new(errors, rows, b), Mat::strided(&factor[start * d + end..], b, d - end, d));
                product(MatMut::strided(&mut w[end..], rows, d - end, d), 1.0, -1.0, errors, u, Threads::All);
            }
        }
        let kept = |values: &[f32]| values.iter().map(|x| *x != 0.0).collect::<Vec<_>>();
        assert_eq!(kept(&w), kept(&expected), "{sparsity} in blocks of {block_size}");
        for (a, b) in w.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{sparsity} in blocks of {block_size}: {a} {b}");
        }
    }
}

#[test]
fn the_softmax_sees_what_causality_leaves() {
    for (stored, tolerance) in [(0, 1e-6), (1, 4e-3)] {
        let Some(emulator) = Emulator::new(&[("STORED", stored)]) else { return };
        let (heads, rows, past) = (2, 5, 300);
        let (seen, stride) = (past + rows, 312);
        let scores: Vec<f32> = noise(heads * rows * stride, 0.1, 1e6).iter().map(|x| x * 20.0).collect();
        let weights = emulator.run("causal_softmax", &[heads, rows, seen, stride, past], &[&scores]);
        for (i, (scores, weights)) in scores.chunks(stride).zip(weights.chunks(stride)).enumerate() {
            let own = past + i % rows + 1;
            let exponentials: Vec<f64> = scores[..own].iter().map(|s| (f64::from(*s) / 4.0).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            for (c, w) in weights[..seen].iter().enumerate() {
                let expected = exponentials.get(c).map_or(0.0, |e| e / sum);
                assert!((f64::from(*w) - expected).abs() <= tolerance * expected.max(1e-3), "{c}: {w} {expected}");
            }
        }
    }
}

#[test]
fn swiglu_is_what_candle_makes_of_it() {
    for (stored, tolerance) in [(0, 1e-6), (1, 4e-3)] {
        let Some(emulator) = Emulator::new(&[("STORED", stored)]) else { return };
        // What bf16 holds, so that only the result is rounded.
        let narrow = |x: &f32| half::bf16::from_f32(x * 30.0).to_f32();
        let wide = |seed: f32| noise(700, seed, 1e6).iter().map(narrow).collect::<Vec<f32>>();
        let (gate, up) = (wide(0.3), wide(0.6));
        let expected = (candle_nn::ops::silu(&tensor(&gate, 700)).unwrap() * tensor(&up, 700)).unwrap();
        let products = emulator.run("swiglu", &[700], &[&gate, &up]);
        for (a, b) in products.iter().zip(tensors::values(&expected).unwrap()) {
            assert!((a - b).abs() <= tolerance * b.abs() + 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn logits_are_scored_as_on_the_cpu() {
    let Some(emulator) = Emulator::new(&[]) else { return };
    for (vocabulary, ids) in [(40, [3, 0, 39]), (1000, [999, 500, 7])] {
        let scaled =
            |seed: f32, steps| noise(3 * vocabulary, seed, steps).iter().map(|x| x * 9.0).collect::<Vec<f32>>();
        // Many equal logits, and far apart ones.
        for (dense, pruned) in [(scaled(0.1, 1e6), scaled(0.5, 1e6)), (scaled(0.1, 3.0), scaled(0.2, 3.0))] {
            let numbers: Vec<usize> = [vocabulary].into_iter().chain(ids).collect();
            let predictions: Vec<Prediction> =
                ids.iter().enumerate().map(|(sample, &id)| Prediction { sample, id: id as u32 }).collect();
            // A head that is the identity makes the states their own logits.
            let head =
                Head::of(Linear::new(Tensor::eye(vocabulary, candle_core::DType::F32, &Device::Cpu).unwrap(), None));
            let of = |values: &[f32]| tensor(values, (3, vocabulary));
            let expected = score_positions(&predictions, 3, Some((&of(&dense), &head)), (&of(&pruned), &head)).unwrap();
            let scores = emulator.run("compare_logits", &numbers, &[&dense, &pruned]);
            for (scores, expected) in scores.chunks(4).zip(&expected) {
                for (a, b) in scores.iter().zip([expected.loss, expected.js, expected.kl, expected.agreement]) {
                    assert!((f64::from(*a) - b).abs() < 2e-5 * b.abs().max(0.1), "{scores:?} {expected:?}");
                }
            }
            let expected = log_likelihoods(&predictions, 3, &of(&pruned), &head).unwrap();
            for (a, b) in emulator.run("log_likelihoods", &numbers, &[&pruned]).iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() < 2e-5 * b.abs().max(0.1), "{a} {b}");
            }
        }
    }
}

#[test]
fn what_is_left_of_a_weight_is_packed_in_its_order() {
    for stored in [0, 1] {
        let Some(emulator) = Emulator::new(&[("STORED", stored)]) else { return };
        for count in [5, 8, 2048, 5003] {
            let narrow = |x: f32| half::bf16::from_f32(x).to_f32();
            let before: Vec<f32> = noise(count, 0.3, 1e6).into_iter().map(narrow).collect();
            let kept = |i: usize, x: f32| if i * 7 % 5 < 2 { -0.0 } else { x };
            let weights: Vec<f32> = before.iter().enumerate().map(|(i, &x)| kept(i, x)).collect();
            let out = emulator.run("pack_left", &[count], &[&weights]);
            let (bytes, values) = out.split_at(count.div_ceil(8));
            assert!((0..count).all(|i| (bytes[i / 8] as u8 >> (i % 8) & 1 == 1) == (weights[i] != 0.0)), "{count}");
            assert_eq!(values, weights.iter().copied().filter(|x| *x != 0.0).collect::<Vec<f32>>(), "{count}");
        }
    }
}

#[test]
fn squares_are_summed_down_the_columns() {
    for (stored, tolerance) in [(0, 1e-6), (1, 1e-2)] {
        let Some(emulator) = Emulator::new(&[("STORED", stored)]) else { return };
        let (rows, columns) = (130, 300);
        let (x, before) = (noise(rows * columns, 0.2, 1e6), noise(columns, 0.5, 1e6));
        let sums = emulator.run("add_squares", &[rows, columns, 64], &[&x, &before]);
        for (j, (sum, before)) in sums.iter().zip(&before).enumerate() {
            let expected: f64 =
                (0..rows).map(|i| f64::from(x[i * columns + j]).powi(2)).sum::<f64>() + f64::from(*before);
            assert!((f64::from(*sum) - expected).abs() < tolerance * expected.abs(), "{j}: {sum} {expected}");
        }
    }
}

#[test]
fn heads_are_split_and_rotated_as_candle_does() {
    let (heads, dim, positions) = (3, 80, [0usize, 1, 5, 2, 39]);
    let Some(emulator) = Emulator::new(&[("DIM", dim)]) else { return };
    let rows = positions.len();
    let (x, angles) = (
        tensor(&noise(rows * heads * dim, 0.4, 1e6), (rows, heads, dim)),
        tensor(&noise(40 * dim / 2, 0.9, 1e6), (40, dim / 2)),
    );
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    let flat = |t: &Tensor| tensors::values(&t.contiguous().unwrap()).unwrap();
    let of_rows = |table: &Tensor| {
        let ids: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        table.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap()
    };
    let split = x.transpose(0, 1).unwrap().contiguous().unwrap();
    let rotated = candle_nn::rotary_emb::rope(&split.unsqueeze(0).unwrap(), &of_rows(&cos), &of_rows(&sin)).unwrap();
    for (is_rotated, expected) in [(0, split), (1, rotated)] {
        let numbers: Vec<usize> = [heads, is_rotated].into_iter().chain(positions).collect();
        let out = emulator.run("split_heads", &numbers, &[&flat(&x), &flat(&cos), &flat(&sin)]);
        for (a, b) in out.iter().zip(flat(&expected)) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn decoding_attends_to_what_it_attends_to_on_the_cpu() {
    for (dim, query, key_value, positions) in [(64, 4, 2, vec![0, 5, 40]), (80, 3, 3, vec![7]), (16, 6, 1, vec![17, 2])]
    {
        let Some(emulator) = Emulator::new(&[("DIM", dim)]) else { return };
        let (heads, room, sequences) = (Heads { query, key_value, dim }, 48, positions.len());
        let random =
            |rows: usize, columns: usize, seed: f32| tensor(&noise(rows * columns, seed, 1e6), (rows, columns));
        let angles = random(room, dim / 2, 0.5);
        let rope = Rope::of(angles.cos().unwrap(), angles.sin().unwrap()).unwrap();
        let attention = Attention::plain(heads, rope.clone(), Precision::F32);
        let [q, k, v] =
            [(query, 0.1), (key_value, 0.2), (key_value, 0.3)].map(|(n, seed)| random(sequences, n * dim, seed));
        // What came before goes through the CPU's attention, and into the kernel's caches as that has rotated it.
        let (mut caches, mut held) = (Vec::new(), Vec::new());
        for (s, &position) in positions.iter().enumerate() {
            let mut cache = [KvCache::new(heads, room)];
            let [q, k, v] = [(query, 0.4), (key_value, 0.6), (key_value, 0.7)]
                .map(|(n, seed)| random(position.max(1), n * dim, seed + s as f32));
            if position > 0 {
                let own = 0..position;
                attention.after(&q, &k, &v, (std::slice::from_ref(&own), &mut cache)).unwrap();
            }
            for of in 0..2 {
                for (keys, values) in cache[0].on_host() {
                    let mut padded = if of == 0 { keys.clone() } else { values.clone() };
                    padded.resize(room * dim, f32::NAN);
                    held.extend(padded);
                }
            }
            caches.extend(cache);
        }
        let own: Vec<_> = (0..sequences).map(|s| s..s + 1).collect();
        let expected = attention.after(&q, &k, &v, (&own, &mut caches)).unwrap();
        let numbers: Vec<usize> = [query, key_value, room].into_iter().chain(positions.iter().copied()).collect();
        let flat = |t: &Tensor| tensors::values(t).unwrap();
        let out = emulator.run(
            "decode",
            &numbers,
            &[&flat(&q), &flat(&k), &flat(&v), &flat(&rope.cos), &flat(&rope.sin), &held],
        );
        let (out, held) = out.split_at(sequences * query * dim);
        for (a, b) in out.iter().zip(flat(&expected)) {
            assert!((a - b).abs() < 2e-6, "{dim}: {a} {b}");
        }
        // The caches hold the new token too, and nothing behind it.
        for ((cache, held), position) in caches.iter().zip(held.chunks(2 * key_value * room * dim)).zip(&positions) {
            let expected = cache.on_host().iter().map(|h| &h.0).chain(cache.on_host().iter().map(|h| &h.1));
            for (expected, held) in expected.zip(held.chunks(room * dim)) {
                let (known, behind) = held.split_at((position + 1) * dim);
                assert!(
                    known.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6) && behind.iter().all(|x| x.is_nan())
                );
            }
        }
    }
}

#[test]
fn blas_is_asked_for_the_product_that_is_meant() {
    /// What the BLAS standard says that a call does, on matrices stored column by column.
    fn blas(call: &Call, first: &[f32], second: &[f32], result: &mut [f32]) {
        let [la, lb, lc] = call.leading;
        let at = |values: &[f32], lead: usize, transposed: bool, i: usize, j: usize| match transposed {
            false => values[j * lead + i],
            true => values[i * lead + j],
        };
        for i in 0..call.m {
            for j in 0..call.n {
                result[j * lc + i] = (0..call.k)
                    .map(|p| {
                        at(first, la, call.first_is_transposed, i, p) * at(second, lb, call.second_is_transposed, p, j)
                    })
                    .sum();
            }
        }
    }
    let (rows, inner, columns) = (5, 7, 3);
    for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
        let of = |rows: usize, columns: usize, is_transposed: bool, gap: usize| match is_transposed {
            false => View::new(rows, columns, columns + gap),
            true => View::new(columns, rows, rows + gap).t(),
        };
        let (a, b, c) = (of(rows, inner, a_t, 2), of(inner, columns, b_t, 1), View::new(rows, columns, columns + 4));
        let (x, y) = (noise(a.extent(), 0.2, 1e6), noise(b.extent(), 0.6, 1e6));
        let mut z = vec![0f32; c.extent()];
        blas(&Call::new(c, a, b), &y, &x, &mut z);
        let at = |values: &[f32], view: View, i: usize, j: usize| match view.is_transposed {
            false => values[i * view.stride + j],
            true => values[j * view.stride + i],
        };
        for i in 0..rows {
            for j in 0..columns {
                let expected: f32 = (0..inner).map(|p| at(&x, a, i, p) * at(&y, b, p, j)).sum();
                assert!((z[i * c.stride + j] - expected).abs() < 1e-5, "{a_t} {b_t}");
            }
        }
    }
}

#[test]
fn the_constants_of_the_text_are_those_of_its_callers() {
    for constant in ["#define THREADS 256\n", "#define WARP 32\n", "#define DIGIT_BITS 11\n"] {
        assert!(KERNELS.contains(constant), "{constant}");
    }
}
