//! Writing a model as a file of another type.
use std::path::PathBuf;

use candle_vllm_engine::Quantize;
use pyo3::prelude::*;

use crate::told::{Left, told};

/// Write the model at `path` to `out` as a GGUF file of type `kind`; the size in bytes.
#[pyfunction]
#[pyo3(signature = (path, out, kind, threads, progress))]
pub fn quantize(
    py: Python<'_>,
    path: PathBuf,
    out: PathBuf,
    kind: String,
    threads: Option<usize>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let work = Quantize {
        input: path,
        output: out,
        kind,
        threads,
    };
    told(
        py,
        "candle-vllm-quantize",
        progress,
        Left::Awaited,
        move |say| work.run(&|done, total| say.progress("quantize", done, total)),
    )
}
