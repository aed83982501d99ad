//! How a step's tokens are shared out.
//!
//! 1. Every sequence that decodes gets its tokens first; a step has room for all of them.
//! 2. What is left belongs to prompts. One alone gets all of it. Of several the first in order of service gets half, so
//!    that nobody starves, and the rest goes to those of the best priority that have fewest tokens left, so that short
//!    prompts do not wait for long ones: beside any number of long prompts, short ones of n tokens in all begin to speak
//!    after `2 n / step_tokens` steps.
//! 3. A prompt is long when it does not fit into that half. Two long ones of a priority are computed at a time, and short
//!    ones overtake those that wait for them.
//! 4. What is left then may be spent on drafts.
//!
//! Blocks: a sequence is admitted with the blocks for all of its tokens, while those who run keep what they will need
//! until its prompt is computed. When a decode finds no block, the last one in order of service gives up its own and
//! waits again; but who has given up once is spared until it has said something new. Whoever finds none even so waits.
use std::ops::Bound;
use std::time::Instant;

use candle_vllm_model::Step;

use super::admit::{Admission, Demand};
use super::{Planned, Scheduler};
use crate::sequence::{Phase, Sequence};

/// What is left of a step's limits.
struct Room {
    tokens: usize,
    rows: usize,
}

impl Scheduler {
    /// Decides the next step and lays it out in `step`. Returns what is planned; empty only when nothing runs and nothing
    /// waits.
    pub fn schedule(&mut self, step: &mut Step, now: Instant) -> &[Planned] {
        self.plan.clear();
        let scarce = self.grow_decodes();
        let decodes = self.running.iter().filter(|s| self.decodes(s)).count();
        let mut room = Room {
            tokens: self.limits.step_tokens.saturating_sub(decodes),
            rows: self.limits.logits_rows,
        };
        // Whoever came now would only take blocks from those that lack them.
        if !scarce {
            self.admit_all(room.tokens);
        }
        self.plan_decodes(&mut room);
        self.plan_prefills(&mut room);
        self.plan_drafts(&mut room);
        self.lay_out(step, now);
        &self.plan
    }

    /// Whether a sequence decodes and has the blocks for it.
    fn decodes(&self, s: &Sequence) -> bool {
        s.phase == Phase::Decode && s.tokens.len() <= s.blocks.len() * self.pool.block_size()
    }

    /// Flattens the planned tokens into the model's input.
    fn lay_out(&mut self, step: &mut Step, now: Instant) {
        step.clear();
        let mut row = 0;
        for p in &mut self.plan {
            let s = &mut self.running[p.index];
            s.started.get_or_insert(now);
            p.row = row;
            row += p.logits;
            let known = p.tokens - s.draft.len();
            let tokens = &s.tokens[s.computed..s.computed + known];
            let part = step.push(tokens, &s.draft, s.computed, &s.blocks, p.logits);
            part.state = s.state;
        }
    }

    /// Gives every decode the blocks for its tokens. True when there were not enough.
    fn grow_decodes(&mut self) -> bool {
        let mut scarce = false;
        let mut index = 0;
        while index < self.running.len() {
            let s = &self.running[index];
            if s.phase != Phase::Decode || self.decodes(s) {
                index += 1;
            } else if let Some(block) = self.pool.allocate() {
                self.running[index].blocks.push(block);
            } else {
                scarce = true;
                match self.running[index + 1..].iter().rposition(|s| !s.spared) {
                    Some(behind) => self.preempt(index + 1 + behind),
                    None => index += 1,
                }
            }
        }
        scarce
    }

    /// A running sequence goes back to the queue, at its old place, to be computed again.
    fn preempt(&mut self, index: usize) {
        let mut sequence = self.retire(index);
        sequence.reset();
        sequence.spared = true;
        self.tally.preemptions += 1;
        self.add(sequence);
    }

    /// Admits from the queue, in order of service, until the prompts that run fill `room`.
    fn admit_all(&mut self, room: usize) {
        let mut demand = Demand::of(&self.running, room, self.limits.chunked_prefill);
        let mut cursor = None;
        // Looking past those that wait for others is bounded, whatever the queue holds.
        let mut patience = self.limits.max_batch_size;
        while !demand.is_met() && patience > 0 && self.running.len() < self.limits.max_batch_size {
            let next = match cursor {
                None => self.waiting.keys().next(),
                Some(key) => self
                    .waiting
                    .range((Bound::Excluded(key), Bound::Unbounded))
                    .next()
                    .map(|(k, _)| k),
            };
            let Some(&key) = next else { break };
            cursor = Some(key);
            match self.admit(key, &demand) {
                Admission::Running(index) => demand.add(&self.running[index]),
                Admission::Deferred => patience -= 1,
                Admission::NoRoom => break,
            }
        }
        if self.waiting.is_empty() {
            self.blocked = None;
        }
    }

