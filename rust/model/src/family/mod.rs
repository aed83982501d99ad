//! What families of decoders are made of, as data: names of tensors, rules, and what configurations leave unsaid.
//! A dense family is a row of a table; nothing here reads a file or computes.
mod moe;
mod names;
mod rows;

pub use moe::{Beside, Lying, Moe, Normalised};
pub use names::Names;

use crate::{
    Error,
    config::{IndexShape, LatentShape},
};

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Hugging Face name, e.g. `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// `model_type` of its config.json.
    pub model_type: &'static str,
    /// `general.architecture` of GGUF; empty where there is none.
    pub gguf: &'static str,
    /// What transformers assumes where config.json is silent.
    pub defaults: Defaults,
    /// Tensors.
    pub names: Names,
    /// Experts, in layers that have them.
    pub moe: Option<&'static Moe>,
    /// Norms of the residual stream.
    pub norm: NormRule,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether each head's value is normalised, without weights.
    pub v_norm: bool,
    /// Whether layers differ in shape.
    pub sizes: Sizes,
    /// Inputs of each layer by token, by `hidden_size_per_layer_input`; what is assumed where it does not stand.
    pub layer_inputs: Option<LayerInputs>,
    /// Whether attention and feed-forward part read the same residual stream; `use_parallel_residual` overrides it.
    pub parallel: bool,
    /// Whether pairs of neighbouring dimensions rotate, not those of the two halves of a head.
    pub interleaved: bool,
    /// Which layers rotate how.
    pub rotations: Rotations,
    /// Factors and caps.
    pub scales: ScaleRule,
    /// Moves of rows that llama.cpp's converter made, or that this one is spared.
    pub layout: Layout,
}

/// What transformers assumes where config.json is silent (`configuration_<model_type>.py`).
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Query heads.
    pub heads: Option<usize>,
    /// `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    /// `None`: hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// Width of a head's value; `None`: that of its key.
    pub value_dim: Option<usize>,
    /// Rows of the embedding.
    pub vocab: Option<usize>,
    /// Longest sequence.
    pub max_position: Option<usize>,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// Share of a head that rotates.
    pub partial: f64,
    /// Whether the embedding is the head too.
    pub tied: bool,
    /// Activation of the MLP. GGUF never says it.
    pub activation: &'static str,
    /// Sliding windows.
    pub windows: Windows,
    /// Widths of latent attention, of families that have it.
    pub latent: Option<LatentShape>,
    /// The index of families whose latent attention is sparse.
    pub index: Option<IndexShape>,
    /// Tokens of a convolution, of families some of whose layers convolve.
    pub conv: Option<usize>,
}

/// Whether layers differ in shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// They do not.
    Alike,
    /// Those with a window have more key/value heads.
    Windowed,
    /// Those without a window may have heads of their own, and the last ones may read keys and values of earlier ones.
    Kinds {
        /// Width of heads in layers without a window where the configuration does not say; `None` = as in others.
        whole: Option<usize>,
        /// `num_kv_shared_layers` where it does not stand.
        shared: usize,
    },
}

/// Inputs of each layer by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInputs {
    /// Width of a layer's.
    pub width: usize,
    /// Rows of their table.
    pub rows: usize,
}

/// Which layers have a sliding window. `layer_types`, where it stands, says so itself.
#[derive(Debug, Clone, Copy)]
pub enum Windows {
    /// None, whatever the configuration mentions.
    Never,
    /// All, where there is a `sliding_window` (this many tokens by default).
    All {
        /// Tokens where the configuration does not say.
        default: Option<usize>,
    },
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    Upper {
        /// Tokens where the configuration does not say.
        default: usize,
        /// The first layer with a window.
        first: usize,
        /// Whether there are windows where `use_sliding_window` does not stand.
        unsaid: bool,
    },
    /// Chunks of `attention_chunk_size` tokens, this many by default, in layers that rotate; the last of every so many
    /// does not, unless `no_rope_layers` says which.
    Chunks {
        /// Tokens.
        default: usize,
        /// Layers.
        interval: usize,
    },
    /// All but the first and the last of every `interval` layers, unless `hybrid_layer_pattern` marks those with one by 1.
    /// A query sees `sliding_window_size` tokens before its own, or `sliding_window` with it.
    Hybrid {
        /// Tokens with its own where the configuration does not say.
        default: usize,
        /// Layers.
        interval: usize,
    },
    /// All but the last of every `pattern` layers.
    Pattern {
        /// Tokens where the configuration does not say; `None` = no windows then.
        default: Option<usize>,
        /// `sliding_window_pattern` where the configuration does not say.
        pattern: usize,
    },
    /// The same, and the last layer has none whatever is said.
    OpenEnded {
        /// Tokens where the configuration does not say.
        default: usize,
        /// Layers.
        pattern: usize,
    },
}

impl Windows {
    /// Whether windows are chunks.
    pub fn are_chunks(self) -> bool {
        matches!(self, Windows::Chunks { .. })
    }
}

