//! Rotary frequencies from a configuration: every scaling rule, and nothing else.
//! Formulas: transformers `modeling_rope_utils.py`; YaRN: arXiv 2309.00071; Llama 3: its reference implementation.
use std::f64::consts::PI;

use crate::config::{Config, RopeScaling, Rotation};

/// Frequencies of a model's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Angle a position, one a pair of dimensions: `rotary_dim / 2` values.
    pub inv_freq: Vec<f32>,
    /// Factor on cos and sin.
    pub attention_factor: f32,
    /// Set when frequencies depend on the position.
    pub dynamic: Option<Dynamic>,
    /// Whether neighbouring dimensions rotate together, not dimension i of each half.
    pub interleaved: bool,
}

/// Dynamic NTK: position p beyond `original` uses the frequencies of a sequence of p + 1 tokens.
/// So a key's rotation never changes once cached, and chunking cannot change it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dynamic {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretch.
    pub factor: f64,
    /// Positions of the original training.
    pub original: usize,
    /// Rotating dimensions.
    pub dim: usize,
}

impl Dynamic {
    /// Frequencies for `position`, `dim / 2` values.
    pub fn inv_freq(&self, position: usize) -> Vec<f32> {
        let len = (position + 1).max(self.original) as f64;
        let grown = self.factor * len / self.original as f64 - (self.factor - 1.0);
        let theta = self.theta * grown.powf(self.dim as f64 / (self.dim as f64 - 2.0));
        plain(theta, self.dim)
            .into_iter()
            .map(|f| f as f32)
            .collect()
    }
}

fn plain(theta: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2)
        .map(|i| theta.powf(-((2 * i) as f64) / dim as f64))
        .collect()
}

fn llama3(freq: f64, factor: f64, low: f64, high: f64, original: usize) -> f64 {
    let original = original as f64;
    let wave = 2.0 * PI / freq;
    if wave > original / low {
        freq / factor
    } else if wave < original / high {
        freq
    } else {
        let smooth = (original / wave - low) / (high - low);
        (1.0 - smooth) * freq / factor + smooth * freq
    }
}

/// Share of a dimension that is extrapolated (1) rather than interpolated (0), for each pair.
fn yarn_kept(
    dim: usize,
    theta: f64,
    original: usize,
    fast: f64,
    slow: f64,
    truncate: bool,
) -> Vec<f64> {
    let bound = |rotations: f64| {
        dim as f64 * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (bound(fast), bound(slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    (0..dim / 2)
        .map(|i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0))
        .collect()
}

impl Rope {
    /// The rotation of the layer `number` of `config`.
    /// `context`: the longest sequence that will be run, where that is known.
    pub fn of(config: &Config, number: usize, interleaved: bool, context: Option<usize>) -> Self {
        let rotation = config.rotations.get(number).unwrap_or(&Rotation::Main);
        let (theta, scaling) = match rotation {
            Rotation::Main => (config.rope_theta, &config.rope_scaling),
            Rotation::Own { theta, scaling } => (*theta, scaling),
            Rotation::None => {
                return Self {
                    inv_freq: Vec::new(),
                    attention_factor: 1.0,
                    dynamic: None,
                    interleaved,
                };
            }
        };
        Self {
            interleaved,
            ..Self::new(
                theta,
                scaling,
                config.layer(number).rotary_dim,
                context.unwrap_or(config.max_position),
            )
        }
    }

    /// The frequencies of base `theta`, stretched as `scaling` says, for `dim` dimensions.
    /// A rotation is a key's own for good, so longrope's set follows the longest sequence, not each one's length.
    pub fn new(theta: f64, scaling: &RopeScaling, dim: usize, context: usize) -> Self {
        let base = plain(theta, dim);
        let mut rope = Self {
            inv_freq: Vec::new(),
            attention_factor: 1.0,
            dynamic: None,
            interleaved: false,
        };
        let freq: Vec<f64> = match scaling {
            RopeScaling::None => base,
            RopeScaling::Linear { factor } => base.iter().map(|f| f / factor).collect(),
            RopeScaling::Dynamic { factor, original } => {
                rope.dynamic = Some(Dynamic {
                    theta,
                    factor: *factor,
                    original: *original,
                    dim,
                });
                base
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original,
            } => base
                .iter()
                .map(|&f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, *original))
                .collect(),
            RopeScaling::Yarn {
                factor,
                original,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => {
                let kept = yarn_kept(dim, theta, *original, *beta_fast, *beta_slow, *truncate);
                let default = if *factor > 1.0 {
                    0.1 * factor.ln() + 1.0
                } else {
                    1.0
                };
                rope.attention_factor = attention_factor.unwrap_or(default) as f32;
                base.iter()
                    .zip(&kept)
                    .map(|(f, e)| f / factor * (1.0 - e) + f * e)
                    .collect()
            }
            RopeScaling::LongRope {
                short,
                long,
                original,
                attention_factor,
            } => {
                rope.attention_factor = *attention_factor as f32;
                let factors = if context > *original { long } else { short };
                base.iter().zip(factors).map(|(f, s)| f / s).collect()
            }
            RopeScaling::Proportional { factor, share } => {
                let kept = (share * dim as f64 / 2.0) as usize;
                let of = |(i, f): (usize, &f64)| if i < kept { f / factor } else { 0.0 };
                base.iter().enumerate().map(of).collect()
            }
            RopeScaling::Factors(factors) => base
                .iter()
                .zip(factors)
                .map(|(f, s)| f / f64::from(*s))
                .collect(),
        };
        rope.inv_freq = freq.into_iter().map(|f| f as f32).collect();
        rope
    }
}
