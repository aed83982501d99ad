//! Random checkpoints written and read back, and pages given back after use.

use std::fs;

use crate::support::{Gguf, Random, RawTensor, llama_config, scratch, text};
use candle_vllm_kernels::cpu::ggml::GgmlType;
use candle_vllm_model::weights::{
    Checkpoint, TokenizerSource,
    gguf::{Metadata, Value},
};
use safetensors::{Dtype, tensor::TensorView};

const CODES: [u32; 13] = [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30];

/// A random value as GGUF has it, and what it has to be read as.
fn value(random: &mut Random) -> (u32, Vec<u8>, Value) {
    let bits = random.next();
    let words: Vec<String> = (0..random.below(5))
        .map(|i| format!("w{i}-{}", random.below(1000)))
        .collect();
    let n = random.below(6);
    let list = |code: u32, n: usize, body: Vec<u8>| {
        [&code.to_le_bytes()[..], &(n as u64).to_le_bytes(), &body].concat()
    };
    match random.below(12) {
        0 => (0, vec![bits as u8], Value::Uint(u64::from(bits as u8))),
        1 => (1, vec![bits as u8], Value::Int(i64::from(bits as i8))),
        2 => (
            3,
            (bits as i16).to_le_bytes().to_vec(),
            Value::Int(i64::from(bits as i16)),
        ),
        3 => (
            4,
            (bits as u32).to_le_bytes().to_vec(),
            Value::Uint(u64::from(bits as u32)),
        ),
        4 => (
            5,
            (bits as i32).to_le_bytes().to_vec(),
            Value::Int(i64::from(bits as i32)),
        ),
        5 => (
            6,
            (bits as i16 as f32).to_le_bytes().to_vec(),
            Value::Float(f64::from(bits as i16)),
        ),
        6 => (7, vec![(bits & 1) as u8], Value::Bool(bits & 1 == 1)),
        7 => (10, bits.to_le_bytes().to_vec(), Value::Uint(bits)),
        8 => (11, bits.to_le_bytes().to_vec(), Value::Int(bits as i64)),
        9 => (
            12,
            (bits as i32 as f64).to_le_bytes().to_vec(),
            Value::Float(f64::from(bits as i32)),
        ),
        10 => {
            let ints: Vec<i16> = (0..n).map(|i| (bits >> i) as i16).collect();
            let body = ints.iter().flat_map(|v| v.to_le_bytes()).collect();
            (
                9,
                list(3, n, body),
                Value::Ints(ints.iter().map(|v| i64::from(*v)).collect()),
            )
        }
        _ => {
            let body = words.iter().flat_map(|w| text(w)).collect();
            (9, list(8, words.len(), body), Value::Texts(words))
        }
    }
}

/// A tensor of a random type and shape, with random bytes.
fn tensor(random: &mut Random, name: String) -> RawTensor {
    let code = CODES[random.below(CODES.len())];
    let dtype = GgmlType::from_code(code).unwrap();
    let mut dims = vec![(dtype.block_len() * (1 + random.below(3))) as u64];
    dims.extend((0..random.below(3)).map(|_| 1 + random.below(5) as u64));
    let elements: u64 = dims.iter().product();
    let bytes = elements as usize / dtype.block_len() * dtype.block_bytes();
    RawTensor {
        name,
        dims,
        code,
        data: random.bytes(bytes),
    }
}

