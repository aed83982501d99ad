//! Tokenizers against what transformers and llama.cpp say of the same vocabularies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_vllm_engine::text::{TextStream, Tokenizer};
use candle_vllm_model::weights::{Checkpoint, TokenizerSource};

#[path = "text/folders.rs"]
mod folders;
#[path = "text/metadata.rs"]
mod metadata;
#[path = "text/to_gguf.rs"]
mod to_gguf;
#[path = "text/vocabularies.rs"]
mod vocabularies;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn folder(case: &str) -> Tokenizer {
    Tokenizer::load(&TokenizerSource::Folder(goldens().join("hf").join(case))).unwrap()
}

fn gguf(path: &Path) -> Tokenizer {
    Tokenizer::load(&Checkpoint::open(path).unwrap().tokenizer).unwrap()
}

const TEXTS: &[&str] = &[
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n \t\t x",
    "Hello, world!",
    " hello  the   quick    brown fox",
    "I'm you're he'LL we've It's 'tis",
    "1 12 123 1234 12345 3.14159 1e10 0xFF ½ ² ٣٤ 四",
    "fn main() {\n\tlet x = vec![1, 2, 3];\r\n    println!(\"{x:?}\");\n}\n",
    "日本語のテキスト、中文文本。한국어 텍스트 ไทย हिन्दी العربية",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 e\u{301} ﬁ",
    "<|im_start|>user\nhi<|im_end|>\n<s>a</s> <pad><|im_start|> <|im_",
    "\u{0}\u{1}\u{7f}\u{a0}\u{2028}\u{feff}\u{ad}",
    "trailing spaces   ",
    "x_y-z=a+b*c/d^e~f|g`h@i#j$k%l&m",
];

#[test]
fn a_folder_and_its_gguf_give_the_same_ids_and_texts() {
    for case in ["llama", "qwen2", "qwen3"] {
        let (a, b) = (
            folder(case),
            gguf(&goldens().join(format!("gguf/{case}.gguf"))),
        );
        for text in TEXTS {
            let ids = a.encode(text, true).unwrap();
            assert_eq!(ids, b.encode(text, true).unwrap(), "{text:?}");
            assert_eq!(a.decode(&ids, false).unwrap(), *text);
            assert_eq!(b.decode(&ids, false).unwrap(), *text);
            assert_eq!(a.decode(&ids, true).unwrap(), b.decode(&ids, true).unwrap());
        }
        assert_eq!(a.bos_id(), Some(1));
        assert_eq!((a.eos_ids(), b.eos_ids().contains(&2)), (&[2][..], true));
        assert_eq!(a.chat_template(), b.chat_template());
        assert!(a.chat_template().unwrap().contains("<|im_start|>"));
        for name in ["bos_token", "eos_token", "pad_token"] {
            assert_eq!(a.special_tokens()[name], b.special_tokens()[name]);
        }
    }
}

#[test]
fn special_tokens_are_found_in_the_text_and_left_out_on_demand() {
    let tokenizer = folder("llama");
    let ids = tokenizer.encode("<|im_start|>hi<|im_end|>", false).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (3, 4));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hi");
    assert_eq!(
        tokenizer.decode(&ids, false).unwrap(),
        "<|im_start|>hi<|im_end|>"
    );
    assert!(tokenizer.is_special(3) && !tokenizer.is_special(5) && !tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(4));
    assert_eq!(tokenizer.id_to_token(4).as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer.decode(&[u32::MAX, 319], false).unwrap(), "");
}

/// A plain generator of pseudo-random numbers (Knuth's MMIX).
fn random(state: &mut u64) -> u32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as u32
}

fn stream(
    tokenizer: &Tokenizer,
    ids: &[u32],
    stops: &[&str],
    skip: bool,
) -> (Vec<String>, Option<usize>) {
    let stops = stops.iter().map(|s| (*s).to_owned()).collect();
    let mut stream = TextStream::new(tokenizer.clone(), &[], stops, skip);
    let mut pieces: Vec<String> = ids
        .iter()
        .map(|&id| stream.push(id).unwrap().text)
        .collect();
    pieces.push(stream.finish().unwrap());
    (pieces, stream.stopped())
}

