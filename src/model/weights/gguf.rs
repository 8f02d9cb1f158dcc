//! A GGUF file (llama.cpp), whole or in parts, of any quantisation that candle reads, dequantised tensor by tensor.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::gguf_header::unreadable_tensor;
use super::{Weights, let_go, no_pointer};
use crate::guard::guarded;
use crate::model::config::Config;
use crate::model::rope::RopeScaling;

/// A memory-mapped GGUF model.
pub struct GgufFile {
    /// One, or all that a file was split into (`llama-gguf-split`); the metadata is in the first.
    parts: Vec<Part>,
    /// The part of every tensor.
    places: HashMap<String, usize>,
    /// llama.cpp stores the q and k of Llama models with the rows of a head interleaved.
    interleaved: Option<Heads>,
}

struct Part {
    content: Content,
    map: Mmap,
    path: PathBuf,
}

struct Heads {
    query: usize,
    key_value: usize,
}

/// Divides the frequencies of the rotary embedding; no tensor of Hugging Face's.
const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            ensure!(path.is_file(), "it is no file");
            no_pointer(path)?;
            let file = File::open(path)?;
            // SAFETY: as for every memory-mapped file, it must not be changed while it is mapped.
            let map = unsafe { Mmap::map(&file)? };
            match map.get(4..8).map(|version| u32::from_le_bytes(version.try_into().expect("four bytes"))) {
                Some(1) => bail!("it is GGUF of version 1, which is no longer written; convert the model again"),
                Some(version) if version != 0 && version & 0xffff == 0 => {
                    bail!("it is big-endian; calipr reads little-endian files")
                }
                _ => {}
            }
            let content = match Content::read(&mut Cursor::new(&map[..])) {
                Ok(content) => content,
                Err(error) => bail!(unreadable_tensor(&map).unwrap_or_else(|| error.to_string())),
            };
            let part = Self { content, map, path: path.to_owned() };
            part.content.tensor_infos.iter().try_for_each(|(name, info)| part.bytes_of(name, info).map(drop))?;
            Ok(part)
        };
        guarded(read).with_context(|| format!("cannot read {} as GGUF", path.display()))
    }

    /// Where a tensor lies in the file.
    fn bytes_of(&self, name: &str, info: &TensorInfo) -> Result<&[u8]> {
        let weights = info.shape.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let blocks = weights.map(|weights| weights / info.ggml_dtype.block_size());
        let size = blocks.and_then(|blocks| blocks.checked_mul(info.ggml_dtype.type_size()));
        let start =
            self.content.tensor_data_offset.checked_add(info.offset).and_then(|start| usize::try_from(start).ok());
        let bytes = start.zip(size).and_then(|(start, size)| self.map.get(start..start.checked_add(size)?));
        bytes.with_context(|| {
            format!("tensor `{name}` of {:?} lies beyond the end of the file: it is damaged, or cut short", info.shape)
        })
    }

    /// A number of the metadata.
    fn number(&self, key: &str) -> Option<usize> {
        match self.content.metadata.get(key)? {
            Value::U8(n) => Some(usize::from(*n)),
            Value::U16(n) => Some(usize::from(*n)),
            Value::U32(n) => usize::try_from(*n).ok(),
            Value::U64(n) => usize::try_from(*n).ok(),
            Value::I32(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }
}

/// What llama.cpp calls part `number` (from 0) of `count`: PREFIX-00001-of-00003.gguf.
fn part_name(prefix: &str, number: usize, count: usize) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", number + 1)
}

/// The paths of all parts of a file, of which one was named; one where it is whole.
fn paths(named: &Part) -> Result<Vec<PathBuf>> {
    let (Some(count), number) = (named.number("split.count").filter(|&n| n > 1), named.number("split.no").unwrap_or(0))
    else {
        return Ok(vec![named.path.clone()]);
    };
    let name = named.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(prefix) = name.strip_suffix(&part_name("", number, count)) else {
        bail!(
            "{} is part {} of {count} of a split model, but is not called so; expected {}, with the others beside it",
            named.path.display(),
            number + 1,
            part_name("NAME", number, count)
        )
    };
    let paths: Vec<PathBuf> = (0..count).map(|i| named.path.with_file_name(part_name(prefix, i, count))).collect();
    let missing: Vec<String> = paths.iter().filter(|p| !p.is_file()).map(|p| p.display().to_string()).collect();
    ensure!(
        missing.is_empty(),
        "{} is part {} of {count} of a split model, and {} of its parts {}: {}",
        named.path.display(),
        number + 1,
        missing.len(),
        if missing.len() == 1 { "is missing" } else { "are missing" },
        missing.join(", ")
    );
    Ok(paths)
}

