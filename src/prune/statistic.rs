//! What methods want to know of a linear's inputs, gathered over the tokens of the calibration set.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::linalg::{add_gram, bf16, mirror_upper, simd};
use crate::tensors;

/// Which statistic a method wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatisticKind {
    /// Nothing: the weight alone decides.
    None,
    /// ‖x‖₂ of every input column.
    ColumnNorms,
    /// 2/n·XᵀX of the inputs.
    Gram,
}

/// A statistic of the inputs X (n tokens × d columns) of a linear.
#[derive(Debug, Clone)]
pub enum Statistic {
    None,
    /// √ of the mean over windows of ‖X_w[:, j]‖² (d): ‖X[:, j]‖₂ but for a factor that all columns share.
    ColumnNorms(Tensor),
    /// 2/n·XᵀX (d × d), symmetric.
    Gram(Tensor),
}

impl Statistic {
    /// Its tensor; None where there is nothing.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::None => None,
            Self::ColumnNorms(norms) => Some(norms),
            Self::Gram(products) => Some(products),
        }
    }

    /// The statistic of a kind whose tensor this is.
    pub fn of(kind: StatisticKind, tensor: Tensor) -> Self {
        match kind {
            StatisticKind::None => Self::None,
            StatisticKind::ColumnNorms => Self::ColumnNorms(tensor),
            StatisticKind::Gram => Self::Gram(tensor),
        }
    }
}

/// Gathers a statistic batch by batch.
pub struct Accumulator {
    sums: Sums,
    columns: usize,
    tokens: usize,
    /// Windows on a device; on the host their squares count them.
    windows: usize,
}

enum Sums {
    Nothing,
    Squares(MeanSquares),
    /// XᵀX, d × d, of which only the upper triangle is filled, and what adds a batch to it.
    Products(Vec<f32>, fn(&mut [f32], &[f32], usize)),
    /// The same two on a device.
    DeviceSquares(Tensor),
    DeviceProducts(Tensor),
}

impl Accumulator {
    /// An empty accumulator for inputs of `columns` columns to a model held in `dtype`: where that is bf16, products of
    /// inputs are those of inputs rounded to it.
    pub fn new(kind: StatisticKind, columns: usize, dtype: DType, device: &Device) -> candle_core::Result<Self> {
        let sums = match (kind, device) {
            (StatisticKind::None, _) => Sums::Nothing,
            (StatisticKind::ColumnNorms, Device::Cpu) => {
                Sums::Squares(MeanSquares { mean: vec![0.0; columns], windows: 0 })
            }
            (StatisticKind::Gram, Device::Cpu) => {
                let add = if dtype == DType::BF16 { bf16::add_gram } else { add_gram };
                Sums::Products(vec![0.0; columns * columns], add)
            }
            (StatisticKind::ColumnNorms, _) => Sums::DeviceSquares(Tensor::zeros(columns, DType::F32, device)?),
            (StatisticKind::Gram, _) => Sums::DeviceProducts(Tensor::zeros((columns, columns), DType::F32, device)?),
        };
        Ok(Self { sums, columns, tokens: 0, windows: 0 })
    }

    /// Adds a batch of inputs (tokens × columns), which holds these windows one after the other; nothing where it fails.
    pub fn add(&mut self, inputs: &Tensor, windows: &[Range<usize>]) -> candle_core::Result<()> {
        let d = self.columns;
        if inputs.dim(0)? == 0 {
            return Ok(());
        }
        match &mut self.sums {
            Sums::Nothing => {}
            Sums::Squares(mean) => tensors::with_values(inputs, |x| {
                windows.iter().for_each(|w| mean.add(&x[w.start * d..w.end * d]));
            })?,
            Sums::Products(sums, add) => tensors::with_values(inputs, |x| add(sums, x, d))?,
            Sums::DeviceSquares(sums) => {
                add_squares_on_device(sums, inputs)?;
                self.windows += windows.len();
            }
            Sums::DeviceProducts(sums) => add_gram_on_device(sums, inputs)?,
        }
        self.tokens += inputs.dim(0)?;
        Ok(())
    }

    /// The statistic of everything added.
    pub fn finish(self) -> candle_core::Result<Statistic> {
        let n = self.tokens.max(1) as f64;
        let d = self.columns;
        Ok(match self.sums {
            Sums::Nothing => Statistic::None,
            Sums::Squares(squares) => {
                let norms: Vec<f32> = squares.mean.iter().map(|x| x.sqrt()).collect();
                Statistic::ColumnNorms(Tensor::new(norms, &Device::Cpu)?)
            }
            Sums::Products(sums, _) => {
                Statistic::Gram(Tensor::from_vec(whole_of_upper(sums, d, (2.0 / n) as f32), (d, d), &Device::Cpu)?)
            }
            Sums::DeviceSquares(sums) => Statistic::ColumnNorms((sums / self.windows.max(1) as f64)?.sqrt()?),
            Sums::DeviceProducts(sums) => Statistic::Gram((sums * (2.0 / n))?),
        })
    }
}

