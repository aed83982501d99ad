//! Cohere: one norm before both parts, which stand side by side.
use super::super::{
    Defaults, Family, Layout, Names, NormRule, QkNorm, Rotations, ScaleRule, Windows, names,
};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const COHERE: Family = Family {
    architecture: "CohereForCausalLM",
    model_type: "cohere",
    gguf: "command-r",
    defaults: Defaults {
        heads: Some(64),
        max_position: Some(8192),
        theta: 500_000.0,
        tied: true,
        ..DEFAULTS
    },
    names: Names {
        mlp_norm: "",
        ..names::LLAMA.with_qk_norm()
    },
    norm: NormRule::Layer,
    qk_norm: QkNorm::EachHead,
    parallel: true,
    interleaved: true,
    scales: ScaleRule::Logits(0.0625),
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const COHERE2: Family = Family {
    architecture: "Cohere2ForCausalLM",
    model_type: "cohere2",
    gguf: "cohere2",
    defaults: Defaults {
        theta: 10_000.0,
        windows: Windows::Pattern {
            default: Some(4096),
            pattern: 4,
        },
        ..COHERE.defaults
    },
    names: Names {
        mlp_norm: "",
        ..names::LLAMA
    },
    qk_norm: QkNorm::None,
    rotations: Rotations::WindowsOnly,
    ..COHERE
};
