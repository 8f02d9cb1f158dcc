//! Measuring how fast a machine is, before any model is there: the stages of a study on two blocks of random weights.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::super::bench;
use super::super::{Watch, work};
use super::Rates;
use crate::model::{Model, ModelFiles, Spec};
use crate::recipe::{Recipe, Unit};
use crate::tensors;

/// About how many tokens go through the blocks.
const TOKENS: usize = 2048;

/// Blocks of the stand-in: one whose outputs the next reads, and a last.
const BLOCKS: usize = 2;

/// The widest stand-in on the CPU, whose products are at full speed there, and on a GPU.
const WIDEST: (usize, usize) = (1024, 4096);

/// Its largest vocabulary.
const VOCABULARY: usize = 16_384;

/// What a processor does first it does slower.
const ROUNDS: usize = 2;

/// Measures what a recipe's methods and suites take here with a model of such a shape, of which nothing but the shape is
/// needed: its proportions, up to a width from which products are as fast as they get.
///
/// # Errors
/// Where there is no room for the stand-in, or the measurement was interrupted.
pub fn measured(recipe: &Recipe, spec: &Spec, device: &Device, watch: &dyn Watch) -> Result<Rates> {
    let folder = tempfile::tempdir().context("cannot make a folder for a model to measure with")?;
    let dtype = DType::from(recipe.model.dtype);
    let windows = recipe.calibration.values().map(|c| c.length);
    let suites = recipe.suite.values().filter_map(|suite| match suite.unit() {
        Unit::Windows(unit) => Some(unit.length),
        Unit::Rows(_) => None,
    });
    let length = windows.chain(suites).max().unwrap_or(512).min(TOKENS);
    let shape = Shape::of(spec, if device.is_cpu() { WIDEST.0 } else { WIDEST.1 });
    shape.write(folder.path(), length, dtype)?;
    let mut recipe = recipe.clone();
    recipe.grid.method.dedup();
    let mut rates = Rates::default();
    for _ in 0..ROUNDS {
        let model = Model::open(&ModelFiles::at(folder.path())?, dtype, device.clone())?;
        let mut round = Rates::default();
        for measured in bench::stages(&recipe, model, ((TOKENS / length).max(1), length), watch)? {
            round.add(measured.kind, measured.amount, measured.seconds);
        }
        rates = rates.or_faster(&round);
    }
    Ok(rates)
}

/// The shape of a stand-in, of the Llama family whatever it stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    hidden: usize,
    feed_forward: usize,
    /// Of query heads, and of keys and values.
    heads: (usize, usize),
    dim: usize,
    vocabulary: usize,
}

impl Shape {
    /// The proportions of a model, no wider than `widest`.
    fn of(spec: &Spec, widest: usize) -> Self {
        let dim = if spec.hidden >= 64 { 64 } else { 8 };
        let query = (spec.hidden.min(widest) / dim).max(1);
        let hidden = query * dim;
        let ratio = spec.blocks.first().map_or(1, |block| {
            let heads = block.attention.heads;
            heads.query / heads.key_value.max(1)
        });
        let most = query / ratio.max(1);
        let key_value = (1..=most).rev().find(|heads| query.is_multiple_of(*heads)).unwrap_or(1);
        let columns = work::columns(spec).max().unwrap_or(spec.hidden);
        let feed_forward = (columns as f64 * hidden as f64 / spec.hidden.max(1) as f64) as usize / dim * dim;
        let vocabulary = spec.vocabulary.clamp(2, VOCABULARY);
        Self { hidden, feed_forward: feed_forward.max(dim), heads: (query, key_value), dim, vocabulary }
    }

    fn config(&self, length: usize) -> Value {
        json!({
            "model_type": "llama", "hidden_size": self.hidden, "intermediate_size": self.feed_forward,
            "num_hidden_layers": BLOCKS, "num_attention_heads": self.heads.0, "num_key_value_heads": self.heads.1,
            "head_dim": self.dim, "vocab_size": self.vocabulary, "max_position_embeddings": length, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        })
    }