/// Norms of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRule {
    /// RMSNorm.
    Rms,
    /// RMSNorm by one plus the stored weight; llama.cpp's converter adds the one.
    RmsPlusOne,
    /// LayerNorm, with a bias where the checkpoint has one.
    Layer,
    /// LayerNorm by one plus the stored weight.
    LayerPlusOne,
}

impl NormRule {
    /// What is added to the weights of a Hugging Face checkpoint.
    pub fn offset(self) -> f32 {
        match self {
            NormRule::Rms | NormRule::Layer => 0.0,
            NormRule::RmsPlusOne | NormRule::LayerPlusOne => 1.0,
        }
    }

    /// Whether the mean is taken off first.
    pub fn centred(self) -> bool {
        matches!(self, NormRule::Layer | NormRule::LayerPlusOne)
    }
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// RMSNorm of each head, one weight for all, before the rotation.
    Head,
    /// The same where the checkpoint has one.
    HeadIfAny,
    /// The same after the rotation.
    RotatedHead,
    /// RMSNorm of each head without weights, after the rotation, in layers that rotate.
    Unweighted,
    /// RMSNorm over all heads at once.
    Row,
    /// LayerNorm of each head, by weights of its own; where the checkpoint has them.
    EachHead,
}

/// Which layers rotate how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rotations {
    /// None: positions are embedded.
    Never,
    /// All alike.
    Alike,
    /// Layers with a window by this base where the configuration names none, and never stretched.
    Local(f64),
    /// The same; the others by this share of their frequencies where nothing is said of rotations.
    Proportional {
        /// Base in layers with a window.
        local: f64,
        /// Share in the others.
        share: f64,
    },
    /// Layers with a window unstretched.
    LocalPlain,
    /// Only layers with a window, if there are such.
    WindowsOnly,
    /// All but those that `no_rope_layers` marks by 0; the last of every so many where it does not stand.
    Interval(usize),
    /// By the base that `layer_rope_theta` gives each; 0 is none.
    Each,
}

/// Factors and caps of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScaleRule {
    /// None.
    Plain,
    /// The embedding times the root of its width; scores by `query_pre_attn_scalar`, caps.
    Gemma {
        /// `query_pre_attn_scalar` where nothing is said.
        query: f64,
        /// `attn_logit_softcapping` and `final_logit_softcapping` where nothing is said.
        caps: [Option<f64>; 2],
    },
    /// The embedding times the root of its width; scores as they are; a cap on logits, this one where nothing is said.
    Unscaled(Option<f64>),
    /// Embedding, residual, attention multipliers; logits are divided.
    Granite,
    /// Logits are multiplied, by this much where nothing is said.
    Logits(f64),
    /// Values are multiplied by `attention_value_scale`, by this much where nothing is said.
    Values(f64),
    /// Queries, keys and values may be held within bounds.
    Clipped,
    /// Queries grow with the position.
    Temperature,
    /// Queries of layers without rotation do.
    NopeTemperature,
}

/// How rows lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As they are computed with.
    Plain,
    /// llama.cpp's converter interleaves the rows of q and k.
    Interleaved,
    /// Hugging Face files hold inputs x outputs.
    Transposed,
    /// Hugging Face files hold q, k, v head by head.
    ByHead,
}

/// Names that published files have for what transformers calls otherwise.
const ALSO: [(&str, &str); 1] = [("PhiMoEForCausalLM", "PhimoeForCausalLM")];

/// The family of a Hugging Face architecture.
pub fn find(architecture: &str) -> Option<&'static Family> {
    let also = ALSO
        .iter()
        .find(|(published, _)| *published == architecture);
    let architecture = also.map_or(architecture, |(_, name)| name);
    rows::FAMILIES
        .iter()
        .copied()
        .find(|f| f.architecture == architecture)
}

/// The family of a `model_type`.
pub fn of_type(model_type: &str) -> Option<&'static Family> {
    rows::FAMILIES
        .iter()
        .copied()
        .find(|f| f.model_type == model_type)
}

/// The family of a GGUF `general.architecture`.
pub fn of_gguf(name: &str) -> Option<&'static Family> {
    rows::FAMILIES
        .iter()
        .copied()
        .find(|f| f.gguf == name && !name.is_empty())
}

/// Names of all architectures.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    rows::FAMILIES.iter().map(|f| f.architecture)
}

/// The error about an architecture that no family has, with those that there are.
pub fn unknown(architecture: &str) -> Error {
    let known: Vec<&str> = architectures().collect();
    let nearest = known.iter().max_by(|a, b| {
        let of = |name: &str| strsim::jaro_winkler(name, architecture);
        of(a).total_cmp(&of(b))
    });
    let nearest = nearest.map_or_else(String::new, |n| format!("; the nearest name is {n}"));
    Error::Load(format!(
        "architecture {architecture} is not supported{nearest}; supported are {}",
        known.join(", ")
    ))
}
