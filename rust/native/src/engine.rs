//! The engine as Python sees it. Every call that may take long releases the GIL; loading can be interrupted.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_vllm_engine::{Engine, EngineConfig, Progress, Prompt, Refused, Request};
use candle_vllm_model::backend::heap;
use candle_vllm_model::device::Device;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{self, Owner};
use crate::mailbox::PyMailbox;
use crate::told::{Left, told};
use crate::{config, errors, params, records};

/// Raise DeviceError unless this machine and this build have the device; the message says what is there.
#[pyfunction]
#[pyo3(signature = (device, /))]
pub fn check_device(device: &str) -> PyResult<()> {
    call::attached(|| Device::find(device))?
        .map(|_| ())
        .map_err(|error| errors::exception(error.into()))
}

/// What the model at `path` is and what it would take with the settings of `config`; the fields of `ModelReport`.
#[pyfunction]
#[pyo3(signature = (config, path, /))]
pub fn inspect<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyAny>,
    path: PathBuf,
) -> PyResult<Bound<'py, PyDict>> {
    let config = config::read(config, path)?;
    let report = call::detached(py, || candle_vllm_engine::inspect(&config))?;
    records::report(py, &report)
}

/// A loaded model with its engine thread.
#[pyclass(frozen, name = "Engine", module = "candle_vllm._native")]
pub struct PyEngine {
    /// Taken by `drop` alone.
    inner: Option<Engine>,
    background: bool,
    owner: Owner,
}

/// A prompt as it comes: text, or token ids.
#[derive(FromPyObject)]
enum PyPrompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl PyEngine {
    fn get(&self) -> PyResult<&Engine> {
        self.owner.check()?;
        self.inner.as_ref().ok_or_else(errors::forked)
    }
}

#[pymethods]
impl PyEngine {
    /// Load the model at `path` with the settings of `config`, an `EngineConfig`.
    #[new]
    fn new(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        path: PathBuf,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let config = config::read(config, path)?;
        let background = config.background;
        Ok(Self {
            inner: Some(load(py, config, progress)?),
            background,
            owner: Owner::here(),
        })
    }

    /// Submit a request with `params`, a `GenerationParams`; its number and the prompt's token ids.
    // All of it is one call's worth: a record in between would be built for every request and read once.
    #[allow(clippy::too_many_arguments)]
    fn submit(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        params: &Bound<'_, PyAny>,
        mailbox: &Bound<'_, PyMailbox>,
        cache_salt: Option<String>,
        priority: i32,
        skip_special_tokens: bool,
    ) -> PyResult<(u64, Vec<u32>)> {
        let engine = self.get()?;
        let prompt: PyPrompt = prompt.extract().map_err(|_| {
            errors::config(Refused::new(
                "prompt",
                "something else",
                "a text or a list of token ids from 0 to 4294967295",
            ))
        })?;
        let params = params::read(params)?;
        let mailbox = mailbox.get().get()?;
        call::detached(py, || {
            // A full queue is no reason to encode a text.
            engine.admits()?;
            let tokens = match prompt {
                PyPrompt::Text(text) => engine.tokenizer()?.encode(&text, true)?,
                PyPrompt::Tokens(ids) => ids,
            };
            let request = Request {
                prompt: Prompt::Tokens(tokens.clone()),
                params,
                cache_salt,
                priority,
                skip_special_tokens,
            };
            Ok((engine.submit(request, mailbox)?, tokens))
        })
    }

    /// Compile the form that `params` ask of an answer.
    fn check_form(&self, py: Python<'_>, params: &Bound<'_, PyAny>) -> PyResult<()> {
        let engine = self.get()?;
        let params = params::read(params)?;
        call::detached(py, || engine.check_form(&params))
    }

    /// What of a prompt the prefix cache holds; the fields of `CachedPrefix`.
    fn cached_prefix(
        &self,
        py: Python<'_>,
        tokens: Vec<u32>,
        salt: Option<String>,
    ) -> PyResult<(usize, Option<usize>)> {
        let engine = self.get()?;
        let found = call::detached(py, || engine.cached_prefix(tokens, salt))?;
        Ok((found.tokens, found.diverges_at))
    }

    /// Cancel a request, wherever it is; nothing when it has ended.
    fn abort(&self, py: Python<'_>, request: u64) -> PyResult<()> {
        // A forked child has copies of handles that close themselves: nothing runs for them here.
        let (true, Some(engine)) = (self.owner.is_here(), &self.inner) else {
            return Ok(());
        };
        call::detached(py, || {
            engine.abort(request);
            Ok(())
        })
    }

