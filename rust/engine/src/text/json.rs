//! Byte-pair tokenizers of tokenizer.json, built without the tokenizers crate: they load and encode many times faster.
//! What is not recognised in every detail is left to the crate (`None`), so that results are the same either way.
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use tokenizers::AddedToken;

use super::{
    bpe::{Bpe, Order, Prefix},
    detok::{Detok, Rule, SPACE, byte_token},
    merge::split_merge,
    pre::Cutters,
    tokens::{Token, Tokens, Words, pairs},
    vocabulary::Vocabulary,
};

/// A tokenizer.json with byte-pair merges.
#[derive(Deserialize)]
struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct Model<'a> {
    r#type: String,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// A text of the file, copied only where it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Of)
    }
}

/// Tokens and their ids, in the file's order.
struct Vocab<'a>(Vec<(Text<'a>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Vocab<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tokens and ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab<'de>, A::Error> {
                let mut vocab = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    vocab.push(entry);
                }
                Ok(Vocab(vocab))
            }
        }
        deserializer.deserialize_map(Of)
    }
}

/// A merge: two parts in a list, or with a space between.
enum Merge<'a> {
    Pair(Text<'a>, Text<'a>),
    Line(Text<'a>),
}

impl Merge<'_> {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((&left.0, &right.0)),
            Self::Line(line) => split_merge(&line.0),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge")
            }
            fn visit_borrowed_str<E: Error>(self, line: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(Text(Cow::Borrowed(line))))
            }
            fn visit_str<E: Error>(self, line: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Line(Text(Cow::Owned(line.to_owned()))))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                let mut part = || {
                    seq.next_element()?
                        .ok_or_else(|| A::Error::custom("a merge has two parts"))
                };
                Ok(Merge::Pair(part()?, part()?))
            }
        }
        deserializer.deserialize_any(Of)
    }
}

/// The ids that go before and after a text.
pub(super) type Affixes = (Vec<u32>, Vec<u32>);

/// A tokenizer.json that may turn out to be of a kind that is known here.
pub(super) struct Draft<'a> {
    file: File<'a>,
    /// Places in `file.model.vocab` by text.
    places: Vocabulary,
    added: BTreeMap<u32, AddedToken>,
    added_ids: HashMap<String, u32>,
}

