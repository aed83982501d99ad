//! A folder's tokenizer as GGUF metadata: the inverse of `gguf.rs`, proven by reading it again.
//! Byte-level BPE only: of others tokenizer.json does not say what llama.cpp needs.
use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_vllm_model::weights::{
    TokenizerSource,
    gguf::write::{Pair, Said, metadata},
};
use serde_json::Value;

use super::{
    Tokenizer,
    folder::read_json,
    pre::{self, Cutters},
    template::DEFAULT,
};
use crate::{Error, Result};

fn refused(what: impl std::fmt::Display) -> Error {
    Error::ModelLoad(format!("cannot be written as GGUF: the tokenizer {what}"))
}

/// `tokenizer.ggml.token_type`.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
}

/// The metadata of the tokenizer in `folder`, for a model whose embedding has `rows`.
///
/// # Errors
/// `ModelLoad` where llama.cpp would cut or join a text otherwise.
pub fn to_gguf(folder: &Path, rows: usize) -> Result<Vec<Pair>> {
    let json = read_json(&folder.join("tokenizer.json"))?;
    let own = Tokenizer::load(&TokenizerSource::Folder(folder.to_path_buf()))?;
    let (texts, kinds) = tokens(&json, &own, rows)?;
    let merges = merges(&json["model"])?;
    let mut pairs = vec![
        Pair::new("tokenizer.ggml.model", Said::Text("gpt2")),
        Pair::new("tokenizer.ggml.pre", Said::Text(cut(&json)?)),
        Pair::new("tokenizer.ggml.tokens", Said::Texts(&texts)),
        Pair::new("tokenizer.ggml.token_type", Said::I32s(&kinds)),
        Pair::new("tokenizer.ggml.merges", Said::Texts(&merges)),
    ];
    pairs.extend(named(&own)?);
    for (name, text) in own.chat_templates() {
        let key = match name.as_str() {
            DEFAULT => "tokenizer.chat_template".to_owned(),
            other => format!("tokenizer.chat_template.{other}"),
        };
        pairs.push(Pair::new(key, Said::Text(text)));
    }
    let added = texts.iter().zip(&kinds);
    let added = added.filter(|(_, kind)| [kind::CONTROL, kind::USER_DEFINED].contains(kind));
    proven(&own, added.map(|(text, _)| text), &pairs)?;
    Ok(pairs)
}

/// Texts and kinds of `rows` tokens; ids that no token has are made up, as llama.cpp wants one for each row.
fn tokens(json: &Value, own: &Tokenizer, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    if own.vocab_size() > rows {
        let size = own.vocab_size();
        return Err(refused(format_args!(
            "has {size} tokens, the embedding {rows} rows"
        )));
    }
    let added: BTreeMap<u64, bool> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|t| Some((t["id"].as_u64()?, t["special"].as_bool()?)))
        .collect();
    let of = |id: usize| {
        let text = own.id_to_token(id as u32).filter(|t| !t.is_empty());
        let Some(text) = text else {
            return (format!("[PAD{id}]"), kind::UNUSED);
        };
        let kind = match added.get(&(id as u64)) {
            _ if own.is_special(id as u32) => kind::CONTROL,
            Some(true) => kind::CONTROL,
            Some(false) => kind::USER_DEFINED,
            None => kind::NORMAL,
        };
        (text, kind)
    };
    Ok((0..rows).map(of).unzip())
}

/// Merges as GGUF lists them; tokenizer.json has texts or pairs.
fn merges(model: &Value) -> Result<Vec<String>> {
    let of = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(a), Value::String(b)] => Some(format!("{a} {b}")),
            _ => None,
        },
        _ => None,
    };
    let all = model["merges"]
        .as_array()
        .filter(|_| model["type"] == "BPE");
    let all = all.and_then(|all| all.iter().map(of).collect::<Option<Vec<_>>>());
    all.ok_or_else(|| refused("is no byte-pair encoding"))
}

/// Names of `tokenizer.ggml.pre`, of which the first with the same cuts is taken.
const NAMES: [&str; 14] = [
    "llama-bpe",
    "qwen2",
    "qwen35",
    "gpt-2",
    "smollm",
    "command-r",
    "tekken",
    "gpt-4o",
    "glm4",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "seed-coder",
];

/// What llama.cpp calls the cuts that the tokenizer makes before it merges.
fn cut(json: &Value) -> Result<&'static str> {
    let model = &json["model"];
    let whole = model["ignore_merges"].as_bool().unwrap_or(false);
    let compose = json["normalizer"]["type"] == "NFC";
    let own = Cutters::from_json(&json["pre_tokenizer"]);
    let own = own.ok_or_else(|| refused("does not work on bytes"))?;
    for name in NAMES {
        if let Some(pre) = pre::find(name)
            && pre.ignore_merges == whole
            && pre.compose == compose
            && pre.build()?.same_as(&own)
        {
            return Ok(name);
        }
    }
    Err(refused(
        "cuts texts into words as no name of llama.cpp's says",
    ))
}

/// Ids of special tokens, and whether a text begins or ends with one.
fn named(own: &Tokenizer) -> Result<Vec<Pair>> {
    const KEYS: [(&str, &str); 5] = [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
        ("sep_token", "seperator"),
    ];
    let texts = own.special_tokens();
    let mut pairs = Vec::new();
    for (name, key) in KEYS {
        if let Some(id) = texts.get(name).and_then(|text| own.token_to_id(text)) {
            let key = format!("tokenizer.ggml.{key}_token_id");
            pairs.push(Pair::new(key, Said::U32(id)));
        }
    }
    let empty = own.encode("", true)?;
    let starts = own.bos_id().is_some_and(|bos| empty.first() == Some(&bos));
    pairs.push(Pair::new(
        "tokenizer.ggml.add_bos_token",
        Said::Bool(starts),
    ));
    let eos = texts
        .get("eos_token")
        .and_then(|text| own.token_to_id(text));
    let ends = eos.is_some_and(|eos| empty[usize::from(starts)..].last() == Some(&eos));
    pairs.push(Pair::new("tokenizer.ggml.add_eos_token", Said::Bool(ends)));
    Ok(pairs)
}

/// A text with what tokenizers differ in: case, digits, scripts, punctuation, spaces, lines, composed characters.
const TEXT: &str = "Hello world, it's 12345 o'clock (3.14)!\n\n  Don't   STOP\t\tx_y != 10%\r\n\
    na\u{ef}ve cafe\u{301} \u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c} \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{1f600} \
    \u{627}\u{644} \u{e2a}\u{e27}\u{e31} #include <a.h>\n    return x[0];   ";

/// Refuses metadata that would be read as another tokenizer; `added`: tokens that are found in a text before it is cut.
fn proven<'a>(
    own: &Tokenizer,
    added: impl Iterator<Item = &'a String>,
    pairs: &[Pair],
) -> Result<()> {
    let metadata = metadata(pairs)?;
    let read = Tokenizer::load(&TokenizerSource::Gguf(Arc::new(metadata)))?;
    let mut text = TEXT.to_owned();
    for added in added {
        // Whether it takes spaces before and behind it, and stands inside a word.
        text.push_str(&format!("{added}then {added} "));
    }
    for special in [true, false] {
        let (was, is) = (own.encode(&text, special)?, read.encode(&text, special)?);
        if was != is {
            return Err(refused("would be read as one that writes other tokens"));
        }
        if own.decode(&was, !special)? != read.decode(&is, !special)? {
            return Err(refused("would be read as one that reads other texts"));
        }
    }
    Ok(())
}
