//! Checkpoints of several files, and what a folder may and may not hold.

use std::{fs, path::Path};

use crate::golden;
use crate::support::{Gguf, llama_config, refusal, safetensors, scratch};
use candle_vllm_model::weights::{Checkpoint, TokenizerSource};

/// The tiny llama in three files as gguf-split makes them: metadata in the first, tensors spread.
fn split() -> Vec<(String, Gguf)> {
    let whole = Gguf::llama();
    let total = whole.tensors.len() as i32;
    (0..3u16)
        .map(|part| {
            let mut file = if part == 0 {
                whole.clone()
            } else {
                Gguf::new()
            };
            file.tensors = whole
                .tensors
                .iter()
                .skip(part as usize * 4)
                .take(4)
                .cloned()
                .collect();
            file.u16("split.no", part).u16("split.count", 3);
            file.raw("split.tensors.count", 5, &total.to_le_bytes());
            (format!("tiny-{:05}-of-00003.gguf", part + 1), file)
        })
        .collect()
}

fn write(folder: &Path, parts: &[(String, Gguf)]) {
    for (name, file) in parts {
        file.write(folder, name);
    }
}

fn same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.weights.names(), b.weights.names());
    for name in a.weights.names() {
        let (x, y) = (a.weights.get(&name).unwrap(), b.weights.get(&name).unwrap());
        assert!(x.shape == y.shape && x.data == y.data, "{name}");
    }
}

#[test]
fn a_split_model_opens_from_any_part_and_from_its_folder() {
    let folder = scratch("split");
    write(&folder, &split());
    let whole =
        Checkpoint::open(&Gguf::llama().write(&scratch("split-whole"), "tiny.gguf")).unwrap();
    for part in 1..=3 {
        let path = folder.join(format!("tiny-{part:05}-of-00003.gguf"));
        let opened = Checkpoint::open(&path).unwrap();
        same(&opened, &whole);
        let TokenizerSource::Gguf(metadata) = &opened.tokenizer else {
            panic!("no metadata")
        };
        assert_eq!(metadata.text("general.architecture"), Some("llama"));
    }
    let opened = Checkpoint::open(&folder).unwrap();
    same(&opened, &whole);
    let bytes: u64 = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(opened.file_bytes, bytes);
}

#[test]
fn a_broken_split_says_what_is_wrong() {
    type Change = fn(&mut Vec<(String, Gguf)>);
    let cases: &[(Change, &str)] = &[
        (|p| _ = p.remove(1), "tiny-00002-of-00003.gguf is missing"),
        (
            |p| _ = p[1].1.u16("split.no", 2),
            "split.no is 2, expected 1",
        ),
        (
            |p| _ = p[2].1.u16("split.count", 4),
            "split.count is 4, expected 3",
        ),
        (
            |p| _ = p[2].1.without("split.count"),
            "split.count is missing, expected 3",
        ),
        (|p| _ = p[0].1.without("split.count"), "split.count is not"),
        (
            |p| _ = p[1].1.tensors.pop(),
            "split.tensors.count is 11, the parts hold 10",
        ),
        (
            |p| _ = p[0].1.text("split.count", "3"),
            "split.count is Text(\"3\"), not a count",
        ),
        (
            |p| {
                let twice = p[0].1.tensors[0].clone();
                p[2].1.tensors[0] = twice;
            },
            "token_embd.weight stands in two",
        ),
    ];
    for (index, (change, message)) in cases.iter().enumerate() {
        let folder = scratch(&format!("split-broken-{index}"));
        let mut parts = split();
        change(&mut parts);
        write(&folder, &parts);
        let error = refusal(&folder.join("tiny-00001-of-00003.gguf"));
        assert!(error.contains(message), "{error:?} lacks {message:?}");
    }
    let folder = scratch("split-renamed");
    write(&folder, &split());
    fs::rename(
        folder.join("tiny-00001-of-00003.gguf"),
        folder.join("other.gguf"),
    )
    .unwrap();
    assert!(refusal(&folder.join("other.gguf")).contains("split.count is 3, but the name"));
}

#[test]
fn a_folder_with_two_models_is_refused_and_names_them() {
    let folder = scratch("two");
    Gguf::llama().write(&folder, "a.gguf");
    same(
        &Checkpoint::open(&folder).unwrap(),
        &Checkpoint::open(&folder.join("a.gguf")).unwrap(),
    );
    Gguf::llama().write(&folder, "b.gguf");
    let error = refusal(&folder);
    assert!(error.contains("a.gguf, b.gguf"), "{error}");
}

#[test]
fn a_gguf_file_needs_no_ending() {
    let path = Gguf::llama().write(&scratch("no-ending"), "sha256-b179c952");
    assert_eq!(Checkpoint::open(&path).unwrap().config.layers, 1);
}

