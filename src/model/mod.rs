//! A language model: what it computes, its weights, decoder block, head and tokenizer.

mod arch;
mod attention;
mod block;
pub mod device;
mod embedding;
mod generate;
mod generation_config;
mod head;
mod json_file;
mod linear;
mod parts;
mod rope;
mod sampling;
mod save;
mod spec;
mod stored;
mod tokenizer;
mod weights;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

pub use arch::models;
pub use attention::Span;
#[cfg(test)]
pub use attention::{Attention, KvCache, Precision};
pub use block::{Block, BlockNorms, Flow};
pub use embedding::{Embedding, positions};
pub use generate::{Begun, Continuing, Generation, Generator, Written};
pub use generation_config::{GenerationConfig, Settled};
pub use head::Head;
pub use linear::Linear;
use parts::Experts;
pub use parts::Norm;
#[cfg(test)]
pub use rope::Rope;
pub use rope::Ropes;
pub use sampling::{Sampling, first_of_greatest};
pub use save::Saving;
#[cfg(test)]
pub use spec::Heads;
use spec::{AttentionSpec, FeedForwardSpec, Name, NormSpec, Over, PositionsSpec};
pub use spec::{BlockSpec, LinearSpec, SiteSpec, Spec};
pub use stored::Stored;
pub use tokenizer::{Conversation, Tokenizer};
use weights::{GgufFile, SafetensorsDir, Weights};

use crate::digest::Digest;
use crate::tensors;

/// A model whose weights stay in their files until a block is asked for.
pub struct Model {
    pub spec: Spec,
    /// The precision that weights are held in: loaded weights are rounded to it, and so are pruned ones.
    pub dtype: DType,
    pub device: Device,
    weights: Box<dyn Weights>,
    path: PathBuf,
    /// Blocks that stay on the device once they were read; None where they are read again each time.
    kept: Option<Vec<OnceLock<Block>>>,
}

/// The files of a model: a GGUF file, or a directory of safetensors.
pub enum ModelFiles {
    Gguf(PathBuf),
    Hub(PathBuf),
}

