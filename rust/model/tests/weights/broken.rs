//! Broken weight files: every one is either refused with a message or read within its bounds; nothing panics, hangs or
//! allocates what the file is too small for.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::golden;
use crate::support::{
    Gguf, Random, RawTensor, llama_config, read_all, refusal, safetensors, scratch, with_header,
};
use candle_vllm_model::weights::Checkpoint;

const GGUFS: [&str; 6] = [
    "llama",
    "llama_tied_bias",
    "llama_linear_rope",
    "llama_yarn",
    "qwen2",
    "qwen3",
];

/// A file that is changed in place, and its sound bytes.
struct Victim {
    path: PathBuf,
    open: PathBuf,
    file: File,
    bytes: Vec<u8>,
}

impl Victim {
    /// `path` is changed, `open` is what is opened (the file or its folder).
    fn new(path: PathBuf, open: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        Victim {
            path,
            open,
            file,
            bytes,
        }
    }

    fn gguf(test: &str, case: &str) -> Self {
        let path = scratch(&format!("{test}-{case}")).join("model.gguf");
        fs::write(&path, fs::read(golden::gguf(case)).unwrap()).unwrap();
        Victim::new(path.clone(), path)
    }

    fn safetensors(test: &str, case: &str) -> Self {
        let folder = scratch(&format!("{test}-{case}-st"));
        for name in ["config.json", "model.safetensors"] {
            fs::write(
                folder.join(name),
                fs::read(golden::hf(case).join(name)).unwrap(),
            )
            .unwrap();
        }
        Victim::new(folder.join("model.safetensors"), folder)
    }

    /// Bytes before the first tensor.
    fn header(&self) -> usize {
        if self.bytes.starts_with(b"GGUF") {
            // The last key of the golden files is followed by the tensor infos; data are 32-byte aligned after them.
            let last = b"blk.2.ffn_norm.weight";
            let at = self
                .bytes
                .windows(last.len())
                .rposition(|w| w == last)
                .unwrap();
            return at + 100;
        }
        8 + u64::from_le_bytes(self.bytes[..8].try_into().unwrap()) as usize
    }

    /// Opens with `patch` at `at`, then puts the file right again. Whether it opened.
    fn survives(&self, at: usize, patch: &[u8]) -> bool {
        self.file.write_all_at(patch, at as u64).unwrap();
        let opened = self.try_open();
        let end = (at + patch.len()).min(self.bytes.len());
        self.file
            .write_all_at(&self.bytes[at..end], at as u64)
            .unwrap();
        opened
    }

    fn try_open(&self) -> bool {
        match Checkpoint::open(&self.open) {
            Ok(checkpoint) => {
                read_all(checkpoint.weights.as_ref());
                true
            }
            Err(error) => {
                assert!(
                    error.to_string().contains(&*self.path.to_string_lossy())
                        || self.open != self.path,
                    "{error}"
                );
                false
            }
        }
    }

    /// Cuts the file at each of `lengths`, longest first.
    fn cut(&self, mut lengths: Vec<usize>) {
        lengths.sort_unstable();
        for length in lengths.into_iter().rev() {
            self.file.set_len(length as u64).unwrap();
            assert!(
                !self.try_open(),
                "{} opened with {length} bytes",
                self.path.display()
            );
        }
    }
}

/// Room that test threads and their allocator arenas may take, in KiB; a count of 2^32 that is believed takes more.
const ROOM: u64 = 7 << 19;

/// Peak of the address space in KiB: grows with any allocation, touched or not.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmPeak:"))
        .unwrap_or("0");
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn files_cut_short_are_refused() {
    for (n, case) in GGUFS.iter().enumerate() {
        let victim = Victim::gguf("cut", case);
        let header = victim.header();
        let step = if n == 0 { 1 } else { 29 };
        let tail = (header..victim.bytes.len() - 32).step_by(4099);
        victim.cut((0..header).step_by(step).chain(tail).collect());
    }
    let victim = Victim::safetensors("cut", "llama");
    let tail = (victim.header()..victim.bytes.len()).step_by(997);
    victim.cut(
        (0..victim.header())
            .chain(tail)
            .chain([victim.bytes.len() - 1])
            .collect(),
    );
}

