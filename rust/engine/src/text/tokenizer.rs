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
            Encoder::Bpe(bpe) => bpe.encode(text)?,
            Encoder::Json(json) => {
                let by_json = add_special_tokens && self.0.affixes.is_none();
                let encoding = json.encode_fast(text, by_json);
                let wrong = |e| Error::Tokenization(format!("cannot tokenize the text: {e}"));
                encoding.map_err(wrong)?.get_ids().to_vec()
            }
        };
        Ok(match affixes {
            None => ids,
            Some((before, after)) => [before.as_slice(), &ids, after].concat(),
        })
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
