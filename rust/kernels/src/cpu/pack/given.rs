//! What a matrix is packed from: bytes as a file has them, or rows that are made one by one. Knows no instruction set.
use std::ops::Range;

use super::{
    super::ggml::{GgmlType, dequantize, q8_0},
    LANES, Layout, Storage, pack_blocks,
};

/// A matrix whose rows are made when they are packed, because no file holds them in a type that the kernels read.
pub trait Rows: Sync {
    /// Row `row` as blocks of the type that the matrix is packed as.
    fn blocks(&self, row: usize, out: &mut [u8]);
    /// The same row as the exact float32 values that it stands for.
    fn values(&self, row: usize, out: &mut [f32]);
}

/// Rows of a type without panels of its own, rounded to int8.
pub(super) struct Rounded<'a> {
    pub dtype: GgmlType,
    pub k: usize,
    pub data: &'a [u8],
}

impl Rows for Rounded<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        let mut values = vec![0.0; self.k];
        self.values(row, &mut values);
        q8_0(&values, out);
    }
    fn values(&self, row: usize, out: &mut [f32]) {
        let bytes = self.k / self.dtype.block_len() * self.dtype.block_bytes();
        dequantize(self.dtype, &self.data[row * bytes..][..bytes], out);
    }
}

/// What is packed.
pub(super) enum Given<'a> {
    /// All rows, as a file has them.
    Bytes(&'a [u8]),
    /// Rows to be made.
    Rows(&'a dyn Rows),
}

impl Given<'_> {
    /// Row `row` of `k` columns as blocks of `dtype`, in `buffer` if it has to be made.
    fn blocks<'b>(
        &'b self,
        dtype: GgmlType,
        k: usize,
        row: usize,
        buffer: &'b mut Vec<u8>,
    ) -> &'b [u8] {
        let bytes = k / dtype.block_len() * dtype.block_bytes();
        match self {
            Given::Bytes(data) => &data[row * bytes..][..bytes],
            Given::Rows(rows) => {
                buffer.resize(bytes, 0);
                rows.blocks(row, buffer);
                buffer
            }
        }
    }

    /// Row `row` as float32.
    fn values(&self, dtype: GgmlType, row: usize, out: &mut [f32]) {
        match self {
            Given::Bytes(_) => dequantize(
                dtype,
                self.blocks(dtype, out.len(), row, &mut Vec::new()),
                out,
            ),
            Given::Rows(rows) => rows.values(row, out),
        }
    }

    /// Fills one panel of `dtype` and `k` columns with the first of `rows`, as many as it has lanes.
    pub fn fill(
        &self,
        storage: Storage,
        (dtype, k): (GgmlType, usize),
        rows: Range<usize>,
        panel: &mut [u8],
    ) {
        let (mut values, mut buffer) = (Vec::new(), Vec::new());
        for (lane, row) in rows.take(LANES).enumerate() {
            if storage == Storage::F32 {
                values.resize(k, 0f32);
                self.values(dtype, row, &mut values);
                for (v, line) in values.iter().zip(panel.chunks_exact_mut(64)) {
                    line[lane * 4..][..4].copy_from_slice(&v.to_le_bytes());
                }
                continue;
            }
            let row = self.blocks(dtype, k, row, &mut buffer);
            match storage {
                Storage::A8(ty) | Storage::A15(ty) | Storage::A16(ty) => {
                    if let Some(layout) = Layout::of(ty) {
                        pack_blocks(ty, &layout, panel, lane, row);
                    }
                }
                Storage::F16 => {
                    for (v, line) in row.chunks_exact(2).zip(panel.chunks_exact_mut(32)) {
                        line[lane * 2..][..2].copy_from_slice(v);
                    }
                }
                _ => {
                    for (v, line) in row.chunks(4).zip(panel.chunks_exact_mut(64)) {
                        line[lane * 4..][..v.len()].copy_from_slice(v);
                    }
                }
            }
        }
    }
}
