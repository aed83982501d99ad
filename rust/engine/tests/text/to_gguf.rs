//! Folders' tokenizers as GGUF metadata: the keys that are written, and what is refused instead of written wrongly.
use std::sync::Arc;

use candle_vllm_engine::{
    Error,
    text::{Tokenizer, to_gguf::to_gguf},
};
use candle_vllm_model::weights::{
    TokenizerSource,
    gguf::{Metadata, Value as Said, write::metadata},
};
use serde_json::{Value, json};

use super::folders::{Folder, byte_level, llama_decoder, sentencepiece};

/// Ids of `byte_level`: 256 bytes, 9 merges and a word, then added tokens.
const BOS: usize = 266;
const ROWS: usize = 272;

/// GPT-2's cut.
fn gpt2() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
}

/// A cut at an expression, then bytes.
fn split(expression: &str) -> Value {
    let cut = json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({"type": "Sequence", "pretokenizers": [cut, bytes]})
}

/// A tokenizer with GPT-2's cut and without words that no merge makes.
fn plain() -> Value {
    let mut json = byte_level(&gpt2());
    json["model"]["ignore_merges"] = json!(false);
    json
}

/// The one before all texts.
fn named() -> Value {
    json!({"bos_token": "<s>"})
}

/// Nothing before a text.
fn bare() -> Value {
    let mut json = plain();
    json["post_processor"] = Value::Null;
    json
}

fn written(json: &Value, config: &Value, rows: usize) -> Result<Metadata, Error> {
    let folder = Folder::new(&[("tokenizer.json", json), ("tokenizer_config.json", config)]);
    to_gguf(&folder.0, rows).map(|pairs| metadata(&pairs).unwrap())
}

fn refused(json: &Value, config: &Value, rows: usize, what: &str) {
    match written(json, config, rows) {
        Err(Error::ModelLoad(text)) => assert!(text.contains(what), "{text:?} lacks {what:?}"),
        other => panic!("{what}: {other:?}"),
    }
}

fn id(metadata: &Metadata, name: &str) -> Option<u64> {
    metadata.uint(&format!("tokenizer.ggml.{name}_token_id"))
}

#[test]
fn every_row_gets_a_token_and_its_kind() {
    let metadata = written(&plain(), &named(), ROWS).unwrap();
    assert_eq!(metadata.text("tokenizer.ggml.model"), Some("gpt2"));
    assert_eq!(metadata.text("tokenizer.ggml.pre"), Some("gpt-2"));
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap();
    let Some(Said::Ints(kinds)) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("no kinds")
    };
    assert_eq!((tokens.len(), kinds.len()), (ROWS, ROWS));
    // A word, a special token, two that were added, and rows that no token has.
    let last: Vec<(&str, i64)> = tokens[BOS - 1..]
        .iter()
        .map(String::as_str)
        .zip(kinds[BOS - 1..].iter().copied())
        .collect();
    let want = [
        ("Ġthere", 1),
        ("<s>", 3),
        ("<s>>", 4),
        ("  <tool>", 4),
        ("[PAD269]", 5),
        ("[PAD270]", 5),
        ("[PAD271]", 5),
    ];
    assert_eq!(last, want);
    assert!(kinds[..BOS].iter().all(|kind| *kind == 1));
    let merges = metadata.texts("tokenizer.ggml.merges").unwrap();
    assert_eq!((merges.len(), merges[2].as_str()), (9, "Ġ the"));
    // Exactly as many rows as tokens will do; one less will not.
    assert!(written(&plain(), &named(), 269).is_ok());
    refused(
        &plain(),
        &json!({}),
        268,
        "has 269 tokens, the embedding 268 rows",
    );
}

#[test]
fn merges_may_be_texts_or_pairs() {
    let mut pairs = plain();
    let merges = pairs["model"]["merges"].as_array().unwrap().clone();
    let pair = |merge: &Value| json!(merge.as_str().unwrap().split(' ').collect::<Vec<_>>());
    pairs["model"]["merges"] = merges.iter().map(pair).collect();
    let of = |json: &Value| {
        let metadata = written(json, &named(), ROWS).unwrap();
        metadata.texts("tokenizer.ggml.merges").unwrap().to_vec()
    };
    assert_eq!(of(&pairs), of(&plain()));
}

#[test]
fn ids_of_named_tokens_and_what_goes_around_a_text_are_said() {
    let none = written(&bare(), &json!({}), ROWS).unwrap();
    for name in ["bos", "eos", "unknown", "padding", "seperator"] {
        assert_eq!(id(&none, name), None, "{name}");
    }
    let names = json!({"bos_token": "<s>", "eos_token": "<s>>", "pad_token": "  <tool>", "unk_token": "th",
        "sep_token": "no such token"});
    let of = |changes: &[(&str, bool)]| {
        let mut config = names.clone();
        changes
            .iter()
            .for_each(|(key, value)| config[key] = json!(value));
        written(&plain(), &config, ROWS).unwrap()
    };
    let around = |metadata: &Metadata| {
        ["bos", "eos"].map(|name| metadata.bool(&format!("tokenizer.ggml.add_{name}_token")))
    };
    let named = of(&[]);
    assert_eq!(id(&named, "bos"), Some(266));
    assert_eq!(id(&named, "eos"), Some(267));
    assert_eq!(id(&named, "padding"), Some(268));
    assert_eq!(id(&named, "unknown"), Some(256));
    assert_eq!(id(&named, "seperator"), None);
    // The post-processor puts `<s>` before a text; the configuration may say otherwise.
    assert_eq!(around(&named), [Some(true), Some(false)]);
    assert_eq!(around(&of(&[("add_bos_token", false)])), [Some(false); 2]);
    // One before a text that no key could name.
    refused(
        &plain(),
        &json!({}),
        ROWS,
        "would be read as one that writes other tokens",
    );
    let both = of(&[("add_bos_token", true), ("add_eos_token", true)]);
    assert_eq!(around(&both), [Some(true); 2]);
    let eos = of(&[("add_bos_token", false), ("add_eos_token", true)]);
    assert_eq!(around(&eos), [Some(false), Some(true)]);
}

