//! Recurrent states of sequences: a slot while they run, and snapshots at ends of blocks where others may go on from.
//!
//! A state cannot be cut back, so a prefix counts as cached only as far as there is a snapshot. One is kept at the last
//! end of a block of each prompt, where a prompt leaves what others have had, and at the last end of a block of an answer.
use candle_vllm_model::Slots;

use super::Scheduler;
use crate::blocks::Chain;
use crate::sequence::{Phase, Sequence};

/// As many blocks of a prefix as have a snapshot at their end, its place, and the slot.
pub(super) type Kept = (usize, Chain, Option<u32>);

impl Scheduler {
    /// Gives back the cached blocks of a prefix behind its last snapshot, and takes that. Returns its place.
    pub(super) fn fall_back(&mut self, s: &mut Sequence, (blocks, chain, slot): Kept) -> Chain {
        s.shared = s.blocks.len() * self.pool.block_size();
        let mut behind = s.blocks.split_off(blocks);
        self.pool.release_all(&mut behind);
        if let Some(slot) = slot {
            self.states.acquire(slot);
            s.state = Some(Slots {
                read: Some(slot),
                write: slot,
            });
        }
        chain
    }

    /// A slot for what a sequence will write. False when there is none.
    pub(super) fn take_state(&mut self, s: &mut Sequence) -> bool {
        if !self.states.is_needed() {
            return true;
        }
        let mut write = self.states.allocate();
        if write.is_none() && s.state.is_some() {
            // What it would begin from may lie in the only slot there is.
            self.release(s);
            s.reset();
            s.chain = Some(Chain::root(s.salt.as_deref()));
            write = self.states.allocate();
        }
        let read = s.state.and_then(|state| state.read);
        s.state = write.map(|write| Slots { read, write });
        write.is_some()
    }

    /// Gives the slots of a sequence back.
    pub(super) fn leave_state(&mut self, s: &mut Sequence) {
        if let Some(Slots { read, write }) = s.state.take() {
            self.states.release(write);
            let other = read.filter(|read| *read != write);
            other.into_iter().for_each(|read| self.states.release(read));
        }
    }

    /// Where a prompt ends a step early, so that its state can be kept: `tokens` of it would be computed otherwise.
    pub(super) fn cut_for_state(&self, s: &Sequence, tokens: usize) -> usize {
        if s.state.is_none() || !self.limits.prefix_cache || !self.limits.chunked_prefill {
            return tokens;
        }
        let within = |end: &usize| (s.computed + 1..s.computed + tokens).contains(end);
        let end = [s.shared, self.last_end(s)]
            .into_iter()
            .filter(within)
            .min();
        end.map_or(tokens, |end| end - s.computed)
    }

    /// The last end of a block before the token whose logits are drawn from.
    fn last_end(&self, s: &Sequence) -> usize {
        let size = self.pool.block_size();
        (s.tokens.len() - 1) / size * size
    }

    /// Whether a running prompt is on its way to a snapshot that `s` can begin from, and is further than `s` would be.
    pub(super) fn is_prompt_being_computed(&self, s: &Sequence) -> bool {
        s.chain.is_some()
            && self.running.iter().any(|r| {
                let end = self.last_end(r);
                r.phase == Phase::Prefill
                    && r.chain.is_some()
                    && r.salt == s.salt
                    && (s.computed + 1..=s.reusable()).contains(&end)
                    && r.computed < end
                    && r.tokens[..end] == s.tokens[..end]
            })
    }

    /// After a step of the running sequence at `index`: what it read is done with, and what it wrote is kept where that
    /// is worth it.
    pub(super) fn keep_state(&mut self, index: usize) {
        let s = &mut self.running[index];
        let Some(Slots { read, write }) = s.state else {
            return;
        };
        if let Some(read) = read.filter(|read| *read != write) {
            self.states.release(read);
        }
        s.state = Some(Slots {
            read: Some(write),
            write,
        });
        let s = &self.running[index];
        let wanted = s.generated() > 0 || s.computed == s.shared || s.computed == self.last_end(s);
        let registered = s.registered * self.pool.block_size();
        let ends = s.computed > 0 && s.computed == registered;
        let Some(chain) = s.chain.filter(|_| wanted && ends) else {
            return;
        };
        if self.states.find(chain.node()).is_some() {
            return;
        }
        let Some(next) = self.states.allocate() else {
            return;
        };
        self.states.keep(write, chain.node());
        let s = &mut self.running[index];
        s.state = Some(Slots {
            read: Some(write),
            write: next,
        });
        if s.generated() > 0
            && let Some(before) = s.snapshot.replace(chain.node())
        {
            self.states.drop_snapshot(before);
        }
    }

    /// See `StatePool::check`.
    #[cfg(test)]
    pub(crate) fn check_states(&self) -> Result<(), String> {
        let owned = self.running.iter().filter_map(|s| s.state).flat_map(|s| {
            let read = s.read.filter(|read| *read != s.write);
            read.into_iter().chain([s.write])
        });
        self.states.check(owned)
    }
}
