//! Checkpoints: tensors by Hugging Face name, whatever the container. No `is_gguf` below this door.
use std::{borrow::Cow, path::PathBuf, sync::Arc};

use candle_vllm_kernels::cpu::ggml::GgmlType;

use crate::{Result, config::Config};

/// One stored matrix or vector: its bytes as the file has them (rows already in Hugging Face order).
pub struct Stored<'a> {
    /// Element or block type.
    pub dtype: GgmlType,
    /// Row-major shape, outermost first: `[n, k]` for a linear weight, `[n]` for a vector.
    pub shape: Vec<usize>,
    /// Exactly `product(shape)` elements, little endian; not necessarily aligned to the element.
    pub data: Cow<'a, [u8]>,
}

/// Tensors of a checkpoint under Hugging Face names only.
pub trait Weights: Send + Sync {
    /// The tensor called `name`; a `Load` error naming it when absent.
    fn get(&self, name: &str) -> Result<Stored<'_>>;
    /// Whether there is a tensor called `name`.
    fn contains(&self, name: &str) -> bool;
    /// All names, sorted.
    fn names(&self) -> Vec<String>;
    /// Tells that `name` has been packed and its source pages may be given back. Does nothing by default.
    fn release(&self, _name: &str) {}
}

/// Where the tokenizer of a checkpoint comes from.
pub enum TokenizerSource {
    /// A folder with tokenizer.json, tokenizer_config.json, ...
    Folder(PathBuf),
    /// GGUF metadata.
    Gguf(Arc<gguf::Metadata>),
}

/// An opened checkpoint: checked, mapped, not yet loaded.
pub struct Checkpoint {
    /// Configuration in normal form.
    pub config: Config,
    /// Tensors by Hugging Face name.
    pub weights: Box<dyn Weights>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// Bytes of the weight files.
    pub file_bytes: u64,
}

mod door;
pub mod file;
pub mod gguf;
mod mapped;
mod open;
mod safetensors;
mod stacked;