/// All vocabularies at hand, those of `vocabularies.rs` included.
fn check_streaming(tokenizer: &Tokenizer) {
    let mut state = 7;
    for round in 0..300 {
        let length = random(&mut state) % 40;
        let ids: Vec<u32> = (0..length)
            .map(|_| random(&mut state) % (tokenizer.vocab_size() as u32 + 3))
            .collect();
        for skip in [false, true] {
            let whole = tokenizer.decode(&ids, skip).unwrap();
            let (pieces, stopped) = stream(tokenizer, &ids, &[], skip);
            assert_eq!(
                (pieces.concat(), stopped),
                (whole.clone(), None),
                "round {round} {ids:?}"
            );
            let stops = ["a", "th", "\u{FFFD}\u{FFFD}", "in the"];
            let best = stops
                .iter()
                .enumerate()
                .filter_map(|(i, s)| Some((whole.find(s)?, s.len(), i)))
                .min();
            let (pieces, stopped) = stream(tokenizer, &ids, &stops, skip);
            assert_eq!(pieces.concat(), whole[..best.map_or(whole.len(), |b| b.0)]);
            assert_eq!(stopped, best.map(|b| b.2));
        }
    }
    for text in TEXTS {
        let ids = tokenizer.encode(text, false).unwrap();
        let (pieces, _) = stream(tokenizer, &ids, &[], false);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, false).unwrap());
        assert!(
            pieces.iter().all(|piece| !piece.contains('\u{FFFD}')),
            "{text:?} {pieces:?}"
        );
    }
}

#[test]
fn streaming_equals_decoding() {
    check_streaming(&folder("llama"));
    check_streaming(&gguf(&goldens().join("gguf/llama.gguf")));
}

#[test]
fn a_character_is_sent_when_it_is_whole() {
    let tokenizer = folder("llama");
    let ids = tokenizer.encode("é😀", false).unwrap();
    assert_eq!(ids.len(), 6);
    let (pieces, _) = stream(&tokenizer, &ids, &[], false);
    assert_eq!(pieces, ["", "é", "", "", "", "😀", ""]);
    let (pieces, _) = stream(&tokenizer, &ids[..5], &[], false);
    assert_eq!(pieces, ["", "é", "", "", "", "\u{FFFD}"]);
}

#[test]
fn a_missing_tokenizer_says_what_to_do() {
    let folder = std::env::temp_dir().join(format!("candle-vllm-text-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tokenizer.model"), "x").unwrap();
    let error = Tokenizer::load(&TokenizerSource::Folder(folder.clone()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tokenizer.model") && error.contains("save_pretrained"),
        "{error}"
    );
    fs::write(folder.join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::load(&TokenizerSource::Folder(folder.clone()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    fs::remove_dir_all(&folder).unwrap();
}

/// The default model, where `CANDLE_VLLM_TEST_MODEL` names its file: ids of the reference's chats and texts.
#[test]
fn smollm2_gives_the_ids_of_the_reference() {
    let Some(path) = std::env::var_os("CANDLE_VLLM_TEST_MODEL") else {
        return;
    };
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    let opened = start.elapsed();
    let tokenizer = Tokenizer::load(&checkpoint.tokenizer).unwrap();
    println!(
        "opened in {opened:?}, tokenizer in {:?}",
        start.elapsed() - opened
    );
    let text = fs::read_to_string(goldens().join("smollm2/reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids =
        |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let mut checked = 0;
    for chat in reference["chats"].as_array().unwrap() {
        let prompt = ids(&chat["prompt_token_ids"]);
        let text = tokenizer.decode(&prompt, false).unwrap();
        assert_eq!(tokenizer.encode(&text, true).unwrap(), prompt);
        for message in chat["messages"].as_array().unwrap() {
            assert!(text.contains(message["content"].as_str().unwrap()));
        }
        let answer = ids(&chat["greedy_token_ids"]);
        assert_eq!(
            tokenizer.decode(&answer, true).unwrap(),
            chat["text"].as_str().unwrap()
        );
        checked += 1;
    }
    for text in reference["texts"].as_array().unwrap() {
        // The reference cuts spaces before digits otherwise than the model's own tokenizer.json; the text is the same.
        let text = tokenizer.decode(&ids(&text["token_ids"]), false).unwrap();
        let again = tokenizer.encode(&text, true).unwrap();
        assert_eq!(tokenizer.decode(&again, false).unwrap(), text);
        checked += 1;
    }
    assert_eq!(checked, 12);
    assert_eq!(tokenizer.eos_ids(), [2]);
}
