//! Tokenizers from GGUF metadata that is written here by hand.
use std::sync::Arc;

use candle_vllm_engine::{Error, text::Tokenizer};
use candle_vllm_model::weights::{
    TokenizerSource,
    gguf::{Metadata, Value},
};
use serde_json::Value as Json;

fn texts(list: &[&str]) -> Value {
    Value::Texts(list.iter().map(|s| (*s).to_owned()).collect())
}

fn load(metadata: &Metadata) -> Result<Tokenizer, Error> {
    Tokenizer::load(&TokenizerSource::Gguf(Arc::new(metadata.clone())))
}

fn set(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.0.insert(format!("tokenizer.ggml.{key}"), value);
}

/// A byte-level vocabulary of few letters.
fn byte_level() -> Metadata {
    let mut metadata = Metadata::default();
    let tokens = [
        "<s>", "</s>", "a", "b", "ab", "Ġ", "Ġab", "<tool>", "abab", "Ã", "©", "Ã©",
    ];
    set(&mut metadata, "model", Value::Text("gpt2".into()));
    set(&mut metadata, "pre", Value::Text("gpt-2".into()));
    set(&mut metadata, "tokens", texts(&tokens));
    set(
        &mut metadata,
        "token_type",
        Value::Ints(vec![3, 3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1]),
    );
    set(&mut metadata, "merges", texts(&["a b", "Ġ ab", "Ã ©"]));
    set(&mut metadata, "bos_token_id", Value::Uint(0));
    set(&mut metadata, "eos_token_id", Value::Uint(1));
    metadata
}

/// The SentencePiece vocabulary of `sentencepiece.json`.
fn sentencepiece(golden: &Json) -> Metadata {
    let mut metadata = Metadata::default();
    let list = |name: &str| golden[name].as_array().unwrap().iter();
    let tokens = list("tokens")
        .map(|t| t.as_str().unwrap().to_owned())
        .collect();
    let scores = list("scores").map(|s| s.as_f64().unwrap() as f32).collect();
    let types = list("types").map(|t| t.as_i64().unwrap()).collect();
    set(&mut metadata, "model", Value::Text("llama".into()));
    set(&mut metadata, "tokens", Value::Texts(tokens));
    set(&mut metadata, "scores", Value::Floats(scores));
    set(&mut metadata, "token_type", Value::Ints(types));
    set(&mut metadata, "bos_token_id", Value::Uint(1));
    set(&mut metadata, "eos_token_id", Value::Uint(2));
    metadata
}

fn golden() -> Json {
    serde_json::from_str(include_str!("sentencepiece.json")).unwrap()
}

#[test]
fn sentencepiece_ids_and_texts_are_those_of_sentencepiece() {
    let golden = golden();
    let tokenizer = load(&sentencepiece(&golden)).unwrap();
    for row in golden["encode"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            [&[1], &ids[..]].concat()
        );
        assert_eq!(
            tokenizer.decode(&ids, false).unwrap(),
            text.replace('▁', " ")
        );
    }
    for row in golden["decode"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(
            tokenizer.decode(&ids, false).unwrap(),
            row["text"].as_str().unwrap(),
            "{ids:?}"
        );
    }
    super::check_streaming(&tokenizer);

    // Without its bytes the vocabulary has its unknown token, one for each run; without that, an error.
    let mut metadata = sentencepiece(&golden);
    let Some(Value::Texts(tokens)) = metadata.0.get_mut("tokenizer.ggml.tokens") else {
        panic!()
    };
    for token in tokens.iter_mut().filter(|token| token.starts_with("<0x")) {
        token.push('-');
    }
    let ids = load(&metadata).unwrap().encode("語語 e 語", false).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 2);
    set(&mut metadata, "unknown_token_id", Value::Uint(9999));
    let error = load(&metadata).unwrap().encode("語", false).unwrap_err();
    assert!(matches!(error, Error::Tokenization(_)), "{error}");
}

#[test]
fn the_first_space_is_kept_after_a_prompt() {
    let golden = golden();
    let tokenizer = load(&sentencepiece(&golden)).unwrap();
    let ids = tokenizer.encode("the engine", false).unwrap();
    let text = |prompt: &[u32], skip| {
        let mut stream =
            candle_vllm_engine::text::TextStream::new(tokenizer.clone(), prompt, Vec::new(), skip);
        let pieces: String = ids
            .iter()
            .map(|&id| stream.push(id).unwrap().text)
            .collect();
        pieces + &stream.finish().unwrap()
    };
    assert_eq!(text(&[], true), "the engine");
    assert_eq!(text(&[1], true), "the engine");
    assert_eq!(text(&[1], false), " the engine");
    assert_eq!(text(&ids, true), " the engine");
}

#[test]
fn spaces_are_not_put_in_front_where_the_metadata_says_so() {
    let mut metadata = sentencepiece(&golden());
    set(&mut metadata, "add_space_prefix", Value::Bool(false));
    set(&mut metadata, "add_bos_token", Value::Bool(false));
    set(&mut metadata, "add_eos_token", Value::Bool(true));
    let tokenizer = load(&metadata).unwrap();
    let ids = tokenizer.encode(" the engine", true).unwrap();
    assert_eq!(ids.last(), Some(&2));
    assert_eq!(tokenizer.id_to_token(ids[0]).unwrap(), "▁the");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), " the engine");
    let ids = tokenizer.encode("the</s>engine", false).unwrap();
    assert!(ids.contains(&2));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "the</s>engine");
}

