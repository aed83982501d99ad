//! Events as Python sees them: converted field by field, and only the fields that are looked at.
use candle_vllm_engine::{Event, StopReason, TokenLogprob};
use pyo3::prelude::*;

/// (token id, logprob, [(token id, logprob), ...])
type Logprob<'a> = (u32, f32, &'a [(u32, f32)]);

/// What happened to one request in one step.
#[pyclass(frozen, name = "Event", module = "candle_vllm._native")]
pub struct PyEvent(pub Event);

fn logprob(entry: &TokenLogprob) -> Logprob<'_> {
    (entry.token_id, entry.logprob, &entry.top)
}

#[pymethods]
impl PyEvent {
    /// The request's number.
    #[getter]
    fn request(&self) -> u64 {
        self.0.request
    }

    /// Tokens generated in this step.
    #[getter]
    fn tokens(&self) -> &[u32] {
        &self.0.tokens
    }

    /// Text that became certain.
    #[getter]
    fn text(&self) -> &str {
        &self.0.text
    }

    /// One entry a token, when asked for.
    #[getter]
    fn logprobs(&self) -> Vec<Logprob<'_>> {
        self.0.logprobs.iter().map(logprob).collect()
    }

    /// One entry a prompt token, with one event, when asked for.
    #[getter]
    fn prompt_logprobs(&self) -> Option<Vec<Option<Logprob<'_>>>> {
        let entries = self.0.prompt_logprobs.as_ref()?;
        Some(entries.iter().map(|e| e.as_ref().map(logprob)).collect())
    }

    /// Set on the last event.
    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.0.finish.as_ref().map(|finish| finish.reason.as_str())
    }

    /// With `finish_reason`: what hit, or the error's message.
    #[getter]
    fn stop_reason<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(finish) = &self.0.finish else {
            return Ok(None);
        };
        Ok(match &finish.stop_reason {
            None => None,
            Some(StopReason::Text(text)) => Some(text.into_pyobject(py)?.into_any()),
            Some(StopReason::Token(id)) => Some(id.into_pyobject(py)?.into_any()),
        })
    }

    /// With `finish_reason`: the fields of `GenerationStats`.
    #[getter]
    fn stats(&self) -> Option<(usize, usize, usize, f64, f64, f64)> {
        let s = &self.0.finish.as_ref()?.stats;
        Some((
            s.prompt_tokens,
            s.cached_tokens,
            s.generated_tokens,
            s.queue_time,
            s.prefill_time,
            s.total_time,
        ))
    }
}
