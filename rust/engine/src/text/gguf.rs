//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`): byte-level BPE and SentencePiece-style vocabularies.
//! Keys: ggml `docs/gguf.md`; what the keys leave open is done as llama.cpp does it.
use std::collections::{BTreeMap, BTreeSet};

use candle_vllm_model::weights::gguf::{Metadata, Value};

use super::{
    bpe::{Bpe, Order, Prefix},
    detok::{Detok, Lead, Rule},
    merge::split_merge,
    pre, template,
    tokenizer::{Encoder, Parts},
    tokens::{Token, Tokens, Words, pairs},
};
use crate::{Error, Result};

const MERGES: &str = "tokenizer.ggml.merges";
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

/// The tokens as the metadata has them, and their kinds.
struct Typed<'a> {
    tokens: Tokens<'a>,
    kinds: Option<&'a [i64]>,
}

impl<'a> Typed<'a> {
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
        let token = |(id, text): (usize, &'a String)| {
            let kind = kinds.map_or(kind::NORMAL, |kinds| kinds[id]);
            let special = matches!(kind, kind::UNKNOWN | kind::CONTROL);
            let added = special || kind == kind::USER_DEFINED;
            Token {
                text,
                word: !added,
                added,
                special,
            }
        };
        Ok(Self {
            tokens: Tokens(texts.iter().enumerate().map(token).collect()),
            kinds,
        })
    }

    fn is_byte(&self, id: usize) -> bool {
        self.kinds.is_some_and(|kinds| kinds[id] == kind::BYTE)
    }
}

/// An encoder, its counterpart, and whether a text begins with `bos` unless the metadata says otherwise.
type Model = (Bpe, Detok, bool);

/// Loads the tokenizer that `metadata` describes.
pub(super) fn load(metadata: &Metadata) -> Result<Parts> {
    let key = "tokenizer.ggml.model";
    let typed = Typed::new(metadata)?;
    let tokens = &typed.tokens;
    let (bpe, detok, add_bos) = match metadata.text(key) {
        Some("gpt2") => byte_level(metadata, tokens)?,
        Some("llama") => sentencepiece(metadata, &typed)?,
        Some("gemma4") => gemma4(metadata, tokens)?,
        Some(model) => {
            let what = format!("`{model}` is not supported; supported are gpt2, llama and gemma4");
            return Err(wrong(key, what));
        }
        None => return Err(wrong(key, "missing, so the file has no tokenizer")),
    };
    let templates = template::from_gguf(metadata);
    let named = Named::new(metadata, tokens)?;
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
        eos_ids: eos_ids(&named, tokens),
        bos_id,
        special_tokens: named.texts(tokens),
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
    let detok = tokens.detok(Rule::ByteLevel, true);
    let words = Words {
        cutters: pre.build()?,
        ignore_merges: pre.ignore_merges,
        compose: pre.compose,
    };
    let merges = merges(metadata)?;
    let built = tokens.byte_level(detok, words, merges.into_iter());
    let (bpe, detok) = built.map_err(|e| wrong(MERGES, e))?;
    Ok((bpe, detok, pre.add_bos))
}

/// `tokenizer.ggml.merges`: pairs of tokens with a space between, best first.
fn merges(metadata: &Metadata) -> Result<Vec<(&str, &str)>> {
    let lines = metadata
        .texts(MERGES)
        .ok_or_else(|| wrong(MERGES, "missing, or not a list of texts"))?;
    let pairs = lines.iter().map(|line| {
        split_merge(line).ok_or_else(|| wrong(MERGES, format!("`{line}` is not a pair of tokens")))
    });
    pairs.collect()
}

