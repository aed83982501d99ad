//! Mixtures of experts: dense families with a router, and what their configurations add.
use super::super::moe::{DEEPSEEK, MIXTRAL as MIXTRAL_MOE, Moe, Normalised, QWEN};
use super::super::{
    Defaults, Family, Layout, Lying, Names, NormRule, QkNorm, ScaleRule, Windows, names,
};
use super::{DEFAULTS, granite, llama, olmo, qwen};
use candle_vllm_kernels::cpu::{Clamped, routing::Scores};

pub(super) const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    model_type: "qwen2_moe",
    gguf: "qwen2moe",
    defaults: Defaults {
        kv_heads: Some(16),
        ..qwen::QWEN2.defaults
    },
    moe: Some(&Moe {
        shared: "mlp.shared_expert",
        shared_gate: "mlp.shared_expert_gate",
        normalised: Normalised::Said {
            hf: false,
            gguf: false,
        },
        ..QWEN
    }),
    ..qwen::QWEN2
};

pub(super) const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    gguf: "qwen3moe",
    defaults: Defaults {
        head_dim: None,
        kv_heads: Some(4),
        windows: Windows::Upper {
            default: 4096,
            first: 0,
            unsaid: false,
        },
        ..qwen::QWEN3.defaults
    },
    moe: Some(&QWEN),
    ..qwen::QWEN3
};

pub(super) const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    model_type: "mixtral",
    gguf: "",
    defaults: Defaults {
        kv_heads: Some(8),
        max_position: Some(4096 * 32),
        theta: 1e6,
        windows: Windows::All { default: None },
        ..DEFAULTS
    },
    moe: Some(&MIXTRAL_MOE),
    ..llama::LLAMA
};

pub(super) const GRANITE_MOE: Family = Family {
    architecture: "GraniteMoeForCausalLM",
    model_type: "granitemoe",
    gguf: "granitemoe",
    moe: Some(&Moe {
        router: "block_sparse_moe.router.layer",
        experts: "block_sparse_moe.experts",
        stacked: [
            "block_sparse_moe.input_linear",
            "block_sparse_moe.output_linear",
        ],
        scores: Scores::ChosenSoftmax,
        normalised: Normalised::Never,
        ..QWEN
    }),
    ..granite::GRANITE
};

pub(super) const ERNIE_MOE: Family = Family {
    architecture: "Ernie4_5_MoeForCausalLM",
    model_type: "ernie4_5_moe",
    gguf: "ernie4_5-moe",
    defaults: Defaults {
        heads: Some(20),
        kv_heads: Some(4),
        head_dim: None,
        ..llama::ERNIE.defaults
    },
    moe: Some(&Moe {
        correction: "mlp.moe_statics.e_score_correction_bias",
        shared: "mlp.shared_experts",
        normalised: Normalised::Always,
        ..QWEN
    }),
    ..llama::ERNIE
};

pub(super) const HUNYUAN_MOE: Family = Family {
    architecture: "HunYuanMoEV1ForCausalLM",
    model_type: "hunyuan_v1_moe",
    gguf: "hunyuan-moe",
    moe: Some(&Moe {
        router: "mlp.gate.wg",
        shared: "mlp.shared_mlp",
        normalised: Normalised::Always,
        ..QWEN
    }),
    ..llama::HUNYUAN
};

pub(super) const GLM4_MOE: Family = Family {
    architecture: "Glm4MoeForCausalLM",
    model_type: "glm4_moe",
    gguf: "glm4moe",
    defaults: Defaults {
        heads: Some(96),
        kv_heads: Some(8),
        max_position: Some(131_072),
        partial: 0.5,
        ..DEFAULTS
    },
    names: names::LLAMA.with_qk_norm(),
    qk_norm: QkNorm::HeadIfAny,
    layout: Layout::Plain,
    moe: Some(&DEEPSEEK),
    ..llama::LLAMA
};

