//! Gemma: norms by one plus the weight, scaled embeddings, caps, norms on both sides.
use super::super::{
    Defaults, Family, Layout, NormRule, QkNorm, Rotations, ScaleRule, Windows, names,
};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    model_type: "gemma",
    gguf: "gemma",
    defaults: Defaults {
        heads: Some(16),
        kv_heads: Some(16),
        head_dim: Some(256),
        vocab: Some(256_000),
        max_position: Some(8192),
        tied: true,
        activation: "gelu_pytorch_tanh",
        ..DEFAULTS
    },
    norm: NormRule::RmsPlusOne,
    scales: ScaleRule::Gemma {
        query: 0.0,
        caps: [None, None],
    },
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    gguf: "gemma2",
    defaults: Defaults {
        heads: Some(8),
        kv_heads: Some(4),
        windows: Windows::Pattern {
            default: Some(4096),
            pattern: 2,
        },
        ..GEMMA.defaults
    },
    names: names::LLAMA.sandwiched(),
    scales: ScaleRule::Gemma {
        query: 256.0,
        caps: [Some(50.0), Some(30.0)],
    },
    ..GEMMA
};

pub(super) const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    gguf: "gemma3",
    defaults: Defaults {
        vocab: Some(262_208),
        max_position: Some(131_072),
        theta: 1e6,
        windows: Windows::Pattern {
            default: Some(4096),
            pattern: 6,
        },
        ..GEMMA2.defaults
    },
    names: names::LLAMA.sandwiched().with_qk_norm(),
    qk_norm: QkNorm::Head,
    rotations: Rotations::Local(10_000.0),
    scales: ScaleRule::Gemma {
        query: 256.0,
        caps: [None, None],
    },
    ..GEMMA
};
