//! The tokens of a vocabulary, by id and by spelling (text or bytes), in three flat arrays. Knows nothing of what tokens mean.
use xxhash_rust::xxh3::xxh3_64;

/// Tokens by id and by spelling.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// The spellings one after the other; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Open addressing with linear probing: ids, `EMPTY` between; at most half full.
    slots: Box<[u32]>,
}

const EMPTY: u32 = u32::MAX;

impl Vocabulary {
    /// `None` when the tokens are too many or too long (4 GiB) to be held. Of equal ones the last
    /// has the id; an empty one stands for an id without a token.
    pub(super) fn new<'a>(tokens: impl ExactSizeIterator<Item = &'a [u8]>) -> Option<Self> {
        let count = tokens.len();
        if count >= EMPTY as usize / 4 {
            return None;
        }
        let mut vocabulary = Self {
            bytes: Vec::with_capacity(count * 8),
            ends: Vec::with_capacity(count),
            slots: vec![EMPTY; (count * 2).next_power_of_two().max(2)].into_boxed_slice(),
        };
        for (id, token) in (0..).zip(tokens) {
            vocabulary.bytes.extend_from_slice(token);
            vocabulary
                .ends
                .push(u32::try_from(vocabulary.bytes.len()).ok()?);
            if !token.is_empty() {
                let slot = vocabulary.slot(token);
                vocabulary.slots[slot] = id;
            }
        }
        Some(vocabulary)
    }

    /// Where `token` stands or would stand.
    fn slot(&self, token: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = xxh3_64(token) as usize & mask;
        while self.slots[slot] != EMPTY && self.spelling(self.slots[slot]) != Some(token) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The id of a token.
    pub(super) fn get(&self, token: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot(token)];
        (id != EMPTY).then_some(id)
    }

    /// The spelling of an id; empty for an id without a token.
    pub(super) fn spelling(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = if id == 0 {
            0
        } else {
            self.ends[id as usize - 1] as usize
        };
        Some(&self.bytes[start..end])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn vocabulary(tokens: &[&str]) -> Vocabulary {
        Vocabulary::new(tokens.iter().map(|token| token.as_bytes())).unwrap()
    }

    #[test]
    fn finds_tokens_both_ways() {
        let tokens: Vec<String> = (0..1000).map(|i| format!("t{i}")).collect();
        let many = vocabulary(&tokens.iter().map(String::as_str).collect::<Vec<_>>());
        for (id, token) in (0..).zip(&tokens) {
            assert_eq!(many.get(token.as_bytes()), Some(id));
            assert_eq!(many.spelling(id), Some(token.as_bytes()));
        }
        assert_eq!((many.get(b"t1000"), many.spelling(1000)), (None, None));
        let twice = vocabulary(&["a", "", "a"]);
        assert_eq!(
            (twice.get(b"a"), twice.get(b""), twice.spelling(0)),
            (Some(2), None, Some(&b"a"[..]))
        );
        assert_eq!(vocabulary(&[]).get(b"a"), None);
    }
}
