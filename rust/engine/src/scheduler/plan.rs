//! How a step's tokens are shared out.
use std::ops::Bound;
use std::time::Instant;

use candle_vllm_model::Step;

use super::admit::Admission;
use super::{Planned, Scheduler};
use crate::sequence::{Phase, Sequence};

/// What is left of a step's limits.
struct Room {
    tokens: usize,
    rows: usize,
    prefills: usize,
}

impl Scheduler {
    /// Decides the next step and lays it out in `step`: every decode, then pieces of prompts that run, then new prompts,
    /// each in order of service. Returns what is planned; empty only when nothing runs and nothing waits.
    pub fn schedule(&mut self, step: &mut Step, now: Instant) -> &[Planned] {
        self.plan.clear();
        let preempted = self.grow_decodes();
        let mut room = self.plan_decodes();
        for index in 0..self.running.len() {
            if self.running[index].phase == Phase::Prefill {
                self.plan_prefill(index, &mut room);
            }
        }
        // Whoever lost blocks in this step would only take them back from those that needed them.
        if !preempted {
            self.admit_all(&mut room);
        }
        self.lay_out(step, now);
        &self.plan
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
            step.push(tokens, &s.draft, s.computed, &s.blocks, p.logits);
        }
    }

    /// Plans a token for every sequence that decodes, and more for those that added or drafted several, while the step has
    /// room. What is left.
    fn plan_decodes(&mut self) -> Room {
        let decodes = |s: &&mut Sequence| s.phase == Phase::Decode;
        let count = self.running.iter_mut().filter(decodes).count();
        let mut room = Room {
            tokens: self.limits.step_tokens.saturating_sub(count),
            rows: self.limits.logits_rows,
            prefills: 0,
        };
        for (index, s) in self.running.iter_mut().enumerate() {
            if s.phase != Phase::Decode {
                continue;
            }
            let known = (s.remaining() - 1).min(room.tokens);
            room.tokens -= known;
            let complete = known + 1 == s.remaining();
            let held = s.blocks.len() * self.pool.block_size() - s.tokens.len();
            let draft = room.tokens.min(room.rows).min(held);
            s.draft.truncate(if complete { draft } else { 0 });
            s.admit_draft();
            room.tokens -= s.draft.len();
            room.rows -= s.draft.len();
            self.plan.push(Planned {
                index,
                tokens: known + 1 + s.draft.len(),
                logits: if complete { 1 + s.draft.len() } else { 0 },
                row: 0,
            });
        }
        room
    }

    /// Admits from the queue, in order of service, while there is room.
    fn admit_all(&mut self, room: &mut Room) {
        let mut cursor = None;
        // Looking past those that wait for another's prefix is bounded too, whatever the queue holds.
        let mut patience = self.limits.max_batch_size;
        while room.tokens > 0 && patience > 0 && self.running.len() < self.limits.max_batch_size {
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
            match self.admit(key) {
                Admission::Running(index) => {
                    if !self.plan_prefill(index, room) {
                        break;
                    }
                }
                Admission::Deferred => patience -= 1,
                Admission::NoRoom => break,
            }
        }
        if self.waiting.is_empty() {
            self.blocked = None;
        }
    }

    /// Gives every decode the blocks for its tokens; takes them from the last in order of service when none is left.
    fn grow_decodes(&mut self) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            let s = &self.running[index];
            if s.phase == Phase::Decode && s.blocks.len() * self.pool.block_size() < s.tokens.len()
            {
                match self.pool.allocate() {
                    Some(block) => self.running[index].blocks.push(block),
                    None => {
                        self.preempt_last();
                        preempted = true;
                        continue;
                    }
                }
            }
            index += 1;
        }
        preempted
    }

    /// The last running sequence goes back to the queue, at its old place, to be computed again.
    fn preempt_last(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let mut sequence = self.retire(self.running.len() - 1);
        sequence.reset();
        self.tally.preemptions += 1;
        self.add(sequence);
    }

    /// Plans as much of a running prompt as there is room for; false when there is none.
    fn plan_prefill(&mut self, index: usize, room: &mut Room) -> bool {
        let s = &self.running[index];
        let remaining = s.remaining();
        let mut tokens = remaining.min(room.tokens);
        if !self.limits.chunked_prefill && tokens < remaining {
            // A prompt longer than a step runs whole when it is the only prompt of its step.
            tokens = if room.prefills == 0 { remaining } else { 0 };
        }
        if tokens == 0 {
            return false;
        }
        // Logits are wanted from `reusable` on: one row, or the rows that prompt log-probabilities are made of.
        let rows =
            |tokens: usize| (s.computed + tokens).saturating_sub(s.reusable().max(s.computed));
        tokens -= rows(tokens).saturating_sub(room.rows.max(1));
        let logits = rows(tokens);
        room.tokens = room.tokens.saturating_sub(tokens);
        room.rows = room.rows.saturating_sub(logits);
        room.prefills += 1;
        self.plan.push(Planned {
            index,
            tokens,
            logits,
            row: 0,
        });
        true
    }
}
