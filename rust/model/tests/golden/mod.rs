//! Golden checkpoints for tests: where they lie, and model.safetensors built as `materialize.py` builds it.
//! Reimplements numpy's legacy `RandomState(seed).standard_normal` (MT19937, polar Box-Muller), so that no Python is needed.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    fs,
    path::{Path, PathBuf},
};

/// `tests/goldens` of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

/// `gguf/<case>.gguf`.
pub fn gguf(case: &str) -> PathBuf {
    root().join("gguf").join(format!("{case}.gguf"))
}

/// `ggml/<TYPE>.gguf`.
pub fn ggml(kind: &str) -> PathBuf {
    root().join("ggml").join(format!("{kind}.gguf"))
}

/// A copy of `hf/<case>` with its model.safetensors, built once.
pub fn hf(case: &str) -> PathBuf {
    let source = root().join("hf").join(case);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("golden-hf")
        .join(case);
    if target.join("model.safetensors").exists() {
        return target;
    }
    fs::create_dir_all(&target).unwrap();
    for entry in fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
    // Tests run at once: the file appears whole or not at all.
    let own = target.join(format!(
        "part-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&own, safetensors(&source)).unwrap();
    fs::rename(&own, target.join("model.safetensors")).unwrap();
    target
}

/// The bytes of model.safetensors that `weights.json` in `folder` describes.
pub fn safetensors(folder: &Path) -> Vec<u8> {
    let spec: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("weights.json")).unwrap()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, what) in spec.as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(what[0].clone()).unwrap();
        let (mean, std) = (what[1].as_f64().unwrap(), what[2].as_f64().unwrap());
        let start = data.len();
        for bits in tensor(name, shape.iter().product(), mean, std) {
            data.extend_from_slice(&bits.to_le_bytes());
        }
        let info = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// bfloat16 bits of `mean + std * RandomState(crc32(name)).standard_normal(n)`.
pub fn tensor(name: &str, n: usize, mean: f64, std: f64) -> Vec<u16> {
    let mut normal = Normal {
        twister: Twister::new(crc32(name.as_bytes())),
        spare: None,
    };
    (0..n)
        .map(|_| bf16((mean + std * normal.draw()) as f32))
        .collect()
}

fn bf16(x: f32) -> u16 {
    let b = x.to_bits();
    (b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16) as u16
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    })
}

struct Normal {
    twister: Twister,
    spare: Option<f64>,
}

impl Normal {
    fn draw(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let x = 2.0 * self.twister.double() - 1.0;
            let y = 2.0 * self.twister.double() - 1.0;
            let r = x * x + y * y;
            if r < 1.0 && r != 0.0 {
                let f = (-2.0 * r.ln() / r).sqrt();
                self.spare = Some(f * x);
                return f * y;
            }
        }
    }
}

/// MT19937.
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        Twister { state, at: 624 }
    }

    fn word(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let odd = (y & 1).wrapping_neg() & 0x9908_b0df;
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn double(&mut self) -> f64 {
        let (a, b) = (f64::from(self.word() >> 5), f64::from(self.word() >> 6));
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }
}
