//! Which tokens run in the next step: a token budget over sequences that all do the same thing, catch up with their
//! own length. Owns the sequences and the block pool; knows nothing of models, sampling or text.
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::blocks::{BlockPool, Chain};
use crate::sequence::{Key, Sequence};

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
    /// Whether full blocks are kept for later prompts.
    pub prefix_cache: bool,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Index into [`Scheduler::running`].
    pub index: usize,
    /// Tokens to compute, from `computed` on.
    pub tokens: usize,
    /// How many of the last of them need logits.
    pub logits: usize,
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
}

/// Sequences that wait and sequences that run.
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: BTreeMap<Key, Sequence>,
    /// In order of service.
    running: Vec<Sequence>,
    plan: Vec<Planned>,
    /// The head of the queue that found no room, and [`BlockPool::releases`] at that time.
    blocked: Option<(Key, u64)>,
    tally: Tally,
}

impl Scheduler {
    /// Nothing waits, nothing runs.
    pub fn new(limits: Limits, pool: BlockPool) -> Self {
        Self {
            limits,
            pool,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            plan: Vec::new(),
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

    /// The same, to work on.
    pub fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
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

    /// Takes the running sequence at `index` out and frees its blocks.
    pub fn retire(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.pool.release_all(&mut sequence.blocks);
        sequence
    }

    /// Takes all sequences out and frees their blocks.
    pub fn drain(&mut self) -> Vec<Sequence> {
        let mut all: Vec<_> = std::mem::take(&mut self.running);
        all.iter_mut()
            .for_each(|s| self.pool.release_all(&mut s.blocks));
        all.extend(std::mem::take(&mut self.waiting).into_values());
        self.blocked = None;
        all
    }

    /// Decides the next step: every decode, then pieces of prompts that run, then new prompts, each in order of
    /// service. Empty only when nothing runs and nothing waits.
    pub fn plan(&mut self) -> &[Planned] {
        self.plan.clear();
        let preempted = self.grow_decodes();
        let decodes = self
            .running
            .iter()
            .enumerate()
            .filter(|(_, s)| s.remaining() == 1);
        self.plan.extend(decodes.map(|(index, _)| Planned {
            index,
            tokens: 1,
            logits: 1,
        }));
        let mut room = Room {
            tokens: self.limits.step_tokens.saturating_sub(self.plan.len()),
            rows: self.limits.logits_rows,
            prefills: 0,
        };
        for index in 0..self.running.len() {
            if self.running[index].remaining() > 1 {
                self.plan_prefill(index, &mut room);
            }
        }
        // Whoever lost blocks in this step would only take them back from those that needed them.
        if !preempted {
            self.admit_all(&mut room);
        }
        &self.plan
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

    /// Gives every decode the block for its next token; takes it from the last in order of service when none is left.
    fn grow_decodes(&mut self) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            let s = &self.running[index];
            if s.remaining() == 1 && s.blocks.len() * self.pool.block_size() < s.tokens.len() {
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
        });
        true
    }

    /// Admits a waiting sequence if its whole length, and one more block for everybody who runs and may grow, finds room.
    fn admit(&mut self, key: Key) -> Admission {
        if self.blocked == Some((key, self.pool.releases())) {
            return Admission::NoRoom;
        }
        let Some(mut s) = self.waiting.remove(&key) else {
            return Admission::Deferred;
        };
        self.take_prefix(&mut s);
        let deferred = self.is_being_computed(&s);
        let needed = s.tokens.len().div_ceil(self.pool.block_size()) - s.blocks.len();
        let size = self.pool.block_size();
        let growing = |r: &&Sequence| r.longest() > r.blocks.len() * size;
        let reserve = self.running.iter().filter(growing).count();
        if deferred || self.pool.available() < needed + reserve {
            // What the prefix cache gave goes back, and that is no news for those who wait.
            self.pool.release_all(&mut s.blocks);
            s.reset();
            self.waiting.insert(key, s);
            if deferred {
                return Admission::Deferred;
            }
            self.blocked = Some((key, self.pool.releases()));
            return Admission::NoRoom;
        }
        for _ in 0..needed {
            s.blocks.extend(self.pool.allocate());
        }
        if s.started.is_none() {
            s.cached_tokens = s.computed;
            self.tally.prompt_tokens += s.prompt_len as u64;
            self.tally.prefix_hit_tokens += s.computed as u64;
        }
        self.blocked = None;
        let at = self.running.partition_point(|r| r.key() < key);
        self.plan
            .iter_mut()
            .filter(|p| p.index >= at)
            .for_each(|p| p.index += 1);
        self.running.insert(at, s);
        Admission::Running(at)
    }

    /// Whether a running sequence is about to compute the very block that `s` needs next. Then `s` waits for it: n
    /// answers to one prompt, or many requests with one preamble, compute it once.
    fn is_being_computed(&self, s: &Sequence) -> bool {
        let block = s.computed..s.computed + self.pool.block_size();
        if s.chain.is_none() || block.end > s.reusable() {
            return false;
        }
        let wanted = &s.tokens[block.clone()];
        self.running.iter().any(|r| {
            r.chain == s.chain
                && r.registered == s.registered
                && r.salt == s.salt
                && r.tokens.get(block.clone()) == Some(wanted)
        })
    }

    /// Takes the cached blocks that hold the beginning of a sequence.
    fn take_prefix(&mut self, s: &mut Sequence) {
        if !self.limits.prefix_cache {
            return;
        }
        let size = self.pool.block_size();
        let mut chain = Chain::root(s.salt.as_deref());
        for tokens in s.tokens[..s.reusable()].chunks_exact(size) {
            let Some((block, next)) = self.pool.find(chain, s.salt.as_deref(), tokens) else {
                break;
            };
            self.pool.acquire(block);
            s.blocks.push(block);
            chain = next;
        }
        s.registered = s.blocks.len();
        s.computed = s.registered * size;
        s.chain = Some(chain);
    }

    /// Records that `tokens` more tokens of a running sequence are in the cache, and offers its full blocks for reuse.
    pub fn advance(&mut self, index: usize, tokens: usize) {
        let s = &mut self.running[index];
        s.computed += tokens;
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

/// What became of a waiting sequence.
enum Admission {
    /// It runs, at this index.
    Running(usize),
    /// It waits for what another one computes; those behind it may go first.
    Deferred,
    /// It waits for blocks, and so do those behind it.
    NoRoom,
}

/// What is left of a step's limits.
struct Room {
    tokens: usize,
    rows: usize,
    prefills: usize,
}
