//! The pool of slots for recurrent states: what running sequences write, and snapshots of what they had at the end of a
//! cached block, so that a prompt with that beginning need not compute it again.
//!
//! Nothing is ever copied here: a sequence leaves its slot behind as a snapshot, reads it once more and writes into
//! another. Knows slot numbers and places in the tree of prefixes; nothing of what a state holds.
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    owners: u32,
    /// The place whose state it holds ([`crate::blocks::Chain::node`]); 0 = it is no snapshot.
    node: u64,
    used: u64,
}

/// All slots of an engine.
#[derive(Debug, Default)]
pub struct StatePool {
    slots: Vec<Slot>,
    by_node: HashMap<u64, u32>,
    clock: u64,
    releases: u64,
}

impl StatePool {
    /// `slots` free slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::default(); slots],
            ..Self::default()
        }
    }

    /// Whether the model keeps states at all.
    pub fn is_needed(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Grows whenever a slot loses an owner, as [`crate::blocks::BlockPool::releases`].
    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// Snapshots.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.by_node.len()
    }

    /// The snapshot of a place. Does not take it.
    pub fn find(&self, node: u64) -> Option<u32> {
        self.by_node.get(&node).copied()
    }

    /// One more owner of a slot that has owners or is a snapshot.
    pub fn acquire(&mut self, slot: u32) {
        self.clock += 1;
        let s = &mut self.slots[slot as usize];
        s.owners += 1;
        s.used = self.clock;
    }

    /// One owner less; a snapshot stays until its slot is needed.
    pub fn release(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        debug_assert!(s.owners > 0, "state slot {slot} released twice");
        s.owners = s.owners.saturating_sub(1);
        self.releases += 1;
    }

    /// A slot for one owner: a free one, else the snapshot that was not used for longest; `None` when all are owned.
    pub fn allocate(&mut self) -> Option<u32> {
        let unowned = self.slots.iter().enumerate().filter(|(_, s)| s.owners == 0);
        let (at, _) = unowned.min_by_key(|(_, s)| (s.node != 0, s.used))?;
        self.forget(at as u32);
        self.acquire(at as u32);
        Some(at as u32)
    }

    /// Makes a slot the snapshot of a place that has none.
    pub fn keep(&mut self, slot: u32, node: u64) {
        self.by_node.insert(node, slot);
        self.slots[slot as usize].node = node;
    }

    /// A snapshot that nobody owns gives its slot back.
    pub fn drop_snapshot(&mut self, node: u64) {
        if let Some(slot) = self.find(node)
            && self.slots[slot as usize].owners == 0
        {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: u32) {
        let node = std::mem::take(&mut self.slots[slot as usize].node);
        self.by_node.remove(&node);
    }

    /// Proves the books: slots are owned as often as `owned` names them.
    #[cfg(test)]
    pub fn check(&self, owned: impl Iterator<Item = u32>) -> Result<(), String> {
        let mut owners = vec![0u32; self.slots.len()];
        owned.for_each(|slot| owners[slot as usize] += 1);
        for (i, s) in self.slots.iter().enumerate() {
            if s.owners != owners[i] {
                return Err(format!(
                    "state slot {i}: {} owners, {} known",
                    s.owners, owners[i]
                ));
            }
            if s.node != 0 && self.find(s.node) != Some(i as u32) {
                return Err(format!("state slot {i} is a snapshot and not found"));
            }
        }
        match self
            .by_node
            .values()
            .all(|&s| self.slots[s as usize].node != 0)
        {
            true => Ok(()),
            false => Err("a snapshot is found that is none".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn free_slots_go_first_then_snapshots_by_their_last_use_and_owned_ones_never() {
        let mut pool = StatePool::new(3);
        assert!(pool.is_needed() && !StatePool::new(0).is_needed());
        let [a, b] = [(); 2].map(|()| pool.allocate().unwrap());
        pool.keep(a, 7);
        pool.keep(b, 8);
        pool.release(a);
        pool.release(b);
        let c = pool.allocate().unwrap();
        assert!(c != a && c != b);
        assert_eq!((pool.find(7), pool.find(8)), (Some(a), Some(b)));
        // Used again, so that the other one is older.
        pool.acquire(a);
        pool.release(a);
        assert_eq!(pool.allocate(), Some(b));
        assert_eq!(pool.find(8), None);
        pool.acquire(a);
        assert_eq!(pool.allocate(), None);
        pool.drop_snapshot(7);
        assert_eq!(pool.find(7), Some(a), "somebody reads it");
        pool.release(a);
        pool.drop_snapshot(7);
        assert_eq!((pool.find(7), pool.kept()), (None, 0));
        pool.check([b, c].into_iter()).unwrap();
        assert!(pool.check([b].into_iter()).is_err());
        assert_eq!(StatePool::new(0).allocate(), None);
    }
}
