//! Threads that find masks while the model runs, on cores that it leaves free; none where it takes them all.
//! Knows nothing of what a mask says.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;

use super::Constraint;

/// More find no more to do.
const MOST: usize = 4;

/// A rule that the engine and one finder reach.
pub(crate) type Shared = Arc<Mutex<Box<dyn Constraint>>>;

/// The threads; dropping it ends them.
pub(crate) struct Finders {
    work: Option<Sender<Shared>>,
    threads: Vec<JoinHandle<()>>,
}

impl Finders {
    /// As many as `spare` cores have a use for. Fewer where the system gives no more threads: the engine then does the work.
    pub(crate) fn new(spare: usize) -> Self {
        let (work, todo) = unbounded::<Shared>();
        let start = |_| {
            let todo = todo.clone();
            let body = move || todo.iter().for_each(|rule| find(&rule));
            let thread = std::thread::Builder::new().name("candle-vllm-masks".into());
            thread.spawn(body).ok()
        };
        let threads: Vec<_> = (0..spare.min(MOST)).filter_map(start).collect();
        Self {
            work: (!threads.is_empty()).then_some(work),
            threads,
        }
    }

    /// Has what a rule was asked found out, if there is anybody to do it.
    pub(crate) fn send(&self, rule: &Shared) {
        if let Some(work) = &self.work {
            // Without a receiver the engine does it.
            let _ = work.send(rule.clone());
        }
    }

    /// Whether there is anybody.
    pub(crate) fn any(&self) -> bool {
        self.work.is_some()
    }
}

impl Drop for Finders {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // It caught its panics.
            let _ = thread.join();
        }
    }
}

/// Does a rule's work; after a panic it has no masks, of which whoever asks for them hears.
pub(crate) fn find(rule: &Shared) {
    let _ = catch_unwind(AssertUnwindSafe(|| rule.lock().work()));
}
