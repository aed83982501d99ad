//! Settings of an engine. Checked once, in `EngineConfig::validate`.
//! Knows nothing of the model: what depends on it (lengths, memory) is checked when it is loaded.
use std::path::PathBuf;

use crate::error::{Refused, Result};
use crate::speculation::Price;

/// How to load and run one model. Field names are those of Python's `EngineConfig`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// A local folder or a `.gguf` file (ids and aliases are resolved in Python).
    pub model_path: PathBuf,
    /// `auto`, `cpu`, `cuda:N`, `metal`.
    pub device: String,
    /// `auto`, `f32`, `bf16`, `f16` (and `float32`, `bfloat16`, `float16`).
    pub dtype: String,
    /// `auto`, `int8`, `int16`: what activations are rounded to that quantised weights meet.
    pub activations: String,
    /// `q4_0`, `q4_k` ...: what matrices are quantised to, while they are loaded, that the checkpoint keeps wider.
    pub isq: Option<String>,
    /// Sequences that run at once. Default 16.
    pub max_batch_size: usize,
    /// Longest sequence (prompt and answer); `None` = the model's own limit.
    pub max_sequence_length: Option<usize>,
    /// Bytes for keys and values; `None` = sized from the model, the batch and free memory.
    pub kv_cache_memory: Option<u64>,
    /// `auto`, `f32`, `bf16`.
    pub kv_cache_dtype: String,
    /// Whether a prompt may be computed in pieces beside running decodes. Default true.
    pub enable_chunked_prefill: bool,
    /// Tokens of one step at most (prefill pieces and decodes together). Default 512.
    pub prefill_chunk_size: usize,
    /// Whether computed blocks are kept and reused by later prompts. Default true.
    pub enable_prefix_cache: bool,
    /// `off`, or `ngram`: what may follow is drafted from the text's own repetitions and computed beside it, where that
    /// pays. Answers are the same, bit for bit. Default `off`.
    pub speculation: String,
    /// Compute threads; `None` = the cores this process may use.
    pub threads: Option<usize>,
    /// Cores that the compute threads are bound to, one each in turn; `None` = where the system likes.
    pub cpu_affinity: Option<Vec<usize>>,
    /// Requests that may wait; one more is refused with `QueueFull`. `None` = no limit.
    pub max_queue: Option<usize>,
    /// Whether the engine steps by itself (default) or only when `step` is called.
    pub background: bool,
    /// CUDA graphs; refused when true on a device that has none. `None` = as the device likes.
    pub enable_cuda_graph: Option<bool>,
    /// Panics that a test asks for.
    #[cfg(test)]
    pub(crate) faults: crate::fault::Faults,
    /// Whether a test wants drafts whatever they cost.
    #[cfg(test)]
    pub(crate) free_drafts: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            model_path: PathBuf::new(),
            device: "auto".into(),
            dtype: "auto".into(),
            activations: "auto".into(),
            isq: None,
            max_batch_size: 16,
            max_sequence_length: None,
            kv_cache_memory: None,
            kv_cache_dtype: "auto".into(),
            enable_chunked_prefill: true,
            prefill_chunk_size: 512,
            enable_prefix_cache: true,
            speculation: "off".into(),
            threads: None,
            cpu_affinity: None,
            max_queue: None,
            background: true,
            enable_cuda_graph: None,
            #[cfg(test)]
            faults: Default::default(),
            #[cfg(test)]
            free_drafts: false,
        }
    }
}

impl EngineConfig {
    /// What drafts cost before anything was measured; `None` = there are none.
    pub(crate) fn price(&self) -> Option<Price> {
        (self.speculation == "ngram").then(|| {
            #[cfg_attr(not(test), expect(unused_mut, reason = "tests make drafts free"))]
            let mut price = Price::default();
            #[cfg(test)]
            price.set_free(self.free_drafts);
            price
        })
    }

    #[cfg(test)]
    pub(crate) fn faults(&self) -> crate::fault::Faults {
        self.faults.clone()
    }

    #[cfg(not(test))]
    pub(crate) fn faults(&self) -> crate::fault::Faults {
        crate::fault::Faults::default()
    }
}

impl EngineConfig {
    /// Checks every range that does not depend on the model. Device and dtypes are checked by the model's loader.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("max_batch_size", Some(self.max_batch_size), 1 << 16),
            ("prefill_chunk_size", Some(self.prefill_chunk_size), 1 << 20),
            ("max_sequence_length", self.max_sequence_length, usize::MAX),
            ("threads", self.threads, 1024),
        ];
        for (field, value, most) in counts {
            let Some(value) = value else { continue };
            if value == 0 || value > most {
                let range = if most == usize::MAX {
                    "at least 1".to_owned()
                } else {
                    format!("from 1 to {most}")
                };
                return Err(Refused::new(field, value, range).into());
            }
        }
        if !matches!(&*self.speculation, "off" | "ngram") {
            return Err(Refused::new("speculation", &self.speculation, "off or ngram").into());
        }
        if self.cpu_affinity.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refused::new("cpu_affinity", "none", "at least one core").into());
        }
        if self.enable_cuda_graph == Some(true) && !self.device.starts_with("cuda") {
            return Err(Refused::new(
                "enable_cuda_graph",
                true,
                format!("off: device {} has no CUDA graphs", self.device),
            )
            .into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_bad_value_is_refused_by_name() {
        let some = EngineConfig::default;
        some().validate().unwrap();
        let bad = [
            (
                "max_batch_size",
                EngineConfig {
                    max_batch_size: 0,
                    ..some()
                },
            ),
            (
                "prefill_chunk_size",
                EngineConfig {
                    prefill_chunk_size: 0,
                    ..some()
                },
            ),
            (
                "max_sequence_length",
                EngineConfig {
                    max_sequence_length: Some(0),
                    ..some()
                },
            ),
            (
                "speculation",
                EngineConfig {
                    speculation: "draft".into(),
                    ..some()
                },
            ),
            (
                "threads",
                EngineConfig {
                    threads: Some(0),
                    ..some()
                },
            ),
            (
                "cpu_affinity",
                EngineConfig {
                    cpu_affinity: Some(Vec::new()),
                    ..some()
                },
            ),
            (
                "enable_cuda_graph",
                EngineConfig {
                    enable_cuda_graph: Some(true),
                    ..some()
                },
            ),
        ];
        for (field, config) in bad {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
