//! Files of the goldens, changed: opened, and every tensor that is found is read.
use std::{fs, path::PathBuf};

use candle_vllm_model::weights::Checkpoint;

use super::Target;

/// Bytes of a file's head in which most changes are made.
const HEAD: usize = 12_000;

fn goldens(part: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(part)
}

/// A folder of this process's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whether it opens; all it holds is read.
fn open(path: &std::path::Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return false;
    };
    for name in checkpoint.weights.names() {
        if let Ok(part) = checkpoint.weights.part(&name) {
            std::hint::black_box(part.data.iter().fold(0u8, |sum, b| sum ^ b));
        }
        checkpoint.weights.release(&name);
    }
    true
}

pub fn gguf() -> Target {
    let mut names: Vec<_> = fs::read_dir(goldens("gguf"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let seeds: Vec<Vec<u8>> = names.iter().map(|path| fs::read(path).unwrap()).collect();
    let path = folder("gguf").join("model.gguf");
    Box::new(move |random| {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        random.change(&mut bytes, HEAD);
        // What is mapped must not be written over: another file takes its place.
        fs::remove_file(&path).ok();
        fs::write(&path, &bytes).unwrap();
        open(&path)
    })
}

pub fn safetensors() -> Target {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(goldens("formats")).unwrap() {
        let from = entry.unwrap().path();
        let read = |name: &str| fs::read(from.join(name)).unwrap();
        seeds.push((read("config.json"), read("model.safetensors")));
    }
    seeds.sort();
    let folder = folder("safetensors");
    Box::new(move |random| {
        let (mut config, mut bytes) = seeds[random.below(seeds.len())].clone();
        match random.below(4) {
            0 => random.misprint(&mut config),
            1 => random.change(&mut bytes, HEAD),
            2 => random.misprint(&mut bytes[8..HEAD]),
            _ => {
                random.change(&mut config, usize::MAX);
                random.misprint(&mut bytes[8..HEAD]);
            }
        }
        let path = folder.join("model.safetensors");
        fs::remove_file(&path).ok();
        fs::write(folder.join("config.json"), &config).unwrap();
        fs::write(path, &bytes).unwrap();
        open(&folder)
    })
}
