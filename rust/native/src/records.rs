//! Figures and facts of an engine as dictionaries, whose keys are the fields of Python's records.
use candle_vllm_engine::{ModelInfo, Need, Report, Stats, Tokenizer};
use candle_vllm_model::config::Sampling;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The fields of `EngineStats`.
pub fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("running", stats.running)?;
    dict.set_item("waiting", stats.waiting)?;
    dict.set_item("kv_blocks_total", stats.kv_blocks_total)?;
    dict.set_item("kv_blocks_free", stats.kv_blocks_free)?;
    dict.set_item("kv_blocks_cached", stats.kv_blocks_cached)?;
    let counters = &stats.counters;
    dict.set_item("steps", counters.steps)?;
    dict.set_item("prompt_tokens", counters.prompt_tokens)?;
    dict.set_item("prefix_hit_tokens", counters.prefix_hit_tokens)?;
    dict.set_item("generated_tokens", counters.generated_tokens)?;
    dict.set_item("drafted_tokens", counters.drafted_tokens)?;
    dict.set_item("kept_tokens", counters.kept_tokens)?;
    dict.set_item("finished", counters.finished)?;
    dict.set_item("preemptions", counters.preemptions)?;
    dict.set_item("aborts", counters.aborts)?;
    dict.set_item("errors", counters.errors)?;
    dict.set_item("healthy", stats.healthy)?;
    dict.set_item("failure", stats.failure.as_deref())?;
    dict.set_item("closed", stats.closed)?;
    Ok(dict)
}

/// The fields of `ModelInfo` but name and path, which Python knows.
pub fn model_info<'py>(py: Python<'py>, info: &ModelInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let spec = &info.spec;
    dict.set_item("architecture", &spec.architecture)?;
    dict.set_item("layers", spec.layers)?;
    dict.set_item("hidden_size", spec.hidden_size)?;
    dict.set_item("vocab_size", spec.vocab_size)?;
    dict.set_item("max_position", spec.max_position)?;
    dict.set_item("max_sequence_length", info.max_sequence_length)?;
    dict.set_item("max_batch_size", info.max_batch_size)?;
    dict.set_item("step_tokens", info.step_tokens)?;
    dict.set_item("block_size", spec.block_size)?;
    dict.set_item("kv_blocks", info.kv_blocks)?;
    dict.set_item("kv_bytes", info.kv_bytes)?;
    dict.set_item("dtype", &spec.dtype)?;
    dict.set_item("kv_dtype", &spec.kv_dtype)?;
    dict.set_item("parameters", spec.parameters)?;
    dict.set_item("weight_bytes", spec.weight_bytes)?;
    dict.set_item("device", &spec.device)?;
    dict.set_item("threads", spec.threads)?;
    dict.set_item("eos_token_ids", PyTuple::new(py, &info.eos_token_ids)?)?;
    dict.set_item("bos_token_id", info.bos_token_id)?;
    dict.set_item("generation_config", generation_config(py, &info.sampling)?)?;
    Ok(dict)
}

/// The fields of `ModelReport` that Python does not know: what is not known is left out.
pub fn report<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("architecture", &report.architecture)?;
    dict.set_item("max_position", report.max_position)?;
    dict.set_item("file_bytes", report.file_bytes)?;
    dict.set_item(
        "generation_config",
        generation_config(py, &report.sampling)?,
    )?;
    let mut problems = Vec::new();
    match &report.model {
        Ok(model) => {
            let (spec, kinds) = (&model.spec, PyDict::new(py));
            for (name, kind) in &model.kinds {
                kinds.set_item(name.to_lowercase(), kind.parameters)?;
            }
            dict.set_item("weight_types", kinds)?;
            dict.set_item("layers", spec.layers)?;
            dict.set_item("hidden_size", spec.hidden_size)?;
            dict.set_item("vocab_size", spec.vocab_size)?;
            dict.set_item("dtype", &spec.dtype)?;
            dict.set_item("kv_dtype", &spec.kv_dtype)?;
            dict.set_item("parameters", spec.parameters)?;
            dict.set_item("device", &spec.device)?;
        }
        Err(error) => problems.push(error.to_string()),
    }
    if let Some(need) = &report.need {
        memory(&dict, need)?;
    }
    match &report.tokenizer {
        Ok(found) => tokenizer(py, &dict, found, &report.eos_token_ids)?,
        Err(error) => problems.push(error.to_string()),
    }
    dict.set_item("problems", PyTuple::new(py, problems)?)?;
    Ok(dict)
}

fn memory(dict: &Bound<'_, PyDict>, need: &Need) -> PyResult<()> {
    dict.set_item("context", need.context)?;
    dict.set_item("weight_bytes", need.weights)?;
    dict.set_item("kv_bytes", need.cache)?;
    dict.set_item("activation_bytes", need.activations)?;
    dict.set_item("available_bytes", need.available)?;
    dict.set_item("fits", need.fits())?;
    dict.set_item("longest_that_fits", need.most)
}

fn tokenizer<'py>(
    py: Python<'py>,
    dict: &Bound<'py, PyDict>,
    tokenizer: &Tokenizer,
    eos: &[u32],
) -> PyResult<()> {
    let mut ends = eos.to_vec();
    ends.extend(tokenizer.eos_ids());
    ends.sort_unstable();
    ends.dedup();
    dict.set_item("tokens", tokenizer.vocab_size())?;
    dict.set_item("eos_token_ids", PyTuple::new(py, ends)?)?;
    dict.set_item("bos_token_id", tokenizer.bos_id())?;
    dict.set_item("chat_templates", tokenizer.chat_templates().clone())
}

/// What the checkpoint recommends, under the names of `GenerationParams`; what it is silent on is left out.
fn generation_config<'py>(py: Python<'py>, advice: &Sampling) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let numbers = [
        ("temperature", advice.temperature),
        ("top_p", advice.top_p),
        ("min_p", advice.min_p),
        ("repetition_penalty", advice.repetition_penalty),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            dict.set_item(name, value)?;
        }
    }
    if let Some(top_k) = advice.top_k {
        dict.set_item("top_k", top_k)?;
    }
    Ok(dict)
}
