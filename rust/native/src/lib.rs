//! The Python door: one `Engine` class, a mailbox, events, and one translation of errors.
//! Knows how values cross and when the GIL is held; nothing of models, scheduling or HTTP.
use pyo3::prelude::*;

mod call;
mod config;
mod engine;
mod errors;
mod event;
mod mailbox;
mod params;
mod quantize;
mod records;
mod structured;
mod told;

/// The native engine of candle-vllm. Private: use `candle_vllm.engine`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<engine::PyEngine>()?;
    module.add_class::<mailbox::PyMailbox>()?;
    module.add_class::<event::PyEvent>()?;
    module.add_function(wrap_pyfunction!(engine::check_device, module)?)?;
    module.add_function(wrap_pyfunction!(engine::inspect, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::quantize, module)?)
}
