//! Qwen.
use super::super::{Defaults, Family, Layout, QkNorm, Windows, names};
use super::DEFAULTS;
use super::llama::LLAMA;

const QWEN_WINDOWS: Windows = Windows::Upper {
    default: 4096,
    first: 28,
    unsaid: false,
};

pub(super) const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf: "qwen2",
    defaults: Defaults {
        kv_heads: Some(32),
        max_position: Some(32_768),
        windows: QWEN_WINDOWS,
        ..DEFAULTS
    },
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf: "qwen3",
    defaults: Defaults {
        head_dim: Some(128),
        ..QWEN2.defaults
    },
    names: names::LLAMA.with_qk_norm(),
    qk_norm: QkNorm::Head,
    ..QWEN2
};
