//! Tokens to hidden states.

use candle_core::{DType, Device, Result, Tensor};

use super::attention::Span;
use super::linear::Linear;
use super::parts::Norm;
use crate::tensors;

/// The embedding, with what is done to its rows.
#[derive(Clone)]
pub struct Embedding {
    /// (vocabulary, width)
    pub table: Tensor,
    pub scale: Option<f32>,
    pub norm: Option<Norm>,
    /// (hidden, width)
    pub projection: Option<Linear>,
    /// A vector for each position, (rows, hidden), and the row of position 0.
    pub positions: Option<(Tensor, usize)>,
}

impl Embedding {
    /// Of a table and nothing else.
    pub fn plain(table: Tensor) -> Self {
        Self { table, scale: None, norm: None, projection: None, positions: None }
    }

    pub fn device(&self) -> &Device {
        self.table.device()
    }

    /// What hidden states are held in: f32 on the CPU.
    pub fn dtype(&self) -> DType {
        if self.device().is_cpu() { DType::F32 } else { self.table.dtype() }
    }

    /// The hidden states that a model begins with, of tokens that stand at these positions: (tokens, hidden).
    pub fn embed(&self, ids: &[u32], positions: impl Iterator<Item = usize>) -> Result<Tensor> {
        let mut hidden = self.rows(&self.table, ids)?;
        if let Some(scale) = self.scale {
            hidden = (hidden * f64::from(scale))?;
        }
        if let Some(norm) = &self.norm {
            hidden = norm.forward(&hidden)?;
        }
        if let Some(projection) = &self.projection {
            hidden = projection.forward(&hidden)?;
        }
        if let Some((table, first)) = &self.positions {
            let rows: Vec<u32> = positions.map(|position| (first + position) as u32).collect();
            hidden = (hidden + self.rows(table, &rows)?)?;
        }
        Ok(hidden)
    }

    fn rows(&self, table: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let found = table.index_select(&Tensor::new(rows, table.device())?, 0)?;
        if self.device().is_cpu() { tensors::to_dtype(&found, DType::F32) } else { Ok(found) }
    }
}

/// The positions of the tokens of spans, in their order.
pub fn positions(spans: &[Span]) -> impl Iterator<Item = usize> {
    spans.iter().flat_map(|span| (0..span.own.len()).map(|at| span.prefix.len() + at))
}