/// SentencePiece BPE: of two neighbours, those are joined first whose joint piece has the highest score.
fn sentencepiece(metadata: &Metadata, typed: &Typed) -> Result<Model> {
    let key = "tokenizer.ggml.scores";
    let tokens = &typed.tokens;
    let scores = match metadata.get(key) {
        Some(Value::Floats(scores)) if scores.len() >= tokens.0.len() => scores,
        Some(_) => return Err(wrong(key, format!("not {} floats", tokens.0.len()))),
        None => return Err(wrong(key, "missing")),
    };
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return Err(wrong(key, format!("score {at} is not a number")));
    }
    let made = |id: usize| !tokens.0[id].special && !typed.is_byte(id);
    let rank = |id: usize| made(id).then(|| descending(scores[id]));
    let order = Order::Scores((0..tokens.0.len()).map(rank).collect());
    characters(metadata, tokens, order, true)
}

/// Gemma 4's: SentencePiece's alphabet, but merges from a list.
fn gemma4(metadata: &Metadata, tokens: &Tokens) -> Result<Model> {
    let vocabulary = tokens.vocabulary().map_err(|e| wrong(TOKENS, e))?;
    let pairs = pairs(&vocabulary, merges(metadata)?.into_iter()).map_err(|e| wrong(MERGES, e))?;
    characters(metadata, tokens, Order::Ranks(pairs), false)
}

/// SentencePiece's alphabet; `prefix`: whether a space is put before a text unless the metadata says otherwise.
fn characters(metadata: &Metadata, tokens: &Tokens, order: Order, prefix: bool) -> Result<Model> {
    let prefix = metadata
        .bool("tokenizer.ggml.add_space_prefix")
        .unwrap_or(prefix);
    let (prefix, lead) = if prefix {
        (Prefix::Each, Lead::StripPiece)
    } else {
        (Prefix::Never, Lead::Keep)
    };
    let rule = Rule::Sentencepiece {
        lead,
        byte_tokens: true,
        whole_runs: false,
    };
    let unknown = metadata
        .uint("tokenizer.ggml.unknown_token_id")
        .unwrap_or(0);
    let unknown = u32::try_from(unknown)
        .ok()
        .filter(|&id| (id as usize) < tokens.0.len());
    let built = tokens.characters(tokens.detok(rule, false), order, prefix, false, unknown);
    let (bpe, detok) = built.map_err(|e| wrong(TOKENS, e))?;
    Ok((bpe, detok, true))
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
            let id = metadata.uint(&key).filter(|&id| id < tokens.0.len() as u64);
            match id {
                Some(id) => named.insert(name, id as u32),
                // -1 and the like stand for `none` in old files; only an end that cannot be told is an error.
                None if matches!(name, "eos_token" | "eot_token" | "eom_token") => {
                    return Err(wrong(
                        &key,
                        format!("{value:?} is no id of {} tokens", tokens.0.len()),
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
        let text = |id: u32| tokens.0[id as usize].text.to_owned();
        self.0
            .iter()
            .map(|(name, &id)| ((*name).to_owned(), text(id)))
            .collect()
    }
}

/// Tokens that end an answer in whatever vocabulary they stand, whether or not its template names them: ends of texts,
/// turns and messages, and what code models write between files. The set is llama.cpp's, which vocabularies rely on.
const ENDS: [&str; 31] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<eos>",
    "[EOS]",
    "</s>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];
/// Where all of them are (gpt-oss), the last ends a message within an answer, and not the answer.
const HARMONY: [&str; 3] = ["<|return|>", "<|call|>", "<|end|>"];

/// Ids that end an answer: eos, eot and eom of the metadata, and those of [`ENDS`] that the vocabulary has.
fn eos_ids(named: &Named, tokens: &Tokens) -> Vec<u32> {
    let mut ids: BTreeSet<u32> = ["eos_token", "eot_token", "eom_token"]
        .iter()
        .filter_map(|n| named.id(n))
        .collect();
    let mut harmony = [None; HARMONY.len()];
    for (id, token) in (0..).zip(&tokens.0) {
        if ENDS.contains(&token.text) {
            ids.insert(id);
        }
        if let Some(at) = HARMONY.iter().position(|text| *text == token.text) {
            harmony[at] = Some(id);
        }
    }
    if let [Some(_), Some(_), Some(end)] = harmony {
        ids.remove(&end);
    }
    ids.into_iter().collect()
}
