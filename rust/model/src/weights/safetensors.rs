//! Safetensors: one file, or shards named by model.safetensors.index.json. Format: huggingface/safetensors README.
//! The header is checked here rather than by the crate so that messages name the tensor and names stand once only.
//! Knows nothing of configurations or of what a tensor is for.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Component, Path, PathBuf},
};

use candle_vllm_kernels::cpu::ggml::GgmlType;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{
    Element, Raw,
    file::read_json,
    mapped::{Change, Entry, MappedFile, MappedWeights},
};
use crate::{Error, Result};

/// Headers longer than this are refused, as the reference implementation does.
const MAX_HEADER: u64 = 100_000_000;

/// Name of the shard table.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Opens one file.
pub(super) fn open_single(path: &Path) -> Result<MappedWeights> {
    let file = MappedFile::open(path)?;
    let entries = read_header(&file, 0)?;
    Ok(MappedWeights {
        files: vec![file],
        entries,
    })
}

/// Opens the shards that `folder`'s index names; exactly the tensors that the index lists are taken.
pub(super) fn open_sharded(folder: &Path) -> Result<MappedWeights> {
    let index_path = folder.join(INDEX);
    let place = index_path.display();
    let index: Index = serde_json::from_value(read_json(&index_path)?)
        .map_err(|e| Error::Load(format!("{place}: {e}")))?;
    if index.weight_map.is_empty() {
        return Err(Error::Load(format!("{place}: weight_map is empty")));
    }
    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut files = Vec::with_capacity(shards.len());
    let mut found: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
    for shard in shards {
        let path =
            folder.join(shard_name(shard).map_err(|e| Error::Load(format!("{place}: {e}")))?);
        if !path.exists() {
            return Err(Error::Load(format!(
                "{place}: the shard {shard} is missing"
            )));
        }
        let file = MappedFile::open(&path)?;
        found.insert(shard, read_header(&file, files.len())?);
        files.push(file);
    }
    let mut entries = BTreeMap::new();
    for (name, shard) in &index.weight_map {
        let entry = found.get_mut(shard.as_str()).and_then(|t| t.remove(name));
        let entry = entry
            .ok_or_else(|| Error::Load(format!("{place}: tensor {name} is not in {shard}")))?;
        entries.insert(name.clone(), entry);
    }
    Ok(MappedWeights { files, entries })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// A shard is a plain file name: nothing in an index may reach outside the folder.
fn shard_name(name: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(name);
    let mut parts = path.components();
    let plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    if !plain || name.contains(['/', '\\', '\0']) {
        return Err(format!("the shard name {name:?} is not a plain file name"));
    }
    if !name.ends_with(".safetensors") {
        return Err(format!("the shard {name:?} is not a .safetensors file"));
    }
    Ok(path)
}

/// One entry of the header.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Header entries in file order; a name that stands twice is an error.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let (mut tensors, mut seen) = (Vec::new(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info = map
                        .next_value::<Info>()
                        .map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("tensor {name} stands twice")));
                    }
                    tensors.push((name, info));
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks the whole header of `file`: names, types, shapes and that the tensors cover the data without gap or overlap.
fn read_header(file: &MappedFile, index: usize) -> Result<BTreeMap<String, Entry>> {
    let place = file.path().display();
    let bytes = file.bytes();
    let short = || {
        Error::Load(format!(
            "{place}: {} bytes are too few for a safetensors file",
            bytes.len()
        ))
    };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER || length > rest.len() as u64 {
        let what = format!(
            "{place}: the header is said to have {length} bytes, the file has {}",
            bytes.len()
        );
        return Err(Error::Load(what));
    }
    // The cast is exact: `length` is at most the length of a slice.
    let (header, data) = rest.split_at(length as usize);
    if header.first() != Some(&b'{') {
        return Err(Error::Load(format!(
            "{place}: not a safetensors file (the header does not start with an object)"
        )));
    }
    let Header(mut tensors) = serde_json::from_slice(header)
        .map_err(|e| Error::Load(format!("{place}: broken header: {e}")))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let (mut entries, mut next) = (BTreeMap::new(), 0u64);
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let bad = |what: String| Error::Load(format!("{place}: tensor {name} {what}"));
        if start != next || end < start || end > data.len() as u64 {
            let size = data.len();
            return Err(bad(format!(
                "lies at {start}..{end}, expected from {next} within {size} bytes of data"
            )));
        }
        next = end;
        let (element, shape) = check_size(&info, end - start).map_err(bad)?;
        let start = 8 + header.len() + start as usize;
        let entry = Entry {
            file: index,
            start,
            len: (end - info.data_offsets.0) as usize,
            element,
            shape,
            change: Change::None,
        };
        entries.insert(name, entry);
    }
    if next != data.len() as u64 {
        return Err(Error::Load(format!(
            "{place}: tensors end at {next}, the data has {} bytes",
            data.len()
        )));
    }
    Ok(entries)
}

/// The element type and shape of `info`, if they make `bytes` bytes.
fn check_size(info: &Info, bytes: u64) -> std::result::Result<(Element, Vec<usize>), String> {
    let shape: Option<Vec<usize>> = info
        .shape
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect();
    let elements = info.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let (Some(shape), Some(elements)) = (shape, elements) else {
        return Err(format!("has the impossible shape {:?}", info.shape));
    };
    let element = match info.dtype.as_str() {
        "F32" => Element::Known(GgmlType::F32),
        "F16" => Element::Known(GgmlType::F16),
        "BF16" => Element::Known(GgmlType::BF16),
        "U8" => Element::Raw(Raw::U8),
        "I8" => Element::Raw(Raw::I8),
        "I32" => Element::Raw(Raw::I32),
        "I64" => Element::Raw(Raw::I64),
        "F8_E4M3" => Element::Raw(Raw::F8E4M3),
        "F8_E5M2" => Element::Raw(Raw::F8E5M2),
        "F8_E8M0" => Element::Raw(Raw::F8E8M0),
        // Only the tensors that an architecture asks for have to be readable.
        other => return Ok((Element::Other(other.to_string()), shape)),
    };
    let size = match &element {
        Element::Known(dtype) => dtype.block_bytes(),
        Element::Raw(raw) => raw.bytes(),
        Element::Other(_) => 0,
    };
    if elements.checked_mul(size as u64) != Some(bytes) {
        return Err(format!(
            "of dtype {} and shape {:?} cannot have {bytes} bytes",
            info.dtype, info.shape
        ));
    }
    Ok((element, shape))
}
