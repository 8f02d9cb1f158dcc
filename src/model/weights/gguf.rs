//! A GGUF file (llama.cpp), of any quantisation that candle reads, dequantised tensor by tensor.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::{Weights, let_go};
use crate::guard::guarded;
use crate::model::Config;

/// A memory-mapped GGUF file.
pub struct GgufFile {
    pub content: gguf_file::Content,
    map: Mmap,
    path: PathBuf,
    /// llama.cpp stores the q and k of Llama models with the rows of a head interleaved.
    interleaved: Option<Heads>,
}

struct Heads {
    query: usize,
    key_value: usize,
}

impl GgufFile {
    /// Maps the file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            ensure!(path.is_file(), "it is no file");
            let file = File::open(path)?;
            // SAFETY: as for every memory-mapped file, it must not be changed while it is mapped.
            let map = unsafe { Mmap::map(&file)? };
            let content = gguf_file::Content::read(&mut Cursor::new(&map[..]))?;
            let claims = |(name, info): (&String, &gguf_file::TensorInfo)| {
                let weights = info.shape.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                // No format has less than a bit a weight.
                let fits = weights.is_some_and(|weights| weights / 8 <= map.len());
                if fits { Ok(()) } else { bail!("tensor `{name}` of {:?} is larger than the file", info.shape) }
            };
            content.tensor_infos.iter().try_for_each(claims)?;
            Ok(Self { content, map, path: path.to_owned(), interleaved: None })
        };
        guarded(read).with_context(|| format!("cannot read {} as GGUF", path.display()))
    }

    /// The model's shape; from here on, q and k come in Hugging Face's row order.
    pub fn config(&mut self) -> Result<Config> {
        let mut config = Config::from_gguf(&self.content).with_context(|| format!("in {}", self.path.display()))?;
        if config.architecture == "llama" {
            self.interleaved = Some(Heads { query: config.heads, key_value: config.key_value_heads });
        }
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            let factors = self.read("rope_freqs.weight")?.to_vec1::<f32>()?;
            ensure!(
                factors.len() == config.head_dim / 2,
                "`rope_freqs.weight` of {} has {} values, not half of the head size of {}",
                self.path.display(),
                factors.len(),
                config.head_dim
            );
            config.rope_scaling = crate::model::config::RopeScaling::Factors(factors);
        }
        Ok(config)
    }

    /// A string of the metadata.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key) {
            Some(gguf_file::Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let read = || {
            let stored = self.content.tensor(&mut Cursor::new(&self.map[..]), name, &Device::Cpu)?;
            if let Some(info) = self.content.tensor_infos.get(name) {
                let start = (self.content.tensor_data_offset + info.offset) as usize;
                if let Some(bytes) = self.map.get(start..start + stored.storage_size_in_bytes()) {
                    let_go(bytes);
                }
            }
            Ok(stored.dequantize(&Device::Cpu)?)
        };
        guarded(read).with_context(|| format!("tensor `{name}` of {}", self.path.display()))
    }
}

impl Weights for GgufFile {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.read(&gguf_name(name)?)?;
        let heads = match &self.interleaved {
            Some(heads) if name.contains(".q_proj.") => heads.query,
            Some(heads) if name.contains(".k_proj.") => heads.key_value,
            _ => return Ok(tensor),
        };
        // (heads, dim/2, 2, …) → (heads, 2, dim/2, …): the halves of a head apart, as Hugging Face has them.
        let rows = tensor.dim(0)?;
        ensure!(
            rows > 0 && rows % (2 * heads) == 0,
            "`{name}` of {} has {rows} rows for {heads} heads",
            self.path.display()
        );
        let split = tensor.reshape((heads, rows / heads / 2, 2, tensor.elem_count() / rows))?;
        Ok(split.transpose(1, 2)?.reshape(tensor.shape())?.contiguous()?)
    }
}

/// `model.layers.3.self_attn.q_proj.weight` → `blk.3.attn_q.weight`
fn gguf_name(name: &str) -> Result<String> {
    let outer = |name| match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = outer(name) {
        return Ok(name.into());
    }
    let inner = |part| match part {
        "input_layernorm" => Some("attn_norm"),
        "post_attention_layernorm" => Some("ffn_norm"),
        "self_attn.q_proj" => Some("attn_q"),
        "self_attn.k_proj" => Some("attn_k"),
        "self_attn.v_proj" => Some("attn_v"),
        "self_attn.o_proj" => Some("attn_output"),
        "mlp.gate_proj" => Some("ffn_gate"),
        "mlp.up_proj" => Some("ffn_up"),
        "mlp.down_proj" => Some("ffn_down"),
        _ => None,
    };
    let parts = || {
        let (block, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        Some(format!("blk.{block}.{}.{kind}", inner(part)?))
    };
    match parts() {
        Some(name) => Ok(name),
        None => bail!("`{name}` has no name in GGUF"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate() {
        assert_eq!(gguf_name("model.layers.3.self_attn.q_proj.weight").unwrap(), "blk.3.attn_q.weight");
        assert_eq!(gguf_name("model.layers.12.mlp.down_proj.bias").unwrap(), "blk.12.ffn_down.bias");
        assert_eq!(gguf_name("lm_head.weight").unwrap(), "output.weight");
        assert!(gguf_name("model.layers.3.experts.weight").is_err());
    }
}