impl GgufFile {
    /// Maps the file, with all its parts, and reads the headers.
    pub fn open(path: &Path) -> Result<Self> {
        let named = Part::open(path)?;
        let paths = paths(&named)?;
        let parts = match paths.len() {
            1 => vec![named],
            _ => paths.iter().map(|path| Part::open(path)).collect::<Result<Vec<_>>>()?,
        };
        let mut places = HashMap::new();
        for (index, part) in parts.iter().enumerate() {
            let (number, count) =
                (part.number("split.no").unwrap_or(0), part.number("split.count").unwrap_or(1).max(1));
            ensure!(
                (number, count) == (index, parts.len()),
                "{} says that it is part {} of {count}, where part {} of {} is expected",
                part.path.display(),
                number + 1,
                index + 1,
                parts.len()
            );
            for name in part.content.tensor_infos.keys() {
                if let Some(other) = places.insert(name.clone(), index) {
                    bail!("tensor `{name}` is in both {} and {}", parts[other].path.display(), part.path.display());
                }
            }
        }
        if let Some(expected) = parts[0].number("split.tensors.count").filter(|&n| parts.len() > 1 && n != places.len())
        {
            bail!(
                "the parts of {} have {} tensors together, but expect {expected}",
                parts[0].path.display(),
                places.len()
            );
        }
        Ok(Self { parts, places, interleaved: None })
    }

    /// Every file of the model.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.path.clone()).collect()
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.parts[0].content.metadata
    }

    fn path(&self) -> &Path {
        &self.parts[0].path
    }

    fn info(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        let part = &self.parts[*self.places.get(name)?];
        Some((part, part.content.tensor_infos.get(name)?))
    }

    /// The model's shape; from here on, q and k come in Hugging Face's row order.
    pub fn config(&mut self) -> Result<Config> {
        let shape = |name: &str| self.info(name).map(|(_, info)| info.shape.dims().to_vec());
        let config = Config::from_gguf(&self.parts[0].content, &shape);
        let mut config = config.with_context(|| format!("in {}", self.path().display()))?;
        if config.architecture == "llama" {
            self.interleaved = Some(Heads { query: config.heads, key_value: config.key_value_heads });
        }
        if self.interleaved.is_some() && self.places.contains_key(ROPE_FACTORS) {
            let factors = self.read(ROPE_FACTORS)?.flatten_all()?.to_vec1::<f32>()?;
            ensure!(
                factors.len() == config.head_dim / 2,
                "`{ROPE_FACTORS}` of {} has {} values, not half of the head size of {}",
                self.path().display(),
                factors.len(),
                config.head_dim
            );
            ensure!(
                config.rope_scaling == RopeScaling::None,
                "{} has both `{ROPE_FACTORS}` and a rope scaling; calipr runs one of them",
                self.path().display()
            );
            config.rope_scaling = RopeScaling::Factors(factors);
        }
        Ok(config)
    }

    /// A string of the metadata.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.metadata().get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let (part, info) =
            self.info(name).with_context(|| format!("tensor `{name}` of {} is missing", self.path().display()))?;
        let read = || {
            let stored = part.content.tensor(&mut Cursor::new(&part.map[..]), name, &Device::Cpu)?;
            let_go(part.bytes_of(name, info)?);
            Ok(stored.dequantize(&Device::Cpu)?)
        };
        guarded(read).with_context(|| format!("tensor `{name}` of {}", part.path.display()))
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
            self.path().display()
        );
        let split = tensor.reshape((heads, rows / heads / 2, 2, tensor.elem_count() / rows))?;
        Ok(split.transpose(1, 2)?.reshape(tensor.shape())?.contiguous()?)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let own = gguf_name(name)?;
        let info =
            self.info(&own).with_context(|| format!("tensor `{own}` of {} is missing", self.path().display()))?;
        Ok(info.1.shape.dims().to_vec())
    }

    fn format(&self, name: &str) -> Result<String> {
        let own = gguf_name(name)?;
        let info =
            self.info(&own).with_context(|| format!("tensor `{own}` of {} is missing", self.path().display()))?;
        // candle's Q4K is llama.cpp's Q4_K.
        let format = format!("{:?}", info.1.ggml_dtype);
        Ok(format.strip_suffix('K').map_or(format.clone(), |bits| format!("{bits}_K")))
    }

    fn left_over(&self, names: &[String]) -> Vec<String> {
        let mut taken: HashSet<String> = names.iter().filter_map(|name| gguf_name(name).ok()).collect();
        if self.interleaved.is_some() {
            taken.insert(ROPE_FACTORS.into()); // Llama's alone
        }
        let mut left: Vec<String> = self.places.keys().filter(|name| !taken.contains(*name)).cloned().collect();
        left.sort_unstable();
        left
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
