//! GGUF v2 and v3, single files and split sets. Format: ggml `docs/gguf.md`.
//! The door: tensors get their Hugging Face names and row order here, and nothing behind it knows the format.
use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_vllm_kernels::cpu::ggml::GgmlType;

use super::{
    Checkpoint, Element, TokenizerSource,
    mapped::{Change, Entry, MappedFile, MappedWeights},
    stacked,
};
use crate::{
    Error, Result,
    config::{self, gguf::Facts},
    family::{self, Lying},
};

mod header;
mod metadata;
pub(crate) mod names;
mod raw;
mod read;
mod split;
pub mod write;

pub(super) use header::MAGIC;
pub use metadata::{Metadata, Value};
pub use raw::{Raw, RawTensor};
pub(super) use split::only_model;

use header::{Header, TensorInfo};

/// Opens the model that `path` is, or is a part of.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let (files, headers) = split::open_parts(path)?;
    let place = path.display().to_string();
    let mut metadata = Metadata::default();
    let mut tensors: BTreeMap<String, (usize, TensorInfo)> = BTreeMap::new();
    for (index, header) in headers.into_iter().enumerate() {
        if index == 0 {
            metadata = header.metadata;
        }
        let own = header.tensors.into_iter();
        tensors.extend(own.map(|tensor| (tensor.name.clone(), (index, tensor))));
    }
    let config = config::gguf::read(&place, &metadata, &facts(&place, &tensors, &files)?)?;
    let entries = rename(&place, tensors, &config)?;
    let weights = MappedWeights { files, entries };
    Ok(Checkpoint {
        config,
        file_bytes: weights.file_bytes(),
        weights: Box::new(weights),
        tokenizer: TokenizerSource::Gguf(Arc::new(metadata)),
    })
}

/// What the configuration takes from the tensors, because GGUF keeps it there.
fn facts(
    place: &str,
    tensors: &BTreeMap<String, (usize, TensorInfo)>,
    files: &[MappedFile],
) -> Result<Facts> {
    let rows = |name| {
        tensors
            .get(name)
            .and_then(|(_, t)| t.shape.first().copied())
    };
    let valued = |name: &String| {
        let (block, part) = name.strip_prefix("blk.")?.split_once('.')?;
        block.parse().ok().filter(|_| part == "attn_v.weight")
    };
    let factors = |name: &str| {
        let Some((file, tensor)) = tensors.get(name) else {
            return Ok(None);
        };
        let bytes = files
            .get(*file)
            .and_then(|f| f.bytes().get(tensor.start..tensor.start + tensor.len));
        match (tensor.dtype, bytes) {
            (GgmlType::F32, Some(bytes)) => Ok(Some(floats(bytes))),
            (other, _) => Err(Error::Load(format!(
                "{place}: tensor {name} has type {}, not F32",
                other.name()
            ))),
        }
    };
    let [short, long] = [factors(names::LONGROPE[0])?, factors(names::LONGROPE[1])?];
    Ok(Facts {
        embedding_rows: rows("token_embd.weight"),
        input_rows: rows("per_layer_token_embd.weight"),
        valued: tensors.keys().filter_map(valued).collect(),
        has_output: tensors.contains_key("output.weight"),
        indexes: names::blocks_with(tensors.keys(), names::INDEX),
        rope_factors: factors(names::ROPE_FACTORS)?,
        longrope: short.zip(long).map(|(short, long)| [short, long]),
    })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

/// Entries under Hugging Face names, with what the converter did noted where it has to be undone.
fn rename(
    place: &str,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    config: &config::Config,
) -> Result<BTreeMap<String, Entry>> {
    let family = family::find(&config.architecture);
    let mut entries = BTreeMap::new();
    for (name, (file, tensor)) in tensors {
        let bad = |what: String| Error::Load(format!("{place}: tensor {name} {what}"));
        let Some(target) = names::hugging_face(family, &name, config).map_err(bad)? else {
            continue;
        };
        if let Change::Interleaved(heads) = target.change {
            let rows = tensor.shape.first().copied().unwrap_or(0);
            if rows % (2 * heads) != 0 {
                return Err(bad(format!(
                    "has {rows} rows, which are not {heads} heads of an even size"
                )));
            }
        }
        let element = Element::Known(tensor.dtype);
        let (start, len, shape) = (tensor.start, tensor.len, tensor.shape);
        entries.insert(
            target.name,
            Entry {
                file,
                start,
                len,
                element,
                shape,
                change: target.change,
            },
        );
    }
    if family.is_some_and(|f| f.names.altup) {
        let bad = |what| Error::Load(format!("{place}: tensor {what}"));
        stacked::list(&mut entries, "model.altup_projections").map_err(bad)?;
        stacked::list(&mut entries, "model.altup_unembed_projections").map_err(bad)?;
    }
    if let Some(family) = family {
        let bad = |what| Error::Load(format!("{place}: tensor {what}"));
        stacked::cut(&mut entries, family, Lying::Rows).map_err(bad)?;
    }
    Ok(entries)
}
