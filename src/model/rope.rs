//! Rotary position embedding: its frequencies, and the table of angles.

use std::f32::consts::PI;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use serde::Serialize;

/// A rotary embedding of positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RopeSpec {
    pub theta: f32,
    /// Values of a head that are turned.
    pub dim: usize,
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
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753), as it is within the original context: each frequency divided by
    /// its short factor.
    LongRope {
        short_factors: Vec<f32>,
        attention_factor: f32,
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

/// cos and sin of position × frequency, (positions × head_dim / 2) each.
#[derive(Debug, Clone)]
pub struct Rope {
    pub cos: Tensor,
    pub sin: Tensor,
    /// The same numbers, for loops on the host.
    values: Arc<RopeValues>,
}

impl Rope {
    /// The table for positions `0 .. positions`, computed in f32 as transformers does.
    pub fn new(spec: &RopeSpec, positions: usize, device: &Device) -> Result<Self> {
        let frequencies = spec.frequencies();
        let scale = spec.scaling.attention_factor();
        let angles: Vec<f32> = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let shape = (positions, frequencies.len());
        let table = |f: fn(f32) -> f32| {
            Tensor::from_vec(angles.iter().map(|&a| f(a) * scale).collect::<Vec<f32>>(), shape, device)
        };
        Self::of(table(f32::cos)?, table(f32::sin)?)
    }

    /// Of cos and sin, (positions × head_dim / 2) each.
    pub fn of(cos: Tensor, sin: Tensor) -> Result<Self> {
        let values = RopeValues { cos: cos.flatten_all()?.to_vec1()?, sin: sin.flatten_all()?.to_vec1()? };
        Ok(Self { cos, sin, values: Arc::new(values) })
    }

    /// An error where the table has fewer than `positions`.
    pub fn check(&self, positions: usize) -> Result<()> {
        match positions > self.cos.dim(0)? {
            true => bail!("a window of {positions} tokens is longer than the rotary table"),
            false => Ok(()),
        }
    }

    /// The numbers, for loops on the host.
    pub fn values(&self) -> Arc<RopeValues> {
        self.values.clone()
    }
}

/// The table's numbers, row-major.
#[derive(Debug)]
pub struct RopeValues {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}
