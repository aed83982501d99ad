//! The one translation of errors to Python: each variant to the exception class of `candle_vllm.errors`.
use std::any::Any;

use candle_vllm_engine::{Error, Refused};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

/// The classes, imported when the first one is raised.
mod classes {
    pyo3::import_exception!(candle_vllm.errors, CandleVllmError);
    pyo3::import_exception!(candle_vllm.errors, ConfigError);
    pyo3::import_exception!(candle_vllm.errors, DeviceError);
    pyo3::import_exception!(candle_vllm.errors, GenerationError);
    pyo3::import_exception!(candle_vllm.errors, ModelLoadError);
    pyo3::import_exception!(candle_vllm.errors, QueueFullError);
    pyo3::import_exception!(candle_vllm.errors, TokenizationError);
}
use classes::{
    CandleVllmError, ConfigError, DeviceError, GenerationError, ModelLoadError, QueueFullError,
    TokenizationError,
};

/// The exception for an error of the engine.
pub fn exception(error: Error) -> PyErr {
    match error {
        Error::ModelLoad(text) => ModelLoadError::new_err(text),
        Error::Tokenization(text) => TokenizationError::new_err(text),
        Error::Generation(text) => GenerationError::new_err(text),
        Error::Device(text) => DeviceError::new_err(text),
        Error::Config(refused) => config(refused),
        Error::Output(text) => PyOSError::new_err(text),
        Error::QueueFull(text) => QueueFullError::new_err(text),
        other => CandleVllmError::new_err(other.to_string()),
    }
}

/// The exception for a panic that was caught at the door.
pub fn panicked(payload: &(dyn Any + Send)) -> PyErr {
    let said = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    GenerationError::new_err(format!(
        "internal error of the engine: {said}; please report it"
    ))
}

/// A setting that is not of the type or range that the engine takes. A value that is a whole number comes as one.
pub fn config(refused: Refused) -> PyErr {
    Python::attach(|py| {
        let text = refused.to_string();
        let value = match refused.value.parse::<i64>() {
            Ok(number) => number.into_pyobject(py)?.into_any(),
            Err(_) => refused.value.into_pyobject(py)?.into_any(),
        };
        let details = [
            ("field", refused.field.into_pyobject(py)?.into_any()),
            ("value", value),
            ("expected", refused.expected.into_pyobject(py)?.into_any()),
        ]
        .into_py_dict(py)?;
        py.get_type::<ConfigError>()
            .call((text,), Some(&details))
            .map(PyErr::from_value)
    })
    .unwrap_or_else(|error: PyErr| error)
}

/// A call in a process that was forked from the one that made the object.
pub fn forked() -> PyErr {
    GenerationError::new_err(
        "this engine belongs to the process that built it, and threads do not survive a fork: \
         build an engine in the child, or start it with the spawn method",
    )
}
