//! What an answer must conform to, as the engine sees it: masks to draw by, and tokens that can only come next.
//! Knows nothing of grammars. A constraint belongs to one sequence and survives its preemption: it knows the answer, not
//! the cache.
use crate::error::Result;

/// The rule of one answer. Calls come in this order, for each step that draws: `admit`, when there is a draft; `start`;
/// `mask` for each row; `accept` for each token that was taken. An error or a panic ends the sequence: never is a
/// token drawn freely where a mask was due.
pub(crate) trait Constraint: Send {
    /// How many tokens of `draft`, from its start, may follow the answer so far.
    ///
    /// # Errors
    /// When that cannot be told.
    fn admit(&mut self, draft: &[u32]) -> Result<usize>;

    /// Begins to find out which tokens may follow the answer, and the answer with each beginning of `draft`, all of
    /// which was admitted. Called before the model is launched; returns at once where the work is done elsewhere.
    fn start(&mut self, draft: &[u32]);

    /// Fills the mask of the row behind the first `drafted` tokens of the draft: bit `id % 32` of word `id / 32`, all 0
    /// before. False = every token may come. Waits for what `start` began.
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
    #[cfg_attr(not(test), expect(dead_code, reason = "no rule is built in yet"))]
    Open,
    /// The answer is complete and nothing may follow.
    Complete,
}
