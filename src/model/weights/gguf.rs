//! A GGUF file (llama.cpp), whole or in parts, of any quantisation that candle reads, dequantised tensor by tensor.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;

use super::gguf_header::unreadable_tensor;
use super::{Form, StoredTensor, WEIGHTS_AT_ONCE, Weights, let_go, no_pointer};
use crate::guard::guarded;
use crate::linalg::bf16;
use crate::model::arch::{self, Tensors};
use crate::model::spec::{LinearSpec, Name, Spec, Stored};
use crate::tensors;

/// A memory-mapped GGUF model.
pub struct GgufFile {
    /// One, or all that a file was split into (`llama-gguf-split`); the metadata is in the first.
    parts: Vec<Part>,
    /// The part of every tensor.
    places: HashMap<String, usize>,
    /// Tensors that the model takes beside those of weights.
    also: &'static [&'static str],
}

struct Part {
    content: Content,
    map: Mmap,
    path: PathBuf,
}

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
        Ok(Self { parts, places, also: &[] })
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

    /// What the model computes.
    pub fn spec(&mut self) -> Result<Spec> {
        let spec = Spec::from_gguf(&self.parts[0].content, &*self);
        let spec = spec.with_context(|| format!("in {}", self.path().display()))?;
        self.also = spec.also;
        Ok(spec)
    }

    /// The `config.json` that says of a Hugging Face folder what this file says of `spec`, and what it says.
    pub fn hub_config(&self, spec: &Spec) -> Result<(serde_json::Value, Spec)> {
        arch::hub_config(&self.parts[0].content, self, spec)
    }

    /// A string of the metadata.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.metadata().get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// As [`GgufFile::info`], of a tensor that has to be there.
    fn there(&self, name: &str) -> Result<(&Part, &TensorInfo)> {
        self.info(name).with_context(|| format!("tensor `{name}` of {} is missing", self.path().display()))
    }

    /// A tensor that is a matrix of rows; None where it is none.
    fn matrix<'a>(&'a self, name: &'a Name) -> Result<Option<Matrix<'a>>> {
        let (part, info) = self.there(&name.gguf)?;
        let bytes = part.bytes_of(&name.gguf, info)?;
        Ok(match *info.shape.dims() {
            [rows, columns] if rows > 0 && columns > 0 && columns % info.ggml_dtype.block_size() == 0 => {
                Some(Matrix { part, info, bytes, name: &name.gguf, rows, columns })
            }
            _ => None,
        })
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let (part, info) = self.there(name)?;
        let read = || {
            let stored = part.content.tensor(&mut Cursor::new(&part.map[..]), name, &Device::Cpu)?;
            let_go(part.bytes_of(name, info)?);
            Ok(stored.dequantize(&Device::Cpu)?)
        };
        guarded(read).with_context(|| format!("tensor `{name}` of {}", part.path.display()))
    }
}

/// A tensor of rows, each of which can be read by itself.
struct Matrix<'a> {
    part: &'a Part,
    info: &'a TensorInfo,
    bytes: &'a [u8],
    name: &'a str,
    rows: usize,
    columns: usize,
}

impl Matrix<'_> {
    /// Rows that are read at once.
    fn at_once(&self) -> usize {
        (WEIGHTS_AT_ONCE / self.columns).max(1)
    }

    /// Some of its rows, in f32.
    fn read(&self, start: usize, rows: usize) -> Result<Tensor> {
        let Self { part, info, bytes, .. } = self;
        let a_row = bytes.len() / self.rows;
        let own = a_row * start..a_row * (start + rows);
        let (shape, offset) = ((rows, self.columns).into(), info.offset + own.start as u64);
        let one = TensorInfo { ggml_dtype: info.ggml_dtype, shape, offset };
        let read = || {
            let stored = one.read(&mut Cursor::new(&part.map[..]), part.content.tensor_data_offset, &Device::Cpu)?;
            let_go(&bytes[own]);
            Ok(stored.dequantize(&Device::Cpu)?)
        };
        guarded(read).with_context(|| format!("tensor `{}` of {}", self.name, part.path.display()))
    }

    /// Has `write` write all rows, some at a time.
    fn write<T: Send>(&self, all: &mut [T], write: impl Fn(&[f32], &mut [T]) + Sync) -> Result<()> {
        let (at_once, columns) = (self.at_once(), self.columns);
        all.par_chunks_mut(at_once * columns).enumerate().try_for_each(|(i, to)| {
            let rows = self.read(i * at_once, to.len() / columns)?;
            Ok(tensors::with_values(&rows, |values| write(values, to))?)
        })
    }
}

