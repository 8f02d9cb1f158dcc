//! Hidden states to logits.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::linear::Linear;
use super::parts::Norm;

/// Everything that is applied after the last block.
#[derive(Clone)]
pub struct Head {
    pub norm: Option<Norm>,
    /// (width, hidden), behind the norm.
    pub projection: Option<Linear>,
    /// (vocabulary, width)
    pub linear: Linear,
    /// (vocabulary)
    pub bias: Option<Tensor>,
    /// What logits are multiplied by.
    pub scale: Option<f32>,
    /// Logits z become cap·tanh(z/cap).
    pub cap: Option<f32>,
}

impl Head {
    /// A matrix and nothing else.
    pub fn of(linear: Linear) -> Self {
        Self { norm: None, projection: None, linear, bias: None, scale: None, cap: None }
    }

    /// The same for few rows, as [`Linear::by_rows`].
    pub fn by_rows(&self) -> Self {
        let projection = self.projection.as_ref().map(Linear::by_rows);
        Self { projection, linear: self.linear.by_rows(), ..self.clone() }
    }

    pub fn device(&self) -> &Device {
        self.linear.weight().device()
    }

    pub fn vocabulary(&self) -> usize {
        self.linear.weight().dims()[0]
    }

    /// Logits of hidden states, in f32: (tokens, hidden) → (tokens, vocabulary)
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.logits_of_normed(&self.normed(hidden)?)
    }

    /// What logits are a product of: (tokens, hidden) → (tokens, width)
    pub fn normed(&self, hidden: &Tensor) -> Result<Tensor> {
        let normed = match &self.norm {
            Some(norm) => norm.forward(hidden)?,
            None => hidden.clone(),
        };
        match &self.projection {
            Some(projection) => projection.forward(&normed),
            None => Ok(normed),
        }
    }

    /// Logits of what [`Head::normed`] gives, in f32: (tokens, width) → (tokens, vocabulary)
    pub fn logits_of_normed(&self, normed: &Tensor) -> Result<Tensor> {
        let mut logits = self.linear.forward_in_f32(normed)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        if let Some(scale) = self.scale {
            logits = (logits * f64::from(scale))?;
        }
        if let Some(cap) = self.cap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits)
    }

    /// The same of numbers on the host, for a head on the host: (rows × width) into (rows × vocabulary).
    pub fn write_logits(&self, normed: &[f32], logits: &mut [f32]) -> Result<()> {
        self.linear.multiply(normed, logits)?;
        let bias = self.bias.as_ref().map(|bias| bias.to_vec1::<f32>()).transpose()?;
        if bias.is_none() && self.scale.is_none() && self.cap.is_none() {
            return Ok(());
        }
        logits.par_chunks_mut(self.vocabulary()).for_each(|row| {
            if let Some(bias) = &bias {
                row.iter_mut().zip(bias).for_each(|(z, b)| *z += b);
            }
            if let Some(scale) = self.scale {
                row.iter_mut().for_each(|z| *z *= scale);
            }
            if let Some(cap) = self.cap {
                row.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::elementwise::tests::{close, random};
    use super::*;
    use crate::tensors;

    #[test]
    fn logits_are_the_same_written_and_composed() {
        let linear = Linear::new(random((40, 16), 0.1), None);
        let bias = Some(random((1, 40), 0.2).flatten_all().unwrap());
        let head = Head { norm: None, projection: None, linear, bias, scale: Some(0.3), cap: Some(2.0) };
        let x = random((7, 16), 0.5);
        let mut written = vec![0f32; 7 * 40];
        tensors::with_values(&x, |x| head.write_logits(x, &mut written)).unwrap().unwrap();
        let written = Tensor::from_vec(written, (7, 40), &Device::Cpu).unwrap();
        close(&written, &head.logits(&x).unwrap(), 1e-6);
        let plain = ((x.matmul(&head.linear.weight().t().unwrap()).unwrap())
            .broadcast_add(head.bias.as_ref().unwrap())
            .unwrap()
            * 0.3)
            .unwrap();
        close(&written, &((plain / 2.0).unwrap().tanh().unwrap() * 2.0).unwrap(), 1e-5);
    }
}