impl ModelFiles {
    /// What lies at `path`.
    ///
    /// # Errors
    /// Where there is nothing, or neither a GGUF file nor a directory with a `config.json`.
    pub fn at(path: &Path) -> Result<Self> {
        if path.is_dir() {
            if path.join("config.json").is_file() {
                return Ok(Self::Hub(path.to_owned()));
            }
            bail!("{} has no config.json; expected a Hugging Face model directory or a .gguf file", path.display());
        }
        ensure!(path.exists(), "{} does not exist", path.display());
        ensure!(path.is_file(), "{} is neither a file nor a directory", path.display());
        match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Ok(Self::Gguf(path.to_owned())),
            Some("safetensors") => {
                let dir = path.parent().unwrap_or(Path::new("."));
                ensure!(
                    dir.join("config.json").is_file(),
                    "{} has no config.json beside it; name the model's directory",
                    path.display()
                );
                let files = SafetensorsDir::files(dir)?;
                ensure!(
                    files.iter().any(|file| file.file_name() == path.file_name()),
                    "{} is not what counts in its folder, which is {}; give it a folder of its own",
                    path.display(),
                    files[0].display()
                );
                Ok(Self::Hub(dir.to_owned()))
            }
            _ => bail!("{} is neither a .gguf file nor a model directory", path.display()),
        }
    }

    /// The GGUF file or the directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(path) | Self::Hub(path) => path,
        }
    }

    /// Every file that the model depends on, for its digest.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Gguf(path) => Ok(GgufFile::open(path)?.paths()),
            Self::Hub(dir) => {
                let mut files = SafetensorsDir::files(dir)?;
                let beside = ["config.json"].iter().chain(&tokenizer::FILES);
                files.extend(beside.map(|name| dir.join(name)).filter(|path| path.is_file()));
                files.extend(tokenizer::further_files(dir)?);
                Ok(files)
            }
        }
    }

    /// What the model computes, which the files' headers are compared with: every tensor is there, and as it should be.
    ///
    /// # Errors
    /// Where the files are not those of a model that calipr runs.
    pub fn spec(&self) -> Result<Spec> {
        Ok(self.open()?.0)
    }

    /// What a model's folder says that it computes, with or without its weights.
    ///
    /// # Errors
    /// Where that is nothing that calipr runs.
    pub fn outline(&self) -> Result<Spec> {
        match self {
            Self::Gguf(_) => self.spec(),
            Self::Hub(dir) => hub_spec(dir),
        }
    }

    /// What the model computes, and the weights behind it.
    fn open(&self) -> Result<(Spec, Box<dyn Weights>)> {
        let (spec, weights): (Spec, Box<dyn Weights>) = match self {
            Self::Gguf(path) => {
                let mut file = GgufFile::open(path)?;
                let spec = file.spec()?;
                check_headers(&spec, &file)?;
                let left = file.left_over(&names(&spec));
                // As in llama.cpp: a tensor that the model does not take makes it another model.
                ensure!(
                    left.is_empty(),
                    "{} has {} tensors that architecture \"{}\" does not take: {}",
                    path.display(),
                    left.len(),
                    spec.architecture,
                    some_of(&left)
                );
                (spec, Box::new(file))
            }
            Self::Hub(dir) => {
                let mut spec = hub_spec(dir)?;
                let mut weights = SafetensorsDir::open(dir, &spec)?;
                spec.remarks.extend(weights.settle_ties()?);
                spec.head.tied = weights.is_tied();
                if dir.join("adapter_config.json").is_file() {
                    let said = "an adapter lies beside it (adapter_config.json), which is not applied; merge it into the \
                                model, and save that, where it is meant";
                    spec.remarks.push(said.into());
                }
                let left = weights.left_over(&names(&spec));
                if !left.is_empty() {
                    spec.remarks.push(format!(
                        "{} tensors take no part, as in transformers: {}",
                        left.len(),
                        some_of(&left)
                    ));
                }
                check_headers(&spec, &weights)?;
                (spec, Box::new(weights))
            }
        };
        Ok((spec, weights))
    }

    /// An error where the model's tokenizer cannot be read, as far as a glance at its files tells.
    pub fn check_tokenizer(&self) -> Result<()> {
        match self {
            Self::Gguf(path) => tokenizer::check_gguf(&GgufFile::open(path)?)
                .with_context(|| format!("the tokenizer in {}", path.display())),
            Self::Hub(dir) => tokenizer::check_dir(dir),
        }
    }

    /// An error where the model has no chat template, or one that cannot be rendered as transformers renders it.
    pub fn check_chat_template(&self) -> Result<()> {
        let templates = match self {
            Self::Gguf(path) => tokenizer::templates_of_gguf(&GgufFile::open(path)?),
            Self::Hub(dir) => tokenizer::templates_of_dir(dir)?,
        };
        templates.check()
    }

    /// How the files hold the weights.
    pub fn stored(&self) -> Result<Stored> {
        let (spec, weights) = self.open()?;
        let mut stored = Stored::default();
        for (name, shape) in spec.tensors() {
            stored.add(weights.format(&name)?, shape.iter().map(|&n| n as u64).product());
        }
        Ok(stored)
    }

    /// What tells the model's tokenizer from others, its chat templates apart.
    pub fn tokenizer_digest(&self) -> Result<Digest> {
        match self {
            Self::Gguf(path) => Ok(tokenizer::digest_of_gguf(&GgufFile::open(path)?)),
            Self::Hub(dir) => tokenizer::digest_of_dir(dir),
        }
    }

    /// The licence that the model's files name, as the Hub spells it (`apache-2.0`): in a GGUF file's metadata, or in front of a
    /// folder's README.md.
    pub fn licence(&self) -> Option<String> {
        match self {
            Self::Gguf(path) => GgufFile::open(path).ok()?.string("general.license").map(str::to_owned),
            Self::Hub(dir) => {
                let readme = std::fs::read_to_string(dir.join("README.md")).ok()?;
                let front = readme.strip_prefix("---")?.split("\n---").next()?.to_owned();
                let named = front.lines().find_map(|line| line.strip_prefix("license:"))?;
                Some(named.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
            }
        }
    }

    /// How the model's folder wants answers to be generated; a GGUF file does not say.
    pub fn generation(&self) -> Result<GenerationConfig> {
        match self {
            Self::Gguf(_) => Ok(GenerationConfig::default()),
            Self::Hub(dir) => GenerationConfig::of(dir),
        }
    }

    /// The model's tokenizer and chat template.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Self::Gguf(path) => Tokenizer::from_gguf(&GgufFile::open(path)?)
                .with_context(|| format!("the tokenizer in {}", path.display())),
            Self::Hub(dir) => Tokenizer::from_dir(dir),
        }
    }
}