impl Tensors for GgufFile {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).map(|(_, info)| shape(info))
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.read(name)?.flatten_all()?.to_vec1()?)
    }
}

/// A tensor's shape. Outer dimensions of 1 are none to llama.cpp.
fn shape(info: &TensorInfo) -> Vec<usize> {
    let dims = info.shape.dims();
    let outer = dims.iter().take_while(|&&n| n == 1).count().min(dims.len().saturating_sub(1));
    dims[outer..].to_vec()
}

impl Weights for GgufFile {
    fn tensor(&self, name: &Name) -> Result<Tensor> {
        let tensor = self.read(&name.gguf)?;
        Ok(tensor.reshape(shape(self.there(&name.gguf)?.1))?)
    }

    /// A few rows at a time on all threads: a large one is never whole in f32, nor is what the file has of it copied whole.
    fn rounded(&self, name: &Name, dtype: DType) -> Result<Tensor> {
        let Some(matrix) = self.matrix(name)? else { return Ok(tensors::to_dtype(&self.tensor(name)?, dtype)?) };
        let tensor = match dtype {
            DType::F32 => {
                let mut all = vec![0f32; matrix.rows * matrix.columns];
                matrix.write(&mut all, |values, to| to.copy_from_slice(values))?;
                Tensor::from_vec(all, (matrix.rows, matrix.columns), &Device::Cpu)?
            }
            DType::BF16 => {
                let mut all = vec![half::bf16::ZERO; matrix.rows * matrix.columns];
                matrix.write(&mut all, |values, to| to.copy_from_slice(&bf16::rounded(values)))?;
                Tensor::from_vec(all, (matrix.rows, matrix.columns), &Device::Cpu)?
            }
            _ => tensors::to_dtype(&self.tensor(name)?, dtype)?,
        };
        Ok(tensor.reshape(shape(matrix.info))?)
    }

    fn pieces(&self, name: &Name, look: &(dyn Fn(&Tensor) -> Result<()> + Sync)) -> Result<()> {
        let Some(matrix) = self.matrix(name)? else { return look(&self.tensor(name)?) };
        let starts: Vec<usize> = (0..matrix.rows).step_by(matrix.at_once()).collect();
        starts
            .into_par_iter()
            .try_for_each(|start| look(&matrix.read(start, matrix.at_once().min(matrix.rows - start))?))
    }

    fn part(&self, name: &Name, index: usize, count: usize) -> Result<Tensor> {
        let (part, info) = self.there(&name.gguf)?;
        let read = || {
            let shape = info.shape.dims();
            ensure!(shape.len() == 3 && shape[0] == count, "its shape is {shape:?}; expected {count} matrices");
            let bytes = part.bytes_of(&name.gguf, info)?;
            let own = bytes.len() / count * index..bytes.len() / count * (index + 1);
            let offset = info.offset + own.start as u64;
            let one = TensorInfo { ggml_dtype: info.ggml_dtype, shape: (shape[1], shape[2]).into(), offset };
            let stored = one.read(&mut Cursor::new(&part.map[..]), part.content.tensor_data_offset, &Device::Cpu)?;
            let_go(&bytes[own]);
            Ok(stored.dequantize(&Device::Cpu)?)
        };
        guarded(read).with_context(|| format!("tensor `{}` of {}", name.gguf, part.path.display()))
    }

