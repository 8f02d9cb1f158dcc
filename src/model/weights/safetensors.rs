//! A Hugging Face directory: `config.json`, one or many `*.safetensors`, `tokenizer.json`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use super::scaled::Scales;
use super::{Form, StoredTensor, Weights, let_go, no_pointer};
use crate::guard::guarded;
use crate::model::arch::Quantization;
use crate::model::spec::{LinearSpec, Name, Spec};
use crate::source::without_weights;

/// The tensors of a directory of safetensors files.
pub struct SafetensorsDir {
    files: Vec<(PathBuf, MmapedSafetensors)>,
    /// The file of every tensor, by the name that it has there.
    places: HashMap<String, usize>,
    /// What transformers puts in front of all but the head, `model.` for one; and what stands there in these files:
    /// nothing in a bare model, more in a wrapped one.
    prefix: (String, String),
    /// What transformers calls the embedding.
    embedding: String,
    /// What transformers calls the head, and what these files do.
    head: (String, String),
    /// The head is the embedding, of which the files have one or both.
    tied: bool,
    quantization: Option<Quantization>,
    /// In which file the index says that a tensor is.
    index: HashMap<String, String>,
    dir: PathBuf,
}

/// `model.safetensors.index.json`
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The index of a directory whose weights lie in several files. transformers looks at it only where there is no
/// `model.safetensors`.
fn index(dir: &Path) -> Result<Option<Index>> {
    let index = dir.join("model.safetensors.index.json");
    if dir.join("model.safetensors").symlink_metadata().is_ok() || index.symlink_metadata().is_err() {
        return Ok(None);
    }
    ensure!(index.is_file(), "{} is no file", index.display());
    let text = std::fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))?;
    let content = serde_json::from_str(&text).with_context(|| format!("{} is no index of weights", index.display()))?;
    Ok(Some(content))
}

