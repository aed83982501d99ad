//! Python's `GenerationParams` read attribute by attribute.
use std::collections::BTreeMap;

use candle_vllm_engine::{GenerationParams, Refused};
use pyo3::prelude::*;

use crate::errors;
use crate::structured::PyStructuredOutput;

/// The attributes of the same names.
#[derive(FromPyObject)]
struct Fields {
    max_tokens: usize,
    temperature: f32,
    top_p: f32,
    top_k: Option<usize>,
    min_p: f32,
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    logit_bias: Option<BTreeMap<u32, f32>>,
    stop_sequences: Vec<String>,
    stop_token_ids: Vec<u32>,
    ignore_eos: bool,
    min_tokens: usize,
    logprobs: Option<i32>,
    prompt_logprobs: Option<i32>,
    seed: Option<u64>,
    form: Option<PyStructuredOutput>,
}

/// The parameters of one request.
pub fn read(params: &Bound<'_, PyAny>) -> PyResult<GenerationParams> {
    let f: Fields = params
        .extract()
        .map_err(|e| errors::config(Refused::new("params", e, "GenerationParams")))?;
    Ok(GenerationParams {
        max_tokens: f.max_tokens,
        temperature: f.temperature,
        top_p: f.top_p,
        top_k: f.top_k,
        min_p: f.min_p,
        repetition_penalty: f.repetition_penalty,
        frequency_penalty: f.frequency_penalty,
        presence_penalty: f.presence_penalty,
        logit_bias: f.logit_bias.unwrap_or_default().into_iter().collect(),
        stop_sequences: f.stop_sequences,
        stop_token_ids: f.stop_token_ids,
        ignore_eos: f.ignore_eos,
        min_tokens: f.min_tokens,
        logprobs: f.logprobs,
        prompt_logprobs: f.prompt_logprobs,
        seed: f.seed,
        structured_output: f.form.map(PyStructuredOutput::read).transpose()?,
    })
}