fn hub_spec(dir: &Path) -> Result<Spec> {
    let path = dir.join("config.json");
    let config = json_file::parse(&path, &json_file::text(&path)?)?;
    Spec::from_hub(&config).with_context(|| format!("in {}", path.display()))
}

fn names(spec: &Spec) -> Vec<Name> {
    spec.tensors().into_iter().map(|(name, _)| name).collect()
}

/// The first of a list of names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// An error where a tensor is missing, is no weights, or has another shape than the config calls for.
fn check_headers(spec: &Spec, weights: &dyn Weights) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, expected) in spec.tensors() {
        match weights.shape(&name) {
            Err(error) => wrong.push(format!("{error:#}")),
            Ok(shape) if shape != expected => wrong.push(format!(
                "tensor `{name}` has the shape {shape:?}, but the model's config calls for {expected:?}"
            )),
            Ok(_) => {}
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => bail!("{one}"),
        [first, rest @ ..] => bail!("{first} (and {} more tensors are missing or wrong)", rest.len()),
    }
}

impl Model {
    /// Opens the files; weights are read when they are asked for.
    pub fn open(files: &ModelFiles, dtype: DType, device: Device) -> Result<Self> {
        let (spec, weights) = files.open()?;
        let (ModelFiles::Gguf(path) | ModelFiles::Hub(path)) = files;
        // The rest is for activations and statistics. On the host the system keeps what it has read of files.
        let bytes = (spec.linear_parameters() * dtype.size_in_bytes()) as u64;
        let kept = device::has_room(&device, bytes).then(|| spec.blocks.iter().map(|_| OnceLock::new()).collect());
        Ok(Self { spec, dtype, device, weights, path: path.clone(), kept })
    }

    /// What products are computed in.
    pub fn computed_in(&self) -> DType {
        match self.dtype {
            // On the CPU f16 is widened.
            DType::F16 if self.device.is_cpu() => DType::F32,
            dtype => dtype,
        }
    }

    /// Rounds a weight to the precision that the model is held in. On the CPU only matrices in bf16 are computed
    /// with as they are; all else is widened again, which loses nothing.
    pub fn round(&self, weight: &Tensor) -> candle_core::Result<Tensor> {
        let rounded = tensors::to_dtype(weight, self.dtype)?.to_device(&self.device)?;
        let stays = !self.device.is_cpu() || self.dtype == DType::BF16 && rounded.rank() == 2;
        if stays { Ok(rounded) } else { tensors::to_dtype(&rounded, DType::F32) }
    }

    fn tensor(&self, name: &Name, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        let tensor = self.weights.rounded(name, self.dtype)?;
        let shape = shape.into();
        ensure!(
            tensor.shape() == &shape,
            "tensor `{name}` of {} has shape {:?}, but the model's config calls for {shape:?}",
            self.path.display(),
            tensor.shape()
        );
        Ok(self.round(&tensor)?)
    }

    /// Reads block `index`, or takes it from what stayed on the device.
    ///
    /// # Errors
    /// Where a tensor is missing, damaged, or of another shape than the config says.
    pub fn block(&self, index: usize) -> Result<Block> {
        let Some(kept) = &self.kept else { return self.read_block(index) };
        if let Some(block) = kept[index].get() {
            return Ok(block.clone());
        }
        let block = self.read_block(index)?;
        Ok(kept[index].get_or_init(|| block).clone())
    }

