//! Long work in a thread of its own, while the caller's reports progress and looks for signals.
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use candle_vllm_engine::{Error, Result};
use pyo3::prelude::*;

use crate::errors;

/// Between two looks whether Ctrl-C was pressed.
const SLICE: Duration = Duration::from_millis(50);

/// What the working thread says.
enum Word<T> {
    Progress(String, u64, u64),
    Done(Box<std::thread::Result<Result<T>>>),
}

/// Where the work tells how far it is.
pub struct Say<T>(Sender<Word<T>>);

impl<T> Say<T> {
    /// Tells it; false when nobody hears any more, because the caller was interrupted.
    pub fn progress(&self, stage: &str, done: u64, total: u64) -> bool {
        let word = Word::Progress(stage.to_owned(), done, total);
        self.0.send(word).is_ok()
    }
}

/// What is done with work whose caller was interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It ends by itself, and what it made is freed.
    Alone,
    /// It is waited for, because it ends soon.
    Awaited,
}

/// Does `work` in a thread of its own called `name`; `progress` is called with what it says.
pub fn told<T: Send + 'static>(
    py: Python<'_>,
    name: &str,
    progress: Option<&Bound<'_, PyAny>>,
    left: Left,
    work: impl FnOnce(Say<T>) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let (say, hear) = channel();
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let own = Say(say.clone());
            let work = std::panic::AssertUnwindSafe(move || work(own));
            let outcome = std::panic::catch_unwind(work);
            let _ = say.send(Word::Done(Box::new(outcome)));
        })
        .map_err(|e| {
            let text = format!("cannot start the thread {name}: {e}");
            errors::exception(Error::ModelLoad(text))
        })?;
    let heard = listen(py, progress, hear);
    if left == Left::Awaited {
        let _ = py.detach(|| thread.join());
    }
    heard
}

fn listen<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    mut hear: Receiver<Word<T>>,
) -> PyResult<T> {
    loop {
        let (word, back) = py.detach(move || wait(hear));
        hear = back;
        match word {
            Ok(Word::Progress(stage, done, total)) => {
                if let Some(call) = progress {
                    call.call1((stage, done, total))?;
                }
            }
            Ok(Word::Done(outcome)) => {
                return match *outcome {
                    Ok(done) => done.map_err(errors::exception),
                    Err(payload) => Err(errors::panicked(&*payload)),
                };
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let text = "the working thread ended without a word".into();
                return Err(errors::exception(Error::ModelLoad(text)));
            }
        }
        py.check_signals()?;
    }
}

/// A word, and the receiver again: it may move between threads but not be shared.
fn wait<T>(
    hear: Receiver<Word<T>>,
) -> (
    std::result::Result<Word<T>, RecvTimeoutError>,
    Receiver<Word<T>>,
) {
    (hear.recv_timeout(SLICE), hear)
}
