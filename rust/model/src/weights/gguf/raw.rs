//! A GGUF model as its files have it: ggml's names, rows in llama.cpp's order, metadata bytes. For who writes it again.
use std::path::Path;

use candle_vllm_kernels::cpu::ggml::GgmlType;

use super::{header::Header, split, write::Pair};
use crate::{
    Result,
    weights::mapped::{MappedFile, passed},
};

/// All files of a model.
pub struct Raw {
    files: Vec<MappedFile>,
    headers: Vec<Header>,
}

/// A tensor of a file.
#[derive(Clone, Copy)]
pub struct RawTensor<'a> {
    /// ggml's name.
    pub name: &'a str,
    /// Element or block type.
    pub dtype: GgmlType,
    /// Outermost first.
    pub shape: &'a [usize],
    /// Row by row.
    pub data: &'a [u8],
}

impl Raw {
    /// Opens the model that `path` is, or is a part of.
    ///
    /// # Errors
    /// As [`crate::weights::Checkpoint::open`] for what is wrong with the files.
    pub fn open(path: &Path) -> Result<Self> {
        let (files, headers) = split::open_parts(path)?;
        Ok(Self { files, headers })
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = RawTensor<'_>> {
        let parts = self.files.iter().zip(&self.headers);
        parts.flat_map(|(file, header)| {
            header.tensors.iter().map(|t| RawTensor {
                name: &t.name,
                dtype: t.dtype,
                shape: &t.shape,
                data: &file.bytes()[t.start..t.start + t.len],
            })
        })
    }

    /// The metadata of the first file.
    pub fn pairs(&self) -> Vec<Pair> {
        let (Some(file), Some(header)) = (self.files.first(), self.headers.first()) else {
            return Vec::new();
        };
        let pair = |(key, range): &(String, std::ops::Range<usize>)| Pair {
            key: key.clone(),
            bytes: file.bytes()[range.clone()].to_vec(),
        };
        header.pairs.iter().map(pair).collect()
    }

    /// Blocks of the model.
    pub fn layers(&self) -> usize {
        let metadata = self.headers.first().map(|h| &h.metadata);
        let count = metadata.and_then(|m| {
            let name = m.text("general.architecture")?;
            let blocks = m.uint(&format!("{name}.block_count"))?;
            let drafting = m.uint(&format!("{name}.nextn_predict_layers"));
            Some(blocks.saturating_sub(drafting.unwrap_or(0)))
        });
        count.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// Gives back what has been read of a tensor now that its row `row` of `bytes` has been.
    pub fn passed(&self, data: &[u8], row: usize, bytes: usize) {
        passed(data, row, bytes, &|part| {
            self.files.iter().for_each(|file| file.release_bytes(part));
        });
    }
}
