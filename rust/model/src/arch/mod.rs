//! The table of architectures. A family that differs by flags is a row; one that differs in structure is a file and a row.
mod llama;

use crate::{Error, Model, Result, backend::Backend, loader::Loader};

type Load = fn(&Loader<'_>, Box<dyn Backend>, &Runtime, &Flags) -> Result<Box<dyn Model>>;

/// How one pre-norm dense decoder differs from Llama.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// Queries and keys are normalised head by head before rope.
    pub qk_norm: bool,
}

/// What the checkpoint does not say.
#[derive(Debug, Clone, Copy)]
pub struct Runtime {
    /// How keys and values are kept.
    pub kv_dtype: crate::backend::KvDtype,
    /// Whether activations and sums are float32 whatever the weights are.
    pub exact: bool,
}

const PLAIN: Flags = Flags { qk_norm: false };
const QK_NORM: Flags = Flags { qk_norm: true };

/// Hugging Face architecture names (SmolLM is a `LlamaForCausalLM`; biases are taken where the checkpoint has them).
const TABLE: &[(&str, Load, Flags)] = &[
    ("LlamaForCausalLM", llama::load, PLAIN),
    ("MistralForCausalLM", llama::load, PLAIN),
    ("Qwen2ForCausalLM", llama::load, PLAIN),
    ("Qwen3ForCausalLM", llama::load, QK_NORM),
];

/// Loads the model that the checkpoint's `architectures` names.
pub fn load(
    loader: &Loader<'_>,
    backend: Box<dyn Backend>,
    runtime: &Runtime,
) -> Result<Box<dyn Model>> {
    let name = &loader.config().architecture;
    match TABLE.iter().find(|row| row.0 == name) {
        Some((_, load, flags)) => load(loader, backend, runtime, flags),
        None => {
            let known: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
            Err(Error::Load(format!(
                "architecture {name} is not supported; supported are {}",
                known.join(", ")
            )))
        }
    }
}
