//! GGUF files as the writer makes them: what the raw reader finds in them, and what it refuses when they are broken.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use candle_vllm_kernels::cpu::{Compute, ggml::GgmlType};
use candle_vllm_model::{
    Error, Result,
    quantize::{Kind, from_gguf},
    weights::gguf::{
        Raw, Value,
        write::{Pair, Rows, Said, Tensor, metadata, write},
    },
};

use crate::support::{Gguf, scratch};

/// A tensor whose byte `i` is `seed + i`.
fn counted(name: &str, dtype: GgmlType, shape: &[usize], seed: u8) -> Tensor<'static> {
    let make = move |row: usize, out: &mut [u8]| -> Result<()> {
        let at = row * out.len();
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = seed.wrapping_add((at + i) as u8);
        }
        Ok(())
    };
    Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        open: Box::new(move || Ok(Box::new(make) as Rows<'static>)),
    }
}

/// The file `name` of these, and the size that the writer tells.
fn file(name: &str, pairs: &[Pair], tensors: &[Tensor<'_>]) -> (PathBuf, u64) {
    let path = scratch(name).join("model.gguf");
    let compute = Compute::new(2).unwrap();
    let size = write(&path, pairs, tensors, &compute, &|_, _| true).unwrap();
    (path, size)
}

fn refusal(path: &Path) -> String {
    match Raw::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

/// One pair of each kind, and what it is read as.
fn pairs() -> (Vec<Pair>, Vec<Value>) {
    let texts = ["a".to_owned(), String::new(), "\u{1f600}".to_owned()];
    let all = [
        (Said::U32(u32::MAX), Value::Uint(u32::MAX.into())),
        (Said::F32(-0.5), Value::Float(-0.5)),
        (Said::Bool(true), Value::Bool(true)),
        (Said::Text("x \0 y"), Value::Text("x \0 y".into())),
        (Said::Texts(&texts), Value::Texts(texts.to_vec())),
        (
            Said::I32s(&[-1, i32::MAX]),
            Value::Ints(vec![-1, i32::MAX.into()]),
        ),
        (Said::F32s(&[1.5, -2.0]), Value::Floats(vec![1.5, -2.0])),
        (Said::Bools(&[true, false]), Value::Bools(vec![true, false])),
        (Said::Texts(&[]), Value::Texts(vec![])),
    ];
    let pair = |(i, (said, _)): (usize, &(Said<'_>, Value))| Pair::new(format!("key.{i}"), *said);
    (
        all.iter().enumerate().map(pair).collect(),
        all.into_iter().map(|(_, value)| value).collect(),
    )
}

#[test]
fn what_is_written_is_read() {
    let (pairs, values) = pairs();
    let shapes: [(&str, GgmlType, &[usize], usize); 4] = [
        ("one", GgmlType::F32, &[5], 20),
        ("two", GgmlType::Q8_0, &[3, 64], 3 * 68),
        ("three", GgmlType::BF16, &[2, 3, 7], 84),
        ("four", GgmlType::Q4_K, &[1, 2, 2, 256], 4 * 144),
    ];
    let tensors = shapes.map(|(name, dtype, shape, _)| counted(name, dtype, shape, 7));
    let (path, size) = file("written", &pairs, &tensors);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, size);
    assert!(size.is_multiple_of(32), "{size}");
    let raw = Raw::open(&path).unwrap();
    assert!(raw.pairs() == pairs);
    let read: Vec<_> = raw.tensors().collect();
    assert_eq!(read.len(), shapes.len());
    for (read, (name, dtype, shape, len)) in read.iter().zip(shapes) {
        assert_eq!((read.name, read.dtype, read.shape), (name, dtype, shape));
        let want: Vec<u8> = (0..len).map(|i| 7u8.wrapping_add(i as u8)).collect();
        assert_eq!(read.data, want, "{name}");
        // The file is mapped at the beginning of a page.
        assert!(read.data.as_ptr().addr().is_multiple_of(32), "{name}");
    }
    let found = metadata(&pairs).unwrap();
    for (i, value) in values.iter().enumerate() {
        assert_eq!(found.get(&format!("key.{i}")), Some(value));
    }
}

#[test]
fn a_file_may_have_no_tensors_or_nothing_at_all() {
    for pairs in [pairs().0, vec![]] {
        let (path, size) = file("written-empty", &pairs, &[]);
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        let raw = Raw::open(&path).unwrap();
        assert_eq!(raw.tensors().count(), 0);
        assert!(raw.pairs() == pairs);
        assert_eq!(raw.layers(), 0);
    }
}

#[test]
fn names_may_be_as_long_as_ggml_allows() {
    let name = |n: usize| "n".repeat(n);
    let of = |key: usize, tensor: usize| {
        let pairs = [Pair::new(name(key), Said::U32(1))];
        let tensors = [counted(&name(tensor), GgmlType::F32, &[1], 0)];
        file("written-names", &pairs, &tensors).0
    };
    let raw = Raw::open(&of(65_535, 65_535)).unwrap();
    assert_eq!(raw.pairs()[0].key.len(), 65_535);
    assert_eq!(raw.tensors().next().unwrap().name.len(), 65_535);
    let error = refusal(&of(65_536, 1));
    assert!(error.contains("a metadata key has 65536 bytes"), "{error}");
    let error = refusal(&of(1, 65_536));
    assert!(error.contains("a tensor name has 65536 bytes"), "{error}");
    let error = refusal(&of(0, 1));
    assert!(error.contains("a metadata key is empty"), "{error}");
}

#[test]
fn wrong_counts_are_refused() {
    let tensors = [
        counted("a", GgmlType::F32, &[40], 1),
        counted("b", GgmlType::F32, &[40], 2),
    ];
    let (path, _) = file("written-counts", &pairs().0, &tensors);
    let right = fs::read(&path).unwrap();
    // Behind magic and version: the tensors, then the pairs.
    for (at, count) in [
        (8, 3),
        (8, 1 << 40),
        (8, u64::MAX),
        (16, 8),
        (16, 10),
        (16, u64::MAX),
    ] {
        let mut wrong = right.clone();
        wrong[at..at + 8].copy_from_slice(&u64::to_le_bytes(count));
        fs::write(&path, wrong).unwrap();
        let error = refusal(&path);
        assert!(error.contains("model.gguf"), "{at} {count}: {error}");
        if count > 1 << 32 {
            let what = format!("count is {count}, more than the file has room for");
            assert!(error.contains(&what), "{error}");
        }
    }
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let (pairs, _) = pairs();
    // No padding behind the last, whose absence would be no loss.
    let tensors = [
        counted("a", GgmlType::F32, &[3], 1),
        counted("b", GgmlType::F32, &[8], 2),
    ];
    let (path, size) = file("written-cut", &pairs, &tensors);
    let whole = fs::read(&path).unwrap();
    for length in 0..size as usize {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&path);
        assert!(error.contains("model.gguf"), "{length}: {error}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(Raw::open(&path).unwrap().tensors().count(), 2);
}

#[test]
fn a_version_that_there_never_was_is_called_by_its_number() {
    let (path, _) = file("written-version", &[], &[]);
    let mut bytes = fs::read(&path).unwrap();
    for (version, what) in [
        (0u32, "GGUF version 0 cannot be read"),
        (1, "GGUF version 1 cannot be read"),
        (3u32.swap_bytes(), "big-endian"),
    ] {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = refusal(&path);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn rows_that_many_threads_make_stand_in_order() {
    // Several batches of several chunks, and a last one that fills neither.
    const ROWS: usize = 70_001;
    let make = |row: usize, out: &mut [u8]| -> Result<()> {
        out[..8].copy_from_slice(&(row as u64).to_le_bytes());
        Ok(())
    };
    let tensor = Tensor {
        name: "rows".into(),
        dtype: GgmlType::F32,
        shape: vec![ROWS, 64],
        open: Box::new(|| Ok(Box::new(make) as Rows<'_>)),
    };
    let path = scratch("written-rows").join("model.gguf");
    let told = Mutex::new(Vec::new());
    let going = |done: u64, total: u64| {
        told.lock().unwrap().push((done, total));
        true
    };
    let compute = Compute::new(2).unwrap();
    let size = write(&path, &[], &[tensor], &compute, &going).unwrap();
    let raw = Raw::open(&path).unwrap();
    let rows = raw.tensors().next().unwrap().data.chunks_exact(256);
    assert_eq!(rows.len(), ROWS);
    for (i, row) in rows.enumerate() {
        assert_eq!(row[..8], (i as u64).to_le_bytes());
    }
    let told = told.into_inner().unwrap();
    assert!(told.len() > 4 && told.is_sorted(), "{told:?}");
    assert!(told.iter().all(|(_, total)| *total == size));
}

#[test]
fn progress_ends_at_the_whole_size() {
    let last = Mutex::new((0, 1));
    let going = |done: u64, total: u64| {
        *last.lock().unwrap() = (done, total);
        true
    };
    // Padded behind its 12 bytes.
    let tensors = [counted("a", GgmlType::F32, &[3], 1)];
    let path = scratch("written-progress").join("model.gguf");
    let compute = Compute::new(1).unwrap();
    let size = write(&path, &[], &tensors, &compute, &going).unwrap();
    assert_eq!(last.into_inner().unwrap(), (size, size));
}

#[test]
fn a_writer_that_is_stopped_or_has_no_rows_says_so() {
    let path = scratch("written-stopped").join("model.gguf");
    let compute = Compute::new(1).unwrap();
    let tensors = [counted("a", GgmlType::F32, &[8], 1)];
    let error = write(&path, &[], &tensors, &compute, &|_, _| false).unwrap_err();
    assert!(matches!(error, Error::Run(_)), "{error}");
    let broken = Tensor {
        open: Box::new(|| Err(Error::Load("no such tensor".into()))),
        ..counted("a", GgmlType::F32, &[8], 1)
    };
    let error = write(&path, &[], &[broken], &compute, &|_, _| true).unwrap_err();
    assert!(error.to_string().contains("no such tensor"), "{error}");
    let nowhere = path.join("below/a/file.gguf");
    let error = write(&nowhere, &[], &[], &compute, &|_, _| true).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    let twice = [
        Pair::new("k", Said::U32(1)),
        Pair::new("k", Said::Bool(true)),
    ];
    let error = metadata(&twice).unwrap_err().to_string();
    assert!(error.contains("the key k stands twice"), "{error}");
}

#[test]
fn drafting_blocks_are_no_layers() {
    let of = |drafting: Option<u32>| {
        let mut pairs = vec![
            Pair::new("general.architecture", Said::Text("glm4moe")),
            Pair::new("glm4moe.block_count", Said::U32(5)),
        ];
        pairs.extend(drafting.map(|n| Pair::new("glm4moe.nextn_predict_layers", Said::U32(n))));
        Raw::open(&file("written-layers", &pairs, &[]).0)
            .unwrap()
            .layers()
    };
    assert_eq!([of(None), of(Some(1)), of(Some(9))], [5, 4, 0]);
}

/// The tiny llama, split in two; `again`: with a tensor of the first file in the second too.
fn split(folder: &Path, again: bool) -> PathBuf {
    let whole = Gguf::llama();
    for part in 0..2u16 {
        let mut file = if part == 0 {
            whole.clone()
        } else {
            Gguf::new()
        };
        let own = if part == 0 { 0..4 } else { 4..11 };
        file.tensors = whole.tensors[own].to_vec();
        if part == 1 && again {
            file.tensors.push(whole.tensors[0].clone());
        }
        let count = 11 + i32::from(again);
        file.u16("split.no", part).u16("split.count", 2);
        file.raw("split.tensors.count", 5, &count.to_le_bytes());
        file.write(folder, &format!("tiny-{:05}-of-00002.gguf", part + 1));
    }
    folder.join("tiny-00001-of-00002.gguf")
}

#[test]
fn parts_and_alignments_become_one_plain_file() {
    let folder = scratch("written-one");
    let compute = Compute::new(2).unwrap();
    let kind = Kind::named("bf16").unwrap();
    let mut wide = Gguf::llama();
    wide.alignment = 256;
    wide.u32("general.alignment", 256);
    let inputs = [
        Gguf::llama().write(&folder, "plain.gguf"),
        wide.write(&folder, "wide.gguf"),
        split(&folder, false),
    ];
    let made = inputs.map(|input| {
        let output = folder.join("made.gguf");
        let size = from_gguf(&input, &output, kind, &compute, &|_, _| true).unwrap();
        let bytes = fs::read(&output).unwrap();
        assert_eq!(bytes.len() as u64, size);
        assert!(!folder.join("made.gguf.partial").exists());
        bytes
    });
    assert!(made[0] == made[1] && made[0] == made[2]);
    let raw = Raw::open(&folder.join("made.gguf")).unwrap();
    let types: Vec<_> = raw.tensors().map(|t| (t.name, t.dtype)).collect();
    assert!(types.contains(&("blk.0.attn_q.weight", GgmlType::BF16)));
    assert!(types.contains(&("output_norm.weight", GgmlType::F32)));
    let said = metadata(&raw.pairs()).unwrap();
    assert_eq!(said.uint("general.file_type"), Some(32));
    assert!(said.0.keys().all(|key| !key.starts_with("split.")));
}

#[test]
fn a_tensor_in_two_parts_is_refused_and_what_is_there_stays() {
    let folder = scratch("written-twice");
    let input = split(&folder, true);
    let output = folder.join("made.gguf");
    fs::write(&output, "before").unwrap();
    let kind = Kind::named("q8_0").unwrap();
    let compute = Compute::new(1).unwrap();
    let error = from_gguf(&input, &output, kind, &compute, &|_, _| true).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("token_embd.weight stands in two of the files"),
        "{text}"
    );
    let stopped = Gguf::llama().write(&folder, "plain.gguf");
    let error = from_gguf(&stopped, &output, kind, &compute, &|_, _| false).unwrap_err();
    assert!(matches!(error, Error::Run(_)), "{error}");
    assert_eq!(fs::read(&output).unwrap(), b"before");
    assert!(!folder.join("made.gguf.partial").exists());
}