#[test]
fn merges_special_tokens_and_words_follow_the_metadata() {
    let tokenizer = load(&byte_level()).unwrap();
    assert_eq!(tokenizer.encode("ab ab", true).unwrap(), [4, 6]);
    assert_eq!(
        tokenizer.encode("abab<tool>ba</s>é", false).unwrap(),
        [4, 4, 7, 3, 2, 1, 11]
    );
    assert_eq!(
        tokenizer.decode(&[0, 4, 7, 6], true).unwrap(),
        "ab<tool> ab"
    );
    assert_eq!(
        (tokenizer.is_special(0), tokenizer.is_special(7)),
        (true, false)
    );
    assert_eq!(
        (
            tokenizer.bos_id(),
            tokenizer.eos_ids(),
            tokenizer.vocab_size()
        ),
        (Some(0), &[1][..], 12)
    );
    assert_eq!(
        (tokenizer.token_bytes(11), tokenizer.token_bytes(99)),
        ("é".as_bytes(), &[][..])
    );
    // Bytes that the vocabulary lacks are left out, as the tokenizers crate does.
    assert_eq!(tokenizer.encode("acb\u{1}", false).unwrap(), [4]);

    let mut metadata = byte_level();
    set(&mut metadata, "pre", Value::Text("llama-bpe".into()));
    let tokenizer = load(&metadata).unwrap();
    assert_eq!(
        tokenizer.encode("abab ab", true).unwrap(),
        [0, 8, 6],
        "whole words come before merges, bos by default"
    );
}

#[test]
fn ends_and_templates_come_from_the_metadata() {
    let mut metadata = byte_level();
    set(&mut metadata, "eot_token_id", Value::Uint(7));
    let template = |metadata: &mut Metadata, key: &str, text: &str| {
        metadata
            .0
            .insert(format!("tokenizer.{key}"), Value::Text(text.into()));
    };
    template(&mut metadata, "chat_template", "usual");
    template(&mut metadata, "chat_template.rag", "other");
    metadata
        .0
        .insert("tokenizer.chat_templates".into(), texts(&["rag"]));
    let tokenizer = load(&metadata).unwrap();
    assert_eq!(tokenizer.eos_ids(), [1, 7]);
    assert_eq!(tokenizer.chat_template(), Some("usual"));
    assert_eq!(
        tokenizer.chat_templates().keys().collect::<Vec<_>>(),
        ["default", "rag"]
    );
    let special = tokenizer.special_tokens();
    assert_eq!(
        (special["bos_token"].as_str(), special["eos_token"].as_str()),
        ("<s>", "</s>")
    );
}

#[test]
fn tokens_that_end_an_answer_are_known_by_their_text() {
    let ends = |texts: &[(usize, &str)]| {
        let mut metadata = byte_level();
        // Without the merge that makes token 6, which some cases rename.
        set(&mut metadata, "merges", self::texts(&["a b", "Ã ©"]));
        let Some(Value::Texts(tokens)) = metadata.0.get_mut("tokenizer.ggml.tokens") else {
            panic!()
        };
        for (id, text) in texts {
            tokens[*id] = (*text).into();
        }
        load(&metadata).unwrap().eos_ids().to_vec()
    };
    assert_eq!(ends(&[]), [1]);
    for text in [
        "<|im_end|>",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<EOT>",
        "<|return|>",
        "<|fim_pad|>",
        "<|file_sep|>",
    ] {
        assert_eq!(ends(&[(7, text)]), [1, 7], "{text}");
    }
    // Also where the metadata ends with another, and where no template names them.
    let both = [(7, "<|im_end|>"), (8, "<|endoftext|>")];
    assert_eq!(ends(&both), [1, 7, 8]);
    assert_eq!(ends(&[(7, "<|im_start|>")]), [1]);
    // In gpt-oss `<|end|>` ends a message; an answer has several.
    let harmony = [(6, "<|return|>"), (7, "<|call|>"), (8, "<|end|>")];
    assert_eq!(ends(&harmony), [1, 6, 7]);
}

#[test]
fn broken_metadata_is_refused_by_name() {
    let spm = || sentencepiece(&golden());
    let cases: Vec<(Metadata, &str, Option<Value>)> = vec![
        (byte_level(), "model", None),
        (byte_level(), "model", Some(Value::Text("bert".into()))),
        (byte_level(), "pre", Some(Value::Text("klingon".into()))),
        (byte_level(), "tokens", None),
        (byte_level(), "tokens", Some(texts(&[]))),
        (byte_level(), "tokens", Some(Value::Uint(3))),
        (byte_level(), "token_type", Some(Value::Ints(vec![1]))),
        (byte_level(), "token_type", Some(Value::Text("x".into()))),
        (byte_level(), "merges", None),
        (byte_level(), "merges", Some(texts(&["ab"]))),
        (byte_level(), "merges", Some(texts(&["a z"]))),
        (byte_level(), "merges", Some(texts(&[""]))),
        (byte_level(), "eos_token_id", Some(Value::Uint(12))),
        (byte_level(), "eot_token_id", Some(Value::Int(-1))),
        (spm(), "scores", None),
        (spm(), "scores", Some(Value::Floats(vec![0.0]))),
        (spm(), "scores", Some(Value::Floats(vec![f32::NAN; 560]))),
    ];
    for (mut metadata, key, value) in cases {
        let key = format!("tokenizer.ggml.{key}");
        match &value {
            Some(value) => metadata.0.insert(key.clone(), value.clone()),
            None => metadata.0.remove(&key),
        };
        match load(&metadata) {
            Err(Error::ModelLoad(text)) => assert!(text.contains(&key), "{key} {value:?}: {text}"),
            other => panic!("{key} {value:?}: {other:?}"),
        }
    }
}
