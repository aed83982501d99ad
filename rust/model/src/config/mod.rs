//! A model's configuration in one normal form, whichever file it came from.
//! Knows what the numbers have to satisfy; which of them an architecture uses is that architecture's business.
use serde::Deserialize;

use crate::{Error, Result};

mod altup;
mod fields;
pub(crate) mod gguf;
pub(crate) mod hf;
mod latent;
mod moe;
mod rope;
mod sampling;
mod scales;
mod shape;
mod short_conv;
mod sparse;
mod windows;

pub use altup::AltUp;
pub use moe::Moe;
pub use sampling::Sampling;
pub use scales::Scales;
pub use shape::{LayerInputs, LayerShape};
pub use short_conv::ShortConv;
pub use sparse::{IndexShape, Sparse};

/// How rotary frequencies are stretched for long contexts. Formulas: transformers `modeling_rope_utils.py`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// Base grows with the sequence beyond `original` positions (the `max_position_embeddings` of the checkpoint).
    Dynamic {
        /// Stretch.
        factor: f64,
        /// Positions of the original training.
        original: usize,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// Stretch.
        factor: f64,
        /// Low edge of the smooth range.
        low_freq_factor: f64,
        /// High edge of the smooth range.
        high_freq_factor: f64,
        /// Positions of the original training.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Positions of the original training.
        original: usize,
        /// Fast edge, 32 by default.
        beta_fast: f64,
        /// Slow edge, 1 by default.
        beta_slow: f64,
        /// Factor on cos and sin; `None` = 0.1 ln(factor) + 1 (or from mscale and mscale_all_dim).
        attention_factor: Option<f64>,
        /// Whether correction bounds are rounded to whole dimensions (true by default).
        truncate: bool,
    },
    /// Phi's longrope: one divisor a frequency, of two sets (arXiv 2402.13753).
    LongRope {
        /// For contexts of at most `original` positions.
        short: Vec<f64>,
        /// For longer ones.
        long: Vec<f64>,
        /// Positions of the original training.
        original: usize,
        /// Factor on cos and sin.
        attention_factor: f64,
    },
    /// The first `share` of the frequencies of a whole head, divided by `factor`; the others are 0.
    Proportional {
        /// Stretch.
        factor: f64,
        /// Share.
        share: f64,
    },
    /// One factor a frequency: as GGUF's `rope_freqs.weight` gives them (each inverse frequency is divided by its factor).
    Factors(Vec<f32>),
}

/// How one layer rotates.
#[derive(Debug, Clone, PartialEq)]
pub enum Rotation {
    /// By [`Config::rope_theta`] and [`Config::rope_scaling`].
    Main,
    /// By frequencies of its own.
    Own {
        /// Base.
        theta: f64,
        /// Stretching.
        scaling: RopeScaling,
    },
    /// Not at all.
    None,
}

/// Widths of latent attention, and its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentShape {
    /// Of the narrow row that queries are made of; `None` = made of the residual stream itself.
    pub query: Option<usize>,
    /// Of the latent.
    pub rank: usize,
    /// Of a head's query, what does not rotate.
    pub nope: usize,
    /// Of a head's query, what rotates, and of the key that all heads share.
    pub rotated: usize,
    /// Of a head's value.
    pub value: usize,
    /// Factor on the scores before softmax.
    pub scale: f64,
}

/// Numbers that shape a dense decoder. Every field has been checked to be plausible (non-zero, divisible, bounded).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// e.g. `LlamaForCausalLM`; GGUF's `general.architecture` is translated to the Hugging Face name.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP; of the widest, where layers differ.
    pub intermediate_size: usize,
    /// Experts, if there are any.
    pub moe: Option<Moe>,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; of the layer with most of them.
    pub kv_heads: usize,
    /// Width of a head; of the widest.
    pub head_dim: usize,
    /// Width of a head's value; of the widest. Latent attention has its own.
    pub value_dim: usize,
    /// The shape of each layer, where they differ; else empty: see [`Config::layer`].
    pub shapes: Vec<LayerShape>,
    /// What each layer is given of a token beside the residual stream.
    pub layer_inputs: Option<LayerInputs>,
    /// Streams beside the residual one, where the family has them.
    pub altup: Option<AltUp>,
    /// Widths of latent attention, where the family has it; `head_dim` is that of a query then.
    pub latent: Option<LatentShape>,
    /// Layers that convolve in place of attending, where the family has such.
    pub conv: Option<ShortConv>,
    /// Which keys rows attend to, where it is not all that they see.
    pub sparse: Option<Sparse>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, in tokens; where the rotary scaling (yarn, dynamic) reaches further than the checkpoint's own
    /// `max_position_embeddings` says, as far as the scaling reaches.
    pub max_position: usize,
    /// Epsilon of RMSNorm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Dimensions of a head that rotate (`head_dim` unless partial).
    pub rotary_dim: usize,
    /// A query at position i sees keys at j with `i - window < j <= i`; one entry a layer, `None` = full attention.
    pub windows: Vec<Option<usize>>,
    /// Whether windows are chunks instead: a query at position i sees keys of the same `j / window`.
    pub chunked: bool,
    /// How each layer rotates.
    pub rotations: Vec<Rotation>,
    /// Factors and caps beside the matrices.
    pub scales: Scales,
    /// Whether attention and feed-forward part read the same residual stream, where the checkpoint says so.
    pub parallel_residual: Option<bool>,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Activation of the MLP, e.g. `silu`.
    pub activation: String,
    /// The checkpoint's own dtype, e.g. `bfloat16`, where it says so.
    pub dtype: Option<String>,
    /// End-of-sequence ids that the configuration files name (generation_config and config, or GGUF eos/eot/eom).
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence id, if named.
    pub bos_token_id: Option<u32>,
    /// How the checkpoint's maker recommends to sample.
    pub sampling: Sampling,
    /// The whole configuration (config.json, or GGUF metadata scalars) for what only one architecture reads.
    pub raw: serde_json::Value,
}

