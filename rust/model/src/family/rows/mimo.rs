//! MiMo: two kinds of attention that differ in more than their windows.
use super::super::moe::{DEEPSEEK, Moe, Normalised};
use super::super::{Defaults, Family, Layout, Names, Rotations, ScaleRule, Sizes, Windows, names};
use super::DEFAULTS;
use super::llama::LLAMA;

/// MiMo-V2-Flash: layers with a window have sinks and more key/value heads.
pub(super) const MIMO_V2_FLASH: Family = Family {
    architecture: "MiMoV2FlashForCausalLM",
    model_type: "mimo_v2_flash",
    gguf: "mimo2",
    defaults: Defaults {
        heads: Some(64),
        kv_heads: Some(4),
        head_dim: Some(192),
        value_dim: Some(128),
        max_position: Some(131_072),
        theta: 5e6,
        partial: 0.334,
        windows: Windows::Hybrid {
            default: 129,
            interval: 6,
        },
        ..DEFAULTS
    },
    names: Names {
        sinks: "self_attn.attention_sink_bias",
        ..names::LLAMA
    },
    sizes: Sizes::Windowed,
    rotations: Rotations::Local(10_000.0),
    scales: ScaleRule::Values(0.707),
    layout: Layout::Plain,
    moe: Some(&Moe {
        shared: "",
        normalised: Normalised::Said {
            hf: true,
            gguf: true,
        },
        ..DEEPSEEK
    }),
    ..LLAMA
};
