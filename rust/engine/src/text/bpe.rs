//! Text to ids by byte-pair merging: byte-level vocabularies (GPT-2's kind) and SentencePiece-style ones.
//! Special tokens are found first, as they stand; what is between is cut into words and merged. Knows nothing of files.
use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};

use super::{
    detok::SPACE,
    merge::{Merge, NONE, Pairs, Symbol, merge},
    pre::Cutters,
    vocabulary::Vocabulary,
};
use crate::{Error, Result};

/// What decides which neighbours are merged first.
#[derive(Debug)]
pub(super) enum Order {
    /// A list of merges.
    Ranks(Pairs),
    /// The score of the joint piece: `ranks[id]`, lowest first, `None` for what no merge may make.
    Scores(Vec<Option<u32>>),
}

/// How a text becomes symbols.
#[derive(Debug)]
pub(super) enum Alphabet {
    /// Words of bytes.
    Bytes {
        cutters: Cutters,
        /// Token of each byte.
        ids: Box<[u32; 256]>,
        /// Tokens of whole words, where those come before merges.
        whole: Option<WholeWords>,
    },
    /// Characters, spaces as `▁`; a character without a token is its bytes.
    Characters {
        /// Whether a `▁` goes before the text.
        prefix: bool,
        /// Token of each byte.
        bytes: Box<[u32; 256]>,
        /// Token of what even bytes cannot write.
        unknown: Option<u32>,
        /// Characters that some token has right before a `▁`; after others, a `▁` begins a word.
        before_space: HashSet<char>,
    },
}

/// Tokens by their bytes.
pub(super) type WholeWords = std::collections::HashMap<Box<[u8]>, u32>;

/// Finds tokens that stand in a text as they are: the leftmost, and of those that start there the longest.
#[derive(Debug)]
struct Added {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

/// A byte-pair encoder.
#[derive(Debug)]
pub(super) struct Bpe {
    vocabulary: Vocabulary,
    alphabet: Alphabet,
    order: Order,
    added: Option<Added>,
}

impl Bpe {
    /// `added`: ids of tokens that are found in the text as they stand.
    pub(super) fn new(
        vocabulary: Vocabulary,
        alphabet: Alphabet,
        order: Order,
        added: Vec<u32>,
    ) -> Result<Self> {
        let texts = added
            .iter()
            .map(|&id| vocabulary.text(id).unwrap_or_default());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts);
        let automaton =
            automaton.map_err(|e| Error::ModelLoad(format!("too many special tokens: {e}")))?;
        let added = (!added.is_empty()).then_some(Added {
            automaton,
            ids: added,
        });
        Ok(Self {
            vocabulary,
            alphabet,
            order,
            added,
        })
    }

    /// The tokens.
    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The ids of `text`.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        // Offsets within a word are 32 bits wide; a replaced space has three bytes.
        if text.len() >= u32::MAX as usize / 3 {
            return Err(Error::Tokenization(format!(
                "a text of {} bytes is too long",
                text.len()
            )));
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut scratch = Vec::new();
        let mut at = 0;
        if let Some(added) = &self.added {
            for found in added.automaton.find_iter(text) {
                self.segment(&text[at..found.start()], &mut scratch, &mut ids)?;
                ids.push(added.ids[found.pattern().as_usize()]);
                at = found.end();
            }
        }
        self.segment(&text[at..], &mut scratch, &mut ids)?;
        Ok(ids)
    }

    /// Text without special tokens.
    fn segment(&self, text: &str, scratch: &mut Vec<Symbol>, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let start = ids.len();
        match &self.alphabet {
            Alphabet::Bytes {
                cutters,
                ids: bytes,
                whole,
            } => {
                cutters.words(text, &mut |word| match whole
                    .as_ref()
                    .and_then(|whole| whole.get(word))
                {
                    Some(&id) => ids.push(id),
                    None => self.word_of_bytes(word, bytes, scratch, ids),
                })?;
            }
            Alphabet::Characters {
                prefix,
                before_space,
                ..
            } => {
                let space = SPACE.to_string();
                let text = text.replace(' ', &space);
                let text = if *prefix { space + &text } else { text };
                let mut last = None;
                let mut begin = 0;
                for (at, c) in text.char_indices() {
                    if c == SPACE && last.is_some_and(|last| !before_space.contains(&last)) {
                        self.word_of_characters(&text[begin..at], scratch, ids);
                        begin = at;
                    }
                    last = Some(c);
                }
                self.word_of_characters(&text[begin..], scratch, ids);
            }
        }
        if ids[start..].contains(&NONE) {
            return Err(Error::Tokenization(
                "the vocabulary has no token for some character of the text".into(),
            ));
        }
        Ok(())
    }

    fn word_of_bytes(
        &self,
        word: &[u8],
        bytes: &[u32; 256],
        scratch: &mut Vec<Symbol>,
        ids: &mut Vec<u32>,
    ) {
        scratch.clear();
        scratch.extend((0..).zip(word).map(|(i, &b)| Symbol {
            id: bytes[b as usize],
            start: i,
            end: i + 1,
        }));
        if let Order::Ranks(pairs) = &self.order {
            merge(scratch, |left, right| pairs.get(left.id, right.id));
        }
        ids.extend(scratch.iter().map(|symbol| symbol.id));
    }

    fn word_of_characters(&self, word: &str, scratch: &mut Vec<Symbol>, ids: &mut Vec<u32>) {
        scratch.clear();
        for (at, c) in word.char_indices() {
            let end = at + c.len_utf8();
            let id = self
                .vocabulary
                .get(&word[at..end])
                .filter(|&id| self.may_stand(id));
            scratch.push(Symbol {
                id: id.unwrap_or(NONE),
                start: at as u32,
                end: end as u32,
            });
        }
        match &self.order {
            Order::Ranks(pairs) => merge(scratch, |left, right| pairs.get(left.id, right.id)),
            Order::Scores(ranks) => merge(scratch, |left, right| {
                let id = self
                    .vocabulary
                    .get(&word[left.start as usize..right.end as usize])?;
                Some(Merge {
                    rank: ranks[id as usize]?,
                    id,
                })
            }),
        }
        let Alphabet::Characters { bytes, unknown, .. } = &self.alphabet else {
            return;
        };
        let mut after_unknown = false;
        for symbol in scratch.iter() {
            let text = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            let known = symbol.id != NONE;
            let bytes_known = text.iter().all(|&byte| bytes[byte as usize] != NONE);
            if known {
                ids.push(symbol.id);
            } else if bytes_known {
                ids.extend(text.iter().map(|&byte| bytes[byte as usize]));
            } else if !after_unknown {
                // A run of unknown characters is one token.
                ids.push(unknown.unwrap_or(NONE));
            }
            after_unknown = !known && !bytes_known;
        }
    }

    /// Whether a single character may be this token: control tokens only come from where they are looked for.
    fn may_stand(&self, id: u32) -> bool {
        match &self.order {
            Order::Ranks(_) => true,
            Order::Scores(ranks) => ranks[id as usize].is_some(),
        }
    }
}
