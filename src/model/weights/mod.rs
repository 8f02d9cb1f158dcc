//! Where a model's numbers are: a GGUF file or safetensors, memory-mapped, read tensor by tensor.

mod gguf;
mod safetensors;

use candle_core::Tensor;

pub use gguf::GgufFile;
pub use safetensors::SafetensorsDir;

/// A source of tensors under the names that Hugging Face gives them (`model.layers.0.self_attn.q_proj.weight`).
pub trait Weights: Send + Sync {
    /// The tensor on the CPU, in the precision that it is stored in (f32 where it is quantised), rows in Hugging Face's
    /// order.
    ///
    /// # Errors
    /// Where the file lacks it, or it is damaged.
    fn tensor(&self, name: &str) -> anyhow::Result<Tensor>;
}
