//! llama.cpp's vocabularies (`models/ggml-vocab-NAME.gguf` of its sources) with the ids that transformers gives for their
//! texts (`.inp`, `.out`), where `CANDLE_VLLM_VOCABULARIES` names their folder. They are too large to be kept here.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_vllm_engine::text::Tokenizer;
use candle_vllm_model::weights::{
    TokenizerSource,
    gguf::{Metadata, Value},
};

/// Reads the metadata of a GGUF file that has no tensors.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N);
        self.0 = tail;
        head.try_into().unwrap()
    }
    fn int(&mut self, width: usize) -> i64 {
        let (head, tail) = self.0.split_at(width);
        self.0 = tail;
        head.iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | i64::from(byte))
    }
    fn text(&mut self) -> String {
        let length = self.int(8) as usize;
        let (head, tail) = self.0.split_at(length);
        self.0 = tail;
        String::from_utf8_lossy(head).into_owned()
    }
    fn value(&mut self, kind: i64) -> Value {
        match kind {
            0 | 1 => Value::Uint(self.int(1) as u64),
            2 | 3 => Value::Uint(self.int(2) as u64),
            4 => Value::Uint(self.int(4) as u64),
            5 => Value::Int(i64::from(i32::from_le_bytes(self.bytes()))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes()))),
            7 => Value::Bool(self.int(1) != 0),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, count) = (self.int(4), self.int(8));
                let values: Vec<Value> = (0..count).map(|_| self.value(kind)).collect();
                match kind {
                    8 => Value::Texts(
                        values
                            .into_iter()
                            .map(|v| if let Value::Text(t) = v { t } else { panic!() })
                            .collect(),
                    ),
                    6 => Value::Floats(
                        values
                            .into_iter()
                            .map(|v| {
                                if let Value::Float(f) = v {
                                    f as f32
                                } else {
                                    panic!()
                                }
                            })
                            .collect(),
                    ),
                    _ => Value::Ints(
                        values
                            .into_iter()
                            .map(|v| match v {
                                Value::Uint(i) => i as i64,
                                Value::Int(i) => i,
                                Value::Bool(b) => i64::from(b),
                                _ => panic!(),
                            })
                            .collect(),
                    ),
                }
            }
            10 | 11 => Value::Int(self.int(8)),
            12 => Value::Float(f64::from_le_bytes(self.bytes())),
            _ => panic!("type {kind}"),
        }
    }
}

fn metadata(path: &Path) -> Metadata {
    let data = fs::read(path).unwrap();
    let mut reader = Reader(&data[16..]);
    let mut metadata = Metadata::default();
    for _ in 0..reader.int(8) {
        let key = reader.text();
        let kind = reader.int(4);
        metadata.0.insert(key, reader.value(kind));
    }
    metadata
}

/// Name, tokenizer, and the path of its texts.
pub fn all() -> Vec<(String, Tokenizer, PathBuf)> {
    let folders = std::env::var_os("CANDLE_VLLM_VOCABULARIES").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::env::split_paths(&folders)
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(".gguf"))
        .filter(|path| path.with_extension("gguf.out").exists())
        .collect();
    files.sort();
    let load = |path: PathBuf| {
        let metadata = metadata(&path);
        if matches!(metadata.text("tokenizer.ggml.model"), Some("bert" | "t5")) {
            return None;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let start = std::time::Instant::now();
        let tokenizer = Tokenizer::load(&TokenizerSource::Gguf(Arc::new(metadata))).unwrap();
        println!("{name}: loaded in {:?}", start.elapsed());
        Some((name, tokenizer, path))
    };
    files.into_iter().filter_map(load).collect()
}

#[test]
fn every_cut_gives_the_ids_of_transformers() {
    let mut failed = Vec::new();
    for (name, tokenizer, path) in all() {
        let inputs = fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let outputs = fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.lines().collect();
        assert!(
            inputs.len() >= outputs.len() && outputs.len() > 40,
            "{} {}",
            inputs.len(),
            outputs.len()
        );
        for (input, output) in inputs.iter().zip(outputs) {
            let expected: Vec<u32> = output
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let found = tokenizer.encode(input, false).unwrap();
            // transformers composes characters for these; llama.cpp, which made these rows, does not.
            let composed = name.contains("qwen35") && input.contains(['\u{300}', '\u{301}']);
            if found != expected && !composed {
                failed.push(format!("{name}: {input:?}\n  {expected:?}\n  {found:?}"));
            }
        }
        super::check_streaming(&tokenizer);
    }
    assert!(
        failed.is_empty(),
        "{} failed\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Where a `.dec` file stands beside the vocabulary: texts that SentencePiece gives for ids.
#[test]
fn texts_are_those_of_sentencepiece() {
    for (name, tokenizer, path) in all() {
        let Ok(rows) = fs::read_to_string(path.with_extension("gguf.dec")) else {
            continue;
        };
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        for row in rows.as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let text = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(text, row["text"].as_str().unwrap(), "{name} {ids:?}");
        }
    }
}

/// Prints megabytes of text a second; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed() {
    let readme = include_str!("../../../../tests/goldens/README.md").replace('<', "");
    let code = include_str!("vocabularies.rs");
    let text = format!("{readme}\n{code}\n日本語のテキスト、中文文本。한국어 텍스트\n").repeat(60);
    for (name, tokenizer, _) in all() {
        let start = std::time::Instant::now();
        let ids = tokenizer.encode(&text, false).unwrap();
        let encoded = start.elapsed().as_secs_f64();
        let decoded = tokenizer.decode(&ids, false).unwrap();
        let seconds = start.elapsed().as_secs_f64() - encoded;
        let size = text.len() as f64 / 1e6;
        println!(
            "{name}: encode {:.2} MB/s, decode {:.1} MB/s",
            size / encoded,
            size / seconds
        );
        assert!(decoded == text, "{name} does not give the text back");
    }
}