impl<'a> Draft<'a> {
    /// `None` for other models, and for what is no tokenizer.json.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut file: File = serde_json::from_str(text).ok()?;
        let none = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        let model = &file.model;
        let plain = none(&model.continuing_subword_prefix) && none(&model.end_of_word_suffix);
        let certain = model.dropout.is_none_or(|dropout| dropout == 0.0);
        if file.version.as_deref() != Some("1.0") || model.r#type != "BPE" || !plain || !certain {
            return None;
        }
        let vocab = &model.vocab.0;
        let places = Vocabulary::new(vocab.iter().map(|(text, _)| text.0.as_bytes()))?;
        // The crate numbers added tokens on from the vocabulary; other numbers are left to it.
        let mut next = u32::try_from(vocab.len()).ok()?;
        let mut seen = vec![false; vocab.len()];
        for (_, id) in vocab {
            if std::mem::replace(seen.get_mut(*id as usize)?, true) {
                return None;
            }
        }
        let listed = std::mem::take(&mut file.added_tokens);
        let mut draft = Self {
            file,
            places,
            added: BTreeMap::new(),
            added_ids: HashMap::new(),
        };
        for Added { id, token } in listed {
            let expected = draft.token_to_id(&token.content).unwrap_or(next);
            if expected != id || token.content.is_empty() {
                return None;
            }
            next = next.max(id + 1);
            draft.add(id, token);
        }
        Some(draft)
    }

    /// The id of a token, added or not.
    pub(super) fn token_to_id(&self, text: &str) -> Option<u32> {
        let place = || self.places.get(text.as_bytes());
        let in_vocab = || Some(self.file.model.vocab.0[place()? as usize].1);
        self.added_ids.get(text).copied().or_else(in_vocab)
    }

    /// The added token of an id.
    pub(super) fn added_token(&self, id: u32) -> Option<&AddedToken> {
        self.added.get(&id)
    }

    /// Has the token `id` looked for in texts.
    pub(super) fn add(&mut self, id: u32, token: AddedToken) {
        self.added_ids.insert(token.content.clone(), id);
        self.added.insert(id, token);
    }

    /// How tokens become text.
    pub(super) fn decoder(&self) -> &Value {
        &self.file.decoder
    }

    /// The encoder, its counterpart and the affixes; `rule`: what the decoder amounts to.
    pub(super) fn build(&self, rule: Rule) -> Option<(Bpe, Detok, Affixes)> {
        let flagged = |token: &AddedToken| token.single_word || token.lstrip || token.rstrip;
        if rule == Rule::Whole || self.added.values().any(flagged) {
            return None;
        }
        // Tokens that are looked for in the normalised text are looked for later than the others.
        let normalized = self.added.values().filter(|token| token.normalized).count();
        if normalized > 0 && (normalized < self.added.len() || !self.file.normalizer.is_null()) {
            return None;
        }
        let affixes = self.affixes()?;
        let model = &self.file.model;
        let tokens = self.tokens();
        let detok = tokens.detok(rule, false);
        let merges: Option<Vec<(&str, &str)>> = model.merges.iter().map(Merge::parts).collect();
        let merges = merges?.into_iter();
        let (bpe, detok) = match Cutters::from_json(&self.file.pre_tokenizer) {
            Some(cutters) => {
                let words = Words {
                    cutters,
                    ignore_merges: model.ignore_merges,
                    compose: self.composes()?,
                };
                let one = |id| <[u8; 1]>::try_from(detok.token_bytes(id)).ok();
                let bytes = count_bytes(&tokens, |id, _| one(id).map(|[byte]| byte));
                // Bytes without a token are left out, unless the model says what stands for them.
                if bytes < 256 && (model.byte_fallback || model.unk_token.is_some()) {
                    return None;
                }
                tokens.byte_level(detok, words, merges).ok()?
            }
            None => {
                let (prefix, split) = self.spaces()?;
                let bytes = count_bytes(&tokens, |_, token| byte_token(token.text));
                if bytes < 256 || !model.byte_fallback || model.ignore_merges {
                    return None;
                }
                let order = Order::Ranks(pairs(&tokens.vocabulary().ok()?, merges).ok()?);
                tokens.characters(detok, order, prefix, split, None).ok()?
            }
        };
        Some((bpe, detok, affixes))
    }

    fn tokens(&self) -> Tokens<'_> {
        let vocab = &self.file.model.vocab.0;
        let last = self
            .added
            .keys()
            .next_back()
            .map_or(0, |&id| id as usize + 1);
        let mut tokens = vec![Token::default(); vocab.len().max(last)];
        for (text, id) in vocab {
            tokens[*id as usize] = Token {
                text: &text.0,
                word: true,
                ..Token::default()
            };
        }
        for (id, token) in &self.added {
            let entry = &mut tokens[*id as usize];
            (entry.text, entry.added, entry.special) = (&token.content, true, token.special);
        }
        Tokens(tokens)
    }

    /// Whether the normalizer is NFC; `None` where it is more.
    fn composes(&self) -> Option<bool> {
        match &self.file.normalizer {
            Value::Null => Some(false),
            one if one["type"] == "NFC" => Some(true),
            list if list["normalizers"].as_array()?.is_empty() => Some(false),
            _ => None,
        }
    }

    /// Where a `▁` is put in front, and whether each `▁` begins a word; `None` where spaces are treated otherwise.
    fn spaces(&self) -> Option<(Prefix, bool)> {
        let space = SPACE.to_string();
        let replaces = |step: &Value| {
            step["type"] == "Replace"
                && step["pattern"]["String"] == " "
                && step["content"] == space.as_str()
        };
        let prepends =
            |step: &Value| step["type"] == "Prepend" && step["prepend"] == space.as_str();
        // After the normalizer no space is left to be cut at.
        let no_cut = self.file.pre_tokenizer.is_null()
            || (self.file.pre_tokenizer["type"] == "Split"
                && self.file.pre_tokenizer["pattern"]["String"] == " ");
        match &self.file.normalizer {
            Value::Null if self.file.pre_tokenizer["type"] == "Metaspace" => {
                let metaspace = &self.file.pre_tokenizer;
                let prefix = match metaspace["prepend_scheme"].as_str()? {
                    "always" => Prefix::EachWord,
                    "first" => Prefix::First,
                    "never" => Prefix::Never,
                    _ => return None,
                };
                let split = metaspace["split"].as_bool().unwrap_or(true);
                (metaspace["replacement"] == space.as_str()).then_some((prefix, split))
            }
            one if no_cut && replaces(one) => Some((Prefix::Never, false)),
            list if no_cut => match list["normalizers"].as_array()?.as_slice() {
                [first, second] if prepends(first) && replaces(second) => {
                    Some((Prefix::Each, false))
                }
                [one] if replaces(one) => Some((Prefix::Never, false)),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the post-processor puts around a text; `None` where it does more.
    fn affixes(&self) -> Option<Affixes> {
        let mut affixes = Affixes::default();
        let steps: &[Value] = match self.file.post_processor.get("processors") {
            Some(steps) => steps.as_array()?,
            None => std::slice::from_ref(&self.file.post_processor),
        };
        for step in steps
            .iter()
            .filter(|step| !step.is_null() && step["type"] != "ByteLevel")
        {
            if step["type"] != "TemplateProcessing" || affixes != Affixes::default() {
                return None;
            }
            let mut after_text = false;
            for part in step["single"].as_array()? {
                if part.get("Sequence").is_some() {
                    after_text = true;
                    continue;
                }
                let name = part["SpecialToken"]["id"].as_str()?;
                let ids: Vec<u32> = Vec::deserialize(&step["special_tokens"][name]["ids"]).ok()?;
                if ids.iter().any(|id| !self.added.contains_key(id)) {
                    return None;
                }
                if after_text {
                    affixes.1.extend(ids)
                } else {
                    affixes.0.extend(ids)
                }
            }
            if !after_text {
                return None;
            }
        }
        Some(affixes)
    }
}

/// How many different bytes the words are, by `byte`.
fn count_bytes(tokens: &Tokens, byte: impl Fn(u32, &Token) -> Option<u8>) -> usize {
    let mut seen = [false; 256];
    for (id, token) in (0..).zip(&tokens.0).filter(|(_, token)| token.word) {
        if let Some(byte) = byte(id, token) {
            seen[byte as usize] = true;
        }
    }
    seen.iter().filter(|&&seen| seen).count()
}