    /// Plans the tokens that decodes have added: one each, and of those that added several what there is room for.
    fn plan_decodes(&mut self, room: &mut Room) {
        for index in 0..self.running.len() {
            let s = &self.running[index];
            if !self.decodes(s) {
                continue;
            }
            let more = (s.remaining() - 1).min(room.tokens);
            room.tokens -= more;
            self.plan.push(Planned {
                index,
                tokens: 1 + more,
                logits: usize::from(1 + more == s.remaining()),
                row: 0,
            });
        }
    }

    /// Shares the room among the prompts that run.
    fn plan_prefills(&mut self, room: &mut Room) {
        let mut queue = std::mem::take(&mut self.queue);
        queue.clear();
        let prefills = self.running.iter().enumerate();
        queue.extend(
            prefills
                .filter(|(_, s)| s.phase == Phase::Prefill)
                .map(|(i, _)| (i, 0)),
        );
        match queue.len() {
            0 => {}
            _ if !self.limits.chunked_prefill => self.share_whole(&mut queue, room.tokens),
            _ => self.share_in_pieces(&mut queue, room.tokens),
        }
        for &(index, tokens) in &queue {
            self.plan_prefill(index, tokens, room);
        }
        self.queue = queue;
    }

    /// Rule 2. `queue`: indices in order of service; each gets its tokens.
    fn share_in_pieces(&self, queue: &mut [(usize, usize)], room: usize) {
        let remaining = |index: usize| self.running[index].remaining();
        let (first, half) = (queue[0].0, room.div_ceil(2));
        let reserved = if queue.len() > 1 {
            remaining(first).min(half)
        } else {
            0
        };
        let mut left = room - reserved;
        queue.sort_unstable_by_key(|&(index, _)| {
            let s = &self.running[index];
            let taken = if index == first { reserved } else { 0 };
            (s.priority, s.remaining() - taken, s.id)
        });
        for (index, tokens) in queue {
            let taken = if *index == first { reserved } else { 0 };
            let more = (remaining(*index) - taken).min(left);
            left -= more;
            *tokens = taken + more;
        }
    }

    /// Without pieces: each whole, in order of service, while they fit; the first of them even if it does not, up to what
    /// the memory for activations allows (one that was preempted may have grown beyond).
    fn share_whole(&self, queue: &mut [(usize, usize)], mut room: usize) {
        for (place, (index, tokens)) in queue.iter_mut().enumerate() {
            let remaining = self.running[*index].remaining();
            if remaining <= room || place == 0 {
                *tokens = remaining.min(self.limits.whole_tokens);
                room = room.saturating_sub(*tokens);
            }
        }
    }

    /// Plans so many tokens of a prompt, or fewer where prompt log-probabilities would need too many rows of logits.
    fn plan_prefill(&mut self, index: usize, mut tokens: usize, room: &mut Room) {
        if tokens == 0 {
            return;
        }
        let s = &self.running[index];
        tokens = self.cut_for_state(s, tokens);
        // Logits are wanted from `reusable` on: one row, or the rows that prompt log-probabilities are made of.
        let rows =
            |tokens: usize| (s.computed + tokens).saturating_sub(s.reusable().max(s.computed));
        tokens -= rows(tokens).saturating_sub(room.rows.max(1));
        let logits = rows(tokens);
        room.tokens = room.tokens.saturating_sub(tokens);
        room.rows = room.rows.saturating_sub(logits);
        self.plan.push(Planned {
            index,
            tokens,
            logits,
            row: 0,
        });
    }

    /// Rule 4: drafts for decodes that are complete, as far as they pay and there is room for them.
    fn plan_drafts(&mut self, room: &mut Room) {
        let Some(price) = &mut self.price else {
            return;
        };
        let size = self.pool.block_size();
        price.open(self.plan.iter().map(|p| p.tokens).sum());
        for p in &mut self.plan {
            let s = &mut self.running[p.index];
            if s.phase != Phase::Decode || !p.completes(s) {
                continue;
            }
            // A block that nobody else lacks may be taken for it.
            let lacks = |s: &Sequence| (s.blocks.len() * size).saturating_sub(s.tokens.len()) < 1;
            if lacks(s) && self.pool.available() > self.limits.max_batch_size {
                s.blocks.extend(self.pool.allocate());
            }
            let held = (s.blocks.len() * size).saturating_sub(s.tokens.len());
            s.make_draft(room.tokens.min(room.rows).min(held), price);
            room.tokens -= s.draft.len();
            room.rows -= s.draft.len();
            p.tokens += s.draft.len();
            p.logits += s.draft.len();
        }
    }

    /// Takes note of how long the planned step took the model. Steps that compute prompts tell nothing of drafts.
    pub fn observe(&mut self, micros: f32) {
        let decodes = |p: &Planned| p.tokens == p.logits;
        if let Some(price) = self
            .price
            .as_mut()
            .filter(|_| self.plan.iter().all(decodes))
        {
            price.observe(self.plan.iter().map(|p| p.tokens).sum(), micros);
        }
    }
}
