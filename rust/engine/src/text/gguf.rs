//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`): byte-level BPE and SentencePiece-style vocabularies.
//! Keys: ggml `docs/gguf.md`; what the keys leave open is done as llama.cpp does it.
use std::collections::{BTreeMap, BTreeSet, HashSet};

use candle_vllm_model::weights::gguf::{Metadata, Value};

use super::{
    bpe::{Alphabet, Bpe, Order},
    detok::{Detok, Lead, Rule, SPACE, byte_token},
    merge::{Merge, NONE, Pairs},
    pre, template,
    tokenizer::{Encoder, Parts},
    vocabulary::Vocabulary,
};
use crate::{Error, Result};

const TOKENS: &str = "tokenizer.ggml.tokens";

/// `tokenizer.ggml.token_type`.
mod kind {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const BYTE: i64 = 6;
}

fn wrong(key: &str, what: impl std::fmt::Display) -> Error {
    Error::ModelLoad(format!("GGUF metadata {key}: {what}"))
}

fn too_large() -> Error {
    wrong(TOKENS, "more than 4 GiB")
}

/// The tokens as the metadata has them.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: Option<&'a [i64]>,
}

impl<'a> Tokens<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self> {
        let texts = metadata
            .texts(TOKENS)
            .ok_or_else(|| wrong(TOKENS, "missing, or not a list of texts"))?;
        if texts.is_empty() || u32::try_from(texts.len()).is_err() {
            return Err(wrong(TOKENS, format!("{} tokens", texts.len())));
        }
        let key = "tokenizer.ggml.token_type";
        let kinds = match metadata.get(key) {
            None => None,
            Some(Value::Ints(kinds)) if kinds.len() >= texts.len() => Some(kinds.as_slice()),
            Some(Value::Ints(kinds)) => {
                return Err(wrong(
                    key,
                    format!("{} entries for {} tokens", kinds.len(), texts.len()),
                ));
            }
            Some(_) => return Err(wrong(key, "not a list of integers")),
        };
        Ok(Self { texts, kinds })
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

    /// Ids of the tokens that are looked for.
    fn added(&self) -> Vec<u32> {
        let ids = 0..self.texts.len();
        ids.filter(|&id| self.is_added(id) && !self.texts[id].is_empty())
            .map(|id| id as u32)
            .collect()
    }

    fn vocabulary(&self) -> Result<Vocabulary> {
        Vocabulary::new(self.texts.iter().map(String::as_bytes)).ok_or_else(too_large)
    }

    /// Whether the token is left out of a text that skips special tokens.
    fn is_special(&self, id: usize) -> bool {
        matches!(self.kind(id), kind::UNKNOWN | kind::CONTROL)
    }
}

/// An encoder, its counterpart, and whether a text begins with `bos` unless the metadata says otherwise.
type Model = (Bpe, Detok, bool);

/// Loads the tokenizer that `metadata` describes.
pub(super) fn load(metadata: &Metadata) -> Result<Parts> {
    let key = "tokenizer.ggml.model";
    let tokens = Tokens::new(metadata)?;
    let (bpe, detok, add_bos) = match metadata.text(key) {
        Some("gpt2") => byte_level(metadata, &tokens)?,
        Some("llama") => sentencepiece(metadata, &tokens)?,
        Some("gemma4") => gemma4(metadata, &tokens)?,
        Some(model) => {
            let what = format!("`{model}` is not supported; supported are gpt2, llama and gemma4");
            return Err(wrong(key, what));
        }
        None => return Err(wrong(key, "missing, so the file has no tokenizer")),
    };
    let templates = template::from_gguf(metadata);
    let named = Named::new(metadata, &tokens)?;
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
    Ok(Parts {
        encoder: Encoder::Bpe(Box::new(bpe)),
        detok,
        affixes: Some((before.into_iter().collect(), after.into_iter().collect())),
        eos_ids: eos_ids(&named, &tokens, templates.get(template::DEFAULT)),
        bos_id,
        special_tokens: named.texts(&tokens),
        templates,
    })
}

/// Byte-level BPE: GPT-2 and all that came of it.
fn byte_level(metadata: &Metadata, tokens: &Tokens) -> Result<Model> {
    let key = "tokenizer.ggml.pre";
    let name = metadata.text(key).unwrap_or("default");
    let Some(pre) = pre::find(name) else {
        return Err(wrong(
            key,
            format!("the pre-tokenizer `{name}` is not known"),
        ));
    };
    let mut detok = Detok::with_capacity(Rule::ByteLevel, tokens.texts.len());
    for (id, token) in tokens.texts.iter().enumerate() {
        if tokens.is_added(id) {
            detok.push_plain(token, tokens.is_special(id));
        } else {
            detok.push(token, false);
        }
    }
    // Added tokens are no words and no bytes, whatever they look like.
    let spelling = |id: u32| {
        if tokens.is_added(id as usize) {
            &[]
        } else {
            detok.token_bytes(id)
        }
    };
    let spellings = (0..detok.len() as u32).map(spelling);
    let mut ids = Box::new([NONE; 256]);
    for (id, token) in (0..).zip(spellings.clone()) {
        if let [byte] = *token
            && ids[byte as usize] == NONE
        {
            ids[byte as usize] = id;
        }
    }
    let whole = pre
        .ignore_merges
        .then(|| Vocabulary::new(spellings).ok_or_else(too_large))
        .transpose()?;
    let vocabulary = tokens.vocabulary()?;
    let order = Order::Ranks(merges(metadata, &vocabulary)?);
    let alphabet = Alphabet::Bytes {
        cutters: pre.build()?,
        ids,
        whole,
        compose: pre.compose,
    };
    Ok((
        Bpe::new(vocabulary, alphabet, order, tokens.added())?,
        detok,
        pre.add_bos,
    ))
}

