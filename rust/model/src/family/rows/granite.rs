//! Granite: multipliers.
use super::super::{Defaults, Family, Names, Rotations, ScaleRule, Windows, names};
use super::llama::LLAMA;

pub(super) const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    model_type: "granite",
    gguf: "granite",
    scales: ScaleRule::Granite,
    ..LLAMA
};

pub(super) const GRANITE_SWA: Family = Family {
    architecture: "GraniteSWAForCausalLM",
    model_type: "granite_swa",
    gguf: "",
    defaults: Defaults {
        windows: Windows::All { default: None },
        ..GRANITE.defaults
    },
    names: Names {
        sinks: "self_attn.sinks",
        ..names::LLAMA
    },
    rotations: Rotations::Each,
    ..GRANITE
};