    /// Compute one step; the fields of `StepReport`.
    fn step(&self, py: Python<'_>) -> PyResult<(usize, usize, usize, usize, usize)> {
        let engine = self.get()?;
        let report = call::detached(py, || engine.step())?;
        py.check_signals()?;
        Ok((
            report.tokens,
            report.sequences,
            report.finished,
            report.running,
            report.waiting,
        ))
    }

    /// The fields of `EngineStats`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let engine = self.get()?;
        records::stats(py, &call::detached(py, || Ok(engine.stats()))?)
    }

    /// The fields of `ModelInfo` but name and path.
    fn model_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let engine = self.get()?;
        records::model_info(py, &call::attached(|| engine.model_info())?)
    }

    /// Token ids of a text.
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        let engine = self.get()?;
        call::detached(py, || engine.tokenizer()?.encode(text, add_special_tokens))
    }

    /// Token ids of a text in parts; in every other one special tokens spelt out are plain text.
    fn encode_parts(&self, py: Python<'_>, parts: Vec<String>) -> PyResult<Vec<u32>> {
        let engine = self.get()?;
        call::detached(py, || engine.tokenizer()?.encode_parts(&parts))
    }

    /// Texts of all special tokens.
    fn special_texts(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let engine = self.get()?;
        call::detached(py, || {
            Ok(engine
                .tokenizer()
                .map_or_else(|_| Vec::new(), |t| t.special_texts()))
        })
    }

    /// Text of token ids.
    fn decode(
        &self,
        py: Python<'_>,
        tokens: Vec<u32>,
        skip_special_tokens: bool,
    ) -> PyResult<String> {
        let engine = self.get()?;
        call::detached(py, || {
            engine.tokenizer()?.decode(&tokens, skip_special_tokens)
        })
    }

    /// Bytes of one token.
    fn token_bytes(&self, token: u32) -> PyResult<Cow<'_, [u8]>> {
        let engine = self.get()?;
        let bytes = call::attached(|| engine.tokenizer().map(|t| t.token_bytes(token)))?;
        Ok(Cow::Borrowed(bytes.map_err(errors::exception)?))
    }

    /// Chat templates by name.
    fn chat_templates(&self) -> PyResult<BTreeMap<String, String>> {
        let engine = self.get()?;
        call::attached(|| {
            engine
                .tokenizer()
                .map_or_else(|_| BTreeMap::new(), |t| t.chat_templates().clone())
        })
    }

    /// Special tokens' texts by the names that templates use.
    fn special_tokens(&self) -> PyResult<BTreeMap<String, String>> {
        let engine = self.get()?;
        call::attached(|| {
            engine
                .tokenizer()
                .map_or_else(|_| BTreeMap::new(), |t| t.special_tokens())
        })
    }

    /// End the engine thread and give the memory back.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let (true, Some(engine)) = (self.owner.is_here(), &self.inner) else {
            return Ok(());
        };
        call::detached(py, || {
            engine.close();
            heap::release_free();
            Ok(())
        })
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        let engine = self.get()?;
        call::attached(|| engine.stats().closed)
    }

    /// Whether the engine runs by itself.
    #[getter]
    fn background(&self) -> bool {
        self.background
    }
}

impl Drop for PyEngine {
    fn drop(&mut self) {
        let engine = self.inner.take();
        if !self.owner.is_here() {
            // Its thread does not exist in a forked child; waiting for it would never end.
            std::mem::forget(engine);
            return;
        }
        let mut kept = Some(engine);
        // Ending the thread may take a step's time. Without an interpreter it ends all the same, below.
        let _ = Python::try_attach(|py| {
            let engine = kept.take();
            call::detached(py, move || {
                drop(engine);
                Ok(())
            })
        });
    }
}

/// Loads in a thread of its own. When the caller is interrupted it ends by itself, and what it loaded is freed.
fn load(
    py: Python<'_>,
    config: EngineConfig,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Engine> {
    let reports = progress.is_some();
    told(py, "candle-vllm-load", progress, Left::Alone, move |say| {
        let report: Progress = Box::new(move |stage, done, total| {
            // Nobody hears when loading was interrupted.
            say.progress(stage, done, total);
        });
        Engine::open(config, reports.then_some(report))
    })
}
