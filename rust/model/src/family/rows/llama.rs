//! Llama and those that differ from it by configuration.
use super::super::{
    Defaults, Family, Layout, Lying, Moe, Names, NormRule, Normalised, QkNorm, Rotations,
    ScaleRule, Sizes, Windows, moe, names,
};
use super::DEFAULTS;
use candle_vllm_kernels::cpu::{Weigh, routing::Scores};

/// x += attention(norm x), x += mlp(norm x).
pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    gguf: "llama",
    defaults: Defaults {
        max_position: Some(2048),
        ..DEFAULTS
    },
    names: names::LLAMA,
    moe: None,
    norm: NormRule::Rms,
    qk_norm: QkNorm::None,
    v_norm: false,
    sizes: Sizes::Alike,
    layer_inputs: None,
    parallel: false,
    interleaved: false,
    rotations: Rotations::Alike,
    scales: ScaleRule::Plain,
    layout: Layout::Interleaved,
};

pub(super) const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    gguf: "",
    defaults: Defaults {
        kv_heads: Some(8),
        max_position: Some(4096 * 32),
        windows: Windows::All {
            default: Some(4096),
        },
        ..DEFAULTS
    },
    ..LLAMA
};

pub(super) const MINISTRAL: Family = Family {
    architecture: "MinistralForCausalLM",
    model_type: "ministral",
    ..MISTRAL
};

pub(super) const MINISTRAL3: Family = Family {
    architecture: "Ministral3ForCausalLM",
    model_type: "ministral3",
    gguf: "mistral3",
    defaults: Defaults {
        kv_heads: Some(8),
        head_dim: Some(128),
        max_position: Some(262_144),
        theta: 1e6,
        windows: Windows::All { default: None },
        ..DEFAULTS
    },
    scales: ScaleRule::Temperature,
    ..LLAMA
};

pub(super) const SEED_OSS: Family = Family {
    architecture: "SeedOssForCausalLM",
    model_type: "seed_oss",
    gguf: "seed_oss",
    defaults: Defaults {
        heads: Some(80),
        kv_heads: Some(8),
        head_dim: Some(128),
        max_position: Some(524_288),
        ..DEFAULTS
    },
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const ARCEE: Family = Family {
    architecture: "ArceeForCausalLM",
    model_type: "arcee",
    gguf: "arcee",
    defaults: Defaults {
        heads: Some(32),
        max_position: Some(4096),
        activation: "relu2",
        ..DEFAULTS
    },
    names: Names {
        gate: "",
        ..names::LLAMA
    },
    ..LLAMA
};

pub(super) const APERTUS: Family = Family {
    architecture: "ApertusForCausalLM",
    model_type: "apertus",
    gguf: "apertus",
    defaults: Defaults {
        heads: Some(32),
        max_position: Some(65_536),
        theta: 12_000_000.0,
        activation: "xielu",
        ..DEFAULTS
    },
    names: Names {
        input_norm: "attention_layernorm",
        mlp_norm: "feedforward_layernorm",
        gate: "",
        ..names::LLAMA.with_qk_norm()
    },
    qk_norm: QkNorm::Head,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const ERNIE: Family = Family {
    architecture: "Ernie4_5ForCausalLM",
    model_type: "ernie4_5",
    gguf: "ernie4_5",
    defaults: Defaults {
        heads: Some(16),
        kv_heads: Some(2),
        head_dim: Some(128),
        max_position: Some(131_072),
        theta: 500_000.0,
        tied: true,
        ..DEFAULTS
    },
    interleaved: true,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const HUNYUAN: Family = Family {
    architecture: "HunYuanDenseV1ForCausalLM",
    model_type: "hunyuan_v1_dense",
    gguf: "hunyuan-dense",
    names: Names {
        q_norm: "self_attn.query_layernorm",
        k_norm: "self_attn.key_layernorm",
        ..names::LLAMA
    },
    qk_norm: QkNorm::RotatedHead,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    gguf: "smollm3",
    defaults: Defaults {
        heads: Some(16),
        kv_heads: Some(4),
        max_position: Some(32_768),
        theta: 2e6,
        tied: true,
        windows: Windows::Upper {
            default: 4096,
            first: 28,
            unsaid: false,
        },
        ..DEFAULTS
    },
    rotations: Rotations::Interval(4),
    ..LLAMA
};

pub(super) const LLAMA4: Family = Family {
    architecture: "Llama4ForCausalLM",
    model_type: "llama4_text",
    gguf: "llama4",
    defaults: Defaults {
        heads: Some(40),
        kv_heads: Some(8),
        head_dim: Some(128),
        vocab: Some(202_048),
        max_position: Some(4096 * 32),
        theta: 500_000.0,
        windows: Windows::Chunks {
            default: 8192,
            interval: 4,
        },
        ..DEFAULTS
    },
    names: Names {
        gate: "feed_forward.gate_proj",
        up: "feed_forward.up_proj",
        down: "feed_forward.down_proj",
        ..names::LLAMA
    },
    qk_norm: QkNorm::Unweighted,
    interleaved: true,
    rotations: Rotations::Interval(4),
    scales: ScaleRule::NopeTemperature,
    layout: Layout::Plain,
    moe: Some(&Moe {
        router: "feed_forward.router",
        experts: "feed_forward.experts",
        stacked: [
            "feed_forward.experts.gate_up_proj",
            "feed_forward.experts.down_proj",
        ],
        lying: Lying::Columns,
        shared: "feed_forward.shared_expert",
        scores: Scores::ChosenSigmoid,
        normalised: Normalised::Never,
        weigh: Weigh::Input,
        ..moe::QWEN
    }),
    ..LLAMA
};
