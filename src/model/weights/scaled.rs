//! Weights in eight bits, each group of them with a scale: W = value × scale, or (value − zero point) × scale.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// The numbers that a group of weights shares: a scale for the whole matrix, one a row, or a grid of them.
pub struct Scales {
    /// Rows and columns of weights that share one.
    block: (usize, usize),
    /// Groups in a row of weights.
    columns: usize,
    scales: Vec<f32>,
    zero_points: Option<Vec<f32>>,
}

impl Scales {
    /// How groups lie in a matrix (rows × columns), by the shape of its scales and the `block` that the config gives.
    ///
    /// # Errors
    /// Where the scales do not fit the matrix, or are no numbers.
    pub fn new(
        (rows, columns): (usize, usize),
        scales: &Tensor,
        zero_points: Option<&Tensor>,
        block: Option<(usize, usize)>,
    ) -> Result<Self> {
        let shape = scales.dims().to_vec();
        let grid = match shape.as_slice() {
            _ if scales.elem_count() == 1 => (1, 1),
            [n] => (*n, 1),
            [down, across] => (*down, *across),
            _ => (0, 0),
        };
        // A last block may be short where the config gives the blocks' size.
        let of_config = block.filter(|&(r, c)| grid == (rows.div_ceil(r), columns.div_ceil(c)) && grid != (1, 1));
        let divides = grid.0 > 0 && grid.1 > 0 && rows.is_multiple_of(grid.0) && columns.is_multiple_of(grid.1);
        let whole = divides && (block.is_none() || grid == (1, 1));
        ensure!(
            of_config.is_some() || whole,
            "its scales have the shape {shape:?}, which does not divide {rows} × {columns} weights{}",
            block.map_or(String::new(), |(r, c)| format!(" into blocks of {r} × {c}"))
        );
        let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let numbers = values(scales)?;
        ensure!(numbers.iter().all(|x| x.is_finite()), "its scales are not all finite");
        let zero_points = zero_points.map(values).transpose()?;
        ensure!(
            zero_points.as_ref().is_none_or(|z| z.len() == numbers.len()),
            "its zero points are not as many as its scales"
        );
        let block = of_config.unwrap_or((rows / grid.0, columns / grid.1));
        Ok(Self { block, columns: grid.1, scales: numbers, zero_points })
    }

    /// The weights in f32, of values (rows × columns).
    pub fn apply(&self, mut values: Vec<f32>, (rows, columns): (usize, usize)) -> candle_core::Result<Tensor> {
        values.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, values)| {
            let groups = row / self.block.0 * self.columns;
            for (group, values) in values.chunks_mut(self.block.1.max(1)).enumerate() {
                let scale = self.scales[groups + group];
                let zero = self.zero_points.as_ref().map_or(0.0, |z| z[groups + group]);
                values.iter_mut().for_each(|x| *x = (*x - zero) * scale);
            }
        });
        Tensor::from_vec(values, (rows, columns), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(rows: usize, columns: usize, scales: &Tensor, block: Option<(usize, usize)>) -> Result<Vec<Vec<f32>>> {
        let values = vec![2.0; rows * columns];
        Ok(Scales::new((rows, columns), scales, None, block)?.apply(values, (rows, columns))?.to_vec2()?)
    }

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_scale_is_that_of_the_matrix_the_row_or_the_block() {
        let twice = vec![vec![6.0; 3]; 2];
        assert_eq!(scaled(2, 3, &tensor(&[3.0], &[]), None).unwrap(), twice);
        assert_eq!(scaled(2, 3, &tensor(&[3.0], &[1]), Some((128, 128))).unwrap(), twice);
        let rows = [vec![2.0; 3], vec![4.0; 3]];
        assert_eq!(scaled(2, 3, &tensor(&[1.0, 2.0], &[2, 1]), None).unwrap(), rows);
        assert_eq!(scaled(2, 3, &tensor(&[1.0, 2.0], &[2]), None).unwrap(), rows);
        let blocks = [[2.0, 2.0, 4.0, 4.0], [2.0, 2.0, 4.0, 4.0], [6.0, 6.0, 8.0, 8.0], [6.0, 6.0, 8.0, 8.0]];
        assert_eq!(scaled(4, 4, &tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), None).unwrap(), blocks);
    }

    #[test]
    fn a_last_block_may_be_short_where_the_size_is_known() {
        let grid = tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
        let rows = [[2.0, 2.0, 4.0], [2.0, 2.0, 4.0], [6.0, 6.0, 8.0]];
        assert_eq!(scaled(3, 3, &grid, Some((2, 2))).unwrap(), rows);
        assert!(scaled(3, 3, &grid, None).unwrap_err().to_string().contains("[2, 2]"));
        // The size counts, though the scales would divide the matrix evenly.
        let two = tensor(&[1.0, 2.0], &[2, 1]);
        assert_eq!(scaled(6, 1, &two, Some((4, 1))).unwrap(), [[2.0], [2.0], [2.0], [2.0], [4.0], [4.0]]);
        assert!(scaled(6, 1, &two, Some((2, 1))).unwrap_err().to_string().contains("2 × 1"));
    }

    #[test]
    fn a_zero_point_is_taken_away_first() {
        let (scales, zeros) = (tensor(&[2.0, 3.0], &[2, 1]), tensor(&[1.0, -1.0], &[2, 1]));
        let scales = Scales::new((2, 1), &scales, Some(&zeros), None).unwrap();
        assert_eq!(scales.apply(vec![5.0, 5.0], (2, 1)).unwrap().to_vec2::<f32>().unwrap(), [[8.0], [18.0]]);
    }
}
