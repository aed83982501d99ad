//! From a list of tokens and their merges to an encoder and its counterpart. Knows nothing of files.
use std::collections::HashSet;

use super::{
    bpe::{Alphabet, Bpe, Order, Prefix},
    detok::{Detok, Rule, SPACE, byte_token},
    merge::{Merge, NONE, Pairs},
    pre::Cutters,
    vocabulary::Vocabulary,
};

/// One id of a vocabulary.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Token<'a> {
    /// In the vocabulary's own spelling; empty where no token has the id.
    pub(super) text: &'a str,
    /// Whether merging may make it.
    pub(super) word: bool,
    /// Whether it is looked for in a text as it stands.
    pub(super) added: bool,
    /// Whether it is left out of a text that skips special tokens.
    pub(super) special: bool,
}

/// A vocabulary by id.
#[derive(Debug)]
pub(super) struct Tokens<'a>(pub(super) Vec<Token<'a>>);

/// An encoder and its counterpart, or what is wrong with the vocabulary.
pub(super) type Built = Result<(Bpe, Detok), String>;

/// How words of bytes are made.
pub(super) struct Words {
    pub(super) cutters: Cutters,
    /// Whether a word that is a token is taken whole, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether characters are composed first (NFC).
    pub(super) compose: bool,
}

impl Tokens<'_> {
    pub(super) fn vocabulary(&self) -> Result<Vocabulary, String> {
        let texts = self.0.iter().map(|token| token.text.as_bytes());
        Vocabulary::new(texts).ok_or_else(|| "more than 4 GiB".to_owned())
    }

    /// `plain_added`: added tokens are plain text, whatever `rule` says.
    pub(super) fn detok(&self, rule: Rule, plain_added: bool) -> Detok {
        let mut detok = Detok::with_capacity(rule, self.0.len());
        for token in &self.0 {
            match token {
                Token { text: "", .. } => detok.push_absent(),
                token if token.added && plain_added => detok.push_plain(token.text, token.special),
                token => detok.push(token.text, token.special),
            }
        }
        detok
    }

    /// Byte-level BPE over `merges`, best first.
    pub(super) fn byte_level<'m>(
        &self,
        detok: Detok,
        words: Words,
        merges: impl Iterator<Item = (&'m str, &'m str)>,
    ) -> Built {
        let is_word = |id: u32| self.0[id as usize].word;
        let spellings = (0..detok.len() as u32).map(|id| {
            if is_word(id) {
                detok.token_bytes(id)
            } else {
                &[]
            }
        });
        let mut ids = Box::new([NONE; 256]);
        for (id, token) in (0..).zip(spellings.clone()) {
            if let [byte] = *token
                && ids[byte as usize] == NONE
            {
                ids[byte as usize] = id;
            }
        }
        let whole = words.ignore_merges.then(|| Vocabulary::new(spellings));
        let vocabulary = self.vocabulary()?;
        let order = Order::Ranks(pairs(&vocabulary, merges)?);
        let alphabet = Alphabet::Bytes {
            cutters: words.cutters,
            ids,
            whole: whole.flatten(),
            compose: words.compose,
        };
        Ok((Bpe::new(vocabulary, alphabet, order, self.added())?, detok))
    }

    /// SentencePiece's alphabet: spaces are `▁`, characters without a token are bytes `<0xNN>`. `split`: every `▁` begins
    /// a word of its own.
    pub(super) fn characters(
        &self,
        detok: Detok,
        order: Order,
        prefix: Prefix,
        split: bool,
        unknown: Option<u32>,
    ) -> Built {
        let mut bytes = Box::new([NONE; 256]);
        let mut before_space = HashSet::new();
        for (id, token) in (0..).zip(&self.0) {
            if let Some(byte) = byte_token(token.text) {
                bytes[byte as usize] = id;
            }
            for (at, _) in token.text.match_indices(SPACE) {
                before_space.extend(token.text[..at].chars().next_back());
            }
        }
        if split {
            before_space.clear();
        } else {
            before_space.insert(SPACE);
        }
        let alphabet = Alphabet::Characters {
            prefix,
            bytes,
            unknown,
            before_space,
        };
        Ok((
            Bpe::new(self.vocabulary()?, alphabet, order, self.added())?,
            detok,
        ))
    }

    fn added(&self) -> Vec<u32> {
        let all = (0..).zip(&self.0);
        all.filter(|(_, token)| token.added && !token.text.is_empty())
            .map(|(id, _)| id)
            .collect()
    }
}

/// Merges by id. Both parts and what they make must be tokens.
pub(super) fn pairs<'m>(
    vocabulary: &Vocabulary,
    merges: impl Iterator<Item = (&'m str, &'m str)>,
) -> Result<Pairs, String> {
    let mut pairs = Pairs::with_capacity(merges.size_hint().0);
    let mut joint = Vec::new();
    for ((left, right), rank) in merges.zip(0..) {
        joint.clear();
        joint.extend_from_slice(left.as_bytes());
        joint.extend_from_slice(right.as_bytes());
        let ids = (
            vocabulary.get(left.as_bytes()),
            vocabulary.get(right.as_bytes()),
            vocabulary.get(&joint),
        );
        let (Some(left), Some(right), Some(id)) = ids else {
            return Err(format!(
                "`{left} {right}`: the parts and what they make must be tokens"
            ));
        };
        pairs.insert(left, right, Merge { rank, id });
    }
    Ok(pairs)
}
