//! How a call goes through the door: without the GIL, without a panic, and never in a forked child.
use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_vllm_engine::Result;
use pyo3::prelude::*;

use crate::errors;

/// The process that made an object: threads, locks and pipes of it mean nothing in a forked child.
#[derive(Clone, Copy)]
pub struct Owner(u32);

impl Owner {
    /// This process.
    pub fn here() -> Self {
        Self(std::process::id())
    }

    /// Whether the running process is the owner.
    pub fn is_here(self) -> bool {
        self.0 == std::process::id()
    }

    /// Refuses a call in a forked child.
    pub fn check(self) -> PyResult<()> {
        if self.is_here() {
            Ok(())
        } else {
            Err(errors::forked())
        }
    }
}

/// Runs `work` with the GIL released; errors and panics become exceptions.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errors::exception(error)),
        Err(payload) => Err(errors::panicked(&*payload)),
    }
}

/// Runs short work that never waits, with the GIL held; panics become exceptions.
pub fn attached<T>(work: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| errors::panicked(&*payload))
}
