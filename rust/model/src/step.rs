//! One step: the tokens of all sequences that run now, flattened, and where each sequence's keys and values live.
//! Knows nothing of requests, sampling or scheduling.
use std::ops::Range;

/// Where the recurrent state of a sequence lies during a step, as slots of [`crate::Kv::states`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// The state after the tokens before the step's; `None` = there are none. It stays as it is, unless it is `write`.
    pub read: Option<u32>,
    /// Where the state after the step's tokens goes; no other sequence of the step has this slot.
    pub write: u32,
}

/// The part of a step that belongs to one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// This sequence's rows in [`Step::tokens`].
    pub tokens: Range<usize>,
    /// Position of the first of these tokens in the sequence: the number of tokens already in the cache.
    pub position: usize,
    /// This sequence's block table as a range of [`Step::blocks`]; it covers `position + tokens.len()` tokens at least.
    pub blocks: Range<usize>,
    /// Rows (indices into [`Step::tokens`], inside `tokens`) whose logits are wanted; may be empty.
    pub logits: Range<usize>,
    /// Its state, of models that keep one.
    pub state: Option<Slots>,
}

/// The input of one forward pass. Reused from step to step, so that nothing is allocated per token.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// New token ids of all sequences, one sequence after the other.
    pub tokens: Vec<u32>,
    /// Block tables of all sequences, one after the other: physical block numbers in order of position.
    pub blocks: Vec<u32>,
    /// One entry a sequence, in row order.
    pub slices: Vec<Slice>,
}

impl Step {
    /// Empties the step and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.blocks.clear();
        self.slices.clear();
    }

    /// Adds one sequence's part: tokens that it has, and behind them a `draft` of what may follow. `logits` is how many
    /// of its last rows need logits. Returns the part, which says nothing of a state yet.
    pub fn push(
        &mut self,
        tokens: &[u32],
        draft: &[u32],
        position: usize,
        blocks: &[u32],
        logits: usize,
    ) -> &mut Slice {
        let (t, b) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.tokens.extend_from_slice(draft);
        self.blocks.extend_from_slice(blocks);
        let end = self.tokens.len();
        self.slices.push(Slice {
            tokens: t..end,
            position,
            blocks: b..self.blocks.len(),
            logits: end - logits.min(end - t)..end,
            state: None,
        });
        let last = self.slices.len() - 1;
        &mut self.slices[last]
    }

    /// The rows whose logits are wanted, as a step of their own: what is left to do once nobody reads the others, and no
    /// state is brought further.
    pub fn wanted(&self) -> Step {
        let mut few = Step::default();
        for s in self.slices.iter().filter(|s| !s.logits.is_empty()) {
            let (tokens, blocks) = (
                &self.tokens[s.logits.clone()],
                &self.blocks[s.blocks.clone()],
            );
            let position = s.position + (s.logits.start - s.tokens.start);
            few.push(tokens, &[], position, blocks, tokens.len());
        }
        few
    }

    /// Rows of logits that this step asks for, over all sequences.
    pub fn logits_rows(&self) -> usize {
        self.slices.iter().map(|s| s.logits.len()).sum()
    }
}
