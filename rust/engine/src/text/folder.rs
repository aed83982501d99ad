//! A tokenizer from a Hugging Face folder: tokenizer.json, and what transformers reads beside it.
//! Nothing of the folder is ever run.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Json};

use super::{
    detok::{Detok, Lead, Rule, SPACE},
    json::{Affixes, Draft},
    template,
    tokenizer::{Encoder, Parts},
};
use crate::{Error, Result};
use candle_vllm_model::weights::file::refuse_lfs_pointer;

/// Reads a text file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            refuse_lfs_pointer(path, text.as_bytes())?;
            Ok(Some(text))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::ModelLoad(format!(
            "cannot read {}: {e}",
            path.display()
        ))),
    }
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let Some(text) = read(path)? else {
        return Ok(Value::Null);
    };
    serde_json::from_str(&text)
        .map_err(|e| Error::ModelLoad(format!("{} is not JSON: {e}", path.display())))
}

/// Loads the tokenizer of `folder`.
pub(super) fn load(folder: &Path) -> Result<Parts> {
    let file = folder.join("tokenizer.json");
    let Some(text) = read(&file)? else {
        return Err(without_tokenizer_json(folder));
    };
    let config = read_json(&folder.join("tokenizer_config.json"))?;
    let map = read_json(&folder.join("special_tokens_map.json"))?;
    let named = named_tokens(&config, &map);
    let loaded = match by_hand(&text, &config, &named) {
        Some(loaded) => loaded,
        None => by_crate(&file, &text, &config, &named)?,
    };
    let id_of = |name: &str| loaded.token_to_id(named.get(name)?);
    let (bos_id, eos_id) = (id_of("bos_token"), id_of("eos_token"));
    Ok(Parts {
        affixes: loaded.affixes(&config, bos_id, eos_id)?,
        encoder: loaded.encoder,
        detok: loaded.detok,
        eos_ids: eos_id.into_iter().collect(),
        bos_id,
        special_tokens: named,
        templates: template::from_folder(folder, &config)?,
    })
}

/// A loaded tokenizer.json.
struct Loaded {
    encoder: Encoder,
    detok: Detok,
    /// What the post-processor puts around a text, where that is known.
    affixes: Option<Affixes>,
}

/// Loads what `json.rs` knows.
fn by_hand(text: &str, config: &Value, named: &BTreeMap<String, String>) -> Option<Loaded> {
    let mut draft = Draft::parse(text)?;
    let known = |id: u32| draft.added_token(id).cloned();
    for token in more_tokens(&known, &|text| draft.token_to_id(text), config, named) {
        draft.add(draft.token_to_id(&token.content)?, token);
    }
    let (bpe, detok, affixes) = draft.build(rule(draft.decoder()))?;
    Some(Loaded {
        encoder: Encoder::Bpe(Box::new(bpe)),
        detok,
        affixes: Some(affixes),
    })
}

/// Loads any other with the tokenizers crate.
fn by_crate(
    file: &Path,
    text: &str,
    config: &Value,
    named: &BTreeMap<String, String>,
) -> Result<Loaded> {
    let wrong = |e: tokenizers::Error| Error::ModelLoad(format!("{}: {e}", file.display()));
    let mut json: Json = text.parse().map_err(wrong)?;
    json.with_padding(None);
    json.with_truncation(None).map_err(wrong)?;
    let added = json.get_added_tokens_decoder();
    let more = more_tokens(
        &|id| added.get(&id).cloned(),
        &|text| json.token_to_id(text),
        config,
        named,
    );
    if !more.is_empty() {
        json.add_tokens(more).map_err(wrong)?;
    }
    let detok = detok(&json, file)?;
    Ok(Loaded {
        encoder: Encoder::Json(Box::new(json)),
        detok,
        affixes: None,
    })
}

impl Loaded {
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.encoder.token_to_id(token)
    }

    /// What goes around a text: as tokenizer_config.json's `add_bos_token` and `add_eos_token` say, where it has them;
    /// else as the post-processor has it (`None`: which only the crate knows).
    fn affixes(
        &self,
        config: &Value,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Option<Affixes>> {
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        let (add_bos, add_eos) = (flag("add_bos_token"), flag("add_eos_token"));
        if add_bos.is_none() && add_eos.is_none() {
            return Ok(self.affixes.clone());
        }
        let (before, after) = match (&self.affixes, &self.encoder) {
            (Some(affixes), _) => affixes.clone(),
            (None, Encoder::Json(json)) => around_nothing(json, bos, eos)?,
            (None, Encoder::Bpe(_)) => Affixes::default(),
        };
        let side = |wanted: Option<bool>, id: Option<u32>, usual: Vec<u32>| match wanted {
            None => usual,
            Some(true) => id.into_iter().collect(),
            Some(false) => Vec::new(),
        };
        Ok(Some((
            side(add_bos, bos, before),
            side(add_eos, eos, after),
        )))
    }
}

/// What the crate puts around an empty text.
fn around_nothing(json: &Json, bos: Option<u32>, eos: Option<u32>) -> Result<Affixes> {
    let encoding = json.encode_fast("", true);
    let encoding = encoding.map_err(|e| Error::ModelLoad(format!("tokenizer.json: {e}")))?;
    let ids = encoding.get_ids();
    let before = bos.filter(|bos| ids.first() == Some(bos));
    let rest = &ids[before.iter().count()..];
    let after = eos.filter(|eos| rest.last() == Some(eos));
    Ok((before.into_iter().collect(), after.into_iter().collect()))
}

