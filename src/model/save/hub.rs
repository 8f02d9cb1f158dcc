//! A Hugging Face folder: as it was, or made of a GGUF file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::tensors::{Part, Planned, Precision, between};
use super::{Kind, Saving};
use crate::model::json_file;
use crate::model::spec::{Name, Spec, Stored};
use crate::model::tokenizer;
use crate::model::weights::{Form, GgufFile, StoredTensor, Weights};

/// Further files of a folder that its readers look for, beside those of the tokenizer.
const COPIED: [&str; 9] = [
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "NOTICE",
];

/// What belongs to weights that were stored in 8 bits, and no longer are.
const SCALES: [&str; 5] = ["weight_scale_inv", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"];

/// A folder again: every tensor under its name, and the files beside them.
pub fn of_hub(
    dir: &Path,
    spec: Spec,
    source: Box<dyn Weights>,
    dtype: Option<DType>,
    otherwise: DType,
) -> Result<Saving> {
    let was_quantised = spec.quantization.is_some();
    let mut linears: HashMap<String, (usize, usize, Name, Stored)> = HashMap::new();
    for (block, blocks) in spec.blocks.iter().enumerate() {
        for (linear, own) in blocks.linears.iter().enumerate() {
            let name = spec.name_of_block(block).under(&own.part).of("weight");
            linears.insert(source.own_name_of(&name)?, (block, linear, name, own.stored));
        }
    }
    // In the order of the blocks, so that what was pruned is read block by block.
    let stored = source.stored()?;
    let names: HashSet<&str> = stored.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut tensors: Vec<(Option<usize>, Planned)> = Vec::new();
    for StoredTensor { name, shape, form } in &stored {
        let Form::Numbers(numbers, _) = *form else { bail!("`{name}` is of no kind that safetensors have") };
        let is_scale = |end: &&str| {
            let weight = name.strip_suffix(*end).map(|stem| format!("{stem}weight"));
            weight.is_some_and(|weight| names.contains(weight.as_str()))
        };
        if was_quantised && SCALES.iter().any(is_scale) {
            continue;
        }
        let own = float(numbers);
        let (precision, part) = match linears.get(name) {
            Some((block, linear, _, stored)) => {
                let part = Part::Weight { block: *block, linear: *linear, stored: *stored, order: None };
                (Precision::Of(dtype.or(own).unwrap_or(otherwise)), part)
            }
            None => match (own, dtype) {
                (Some(own), Some(dtype)) if own != dtype => {
                    (Precision::Of(dtype), Part::Read(named(&spec, &*source, name)))
                }
                _ => (Precision::AsStored(numbers), Part::Copy(name.clone())),
            },
        };
        let block = linears.get(name).map(|(block, ..)| *block);
        let planned = Planned { name: name.clone(), shape: shape.clone(), precision, parts: vec![part] };
        tensors.push((block, planned));
    }
    tensors.sort_by_key(|(block, _)| *block);
    let tensors = tensors.into_iter().map(|(_, tensor)| tensor).collect();

    let path = dir.join("config.json");
    let text = json_file::text(&path)?;
    let changed = dtype.or(was_quantised.then_some(otherwise));
    let config = match changed {
        None => text,
        Some(dtype) => in_precision(json_file::parse(&path, &text)?, dtype)?,
    };
    let mut copied: Vec<PathBuf> = tokenizer::FILES.iter().chain(&COPIED).map(|name| dir.join(name)).collect();
    copied.retain(|path| path.is_file());
    copied.extend(tokenizer::further_files(dir)?);
    drop(stored);
    Ok(Saving { source, spec, tensors, kind: Kind::Hub { files: vec![("config.json".into(), config)], copied } })
}

/// A tensor of the files by the name that the model knows it by, or else by its own.
fn named(spec: &Spec, source: &dyn Weights, own: &str) -> Name {
    let known = spec.tensors().into_iter().find(|(name, _)| source.own_name_of(name).is_ok_and(|name| name == own));
    known.map_or_else(|| Name::new(own, own), |(name, _)| name)
}

/// The precision that candle has for a number of a file; None of what is none, or is scaled.
fn float(numbers: Dtype) -> Option<DType> {
    match numbers {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// A config that says which precision its weights have.
fn in_precision(mut config: Value, dtype: DType) -> Result<String> {
    let name = json!(named_by_torch(dtype));
    let Some(keys) = config.as_object_mut() else { bail!("config.json is no JSON object") };
    let key = if keys.contains_key("torch_dtype") && !keys.contains_key("dtype") { "torch_dtype" } else { "dtype" };
    keys.insert(key.into(), name.clone());
    keys.remove("quantization_config");
    if let Some(Value::Object(text)) = keys.get_mut("text_config") {
        for key in ["dtype", "torch_dtype"].into_iter().filter(|key| text.contains_key(*key)).collect::<Vec<_>>() {
            text.insert(key.into(), name.clone());
        }
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

fn named_by_torch(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// A folder of a GGUF file: its config, tokenizer and templates are made of the metadata, and read back: what they say has
/// to be what the file says.
pub fn of_gguf(path: &Path, spec: Spec, source: Box<dyn Weights>, dtype: DType) -> Result<Saving> {
    let file = GgufFile::open(path)?;
    let (config, target) = config_of(&file, &spec, dtype).with_context(|| {
        format!("no Hugging Face folder can be made of {}; --format gguf writes a GGUF file", path.display())
    })?;
    let mut files = tokenizer::files_of_gguf(&file, &config).with_context(|| {
        format!("the tokenizer in {} cannot be put into a Hugging Face folder; --format gguf keeps it", path.display())
    })?;
    files.push(("config.json".to_owned(), config));
    let tensors = between(&spec, &target, |name| name.hub.clone(), |_, _| dtype)?;
    Ok(Saving { source, spec, tensors, kind: Kind::Hub { files, copied: vec![] } })
}

/// The `config.json` of a model in a GGUF file, and what it says.
fn config_of(file: &GgufFile, spec: &Spec, dtype: DType) -> Result<(String, Spec)> {
    let (config, target) = file.hub_config(spec)?;
    let Value::Object(mut config) = config else { bail!("a config is an object") };
    config.insert("dtype".into(), json!(named_by_torch(dtype)));
    let (mut ids, ends) = (Map::new(), tokenizer::ends_of_gguf(file)?);
    for (key, id) in tokenizer::ids_of_gguf(file)? {
        ids.insert(key.into(), json!(id));
    }
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config.insert(key.into(), ids.get(key).cloned().unwrap_or(Value::Null));
    }
    if ends.len() > 1 {
        config.insert("eos_token_id".into(), json!(ends));
    }
    Ok((serde_json::to_string_pretty(&Value::Object(config))? + "\n", target))
}

/// Writes what lies beside the tensors.
pub fn write_files(dir: &Path, files: &[(String, String)], copied: &[PathBuf]) -> Result<()> {
    for (name, content) in files {
        let path = dir.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for from in copied {
        // Those of further templates lie in a folder of their own.
        let inner = from.parent().and_then(Path::file_name).filter(|folder| *folder == "additional_chat_templates");
        let folder = inner.map_or(dir.to_owned(), |inner| dir.join(inner));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let to = folder.join(from.file_name().context("a file has a name")?);
        fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
