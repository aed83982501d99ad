//! Which tokens run in the next step: a token budget over sequences that all do the same thing, catch up with their
//! own length. Owns the sequences and the block pool; knows nothing of models, sampling or text.
mod admit;
mod plan;
mod postprocess;
mod state;

use std::collections::BTreeMap;
use std::ops::Bound;

use candle_vllm_kernels::cpu::Compute;

use crate::blocks::BlockPool;
use crate::constraint::{Finders, find};
use crate::sampler::Masks;
use crate::sequence::{Key, Sequence};
use crate::speculation::Price;
use crate::states::StatePool;

/// Limits of a step.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences that run at once.
    pub max_batch_size: usize,
    /// Tokens of one step at most.
    pub step_tokens: usize,
    /// Rows of logits of one step at most, beside one a sequence; only prompt log-probabilities ask for more.
    pub logits_rows: usize,
    /// Whether a prompt may be computed in pieces.
    pub chunked_prefill: bool,
    /// Tokens of a step at most where a prompt is computed whole.
    pub whole_tokens: usize,
    /// What drafts cost at first; `None` = there are none.
    pub speculation: Option<Price>,
    /// Whether full blocks are kept for later prompts.
    pub prefix_cache: bool,
    /// Slots for recurrent states; 0 where the model keeps none.
    pub states: usize,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Index into [`Scheduler::running`].
    pub index: usize,
    /// Tokens to compute, from `computed` on, the draft among them.
    pub tokens: usize,
    /// How many of the last of them need logits.
    pub logits: usize,
    /// The first row of the step's logits that is this sequence's.
    pub row: usize,
}

impl Planned {
    /// Whether all of the sequence's tokens are computed after this step, so that the next one is drawn.
    pub fn completes(&self, s: &Sequence) -> bool {
        self.tokens == s.remaining() + s.draft.len()
    }
}

/// What the scheduler counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Prompt tokens admitted.
    pub prompt_tokens: u64,
    /// Of these, from the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Tokens drafted.
    pub drafted_tokens: u64,
    /// Of these, those that came true.
    pub kept_tokens: u64,
}

/// Sequences that wait and sequences that run.
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    states: StatePool,
    waiting: BTreeMap<Key, Sequence>,
    /// In order of service.
    running: Vec<Sequence>,
    plan: Vec<Planned>,
    /// What drafts cost now.
    price: Option<Price>,
    /// Prompts that share a step, as indices, and the tokens each gets.
    queue: Vec<(usize, usize)>,
    /// Indices of sequences that leave, while a step is booked.
    gone: Vec<usize>,
    /// The waiting sequence up to which the queue was swept.
    swept: Option<Key>,
    /// The head of the queue that found no room, and [`Scheduler::releases`] at that time.
    blocked: Option<(Key, u64)>,
    tally: Tally,
}

impl Scheduler {
    /// Nothing waits, nothing runs.
    pub fn new(limits: Limits, pool: BlockPool) -> Self {
        Self {
            limits,
            pool,
            states: StatePool::new(limits.states),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            plan: Vec::new(),
            price: limits.speculation,
            queue: Vec::new(),
            gone: Vec::new(),
            swept: None,
            blocked: None,
            tally: Tally::default(),
        }
    }

    /// The block pool.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Sequences that hold blocks, in order of service.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// What the last [`Scheduler::schedule`] decided.
    pub fn planned(&self) -> &[Planned] {
        &self.plan
    }

    /// Begins the masks of the planned step.
    pub(crate) fn start_masks(&mut self, finders: &Finders) {
        for p in &self.plan {
            let s = &mut self.running[p.index];
            if p.completes(s) {
                s.start_masks(finders);
            }
        }
    }

    /// Finds the masks of the planned step that nobody has begun, on the model's threads.
    pub fn find_masks(&self, compute: &Compute) {
        let drawn = self.plan.iter().map(|p| (p, &self.running[p.index]));
        let rules = drawn
            .filter(|(p, s)| p.completes(s))
            .filter_map(|(_, s)| s.constraint.as_ref());
        let rules: Vec<_> = rules.collect();
        if rules.len() > 1 {
            compute.pool.for_each(rules.len(), &|i| find(rules[i]));
        }
    }

    /// Waits for the masks of the planned step.
    pub fn fill_masks(&mut self, masks: &mut Masks) {
        for p in &self.plan {
            let s = &mut self.running[p.index];
            if p.completes(s) {
                s.fill_masks(p.row + p.logits - 1 - s.draft.len(), masks);
            }
        }
    }

    /// Number of sequences that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the queue stands still for want of blocks.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Counters.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Puts a sequence into the queue.
    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.key(), sequence);
    }

    /// Takes a sequence out, wherever it is, and frees its blocks.
    pub fn remove(&mut self, id: u64) -> Option<Sequence> {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            return Some(self.retire(index));
        }
        let key = self.waiting.keys().find(|key| key.1 == id).copied()?;
        self.waiting.remove(&key)
    }

    /// Takes the running sequence at `index` out and frees its blocks and its state.
    fn retire(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.release(&mut sequence);
        sequence
    }

    /// Gives back what a sequence holds.
    fn release(&mut self, s: &mut Sequence) {
        self.pool.release_all(&mut s.blocks);
        self.leave_state(s);
    }

    /// Grows whenever something is given back that sequences may wait for.
    fn releases(&self) -> u64 {
        self.pool.releases() + self.states.releases()
    }

    /// Takes out waiting sequences that nobody listens to; looks at a few a call, and at the whole queue in turn.
    pub fn sweep(&mut self, mut gone: impl FnMut(Sequence)) {
        const FEW: usize = 16;
        let from = self.swept.map_or(Bound::Unbounded, Bound::Excluded);
        let mut few = self.waiting.range((from, Bound::Unbounded)).take(FEW);
        let mut unheard = Vec::new();
        self.swept = None;
        for (&key, s) in &mut few {
            self.swept = Some(key);
            if s.unheard() {
                unheard.push(key);
            }
        }
        for key in unheard {
            self.waiting.remove(&key).into_iter().for_each(&mut gone);
        }
    }

    /// Takes all sequences out and frees their blocks.
    pub fn drain(&mut self) -> Vec<Sequence> {
        let mut all: Vec<_> = std::mem::take(&mut self.running);
        all.iter_mut().for_each(|s| self.release(s));
        all.extend(std::mem::take(&mut self.waiting).into_values());
        self.blocked = None;
        all
    }
}