/// Largest values that are taken for real: far above any model, far below what would exhaust memory or overflow.
pub(crate) mod bounds {
    /// Decoder layers.
    pub const LAYERS: usize = 4096;
    /// Width of the residual stream.
    pub const HIDDEN: usize = 1 << 20;
    /// Width of an MLP.
    pub const INTERMEDIATE: usize = 1 << 24;
    /// Experts of a layer.
    pub const EXPERTS: usize = 1 << 14;
    /// Streams beside one another.
    pub const STREAMS: usize = 1 << 5;
    /// Tokens of a convolution.
    pub const TAPS: usize = 1 << 8;
    /// Attention heads.
    pub const HEADS: usize = 1 << 14;
    /// Width of a head.
    pub const HEAD_DIM: usize = 1 << 13;
    /// Rows of the embedding.
    pub const VOCAB: usize = 1 << 26;
    /// Positions.
    pub const POSITIONS: usize = 1 << 28;
    /// Sliding windows: some files write the largest 32-bit number for "no window".
    pub const WINDOW: usize = u32::MAX as usize;
}

impl Config {
    /// Whether a layer keeps keys and values of its own.
    pub fn keeps(&self, number: usize) -> bool {
        !self.convolves(number) && self.layer(number).reads.is_none()
    }

    /// Whether a layer convolves in place of attending.
    pub fn convolves(&self, number: usize) -> bool {
        self.conv
            .as_ref()
            .is_some_and(|c| c.own.get(number) == Some(&true))
    }

    /// The shape of a layer.
    pub fn layer(&self, number: usize) -> LayerShape {
        let alike = || LayerShape {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            rotary_dim: self.rotary_dim,
            intermediate_size: self.intermediate_size,
            reads: None,
            keyed: false,
        };
        self.shapes.get(number).copied().unwrap_or_else(alike)
    }

    /// Checks what has to hold between fields, whichever file they came from.
    pub(crate) fn check(self, place: &str) -> Result<Self> {
        let bad = |what: String| Err(Error::Load(format!("{place}: {what}")));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(format!(
                "{} query heads cannot share {} key/value heads",
                self.heads, self.kv_heads
            ));
        }
        for own in &self.shapes {
            if !self.heads.is_multiple_of(own.kv_heads) {
                let (q, k) = (self.heads, own.kv_heads);
                return bad(format!("{q} query heads cannot share {k} key/value heads"));
            }
            if own.keyed && own.value_dim != own.head_dim {
                let (v, d) = (own.value_dim, own.head_dim);
                return bad(format!("values of {v} are not keys of {d}"));
            }
            if own.rotary_dim > own.head_dim || !own.rotary_dim.is_multiple_of(2) {
                let (r, d) = (own.rotary_dim, own.head_dim);
                return bad(format!("{r} rotary dimensions do not fit a head of {d}"));
            }
        }
        if self.rotary_dim > self.head_dim || !self.rotary_dim.is_multiple_of(2) {
            return bad(format!(
                "{} rotary dimensions do not fit a head of {}",
                self.rotary_dim, self.head_dim
            ));
        }
        if let RopeScaling::Factors(factors) = &self.rope_scaling {
            if factors.len() != self.rotary_dim / 2 {
                let (n, half) = (factors.len(), self.rotary_dim / 2);
                return bad(format!(
                    "{n} rotary frequency factors for {half} frequencies"
                ));
            }
            if let Some(factor) = factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
                return bad(format!(
                    "the rotary frequency factor {factor} is not positive"
                ));
            }
        }
        if let RopeScaling::LongRope { short, long, .. } = &self.rope_scaling {
            let half = self.rotary_dim / 2;
            if short.len() != half || long.len() != half {
                let (s, l) = (short.len(), long.len());
                return bad(format!(
                    "{s} short and {l} long rotary factors for {half} frequencies"
                ));
            }
            if let Some(factor) = short
                .iter()
                .chain(long)
                .find(|f| !f.is_finite() || **f <= 0.0)
            {
                return bad(format!("the rotary factor {factor} is not positive"));
            }
        }
        if matches!(self.rope_scaling, RopeScaling::Dynamic { .. }) && self.rotary_dim <= 2 {
            return bad(format!(
                "dynamic rotary scaling needs more than {} dimensions",
                self.rotary_dim
            ));
        }
        if self.windows.len() != self.layers {
            return bad(format!(
                "{} layers, but attention kinds for {}",
                self.layers,
                self.windows.len()
            ));
        }
        Ok(self)
    }
}

/// One id or several, as `eos_token_id` is written.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Ids {
    /// A single id.
    One(u32),
    /// Several ids.
    Many(Vec<u32>),
}
