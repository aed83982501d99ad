//! Writing a model as one GGUF file of another type: what `isq` would do while loading, kept.
//! From GGUF all but the matrices stays as it is; from a Hugging Face folder names, rows and metadata become llama.cpp's.
mod hf;
mod keys;

use std::path::{Path, PathBuf};

use candle_vllm_kernels::cpu::{
    Compute,
    ggml::{self, GgmlType},
};

use crate::{
    Error, Refused, Result,
    backend::{Backend, Portable},
    loader::Loader,
    quant::{
        Role,
        isq::{self, Spot},
    },
    weights::{
        Checkpoint,
        gguf::{
            Raw,
            names::ROPE_FACTORS,
            write::{self, Pair, Rows, Said, Tensor},
        },
    },
};

pub use write::Going;

/// What a file is to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(GgmlType);

/// Types that share no scales; matrices become them whatever they were.
const DENSE: [GgmlType; 3] = [GgmlType::BF16, GgmlType::F16, GgmlType::F32];

impl Kind {
    /// The type called `name`, of those that a loader quantises to and bf16, f16, f32.
    ///
    /// # Errors
    /// `Config` that lists them.
    pub fn named(name: &str) -> Result<Self> {
        let dense = || {
            let is = |ty: &GgmlType| ty.name().eq_ignore_ascii_case(name);
            DENSE.into_iter().find(is)
        };
        let expected = || format!("one of {}, bf16, f16, f32", isq::names());
        let found = isq::named(name).or_else(dense);
        Ok(Self(
            found.ok_or_else(|| Refused::new("type", name, expected()))?,
        ))
    }

    /// The type of a matrix in the new file.
    fn of(self, spot: Spot, stored: GgmlType, columns: usize) -> GgmlType {
        let keep = matches!(spot.role, Role::Router | Role::Positions);
        match DENSE.contains(&self.0) {
            true if keep && DENSE.contains(&stored) => stored,
            true => self.0,
            false => isq::target(self.0, spot, stored, columns).unwrap_or(stored),
        }
    }

    /// `general.file_type` (llama.h, `enum llama_ftype`): what most of the file is.
    fn file_type(self) -> u32 {
        use GgmlType as T;
        match self.0 {
            T::F16 => 1,
            T::Q4_0 => 2,
            T::Q4_1 => 3,
            T::Q8_0 => 7,
            T::Q5_0 => 8,
            T::Q5_1 => 9,
            T::Q2_K => 10,
            T::Q3_K => 12,
            T::Q4_K => 15,
            T::Q5_K => 17,
            T::Q6_K => 18,
            T::BF16 => 32,
            _ => 0,
        }
    }
}

/// Where a GGUF's matrix stands; `None` for what is no matrix that products are made with.
fn spot(name: &str, layers: usize, tied: bool) -> Option<Spot> {
    let alone = |role| Some(Spot { role, layer: None });
    let stem = name.strip_suffix(".weight")?;
    let Some((number, part)) = stem.strip_prefix("blk.").and_then(|s| s.split_once('.')) else {
        return match stem {
            "token_embd" if tied => alone(Role::Head),
            "token_embd" => alone(Role::Embedding),
            "output" => alone(Role::Head),
            "position_embd" => alone(Role::Positions),
            _ => None,
        };
    };
    let role = match part.split('.').next()? {
        "attn_q" | "attn_qkv" | "attn_q_a" | "attn_q_b" => Role::Query,
        "shortconv" if part == "shortconv.in_proj" => Role::Query,
        "shortconv" if part == "shortconv.out_proj" => Role::Output,
        "attn_k" => Role::Key,
        "attn_v" | "attn_kv_a_mqa" => Role::Value,
        "attn_output" => Role::Output,
        "ffn_gate" | "ffn_gate_exps" | "ffn_gate_shexp" | "ffn_gate_up_exps" => Role::Gate,
        "ffn_up" | "ffn_up_exps" | "ffn_up_shexp" => Role::Up,
        "ffn_down" | "ffn_down_exps" | "ffn_down_shexp" => Role::Down,
        "ffn_gate_inp" | "ffn_gate_inp_shexp" => Role::Router,
        _ => return None,
    };
    let layer = Some([number.parse().ok()?, layers]);
    Some(Spot { role, layer })
}

