//! Tokenizers from folders that are written here, against the tokenizers crate itself.
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use candle_vllm_engine::text::Tokenizer;
use candle_vllm_model::weights::TokenizerSource;
use serde_json::{Value, json};

/// A folder that goes when it is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(files: &[(&str, &Value)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "candle-vllm-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(folder.0.join("additional_chat_templates")).unwrap();
        for (file, value) in files {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            fs::write(folder.0.join(file), text).unwrap();
        }
        folder
    }

    pub fn load(&self) -> candle_vllm_engine::Result<Tokenizer> {
        Tokenizer::load(&TokenizerSource::Folder(self.0.clone()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A SentencePiece-style tokenizer.json: bytes, letters and a few words; ids 0 to 2 are special.
pub fn sentencepiece(decoder: &Value) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let words = [
        "▁", "t", "h", "e", "i", "n", "a", "é", "th", "in", "▁the", "▁▁", "▁in", "語", "the", "▁t",
        "▁i",
    ];
    tokens.extend(words.map(str::to_owned));
    let vocabulary: serde_json::Map<String, Value> = tokens
        .iter()
        .zip(0..)
        .map(|(token, id)| (token.clone(), json!(id)))
        .collect();
    let special = |id: u32| {
        json!({"id": id, "content": tokens[id as usize], "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": [["t", "h"], ["i", "n"], ["th", "e"], ["▁", "the"], ["▁", "in"], ["▁", "▁"]]}
    })
}

pub fn llama_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
}

#[test]
fn texts_are_those_of_the_tokenizers_crate() {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let decoders = [
        llama_decoder(),
        json!({"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        Value::Null,
    ];
    for decoder in decoders {
        let json = sentencepiece(&decoder);
        let tokenizer = Folder::new(&[("tokenizer.json", &json)]).load().unwrap();
        let reference: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        let mut state = 11;
        for _ in 0..2000 {
            let length = super::random(&mut state) % 12;
            // Half of the ids are words, so that runs of bytes end.
            let mut id = || match super::random(&mut state) % 4 {
                0 | 1 => 259 + super::random(&mut state) % 17,
                2 => 3 + super::random(&mut state) % 256,
                _ => super::random(&mut state) % 280,
            };
            let ids: Vec<u32> = (0..length).map(|_| id()).collect();
            for skip in [false, true] {
                let expected = reference.decode(&ids, skip).unwrap();
                assert_eq!(
                    tokenizer.decode(&ids, skip).unwrap(),
                    expected,
                    "{decoder} {ids:?}"
                );
                let (pieces, _) = super::stream(&tokenizer, &ids, &[], skip);
                assert_eq!(pieces.concat(), expected, "{decoder} {ids:?}");
            }
        }
    }
}

/// A byte-level tokenizer.json: all bytes, a few merges; ids from 256 on.
pub fn byte_level(pre_tokenizer: &Value) -> Value {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|byte| !printable(byte)).zip(256..);
    let mut alphabet: Vec<(u32, u32)> = (0..256)
        .filter(printable)
        .map(|byte| (byte, byte))
        .chain(others)
        .collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet
        .iter()
        .map(|&(_, c)| char::from_u32(c).unwrap().to_string())
        .collect();
    let merges = [
        ["t", "h"],
        ["th", "e"],
        ["Ġ", "the"],
        ["1", "2"],
        ["Ġ", "Ġ"],
        ["Ã", "©"],
        ["'", "s"],
        ["Ċ", "Ċ"],
        ["e", "Ì"],
    ];
    tokens.extend(merges.iter().map(|pair| pair.concat()));
    let word = tokens.len();
    tokens.push("Ġthere".into());
    let vocabulary: serde_json::Map<String, Value> = tokens
        .iter()
        .zip(0..)
        .map(|(token, id)| (token.clone(), json!(id)))
        .collect();
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(word + 1, "<s>", true), added(word + 2, "<s>>", false), added(word + 3, "  <tool>", false)],
        "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
            {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [word + 1], "tokens": ["<s>"]}}}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocabulary, "merges": merges.map(|pair| pair.join(" "))}
    })
}

