//! Rotary position embedding: its frequencies, and the table of angles.

use std::f32::consts::PI;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use serde::Serialize;

/// A rotary embedding of positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RopeSpec {
    pub theta: f32,
    /// Values of a head that are turned: the first ones.
    pub dim: usize,
    /// Neighbours are turned together, (x₀, x₁), (x₂, x₃) …, instead of the halves, (x₀, x_{dim/2}) …
    pub interleaved: bool,
    pub scaling: RopeScaling,
}

impl RopeSpec {
    /// The dim / 2 angles per position.
    pub fn frequencies(&self) -> Vec<f32> {
        self.scaling.frequencies(self.theta, self.dim)
    }
}

/// How the rotary frequencies differ from θ^(−2i/d), each as transformers computes it (its `modeling_rope_utils`).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    /// Every frequency divided by a factor.
    Linear(f32),
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): a ramp over dimensions, and attention made sharper.
    Yarn(Yarn),
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): each frequency divided by its short factor in windows up to the
    /// original context, by its long factor in longer ones.
    LongRope {
        short_factors: Vec<f32>,
        long_factors: Vec<f32>,
        original_context: usize,
        attention_factor: f32,
        /// A text that is written beyond the original context has all its keys turned anew, by the long factors; otherwise
        /// those that are there stay as they are.
        turns_anew: bool,
    },
    /// Each frequency divided by its own factor (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// YaRN's parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Yarn {
    pub factor: f64,
    /// Multiplies cos and sin.
    pub attention_factor: f32,
    pub original_context: f64,
    /// Dimensions that turn more often than this in the original context keep their frequency.
    pub beta_fast: f64,
    /// Those that turn less often have it divided by the factor.
    pub beta_slow: f64,
    /// The ramp begins and ends at whole dimensions.
    pub truncate: bool,
}

impl Yarn {
    /// What cos and sin are multiplied by where a file does not say it: 0.1 · mscale · ln(factor) + 1, of which two may
    /// stand above each other (`mscale`, `mscale_all_dim`).
    pub fn sharpness(factor: f64, scales: Option<(f64, f64)>) -> f64 {
        let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        scales.map_or_else(|| of(1.0), |(mscale, all_dim)| of(mscale) / of(all_dim))
    }

