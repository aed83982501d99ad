//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`): byte-level BPE and SentencePiece-style vocabularies.
//! Keys: ggml `docs/gguf.md`; what the keys leave open is done as llama.cpp does it.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use ahash::AHashMap;
use candle_vllm_model::weights::gguf::{Metadata, Value};
use tokenizers::{
    AddedToken, NormalizerWrapper, Tokenizer as Encoder,
    models::bpe::{BPE, Merges},
    normalizers::{Prepend, Replace, Sequence},
};

use super::{
    detok::{Detok, Lead, Rule, SPACE, byte_token},
    pre, spm, template,
    tokenizer::Parts,
};
use crate::{Error, Result};

const TOKENS: &str = "tokenizer.ggml.tokens";

/// `tokenizer.ggml.token_type`.
mod kind {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

fn wrong(key: &str, what: impl std::fmt::Display) -> Error {
    Error::ModelLoad(format!("GGUF metadata {key}: {what}"))
}

/// The vocabulary as the metadata has it.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Option<&'a [i64]>,
}

impl<'a> Vocabulary<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self> {
        let tokens = metadata
            .texts(TOKENS)
            .ok_or_else(|| wrong(TOKENS, "missing, or not a list of texts"))?;
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(wrong(TOKENS, format!("{} tokens", tokens.len())));
        }
        let key = "tokenizer.ggml.token_type";
        let kinds = match metadata.get(key) {
            None => None,
            Some(Value::Ints(kinds)) if kinds.len() >= tokens.len() => Some(kinds.as_slice()),
            Some(Value::Ints(kinds)) => {
                return Err(wrong(
                    key,
                    format!("{} entries for {} tokens", kinds.len(), tokens.len()),
                ));
            }
            Some(_) => return Err(wrong(key, "not a list of integers")),
        };
        Ok(Self { tokens, kinds })
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.map_or(kind::NORMAL, |kinds| kinds[id])
    }

    /// Whether the token is looked for in the text as it stands.
    fn is_added(&self, id: usize) -> bool {
        matches!(
            self.kind(id),
            kind::UNKNOWN | kind::CONTROL | kind::USER_DEFINED
        )
    }

    /// Whether the token is left out of a text that skips special tokens.
    fn is_special(&self, id: usize) -> bool {
        matches!(self.kind(id), kind::UNKNOWN | kind::CONTROL)
    }
}

/// Loads the tokenizer that `metadata` describes.
pub(super) fn load(metadata: &Metadata) -> Result<Parts> {
    let key = "tokenizer.ggml.model";
    let vocabulary = Vocabulary::new(metadata)?;
    let (mut encoder, detok, add_bos) = match metadata.text(key) {
        Some("gpt2") => byte_level(metadata, &vocabulary)?,
        Some("llama") => sentencepiece(metadata, &vocabulary)?,
        Some(model) => {
            return Err(wrong(
                key,
                format!("`{model}` is not supported; supported are gpt2 and llama"),
            ));
        }
        None => return Err(wrong(key, "missing, so the file has no tokenizer")),
    };
    add_tokens(&mut encoder, &vocabulary)?;
    let templates = template::from_gguf(metadata);
    let named = Named::new(metadata, &vocabulary)?;
    let flag = |name: &str, default: bool| {
        metadata
            .bool(&format!("tokenizer.ggml.{name}"))
            .unwrap_or(default)
    };
    let bos_id = named.id("bos_token");
    let before = bos_id.filter(|_| flag("add_bos_token", add_bos));
    let after = named
        .id("eos_token")
        .filter(|_| flag("add_eos_token", false));
    let affixes = Some((before.into_iter().collect(), after.into_iter().collect()));
    let eos_ids = eos_ids(&named, &vocabulary, templates.get(template::DEFAULT));
    Ok(Parts {
        encoder,
        detok,
        affixes,
        eos_ids,
        bos_id,
        special_tokens: named.texts(&vocabulary),
        templates,
    })
}

