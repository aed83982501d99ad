//! How a waiting sequence comes to run: what the prefix cache has of it, and room for the rest.
use crate::blocks::Chain;
use crate::sequence::{Key, Sequence};

use super::Scheduler;

/// What became of a waiting sequence.
pub(super) enum Admission {
    /// It runs, at this index.
    Running(usize),
    /// It waits for what another one computes; those behind it may go first.
    Deferred,
    /// It waits for blocks, and so do those behind it.
    NoRoom,
}

impl Scheduler {
    /// Admits a waiting sequence if its whole length, and one more block for everybody who runs and may grow, finds room.
    pub(super) fn admit(&mut self, key: Key) -> Admission {
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
}
