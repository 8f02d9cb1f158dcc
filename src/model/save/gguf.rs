//! A GGUF file, version 3 (ggml's docs/gguf.md): metadata, then where each tensor lies, then the tensors.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use candle_core::quantized::gguf_file::Value;

use super::tensors::{Part, Planned, Precision, between};
use super::{Kind, Saving};
use crate::model::arch::{GgufModel, gguf_model};
use crate::model::spec::{Name, Spec};
use crate::model::tokenizer;
use crate::model::weights::{GgufFile, Weights};

/// Keys and values, in the order in which they are written.
pub type Metadata = Vec<(String, Value)>;

/// What a tensor begins at a multiple of.
const ALIGNMENT: usize = 32;

/// A precision as GGUF has it.
trait GgufType {
    /// The type of a tensor (`ggml_type`).
    fn of_tensor(self) -> u32;
    /// `general.file_type`: the precision of most (`llama_ftype`).
    fn of_file(self) -> u32;
}

impl GgufType for DType {
    fn of_tensor(self) -> u32 {
        match self {
            DType::F16 => 1,
            DType::BF16 => 30,
            _ => 0,
        }
    }

    fn of_file(self) -> u32 {
        match self {
            DType::F16 => 1,
            DType::BF16 => 32,
            _ => 0,
        }
    }
}

/// A GGUF file again, with its metadata, its weights in a precision that is no quantisation.
pub fn of_gguf(path: &Path, spec: Spec, source: Box<dyn Weights>, dtype: DType) -> Result<Saving> {
    let file = GgufFile::open(path)?;
    let gone =
        |key: &str| key.starts_with("split.") || key.starts_with("quantize.") || key == "general.quantization_version";
    let mut metadata: Metadata =
        file.metadata().iter().filter(|(key, _)| !gone(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    metadata.retain(|(key, _)| key != "general.file_type" && key != "general.alignment");
    metadata.push(("general.file_type".into(), Value::U32(dtype.of_file())));
    // What the model is comes first.
    metadata.sort_by(|(a, _), (b, _)| {
        let rank = |key: &str| (key != "general.architecture", !key.starts_with("general."));
        rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
    });
    let mut tensors: Vec<(Option<usize>, Planned)> = Vec::new();
    for stored in source.stored()? {
        let mut linears = Vec::new();
        for (block, own) in spec.blocks.iter().enumerate() {
            let outer = spec.name_of_block(block);
            if !stored.name.starts_with(&format!("{}.", outer.gguf)) {
                continue;
            }
            for (linear, own) in own.linears.iter().enumerate() {
                if outer.under(&own.part).of("weight").gguf == stored.name {
                    linears.push(Part::Weight { block, linear, stored: own.stored, order: None });
                }
            }
        }
        let block = linears.first().map(|part| match part {
            Part::Weight { block, .. } => *block,
            _ => 0,
        });
        let parts = match linears.is_empty() {
            true => vec![Part::Read(Name::new(stored.name.clone(), stored.name.clone()))],
            false => linears,
        };
        let precision = Precision::Of(precision(&stored.name, &stored.shape, dtype));
        tensors.push((block, Planned { name: stored.name, shape: stored.shape, precision, parts }));
    }
    tensors.sort_by_key(|(block, _)| *block);
    let tensors = tensors.into_iter().map(|(_, tensor)| tensor).collect();
    Ok(Saving { source, spec, tensors, kind: Kind::Gguf(metadata) })
}

/// A GGUF file of a Hugging Face folder: its metadata say what the config says, and its tokenizer is the folder's.
pub fn of_hub(dir: &Path, spec: Spec, source: Box<dyn Weights>, dtype: DType) -> Result<Saving> {
    let advice = "export the folder, and have llama.cpp's convert_hf_to_gguf.py convert that";
    let refused = || format!("calipr writes no GGUF file of {}; {advice}", dir.display());
    let GgufModel { metadata: own, factors, spec: target } = gguf_model(&spec).with_context(refused)?;
    let called = std::path::absolute(dir).ok();
    let called = called.as_deref().unwrap_or(dir).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tokenizer = tokenizer::gguf_of_dir(dir, spec.vocabulary, &called).with_context(refused)?;
    let mut own = own.into_iter();
    let mut metadata: Metadata = own.next().into_iter().collect();
    let text = |text: &str| Value::String(text.to_owned());
    metadata.extend([
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(&called)),
        ("general.file_type".to_owned(), Value::U32(dtype.of_file())),
    ]);
    metadata.extend(own);
    metadata.extend(tokenizer);
    let mut tensors: Vec<Planned> =
        factors.into_iter().map(|(name, values)| Planned::of_values(name, values)).collect();
    tensors.extend(between(&spec, &target, |name| name.gguf.clone(), |name, shape| precision(name, shape, dtype))?);
    Ok(Saving { source, spec, tensors, kind: Kind::Gguf(metadata) })
}

/// llama.cpp's converter keeps vectors, routers and positions in f32 (convert_hf_to_gguf.py, `prepare_tensors`).
fn precision(name: &str, shape: &[usize], dtype: DType) -> DType {
    let is_kept = shape.len() <= 1
        || name.ends_with("_norm.weight")
        || name.contains("ffn_gate_inp")
        || name.starts_with("position_embd");
    if is_kept { DType::F32 } else { dtype }
}

/// Writes a file of metadata alone.
pub fn write_metadata(path: &Path, metadata: &Metadata) -> Result<()> {
    write(path, metadata, &[], &mut |tensor| bail!("`{}` is not there", tensor.name))
}

/// Writes the file.
pub fn write(
    path: &Path,
    metadata: &Metadata,
    tensors: &[Planned],
    make: &mut dyn FnMut(&Planned) -> Result<Vec<u8>>,
) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(cannot)?);
    let mut header = Vec::new();
    header.extend_from_slice(b"GGUF");
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(&mut header, key);
        header.extend_from_slice(&type_of(value).to_le_bytes());
        write_value(&mut header, value);
    }
    let mut at = 0u64;
    for tensor in tensors {
        let Precision::Of(dtype) = tensor.precision else { bail!("`{}` is no weight", tensor.name) };
        write_text(&mut header, &tensor.name);
        header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        // The innermost dimension first.
        tensor.shape.iter().rev().for_each(|&n| header.extend_from_slice(&(n as u64).to_le_bytes()));
        header.extend_from_slice(&dtype.of_tensor().to_le_bytes());
        header.extend_from_slice(&at.to_le_bytes());
        at += tensor.bytes().next_multiple_of(ALIGNMENT as u64);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header).with_context(cannot)?;
    for tensor in tensors {
        let mut bytes = make(tensor)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&bytes).with_context(cannot)?;
    }
    let file = out.into_inner().map_err(|error| error.into_error()).with_context(cannot)?;
    file.sync_all().with_context(cannot)
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// `gguf_metadata_value_type`
fn type_of(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            // An empty array says nothing of its type; any will do.
            out.extend_from_slice(&items.first().map_or(4, type_of).to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write_value(out, item));
        }
    }
}
