//! The pool of KV blocks: reference counts, the prefix cache over full blocks, and eviction of what nobody uses.
//! Knows block numbers and token ids only; nothing of sequences, scheduling or what a block holds.
use std::collections::HashMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

const NONE: u32 = u32::MAX;

/// A place in the tree of cached prefixes: the node that stands for all tokens up to a block's end.
///
/// `node` is unique per registered block and never used again, so equal nodes mean equal prefixes, token by token:
/// a child is found only under the very node it was registered under. `hash` merely finds it fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    node: u64,
    hash: u64,
}

impl Chain {
    /// The start of every sequence with this salt.
    pub fn root(salt: Option<&str>) -> Self {
        Self {
            node: 0,
            hash: salt.map_or(0, |s| xxh3_64_with_seed(s.as_bytes(), 1)),
        }
    }

    /// The number of this place: never 0 but at the start, and never used again.
    pub fn node(self) -> u64 {
        self.node
    }
}

#[derive(Debug, Clone)]
struct Block {
    refs: u32,
    /// 0 = not in the prefix cache.
    node: u64,
    parent: u64,
    hash: u64,
    salt: Option<Arc<str>>,
    older: u32,
    newer: u32,
}

/// All KV blocks of an engine.
pub struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    /// Token ids of cached blocks, `block_size` each.
    tokens: Vec<u32>,
    free: Vec<u32>,
    by_hash: HashMap<u64, u32>,
    /// Ends of the list of cached blocks that nobody uses, by time of their last release.
    oldest: u32,
    newest: u32,
    idle: usize,
    next_node: u64,
    releases: u64,
    bytes: Vec<u8>,
}

impl BlockPool {
    /// `blocks` free blocks of `block_size` tokens.
    pub fn new(blocks: usize, block_size: usize) -> Self {
        let empty = Block {
            refs: 0,
            node: 0,
            parent: 0,
            hash: 0,
            salt: None,
            older: NONE,
            newer: NONE,
        };
        Self {
            block_size,
            blocks: vec![empty; blocks],
            tokens: vec![0; blocks * block_size],
            free: (0..blocks as u32).rev().collect(),
            by_hash: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            idle: 0,
            next_node: 1,
            releases: 0,
            bytes: Vec::with_capacity(block_size * 4),
        }
    }

    /// Tokens a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of blocks.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that `allocate` can give: never used, or cached and used by nobody.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Cached blocks, used or not.
    pub fn cached(&self) -> usize {
        self.by_hash.len()
    }