#[test]
fn templates_stand_under_their_names() {
    let templates = json!({"chat_template": [{"name": "default", "template": "a"},
        {"name": "tool_use", "template": "b"}], "bos_token": "<s>"});
    let metadata = written(&plain(), &templates, ROWS).unwrap();
    assert_eq!(metadata.text("tokenizer.chat_template"), Some("a"));
    assert_eq!(metadata.text("tokenizer.chat_template.tool_use"), Some("b"));
}

#[test]
fn cuts_have_llama_cpps_names_or_are_refused() {
    let llama3 = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let qwen2 = llama3.replace("{1,3}", "");
    let digits = json!({"type": "Sequence", "pretokenizers":
        [{"type": "Digits", "individual_digits": true}, gpt2()]});
    let (no, nfc) = (Value::Null, json!({"type": "NFC"}));
    let unknown = "cuts texts into words as no name of llama.cpp's says";
    let cases = [
        (split(llama3), true, &no, Ok("llama-bpe")),
        (split(&qwen2), false, &nfc, Ok("qwen2")),
        (gpt2(), false, &no, Ok("gpt-2")),
        (digits.clone(), false, &no, Ok("smollm")),
        (digits, false, &nfc, Ok("command-r")),
        // Composed, but not by any name with this cut; a cut that nobody has; words taken whole by another's cut.
        (gpt2(), false, &nfc, Err(unknown)),
        (split(r"\p{L}+|\d+"), false, &no, Err(unknown)),
        (gpt2(), true, &no, Err(unknown)),
        (
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}),
            false,
            &no,
            Err("does not work on bytes"),
        ),
    ];
    for (cut, whole, normalizer, want) in cases {
        let mut json = byte_level(&cut);
        json["model"]["ignore_merges"] = json!(whole);
        json["normalizer"] = normalizer.clone();
        match want {
            Ok(name) => {
                let metadata = written(&json, &named(), ROWS).unwrap();
                assert_eq!(metadata.text("tokenizer.ggml.pre"), Some(name), "{cut}");
            }
            Err(what) => refused(&json, &named(), ROWS, what),
        }
    }
}

#[test]
fn other_models_are_refused() {
    let mut words = plain();
    words["model"] = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"});
    words["added_tokens"] = json!([]);
    words["post_processor"] = Value::Null;
    refused(&words, &named(), ROWS, "is no byte-pair encoding");
    let pieces = sentencepiece(&llama_decoder());
    refused(&pieces, &named(), 400, "does not work on bytes");
    let folder = Folder::new(&[]);
    match to_gguf(&folder.0, ROWS) {
        Err(Error::ModelLoad(text)) => assert!(text.contains("tokenizer.json"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn added_tokens_that_take_their_surroundings_are_refused() {
    // GGUF has no place for these, so a text around such a token would be cut otherwise. By place among the added ones:
    // special or not, and behind more special tokens than a quick look would take.
    let changed = |at: usize, key: &str| {
        let mut json = plain();
        let added = json["added_tokens"].as_array_mut().unwrap();
        for i in 0..10 {
            let mut token = added[0].clone();
            token["id"] = json!(BOS + 3 + i);
            token["content"] = json!(format!("<|{i}|>"));
            added.push(token);
        }
        if !key.is_empty() {
            added[at][key] = json!(true);
        }
        json
    };
    assert!(written(&changed(0, ""), &named(), 300).is_ok());
    for (at, key) in [
        (0, "lstrip"),
        (0, "rstrip"),
        (0, "single_word"),
        (1, "lstrip"),
        (1, "rstrip"),
        (1, "single_word"),
        (12, "lstrip"),
        (12, "rstrip"),
        (12, "single_word"),
    ] {
        let json = changed(at, key);
        refused(
            &json,
            &named(),
            300,
            "would be read as one that writes other tokens",
        );
    }
}

#[test]
fn what_is_written_reads_texts_as_the_folder_does() {
    let config = json!({"bos_token": "<s>", "eos_token": "<s>>"});
    let folder = Folder::new(&[
        ("tokenizer.json", &plain()),
        ("tokenizer_config.json", &config),
    ]);
    let own = folder.load().unwrap();
    let pairs = to_gguf(&folder.0, ROWS).unwrap();
    let source = TokenizerSource::Gguf(Arc::new(metadata(&pairs).unwrap()));
    let read = Tokenizer::load(&source).unwrap();
    for text in super::TEXTS
        .iter()
        .chain(&["<s> <s>>  <tool>x there", "[PAD270]"])
    {
        for special in [false, true] {
            let ids = own.encode(text, special).unwrap();
            assert_eq!(read.encode(text, special).unwrap(), ids, "{text:?}");
            assert_eq!(
                read.decode(&ids, false).unwrap(),
                own.decode(&ids, false).unwrap()
            );
        }
    }
    assert_eq!(read.eos_ids(), own.eos_ids());
    assert_eq!(read.bos_id(), own.bos_id());
}
