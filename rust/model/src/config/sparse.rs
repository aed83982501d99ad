//! The index of sparse attention: its shape, and which layers have one.
use serde_json::Value;

use super::{bounds, fields::Fields};
use crate::Result;

/// Shape of an index, by which rows pick the keys that they attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexShape {
    /// Heads of a query; all share the key.
    pub heads: usize,
    /// Width of a head and of a key.
    pub width: usize,
    /// Most keys that a row attends to.
    pub most: usize,
    /// Whether neighbouring columns rotate, not those of the two halves of what rotates.
    pub interleaved: bool,
}

/// Sparse attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// Of the layers that have an index.
    pub index: IndexShape,
    /// Whether each layer has one; the others attend to what the last layer before them picked.
    pub own: Vec<bool>,
}

impl Sparse {
    /// Checked against the `rotated` columns of its heads, which come first.
    fn new(
        fields: &Fields<'_>,
        key: &str,
        (index, rotated): (IndexShape, usize),
        own: Vec<bool>,
    ) -> Result<Self> {
        if index.width < rotated || !index.width.is_multiple_of(2) {
            let what = format_args!("expected an even width of at least {rotated}");
            return Err(fields.bad(key, what));
        }
        if !own.first().is_some_and(|first| *first) {
            return Err(fields.bad(key, "needs an index in the first layer"));
        }
        Ok(Self { index, own })
    }
}

/// The keys of config.json, of a family whose index is `default` where they are silent.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    default: IndexShape,
    (layers, rotated): (usize, usize),
) -> Result<Sparse> {
    let count = |key: &str, max, default: usize| {
        Ok::<_, crate::Error>(fields.count(key, max)?.unwrap_or(default))
    };
    let index = IndexShape {
        heads: count("index_n_heads", bounds::HEADS, default.heads)?,
        width: count("index_head_dim", bounds::HEAD_DIM, default.width)?,
        most: count("index_topk", bounds::POSITIONS, default.most)?,
        interleaved: fields
            .flag("indexer_rope_interleave")?
            .unwrap_or(default.interleaved),
    };
    let own = owners(fields, layers)?;
    Sparse::new(fields, "index_head_dim", (index, rotated), own)
}

/// Which layers have an index: as a list or letters say, else all but those that are skipped between every so many.
fn owners(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    for key in ["indexer_types", "index_topk_pattern"] {
        let Some(value) = fields.get(key) else {
            continue;
        };
        let own = match value {
            Value::String(letters) => letters.chars().map(|c| own(&c.to_string())).collect(),
            Value::Array(names) => names.iter().map(|n| own(n.as_str()?)).collect(),
            _ => None,
        };
        let own = own.filter(|own: &Vec<bool>| own.len() == layers);
        return own.ok_or_else(|| {
            fields.bad(
                key,
                format_args!("expected full or shared for {layers} layers"),
            )
        });
    }
    let every = fields
        .count("index_topk_freq", bounds::LAYERS)?
        .unwrap_or(1);
    let first = match fields.number("index_skip_topk_offset")? {
        Some(offset) => offset.max(0.0) as usize,
        None => 2,
    };
    Ok((0..layers)
        .map(|i| (i + 1).saturating_sub(first).is_multiple_of(every))
        .collect())
}

fn own(name: &str) -> Option<bool> {
    match name {
        "full" | "F" => Some(true),
        "shared" | "S" => Some(false),
        _ => None,
    }
}

/// The keys of GGUF metadata, in which layers have an index that have its tensors; `key` puts the architecture before a
/// name.
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    (default, rotated): (IndexShape, usize),
    own: Vec<bool>,
) -> Result<Sparse> {
    let need = |name: &str, max| {
        let key = key(name);
        fields.need(&key, fields.count(&key, max)?)
    };
    let width = "attention.indexer.key_length";
    let index = IndexShape {
        heads: need("attention.indexer.head_count", bounds::HEADS)?,
        width: need(width, bounds::HEAD_DIM)?,
        most: need("attention.indexer.top_k", bounds::POSITIONS)?,
        ..default
    };
    Sparse::new(fields, &key(width), (index, rotated), own)
}