impl SafetensorsDir {
    /// The weight files of a directory: `model.safetensors`, else those that the index names, else the only one.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
        let single = dir.join("model.safetensors");
        if single.symlink_metadata().is_ok() {
            ensure!(single.is_file(), "{} is no file", single.display());
            return Ok(vec![single]);
        }
        if let Some(Index { weight_map }) = index(dir)? {
            let names: BTreeSet<String> = weight_map.into_values().collect();
            let index = dir.join("model.safetensors.index.json");
            ensure!(!names.is_empty(), "{} names no files", index.display());
            if let Some(name) = names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
                bail!("{} names \"{name}\", which is not a file of the directory", index.display());
            }
            let files: Vec<PathBuf> = names.into_iter().map(|n| dir.join(n)).collect();
            if let Some(file) = files.iter().find(|file| !file.is_file()) {
                bail!("{} is not there, or no file, but {} names it", file.display(), index.display());
            }
            return Ok(files);
        }
        let names: Vec<PathBuf> = std::fs::read_dir(dir)
            .with_context(|| format!("cannot list {}", dir.display()))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .collect();
        let is_weights = |path: &&PathBuf| {
            path.extension().is_some_and(|e| e == "safetensors")
                && path.file_name().is_some_and(|name| name != "adapter_model.safetensors")
        };
        match names.iter().filter(is_weights).collect::<Vec<_>>().as_slice() {
            [one] => Ok(vec![(*one).clone()]),
            several => {
                let names = names.iter().filter_map(|path| path.file_name()?.to_str());
                bail!("{} {}", dir.display(), without_weights(names, several.len()))
            }
        }
    }

    /// Maps the files of a model; nothing is read but their headers.
    pub fn open(dir: &Path, spec: &Spec) -> Result<Self> {
        let map = |path: PathBuf| {
            // SAFETY: as for every memory-mapped file, it must not be changed while it is mapped; calipr
            // only reads models, and says so where a digest no longer fits.
            no_pointer(&path)?;
            let tensors = guarded(|| Ok(unsafe { MmapedSafetensors::new(&path) }?));
            let tensors = tensors.with_context(|| format!("cannot read {} as safetensors", path.display()))?;
            Ok((path, tensors))
        };
        let files: Vec<(PathBuf, MmapedSafetensors)> = Self::files(dir)?.into_iter().map(map).collect::<Result<_>>()?;
        let mut places: HashMap<String, usize> = HashMap::new();
        for (file, (path, tensors)) in files.iter().enumerate() {
            for (name, _) in tensors.tensors() {
                if let Some(&other) = places.get(&name) {
                    bail!("tensor `{name}` is in both {} and {}", files[other].0.display(), path.display());
                }
                places.insert(name, file);
            }
        }
        let index = index(dir)?.map_or_else(HashMap::new, |index| index.weight_map);
        let head = spec.head.name.of("weight").hub;
        let head = (head.clone(), own_head(&places, head));
        let first = spec.name_of_block(0).under(&spec.blocks[0].linears[0].part).of("weight").hub;
        let base = spec.layers.hub.split_inclusive('.').next().unwrap_or_default();
        Ok(Self {
            prefix: (base.to_owned(), prefix(&places, base, &first[base.len()..], dir)?),
            files,
            places,
            embedding: spec.embedding.name.of("weight").hub,
            head,
            tied: spec.head.tied,
            quantization: spec.quantization.clone(),
            index,
            dir: dir.to_owned(),
        })
    }

    /// Whether the head is the embedding, and what is to be said about that. As in transformers 5: a config that ties
    /// them is wrong where the file has both and they differ.
    pub fn settle_ties(&mut self) -> Result<Option<String>> {
        let (embedding, head) = (self.own_name(&self.embedding), self.head.1.clone());
        if !self.tied || !self.places.contains_key(&embedding) || !self.places.contains_key(&head) {
            return Ok(None);
        }
        let (a, b) = (self.view(&embedding)?, self.view(&head)?);
        let equal = a.shape() == b.shape() && a.dtype() == b.dtype() && a.data() == b.data();
        [&a, &b].into_iter().for_each(|view| let_go(view.data()));
        if equal {
            return Ok(None);
        }
        self.tied = false;
        Ok(Some(format!(
            "config.json ties the head to the embedding, but the files have both and they differ (`{embedding}`, \
             `{head}`); they are taken as they are, as transformers does"
        )))
    }

    pub fn is_tied(&self) -> bool {
        self.tied
    }

    /// What the files call a tensor.
    fn own_name(&self, name: &str) -> String {
        match name.strip_prefix(&self.prefix.0) {
            Some(rest) => format!("{}{rest}", self.prefix.1),
            None if name == self.head.0 => self.head.1.clone(),
            None => name.to_owned(),
        }
    }

    /// The name under which a tensor is there: a tied embedding may be kept as the head.
    fn stored_name(&self, name: &str) -> Result<String> {
        let own = self.own_name(name);
        if self.places.contains_key(&own) {
            return Ok(own);
        }
        let (dir, head) = (self.dir.display(), &self.head.1);
        if name == self.embedding && self.tied && self.places.contains_key(head) {
            return Ok(head.clone());
        }
        if let Some(file) = self.index.get(&own) {
            bail!("tensor `{own}` of {dir} is missing: the index says that it is in {file}, which lacks it");
        }
        let there = match name {
            _ if name == self.head.0 => {
                "; config.json says that the head is not the embedding (`tie_word_embeddings`)".to_owned()
            }
            _ if name == self.embedding && self.places.contains_key(head) => {
                format!("; there is `{head}`, but config.json does not tie it to the embedding")
            }
            _ => String::new(),
        };
        bail!("tensor `{own}` of {dir} is missing{there}")
    }

    fn view(&self, stored: &str) -> Result<TensorView<'_>> {
        let file = *self.places.get(stored).with_context(|| format!("there is no tensor `{stored}`"))?;
        Ok(self.files[file].1.get(stored)?)
    }

    /// How the weights of a tensor are scaled; None where they are stored as they are.
    fn scales(&self, stored: &str, view: &TensorView) -> Result<Option<Scales>> {
        let eight_bits = matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::I8);
        let beside = |end: &str| format!("{}{end}", stored.strip_suffix("weight").unwrap_or(stored));
        let there: Vec<String> = ["weight_scale_inv", "weight_scale", "weight_g_idx"]
            .into_iter()
            .map(beside)
            .filter(|name| self.places.contains_key(name))
            .collect();
        let Some(Quantization { method, block }) = &self.quantization else {
            ensure!(there.is_empty(), "`{}` lies beside it, but config.json has no `quantization_config`", there[0]);
            return Ok(None);
        };
        if !eight_bits {
            ensure!(there.is_empty(), "it holds {:?}, and yet `{}` lies beside it", view.dtype(), there[0]);
            return Ok(None);
        }
        let [scale] = there.as_slice() else {
            bail!(
                "it holds {:?} ({method}), and {} lie beside it; expected one tensor of scales",
                view.dtype(),
                match there.len() {
                    0 => "no scales".to_owned(),
                    _ => there.join(", "),
                }
            )
        };
        let [rows, columns] = view.shape() else { bail!("its shape is {:?}; expected rows and columns", view.shape()) };
        let load = |name: &str| -> Result<Tensor> {
            let scales = self.view(name)?;
            let is_float = matches!(scales.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16);
            ensure!(
                is_float || name.ends_with("zero_point"),
                "`{name}` holds {:?}, which calipr does not read as scales",
                scales.dtype()
            );
            match scales.dtype() {
                Dtype::I8 => Ok(Tensor::from_vec(signed(scales.data()), scales.shape(), &Device::Cpu)?),
                _ => Ok(scales.load(&Device::Cpu)?),
            }
        };
        let scales = load(scale)?;
        if let ([down, across], Some(quantization)) = (scales.dims(), &self.quantization) {
            ensure!(
                !quantization.is_ambiguous(*rows, *down, true) && !quantization.is_ambiguous(*columns, *across, false),
                "its {down} × {across} scales divide {rows} × {columns} weights evenly, as transformers reads them on a CPU, \
                 and otherwise by blocks of the size that they were made with; which is meant, the files do not tell"
            );
        }
        let zero_points = beside("weight_zero_point");
        let zero_points = self.places.contains_key(&zero_points).then(|| load(&zero_points)).transpose()?;
        Scales::new((*rows, *columns), &scales, zero_points.as_ref(), *block).map(Some)
    }
}