/// Compares ids of random texts with those of the tokenizers crate. `own`: whether the crate should not be needed.
fn check_ids(json: &Value, own: bool) {
    let tokenizer = Folder::new(&[("tokenizer.json", json)]).load().unwrap();
    assert!(
        format!("{tokenizer:?}").contains(if own { "own" } else { "crate" }),
        "{json}"
    );
    let mut reference: tokenizers::Tokenizer = json.to_string().parse().unwrap();
    reference.with_truncation(None).unwrap();
    let pieces = [
        "the", " the", "there", " there", " ", "  ", "   ", "\n", "\n\n", "\t", "1", "12",
        "123456", "é", "e\u{301}", "語", "😀", "▁", "'s", "'S", "in", "<s>", "<s>>", "</s>",
        "  <tool>", "<unk>", "\r\n", ".", "a", "X", "\u{a0}", "(", "½",
    ];
    let mut state = 17;
    for _ in 0..3000 {
        let count = super::random(&mut state) as usize % 12;
        let text: String = (0..count)
            .map(|_| pieces[super::random(&mut state) as usize % pieces.len()])
            .collect();
        for add in [false, true] {
            let expected = reference.encode_fast(text.as_str(), add).unwrap();
            assert_eq!(
                tokenizer.encode(&text, add).unwrap(),
                expected.get_ids(),
                "{text:?} {}",
                json["pre_tokenizer"]
            );
        }
    }
    for id in 0..tokenizer.vocab_size() as u32 {
        assert_eq!(tokenizer.id_to_token(id), reference.id_to_token(id));
        assert_eq!(
            tokenizer.token_to_id(&reference.id_to_token(id).unwrap()),
            Some(id)
        );
    }
}

