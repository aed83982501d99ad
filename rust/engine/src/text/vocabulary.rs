//! The tokens of a vocabulary, by id and by text, in three flat arrays. Knows nothing of what tokens mean.
use xxhash_rust::xxh3::xxh3_64;

/// Tokens by id and by text.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// The texts one after the other; token `i` ends at `ends[i]`.
    text: String,
    ends: Vec<u32>,
    /// Open addressing with linear probing: ids, `EMPTY` between; at most half full.
    slots: Box<[u32]>,
}

const EMPTY: u32 = u32::MAX;

impl Vocabulary {
    /// `None` when the texts are too many or too long (4 GiB) to be held. Of equal texts the last one has the id.
    pub(super) fn new<S: AsRef<str>>(tokens: &[S]) -> Option<Self> {
        let size: usize = tokens.iter().map(|token| token.as_ref().len()).sum();
        if u32::try_from(size).is_err() || tokens.len() >= EMPTY as usize / 4 {
            return None;
        }
        let mut vocabulary = Self {
            text: String::with_capacity(size),
            ends: Vec::with_capacity(tokens.len()),
            slots: vec![EMPTY; (tokens.len() * 2).next_power_of_two().max(2)].into_boxed_slice(),
        };
        for token in tokens {
            vocabulary.text.push_str(token.as_ref());
            vocabulary.ends.push(vocabulary.text.len() as u32);
            let id = vocabulary.ends.len() as u32 - 1;
            let slot = vocabulary.slot(token.as_ref());
            vocabulary.slots[slot] = id;
        }
        Some(vocabulary)
    }

    /// Where `text` stands or would stand.
    fn slot(&self, text: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = xxh3_64(text.as_bytes()) as usize & mask;
        while self.slots[slot] != EMPTY && self.text(self.slots[slot]) != Some(text) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The id of a token.
    pub(super) fn get(&self, text: &str) -> Option<u32> {
        let id = self.slots[self.slot(text)];
        (id != EMPTY).then_some(id)
    }

    /// The text of an id.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = if id == 0 {
            0
        } else {
            self.ends[id as usize - 1] as usize
        };
        Some(&self.text[start..end])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn finds_tokens_both_ways() {
        let tokens: Vec<String> = (0..1000).map(|i| format!("t{i}")).collect();
        let vocabulary = Vocabulary::new(&tokens).unwrap();
        for (id, token) in tokens.iter().enumerate() {
            assert_eq!(vocabulary.get(token), Some(id as u32));
            assert_eq!(vocabulary.text(id as u32), Some(token.as_str()));
        }
        assert_eq!(
            (vocabulary.get("t1000"), vocabulary.text(1000)),
            (None, None)
        );
        let twice = Vocabulary::new(&["a", "", "a"]).unwrap();
        assert_eq!(
            (twice.get("a"), twice.get(""), twice.text(0)),
            (Some(2), Some(1), Some("a"))
        );
        assert_eq!(Vocabulary::new::<&str>(&[]).unwrap().get("a"), None);
    }
}
