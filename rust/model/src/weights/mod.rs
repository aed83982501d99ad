//! Checkpoints: tensors by Hugging Face name, whatever the container. No `is_gguf` below this door.
use std::{borrow::Cow, path::PathBuf, sync::Arc};

use candle_vllm_kernels::cpu::ggml::GgmlType;

use crate::{Error, Result, config::Config};

/// One stored matrix or vector: its bytes as the file has them (rows already in Hugging Face order).
pub struct Stored<'a> {
    /// Element or block type.
    pub dtype: GgmlType,
    /// Row-major shape, outermost first: `[n, k]` for a linear weight, `[n]` for a vector.
    pub shape: Vec<usize>,
    /// Exactly `product(shape)` elements, little endian; not necessarily aligned to the element.
    pub data: Cow<'a, [u8]>,
}

/// What the elements of a tensor are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A type that can be computed with.
    Known(GgmlType),
    /// Numbers that mean something beside other tensors only.
    Raw(Raw),
    /// A dtype this library does not read, by its name in the file.
    Other(String),
}

/// Types of the parts of quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Raw {
    U8,
    I8,
    I32,
    I64,
    /// 8-bit floating point with 4 bits of exponent; the largest is 448.
    F8E4M3,
    /// 8-bit floating point with 5 bits of exponent.
    F8E5M2,
    /// A power of two.
    F8E8M0,
}

impl Raw {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Raw::I32 => 4,
            Raw::I64 => 8,
            _ => 1,
        }
    }
}

/// One tensor as its file has it.
pub struct Part<'a> {
    /// What its elements are.
    pub element: Element,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// Exactly `product(shape)` elements, little endian; not necessarily aligned to the element.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Part<'a> {
    /// As numbers that stand for themselves; else what it is instead.
    pub fn stored(self) -> std::result::Result<Stored<'a>, String> {
        let dtype = match self.element {
            Element::Known(dtype) => dtype,
            Element::Raw(raw) => return Err(format!("has dtype {raw:?}, which is part of a code")),
            Element::Other(dtype) => {
                return Err(format!(
                    "has dtype {dtype}; only F32, F16 and BF16 can be read from safetensors"
                ));
            }
        };
        Ok(Stored {
            dtype,
            shape: self.shape,
            data: self.data,
        })
    }
}

impl<'a> From<Stored<'a>> for Part<'a> {
    fn from(stored: Stored<'a>) -> Self {
        Part {
            element: Element::Known(stored.dtype),
            shape: stored.shape,
            data: stored.data,
        }
    }
}

/// Tensors of a checkpoint under Hugging Face names only.
pub trait Weights: Send + Sync {
    /// The tensor called `name`, whatever its elements are; a `Load` error naming it when absent.
    fn part(&self, name: &str) -> Result<Part<'_>>;
    /// The tensor called `name`; a `Load` error naming it when absent, or when its elements are no numbers by themselves.
    fn get(&self, name: &str) -> Result<Stored<'_>> {
        let part = self.part(name)?;
        let bad = |what| Error::Load(format!("tensor {name} {what}"));
        part.stored().map_err(bad)
    }
    /// Whether there is a tensor called `name`.
    fn contains(&self, name: &str) -> bool;
    /// All names, sorted.
    fn names(&self) -> Vec<String>;
    /// Tells that `name` has been packed and its source pages may be given back. Does nothing by default.
    fn release(&self, _name: &str) {}
    /// The same of a part of what [`Weights::part`] borrowed.
    fn release_bytes(&self, _part: &[u8]) {}
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

pub(crate) use mapped::passed;
pub use open::gguf_at;

mod door;
pub mod file;
pub mod gguf;
pub(crate) mod mapped;
mod open;
mod safetensors;
mod stacked;
