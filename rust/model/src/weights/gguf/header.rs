//! The header of one GGUF file: metadata and where each tensor lies, every number checked against the file.
//! Knows the format and nothing of what keys and tensors mean.
use std::{collections::BTreeSet, ops::Range};

use candle_vllm_kernels::cpu::ggml::GgmlType;

use super::{Metadata, Value, read::Reader};
use crate::Result;

/// First bytes of a GGUF file.
pub(in crate::weights) const MAGIC: &[u8] = b"GGUF";

/// Most dimensions of a ggml tensor.
const MAX_DIMS: u32 = 4;

/// Where the data section starts unless `general.alignment` says otherwise, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// What one file holds.
pub(super) struct Header {
    pub metadata: Metadata,
    /// Where the type and value of each key lie, in the order of the file.
    pub pairs: Vec<(String, Range<usize>)>,
    pub tensors: Vec<TensorInfo>,
}

/// One tensor: `start..start + len` lies inside the file.
pub(super) struct TensorInfo {
    /// ggml's name.
    pub name: String,
    /// Element or block type.
    pub dtype: GgmlType,
    /// Outermost first (the file has it innermost first).
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub start: usize,
    /// Bytes.
    pub len: usize,
}

/// A tensor info as the file has it.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    code: u32,
    offset: u64,
}

/// Reads and checks the header in `bytes`; `place` names the file in messages.
pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Header> {
    let mut reader = Reader::new(bytes, place);
    check_version(&mut reader)?;
    // Smallest tensor info: name of one byte, one dimension, type, offset. Smallest pair: key of one byte, type, a byte.
    let tensor_count = reader.count(8 + 1 + 4 + 8 + 4 + 8, "the tensor count")?;
    let pair_count = reader.count(8 + 1 + 4 + 1, "the metadata count")?;
    let (mut metadata, mut pairs) = (Metadata::default(), Vec::new());
    for _ in 0..pair_count {
        let key = reader.name("a metadata key")?;
        let from = reader.position();
        let value = reader.value(&key)?;
        pairs.push((key.clone(), from..reader.position()));
        if metadata.0.insert(key.clone(), value).is_some() {
            return Err(reader.error(format_args!("the key {key} stands twice")));
        }
    }
    let mut raw = Vec::with_capacity(tensor_count);
    let mut names = BTreeSet::new();
    for _ in 0..tensor_count {
        let tensor = raw_tensor(&mut reader)?;
        if !names.insert(tensor.name.clone()) {
            return Err(reader.error(format_args!("tensor {} stands twice", tensor.name)));
        }
        raw.push(tensor);
    }
    let alignment = alignment(&metadata).map_err(|what| reader.error(what))?;
    let data = (reader.position() as u64).next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(raw.len());
    for tensor in raw {
        let name = tensor.name.clone();
        let located = locate(tensor, data, alignment, bytes.len() as u64);
        tensors.push(located.map_err(|what| reader.error(format_args!("tensor {name} {what}")))?);
    }
    no_overlap(&mut tensors).map_err(|what| reader.error(what))?;
    Ok(Header {
        metadata,
        pairs,
        tensors,
    })
}

fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    let magic = reader.take(MAGIC.len(), "the magic number")?;
    if magic != MAGIC {
        return Err(reader.error(format_args!(
            "not a GGUF file: it starts with {:?}",
            String::from_utf8_lossy(magic)
        )));
    }
    match reader.u32("the version")? {
        2 | 3 => Ok(()),
        v if (1..=3).contains(&v.swap_bytes()) => {
            Err(reader.error("a big-endian GGUF file, which cannot be read"))
        }
        v => Err(reader.error(format_args!(
            "GGUF version {v} cannot be read, only 2 and 3"
        ))),
    }
}

fn raw_tensor(reader: &mut Reader<'_>) -> Result<RawTensor> {
    let name = reader.name("a tensor name")?;
    let n = reader.u32(&name)?;
    if n == 0 || n > MAX_DIMS {
        return Err(reader.error(format_args!("tensor {name} has {n} dimensions")));
    }
    let mut dims = Vec::with_capacity(n as usize);
    for _ in 0..n {
        dims.push(reader.u64(&name)?);
    }
    let code = reader.u32(&name)?;
    let offset = reader.u64(&name)?;
    Ok(RawTensor {
        name,
        dims,
        code,
        offset,
    })
}

fn alignment(metadata: &Metadata) -> std::result::Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Uint(a)) if a.is_power_of_two() && *a <= 1 << 30 => Ok(*a),
        Some(other) => Err(format!(
            "general.alignment is {other:?}, not a power of two"
        )),
    }
}

/// Checks a tensor's type, shape and place.
fn locate(
    raw: RawTensor,
    data: u64,
    alignment: u64,
    file: u64,
) -> std::result::Result<TensorInfo, String> {
    let Some(dtype) = GgmlType::from_code(raw.code) else {
        return Err(format!(
            "has the ggml type {}, which cannot be read",
            type_name(raw.code)
        ));
    };
    let inner = raw.dims.first().copied().unwrap_or(0);
    let elements = raw
        .dims
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| n > 0);
    let Some(elements) = elements else {
        return Err(format!("has the impossible dimensions {:?}", raw.dims));
    };
    let block = dtype.block_len() as u64;
    if inner % block != 0 {
        return Err(format!(
            "of type {} has rows of {inner} elements, not a multiple of {block}",
            dtype.name()
        ));
    }
    if !raw.offset.is_multiple_of(alignment) {
        return Err(format!(
            "has the offset {}, not a multiple of {alignment}",
            raw.offset
        ));
    }
    let len = (elements / block).checked_mul(dtype.block_bytes() as u64);
    let start = data.checked_add(raw.offset);
    let end = start
        .zip(len)
        .and_then(|(s, l)| s.checked_add(l))
        .filter(|&end| end <= file);
    let (Some(start), Some(len), Some(_)) = (start, len, end) else {
        let (dims, offset) = (raw.dims, raw.offset);
        return Err(format!(
            "with dimensions {dims:?} at offset {offset} does not fit into the file of {file} bytes"
        ));
    };
    // The casts are exact: all are at most the length of a slice.
    let shape = raw.dims.iter().rev().map(|&d| d as usize).collect();
    Ok(TensorInfo {
        name: raw.name,
        dtype,
        shape,
        start: start as usize,
        len: len as usize,
    })
}

/// No byte belongs to two tensors.
fn no_overlap(tensors: &mut [TensorInfo]) -> std::result::Result<(), String> {
    tensors.sort_by_key(|t| t.start);
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && b.start < a.start + a.len
        {
            return Err(format!("tensors {} and {} overlap", a.name, b.name));
        }
    }
    Ok(())
}

/// ggml's name of a type that cannot be read, where it has one (ggml.h, `enum ggml_type`).
fn type_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        _ => return code.to_string(),
    };
    format!("{name} ({code})")
}