    /// Writes its files.
    fn write(&self, dir: &Path, length: usize, dtype: DType) -> Result<()> {
        let (h, f, kv) = (self.hidden, self.feed_forward, self.heads.1 * self.dim);
        let mut shapes =
            vec![("model.embed_tokens".to_owned(), vec![self.vocabulary, h]), ("model.norm".into(), vec![h])];
        for block in 0..BLOCKS {
            let parts = [
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("mlp.gate_proj", vec![f, h]),
                ("mlp.up_proj", vec![f, h]),
                ("mlp.down_proj", vec![h, f]),
            ];
            shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{block}.{part}"), shape)));
        }
        // A prime number of values, over and over: no two rows are the same.
        let values = bench::noise(1_000_003, 0);
        let mut tensors = HashMap::new();
        for (name, shape) in shapes {
            let count = shape.iter().product();
            let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
            let own: Vec<f32> =
                values.iter().cycle().skip(tensors.len() * 7919).take(count).map(|v| centre + v).collect();
            let tensor = Tensor::from_vec(own, shape, &Device::Cpu)?;
            tensors.insert(format!("{name}.weight"), tensors::to_dtype(&tensor, dtype)?);
        }
        candle_core::safetensors::save(&tensors, dir.join("model.safetensors"))?;
        std::fs::write(dir.join("config.json"), self.config(length).to_string())
            .context("cannot write the model's config")
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Unseen;
    use super::super::{Kind, Work};
    use super::*;
    use crate::prune::MethodName;

    fn spec(hidden: usize, feed_forward: usize, heads: (usize, usize)) -> Spec {
        let config = json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": feed_forward, "num_hidden_layers": 3,
            "num_attention_heads": heads.0, "num_key_value_heads": heads.1, "vocab_size": 49152,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
        });
        Spec::from_hub(&config).unwrap()
    }

    #[test]
    fn a_stand_in_has_a_models_proportions_up_to_a_width() {
        let of = |spec: &Spec| Shape::of(spec, 1024);
        let smol = Shape { hidden: 576, feed_forward: 1536, heads: (9, 3), dim: 64, vocabulary: VOCABULARY };
        assert_eq!(of(&spec(576, 1536, (9, 3))), smol);
        let seven = Shape { hidden: 1024, feed_forward: 2752, heads: (16, 16), dim: 64, vocabulary: VOCABULARY };
        assert_eq!(of(&spec(4096, 11008, (32, 32))), seven);
        assert_eq!((of(&spec(32, 48, (4, 2))).heads, of(&spec(32, 48, (4, 2))).feed_forward), ((4, 2), 48));
    }

    #[test]
    fn all_that_a_recipe_does_gets_a_rate() {
        let recipe: Recipe = toml::from_str(
            "name = \"r\"\nmodel.source = \"path:m\"\ncalibration.c4 = { dataset = \"c4\", length = 64 }\n\
             grid = { method = [\"magnitude\", \"wanda\", \"sparsegpt\"], sparsity = [0.5] }\n\
             suite.text = { dataset = \"c4\", length = 64 }\n",
        )
        .unwrap();
        let rates = measured(&recipe, &spec(32, 48, (4, 2)), &Device::Cpu, &Unseen).unwrap();
        let work = |kind: Kind| match kind {
            Kind::Read => Work { reading: 1.0, ..Work::default() },
            Kind::Calibrate(_) => Work { calibrating: 1.0, ..Work::default() },
            Kind::Prune(_) => Work { solving: 1.0, ..Work::default() },
            Kind::Pass => Work { passing: 1.0, ..Work::default() },
            Kind::Score => Work { scoring: 1.0, ..Work::default() },
            Kind::Generate => Work { generating: 1.0, ..Work::default() },
            Kind::Judge => Work::default(),
        };
        for method in [MethodName::Wanda, MethodName::SparseGpt] {
            for kind in [Kind::Calibrate(method), Kind::Prune(method), Kind::Pass, Kind::Score, Kind::Generate] {
                assert!(rates.seconds(work(kind), Some(method)).is_some_and(|seconds| seconds > 0.0), "{kind}");
            }
        }
        assert!(
            rates
                .seconds(Work { reading: 1.0, selecting: 1.0, ..Work::default() }, Some(MethodName::Magnitude))
                .is_some()
        );
    }
}