/// Adds the sums of squares of each column of x (tokens × d) to the sums (d).
fn add_squares_on_device(sums: &mut Tensor, x: &Tensor) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::sums::AddSquares::add(sums, x);
    }
    *sums = (&*sums + x.to_dtype(DType::F32)?.sqr()?.sum(0)?)?;
    Ok(())
}

/// Adds XᵀX of x (tokens × d) to the sums (d × d).
fn add_gram_on_device(sums: &mut Tensor, x: &Tensor) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::sums::AddGram::add(sums, x);
    }
    let x = x.to_dtype(DType::F32)?;
    *sums = (&*sums + x.t()?.matmul(&x)?)?;
    Ok(())
}

/// The running mean over windows of ‖X_w[:, j]‖², column by column.
///
/// The arithmetic is the published code's to the bit: within a window squares are summed in f32 in the
/// order of the tokens, the norm is taken and squared again, and the mean is updated in f32. Wanda
/// compares |w|·‖x‖ of millions of weights, and some pairs are equal but for rounding. Where such a pair
/// falls the other way, everything after it does too: one weight of block 13 of SmolLM2-135M moved the
/// perplexity of the pruned model by half a percent.
struct MeanSquares {
    mean: Vec<f32>,
    windows: usize,
}

impl MeanSquares {
    /// Adds one window, x (tokens × columns). Each thread has columns of its own.
    fn add(&mut self, x: &[f32]) {
        let d = self.mean.len();
        let before = self.windows as f64;
        self.windows += 1;
        let (keep, count) = ((before / (before + 1.0)) as f32, self.windows as f32);
        self.mean.par_chunks_mut(COLUMNS).enumerate().for_each(|(c, mean)| {
            let mut sums = [0f32; COLUMNS];
            add_squares(&mut sums, x, d, c * COLUMNS);
            for (mean, sum) in mean.iter_mut().zip(sums) {
                let norm = sum.sqrt();
                *mean = *mean * keep + norm * norm / count;
            }
        });
    }
}

simd::vectorized! {
    /// Adds the squares of a stripe of columns of x (tokens × d) to its sums.
    fn add_squares(sums: &mut [f32; COLUMNS], x: &[f32], d: usize, first: usize) {
        for row in x.chunks_exact(d) {
            match row[first..].first_chunk::<COLUMNS>() {
                Some(row) => (0..COLUMNS).for_each(|i| sums[i] += row[i] * row[i]),
                None => sums.iter_mut().zip(&row[first..]).for_each(|(sum, v)| *sum += v * v),
            }
        }
    }
}

/// Columns whose squares are summed together.
const COLUMNS: usize = 64;

/// The symmetric matrix with this upper triangle, times `scale`: in its place, since of wide layers it is hundreds of
/// megabytes.
fn whole_of_upper(mut upper: Vec<f32>, d: usize, scale: f32) -> Vec<f32> {
    upper.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| row[i..].iter_mut().for_each(|x| *x *= scale));
    mirror_upper(&mut upper, d);
    upper
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_over_batches_equal_the_definition() {
        let (n, d) = (37, 300);
        let x: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.618).sin()).collect();
        let all = Tensor::from_vec(x.clone(), (n, d), &Device::Cpu).unwrap();
        let gather = |kind| {
            let mut a = Accumulator::new(kind, d, DType::F32, &Device::Cpu).unwrap();
            a.add(&all.narrow(0, 0, 20).unwrap(), &[0..7, 7..20]).unwrap();
            a.add(&all.narrow(0, 20, 17).unwrap(), std::slice::from_ref(&(0..17))).unwrap();
            a.finish().unwrap()
        };
        let dot = |i: usize, j: usize| (0..n).map(|t| f64::from(x[t * d + i]) * f64::from(x[t * d + j])).sum::<f64>();

        let Statistic::ColumnNorms(norms) = gather(StatisticKind::ColumnNorms) else { panic!() };
        for (j, &v) in norms.to_vec1::<f32>().unwrap().iter().enumerate() {
            assert!((f64::from(v) - (dot(j, j) / 3.0).sqrt()).abs() < 1e-6);
        }
        let Statistic::Gram(gram) = gather(StatisticKind::Gram) else { panic!() };
        for (i, row) in gram.to_vec2::<f32>().unwrap().iter().enumerate() {
            for (j, &v) in row.iter().enumerate() {
                assert!((f64::from(v) - 2.0 / n as f64 * dot(i, j)).abs() < 1e-5, "({i},{j})");
            }
        }
    }
    #[test]
    fn an_upper_triangle_is_mirrored_and_scaled_in_its_place() {
        for d in [0, 1, 15, 16, 17, 256, 300, 600] {
            let upper: Vec<f32> =
                (0..d * d).map(|i| if i % d >= i / d { (i as f32 * 0.7).sin() } else { 0.0 }).collect();
            let whole = whole_of_upper(upper.clone(), d, 0.3);
            for (i, x) in whole.iter().enumerate() {
                let (row, column) = (i / d, i % d);
                let expected = upper[row.min(column) * d + row.max(column)] * 0.3;
                assert_eq!(x.to_bits(), expected.to_bits(), "{d}: ({row}, {column})");
            }
        }
    }
}