#[test]
fn every_header_byte_may_be_wrong() {
    let before = peak();
    let mut random = Random(1);
    for (n, case) in GGUFS.iter().enumerate() {
        let victim = Victim::gguf("flip", case);
        let step = if n == 0 { 1 } else { 29 };
        for at in (0..victim.header()).step_by(step) {
            let flip = [0x01, 0x80, 0xff][random.below(3)];
            victim.survives(at, &[victim.bytes[at] ^ flip]);
        }
        // Magic and version, and the high bytes of the tensor count: none of them may be anything else.
        for at in (0..8).chain(9..16) {
            assert!(
                !victim.survives(at, &[victim.bytes[at] ^ 0x10]),
                "{case}: byte {at}"
            );
        }
        assert!(victim.try_open());
    }
    let victim = Victim::safetensors("flip", "qwen3");
    for at in 0..victim.header() {
        victim.survives(
            at,
            &[victim.bytes[at] ^ [0x01, 0x80, 0x10][random.below(3)]],
        );
    }
    assert!(victim.try_open());
    assert!(
        peak() - before < ROOM,
        "a broken header made {} KiB",
        peak() - before
    );
}

#[test]
fn numbers_may_be_anything() {
    let before = peak();
    const NASTY: [u64; 14] = [
        0,
        1,
        3,
        31,
        0xff,
        0xffff,
        1 << 31,
        0xffff_ffff,
        1 << 32,
        1 << 40,
        1 << 61,
        1 << 63,
        u64::MAX - 7,
        u64::MAX,
    ];
    let mut random = Random(2);
    let victims: Vec<Victim> = GGUFS
        .iter()
        .map(|case| Victim::gguf("nasty", case))
        .collect();
    let mut opened = 0;
    for _ in 0..6_000 {
        let victim = &victims[random.below(victims.len())];
        let value = NASTY[random.below(NASTY.len())].to_le_bytes();
        let width = [1, 2, 4, 8][random.below(4)];
        opened += usize::from(victim.survives(random.below(victim.header()), &value[..width]));
    }
    // Texts and token lists take most of the header, so many changes do no harm; if all did, nothing was reached.
    assert!((500..5_900).contains(&opened), "{opened}");
    let victim = Victim::safetensors("nasty", "llama");
    for _ in 0..1500 {
        let digits = NASTY[random.below(NASTY.len())].to_string();
        victim.survives(8 + random.below(victim.header() - 30), digits.as_bytes());
        victim.survives(0, &NASTY[random.below(NASTY.len())].to_le_bytes());
    }
    assert!(
        peak() - before < ROOM,
        "a broken number made {} KiB",
        peak() - before
    );
}

fn q(file: &mut Gguf) -> &mut RawTensor {
    &mut file.tensors[2]
}

/// A way to break a file.
type Change = fn(&mut Gguf);

