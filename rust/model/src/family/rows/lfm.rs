//! Liquid's: most layers convolve over a few tokens, the others attend.
use super::super::moe::{DEEPSEEK, Moe, Normalised};
use super::super::{Defaults, Family, Layout, Names, QkNorm, names};
use super::{DEFAULTS, llama};

pub(super) const LFM2: Family = Family {
    architecture: "Lfm2ForCausalLM",
    model_type: "lfm2",
    gguf: "lfm2",
    defaults: Defaults {
        kv_heads: Some(8),
        max_position: Some(128_000),
        theta: 1e6,
        tied: true,
        conv: Some(3),
        ..DEFAULTS
    },
    names: Names {
        norm: "model.embedding_norm",
        input_norm: "operator_norm",
        q_norm: "self_attn.q_layernorm",
        k_norm: "self_attn.k_layernorm",
        output: "self_attn.out_proj",
        mlp_norm: "ffn_norm",
        gate: "feed_forward.w1",
        up: "feed_forward.w3",
        down: "feed_forward.w2",
        short_conv: true,
        ..names::LLAMA
    },
    qk_norm: QkNorm::Head,
    layout: Layout::Plain,
    ..llama::LLAMA
};

pub(super) const LFM2_MOE: Family = Family {
    architecture: "Lfm2MoeForCausalLM",
    model_type: "lfm2_moe",
    gguf: "lfm2moe",
    moe: Some(&Moe {
        router: "feed_forward.gate",
        correction: "feed_forward.expert_bias",
        experts: "feed_forward.experts",
        gate: "w1",
        up: "w3",
        down: "w2",
        stacked: [
            "feed_forward.experts.gate_up_proj",
            "feed_forward.experts.down_proj",
        ],
        shared: "",
        normalised: Normalised::Said {
            hf: true,
            gguf: true,
        },
        ..DEEPSEEK
    }),
    ..LFM2
};
