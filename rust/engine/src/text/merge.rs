//! Byte-pair merging of one word: again and again, the best pair of neighbours becomes one symbol; of equal pairs the
//! leftmost. Knows nothing of where the order of merges comes from.
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{BuildHasherDefault, Hasher},
};

/// Part of a word: a token, or a character that no token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    /// The token's id; `NONE` for a character that is none.
    pub(super) id: u32,
    /// First byte.
    pub(super) start: u32,
    /// One after the last byte.
    pub(super) end: u32,
}

/// No token.
pub(super) const NONE: u32 = u32::MAX;

/// What two neighbours become, and how soon: lower ranks come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// Words up to this long are searched through; longer ones keep their pairs in a heap.
const SHORT: usize = 24;

/// Merges `symbols` as far as `pair` knows merges.
pub(super) fn merge(symbols: &mut Vec<Symbol>, pair: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    if symbols.len() <= SHORT {
        merge_short(symbols, pair);
    } else {
        merge_long(symbols, pair);
    }
}

fn merge_short(symbols: &mut Vec<Symbol>, pair: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    const LAST: Merge = Merge {
        rank: u32::MAX,
        id: NONE,
    };
    let mut merges = [LAST; SHORT];
    for (merge, two) in merges.iter_mut().zip(symbols.windows(2)) {
        *merge = pair(two[0], two[1]).unwrap_or(LAST);
    }
    loop {
        let count = symbols.len().saturating_sub(1);
        let mut best = LAST;
        let mut at = 0;
        for (i, merge) in merges[..count].iter().enumerate() {
            if merge.id != NONE && (best.id == NONE || merge.rank < best.rank) {
                (best, at) = (*merge, i);
            }
        }
        if best.id == NONE {
            return;
        }
        symbols[at] = Symbol {
            id: best.id,
            start: symbols[at].start,
            end: symbols[at + 1].end,
        };
        symbols.remove(at + 1);
        merges.copy_within(at + 1..count, at);
        if at > 0 {
            merges[at - 1] = pair(symbols[at - 1], symbols[at]).unwrap_or(LAST);
        }
        merges[at] = match symbols.get(at + 1) {
            Some(&next) => pair(symbols[at], next).unwrap_or(LAST),
            None => LAST,
        };
    }
}

/// A place in a long word: its neighbours (`NONE` at the ends), and whether it was merged into its left one.
#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    gone: bool,
}

fn merge_long(symbols: &mut Vec<Symbol>, pair: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    let count = symbols.len() as u32;
    let link = |i: u32| Link {
        prev: i.wrapping_sub(1),
        next: if i + 1 < count { i + 1 } else { NONE },
        gone: false,
    };
    let mut links: Vec<Link> = (0..count).map(link).collect();
    let mut heap = BinaryHeap::with_capacity(symbols.len());
    let found = |symbols: &[Symbol], left: u32, right: u32| {
        let merge = pair(symbols[left as usize], symbols[right as usize])?;
        Some(Reverse((
            merge.rank,
            left,
            merge.id,
            symbols[right as usize].end,
        )))
    };
    heap.extend((1..count).filter_map(|right| found(symbols, right - 1, right)));
    while let Some(Reverse((_, left, id, end))) = heap.pop() {
        let right = links[left as usize].next;
        // A pair is stale when either side has changed since: the right end tells both.
        if links[left as usize].gone || right == NONE || symbols[right as usize].end != end {
            continue;
        }
        symbols[left as usize].id = id;
        symbols[left as usize].end = end;
        links[right as usize].gone = true;
        let next = links[right as usize].next;
        links[left as usize].next = next;
        if next != NONE {
            links[next as usize].prev = left;
            heap.extend(found(symbols, left, next));
        }
        let prev = links[left as usize].prev;
        if prev != NONE {
            heap.extend(found(symbols, prev, left));
        }
    }
    let mut gone = links.iter().map(|link| link.gone);
    symbols.retain(|_| !gone.next().unwrap_or(false));
}

/// The two parts of a merge that is written with a space between.
pub(super) fn split_merge(line: &str) -> Option<(&str, &str)> {
    // A token may itself begin with a space, so the first character is never the border.
    let (at, _) = line.char_indices().skip(1).find(|(_, c)| *c == ' ')?;
    Some((&line[..at], &line[at + 1..]))
}

/// Merges by the ids of two neighbours.
#[derive(Debug, Default)]
pub(super) struct Pairs(HashMap<u64, Merge, BuildHasherDefault<PairHasher>>);

impl Pairs {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(HashMap::with_capacity_and_hasher(
            count,
            BuildHasherDefault::default(),
        ))
    }

    /// Of several merges of one pair the last counts, as in the tokenizers crate.
    pub(super) fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        self.0.insert(key(left, right), merge);
    }

    pub(super) fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.0.get(&key(left, right)).copied()
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Hashes one `u64` by a multiplication whose high half is folded in.
#[derive(Debug, Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(value ^ self.0 ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Merges by the book: look at all pairs, take the best, begin again.
    fn by_the_book(symbols: &mut Vec<Symbol>, pairs: &Pairs) {
        loop {
            let found = |i: usize| Some((pairs.get(symbols[i - 1].id, symbols[i].id)?.rank, i));
            let Some((_, i)) = (1..symbols.len()).filter_map(found).min() else {
                return;
            };
            symbols[i - 1].id = pairs.get(symbols[i - 1].id, symbols[i].id).unwrap().id;
            symbols[i - 1].end = symbols[i].end;
            symbols.remove(i);
        }
    }

    #[test]
    fn short_and_long_words_merge_by_the_book() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..400 {
            let mut pairs = Pairs::with_capacity(40);
            for rank in 0..40 {
                let (left, right) = (random(10 + rank / 2) as u32, random(10 + rank / 2) as u32);
                pairs.insert(
                    left,
                    right,
                    Merge {
                        rank: rank as u32,
                        id: 10 + rank as u32 / 2,
                    },
                );
            }
            let length = random(70) as u32;
            let word: Vec<Symbol> = (0..length)
                .map(|i| Symbol {
                    id: random(4) as u32,
                    start: i,
                    end: i + 1,
                })
                .collect();
            let (mut expected, mut any, mut long) = (word.clone(), word.clone(), word);
            by_the_book(&mut expected, &pairs);
            merge(&mut any, |a, b| pairs.get(a.id, b.id));
            merge_long(&mut long, |a, b| pairs.get(a.id, b.id));
            assert_eq!((&any, &long), (&expected, &expected));
        }
    }
}