#[test]
fn ids_are_those_of_the_tokenizers_crate() {
    let with = |json: &Value, path: &[&str], value: Value| {
        let mut json = json.clone();
        *path.iter().fold(&mut json, |at, key| &mut at[*key]) = value;
        json
    };
    let spm = sentencepiece(&llama_decoder());
    check_ids(&spm, true);
    check_ids(
        &with(
            &spm,
            &["normalizer"],
            spm["normalizer"]["normalizers"][1].clone(),
        ),
        true,
    );
    for (scheme, split) in [
        ("first", false),
        ("always", false),
        ("never", false),
        ("first", true),
        ("always", true),
    ] {
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        check_ids(
            &with(
                &with(&spm, &["normalizer"], Value::Null),
                &["pre_tokenizer"],
                metaspace,
            ),
            true,
        );
    }
    check_ids(&with(&spm, &["model", "ignore_merges"], json!(true)), false);
    check_ids(
        &with(&spm, &["normalizer"], json!({"type": "Lowercase"})),
        false,
    );
    check_ids(
        &with(
            &spm,
            &["decoder"],
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ),
        false,
    );

    let letters = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence = |steps: Value| json!({"type": "Sequence", "pretokenizers": steps});
    let llama3 = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let digits = json!({"type": "Digits", "individual_digits": true});
    check_ids(&byte_level(&letters(true)), true);
    check_ids(&byte_level(&sequence(json!([digits, letters(true)]))), true);
    check_ids(
        &byte_level(&sequence(json!([split(llama3), letters(false)]))),
        true,
    );
    check_ids(
        &byte_level(&sequence(json!([
            split(r"\p{N}{1,2}"),
            split(r"\s?\p{L}+"),
            letters(false)
        ]))),
        true,
    );
    let plain = byte_level(&letters(true));
    check_ids(&with(&plain, &["normalizer"], json!({"type": "NFC"})), true);
    check_ids(
        &with(&plain, &["model", "ignore_merges"], json!(false)),
        true,
    );
    check_ids(
        &with(&plain, &["pre_tokenizer", "add_prefix_space"], json!(true)),
        false,
    );
    check_ids(&with(&plain, &["post_processor"], Value::Null), true);
    let mut stripping = plain.clone();
    stripping["added_tokens"][1]["lstrip"] = json!(true);
    check_ids(&stripping, false);
    let mut missing = plain;
    missing["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .remove("ÿ");
    missing["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .remove("Â");
    missing["model"]["vocab"]["new"] = json!(255);
    missing["model"]["vocab"]["newer"] = json!(0xC2);
    check_ids(&missing, true);
    missing["model"]["unk_token"] = json!("new");
    check_ids(&missing, false);
}

#[test]
fn special_tokens_in_plain_parts_are_text() {
    let spm = sentencepiece(&llama_decoder());
    let mut lowercase = spm.clone();
    lowercase["normalizer"] = json!({"type": "Lowercase"});
    for (json, own) in [(spm, true), (lowercase, false)] {
        let tokenizer = Folder::new(&[("tokenizer.json", &json)]).load().unwrap();
        assert!(format!("{tokenizer:?}").contains(if own { "own" } else { "crate" }));
        let special = |ids: &[u32]| ids.iter().any(|&id| tokenizer.is_special(id));
        assert!(tokenizer.special_texts().contains(&"</s>".to_owned()));
        let text = "in </s> the <s> in";
        assert_eq!(
            tokenizer.encode_parts(&[text.to_owned()]).unwrap(),
            tokenizer.encode(text, false).unwrap()
        );
        assert!(special(&tokenizer.encode(text, false).unwrap()));
        let parts = ["in ", "</s>", " the ", "<s>", " in"].map(str::to_owned);
        let ids = tokenizer.encode_parts(&parts).unwrap();
        assert!(!special(&ids), "{ids:?}");
        if own {
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        }
        let kept =
            tokenizer.encode_parts(&["<s>".to_owned(), "</s>".to_owned(), "</s>".to_owned()]);
        let kept: Vec<bool> = kept
            .unwrap()
            .iter()
            .map(|&id| tokenizer.is_special(id))
            .collect();
        assert_eq!((kept[0], kept[kept.len() - 1]), (true, true));
        assert_eq!(kept.iter().filter(|special| **special).count(), 2);
    }
}

#[test]
fn truncation_is_not_done() {
    let folder = Folder::new(&[("tokenizer.json", &sentencepiece(&llama_decoder()))]);
    let tokenizer = folder.load().unwrap();
    let ids = tokenizer.encode("the in the in\n語", true).unwrap();
    assert_eq!(ids, [1, 269, 271, 269, 271, 3 + 10, 272]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the in the in\n語");
    assert_eq!(
        tokenizer.encode("</s>é€", false).unwrap(),
        [2, 259, 266, 3 + 0xE2, 3 + 0x82, 3 + 0xAC]
    );
}

#[test]
fn tokenizer_config_adds_and_removes_what_it_says() {
    let json = sentencepiece(&llama_decoder());
    let load = |config: Value| {
        let tokenizer = Folder::new(&[
            ("tokenizer.json", &json),
            ("tokenizer_config.json", &config),
        ])
        .load();
        let tokenizer = tokenizer.unwrap();
        (tokenizer.encode("in", true).unwrap(), tokenizer)
    };
    let names = json!({"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "pad_token": null});
    let with = |key: &str, value: Value| {
        let mut config = names.clone();
        config[key] = value;
        config
    };
    let (ids, tokenizer) = load(names.clone());
    assert_eq!(ids, [1, 271]);
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_ids()),
        (Some(1), &[2][..])
    );
    assert_eq!(
        tokenizer.special_tokens().into_keys().collect::<Vec<_>>(),
        ["bos_token", "eos_token"]
    );
    assert_eq!(load(with("add_bos_token", json!(false))).0, [271]);
    assert_eq!(load(with("add_bos_token", json!(true))).0, [1, 271]);
    assert_eq!(load(with("add_eos_token", json!(true))).0, [1, 271, 2]);

    let (_, tokenizer) = load(with(
        "added_tokens_decoder",
        json!({
            "272": {"content": "語", "special": true}, "3000": {"content": "<new>", "special": true}
        }),
    ));
    assert!(tokenizer.is_special(272) && tokenizer.token_to_id("<new>").is_none());
    let (_, tokenizer) = load(with("additional_special_tokens", json!(["the"])));
    assert!(tokenizer.is_special(273));
}

#[test]
fn templates_come_from_all_their_places() {
    let json = sentencepiece(&llama_decoder());
    let list = json!({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]});
    let folder = Folder::new(&[("tokenizer.json", &json), ("tokenizer_config.json", &list)]);
    let tokenizer = folder.load().unwrap();
    assert_eq!(tokenizer.chat_template(), Some("a"));
    assert_eq!(tokenizer.chat_templates()["tool_use"], "b");
    fs::write(folder.0.join("chat_template.jinja"), "c").unwrap();
    fs::write(folder.0.join("additional_chat_templates/rag.jinja"), "d").unwrap();
    let templates = folder.load().unwrap().chat_templates().clone();
    let expected = [("default", "c"), ("rag", "d"), ("tool_use", "b")];
    assert!(
        templates
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .eq(expected)
    );
    let plain = Folder::new(&[("tokenizer.json", &json)]);
    assert_eq!(plain.load().unwrap().chat_template(), None);
}

#[test]
fn broken_files_are_refused_by_name() {
    let good = sentencepiece(&llama_decoder());
    let mut far = good.clone();
    far["model"]["vocab"]["far"] = json!(4_000_000_000_u32);
    let cases = [
        ("tokenizer.json", json!("{")),
        ("tokenizer.json", json!({"model": 3})),
        ("tokenizer.json", far),
        ("tokenizer_config.json", json!("not json")),
        ("tokenizer_config.json", json!({"chat_template": 3})),
        (
            "tokenizer_config.json",
            json!({"chat_template": [{"name": "x"}]}),
        ),
        ("special_tokens_map.json", json!("[")),
        ("chat_template.json", json!("[")),
    ];
    for (file, value) in cases {
        let folder = Folder::new(&[("tokenizer.json", &good), (file, &value)]);
        match folder.load() {
            Err(candle_vllm_engine::Error::ModelLoad(text)) => {
                assert!(text.contains(file), "{file} {value}: {text}")
            }
            other => panic!("{file}: {other:?}"),
        }
    }
}