#[test]
fn gguf_refusals_name_the_tensor() {
    let cases: &[(Change, &str)] = &[
        (|f| f.version = 1, "GGUF version 1 cannot be read"),
        (|f| f.version = 4, "GGUF version 4 cannot be read"),
        (|f| f.version = 3u32.swap_bytes(), "big-endian"),
        (
            |f| q(f).code = 15,
            "blk.0.attn_q.weight has the ggml type Q8_K (15)",
        ),
        (
            |f| q(f).code = 77,
            "blk.0.attn_q.weight has the ggml type 77",
        ),
        (
            |f| q(f).code = 2,
            "blk.0.attn_q.weight of type Q4_0 has rows of 16 elements, not a multiple of 32",
        ),
        (
            |f| q(f).dims = vec![],
            "blk.0.attn_q.weight has 0 dimensions",
        ),
        (
            |f| q(f).dims = vec![1; 5],
            "blk.0.attn_q.weight has 5 dimensions",
        ),
        (
            |f| q(f).dims = vec![16, 0],
            "blk.0.attn_q.weight has the impossible dimensions [16, 0]",
        ),
        (
            |f| q(f).dims = vec![1 << 33, 1 << 33],
            "blk.0.attn_q.weight has the impossible dimensions",
        ),
        (
            |f| q(f).dims = vec![1 << 62],
            "blk.0.attn_q.weight with dimensions",
        ),
        (
            |f| q(f).dims = vec![16, 17],
            "tensors blk.0.attn_q.weight and blk.0.attn_k.weight overlap",
        ),
        (
            |f| q(f).dims = vec![16, 14],
            "blk.0.attn_q.weight has 14 rows, which are not 2 heads",
        ),
        (
            |f| q(f).name = "output_norm.weight".into(),
            "tensor output_norm.weight stands twice",
        ),
        (
            |f| q(f).name = "blk.0.attn_sinks.weight".into(),
            "blk.0.attn_sinks.weight is not one that a LlamaForCausalLM",
        ),
        (
            |f| q(f).name = "blk.1.attn_q.weight".into(),
            "blk.1.attn_q.weight belongs to block 1, but block_count is 1",
        ),
        (
            |f| q(f).name = "blk.00.attn_q.weight".into(),
            "blk.00.attn_q.weight is not one that",
        ),
        (
            |f| q(f).name = "blk.0.attn_q.scale".into(),
            "blk.0.attn_q.scale is not one that",
        ),
        (|f| q(f).name = String::new(), "a tensor name is empty"),
    ];
    gguf_refusals(&scratch("crafted-tensors"), cases);
}