/// `tokenizer.ggml.merges`: pairs of tokens with a space between, best first.
fn merges(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Pairs> {
    let key = "tokenizer.ggml.merges";
    let lines = metadata
        .texts(key)
        .ok_or_else(|| wrong(key, "missing, or not a list of texts"))?;
    let mut pairs = Pairs::with_capacity(lines.len());
    let mut joint = String::new();
    for (line, rank) in lines.iter().zip(0..) {
        // A token may itself begin with a space, so the first character is never the border.
        let border = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let Some((at, _)) = border else {
            return Err(wrong(key, format!("`{line}` is not a pair of tokens")));
        };
        let (left, right) = (&line[..at], &line[at + 1..]);
        joint.clear();
        joint.push_str(left);
        joint.push_str(right);
        let ids = (
            vocabulary.get(left.as_bytes()),
            vocabulary.get(right.as_bytes()),
            vocabulary.get(joint.as_bytes()),
        );
        let (Some(left), Some(right), Some(id)) = ids else {
            return Err(wrong(
                key,
                format!("`{line}`: the parts and what they make must be tokens"),
            ));
        };
        pairs.insert(left, right, Merge { rank, id });
    }
    Ok(pairs)
}

/// SentencePiece BPE: of two neighbours, those are joined first whose joint piece has the highest score.
fn sentencepiece(metadata: &Metadata, tokens: &Tokens) -> Result<Model> {
    let key = "tokenizer.ggml.scores";
    let scores = match metadata.get(key) {
        Some(Value::Floats(scores)) if scores.len() >= tokens.texts.len() => scores,
        Some(_) => return Err(wrong(key, format!("not {} floats", tokens.texts.len()))),
        None => return Err(wrong(key, "missing")),
    };
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(wrong(key, format!("score {at} is not a number")));
    }
    let made = |id: usize| !tokens.is_special(id) && tokens.kind(id) != kind::BYTE;
    let rank = |id: usize| made(id).then(|| descending(scores[id]));
    let order = Order::Scores((0..tokens.texts.len()).map(rank).collect());
    let prefix = metadata
        .bool("tokenizer.ggml.add_space_prefix")
        .unwrap_or(true);
    characters(metadata, tokens, order, prefix)
}

/// Gemma 4's: SentencePiece's alphabet, but merges from a list.
fn gemma4(metadata: &Metadata, tokens: &Tokens) -> Result<Model> {
    let order = Order::Ranks(merges(metadata, &tokens.vocabulary()?)?);
    let prefix = metadata
        .bool("tokenizer.ggml.add_space_prefix")
        .unwrap_or(false);
    characters(metadata, tokens, order, prefix)
}

/// Spaces are `▁`, characters without a piece are bytes `<0xNN>`.
fn characters(metadata: &Metadata, tokens: &Tokens, order: Order, prefix: bool) -> Result<Model> {
    let lead = if prefix { Lead::StripPiece } else { Lead::Keep };
    let rule = Rule::Sentencepiece {
        lead,
        byte_tokens: true,
        whole_runs: false,
    };
    let mut detok = Detok::with_capacity(rule, tokens.texts.len());
    let mut bytes = Box::new([NONE; 256]);
    let mut before_space = HashSet::new();
    for (id, token) in tokens.texts.iter().enumerate() {
        detok.push(token, tokens.is_special(id));
        if let Some(byte) = byte_token(token) {
            bytes[byte as usize] = id as u32;
        }
        for (at, _) in token.match_indices(SPACE) {
            before_space.extend(token[..at].chars().next_back().filter(|&c| c != SPACE));
        }
    }
    before_space.insert(SPACE);
    let unknown = metadata
        .uint("tokenizer.ggml.unknown_token_id")
        .unwrap_or(0);
    let unknown = u32::try_from(unknown)
        .ok()
        .filter(|&id| (id as usize) < tokens.texts.len());
    let alphabet = Alphabet::Characters {
        prefix,
        bytes,
        unknown,
        before_space,
    };
    Ok((
        Bpe::new(tokens.vocabulary()?, alphabet, order, tokens.added())?,
        detok,
        true,
    ))
}

/// A number that is the smaller the larger the score is.
fn descending(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 0 {
        !(bits | 1 << 31)
    } else {
        bits
    }
}

/// Special tokens that the metadata names.
struct Named(BTreeMap<&'static str, u32>);

impl Named {
    fn new(metadata: &Metadata, tokens: &Tokens) -> Result<Self> {
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
                .filter(|&id| id < tokens.texts.len() as u64);
            match id {
                Some(id) => named.insert(name, id as u32),
                // -1 and the like stand for `none` in old files; only an end that cannot be told is an error.
                None if matches!(name, "eos_token" | "eot_token" | "eom_token") => {
                    return Err(wrong(
                        &key,
                        format!("{value:?} is no id of {} tokens", tokens.texts.len()),
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

    fn texts(&self, tokens: &Tokens) -> BTreeMap<String, String> {
        let text = |id: u32| tokens.texts[id as usize].clone();
        self.0
            .iter()
            .map(|(name, &id)| ((*name).to_owned(), text(id)))
            .collect()
    }
}

/// Ids that end an answer: eos, eot and eom of the metadata, and the end-of-turn token that its chat template writes.
fn eos_ids(named: &Named, tokens: &Tokens, template: Option<&String>) -> Vec<u32> {
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
        let controls = tokens
            .texts
            .iter()
            .zip(0..)
            .filter(|(_, id)| tokens.is_added(*id as usize));
        ids.extend(
            controls
                .filter(|(token, _)| ends.contains(&token.as_str()))
                .map(|(_, id)| id),
        );
    }
    ids.into_iter().collect()
}