/// Bytes as the signed numbers that they are.
fn signed(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&byte| f32::from(byte.cast_signed())).collect()
}

/// What stands in front of the names of blocks: `base`, as transformers has it, or else whatever stands in front of the
/// tensor `first` of the first block.
fn prefix(places: &HashMap<String, usize>, base: &str, first: &str, dir: &Path) -> Result<String> {
    let mut found: Vec<&str> = places.keys().filter_map(|name| name.strip_suffix(first)).collect();
    found.retain(|prefix| prefix.is_empty() || prefix.ends_with('.'));
    found.sort_unstable();
    if found.contains(&base) {
        return Ok(base.into());
    }
    // Beside a part that sees pictures, whose blocks may be called alike.
    let languages: Vec<&str> = found.iter().copied().filter(|prefix| prefix.contains("language_model.")).collect();
    if let [one] = languages.as_slice() {
        return Ok((*one).to_owned());
    }
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => {
            let mut names: Vec<&str> = places.keys().map(String::as_str).collect();
            names.sort_unstable();
            let some = names.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            bail!(
                "{} has no tensor `{base}{first}`, under whatever prefix; it has {} others{}{some}",
                dir.display(),
                names.len(),
                if names.is_empty() { "" } else { ", such as " }
            )
        }
        several => bail!(
            "{} has several models, under the prefixes {}; expected one",
            dir.display(),
            several.iter().map(|p| format!("\"{p}\"")).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What the files call the head: wrapped models have it under a prefix.
fn own_head(places: &HashMap<String, usize>, head: String) -> String {
    let ends = format!(".{head}");
    let mut wrapped = places.keys().filter(|name| name.ends_with(&ends));
    match (places.contains_key(&head), wrapped.next(), wrapped.next()) {
        (false, Some(one), None) => one.clone(),
        _ => head,
    }
}

impl Weights for SafetensorsDir {
    fn tensor(&self, name: &Name) -> Result<Tensor> {
        let stored = self.stored_name(&name.hub)?;
        let read = || {
            let view = self.view(&stored)?;
            let scales = self.scales(&stored, &view)?;
            let tensor = match scales {
                None => view.load(&Device::Cpu)?,
                Some(scales) => {
                    let values = match view.dtype() {
                        Dtype::I8 => signed(view.data()),
                        _ => view.load(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
                    };
                    scales.apply(values, (view.shape()[0], view.shape()[1]))?
                }
            };
            let_go(view.data());
            Ok(tensor)
        };
        guarded(read).with_context(|| format!("tensor `{stored}` of {}", self.dir.display()))
    }

    fn part(&self, name: &Name, index: usize, _: usize) -> Result<Tensor> {
        Ok(self.tensor(name)?.get(index)?)
    }

    fn in_order(&self, tensor: Tensor, _: &LinearSpec) -> Result<Tensor> {
        Ok(tensor)
    }

    fn shape(&self, name: &Name) -> Result<Vec<usize>> {
        let stored = self.stored_name(&name.hub)?;
        let read = || {
            let view = self.view(&stored)?;
            let is_scaled = self.scales(&stored, &view)?.is_some();
            let is_float = matches!(view.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3);
            ensure!(
                is_scaled || is_float,
                "it holds {:?}, which are no weights that calipr reads; expected F32, F16, BF16, F64 or F8_E4M3",
                view.dtype()
            );
            Ok(view.shape().to_vec())
        };
        guarded(read).with_context(|| format!("tensor `{stored}` of {}", self.dir.display()))
    }

    fn format(&self, name: &Name) -> Result<String> {
        Ok(format!("{:?}", self.view(&self.stored_name(&name.hub)?)?.dtype()))
    }

    fn stored(&self) -> Result<Vec<StoredTensor<'_>>> {
        let mut all = Vec::new();
        for (_, file) in &self.files {
            for (name, view) in file.tensors() {
                let form = Form::Numbers(view.dtype(), view.data());
                all.push(StoredTensor { name, shape: view.shape().to_vec(), form });
            }
        }
        Ok(all)
    }

    fn own_name_of(&self, name: &Name) -> Result<String> {
        self.stored_name(&name.hub)
    }

    fn left_over(&self, names: &[Name]) -> Vec<String> {
        // Tables and masks that older versions stored, and what belongs to quantised weights.
        let known = |name: &str| {
            let ends = [
                "rotary_emb.inv_freq",
                ".attn.bias",
                ".attention.bias",
                "masked_bias",
                "_scale",
                "_scale_inv",
                "_zero_point",
                "_shape",
                "_g_idx",
            ];
            ends.iter().any(|end| name.ends_with(end))
        };
        let taken: HashSet<String> = names.iter().map(|name| self.own_name(&name.hub)).collect();
        let is_head = |name: &String| self.tied && *name == self.head.1;
        let others = self.places.keys().filter(|name| !taken.contains(*name) && !is_head(name));
        let mut left: Vec<String> = others.filter(|name| !known(name)).cloned().collect();
        left.sort_unstable();
        left
    }
}
