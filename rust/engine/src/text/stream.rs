//! The text of one request as its tokens arrive: whole characters only, stop strings held back and cut.
//! Each token costs its own length. Knows nothing of end-of-sequence ids.
use super::{Tokenizer, detok::Partial, stop::StopFinder};
use crate::Result;

/// Tokens between two looks for stop strings in a text that can only be decoded whole.
const LOOK: usize = 8;

/// What one more token made certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that may be sent: no part of it may still change or turn out to be a stop string.
    pub text: String,
    /// The stop string (its index) that ended the text; nothing comes after.
    pub stopped: Option<usize>,
}

/// Incremental detokenisation of one request. All pieces together are the `decode` of all its tokens, cut before the
/// stop string that starts earliest (the shortest of those that start there).
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    partial: Partial,
    stops: StopFinder,
    strings: Vec<String>,
    /// Tokens after which a text that can only be decoded whole is decoded to look for stop strings.
    look_at: usize,
}

impl TextStream {
    /// `prompt_tail`: the prompt, or its last tokens. Where it has text, the first token's space is kept, which
    /// SentencePiece drops at the start of a text. Empty stop strings never match.
    pub fn new(
        tokenizer: Tokenizer,
        prompt_tail: &[u32],
        stops: Vec<String>,
        skip_special_tokens: bool,
    ) -> Self {
        let detok = &tokenizer.0.detok;
        let is_text = |id: &u32| {
            let skipped = skip_special_tokens && detok.is_special(*id);
            !skipped && !detok.token_bytes(*id).is_empty()
        };
        let continued = prompt_tail.iter().rev().any(is_text);
        Self {
            partial: if continued {
                Partial::continued()
            } else {
                Partial::default()
            },
            stops: StopFinder::new(&stops),
            strings: stops,
            look_at: LOOK,
            tokenizer,
            skip_special_tokens,
        }
    }

    /// Takes the next token. After a stop string, nothing more comes.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Piece> {
        let mut text = String::new();
        self.tokenizer.0.detok.push_token(
            &mut self.partial,
            id,
            self.skip_special_tokens,
            &mut text,
        );
        if !self.strings.is_empty() {
            text = self.stops.push(&text);
            if self.partial.withheld() >= self.look_at {
                text = self.look()?;
            }
        }
        Ok(Piece {
            text,
            stopped: self.stops.stopped(),
        })
    }

    /// Looks for stop strings in a text of which nothing was given out because it can only be decoded whole. The last
    /// token's text may still change, so what ends in it counts when more has come.
    fn look(&mut self) -> Result<String> {
        let tokens = self.partial.withheld();
        // In all, tokens are decoded about 16 times.
        self.look_at = tokens + LOOK.max(tokens / 16);
        let text = self.tokenizer.peek(&self.partial, tokens - 1)?;
        let mut stops = StopFinder::new(&self.strings);
        let before = stops.push(&text);
        if stops.stopped().is_none() {
            return Ok(String::new());
        }
        self.stops = stops;
        Ok(before)
    }

    /// Ends the text and gives out what was held back: an unfinished character as U+FFFD, an unfinished stop string as
    /// it is. A stop string may be found only now; see [`TextStream::stopped`].
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let mut text = String::new();
        self.tokenizer.finish(&mut self.partial, &mut text)?;
        let mut out = self.stops.push(&text);
        out.push_str(&self.stops.finish());
        Ok(out)
    }

    /// The stop string (its index) that ended the text.
    pub fn stopped(&self) -> Option<usize> {
        self.stops.stopped()
    }
}
