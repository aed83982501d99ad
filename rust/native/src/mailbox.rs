//! The mailbox as Python sees it: waiting releases the GIL and looks for signals in between.
use std::time::{Duration, Instant};

use candle_vllm_engine::{Event, Mailbox};
use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;

use crate::call::{self, Owner};
use crate::errors;
use crate::event::PyEvent;

/// Between two looks whether Ctrl-C was pressed.
const SLICE: Duration = Duration::from_millis(50);

/// Where events of requests arrive.
#[pyclass(frozen, name = "Mailbox", module = "candle_vllm._native")]
pub struct PyMailbox {
    /// Taken by `drop` alone.
    inner: Option<Mailbox>,
    owner: Owner,
}

impl PyMailbox {
    /// The mailbox, unless this is a forked child.
    pub fn get(&self) -> PyResult<&Mailbox> {
        self.owner.check()?;
        self.inner.as_ref().ok_or_else(errors::forked)
    }
}

fn to_python(events: Vec<Event>) -> Vec<PyEvent> {
    events.into_iter().map(PyEvent).collect()
}

#[pymethods]
impl PyMailbox {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self {
            inner: Some(call::attached(Mailbox::new)?),
            owner: Owner::here(),
        })
    }

    /// Wait up to `timeout` seconds for events and take all there are.
    fn poll(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<PyEvent>> {
        let mailbox = self.get()?;
        // Negative and NaN do not wait; what is too long for a Duration waits a day at a time.
        let patience =
            Duration::try_from_secs_f64(timeout.clamp(0.0, 86_400.0)).unwrap_or(Duration::ZERO);
        let begin = Instant::now();
        loop {
            let slice = patience.saturating_sub(begin.elapsed()).min(SLICE);
            let events = call::detached(py, || Ok(mailbox.poll(Some(slice))))?;
            if !events.is_empty() || begin.elapsed() >= patience {
                return Ok(to_python(events));
            }
            py.check_signals()?;
        }
    }

    /// Take what is there.
    fn try_poll(&self) -> PyResult<Vec<PyEvent>> {
        let mailbox = self.get()?;
        Ok(to_python(call::attached(|| mailbox.try_poll())?))
    }

    /// A descriptor that is readable while events wait; never read from it. NotImplementedError where there is none.
    fn fileno(&self) -> PyResult<i32> {
        let mailbox = self.get()?;
        let fd = call::attached(|| mailbox.fd())?.map_err(errors::exception)?;
        fd.ok_or_else(|| PyNotImplementedError::new_err("this system watches no descriptors"))
    }

    /// Whether the descriptor keeps still until the first or the last event of a request comes.
    fn rest(&self, resting: bool) -> PyResult<()> {
        let mailbox = self.get()?;
        call::attached(|| mailbox.rest(resting))
    }
}

impl Drop for PyMailbox {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            // Its lock may have been held while the process forked.
            std::mem::forget(self.inner.take());
        }
    }
}
