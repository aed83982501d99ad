//! An answer, or a part of one, that follows one grammar from its first token. Knows nothing of free text around it.
use llguidance::api::StopReason;
use llguidance::{Matcher, TokenParser};

use super::Next;
use super::compile::first_line;
use crate::error::{Error, Result};

/// A grammar and how far into it the answer is.
pub(super) struct Grammar {
    matcher: Matcher,
    /// Whether the next token is the only one that may come, with those after it.
    complete: bool,
}

/// What the library says, as this request's own failure.
fn failed(error: impl std::fmt::Display) -> Error {
    let said = first_line(&error.to_string());
    Error::Generation(format!(
        "the answer cannot be held to its form any further: {said}"
    ))
}

impl Grammar {
    /// Nothing of the answer is there yet.
    pub(super) fn new(parser: TokenParser) -> Self {
        Self {
            matcher: Matcher::new(Ok(parser)),
            complete: false,
        }
    }

    /// How many of `draft` may follow, those before an end.
    pub(super) fn admit(&mut self, draft: &[u32], ends: &[u32]) -> Result<usize> {
        let end = draft.iter().position(|id| ends.contains(id));
        let draft = &draft[..end.unwrap_or(draft.len())];
        self.matcher.validate_tokens(draft).map_err(failed)
    }

    /// Fills the masks of the answer so far and of it with each beginning of `draft`. `fill` gets each in turn.
    pub(super) fn masks(&mut self, draft: &[u32], mut fill: impl FnMut(&[u32])) -> Result<()> {
        let mut taken = 0;
        loop {
            let mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
            fill(mask.as_slice());
            if taken == draft.len() || self.matcher.is_stopped() {
                break;
            }
            self.matcher.consume_token(draft[taken]).map_err(failed)?;
            taken += 1;
        }
        self.matcher.rollback(taken).map_err(failed)
    }

    /// Takes a token.
    pub(super) fn accept(&mut self, token: u32) -> Result<Next> {
        self.matcher.consume_token(token).map_err(failed)?;
        self.complete = self.matcher.is_stopped();
        if !self.complete {
            return Ok(Next::Open);
        }
        match self.matcher.stop_reason() {
            StopReason::NoExtension | StopReason::EndOfSentence => Ok(Next::Complete),
            other => Err(failed(other)),
        }
    }

    /// Tokens that must follow.
    pub(super) fn forced(&mut self) -> Result<Vec<u32>> {
        if self.complete {
            return Ok(Vec::new());
        }
        let tokens = self.matcher.compute_ff_tokens();
        match self.matcher.get_error() {
            None => Ok(tokens),
            Some(said) => Err(failed(said)),
        }
    }
}
