//! Text to ids by byte-pair merging: byte-level vocabularies (GPT-2's kind) and SentencePiece-style ones.
//! Special tokens are found first, as they stand; what is between is cut into words and merged. Knows nothing of files.
use std::{borrow::Cow, collections::HashSet, ops::Range};

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::NormalizedString;

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

/// Where a `▁` is put before a text that begins with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    Never,
    /// Before each stretch between special tokens, even where it begins with a space.
    Each,
    /// Before each stretch between special tokens that does not begin with a space.
    EachWord,
    /// At the start of the text, unless it begins with a space or a special token.
    First,
}

/// How a text becomes symbols.
#[derive(Debug)]
pub(super) enum Alphabet {
    /// Words of bytes.
    Bytes {
        cutters: Cutters,
        /// Token of each byte. One without a token is left out before merging, as the tokenizers crate does: some
        /// vocabularies lack rare control characters.
        ids: Box<[u32; 256]>,
        /// Tokens by their bytes, where a word that is a token is taken whole.
        whole: Option<Vocabulary>,
        /// Whether characters are composed first (Unicode's NFC).
        compose: bool,
    },
    /// Characters, spaces as `▁`; a character without a token is its bytes.
    Characters {
        /// Where a `▁` is put in front.
        prefix: Prefix,
        /// Token of each byte.
        bytes: Box<[u32; 256]>,
        /// Token of what even bytes cannot write.
        unknown: Option<u32>,
        /// Characters that some token has right before a `▁`; after others, a `▁` begins a word.
        before_space: HashSet<char>,
    },
}

/// Finds tokens that stand in a text as they are: the leftmost, and of those that start there the longest.
#[derive(Debug)]
struct Added {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

/// The text in Unicode's form NFC.
fn composed(text: &str) -> Cow<'_, str> {
    // Characters that NFC leaves as they are, whatever stands beside them: Latin, Cyrillic letters, kana, Han, Hangul.
    let stays = |c: char| {
        matches!(c, '\0'..='\u{2FF}' | '\u{400}'..='\u{482}' | '\u{3000}'..='\u{3098}' | '\u{30A0}'..='\u{30FF}'
            | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' | '\u{FF00}'..='\u{FFEF}')
    };
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut normalized = NormalizedString::from(text);
    normalized.nfc();
    Cow::Owned(normalized.get().to_owned())
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
    /// `added`: ids of tokens that are found in the text as they stand. Fails with what is wrong about them.
    pub(super) fn new(
        vocabulary: Vocabulary,
        alphabet: Alphabet,
        order: Order,
        added: Vec<u32>,
    ) -> std::result::Result<Self, String> {
        let texts = added
            .iter()
            .map(|&id| vocabulary.spelling(id).unwrap_or_default());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts);
        let automaton = automaton.map_err(|e| format!("too many special tokens: {e}"))?;
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

    /// The ids of `text`. No special token is found where it touches a `plain` range; these ascend.
    pub(super) fn encode(&self, text: &str, plain: &[Range<usize>]) -> Result<Vec<u32>> {
        self.encode_at(text, plain, true)
    }

    /// The ids of `text` in the middle of other text: no `▁` is put before it.
    pub(super) fn encode_inner(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_at(text, &[], false)
    }

    /// `start`: whether `text` is all there is, rather than a later part of it.
    fn encode_at(&self, text: &str, plain: &[Range<usize>], start: bool) -> Result<Vec<u32>> {
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
            let touches = |found: &aho_corasick::Match| {
                let next = plain.partition_point(|range| range.end <= found.start());
                plain
                    .get(next)
                    .is_some_and(|range| range.start < found.end())
            };
            for found in added.automaton.find_iter(text) {
                if touches(&found) {
                    continue;
                }
                let place = (at == 0, start || at > 0);
                self.segment(&text[at..found.start()], place, &mut scratch, &mut ids)?;
                ids.push(added.ids[found.pattern().as_usize()]);
                at = found.end();
            }
        }
        let place = (at == 0, start || at > 0);
        self.segment(&text[at..], place, &mut scratch, &mut ids)?;
        Ok(ids)
    }

    /// Text without special tokens; `first`: with none before it; `prefixed`: a `▁` may be put before it.
    fn segment(
        &self,
        text: &str,
        (first, prefixed): (bool, bool),
        scratch: &mut Vec<Symbol>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let start = ids.len();
        match &self.alphabet {
            Alphabet::Bytes {
                cutters,
                ids: bytes,
                whole,
                compose,
            } => {
                let text = if *compose {
                    composed(text)
                } else {
                    Cow::Borrowed(text)
                };
                let mut word = |word: &[u8]| match whole.as_ref().and_then(|whole| whole.get(word))
                {
                    Some(id) => ids.push(id),
                    None => self.word_of_bytes(word, bytes, scratch, ids),
                };
                cutters.words(&text, &mut word)?;
            }
            Alphabet::Characters {
                prefix,
                before_space,
                ..
            } => {
                let to_word = !text.starts_with([' ', SPACE]);
                let prefix = match prefix {
                    Prefix::Never => false,
                    Prefix::Each => true,
                    Prefix::EachWord => to_word,
                    Prefix::First => first && to_word,
                };
                self.characters(text, prefix && prefixed, before_space, scratch, ids);
            }
        }
        if ids[start..].contains(&NONE) {
            return Err(Error::Tokenization(
                "the vocabulary has no token for some character of the text".into(),
            ));
        }
        Ok(())
    }

    /// Cuts before each `▁` that no merge can reach across.
    fn characters(
        &self,
        text: &str,
        prefix: bool,
        before_space: &HashSet<char>,
        scratch: &mut Vec<Symbol>,
        ids: &mut Vec<u32>,
    ) {
        let space = SPACE.to_string();
        let text = text.replace(' ', &space);
        let text = if prefix { space + &text } else { text };
        let mut begin = 0;
        for (at, _) in text.match_indices(SPACE) {
            let last = text[begin..at].chars().next_back();
            if last.is_some_and(|last| !before_space.contains(&last)) {
                self.word_of_characters(&text[begin..at], scratch, ids);
                begin = at;
            }
        }
        self.word_of_characters(&text[begin..], scratch, ids);
    }

    fn word_of_bytes(
        &self,
        word: &[u8],
        bytes: &[u32; 256],
        scratch: &mut Vec<Symbol>,
        ids: &mut Vec<u32>,
    ) {
        scratch.clear();
        for (i, &byte) in (0..).zip(word) {
            let id = bytes[byte as usize];
            if id != NONE {
                scratch.push(Symbol {
                    id,
                    start: i,
                    end: i + 1,
                });
            }
        }
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
                .get(&word.as_bytes()[at..end])
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
                    .get(&word.as_bytes()[left.start as usize..right.end as usize])?;
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
