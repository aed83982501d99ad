//! Checkpoints that tests write themselves: a GGUF writer, a safetensors writer, scratch folders and a seeded generator.
use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_vllm_model::{
    Result,
    config::{Config, RopeScaling},
    weights::{Checkpoint, Weights},
};

/// An empty folder of this test's own: `name` is used once.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("scratch")
        .join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The message with which opening `path` fails.
pub fn refusal(path: &Path) -> String {
    match Checkpoint::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Reads every tensor and checks that it has the bytes that its shape and type make.
pub fn read_all(weights: &dyn Weights) {
    for name in weights.names() {
        if let Ok(stored) = weights.get(&name) {
            let elements: usize = stored.shape.iter().product();
            let bytes = elements / stored.dtype.block_len() * stored.dtype.block_bytes();
            assert_eq!(stored.data.len(), bytes, "{name}");
        }
        weights.release(&name);
    }
}

/// SplitMix64: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// A tensor to write: GGUF's dimensions (innermost first), type code, bytes.
#[derive(Clone)]
pub struct RawTensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub code: u32,
    pub data: Vec<u8>,
}

/// A GGUF file in pieces, to be written right or wrong.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    /// Key, and type code with value as they stand in the file.
    pub pairs: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<RawTensor>,
    pub alignment: usize,
}

impl Gguf {
    pub fn new() -> Self {
        Gguf {
            version: 3,
            pairs: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    pub fn raw(&mut self, key: &str, code: u32, value: &[u8]) -> &mut Self {
        self.pairs.retain(|(k, _)| k != key);
        self.pairs
            .push((key.to_string(), [&code.to_le_bytes()[..], value].concat()));
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.raw(key, 2, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, 8, &text(value))
    }

    pub fn u32s(&mut self, key: &str, values: &[u32]) -> &mut Self {
        let head = [
            &4u32.to_le_bytes()[..],
            &(values.len() as u64).to_le_bytes(),
        ]
        .concat();
        let body: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(key, 9, &[head, body].concat())
    }

    pub fn without(&mut self, key: &str) -> &mut Self {
        self.pairs.retain(|(k, _)| k != key);
        self
    }

    /// An F32 tensor whose values are `seed`, `seed + 1`, ...
    pub fn counted(&mut self, name: &str, dims: &[u64], seed: f32) -> &mut Self {
        let n: u64 = dims.iter().product();
        let data = (0..n)
            .flat_map(|i| (seed + i as f32).to_le_bytes())
            .collect();
        self.tensors.push(RawTensor {
            name: name.to_string(),
            dims: dims.to_vec(),
            code: 0,
            data,
        });
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(text(key));
            out.extend(value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.code.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }

    /// A whole one-layer llama: hidden 16, 2 query heads and 1 key/value head of 8, MLP 24, vocabulary 10.
    pub fn llama() -> Self {
        let mut file = Gguf::new();
        file.text("general.architecture", "llama")
            .u32("llama.block_count", 1)
            .u32("llama.context_length", 64)
            .u32("llama.embedding_length", 16)
            .u32("llama.feed_forward_length", 24)
            .u32("llama.attention.head_count", 2)
            .u32("llama.attention.head_count_kv", 1)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .u32("tokenizer.ggml.eos_token_id", 2)
            .counted("token_embd.weight", &[16, 10], 0.0)
            .counted("blk.0.attn_norm.weight", &[16], 1000.0)
            .counted("blk.0.attn_q.weight", &[16, 16], 2000.0)
            .counted("blk.0.attn_k.weight", &[16, 8], 3000.0)
            .counted("blk.0.attn_v.weight", &[16, 8], 4000.0)
            .counted("blk.0.attn_output.weight", &[16, 16], 5000.0)
            .counted("blk.0.ffn_norm.weight", &[16], 6000.0)
            .counted("blk.0.ffn_gate.weight", &[16, 24], 7000.0)
            .counted("blk.0.ffn_up.weight", &[16, 24], 8000.0)
            .counted("blk.0.ffn_down.weight", &[24, 16], 9000.0)
            .counted("output_norm.weight", &[16], 10000.0);
        file
    }

    /// Writes the file to `folder/name`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// A GGUF string.
pub fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

/// A safetensors file of these tensors: name, dtype, shape, bytes.
pub fn safetensors(tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), info);
    }
    with_header(&serde_json::to_vec(&header).unwrap(), &data)
}

/// A safetensors file with this header, right or wrong.
pub fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// config.json of the model that [`Gguf::llama`] writes.
pub fn llama_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "eos_token_id": 2
    })
}

/// What every accepted configuration has to satisfy, whatever was in the file.
pub fn sound(c: &Config) {
    assert!(c.layers > 0 && c.hidden_size > 0 && c.vocab_size > 0 && c.intermediate_size > 0);
    assert!(c.heads > 0 && c.kv_heads > 0 && c.heads.is_multiple_of(c.kv_heads));
    assert!(c.rotary_dim <= c.head_dim && c.rotary_dim.is_multiple_of(2) && c.max_position > 0);
    assert!(c.shapes.is_empty() || c.shapes.len() == c.layers);
    for (i, own) in c.shapes.iter().enumerate() {
        assert!(c.heads.is_multiple_of(own.kv_heads) && own.rotary_dim <= own.head_dim);
        assert!(
            own.reads
                .is_none_or(|r| r < i && c.layer(r).reads.is_none())
        );
    }
    assert!(c.rope_theta > 1.0 && c.rope_theta.is_finite() && (0.0..1.0).contains(&c.norm_eps));
    assert_eq!([c.windows.len(), c.rotations.len()], [c.layers; 2]);
    assert!(c.windows.iter().flatten().all(|w| *w > 0));
    assert!(
        c.eos_token_ids
            .iter()
            .chain(&c.bos_token_id)
            .all(|id| (*id as usize) < c.vocab_size)
    );
    match &c.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => {
            assert!(*factor > 0.0)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original,
        } => {
            assert!(*factor > 0.0 && *low > 0.0 && high > low && *original > 0);
        }
        RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            attention_factor,
            ..
        } => {
            assert!(*factor > 0.0 && *original > 0 && *beta_slow > 0.0 && beta_fast >= beta_slow);
            assert!(attention_factor.is_none_or(|a| a > 0.0 && a.is_finite()));
        }
        RopeScaling::LongRope {
            short,
            long,
            original,
            attention_factor,
        } => {
            assert!(*original > 0 && *attention_factor > 0.0);
            assert_eq!([short.len(), long.len()], [c.rotary_dim / 2; 2]);
        }
        RopeScaling::Proportional { factor, share } => {
            assert!(*factor > 0.0 && *share > 0.0 && *share <= 1.0);
        }
        RopeScaling::Factors(factors) => {
            assert_eq!(factors.len(), c.rotary_dim / 2);
            assert!(factors.iter().all(|f| *f > 0.0 && f.is_finite()));
        }
    }
}

/// That `result` failed with a message that has `message` in it.
pub fn refused<T: std::fmt::Debug>(result: Result<T>, message: &str) {
    let error = result.expect_err(message).to_string();
    assert!(error.contains(message), "{error:?} lacks {message:?}");
}

/// Yarn by 4 from 32 positions, with the defaults.
pub fn yarn(attention_factor: Option<f64>, truncate: bool) -> RopeScaling {
    RopeScaling::Yarn {
        factor: 4.0,
        original: 32,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        truncate,
    }
}
