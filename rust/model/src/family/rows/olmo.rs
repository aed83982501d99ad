//! Norms behind the parts: OLMo and EXAONE.
use super::super::{Defaults, Family, Layout, QkNorm, Rotations, Windows, names};
use super::DEFAULTS;
use super::llama::LLAMA;

pub(super) const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    model_type: "olmo2",
    gguf: "olmo2",
    names: names::LLAMA.post_normed().with_qk_norm(),
    qk_norm: QkNorm::Row,
    layout: Layout::Plain,
    ..LLAMA
};

pub(super) const OLMO3: Family = Family {
    architecture: "Olmo3ForCausalLM",
    model_type: "olmo3",
    gguf: "",
    defaults: Defaults {
        windows: Windows::Pattern {
            default: Some(4096),
            pattern: 4,
        },
        ..OLMO2.defaults
    },
    rotations: Rotations::LocalPlain,
    ..OLMO2
};

pub(super) const EXAONE4: Family = Family {
    architecture: "Exaone4ForCausalLM",
    model_type: "exaone4",
    gguf: "exaone4",
    defaults: Defaults {
        heads: Some(32),
        kv_heads: Some(32),
        max_position: Some(2048),
        windows: Windows::Pattern {
            default: None,
            pattern: 4,
        },
        ..DEFAULTS
    },
    names: names::LLAMA.post_normed().with_qk_norm(),
    qk_norm: QkNorm::Head,
    rotations: Rotations::WindowsOnly,
    layout: Layout::Plain,
    ..LLAMA
};