    fn in_order(&self, tensor: Tensor, linear: &LinearSpec) -> Result<Tensor> {
        let Stored::Paired(heads) = linear.stored else { return Ok(tensor) };
        // (heads, dim/2, 2, …) → (heads, 2, dim/2, …): the halves of a head apart, as Hugging Face has them.
        let rows = linear.rows;
        let split = tensor.reshape((heads, rows / heads / 2, 2, tensor.elem_count() / rows))?;
        Ok(split.transpose(1, 2)?.reshape(tensor.shape())?.contiguous()?)
    }

    fn shape(&self, name: &Name) -> Result<Vec<usize>> {
        Ok(shape(self.there(&name.gguf)?.1))
    }

    fn format(&self, name: &Name) -> Result<String> {
        // candle's Q4K is llama.cpp's Q4_K.
        let format = format!("{:?}", self.there(&name.gguf)?.1.ggml_dtype);
        Ok(format.strip_suffix('K').map_or(format.clone(), |bits| format!("{bits}_K")))
    }

    fn stored(&self) -> Result<Vec<StoredTensor<'_>>> {
        let mut all = Vec::new();
        for part in &self.parts {
            let mut own: Vec<(&String, &TensorInfo)> = part.content.tensor_infos.iter().collect();
            own.sort_unstable_by_key(|(_, info)| info.offset);
            let stored = |(name, info): (&String, &TensorInfo)| StoredTensor {
                name: name.clone(),
                shape: info.shape.dims().to_vec(),
                form: Form::Blocks,
            };
            all.extend(own.into_iter().map(stored));
        }
        Ok(all)
    }

    fn own_name_of(&self, name: &Name) -> Result<String> {
        self.there(&name.gguf).map(|_| name.gguf.clone())
    }

    fn left_over(&self, names: &[Name]) -> Vec<String> {
        let mut taken: HashSet<&str> = names.iter().map(|name| name.gguf.as_str()).collect();
        taken.extend(self.also);
        let mut left: Vec<String> = self.places.keys().filter(|name| !taken.contains(name.as_str())).cloned().collect();
        left.sort_unstable();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    #[test]
    fn a_matrix_that_is_read_a_few_rows_at_a_time_is_what_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let (rows, columns) = (2 * WEIGHTS_AT_ONCE / 512 + 3, 512);
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin() * 0.1).collect();
        let vector = Tensor::from_slice(&values[..columns], columns, &Device::Cpu).unwrap();
        let matrix = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
        let formats =
            [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q6K];
        for format in formats {
            let stored = [&matrix, &vector].map(|tensor| QTensor::quantize(tensor, format).unwrap());
            let named = [("matrix", &stored[0]), ("vector", &stored[1])];
            gguf_file::write(&mut File::create(&path).unwrap(), &[], &named).unwrap();
            let file = GgufFile::open(&path).unwrap();
            for name in ["matrix", "vector"].map(|name| Name::new("", name)) {
                let shown = std::sync::Mutex::new(0);
                file.pieces(&name, &|piece| {
                    *shown.lock().unwrap() += piece.elem_count();
                    Ok(())
                })
                .unwrap();
                assert_eq!(*shown.lock().unwrap(), file.tensor(&name).unwrap().elem_count());
                for dtype in [DType::F32, DType::BF16, DType::F16] {
                    let rounded = file.rounded(&name, dtype).unwrap();
                    let expected = tensors::to_dtype(&file.tensor(&name).unwrap(), dtype).unwrap();
                    assert_eq!((rounded.dtype(), rounded.dims()), (dtype, expected.dims()));
                    let bits = |tensor: &Tensor| {
                        let mut bytes = Vec::new();
                        tensors::write_bytes(tensor, &mut bytes).unwrap();
                        bytes
                    };
                    assert!(bits(&rounded) == bits(&expected), "{format:?} to {dtype:?}, {}", name.gguf);
                }
            }
        }
    }
}
