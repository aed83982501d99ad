//! Phi: matrices in one.
use super::super::{Defaults, Family, Layout, Names, NormRule, Windows, names};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const PHI: Family = Family {
    architecture: "PhiForCausalLM",
    model_type: "phi",
    gguf: "phi2",
    defaults: Defaults {
        heads: Some(32),
        max_position: Some(2048),
        partial: 0.5,
        activation: "gelu_new",
        ..DEFAULTS
    },
    names: Names {
        norm: "model.final_layernorm",
        // One matrix where llama.cpp converted it.
        qkv: "self_attn.qkv_proj",
        output: "self_attn.dense",
        mlp_norm: "",
        gate: "",
        up: "mlp.fc1",
        down: "mlp.fc2",
        ..names::LLAMA
    },
    norm: NormRule::Layer,
    parallel: true,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    gguf: "phi3",
    defaults: Defaults {
        heads: Some(32),
        max_position: Some(4096),
        windows: Windows::All { default: None },
        ..DEFAULTS
    },
    names: Names {
        qkv: "self_attn.qkv_proj",
        ..names::LLAMA.fused_mlp()
    },
    layout: Layout::Plain,
    ..LLAMA
};