/// Byte-level BPE: GPT-2 and all that came of it.
fn byte_level(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<(Encoder, Detok, bool)> {
    let key = "tokenizer.ggml.pre";
    let name = metadata.text(key).unwrap_or("default");
    let Some(pre) = pre::find(name) else {
        return Err(wrong(
            key,
            format!("the pre-tokenizer `{name}` is not known"),
        ));
    };
    let key = "tokenizer.ggml.merges";
    let lines = metadata
        .texts(key)
        .ok_or_else(|| wrong(key, "missing, or not a list of texts"))?;
    let mut merges: Merges = Vec::with_capacity(lines.len());
    for line in lines {
        // A token may itself begin with a space, so the first character is never the border.
        let border = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let Some((at, _)) = border else {
            return Err(wrong(key, format!("`{line}` is not a pair of tokens")));
        };
        merges.push((line[..at].to_owned(), line[at + 1..].to_owned()));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(ids(vocabulary), merges)
        .ignore_merges(pre.ignore_merges);
    let mut encoder = Encoder::new(bpe.build().map_err(|e| wrong(key, e))?);
    encoder.with_pre_tokenizer(Some(pre.build()?));

    let mut detok = Detok::with_capacity(Rule::ByteLevel, vocabulary.tokens.len());
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.is_added(id) {
            detok.push_plain(token, vocabulary.is_special(id));
        } else {
            detok.push(token, false);
        }
    }
    Ok((encoder, detok, pre.add_bos))
}

fn ids(vocabulary: &Vocabulary) -> AHashMap<String, u32> {
    vocabulary
        .tokens
        .iter()
        .zip(0..)
        .map(|(token, id)| (token.clone(), id))
        .collect()
}

/// SentencePiece BPE: spaces are `▁`, characters without a piece are bytes `<0xNN>`.
fn sentencepiece(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<(Encoder, Detok, bool)> {
    let key = "tokenizer.ggml.scores";
    let scores = match metadata.get(key) {
        Some(Value::Floats(scores)) if scores.len() >= vocabulary.tokens.len() => scores,
        Some(_) => {
            return Err(wrong(
                key,
                format!("not {} floats", vocabulary.tokens.len()),
            ));
        }
        None => return Err(wrong(key, "missing")),
    };
    let known: HashMap<&str, u32> = vocabulary
        .tokens
        .iter()
        .map(String::as_str)
        .zip(0..)
        .collect();
    let mut pieces: Vec<(&str, f32)> = Vec::with_capacity(vocabulary.tokens.len());
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let plain = !vocabulary.is_special(id) && vocabulary.kind(id) != kind::UNUSED;
        if plain && byte_token(token).is_none() {
            pieces.push((token, scores[id]));
        }
    }
    let merges = spm::merges(&pieces, &known);
    let unknown = metadata
        .uint("tokenizer.ggml.unknown_token_id")
        .and_then(|id| usize::try_from(id).ok());
    let unknown = vocabulary.tokens.get(unknown.unwrap_or(0));
    let mut bpe = BPE::builder()
        .vocab_and_merges(ids(vocabulary), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        bpe = bpe.unk_token(unknown.clone());
    }
    let mut encoder = Encoder::new(bpe.build().map_err(|e| wrong(TOKENS, e))?);

    let prefix = metadata
        .bool("tokenizer.ggml.add_space_prefix")
        .unwrap_or(true);
    let space = Replace::new(" ", SPACE.to_string()).map_err(|e| wrong(TOKENS, e))?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        steps.push(Prepend::new(SPACE.to_string()).into());
    }
    steps.push(space.into());
    encoder
        .with_normalizer(Some(Sequence::new(steps)))
        .map_err(|e| wrong(TOKENS, e))?;

    let lead = if prefix { Lead::StripOne } else { Lead::Keep };
    let rule = Rule::Sentencepiece {
        lead,
        byte_tokens: true,
        whole_runs: false,
    };
    let mut detok = Detok::with_capacity(rule, vocabulary.tokens.len());
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        detok.push(token, vocabulary.is_special(id));
    }
    Ok((encoder, detok, true))
}

/// Control, unknown and user-defined tokens are found in a text as they stand.
fn add_tokens(encoder: &mut Encoder, vocabulary: &Vocabulary) -> Result<()> {
    let mut added: Vec<AddedToken> = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.is_added(id) && !token.is_empty() {
            added
                .push(AddedToken::from(token.clone(), vocabulary.is_special(id)).normalized(false));
        }
    }
    encoder.add_tokens(added).map_err(|e| wrong(TOKENS, e))?;
    Ok(())
}

/// Special tokens that the metadata names.
struct Named(BTreeMap<&'static str, u32>);

impl Named {
    fn new(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self> {
        let names = [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("eot_token", "eot"),
            ("eom_token", "eom"),
            ("unk_token", "unknown"),
            ("sep_token", "seperator"),
            ("pad_token", "padding"),
            ("cls_token", "cls"),
            ("mask_token", "mask"),
        ];
        let mut named = BTreeMap::new();
        for (name, key) in names {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let Some(value) = metadata.get(&key) else {
                continue;
            };
            let id = metadata
                .uint(&key)
                .filter(|&id| id < vocabulary.tokens.len() as u64);
            match id {
                Some(id) => named.insert(name, id as u32),
                // -1 and the like stand for `none` in old files; only an end that cannot be told is an error.
                None if matches!(name, "eos_token" | "eot_token" | "eom_token") => {
                    return Err(wrong(
                        &key,
                        format!("{value:?} is no id of {} tokens", vocabulary.tokens.len()),
                    ));
                }
                None => None,
            };
        }
        Ok(Self(named))
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }

    fn texts(&self, vocabulary: &Vocabulary) -> BTreeMap<String, String> {
        let text = |id: u32| vocabulary.tokens[id as usize].clone();
        self.0
            .iter()
            .map(|(name, &id)| ((*name).to_owned(), text(id)))
            .collect()
    }
}

/// Ids that end an answer: eos, eot and eom of the metadata, and the end-of-turn token that its chat template writes.
fn eos_ids(named: &Named, vocabulary: &Vocabulary, template: Option<&String>) -> Vec<u32> {
    let mut ids: BTreeSet<u32> = ["eos_token", "eot_token", "eom_token"]
        .iter()
        .filter_map(|n| named.id(n))
        .collect();
    let ends = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>"];
    let ends = ends
        .into_iter()
        .filter(|end| template.is_some_and(|template| template.contains(end)));
    let ends: Vec<&str> = ends.collect();
    if !ends.is_empty() {
        let controls = vocabulary
            .tokens
            .iter()
            .zip(0..)
            .filter(|(_, id)| vocabulary.is_added(*id as usize));
        ids.extend(
            controls
                .filter(|(token, _)| ends.contains(&token.as_str()))
                .map(|(_, id)| id),
        );
    }
    ids.into_iter().collect()
}
