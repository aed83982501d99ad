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
struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &Value)]) -> Self {
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

    fn load(&self) -> candle_vllm_engine::Result<Tokenizer> {
        Tokenizer::load(&TokenizerSource::Folder(self.0.clone()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A SentencePiece-style tokenizer.json: bytes, letters and a few words; ids 0 to 2 are special.
fn sentencepiece(decoder: &Value) -> Value {
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

fn llama_decoder() -> Value {
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

#[test]
fn ids_are_those_of_the_tokenizers_crate_without_truncation() {
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
