//! What becomes of the sequences after a step: tokens are taken over, blocks offered for reuse, ended ones leave.
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Scheduler;
use crate::event::{Event, FinishReason};
use crate::mailbox::Inner;
use crate::runner::Output;

impl Scheduler {
    /// Books the planned step: one of `outputs` for each planned sequence, in order. `tell` gets what there is to tell.
    /// Sequences that end, and those that nobody listens to, leave and free their blocks.
    pub fn postprocess(
        &mut self,
        outputs: impl IntoIterator<Item = Output>,
        now: Instant,
        mut tell: impl FnMut(Event, &Weak<Inner>),
    ) {
        let mut gone = std::mem::take(&mut self.gone);
        for (place, output) in outputs.into_iter().enumerate() {
            let p = self.plan[place];
            let s = &mut self.running[p.index];
            let complete = p.completes(s);
            self.tally.drafted_tokens += s.draft.len() as u64;
            let kept = output.tokens.len().saturating_sub(1).min(s.draft.len());
            self.tally.kept_tokens += kept as u64;
            if let Some(event) = s.take(p.tokens, complete, output, now) {
                if event.finish.is_some() {
                    gone.push(p.index);
                }
                tell(event, &s.mailbox);
            }
            self.register(p.index);
            self.keep_state(p.index);
        }
        for (index, s) in self.running.iter_mut().enumerate() {
            if s.unheard() && !gone.contains(&index) {
                tell(s.end(FinishReason::Cancelled, None, now), &s.mailbox);
                gone.push(index);
            }
        }
        // From the back, so that indices stay true.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for index in gone.drain(..) {
            drop(self.retire(index));
        }
        self.gone = gone;
    }

    /// Ends all planned sequences with an error, and no others.
    pub fn fail_planned(
        &mut self,
        message: &str,
        now: Instant,
        mut tell: impl FnMut(Event, &Weak<Inner>),
    ) {
        let mut indices: Vec<usize> = self.plan.drain(..).map(|p| p.index).collect();
        indices.sort_unstable_by(|a, b| b.cmp(a));
        for index in indices {
            let mut s = self.retire(index);
            let event = s.end(FinishReason::Error, Some(message.to_owned()), now);
            tell(event, &s.mailbox);
        }
    }

    /// Offers the full, computed blocks of a running sequence for reuse.
    fn register(&mut self, index: usize) {
        let s = &mut self.running[index];
        let size = self.pool.block_size();
        while let Some(chain) = s.chain
            && (s.registered + 1) * size <= s.computed
        {
            let at = s.registered;
            let content = &s.tokens[at * size..(at + 1) * size];
            let salt: Option<&Arc<str>> = s.salt.as_ref();
            match self.pool.register(chain, salt, content, s.blocks[at]) {
                Some((block, next)) => {
                    s.blocks[at] = block;
                    s.registered += 1;
                    s.chain = Some(next);
                }
                None => s.chain = None,
            }
        }
    }
}
