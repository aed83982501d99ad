//! Gemma: scaled embeddings, caps, norms on both sides, by one plus the weight up to Gemma 3; then layers of two shapes
//! that may share keys and values and have inputs of their own.
use super::super::moe::{Beside, Moe, Normalised, QWEN};
use super::super::{
    Defaults, Family, LayerInputs, Layout, Names, NormRule, QkNorm, Rotations, ScaleRule, Sizes,
    Windows, names,
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

pub(super) const GEMMA4: Family = Family {
    architecture: "Gemma4ForCausalLM",
    model_type: "gemma4_text",
    gguf: "gemma4",
    defaults: Defaults {
        vocab: Some(262_144),
        windows: Windows::OpenEnded {
            default: 512,
            pattern: 6,
        },
        ..GEMMA3.defaults
    },
    names: Names {
        layer_scale: "layer_scalar",
        layer_inputs: true,
        ..GEMMA3.names
    },
    moe: Some(&Moe {
        router: "router.proj",
        experts: "experts",
        stacked: ["experts.gate_up_proj", "experts.down_proj"],
        normalised: Normalised::Always,
        beside: Some(Beside {
            dense_norm: "post_feedforward_layernorm_1",
            norm: "pre_feedforward_layernorm_2",
            post_norm: "post_feedforward_layernorm_2",
            scale: "router.scale",
            expert_scale: "router.per_expert_scale",
        }),
        ..QWEN
    }),
    norm: NormRule::Rms,
    v_norm: true,
    sizes: Sizes::Kinds {
        whole: Some(512),
        shared: 0,
    },
    layer_inputs: Some(LayerInputs {
        width: 256,
        rows: 262_144,
    }),
    rotations: Rotations::Proportional {
        local: 10_000.0,
        share: 0.25,
    },
    scales: ScaleRule::Unscaled(None),
    ..GEMMA3
};

pub(super) const GEMMA3N: Family = Family {
    architecture: "Gemma3nForCausalLM",
    model_type: "gemma3n_text",
    gguf: "gemma3n",
    defaults: Defaults {
        kv_heads: Some(2),
        vocab: Some(262_400),
        max_position: Some(32_768),
        windows: Windows::Pattern {
            default: Some(512),
            pattern: 5,
        },
        ..GEMMA3.defaults
    },
    names: Names {
        layer_inputs: true,
        altup: true,
        ..GEMMA3.names
    },
    moe: None,
    sizes: Sizes::Kinds {
        whole: None,
        shared: 15,
    },
    rotations: Rotations::Local(10_000.0),
    scales: ScaleRule::Unscaled(Some(30.0)),
    ..GEMMA4
};
