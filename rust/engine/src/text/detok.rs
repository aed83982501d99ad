//! Turns tokens into text one at a time, by the rule of the vocabulary they come from.
//! `decode` and streaming are the same walk, so their texts are equal. Knows nothing of encoding or stop strings.
use super::bytes::char_to_byte;
use crate::Result;

/// What a SentencePiece vocabulary writes for a space.
pub(super) const SPACE: char = '\u{2581}';

/// What becomes of the space that SentencePiece puts before the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// It stays.
    Keep,
    /// One space at the start of the text is dropped, as the tokenizers crate does.
    StripOne,
    /// One space at the start of the first token is dropped unless that token is a byte, as SentencePiece does.
    StripPiece,
    /// All spaces of the first token are dropped (the `Metaspace` decoder).
    StripFirstToken,
}

/// How the pieces of a vocabulary join to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Bytes, joined and then read as UTF-8, each broken sequence as one U+FFFD.
    ByteLevel,
    /// Text, with single bytes `<0xNN>` between; a byte that is part of no character is U+FFFD.
    Sentencepiece {
        /// What becomes of the first space.
        lead: Lead,
        /// Whether `<0xNN>` is a byte.
        byte_tokens: bool,
        /// Whether a run of bytes with one broken byte is U+FFFD throughout, as the tokenizers crate has it
        /// (SentencePiece itself keeps the sound characters of the run).
        whole_runs: bool,
    },
    /// Unknown: only the tokenizers crate can decode, and only all tokens together.
    Whole,
}

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No token has this id; it decodes to nothing.
    Absent,
    /// Text or bytes.
    Text,
    /// A single byte of a SentencePiece vocabulary.
    Byte,
}

/// All pieces of a vocabulary, ready to be joined.
#[derive(Debug)]
pub(super) struct Detok {
    rule: Rule,
    /// The pieces one after the other; piece `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    special: Vec<bool>,
}

/// Text that is being decoded: what is not certain yet and whether the first token has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    /// Bytes of an unfinished character (or run of byte tokens).
    pending: Vec<u8>,
    /// Whether a token has been decoded.
    started: bool,
    /// Whether a character has been decoded.
    written: bool,
    /// All tokens, where they can only be decoded together.
    ids: Vec<u32>,
}

impl Partial {
    /// As if text stood before.
    pub(super) fn continued() -> Self {
        Self {
            started: true,
            written: true,
            ..Self::default()
        }
    }
}

impl Partial {
    /// Tokens that can only be decoded together, and so have given no text.
    pub(super) fn withheld(&self) -> usize {
        self.ids.len()
    }

    /// The first of them.
    pub(super) fn first(&self, count: usize) -> &[u32] {
        &self.ids[..count]
    }
}

impl Detok {
    /// `size`: one more than the largest id.
    pub(super) fn with_capacity(rule: Rule, size: usize) -> Self {
        Self {
            rule,
            bytes: Vec::with_capacity(size * 8),
            ends: Vec::with_capacity(size),
            kinds: Vec::with_capacity(size),
            special: Vec::with_capacity(size),
        }
    }

    /// Adds the next id with its text in the vocabulary's own spelling.
    pub(super) fn push(&mut self, token: &str, special: bool) {
        let mut kind = Kind::Text;
        match self.rule {
            Rule::ByteLevel => push_byte_level(&mut self.bytes, token),
            Rule::Sentencepiece { byte_tokens, .. } => {
                match byte_token(token).filter(|_| byte_tokens) {
                    Some(byte) => {
                        self.bytes.push(byte);
                        kind = Kind::Byte;
                    }
                    None => push_spaces(&mut self.bytes, token),
                }
            }
            Rule::Whole => self.bytes.extend_from_slice(token.as_bytes()),
        }
        self.close(kind, special);
    }

