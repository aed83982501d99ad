//! A model's configuration in one normal form, whichever file it came from.
use serde::Deserialize;

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
    /// Base grows with the sequence beyond `original` positions.
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
    /// One factor a frequency: as GGUF's `rope_freqs.weight` gives them (each inverse frequency is divided by its factor).
    Factors(Vec<f32>),
}

/// Numbers that shape a dense decoder. Every field has been checked to be plausible (non-zero, divisible, bounded).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// e.g. `LlamaForCausalLM`; GGUF's `general.architecture` is translated to the Hugging Face name.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_position: usize,
    /// Epsilon of RMSNorm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Dimensions of a head that rotate (`head_dim` unless partial).
    pub rotary_dim: usize,
    /// Keys further back than this many tokens are not seen; one entry a layer, `None` = full attention.
    pub windows: Vec<Option<usize>>,
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
    /// The whole configuration (config.json, or GGUF metadata scalars) for what only one architecture reads.
    pub raw: serde_json::Value,
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