/// Writes config.json, an index and shards: the tensors of the golden case `llama`, dealt out in turn.
fn shard(folder: &Path) -> serde_json::Map<String, serde_json::Value> {
    let whole = Checkpoint::open(&golden::hf("llama")).unwrap();
    fs::copy(
        golden::hf("llama").join("config.json"),
        folder.join("config.json"),
    )
    .unwrap();
    let names = whole.weights.names();
    let mut map = serde_json::Map::new();
    for part in 0..3 {
        let mine = || names.iter().skip(part).step_by(3);
        let tensors: Vec<_> = mine()
            .map(|name| {
                let stored = whole.weights.get(name).unwrap();
                (
                    name.as_str(),
                    stored.dtype.name(),
                    stored.shape.clone(),
                    stored.data.to_vec(),
                )
            })
            .collect();
        let file = format!("model-{:05}-of-00003.safetensors", part + 1);
        fs::write(folder.join(&file), safetensors(&tensors)).unwrap();
        map.extend(mine().map(|name| (name.clone(), file.clone().into())));
    }
    index(folder, &map);
    map
}

fn index(folder: &Path, map: &serde_json::Map<String, serde_json::Value>) {
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
}

#[test]
fn shards_make_the_same_checkpoint_as_one_file() {
    let folder = scratch("shards");
    shard(&folder);
    let opened = Checkpoint::open(&folder).unwrap();
    same(&opened, &Checkpoint::open(&golden::hf("llama")).unwrap());
    assert!(matches!(opened.tokenizer, TokenizerSource::Folder(at) if at == folder));
}

#[test]
fn a_broken_index_says_what_is_wrong() {
    let folder = scratch("shards-broken");
    let good = shard(&folder);
    let with = |name: &str, shard: &str| {
        let mut map = good.clone();
        map.insert(name.to_string(), shard.into());
        index(&folder, &map);
        refusal(&folder)
    };
    let error = with("lm_head.weight", "model-00009-of-00003.safetensors");
    assert!(
        error.contains("model-00009-of-00003.safetensors is missing"),
        "{error}"
    );
    let error = with("model.extra", "model-00001-of-00003.safetensors");
    assert!(
        error.contains("tensor model.extra is not in model-00001-of-00003.safetensors"),
        "{error}"
    );
    // Every one of these names a file that exists, so that nothing but the name is wrong.
    let inside = folder.join("sub");
    fs::create_dir_all(&inside).unwrap();
    let shard_bytes = fs::read(folder.join("model-00001-of-00003.safetensors")).unwrap();
    fs::write(inside.join("x.safetensors"), &shard_bytes).unwrap();
    let absolute = inside.join("x.safetensors").display().to_string();
    let around = format!(
        "../{}/sub/x.safetensors",
        folder.file_name().unwrap().to_string_lossy()
    );
    for name in [
        "sub/x.safetensors",
        "./sub/x.safetensors",
        absolute.as_str(),
        around.as_str(),
        "..",
        "",
        "sub\\x",
    ] {
        let error = with("lm_head.weight", name);
        assert!(
            error.contains("is not a plain file name"),
            "{name}: {error}"
        );
    }
    let error = with("lm_head.weight", "config.json");
    assert!(error.contains("is not a .safetensors file"), "{error}");
    for text in [
        "{}",
        "[]",
        "{\"weight_map\": {}}",
        "{\"weight_map\": {\"a\": 1}}",
        "{",
        "",
    ] {
        fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
        assert!(
            refusal(&folder).contains("model.safetensors.index.json"),
            "{text}"
        );
    }
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    assert!(refusal(&folder).contains("3 safetensors files and no model.safetensors.index.json"));
}

#[test]
fn pickles_are_refused_and_named() {
    let folder = scratch("pickles");
    fs::write(folder.join("config.json"), llama_config().to_string()).unwrap();
    assert!(refusal(&folder).contains("holds no model"));
    fs::write(folder.join("pytorch_model.bin"), b"\x80\x02.").unwrap();
    let error = refusal(&folder);
    assert!(
        error.contains("only pickles (pytorch_model.bin)"),
        "{error}"
    );
    for name in ["pytorch_model.bin", "model.pt", "model.pth"] {
        fs::write(folder.join(name), b"\x80\x02.").unwrap();
        assert!(
            refusal(&folder.join(name)).contains("is a pickle"),
            "{name}"
        );
    }
}

#[test]
fn what_is_not_a_checkpoint_is_refused() {
    let folder = scratch("nothing");
    assert!(refusal(&folder.join("absent")).contains("cannot read"));
    assert!(refusal(&folder).contains("holds no model"));
    fs::write(folder.join("notes.txt"), "hello").unwrap();
    assert!(refusal(&folder.join("notes.txt")).contains("neither a folder nor a GGUF file"));
    fs::write(folder.join("empty.gguf"), "").unwrap();
    assert!(refusal(&folder.join("empty.gguf")).contains("is empty"));
    fs::write(folder.join("model.safetensors"), safetensors(&[])).unwrap();
    assert!(refusal(&folder).contains("has no config.json"));
    assert!(refusal(&folder.join("model.safetensors")).contains("give the folder"));
    // A pipe must not be waited on.
    assert!(refusal(Path::new("/dev/null")).contains("neither"));
}