    /// Adds the next id with its plain text.
    pub(super) fn push_plain(&mut self, text: &str, special: bool) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.close(Kind::Text, special);
    }

    /// Adds an id that no token has.
    pub(super) fn push_absent(&mut self) {
        self.close(Kind::Absent, false);
    }

    fn close(&mut self, kind: Kind, special: bool) {
        self.ends.push(self.bytes.len() as u32);
        self.kinds.push(kind);
        self.special.push(special);
    }

    /// Whether the bytes of tokens, one after the other, are the bytes of their text.
    pub(super) fn has_bytes(&self) -> bool {
        self.rule != Rule::Whole
    }

    /// Ids with a place in the table.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the id is a special token.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The bytes that the token stands for; nothing for an id that no token has.
    pub(super) fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Decodes one more token onto `out`: whole characters only.
    pub(super) fn push_token(
        &self,
        state: &mut Partial,
        id: u32,
        skip_special: bool,
        out: &mut String,
    ) {
        let kind = self.kinds.get(id as usize).copied().unwrap_or(Kind::Absent);
        if kind == Kind::Absent || (skip_special && self.is_special(id)) {
            return;
        }
        let bytes = self.token_bytes(id);
        let before = out.len();
        match (self.rule, kind) {
            (Rule::Whole, _) => state.ids.push(id),
            (Rule::ByteLevel, _) => match std::str::from_utf8(bytes) {
                Ok(text) if state.pending.is_empty() => out.push_str(text),
                _ => {
                    state.pending.extend_from_slice(bytes);
                    drain_utf8(&mut state.pending, false, out);
                }
            },
            (Rule::Sentencepiece { whole_runs, .. }, Kind::Byte) => {
                state.pending.extend_from_slice(bytes);
                if !whole_runs {
                    drain_utf8(&mut state.pending, true, out);
                }
            }
            (Rule::Sentencepiece { .. }, _) => {
                self.end_run(state, out);
                out.push_str(&String::from_utf8_lossy(bytes));
            }
        }
        self.strip_lead(state, before, out, kind == Kind::Byte);
        state.started = true;
    }

    /// Ends the text: an unfinished character becomes U+FFFD. `whole` decodes tokens that can only be decoded together.
    pub(super) fn finish(
        &self,
        state: &mut Partial,
        out: &mut String,
        whole: impl FnOnce(&[u32]) -> Result<String>,
    ) -> Result<()> {
        if self.rule == Rule::Whole {
            out.push_str(&whole(&std::mem::take(&mut state.ids))?);
            return Ok(());
        }
        let before = out.len();
        self.end_run(state, out);
        self.strip_lead(state, before, out, true);
        Ok(())
    }

    fn end_run(&self, state: &mut Partial, out: &mut String) {
        if state.pending.is_empty() {
            return;
        }
        match self.rule {
            Rule::ByteLevel | Rule::Whole => out.push_str(&String::from_utf8_lossy(&state.pending)),
            Rule::Sentencepiece { whole_runs, .. } => match std::str::from_utf8(&state.pending) {
                Ok(text) => out.push_str(text),
                Err(_) if whole_runs => {
                    out.extend(state.pending.iter().map(|_| char::REPLACEMENT_CHARACTER))
                }
                Err(_) => {
                    drain_utf8(&mut state.pending, true, out);
                    out.extend(state.pending.iter().map(|_| char::REPLACEMENT_CHARACTER));
                }
            },
        }
        state.pending.clear();
    }

    /// Drops the first space of the text where the vocabulary has one; `out[before..]` is new.
    fn strip_lead(&self, state: &mut Partial, before: usize, out: &mut String, byte: bool) {
        let Rule::Sentencepiece { lead, .. } = self.rule else {
            return;
        };
        match lead {
            Lead::StripPiece if !state.started && !byte && out[before..].starts_with(' ') => {
                out.remove(before);
            }
            Lead::StripOne if !state.written && out[before..].starts_with(' ') => {
                state.written = true;
                out.remove(before);
            }
            Lead::StripFirstToken if !state.started => {
                let kept = out[before..].replace(' ', "");
                out.truncate(before);
                out.push_str(&kept);
            }
            _ => {}
        }
        state.written |= out.len() > before;
    }
}

/// Moves whole characters from `pending` to `out`. A broken sequence becomes U+FFFD, one a byte or one in all;
/// the start of a character stays.
fn drain_utf8(pending: &mut Vec<u8>, one_a_byte: bool, out: &mut String) {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&pending[at..]) {
            Ok(text) => {
                out.push_str(text);
                pending.clear();
                return;
            }
            Err(error) => {
                let valid = at + error.valid_up_to();
                out.push_str(&String::from_utf8_lossy(&pending[at..valid]));
                let Some(broken) = error.error_len() else {
                    pending.drain(..valid);
                    return;
                };
                out.extend(std::iter::repeat_n(
                    char::REPLACEMENT_CHARACTER,
                    if one_a_byte { broken } else { 1 },
                ));
                at = valid + broken;
            }
        }
    }
}

/// A token of a byte-level vocabulary, as bytes; one with a character outside the alphabet stands for itself.
fn push_byte_level(out: &mut Vec<u8>, token: &str) {
    let start = out.len();
    for c in token.chars() {
        let Some(byte) = char_to_byte(c) else {
            out.truncate(start);
            out.extend_from_slice(token.as_bytes());
            return;
        };
        out.push(byte);
    }
}

fn push_spaces(out: &mut Vec<u8>, token: &str) {
    let mut utf8 = [0; 4];
    for c in token.chars() {
        let c = if c == SPACE { ' ' } else { c };
        out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
    }
}

/// The byte of a token spelt `<0xNN>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}
