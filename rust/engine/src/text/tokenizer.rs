//! The tokenizer of a model: text to ids and back, its special tokens and its chat templates.
//! Where it came from is known only while it is loaded (`folder.rs`, `gguf.rs`).
use std::{collections::BTreeMap, sync::Arc};

use candle_vllm_model::weights::TokenizerSource;

use super::{
    bpe::Bpe,
    detok::{Detok, Partial},
    folder, gguf,
};
use crate::{Error, Result};

/// A model's tokenizer. Cheap to clone and to share between threads.
#[derive(Clone)]
pub struct Tokenizer(pub(super) Arc<Parts>);

/// Turns text into ids.
pub(super) enum Encoder {
    /// Any tokenizer.json.
    Json(Box<tokenizers::Tokenizer>),
    /// Byte-pair merging.
    Bpe(Box<Bpe>),
}

impl Encoder {
    /// The id of a token in the vocabulary's own spelling.
    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Json(json) => json.token_to_id(token),
            Self::Bpe(bpe) => bpe.vocabulary().get(token.as_bytes()),
        }
    }
}

/// What a tokenizer is made of.
pub(super) struct Parts {
    /// Text to ids.
    pub(super) encoder: Encoder,
    /// Ids to text.
    pub(super) detok: Detok,
    /// Ids put before and after a text when special tokens are asked for; `None` = as the encoder's post-processor has it.
    pub(super) affixes: Option<(Vec<u32>, Vec<u32>)>,
    /// Ids that end an answer, ascending.
    pub(super) eos_ids: Vec<u32>,
    /// The id that begins a text.
    pub(super) bos_id: Option<u32>,
    /// `bos_token`, `eos_token`, ... and their texts.
    pub(super) special_tokens: BTreeMap<String, String>,
    /// Chat templates by name; the usual one is `default`.
    pub(super) templates: BTreeMap<String, String>,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint.
    ///
    /// # Errors
    /// `ModelLoad` naming the file or metadata key that is missing, broken or of a kind that is not supported.
    pub fn load(source: &TokenizerSource) -> Result<Self> {
        let parts = match source {
            TokenizerSource::Folder(folder) => folder::load(folder)?,
            TokenizerSource::Gguf(metadata) => gguf::load(metadata)?,
        };
        Ok(Self(Arc::new(parts)))
    }