    /// Grows whenever blocks are given back; what failed for want of blocks need not be tried again before it does.
    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// A block for one owner, its old content forgotten; `None` when all are in use.
    pub fn allocate(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None if self.oldest != NONE => {
                let block = self.oldest;
                self.unlink(block);
                self.forget(block);
                block
            }
            None => return None,
        };
        self.blocks[block as usize].refs = 1;
        Some(block)
    }

    /// One more owner of a block that has owners or is cached.
    pub fn acquire(&mut self, block: u32) {
        if self.blocks[block as usize].refs == 0 {
            self.unlink(block);
        }
        self.blocks[block as usize].refs += 1;
    }

    /// One owner less; the last one gives the block back, cached content stays until it is evicted.
    pub fn release(&mut self, block: u32) {
        let b = &mut self.blocks[block as usize];
        debug_assert!(b.refs > 0, "block {block} released twice");
        b.refs = b.refs.saturating_sub(1);
        self.releases += 1;
        if b.refs > 0 {
            return;
        }
        if b.node == 0 {
            self.free.push(block);
        } else {
            self.link(block);
        }
    }

    /// Releases a whole table, last block first, so that the ends of prefixes are evicted before their beginnings.
    pub fn release_all(&mut self, table: &mut Vec<u32>) {
        while let Some(block) = table.pop() {
            self.release(block);
        }
    }

    /// The cached block that holds `tokens` right after `after`, and the place after it. Does not take it.
    pub fn find(
        &mut self,
        after: Chain,
        salt: Option<&str>,
        tokens: &[u32],
    ) -> Option<(u32, Chain)> {
        let hash = self.hash(after, tokens);
        let block = *self.by_hash.get(&hash)?;
        self.holds(block, after, salt, tokens).then(|| {
            (
                block,
                Chain {
                    node: self.blocks[block as usize].node,
                    hash,
                },
            )
        })
    }

    /// How many of the first of `tokens` some cached block right after `after` begins with, and whether one begins with
    /// these and goes on otherwise. Looks at every cached block: for questions, not for steps.
    pub fn begins(&self, after: Chain, salt: Option<&str>, tokens: &[u32]) -> (usize, bool) {
        let children = self.by_hash.values().filter(|&&block| {
            let b = &self.blocks[block as usize];
            b.parent == after.node && (after.node != 0 || b.salt.as_deref() == salt)
        });
        let common = children.map(|&block| {
            let at = block as usize * self.block_size;
            let held = &self.tokens[at..at + self.block_size];
            held.iter().zip(tokens).take_while(|(a, b)| a == b).count()
        });
        common.max().map_or((0, false), |most| {
            (most, most < tokens.len().min(self.block_size))
        })
    }

    /// Puts a full, computed block of a sequence into the cache. Returns the block that stands for this content from
    /// now on: `block` itself, or an equal one that was there first (then the owner moved to it and `block` is free).
    /// `None` when two different contents share a hash; the sequence then stays uncached from here on.
    pub fn register(
        &mut self,
        after: Chain,
        salt: Option<&Arc<str>>,
        tokens: &[u32],
        block: u32,
    ) -> Option<(u32, Chain)> {
        let hash = self.hash(after, tokens);
        if let Some(&first) = self.by_hash.get(&hash) {
            if !self.holds(first, after, salt.map(|s| &**s), tokens) {
                return None;
            }
            if first != block {
                self.acquire(first);
                self.release(block);
            }
            return Some((
                first,
                Chain {
                    node: self.blocks[first as usize].node,
                    hash,
                },
            ));
        }
        let node = self.next_node;
        self.next_node += 1;
        self.by_hash.insert(hash, block);
        let at = block as usize * self.block_size;
        self.tokens[at..at + self.block_size].copy_from_slice(tokens);
        let b = &mut self.blocks[block as usize];
        (b.node, b.parent, b.hash) = (node, after.node, hash);
        // Deeper nodes inherit the salt of their root.
        b.salt = if after.node == 0 { salt.cloned() } else { None };
        Some((block, Chain { node, hash }))
    }

    fn holds(&self, block: u32, after: Chain, salt: Option<&str>, tokens: &[u32]) -> bool {
        let b = &self.blocks[block as usize];
        let at = block as usize * self.block_size;
        b.parent == after.node
            && self.tokens[at..at + self.block_size] == *tokens
            && (after.node != 0 || b.salt.as_deref() == salt)
    }

    fn hash(&mut self, after: Chain, tokens: &[u32]) -> u64 {
        self.bytes.clear();
        self.bytes
            .extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
        xxh3_64_with_seed(&self.bytes, after.hash)
    }

    fn forget(&mut self, block: u32) {
        let b = &mut self.blocks[block as usize];
        self.by_hash.remove(&b.hash);
        b.node = 0;
        b.salt = None;
    }

    fn link(&mut self, block: u32) {
        let newest = std::mem::replace(&mut self.newest, block);
        let b = &mut self.blocks[block as usize];
        (b.older, b.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = block,
            n => self.blocks[n as usize].newer = block,
        }
        self.idle += 1;
    }

    fn unlink(&mut self, block: u32) {
        let (older, newer) = (
            self.blocks[block as usize].older,
            self.blocks[block as usize].newer,
        );
        match older {
            NONE => self.oldest = newer,
            o => self.blocks[o as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            n => self.blocks[n as usize].older = older,
        }
        self.idle -= 1;
    }

    /// Proves the books: every block is free, idle in the cache or owned as often as `tables` name it, and only one of these.
    #[cfg(test)]
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) -> Result<(), String> {
        let mut owners = vec![0u32; self.blocks.len()];
        tables.flatten().for_each(|&b| owners[b as usize] += 1);
        let mut seen = vec![0u8; self.blocks.len()];
        self.free.iter().for_each(|&b| seen[b as usize] += 1);
        let (mut at, mut idle) = (self.oldest, 0);
        while at != NONE {
            seen[at as usize] += 1;
            idle += 1;
            at = self.blocks[at as usize].newer;
        }
        if idle != self.idle {
            return Err(format!("{idle} idle blocks listed, {} counted", self.idle));
        }
        for (i, b) in self.blocks.iter().enumerate() {
            if b.refs != owners[i] {
                return Err(format!(
                    "block {i}: {} references, {} owners",
                    b.refs, owners[i]
                ));
            }
            if seen[i] != u8::from(b.refs == 0) {
                return Err(format!(
                    "block {i}: {} references and listed {} times",
                    b.refs, seen[i]
                ));
            }
            if b.node != 0 && self.by_hash.get(&b.hash) != Some(&(i as u32)) {
                return Err(format!("block {i} is cached but not found by its hash"));
            }
            if owners[i] > 1 && b.node == 0 {
                return Err(format!(
                    "block {i} has {} owners and is not cached",
                    owners[i]
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn root() -> Chain {
        Chain::root(None)
    }

    #[test]
    fn all_blocks_come_and_go() {
        let mut pool = BlockPool::new(3, 2);
        let mut table: Vec<u32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(pool.allocate(), None);
        assert_eq!(table, [0, 1, 2]);
        pool.check([&table[..]].into_iter()).unwrap();
        pool.release_all(&mut table);
        assert_eq!(pool.available(), 3);
        pool.check(std::iter::empty()).unwrap();
    }

    #[test]
    fn a_prefix_is_found_until_its_blocks_are_evicted_last_first() {
        let mut pool = BlockPool::new(3, 2);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        let (_, c1) = pool.register(root(), None, &[1, 2], a).unwrap();
        pool.register(c1, None, &[3, 4], b).unwrap();
        pool.release_all(&mut vec![a, b]);
        assert_eq!((pool.available(), pool.cached()), (3, 2));
        let (found, c) = pool.find(root(), None, &[1, 2]).unwrap();
        assert_eq!((found, c), (a, c1));
        assert_eq!(pool.find(c, None, &[3, 4]).unwrap().0, b);
        assert!(pool.find(c, None, &[3, 5]).is_none());
        assert!(pool.find(root(), None, &[3, 4]).is_none());
        pool.allocate().unwrap();
        assert_eq!(pool.allocate(), Some(b), "the end of the prefix goes first");
        assert!(pool.find(c, None, &[3, 4]).is_none());
        assert!(pool.find(root(), None, &[1, 2]).is_some());
    }

    #[test]
    fn a_block_in_use_is_never_evicted() {
        let mut pool = BlockPool::new(2, 1);
        let a = pool.allocate().unwrap();
        pool.register(root(), None, &[1], a).unwrap();
        pool.acquire(a);
        pool.release(a);
        assert_eq!(pool.allocate(), Some(1));
        assert_eq!(pool.allocate(), None);
        pool.release(a);
        assert_eq!(pool.allocate(), Some(a));
        assert_eq!(pool.cached(), 0);
    }

    #[test]
    fn equal_content_computed_twice_becomes_one_block() {
        let mut pool = BlockPool::new(2, 1);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        let (_, first) = pool.register(root(), None, &[7], a).unwrap();
        let (kept, second) = pool.register(root(), None, &[7], b).unwrap();
        assert_eq!((kept, second), (a, first));
        assert_eq!(pool.available(), 1);
        pool.check([&[a][..], &[a]].into_iter()).unwrap();
    }

    #[test]
    fn salts_keep_prefixes_apart() {
        let mut pool = BlockPool::new(2, 1);
        let a = pool.allocate().unwrap();
        let salt: Arc<str> = "x".into();
        pool.register(Chain::root(Some("x")), Some(&salt), &[1], a)
            .unwrap();
        assert!(pool.find(Chain::root(Some("x")), Some("x"), &[1]).is_some());
        assert!(pool.find(root(), None, &[1]).is_none());
        // Even a root whose hash collides does not match: the salt itself is compared.
        assert!(pool.find(Chain::root(Some("x")), Some("y"), &[1]).is_none());
    }

    #[test]
    fn a_hash_that_collides_is_a_miss() {
        let mut pool = BlockPool::new(2, 1);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.register(root(), None, &[1], a).unwrap();
        let hash = pool.blocks[a as usize].hash;
        // Another content is made to collide by moving the entry to its hash.
        let other = pool.hash(root(), &[2]);
        pool.by_hash.remove(&hash);
        pool.by_hash.insert(other, a);
        pool.blocks[a as usize].hash = other;
        assert!(pool.find(root(), None, &[2]).is_none());
        assert!(pool.register(root(), None, &[2], b).is_none());
    }

    #[test]
    fn equal_tokens_after_another_prefix_are_a_miss_even_if_the_hashes_collide() {
        let mut pool = BlockPool::new(3, 1);
        let mut block = || pool.allocate().unwrap();
        let (a, b, c) = (block(), block(), block());
        let (_, first) = pool.register(root(), None, &[1], a).unwrap();
        let (_, second) = pool.register(root(), None, &[2], b).unwrap();
        pool.register(first, None, &[5], c).unwrap();
        assert_eq!(pool.find(first, None, &[5]).unwrap().0, c);
        let other = pool.hash(second, &[5]);
        pool.by_hash.insert(other, c);
        assert!(pool.find(second, None, &[5]).is_none());
    }
}