/// Writes the GGUF model at `input` to `output`, with matrices of `kind` where they are wider. Whatever is at `output` is
/// replaced, once the new file is complete. The size in bytes.
///
/// # Errors
/// `Load` and `Io` for what is wrong with the input, `Write` for the output.
pub fn from_gguf(
    input: &Path,
    output: &Path,
    kind: Kind,
    compute: &Compute,
    going: Going<'_>,
) -> Result<u64> {
    let raw = Raw::open(input)?;
    let layers = raw.layers();
    let tied = !raw.tensors().any(|t| t.name == "output.weight");
    let tensors = raw.tensors().map(|from| {
        let columns = from.shape.last().copied().unwrap_or(0);
        let spot = spot(from.name, layers, tied).filter(|_| from.shape.len() > 1);
        let dtype = spot.map_or(from.dtype, |s| kind.of(s, from.dtype, columns));
        let raw = &raw;
        let row = move |row: usize, out: &mut [u8]| {
            let bytes = from.data.len() / (from.shape.iter().product::<usize>() / columns).max(1);
            let data = &from.data[row * bytes..][..bytes];
            encode(from.dtype, data, dtype, columns, out);
            raw.passed(from.data, row, bytes);
            Ok(())
        };
        Tensor {
            name: from.name.to_owned(),
            dtype,
            shape: from.shape.to_vec(),
            open: Box::new(move || Ok(Box::new(row))),
        }
    });
    let tensors: Vec<Tensor<'_>> = tensors.collect();
    let mut pairs = raw.pairs();
    let ours = |key: &str| {
        let split = key.starts_with("split.");
        split || matches!(key, "general.alignment" | "general.file_type" | VERSION)
    };
    pairs.retain(|pair| !ours(&pair.key));
    pairs.extend(said(kind));
    replace(output, |partial| {
        write::write(partial, &pairs, &tensors, compute, going)
    })
}

/// A Hugging Face checkpoint that is to be a GGUF file.
pub struct Named<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// What the file calls the model.
    pub name: &'a str,
    /// The tokenizer's part of the metadata.
    pub tokenizer: Vec<Pair>,
}

/// Writes a Hugging Face checkpoint to `output`, as [`from_gguf`] does.
///
/// # Errors
/// `Load` for a family, a configuration or a tensor that llama.cpp has no way to say, before anything is written; else as
/// [`from_gguf`].
pub fn from_hf(
    named: Named<'_>,
    output: &Path,
    kind: Kind,
    compute: &Compute,
    going: Going<'_>,
) -> Result<u64> {
    let Named {
        checkpoint,
        name,
        tokenizer,
    } = named;
    let config = &checkpoint.config;
    let keys = keys::keys(config, hf::arch(&config.architecture)?, name, &tokenizer)?;
    let packer = Portable.packer();
    let loader = Loader::new(checkpoint, packer.as_ref(), &|_, _| ());
    let mut tensors = hf::tensors(&loader, checkpoint, kind)?;
    if let Some(factors) = &keys.factors {
        let shape = vec![factors.len()];
        let open = || -> Result<Rows<'_>> {
            Ok(Box::new(|_, out| {
                narrow(GgmlType::F32, factors, out);
                Ok(())
            }))
        };
        tensors.push(Tensor {
            name: ROPE_FACTORS.into(),
            dtype: GgmlType::F32,
            shape,
            open: Box::new(open),
        });
    }
    let mut pairs = keys.pairs;
    pairs.extend(said(kind));
    pairs.extend(tokenizer);
    replace(output, |partial| {
        write::write(partial, &pairs, &tensors, compute, going)
    })
}

/// Whether a family of Hugging Face's can be written.
///
/// # Errors
/// `Load` that lists those that can.
pub fn check(architecture: &str) -> Result<()> {
    hf::arch(architecture).map(drop)
}

const VERSION: &str = "general.quantization_version";

/// What a file says of its own types.
fn said(kind: Kind) -> [Pair; 2] {
    [
        Pair::new("general.file_type", Said::U32(kind.file_type())),
        Pair::new(VERSION, Said::U32(2)),
    ]
}

/// A row of one type as one of another.
fn encode(from: GgmlType, data: &[u8], to: GgmlType, columns: usize, out: &mut [u8]) {
    if from == to {
        return out.copy_from_slice(data);
    }
    let mut values = vec![0.0; columns];
    ggml::dequantize(from, data, &mut values);
    narrow(to, &values, out);
}

/// Values as a row of `to`.
fn narrow(to: GgmlType, values: &[f32], out: &mut [u8]) {
    use half::{bf16, f16};
    match to {
        GgmlType::F32 => each(values, out, f32::to_le_bytes),
        GgmlType::F16 => each(values, out, |v| f16::from_f32(v).to_le_bytes()),
        GgmlType::BF16 => each(values, out, |v| bf16::from_f32(v).to_le_bytes()),
        _ => ggml::quantize(to, values, out),
    }
}

fn each<const N: usize>(values: &[f32], out: &mut [u8], of: impl Fn(f32) -> [u8; N]) {
    for (out, v) in out.chunks_exact_mut(N).zip(values) {
        out.copy_from_slice(&of(*v));
    }
}

/// Has a file written beside `output` and put in its place when it is complete; of one that failed nothing stays.
fn replace(output: &Path, write: impl FnOnce(&Path) -> Result<u64>) -> Result<u64> {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial: PathBuf = output.with_file_name(name);
    let written = write(&partial).and_then(|size| {
        let io = |source| Error::Write {
            path: output.to_path_buf(),
            source,
        };
        std::fs::rename(&partial, output).map_err(io)?;
        Ok(size)
    });
    if written.is_err() {
        // It may never have come to be.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