    /// The ids of `text`. Special tokens spelt out in the text become their ids, as in transformers;
    /// `add_special_tokens` also adds those that the model puts around a text (usually `bos`).
    ///
    /// # Errors
    /// `Tokenization` when the vocabulary cannot write the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let affixes = self.0.affixes.as_ref().filter(|_| add_special_tokens);
        let ids = match &self.0.encoder {
            Encoder::Bpe(bpe) => bpe.encode(text, &[])?,
            Encoder::Json(json) => {
                by_json(json, text, add_special_tokens && self.0.affixes.is_none())?
            }
        };
        Ok(match affixes {
            None => ids,
            Some((before, after)) => [before.as_slice(), &ids, after].concat(),
        })
    }

    /// The ids of a text in parts: in every other one, from the second on, special tokens spelt out are plain text.
    ///
    /// A text of one part is encoded as by `encode` without special tokens. Tokenizers that only the tokenizers crate
    /// knows may see a word's border where a part begins.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_parts(&self, parts: &[String]) -> Result<Vec<u32>> {
        match &self.0.encoder {
            Encoder::Bpe(bpe) => {
                let mut plain = Vec::with_capacity(parts.len() / 2);
                let mut at = 0;
                for (index, part) in parts.iter().enumerate() {
                    let end = at + part.len();
                    if index % 2 == 1 && !part.is_empty() {
                        plain.push(at..end);
                    }
                    at = end;
                }
                bpe.encode(&parts.concat(), &plain)
            }
            Encoder::Json(json) => {
                let mut ids = Vec::new();
                for (index, part) in parts.iter().enumerate() {
                    let cut = if index % 2 == 1 { half(part) } else { 0 };
                    for piece in [&part[..cut], &part[cut..]] {
                        if !piece.is_empty() {
                            ids.extend(by_json(json, piece, false)?);
                        }
                    }
                }
                Ok(ids)
            }
        }
    }

    /// The ids of `text` where it goes on from other text: nothing is added, not even the space that some vocabularies
    /// put before a text's first word.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`], and where that space cannot be left out.
    pub(crate) fn encode_inner(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.encoder {
            Encoder::Bpe(bpe) => bpe.encode_inner(text),
            Encoder::Json(_) => {
                // Behind a line's end no space is put; what the line's end became is cut off again.
                let (before, all) = (
                    self.encode("\n", false)?,
                    self.encode(&format!("\n{text}"), false)?,
                );
                let rest = all.strip_prefix(before.as_slice());
                rest.map(<[u32]>::to_vec).ok_or_else(|| {
                    Error::Tokenization(
                        "the text cannot be taken apart from what is before it".into(),
                    )
                })
            }
        }
    }

    /// Texts of all special tokens, as they stand in a text, in the order of their ids.
    pub fn special_texts(&self) -> Vec<String> {
        let size = u32::try_from(self.vocab_size()).unwrap_or(u32::MAX);
        let ids = (0..size).filter(|&id| self.is_special(id));
        ids.filter_map(|id| self.id_to_token(id)).collect()
    }

    /// Whether the bytes of tokens, one after the other, are the bytes of their text.
    pub(crate) fn has_bytes(&self) -> bool {
        self.0.detok.has_bytes()
    }

    /// The text of `ids`; broken characters become U+FFFD, ids that no token has become nothing.
    ///
    /// # Errors
    /// `Tokenization` when the decoder of an unusual tokenizer.json fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let mut out = String::with_capacity(ids.len() * 4);
        let mut partial = Partial::default();
        for &id in ids {
            self.0
                .detok
                .push_token(&mut partial, id, skip_special_tokens, &mut out);
        }
        self.finish(&mut partial, &mut out)?;
        Ok(out)
    }

    /// Ends a text that was decoded token by token.
    pub(super) fn finish(&self, partial: &mut Partial, out: &mut String) -> Result<()> {
        self.0.detok.finish(partial, out, |ids| self.whole(ids))
    }

    /// The text of the first `count` tokens of those that can only be decoded together.
    pub(super) fn peek(&self, partial: &Partial, count: usize) -> Result<String> {
        self.whole(partial.first(count))
    }

    fn whole(&self, ids: &[u32]) -> Result<String> {
        let text = match &self.0.encoder {
            Encoder::Json(json) => json.decode(ids, false),
            Encoder::Bpe(_) => Ok(String::new()),
        };
        text.map_err(|e| Error::Tokenization(format!("cannot decode the tokens: {e}")))
    }

    /// One more than the largest id that a token has. A model's logits may be wider.
    pub fn vocab_size(&self) -> usize {
        self.0.detok.len()
    }

    /// The bytes that a token adds to a text; empty for an id that no token has.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.detok.token_bytes(id)
    }

    /// The id of a token in the vocabulary's own spelling (`Ġthe`, `▁the`, `<|im_end|>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.encoder.token_to_id(token)
    }

    /// The vocabulary's own spelling of a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.0.encoder {
            Encoder::Json(json) => json.id_to_token(id),
            Encoder::Bpe(bpe) => {
                let spelling = bpe
                    .vocabulary()
                    .spelling(id)
                    .filter(|spelling| !spelling.is_empty())?;
                Some(String::from_utf8_lossy(spelling).into_owned())
            }
        }
    }

    /// Whether the id is a special (control) token, which `skip_special_tokens` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.detok.is_special(id)
    }

    /// Ids that end an answer as far as the tokenizer's own files say, ascending; the model's configuration may name more.
    pub fn eos_ids(&self) -> &[u32] {
        &self.0.eos_ids
    }

    /// The id that begins a text, if the vocabulary has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.0.bos_id
    }

    /// Texts of the named special tokens (`bos_token`, `eos_token`, `unk_token`, `pad_token` ...), for chat templates.
    pub fn special_tokens(&self) -> BTreeMap<String, String> {
        self.0.special_tokens.clone()
    }

    /// The model's usual chat template (Jinja).
    pub fn chat_template(&self) -> Option<&str> {
        self.0
            .templates
            .get(super::template::DEFAULT)
            .map(String::as_str)
    }

    /// All chat templates by name (`default`, `tool_use`, `rag` ...).
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.0.templates
    }
}

/// The ids of a text by the tokenizers crate.
fn by_json(json: &tokenizers::Tokenizer, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
    let encoding = json.encode_fast(text, add_special_tokens);
    let wrong = |e| Error::Tokenization(format!("cannot tokenize the text: {e}"));
    Ok(encoding.map_err(wrong)?.get_ids().to_vec())
}

/// A border between characters in the middle of a text: a special token that is the whole text is in neither half.
fn half(text: &str) -> usize {
    let middle = text.chars().count().div_ceil(2);
    text.char_indices()
        .nth(middle)
        .map_or(text.len(), |(at, _)| at)
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encoder = match self.0.encoder {
            Encoder::Bpe(_) => "own",
            Encoder::Json(_) => "crate",
        };
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("encoder", &encoder)
            .finish_non_exhaustive()
    }
}
