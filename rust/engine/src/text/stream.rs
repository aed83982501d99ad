//! The text of one request as its tokens arrive: whole characters only, stop strings held back and cut.
//! Each token costs its own length. Knows nothing of end-of-sequence ids.
use super::{Tokenizer, detok::Partial, stop::StopFinder};
use crate::Result;

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
            tokenizer,
            skip_special_tokens,
        }
    }

    /// Takes the next token. After a stop string, nothing more comes.
    ///
    /// # Errors
    /// None today; the type leaves room for vocabularies that refuse an id.
    pub fn push(&mut self, id: u32) -> Result<Piece> {
        let mut text = String::new();
        self.tokenizer.0.detok.push_token(
            &mut self.partial,
            id,
            self.skip_special_tokens,
            &mut text,
        );
        let text = self.stops.push(&text);
        Ok(Piece {
            text,
            stopped: self.stops.stopped(),
        })
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
