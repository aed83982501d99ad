//! A step under way: launch and result are apart, so that the caller works in between.
//! Knows nothing of what computes it.
use crate::{Logits, Result};

type Finish<'a> = Box<dyn FnOnce() -> Result<Logits> + 'a>;

/// A step that was launched. Dropped unfinished, its keys and values are those of no step.
pub struct Pending<'a>(Finish<'a>);

impl<'a> Pending<'a> {
    /// `finish` waits for the result where another device computes; on a CPU, whose threads include the caller's, it
    /// computes.
    pub fn new(finish: impl FnOnce() -> Result<Logits> + 'a) -> Self {
        Self(Box::new(finish))
    }

    /// The logits of the step.
    pub fn finish(self) -> Result<Logits> {
        (self.0)()
    }
}
