//! GLM: neighbouring dimensions rotate.
use super::super::{Defaults, Family, Layout, Names, names};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const GLM: Family = Family {
    architecture: "GlmForCausalLM",
    model_type: "glm",
    gguf: "",
    defaults: Defaults {
        heads: Some(32),
        kv_heads: Some(2),
        head_dim: Some(128),
        max_position: Some(131_072),
        partial: 0.5,
        ..DEFAULTS
    },
    names: names::LLAMA.fused_mlp(),
    interleaved: true,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const GLM4: Family = Family {
    architecture: "Glm4ForCausalLM",
    model_type: "glm4",
    gguf: "glm4",
    names: Names {
        post_attention: "post_self_attn_layernorm",
        post_mlp: "post_mlp_layernorm",
        ..names::LLAMA.fused_mlp()
    },
    ..GLM
};
