//! A matrix as its scheme describes it: what a backend's packer takes. Knows no checkpoint's way to keep it.
use std::ops::Range;

use candle_vllm_kernels::cpu::{Rows, ggml, ggml::GgmlType};

use crate::weights::Stored;

/// A matrix `[n, k]`, not yet packed.
pub enum Described<'a> {
    /// Dense elements or ggml's blocks, as they lie in the file.
    Stored(Stored<'a>),
    /// Anything else: rows that are made when they are packed, 16 at a time, so that no copy stands beside the packed one.
    Made(Box<dyn Coded + 'a>),
}

/// Rows of a code that no kernel reads.
pub trait Coded: Rows + Send + Sync {
    /// `[n, k]`.
    fn shape(&self) -> [usize; 2];
    /// The type whose blocks [`Rows::blocks`] makes.
    fn packs_as(&self) -> GgmlType;
    /// The type that it counts as stored in.
    fn stored_as(&self) -> GgmlType {
        self.packs_as()
    }
    /// Bytes in the file.
    fn file_bytes(&self) -> usize;
}

impl Described<'_> {
    /// Its shape, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Stored(stored) => stored.shape.clone(),
            Self::Made(rows) => rows.shape().to_vec(),
        }
    }

    /// The type that it is stored in, or that its code is packed as.
    pub fn kind(&self) -> GgmlType {
        match self {
            Self::Stored(stored) => stored.dtype,
            Self::Made(rows) => rows.stored_as(),
        }
    }

    /// The type that it is packed from.
    pub fn packed_from(&self) -> GgmlType {
        match self {
            Self::Stored(stored) => stored.dtype,
            Self::Made(rows) => rows.packs_as(),
        }
    }

    /// Bytes in the file.
    pub fn file_bytes(&self) -> usize {
        match self {
            Self::Stored(stored) => stored.data.len(),
            Self::Made(rows) => rows.file_bytes(),
        }
    }

    /// All values, row-major.
    pub fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape().iter().product()];
        let columns = self.shape().last().copied().unwrap_or(0).max(1);
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            self.row(row, out);
        }
        out
    }

    /// The values of one row, `out.len()` of them.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Stored(stored) => {
                let bytes = row_bytes(stored.dtype, out.len());
                ggml::dequantize(stored.dtype, &stored.data[row * bytes..][..bytes], out);
            }
            Self::Made(rows) => rows.values(row, out),
        }
    }
}

/// Bytes of a row of `columns`, whole blocks.
pub(super) fn row_bytes(ty: GgmlType, columns: usize) -> usize {
    columns / ty.block_len() * ty.block_bytes()
}

/// As which type values are packed that no packed type holds as they are: int8, where columns fill its blocks.
pub(super) fn rounds_to(columns: usize) -> GgmlType {
    match columns.is_multiple_of(GgmlType::Q8_0.block_len()) {
        true => GgmlType::Q8_0,
        false => GgmlType::F32,
    }
}

/// A row's values as blocks of [`rounds_to`]'s type.
pub(super) fn rounded(values: &[f32], out: &mut [u8]) {
    match rounds_to(values.len()) {
        GgmlType::Q8_0 => ggml::q8_0(values, out),
        _ => {
            for (out, v) in out.chunks_exact_mut(4).zip(values) {
                out.copy_from_slice(&v.to_le_bytes());
            }
        }
    }
}

/// Some rows of a code.
pub(super) struct Cut<'a> {
    pub all: Box<dyn Coded + 'a>,
    pub rows: Range<usize>,
}

impl Rows for Cut<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        self.all.blocks(self.rows.start + row, out);
    }
    fn values(&self, row: usize, out: &mut [f32]) {
        self.all.values(self.rows.start + row, out);
    }
}

impl Coded for Cut<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.all.shape()[1]]
    }
    fn packs_as(&self) -> GgmlType {
        self.all.packs_as()
    }
    fn stored_as(&self) -> GgmlType {
        self.all.stored_as()
    }
    fn file_bytes(&self) -> usize {
        self.all.file_bytes() / self.all.shape()[0].max(1) * self.rows.len()
    }
}
