//! The rule of one answer as the engine sees it: masks that are found out once a step, on whichever thread comes first.
use super::parts::{Parts, Row};
use super::{Constraint, Next};
use crate::error::{Error, Result};

/// A rule, and the masks of the step under way.
pub(super) struct Held {
    parts: Parts,
    /// The draft of the step under way, until its masks are there.
    asked: Option<Vec<u32>>,
    /// The masks, one behind the other, of the rows that are not free.
    bits: Vec<u32>,
    /// Of each row its words in `bits`; empty = free.
    rows: Vec<std::ops::Range<usize>>,
    /// Words of a mask.
    words: usize,
    failure: Option<Error>,
}

impl Held {
    /// `vocab`: tokens of the model's logits.
    pub(super) fn new(parts: Parts, vocab: usize) -> Self {
        Self {
            parts,
            asked: None,
            bits: Vec::new(),
            rows: Vec::new(),
            words: vocab.div_ceil(32),
            failure: None,
        }
    }
}

impl Constraint for Held {
    fn admit(&mut self, draft: &[u32]) -> Result<usize> {
        self.parts.admit(draft)
    }

    fn start(&mut self, draft: &[u32]) {
        self.asked = Some(draft.to_vec());
    }

    fn work(&mut self) {
        let Some(draft) = self.asked.take() else {
            return;
        };
        self.bits.clear();
        self.rows.clear();
        // Until it is done there is no mask, whatever happens.
        self.failure = Some(Error::Generation("no mask was found".into()));
        let (bits, rows, words) = (&mut self.bits, &mut self.rows, self.words);
        let found = self.parts.rows(&draft, |row| {
            let start = bits.len();
            match row {
                Row::Free => {}
                Row::Only(mask) => {
                    bits.extend(mask.iter().take(words));
                    bits.resize(start + words, 0);
                }
                Row::Without(banned) => {
                    bits.resize(start + words, u32::MAX);
                    for id in banned.iter().map(|&id| id as usize) {
                        bits[start + id / 32] &= !(1 << (id % 32));
                    }
                }
            }
            rows.push(start..bits.len());
        });
        self.failure = found.err();
    }

    fn mask(&mut self, drafted: usize, mask: &mut [u32]) -> Result<bool> {
        self.work();
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let row = self.rows.get(drafted).cloned();
        let row = row.ok_or_else(|| Error::Generation("no mask was found for a draft".into()))?;
        if row.is_empty() {
            return Ok(false);
        }
        mask.copy_from_slice(&self.bits[row]);
        Ok(true)
    }

    fn accept(&mut self, token: u32) -> Result<Next> {
        self.parts.accept(token)
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        self.parts.forced()
    }
}
