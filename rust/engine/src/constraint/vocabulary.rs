//! A model's tokens as the grammar library wants them: their bytes in a trie, and the one spelling of a forced text.
//! Knows nothing of grammars.
use std::sync::Arc;

use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::{Error, Refused, Result};
use crate::text::Tokenizer;

/// Longest token that may be part of an answer under a grammar, in bytes; the trie's nodes hold no deeper ones.
const LONGEST_TOKEN: usize = 1000;
/// Texts that must come back as they went in, before a tokenizer is trusted with forced texts.
const PROBES: [&str; 5] = [
    "{\"name\": \"x\", \"ages\": [1, 22, 333]}",
    " the \n\t end",
    "},\n  {",
    "naïve 語 😀",
    "a  b   c",
];

/// The tokens of one model.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    /// Whether `encode` gives what the model was trained on for any text in the middle of an answer.
    canonical: bool,
}

impl Vocabulary {
    /// `size`: tokens of the model's logits. `eos`: ids that end an answer.
    ///
    /// # Errors
    /// `Config` when tokens have no bytes of their own, or nothing can end an answer.
    pub(super) fn new(tokenizer: &Tokenizer, size: usize, eos: &[u32]) -> Result<Self> {
        if !tokenizer.has_bytes() {
            return Err(unsupported(
                "left out: this model's tokenizer tells no token's bytes",
            ));
        }
        if eos.is_empty() {
            return Err(unsupported(
                "left out: this model has no token that ends an answer",
            ));
        }
        let words: Vec<Vec<u8>> = (0..size as u32).map(|id| word(tokenizer, id)).collect();
        let info = TokRxInfo::new(size as u32, eos[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(eos);
        let mut vocabulary = Self {
            tokenizer: tokenizer.clone(),
            trie,
            canonical: false,
        };
        vocabulary.canonical = PROBES.iter().all(|text| vocabulary.encode(text).is_some());
        Ok(vocabulary)
    }

    /// As the library shares it.
    pub(super) fn shared(self) -> TokEnv {
        Arc::new(self)
    }

    /// The ids of a text within an answer; `None` where they do not spell it.
    fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = self.tokenizer.encode_inner(text).ok()?;
        (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.encode(text)
                .unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// The trie's word for a token: special ones behind a marker that no text has; empty where a grammar may never take it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if bytes.is_empty() || bytes.len() > LONGEST_TOKEN {
        return Vec::new();
    }
    if tokenizer.is_special(id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    if bytes[0] == TokTrie::SPECIAL_TOKEN_MARKER {
        return Vec::new();
    }
    bytes.to_vec()
}

fn unsupported(expected: &str) -> Error {
    Refused::new("structured_output", "some", expected).into()
}