#[test]
fn random_gguf_files_are_read_as_written() {
    let folder = scratch("random-gguf");
    for seed in 0..300 {
        let mut random = Random(seed);
        // An architecture without a table: names stay, and any shape goes.
        let mut file = Gguf::llama();
        for pair in &mut file.pairs {
            pair.0 = pair.0.replace("llama.", "other.");
        }
        file.text("general.architecture", "other");
        file.alignment = 8 << random.below(6);
        file.u32("general.alignment", file.alignment as u32);
        file.tensors = vec![file.tensors[0].clone()];
        let mut expected = Metadata::default();
        for i in 0..random.below(20) {
            let (code, bytes, value) = value(&mut random);
            file.raw(&format!("key.{i}"), code, &bytes);
            expected.0.insert(format!("key.{i}"), value);
        }
        for i in 0..random.below(20) {
            file.tensors
                .push(tensor(&mut random, format!("tensor.{i}")));
        }
        let opened = Checkpoint::open(&file.write(&folder, "model.gguf")).unwrap();
        let TokenizerSource::Gguf(metadata) = &opened.tokenizer else {
            panic!("no metadata")
        };
        for (key, value) in &expected.0 {
            assert_eq!(metadata.get(key), Some(value), "seed {seed}, {key}");
        }
        assert_eq!(opened.weights.names().len(), file.tensors.len());
        for tensor in &file.tensors {
            let stored = opened.weights.get(&tensor.name).unwrap();
            let shape: Vec<u64> = stored.shape.iter().rev().map(|d| *d as u64).collect();
            assert_eq!(
                (shape, stored.dtype),
                (
                    tensor.dims.clone(),
                    GgmlType::from_code(tensor.code).unwrap()
                )
            );
            assert!(stored.data == tensor.data, "seed {seed}, {}", tensor.name);
        }
    }
}

#[test]
fn what_the_safetensors_crate_writes_is_read() {
    let folder = scratch("crate");
    fs::write(folder.join("config.json"), llama_config().to_string()).unwrap();
    for seed in 0..100 {
        let mut random = Random(seed);
        let kinds = [
            (Dtype::F32, GgmlType::F32),
            (Dtype::F16, GgmlType::F16),
            (Dtype::BF16, GgmlType::BF16),
        ];
        let tensors: Vec<_> = (0..1 + random.below(20))
            .map(|i| {
                let (dtype, kind) = kinds[random.below(3)];
                let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(5)).collect();
                let bytes = random.bytes(shape.iter().product::<usize>() * kind.block_bytes());
                (format!("t{i}"), dtype, kind, shape, bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, dtype, _, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        });
        let metadata = [("format".to_string(), "pt".to_string())].into();
        let file = safetensors::serialize(views, Some(metadata)).unwrap();
        fs::write(folder.join("model.safetensors"), file).unwrap();
        let opened = Checkpoint::open(&folder).unwrap();
        assert_eq!(opened.weights.names().len(), tensors.len());
        for (name, _, kind, shape, bytes) in &tensors {
            let stored = opened.weights.get(name).unwrap();
            assert_eq!((stored.dtype, &stored.shape), (*kind, shape), "seed {seed}");
            assert!(*stored.data == **bytes);
        }
    }
}

/// Resident KiB of the maps of `path`, by the kernel's account.
fn resident(path: &std::path::Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut total) = (false, 0);
    for line in maps.lines() {
        let first = line.split(' ').next().unwrap_or("");
        if !first.ends_with(':') {
            inside = line.ends_with(&*path.to_string_lossy());
        } else if inside && first == "Rss:" {
            total += line
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap();
        }
    }
    total
}

#[test]
fn released_tensors_give_their_pages_back_and_can_be_read_again() {
    let folder = scratch("release");
    let mut file = Gguf::llama();
    file.counted("output.weight", &[16, 10], 1.0);
    file.tensors[0].dims = vec![16, 100_000];
    file.tensors[0].data = Random(9).bytes(16 * 100_000 * 4);
    let path = file.write(&folder, "model.gguf");
    let opened = Checkpoint::open(&path).unwrap();
    let sum = |name: &str| {
        opened
            .weights
            .get(name)
            .unwrap()
            .data
            .iter()
            .map(|b| u64::from(*b))
            .sum::<u64>()
    };
    let name = "model.embed_tokens.weight";
    let (before, neighbour) = (sum(name), sum("model.layers.0.input_layernorm.weight"));
    if cfg!(target_os = "linux") {
        assert!(resident(&path) >= 6000, "{}", resident(&path));
    }
    opened.weights.release(name);
    opened.weights.release("no such tensor");
    if cfg!(target_os = "linux") {
        assert!(resident(&path) <= 300, "{}", resident(&path));
    }
    assert_eq!(
        (sum(name), sum("model.layers.0.input_layernorm.weight")),
        (before, neighbour)
    );
}
