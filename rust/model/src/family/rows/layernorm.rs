//! LayerNorm, and mostly no gate: GPT-2, GPT-NeoX, StarCoder2, StableLM, Nemotron.
use super::super::{Defaults, Family, Layout, Names, NormRule, QkNorm, Rotations, Windows, names};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const GPT2: Family = Family {
    architecture: "GPT2LMHeadModel",
    model_type: "gpt2",
    gguf: "gpt2",
    defaults: Defaults {
        heads: Some(12),
        vocab: Some(50_257),
        max_position: Some(1024),
        tied: true,
        activation: "gelu_new",
        ..DEFAULTS
    },
    names: Names {
        embedding: "transformer.wte",
        positions: "transformer.wpe",
        layers: "transformer.h",
        norm: "transformer.ln_f",
        input_norm: "ln_1",
        qkv: "attn.c_attn",
        output: "attn.c_proj",
        mlp_norm: "ln_2",
        gate: "",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        ..names::LLAMA
    },
    norm: NormRule::Layer,
    rotations: Rotations::Never,
    layout: Layout::Transposed,
    ..LLAMA
};

pub(super) const GPT_NEOX: Family = Family {
    architecture: "GPTNeoXForCausalLM",
    model_type: "gpt_neox",
    gguf: "gptneox",
    defaults: Defaults {
        heads: Some(64),
        max_position: Some(2048),
        partial: 0.25,
        activation: "gelu",
        ..DEFAULTS
    },
    names: Names {
        embedding: "gpt_neox.embed_in",
        layers: "gpt_neox.layers",
        norm: "gpt_neox.final_layer_norm",
        head: "embed_out",
        qkv: "attention.query_key_value",
        output: "attention.dense",
        gate: "",
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        ..names::LLAMA
    },
    norm: NormRule::Layer,
    parallel: true,
    layout: Layout::ByHead,
    ..LLAMA
};

pub(super) const STARCODER2: Family = Family {
    architecture: "Starcoder2ForCausalLM",
    model_type: "starcoder2",
    gguf: "starcoder2",
    defaults: Defaults {
        heads: Some(24),
        kv_heads: Some(2),
        max_position: Some(4096),
        tied: true,
        activation: "gelu_pytorch_tanh",
        windows: Windows::All { default: None },
        ..DEFAULTS
    },
    names: Names {
        gate: "",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        ..names::LLAMA
    },
    norm: NormRule::Layer,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const STABLELM: Family = Family {
    architecture: "StableLmForCausalLM",
    model_type: "stablelm",
    gguf: "stablelm",
    defaults: Defaults {
        heads: Some(32),
        kv_heads: Some(32),
        max_position: Some(4096),
        partial: 0.25,
        ..DEFAULTS
    },
    names: Names {
        q_norm: "self_attn.q_layernorm",
        k_norm: "self_attn.k_layernorm",
        ..names::LLAMA
    },
    norm: NormRule::Layer,
    qk_norm: QkNorm::EachHead,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const NEMOTRON: Family = Family {
    architecture: "NemotronForCausalLM",
    model_type: "nemotron",
    gguf: "nemotron",
    defaults: Defaults {
        heads: Some(48),
        max_position: Some(4096),
        partial: 0.5,
        activation: "relu2",
        ..DEFAULTS
    },
    names: Names {
        gate: "",
        ..names::LLAMA
    },
    norm: NormRule::LayerPlusOne,
    layout: Layout::Plain,
    ..LLAMA
};