fn without_tokenizer_json(folder: &Path) -> Error {
    let known = [
        "tokenizer.model",
        "spiece.model",
        "tekken.json",
        "vocab.json",
    ];
    let found = known.into_iter().find(|name| folder.join(name).is_file());
    let found = found.map_or_else(String::new, |name| {
        format!(" ({name} alone is not supported)")
    });
    Error::ModelLoad(format!(
        "{} has no tokenizer.json{found}: write one with transformers' \
         AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or use a GGUF file of the model",
        folder.display()
    ))
}

/// The text of a token that is written as a text or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// `bos_token`, `eos_token` and the like of tokenizer_config.json, else of special_tokens_map.json.
fn named_tokens(config: &Value, map: &Value) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for source in [map, config] {
        for (name, value) in source.as_object().into_iter().flatten() {
            if let (true, Some(text)) = (name.ends_with("_token"), token_text(value)) {
                named.insert(name.clone(), text.to_owned());
            }
        }
    }
    named
}

/// What tokenizer_config.json knows of tokens beyond tokenizer.json: `added_tokens_decoder`, and that named tokens are
/// special. Tokens that would get an id of their own are left out: the model has no row for them.
fn more_tokens(
    known: &dyn Fn(u32) -> Option<AddedToken>,
    id_of: &dyn Fn(&str) -> Option<u32>,
    config: &Value,
    named: &BTreeMap<String, String>,
) -> Vec<AddedToken> {
    let mut special: BTreeSet<&str> = named.values().map(String::as_str).collect();
    for list in ["additional_special_tokens", "extra_special_tokens"] {
        let list = config.get(list).and_then(Value::as_array);
        special.extend(list.into_iter().flatten().filter_map(token_text));
    }
    let mut more: Vec<AddedToken> = Vec::new();
    for (id, value) in config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let (Some(content), Ok(id)) = (token_text(value), id.parse::<u32>()) else {
            continue;
        };
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let token = AddedToken::from(content, flag("special") || special.contains(content))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        if known(id).as_ref() != Some(&token) && id_of(content) == Some(id) {
            more.push(token);
        }
    }
    for &content in &special {
        let known = id_of(content).map(known);
        let listed = more.iter().any(|token| token.content == content);
        if let (Some(None), false) = (known, listed) {
            more.push(AddedToken::from(content, true));
        }
    }
    more
}

/// The pieces of the vocabulary, and how its decoder joins them.
fn detok(encoder: &Json, file: &Path) -> Result<Detok> {
    let decoder = serde_json::to_value(encoder.get_decoder());
    let decoder =
        decoder.map_err(|e| Error::ModelLoad(format!("{}: decoder: {e}", file.display())))?;
    let vocabulary = encoder.get_vocab(true);
    let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    let limit = vocabulary.len() * 4 + (1 << 16);
    if size > limit {
        let file = file.display();
        return Err(Error::ModelLoad(format!(
            "{file}: id {} is out of range for {} tokens",
            size - 1,
            vocabulary.len()
        )));
    }
    drop(vocabulary);
    let added = encoder.get_added_vocabulary();
    let mut detok = Detok::with_capacity(rule(&decoder), size);
    for id in 0..size as u32 {
        match encoder.id_to_token(id) {
            Some(token) => detok.push(&token, added.is_special_token(&token)),
            None => detok.push_absent(),
        }
    }
    Ok(detok)
}

/// The rule that a tokenizer.json's decoder amounts to.
fn rule(decoder: &Value) -> Rule {
    let steps: Vec<&Value> = match decoder.get("decoders").and_then(Value::as_array) {
        Some(list) => list.iter().collect(),
        None => vec![decoder],
    };
    let kind = |step: &Value| {
        step.get("type")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let kinds: Vec<String> = steps.iter().map(|step| kind(step)).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let space = SPACE.to_string();
    let sentencepiece = |lead, byte_tokens| Rule::Sentencepiece {
        lead,
        byte_tokens,
        whole_runs: true,
    };
    match kinds.as_slice() {
        ["ByteLevel"] => Rule::ByteLevel,
        ["Metaspace"] if steps[0]["replacement"] == space.as_str() => {
            let never = steps[0]["prepend_scheme"] == "never";
            sentencepiece(
                if never {
                    Lead::Keep
                } else {
                    Lead::StripFirstToken
                },
                false,
            )
        }
        ["Replace", rest @ ..]
            if steps[0]["pattern"]["String"] == space.as_str() && steps[0]["content"] == " " =>
        {
            match rest {
                ["ByteFallback"] | ["ByteFallback", "Fuse"] => sentencepiece(Lead::Keep, true),
                ["ByteFallback", "Fuse", "Strip"] if is_one_space(steps[3]) => {
                    sentencepiece(Lead::StripOne, true)
                }
                ["Fuse"] | [] => sentencepiece(Lead::Keep, false),
                ["Fuse", "Strip"] if is_one_space(steps[2]) => sentencepiece(Lead::StripOne, false),
                _ => Rule::Whole,
            }
        }
        _ => Rule::Whole,
    }
}

/// Whether a `Strip` decoder drops one space at the start and nothing else.
fn is_one_space(strip: &Value) -> bool {
    strip["content"] == " " && strip["start"] == 1 && strip["stop"] == 0
}
