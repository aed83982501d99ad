//! Attention by a latent that all heads share: DeepSeek and those that took it over.
use super::super::moe::{DEEPSEEK, Moe, Normalised, QWEN};
use super::super::{Defaults, Family, Layout, Names, names};
use super::{DEFAULTS, llama};
use crate::config::{IndexShape, LatentShape};
use candle_vllm_kernels::cpu::routing::Scores;

const LATENT: LatentShape = LatentShape {
    query: Some(1536),
    rank: 512,
    nope: 128,
    rotated: 64,
    value: 128,
    scale: 1.0,
};

/// llama.cpp files all of them under deepseek2; how experts are scored tells this one (`config/gguf.rs`).
pub(super) const DEEPSEEK_V2: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    model_type: "deepseek_v2",
    gguf: "",
    defaults: Defaults {
        heads: Some(32),
        max_position: Some(2048),
        latent: Some(LATENT),
        ..DEFAULTS
    },
    names: Names {
        latent: true,
        ..names::LLAMA
    },
    interleaved: true,
    layout: Layout::Plain,
    moe: Some(&Moe {
        shared: "mlp.shared_experts",
        scores: Scores::Softmax,
        normalised: Normalised::Never,
        by_two: false,
        ..QWEN
    }),
    ..llama::LLAMA
};

pub(super) const DEEPSEEK_V3: Family = Family {
    architecture: "DeepseekV3ForCausalLM",
    model_type: "deepseek_v3",
    gguf: "deepseek2",
    defaults: Defaults {
        heads: Some(128),
        max_position: Some(4096),
        ..DEEPSEEK_V2.defaults
    },
    moe: Some(&DEEPSEEK),
    ..DEEPSEEK_V2
};

/// V3 with an index, by which each row picks the keys that it attends to.
pub(super) const DEEPSEEK_V32: Family = Family {
    architecture: "DeepseekV32ForCausalLM",
    model_type: "deepseek_v32",
    gguf: "",
    defaults: Defaults {
        max_position: Some(163_840),
        index: Some(IndexShape {
            heads: 64,
            width: 128,
            most: 2048,
            interleaved: false,
        }),
        ..DEEPSEEK_V3.defaults
    },
    ..DEEPSEEK_V3
};

/// GLM-5. Layers may attend to what one before them has picked.
pub(super) const GLM_MOE_DSA: Family = Family {
    architecture: "GlmMoeDsaForCausalLM",
    model_type: "glm_moe_dsa",
    gguf: "glm-dsa",
    defaults: Defaults {
        heads: Some(64),
        max_position: Some(202_752),
        latent: Some(LatentShape {
            query: Some(2048),
            nope: 192,
            value: 256,
            ..LATENT
        }),
        index: Some(IndexShape {
            heads: 32,
            width: 128,
            most: 2048,
            interleaved: true,
        }),
        ..DEEPSEEK_V32.defaults
    },
    ..DEEPSEEK_V32
};

/// GLM-4.7-Flash. Its GGUF differs from DeepSeek V3's in nothing.
pub(super) const GLM4_MOE_LITE: Family = Family {
    architecture: "Glm4MoeLiteForCausalLM",
    model_type: "glm4_moe_lite",
    gguf: "",
    defaults: Defaults {
        heads: Some(20),
        max_position: Some(202_752),
        latent: Some(LatentShape {
            query: Some(768),
            nope: 192,
            value: 256,
            ..LATENT
        }),
        ..DEEPSEEK_V2.defaults
    },
    ..DEEPSEEK_V3
};