#[test]
fn gguf_refusals_name_the_key() {
    let cases: &[(Change, &str)] = &[
        (
            |f| f.pairs.push(f.pairs[0].clone()),
            "the key general.architecture stands twice",
        ),
        (
            |f| _ = f.u32("general.alignment", 24),
            "general.alignment is Uint(24), not a power of two",
        ),
        (
            |f| _ = f.u32("general.alignment", 0),
            "general.alignment is Uint(0)",
        ),
        (
            |f| _ = f.text("general.alignment", "32"),
            "general.alignment is Text(\"32\")",
        ),
        (
            |f| _ = f.u32("general.alignment", 128),
            "has the offset 704, not a multiple of 128",
        ),
        (
            |f| _ = f.raw("x", 13, &[0; 8]),
            "x has the unknown value type 13",
        ),
        (|f| _ = f.raw("x", 7, &[2]), "x is 2, not a bool"),
        (
            |f| _ = f.raw("x", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
            "x is an array of arrays",
        ),
        (
            |f| _ = f.raw("x", 9, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            "x is 72057594037927936, more than the file",
        ),
        (
            |f| _ = f.raw("x", 8, &[255; 8]),
            "x is 18446744073709551615, more than the file",
        ),
        (
            |f| {
                _ = f.raw(
                    "x",
                    9,
                    &[vec![10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], vec![255; 8]].concat(),
                )
            },
            "x holds 18446744073709551615",
        ),
    ];
    let folder = scratch("crafted-keys");
    gguf_refusals(&folder, cases);
    fs::write(folder.join("model.gguf"), b"FUGG and more").unwrap();
    let error = refusal(&folder.join("model.gguf"));
    assert!(
        error.contains("not a GGUF file: it starts with \"FUGG\""),
        "{error}"
    );
}

fn gguf_refusals(folder: &Path, cases: &[(Change, &str)]) {
    assert!(Checkpoint::open(&Gguf::llama().write(folder, "model.gguf")).is_ok());
    for (change, message) in cases {
        let mut file = Gguf::llama();
        change(&mut file);
        let error = refusal(&file.write(folder, "model.gguf"));
        assert!(
            error.contains(message) && error.contains("model.gguf"),
            "{error:?} lacks {message:?}"
        );
    }
}

#[test]
fn gguf_version_2_and_other_alignments_are_read() {
    let folder = scratch("readable");
    let mut file = Gguf::llama();
    file.version = 2;
    file.alignment = 128;
    file.u32("general.alignment", 128);
    let opened = Checkpoint::open(&file.write(&folder, "model.gguf")).unwrap();
    let v = opened
        .weights
        .get("model.layers.0.self_attn.v_proj.weight")
        .unwrap();
    assert_eq!(v.shape, [8, 16]);
    assert_eq!(v.data[..4], 4000f32.to_le_bytes());
    // Row 1 of a head of 8 is row 2 of the file: halves are put back from pairs.
    let k = opened
        .weights
        .get("model.layers.0.self_attn.k_proj.weight")
        .unwrap();
    assert_eq!(k.data[64..68], 3032f32.to_le_bytes());
    assert_eq!(k.data[4 * 64..4 * 64 + 4], 3016f32.to_le_bytes());
}

#[test]
fn safetensors_refusals_name_what_is_wrong() {
    let folder = scratch("st-crafted");
    fs::write(folder.join("config.json"), llama_config().to_string()).unwrap();
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let cases = [
        (
            one("F32", "[3]", "[0,8]"),
            "tensor a of dtype F32 and shape [3] cannot have 8 bytes",
        ),
        (
            one("F32", "[2]", "[0,16]"),
            "tensor a lies at 0..16, expected from 0 within 8 bytes",
        ),
        (
            one("F32", "[1]", "[4,8]"),
            "tensor a lies at 4..8, expected from 0",
        ),
        (one("F32", "[1]", "[8,4]"), "tensor a lies at 8..4"),
        (
            one("F32", "[1]", "[0,4]"),
            "tensors end at 4, the data has 8 bytes",
        ),
        (
            one("F32", "[4294967296,4294967296]", "[0,8]"),
            "impossible shape",
        ),
        (one("F32", "[-1]", "[0,8]"), "tensor a: invalid value"),
        (one("F32", "[1]", "[0,1e300]"), "tensor a: invalid type"),
        (
            one("U8", "[18446744073709551615]", "[0,18446744073709551615]"),
            "tensor a lies at",
        ),
        (
            r#"{"a":{"dtype":"F32"}}"#.to_string(),
            "tensor a: missing field `shape`",
        ),
        (twice.to_string(), "tensor a stands twice"),
        ("[]".to_string(), "does not start with an object"),
        ("{".to_string(), "broken header"),
        ("{\"a\": {{{".to_string(), "broken header"),
        ("{\"a\":".repeat(5000), "broken header"),
    ];
    for (header, message) in cases {
        fs::write(
            folder.join("model.safetensors"),
            with_header(header.as_bytes(), &[0; 8]),
        )
        .unwrap();
        let error = refusal(&folder);
        assert!(
            error.contains(message) && error.contains("model.safetensors"),
            "{error:?} lacks {message:?}"
        );
    }
    for (bytes, message) in [
        (vec![0; 7], "7 bytes are too few"),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "said to have 18446744073709551615 bytes",
        ),
        (
            200_000_000u64.to_le_bytes().to_vec(),
            "said to have 200000000 bytes",
        ),
        (0u64.to_le_bytes().to_vec(), "does not start with an object"),
    ] {
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
        assert!(refusal(&folder).contains(message), "{message}");
    }
}

#[test]
fn a_dtype_that_cannot_be_read_is_named_when_it_is_asked_for() {
    let folder = scratch("st-dtype");
    fs::write(folder.join("config.json"), llama_config().to_string()).unwrap();
    let file = safetensors(&[
        ("a.weight", "I64", vec![1], vec![0; 8]),
        ("b.weight", "F16", vec![2, 2], vec![1; 8]),
    ]);
    fs::write(folder.join("model.safetensors"), file).unwrap();
    let opened = Checkpoint::open(&folder).unwrap();
    assert_eq!(opened.weights.get("b.weight").unwrap().shape, [2, 2]);
    let error = opened.weights.get("a.weight").err().unwrap().to_string();
    assert!(error.contains("tensor a.weight has dtype I64"), "{error}");
    let error = opened.weights.get("c.weight").err().unwrap().to_string();
    assert!(error.contains("there is no tensor c.weight"), "{error}");
}