pub(super) const DOTS1: Family = Family {
    architecture: "Dots1ForCausalLM",
    model_type: "dots1",
    gguf: "dots1",
    defaults: Defaults {
        heads: Some(32),
        kv_heads: Some(32),
        max_position: Some(2048),
        windows: Windows::Upper {
            default: 4096,
            first: 62,
            unsaid: true,
        },
        ..DEFAULTS
    },
    qk_norm: QkNorm::Head,
    moe: Some(&Moe {
        normalised: Normalised::Said {
            hf: false,
            gguf: false,
        },
        ..DEEPSEEK
    }),
    ..GLM4_MOE
};

pub(super) const EXAONE_MOE: Family = Family {
    architecture: "ExaoneMoeForCausalLM",
    model_type: "exaone_moe",
    gguf: "exaone-moe",
    defaults: Defaults {
        windows: Windows::Pattern {
            default: Some(4096),
            pattern: 4,
        },
        ..olmo::EXAONE4.defaults
    },
    names: names::LLAMA.with_qk_norm(),
    moe: Some(&Moe {
        correction: "mlp.e_score_correction_bias",
        ..DEEPSEEK
    }),
    ..olmo::EXAONE4
};

pub(super) const OLMOE: Family = Family {
    architecture: "OlmoeForCausalLM",
    model_type: "olmoe",
    gguf: "olmoe",
    defaults: Defaults {
        heads: Some(16),
        max_position: Some(4096),
        ..DEFAULTS
    },
    names: names::LLAMA.with_qk_norm(),
    scales: ScaleRule::Clipped,
    moe: QWEN2_ROUTER,
    ..olmo::OLMO2
};

/// Weights as they are unless the configuration says else.
const QWEN2_ROUTER: Option<&Moe> = Some(&Moe {
    normalised: Normalised::Said {
        hf: false,
        gguf: false,
    },
    ..QWEN
});

pub(super) const MINIMAX_M2: Family = Family {
    architecture: "MiniMaxM2ForCausalLM",
    model_type: "minimax_m2",
    gguf: "minimax-m2",
    defaults: Defaults {
        heads: Some(48),
        kv_heads: Some(8),
        head_dim: Some(128),
        max_position: Some(196_608),
        theta: 5e6,
        ..DEFAULTS
    },
    scales: ScaleRule::Plain,
    moe: Some(&Moe {
        correction: "block_sparse_moe.e_score_correction_bias",
        scores: Scores::Sigmoid,
        ..MIXTRAL_MOE
    }),
    ..OLMOE
};

pub(super) const PHI_MOE: Family = Family {
    architecture: "PhimoeForCausalLM",
    model_type: "phimoe",
    gguf: "phimoe",
    defaults: Defaults {
        heads: Some(32),
        kv_heads: Some(8),
        max_position: Some(4096 * 32),
        theta: 1e6,
        windows: Windows::All { default: None },
        ..DEFAULTS
    },
    norm: NormRule::Layer,
    layout: Layout::Plain,
    moe: Some(&Moe {
        scores: Scores::SparseMixer(0.01),
        normalised: Normalised::Never,
        ..MIXTRAL_MOE
    }),
    ..llama::LLAMA
};

pub(super) const GPT_OSS: Family = Family {
    architecture: "GptOssForCausalLM",
    model_type: "gpt_oss",
    gguf: "gpt-oss",
    defaults: Defaults {
        heads: Some(64),
        kv_heads: Some(8),
        head_dim: Some(64),
        max_position: Some(131_072),
        theta: 150_000.0,
        windows: Windows::Pattern {
            default: Some(128),
            pattern: 2,
        },
        ..DEFAULTS
    },
    names: Names {
        sinks: "self_attn.sinks",
        ..names::LLAMA
    },
    layout: Layout::Plain,
    moe: Some(&Moe {
        router: "mlp.router",
        lying: Lying::InTurn,
        clamped: Some(Clamped {
            alpha: 1.702,
            limit: 7.0,
        }),
        scores: Scores::ChosenSoftmax,
        normalised: Normalised::Never,
        ..QWEN
    }),
    ..llama::LLAMA
};
