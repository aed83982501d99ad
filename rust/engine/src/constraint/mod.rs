//! What an answer must conform to, as the engine sees it: masks to draw by, and tokens that can only come next.
//! A constraint belongs to one sequence and survives its preemption: it knows the answer, not the cache.
//!
//! `forms.rs` makes one from what a request asks (`spec.rs`): `keywords.rs` refuses what a schema's grammar would not hold,
//! `compile.rs` compiles within bounds, `cache.rs` keeps; `grammar.rs` follows one grammar, `parts.rs` the free text around
//! it (`marks.rs`), and `held.rs` is the constraint that the engine sees.
mod cache;
mod compile;
mod finders;
mod forms;
mod gbnf;
mod grammar;
mod held;
mod keywords;
mod marks;
mod parts;
mod regex;
mod spec;
mod vocabulary;

#[cfg(test)]
mod tests;

use crate::error::Result;

pub(crate) use finders::{Finders, Shared, find};
pub(crate) use forms::Forms;
pub use spec::{Form, StructuredOutput, Trigger, Whitespace};

/// The rule of one answer. Calls come in this order, for each step that draws: `admit`, when there is a draft; `start`;
/// `mask` for each row; `accept` for each token that was taken. An error or a panic ends the sequence: never is a
/// token drawn freely where a mask was due.
pub(crate) trait Constraint: Send {
    /// How many tokens of `draft`, from its start, may follow the answer so far.
    ///
    /// # Errors
    /// When that cannot be told.
    fn admit(&mut self, draft: &[u32]) -> Result<usize>;

    /// Asks which tokens may follow the answer, and the answer with each beginning of `draft`, all of which was admitted.
    /// Called before the model is launched; returns at once.
    fn start(&mut self, draft: &[u32]);

    /// Finds out what `start` asked, unless that is done: called by whichever thread is free, while the model runs or
    /// after it.
    fn work(&mut self) {}

    /// Fills the mask of the row behind the first `drafted` tokens of the draft: bit `id % 32` of word `id / 32`, all 0
    /// before. False = every token may come. Does what `work` has not done.
    ///
    /// # Errors
    /// When no mask can be given.
    fn mask(&mut self, drafted: usize, mask: &mut [u32]) -> Result<bool>;

    /// Takes the next token of the answer.
    ///
    /// # Errors
    /// When the token breaks the rule.
    fn accept(&mut self, token: u32) -> Result<Next>;

    /// Tokens that must follow the answer so far, one after the other, because each is the only one that may: they are
    /// computed together, in one chunk, and each comes back by `accept`. Empty when there is a choice.
    ///
    /// # Errors
    /// When that cannot be told.
    fn forced(&mut self) -> Result<Vec<u32>>;
}

/// Whether an answer goes on after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Other tokens may follow.
    Open,
    /// The answer is complete and nothing may follow.
    Complete,
}