    /// The dimensions between which the ramp goes.
    fn ramp(&self, theta: f32, head_dim: usize) -> (f64, f64) {
        let d = head_dim as f64;
        let at = |turns: f64| {
            d * (self.original_context / (turns * std::f64::consts::TAU)).ln() / (2.0 * f64::from(theta).ln())
        };
        let (mut low, mut high) = (at(self.beta_fast), at(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(d - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }
}

impl RopeScaling {
    fn frequencies(&self, theta: f32, head_dim: usize) -> Vec<f32> {
        let base = (0..head_dim / 2).map(|i| theta.powf((2 * i) as f32 / head_dim as f32).recip());
        match self {
            Self::None => base.collect(),
            Self::Linear(factor) => base.map(|f| f / factor).collect(),
            Self::Factors(factors) | Self::LongRope { short_factors: factors, .. } => {
                base.zip(factors).map(|(f, k)| f / k).collect()
            }
            Self::Yarn(yarn) => {
                let (low, high) = yarn.ramp(theta, head_dim);
                let (low, width) = (low as f32, (high - low) as f32);
                let slowed = |(i, f): (usize, f32)| {
                    let kept = 1.0 - ((i as f32 - low) / width).clamp(0.0, 1.0);
                    f / yarn.factor as f32 * (1.0 - kept) + f * kept
                };
                base.enumerate().map(slowed).collect()
            }
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => base
                .map(|f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength < original_context / high_freq_factor {
                        f
                    } else if wavelength > original_context / low_freq_factor {
                        f / factor
                    } else {
                        let smooth =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }

    /// What cos and sin are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

/// cos and sin of position × frequency, (positions × dim / 2) each.
#[derive(Debug, Clone)]
pub struct Rope {
    pub cos: Tensor,
    pub sin: Tensor,
    /// As in [`RopeSpec`].
    pub interleaved: bool,
    /// The same numbers, for loops on the host.
    values: Arc<RopeValues>,
    /// The table of longer windows, where it is another, and the longest that has this one.
    beyond: Option<(usize, Arc<Self>)>,
    /// As in [`RopeScaling::LongRope`].
    turns_anew: bool,
}

impl Rope {
    /// The table for positions `0 .. positions`, computed in f32 as transformers does.
    pub fn new(spec: &RopeSpec, positions: usize, device: &Device) -> Result<Self> {
        let mut rope = Self::of_frequencies(spec, &spec.frequencies(), positions, device)?;
        if let RopeScaling::LongRope { long_factors, original_context, turns_anew, .. } = &spec.scaling
            && positions > *original_context
        {
            rope.turns_anew = *turns_anew;
            let long = RopeScaling::Factors(long_factors.clone()).frequencies(spec.theta, spec.dim);
            let long = Self::of_frequencies(spec, &long, positions, device)?;
            rope.beyond = Some((*original_context, Arc::new(long)));
        }
        Ok(rope)
    }

    fn of_frequencies(spec: &RopeSpec, frequencies: &[f32], positions: usize, device: &Device) -> Result<Self> {
        let scale = spec.scaling.attention_factor();
        let angles: Vec<f32> = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let shape = (positions, frequencies.len());
        let table = |f: fn(f32) -> f32| {
            Tensor::from_vec(angles.iter().map(|&a| f(a) * scale).collect::<Vec<f32>>(), shape, device)
        };
        Ok(Self { interleaved: spec.interleaved, ..Self::of(table(f32::cos)?, table(f32::sin)?)? })
    }

    /// Of cos and sin, (positions × dim / 2) each.
    pub fn of(cos: Tensor, sin: Tensor) -> Result<Self> {
        let values = RopeValues { cos: cos.flatten_all()?.to_vec1()?, sin: sin.flatten_all()?.to_vec1()? };
        Ok(Self { cos, sin, interleaved: false, values: Arc::new(values), beyond: None, turns_anew: false })
    }

    /// The table that counts in a window of so many tokens.
    pub fn in_window(&self, tokens: usize) -> &Self {
        match &self.beyond {
            Some((longest, beyond)) if tokens > *longest => beyond,
            _ => self,
        }
    }

    /// The longest window that has the table of the shortest.
    pub fn alike_up_to(&self) -> usize {
        self.beyond.as_ref().map_or(usize::MAX, |(longest, _)| *longest)
    }

    /// Values of a head that are turned.
    pub fn dim(&self) -> usize {
        2 * self.cos.dims()[1]
    }

    /// The numbers, for loops on the host.
    pub fn values(&self) -> &RopeValues {
        &self.values
    }
}

/// The rotary embeddings of a model, for positions up to a number.
#[derive(Debug, Clone)]
pub struct Ropes {
    tables: Vec<Rope>,
    positions: usize,
}

impl Ropes {
    /// The tables for positions `0 .. positions`.
    pub fn new(specs: &[RopeSpec], positions: usize, device: &Device) -> Result<Self> {
        let tables = specs.iter().map(|spec| Rope::new(spec, positions, device)).collect::<Result<_>>()?;
        Ok(Self { tables, positions })
    }

    /// The one of an index that a block names.
    pub fn get(&self, index: usize) -> &Rope {
        &self.tables[index]
    }

    /// Positions that there are tables for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The longest window all of whose tables are those of the shortest.
    pub fn alike_up_to(&self) -> usize {
        self.tables.iter().map(Rope::alike_up_to).min().unwrap_or(usize::MAX)
    }

    /// How long a text may become before all its keys are turned anew; None where they never are.
    pub fn turned_anew_beyond(&self) -> Option<usize> {
        self.tables.iter().filter(|table| table.turns_anew).map(Rope::alike_up_to).min()
    }
}

/// The table's numbers, row-major.
#[derive(Debug)]
pub struct RopeValues {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}
