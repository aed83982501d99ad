//! How a waiting sequence comes to run: what the prefix cache has of it, and room for the rest.
use crate::blocks::Chain;
use crate::sequence::{Key, Phase, Sequence};
use crate::stats::CachedPrefix;

use super::Scheduler;

/// What became of a waiting sequence.
pub(super) enum Admission {
    /// It runs, at this index.
    Running(usize),
    /// It waits for others to be computed; those behind it may go first.
    Deferred,
    /// It waits for blocks, and so do those behind it.
    NoRoom,
}

/// Long prompts that are computed at a time: one in order of service and one beside it.
const LONG: usize = 2;

/// What the prompts that run ask of a step.
pub(super) struct Demand {
    /// Tokens of the step that prompts may have.
    room: usize,
    /// A prompt beyond this is long; without pieces there are no long ones.
    long: usize,
    /// Tokens of all others.
    short_tokens: usize,
}

impl Demand {
    /// The demand of those that run.
    pub fn of(running: &[Sequence], room: usize, pieces: bool) -> Self {
        let mut demand = Self {
            room,
            long: if pieces { room.div_ceil(2) } else { usize::MAX },
            short_tokens: 0,
        };
        let prefills = running.iter().filter(|s| s.phase == Phase::Prefill);
        prefills.for_each(|s| demand.add(s));
        demand
    }

    /// One more prompt runs.
    pub fn add(&mut self, s: &Sequence) {
        if !self.is_long(s) {
            self.short_tokens += s.remaining();
        }
    }

    /// Whether another prompt would get nothing of the step.
    pub fn is_met(&self) -> bool {
        self.short_tokens >= self.room
    }

    fn is_long(&self, s: &Sequence) -> bool {
        s.remaining() > self.long
    }

    /// Steps that a prompt takes at most once it runs, if nobody else decodes more than now.
    fn steps(&self, s: &Sequence) -> usize {
        s.remaining().div_ceil(self.long.min(self.room).max(1))
    }
}

impl Scheduler {
    /// Admits a waiting sequence if its whole length finds room, beside what those who run will need until it is
    /// computed.
    pub(super) fn admit(&mut self, key: Key, demand: &Demand) -> Admission {
        if self.blocked == Some((key, self.releases())) {
            return Admission::NoRoom;
        }
        let Some(mut s) = self.waiting.remove(&key) else {
            return Admission::Deferred;
        };
        self.take_prefix(&mut s);
        let deferred = self.is_one_too_many(&s, demand) || self.is_being_computed(&s);
        let room = !deferred && self.fits(&s, demand) && self.take_state(&mut s);
        // Without a slot for what it would begin from, it begins anew.
        if !room || !self.fits(&s, demand) {
            // What the prefix cache gave goes back, and that is no news for those who wait.
            self.release(&mut s);
            s.reset();
            self.waiting.insert(key, s);
            if deferred {
                return Admission::Deferred;
            }
            self.blocked = Some((key, self.releases()));
            return Admission::NoRoom;
        }
        for _ in 0..self.needed(&s) {
            s.blocks.extend(self.pool.allocate());
        }
        if s.started.is_none() {
            s.cached_tokens = s.computed;
            self.tally.prompt_tokens += s.prompt_len as u64;
            self.tally.prefix_hit_tokens += s.computed as u64;
        }
        self.blocked = None;
        let at = self.running.partition_point(|r| r.key() < key);
        self.running.insert(at, s);
        Admission::Running(at)
    }

    /// Blocks that a sequence lacks.
    fn needed(&self, s: &Sequence) -> usize {
        s.tokens.len().div_ceil(self.pool.block_size()) - s.blocks.len()
    }

    fn fits(&self, s: &Sequence, demand: &Demand) -> bool {
        self.pool.available() >= self.needed(s) + self.reserve(demand.steps(s))
    }

    /// Whether a long prompt would run beside as many as may, none of which is of lesser priority.
    fn is_one_too_many(&self, s: &Sequence, demand: &Demand) -> bool {
        let before = |r: &&Sequence| {
            r.phase == Phase::Prefill && demand.is_long(r) && r.priority <= s.priority
        };
        demand.is_long(s) && self.running.iter().filter(before).count() >= LONG
    }

    /// Blocks that those who run will ask for within so many steps: at least one each, unless it has all it ever needs.
    fn reserve(&self, steps: usize) -> usize {
        let size = self.pool.block_size();
        let growth = |r: &Sequence| {
            let held = r.blocks.len();
            let then = (r.tokens.len() + steps)
                .max(held * size + 1)
                .min(r.longest());
            then.div_ceil(size).saturating_sub(held)
        };
        self.running.iter().map(growth).sum()
    }

    /// Whether a running sequence is about to compute the very block that `s` needs next. Then `s` waits for it: n
    /// answers to one prompt, or many requests with one preamble, compute it once.
    fn is_being_computed(&self, s: &Sequence) -> bool {
        if self.states.is_needed() {
            return self.is_prompt_being_computed(s);
        }
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

    /// What of a prompt the prefix cache holds now. Takes nothing.
    pub fn cached_prefix(&mut self, tokens: &[u32], salt: Option<&str>) -> CachedPrefix {
        let mut found = CachedPrefix::default();
        if !self.limits.prefix_cache {
            return found;
        }
        // The last token's logits are always computed.
        let tokens = &tokens[..tokens.len().saturating_sub(1)];
        let (mut chain, mut held) = (Chain::root(salt), 0);
        for block in tokens.chunks_exact(self.pool.block_size()) {
            let Some((_, next)) = self.pool.find(chain, salt, block) else {
                break;
            };
            held += block.len();
            chain = next;
            if !self.states.is_needed() || self.states.find(chain.node()).is_some() {
                found.tokens = held;
            }
        }
        let (common, otherwise) = self.pool.begins(chain, salt, &tokens[held..]);
        found.diverges_at = otherwise.then_some(held + common);
        found
    }

    /// Takes the cached blocks that hold the beginning of a sequence.
    fn take_prefix(&mut self, s: &mut Sequence) {
        if !self.limits.prefix_cache {
            return;
        }
        let size = self.pool.block_size();
        let mut chain = Chain::root(s.salt.as_deref());
        let mut kept = (0, chain, None);
        for tokens in s.tokens[..s.reusable()].chunks_exact(size) {
            let Some((block, next)) = self.pool.find(chain, s.salt.as_deref(), tokens) else {
                break;
            };
            self.pool.acquire(block);
            s.blocks.push(block);
            chain = next;
            if let Some(slot) = self.states.find(chain.node()) {
                kept = (s.blocks.len(), chain, Some(slot));
            }
        }
        if self.states.is_needed() {
            chain = self.fall_back(s, kept);
        }
        s.registered = s.blocks.len();
        s.computed = s.registered * size;
        s.chain = Some(chain);
    }
}
