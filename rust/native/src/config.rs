//! Python's `EngineConfig` read attribute by attribute.
use std::path::PathBuf;

use candle_vllm_engine::{EngineConfig, Refused};
use pyo3::prelude::*;

use crate::errors;

/// The attributes of the same names.
#[derive(FromPyObject)]
struct Settings {
    device: String,
    dtype: String,
    activations: String,
    isq: Option<String>,
    max_batch_size: usize,
    max_sequence_length: Option<usize>,
    kv_cache_memory: Option<u64>,
    kv_cache_dtype: String,
    enable_chunked_prefill: bool,
    prefill_chunk_size: usize,
    enable_prefix_cache: bool,
    speculation: String,
    threads: Option<usize>,
    cpu_affinity: Option<Vec<usize>>,
    max_queue: Option<usize>,
    background: bool,
    enable_cuda_graph: Option<bool>,
}

/// Settings for the model at `model_path`.
pub fn read(config: &Bound<'_, PyAny>, model_path: PathBuf) -> PyResult<EngineConfig> {
    let s: Settings = config
        .extract()
        .map_err(|e| errors::config(Refused::new("config", e, "an EngineConfig")))?;
    Ok(EngineConfig {
        model_path,
        device: s.device,
        dtype: s.dtype,
        activations: s.activations,
        isq: s.isq,
        max_batch_size: s.max_batch_size,
        max_sequence_length: s.max_sequence_length,
        kv_cache_memory: s.kv_cache_memory,
        kv_cache_dtype: s.kv_cache_dtype,
        enable_chunked_prefill: s.enable_chunked_prefill,
        prefill_chunk_size: s.prefill_chunk_size,
        enable_prefix_cache: s.enable_prefix_cache,
        speculation: s.speculation,
        threads: s.threads,
        cpu_affinity: s.cpu_affinity,
        max_queue: s.max_queue,
        background: s.background,
        enable_cuda_graph: s.enable_cuda_graph,
    })
}