    fn read_block(&self, index: usize) -> Result<Block> {
        let (spec, own) = (self.spec.blocks[index].clone(), self.spec.name_of_block(index));
        let read = |linear: &LinearSpec| -> Result<Linear> {
            let name = own.under(&linear.part);
            let stored = || self.tensor(&name.of("weight"), linear.stored_shape());
            let weight = match linear.stored {
                spec::Stored::Transposed => stored()?.t()?.contiguous()?,
                spec::Stored::Expert { index, count } => {
                    self.round(&self.weights.part(&name.of("weight"), index, count)?)?
                }
                _ => self.weights.in_order(stored()?, linear)?,
            };
            let bias = linear.bias.then(|| self.tensor(&name.of("bias"), linear.rows)).transpose()?;
            let bias = bias.map(|bias| self.weights.in_order(bias, linear)).transpose()?;
            Ok(Linear::new(weight, bias))
        };
        let linears = spec.linears.par_iter().map(read).collect::<Result<_>>()?;
        let AttentionSpec { heads, q_norm, k_norm, .. } = &spec.attention;
        let around = |norm: &Option<NormSpec>| self.norm(&own, norm, self.spec.hidden);
        let of_heads = |norm: &Option<NormSpec>, count: usize| {
            let width = |norm: &NormSpec| if norm.over == Over::Head { heads.dim } else { count * heads.dim };
            self.norm(&own, norm, norm.as_ref().map_or(0, width))
        };
        let norms = BlockNorms {
            before_attention: around(&spec.norms.before_attention)?,
            after_attention: around(&spec.norms.after_attention)?,
            before_feed_forward: around(&spec.norms.before_feed_forward)?,
            after_feed_forward: around(&spec.norms.after_feed_forward)?,
            q: of_heads(q_norm, heads.query)?,
            k: of_heads(k_norm, heads.key_value)?,
        };
        let experts = match &spec.feed_forward {
            FeedForwardSpec::One(_) => None,
            FeedForwardSpec::Experts(experts) => {
                let hidden = self.spec.hidden;
                let router = |name: &Name, shape: Vec<usize>| -> Result<Linear> {
                    let weight = self.tensor(&own.under(name).of("weight"), shape)?;
                    // In the precision of other matrices, whatever its shape in the files.
                    let weight = self.round(&weight.reshape(((), hidden))?)?;
                    Ok(Linear::new(weight, None))
                };
                let shared = experts.shared.as_ref().and_then(|shared| shared.router.as_ref());
                Some(Experts {
                    router: router(&experts.router, vec![experts.count, hidden])?,
                    shared: shared.map(|name| router(name, experts.shared_router_shape(hidden))).transpose()?,
                })
            }
        };
        Ok(Block { linears, norms, experts, spec })
    }

