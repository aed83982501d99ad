//! The rows, by kinship; mixtures of experts stand apart. Sources: transformers `models/<model_type>/`, llama.cpp `src/models/`.
mod cohere;
mod deepseek;
mod gemma;
mod glm;
mod granite;
mod layernorm;
mod lfm;
mod llama;
mod mimo;
mod moe;
mod olmo;
mod phi;
mod qwen;

use super::{Defaults, Family, Windows};

const DEFAULTS: Defaults = Defaults {
    heads: None,
    kv_heads: None,
    head_dim: None,
    value_dim: None,
    vocab: None,
    max_position: None,
    theta: 10_000.0,
    partial: 1.0,
    tied: false,
    activation: "silu",
    windows: Windows::Never,
    latent: None,
    index: None,
    conv: None,
};

/// All of them.
pub(super) const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &llama::MISTRAL,
    &llama::MINISTRAL,
    &llama::MINISTRAL3,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma::GEMMA3N,
    &gemma::GEMMA4,
    &phi::PHI,
    &phi::PHI3,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &granite::GRANITE,
    &granite::GRANITE_SWA,
    &llama::SMOLLM3,
    &glm::GLM,
    &glm::GLM4,
    &cohere::COHERE,
    &cohere::COHERE2,
    &lfm::LFM2,
    &lfm::LFM2_MOE,
    &layernorm::STARCODER2,
    &layernorm::STABLELM,
    &layernorm::GPT2,
    &layernorm::GPT_NEOX,
    &layernorm::NEMOTRON,
    &olmo::EXAONE4,
    &llama::SEED_OSS,
    &llama::ARCEE,
    &llama::APERTUS,
    &llama::ERNIE,
    &llama::HUNYUAN,
    &moe::QWEN2_MOE,
    &moe::QWEN3_MOE,
    &moe::MIXTRAL,
    &moe::GRANITE_MOE,
    &moe::ERNIE_MOE,
    &moe::HUNYUAN_MOE,
    &moe::GLM4_MOE,
    &moe::DOTS1,
    &moe::EXAONE_MOE,
    &moe::OLMOE,
    &moe::MINIMAX_M2,
    &moe::PHI_MOE,
    &moe::GPT_OSS,
    &mimo::MIMO_V2_FLASH,
    &deepseek::DEEPSEEK_V2,
    &deepseek::DEEPSEEK_V3,
    &deepseek::DEEPSEEK_V32,
    &deepseek::GLM_MOE_DSA,
    &deepseek::GLM4_MOE_LITE,
    &llama::LLAMA4,
];