    /// A norm of `width` values whose name stands under `outer`; None of none.
    fn norm(&self, outer: &Name, spec: &Option<NormSpec>, width: usize) -> Result<Option<Norm>> {
        let Some(spec) = spec else { return Ok(None) };
        let tensors = spec.tensors(outer, width);
        let of_kind = |kind: &str| -> Result<Option<Tensor>> {
            let own = tensors.iter().filter(|(name, _)| name.hub.ends_with(kind));
            let own: Vec<Tensor> = own.map(|(name, shape)| self.tensor(name, shape.clone())).collect::<Result<_>>()?;
            Ok(match own.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                several => Some(Tensor::stack(several, 0)?),
            })
        };
        let (weight, bias) = (of_kind(".weight")?, of_kind(".bias")?);
        Ok(Some(Norm { kind: spec.kind, epsilon: spec.epsilon as f32, weight, bias }))
    }

    /// An error where a weight is NaN or infinite, or becomes so in the precision that the model is held in.
    /// Reads all of the model once.
    pub fn check_finite(&self) -> Result<()> {
        // Some rows at a time: the largest are gigabytes.
        let is_finite = |piece: &Tensor| {
            tensors::finite(piece, "")?;
            tensors::finite(&tensors::to_dtype(piece, self.dtype)?, "").map(drop)
        };
        self.spec.tensors().into_par_iter().try_for_each(|(name, _)| {
            if self.weights.pieces(&name, &is_finite).is_ok() {
                return Ok(());
            }
            // What is wrong is said of all of it.
            let stored = self.weights.tensor(&name)?;
            let described = |what: &str| format!("tensor `{name}` of {}{what}", self.path.display());
            tensors::finite(&stored, &described(""))?;
            // Only what is rounded to less can go beyond.
            if stored.dtype() == self.dtype || self.dtype == DType::F32 && stored.dtype() != DType::F64 {
                return Ok(());
            }
            let rounded = tensors::to_dtype(&stored, self.dtype)?;
            tensors::finite(&rounded, &described(&format!(" in {}", self.dtype.as_str())))
                .context("the model holds larger values than its precision; dtype = \"bf16\" and \"f32\" hold them")?;
            Ok(())
        })
    }

    /// The embedding, with what is done to its rows.
    pub fn embedding(&self) -> Result<Embedding> {
        let spec = &self.spec.embedding;
        let (hidden, width) = (self.spec.hidden, spec.width);
        let matrix = |name: &Name, shape: (usize, usize)| self.tensor(&name.of("weight"), shape);
        let positions = |positions: &PositionsSpec| {
            Ok::<_, anyhow::Error>((matrix(&positions.name, (positions.rows, hidden))?, positions.first))
        };
        Ok(Embedding {
            table: matrix(&spec.name, (self.spec.vocabulary, width))?,
            scale: spec.scale,
            norm: self.norm(&Name::default(), &spec.norm, width)?,
            projection: self.projection(&spec.projection, (hidden, width))?,
            positions: spec.positions.as_ref().map(positions).transpose()?,
        })
    }

    fn projection(&self, name: &Option<Name>, shape: (usize, usize)) -> Result<Option<Linear>> {
        let linear = |name: &Name| Ok(Linear::new(self.tensor(&name.of("weight"), shape)?, None));
        name.as_ref().map(linear).transpose()
    }

    /// The language-model head, which may be the embedding, and what is in front of it.
    pub fn head(&self, embedding: &Embedding) -> Result<Head> {
        self.head_with(|| Ok(embedding.table.clone()))
    }

    /// The same, for whoever has the embedding's `table` only where it is needed.
    ///
    /// # Errors
    /// Where a tensor cannot be read, or `table` fails.
    pub fn head_with(&self, table: impl FnOnce() -> Result<Tensor>) -> Result<Head> {
        let (spec, vocabulary) = (&self.spec.head, self.spec.vocabulary);
        let (hidden, width) = (self.spec.hidden, self.spec.embedding.width);
        let weight = match spec.tied {
            true => table()?,
            false => self.tensor(&spec.name.of("weight"), (vocabulary, width))?,
        };
        Ok(Head {
            norm: self.norm(&Name::default(), &spec.norm, hidden)?,
            projection: self.projection(&spec.projection, (width, hidden))?,
            linear: Linear::new(weight, None),
            bias: spec.bias.then(|| self.tensor(&spec.name.of("bias"), vocabulary)).transpose()?,
            scale: spec.scale,
            cap: spec.cap,
        })
    }

    /// The rotary tables for windows of up to `positions` tokens.
    pub fn ropes(&self, positions: usize) -> Result<Ropes> {
        Ok(Ropes::new(&self.spec.ropes, positions, &self.device)?)
    }

    /// Logits (tokens × vocabulary) of windows that lie one after the other in `ids`, all at once:
    /// for short inputs. Studies walk the blocks instead.
    pub fn logits(&self, ids: &[u32], windows: &[Range<usize>]) -> Result<Tensor> {
        let ropes = self.ropes(windows.iter().map(|w| w.len()).max().unwrap_or(0))?;
        let spans: Vec<Span> = windows.iter().cloned().map(Span::window).collect();
        let embedding = self.embedding()?;
        let mut hidden = embedding.embed(ids, positions(&spans))?;
        for index in 0..self.spec.blocks.len() {
            hidden = self.block(index)?.forward(hidden, &spans, &ropes)?;
        }
        Ok(self.head(&embedding)?.logits(&hidden)?)
    }
}
