//! Integers of 4 or 8 bits with a scale and a zero point for each group of columns: weight = scale * (q - zero).
//! What GPTQ, AWQ and compressed-tensors have in common; where their bits lie is their own affair.
//!
//! Packed as (the f16 of a scale is exact for every f16, and for every bf16 of 2^-17 to 65504)
//!   Q4_0  4 bits, every zero 8: exact
//!   Q4_1  4 bits, other zeros: the minimum -(scale * zero) is rounded to f16, 11 bits; exact where they suffice
//!   Q8_0  8 bits: exact in blocks of 32 where |q - zero| < 128; else, and where a block has several groups (`desc_act`,
//!         groups that are no multiple of 32), rounded to 8 bits with a scale of the block's own
//!   F32   columns that do not fill blocks of 32
use candle_vllm_kernels::cpu::{Rows, ggml, ggml::GgmlType};
use half::f16;

use super::{Coded, described::rounded};

/// Columns of a block.
const BLOCK: usize = 32;

/// Where the integers, scales and zero points of a scheme lie.
pub(super) trait Integers: Send + Sync {
    /// The integers of a row, as unsigned numbers.
    fn codes(&self, row: usize, out: &mut [u8]);
    /// The scale of a row's group.
    fn scale(&self, row: usize, group: usize) -> f32;
    /// The integer that stands for 0 in a row's group.
    fn zero(&self, row: usize, group: usize) -> i32;
    /// Bytes in the file.
    fn file_bytes(&self) -> usize;
}

/// Which columns share a scale.
pub(super) enum Groups {
    /// So many neighbours.
    Of(usize),
    /// The group of each column.
    Listed(Vec<u32>),
}

impl Groups {
    /// Groups of `size` columns, or those of `listed`, each below `count`, where it says something else.
    pub fn new(size: usize, listed: Option<Vec<u32>>, count: usize) -> Result<Self, String> {
        let Some(listed) = listed else {
            return Ok(Self::Of(size));
        };
        if let Some(wrong) = listed.iter().find(|g| **g as usize >= count) {
            return Err(format!("lists the group {wrong} of {count}"));
        }
        let plain = |(column, group): (usize, &u32)| *group as usize == column / size;
        Ok(match listed.iter().enumerate().all(plain) {
            true => Self::Of(size),
            false => Self::Listed(listed),
        })
    }

    fn of(&self, column: usize) -> usize {
        match self {
            Self::Of(size) => column / size,
            Self::Listed(groups) => groups[column] as usize,
        }
    }

    /// Whether each block of 32 columns has one group.
    fn fill_blocks(&self) -> bool {
        match self {
            Self::Of(size) => size.is_multiple_of(BLOCK),
            Self::Listed(groups) => groups
                .chunks(BLOCK)
                .all(|block| block.iter().all(|g| *g == block[0])),
        }
    }
}

/// A matrix of such integers.
pub(super) struct Grouped<T> {
    shape: [usize; 2],
    groups: Groups,
    whole: bool,
    packs_as: GgmlType,
    integers: T,
}

impl<T: Integers> Grouped<T> {
    /// `count` groups a row of integers of `bits`, 4 or 8.
    pub fn new(shape: [usize; 2], bits: usize, groups: Groups, count: usize, integers: T) -> Self {
        let [n, k] = shape;
        let whole = groups.fill_blocks();
        let symmetric = || (0..n).all(|r| (0..count).all(|g| integers.zero(r, g) == 8));
        let packs_as = match (bits, k.is_multiple_of(BLOCK)) {
            (_, false) => GgmlType::F32,
            (4, _) if whole && symmetric() => GgmlType::Q4_0,
            (4, _) if whole => GgmlType::Q4_1,
            _ => GgmlType::Q8_0,
        };
        Self {
            shape,
            groups,
            whole,
            packs_as,
            integers,
        }
    }

    fn decode(&self, row: usize, codes: &[u8], out: &mut [f32]) {
        let (mut group, mut scale, mut zero) = (usize::MAX, 0.0, 0);
        for (column, (out, q)) in out.iter_mut().zip(codes).enumerate() {
            let own = self.groups.of(column);
            if own != group {
                group = own;
                (scale, zero) = (self.integers.scale(row, own), self.integers.zero(row, own));
            }
            *out = scale * (i32::from(*q) - zero) as f32;
        }
    }

    /// Blocks of 32 with the group of each.
    fn block(&self, row: usize, at: usize, codes: &[u8], out: &mut [u8]) {
        let group = self.groups.of(at * BLOCK);
        let (scale, zero) = (
            self.integers.scale(row, group),
            self.integers.zero(row, group),
        );
        out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let nibbles = |out: &mut [u8]| {
            for (j, o) in out.iter_mut().enumerate() {
                *o = codes[j] & 15 | codes[j + 16] << 4;
            }
        };
        match self.packs_as {
            GgmlType::Q4_0 => nibbles(&mut out[2..]),
            GgmlType::Q4_1 => {
                let minimum = f16::from_f32(-(scale * zero as f32));
                out[2..4].copy_from_slice(&minimum.to_le_bytes());
                nibbles(&mut out[4..]);
            }
            _ => {
                let q = |code: u8| i32::from(code) - zero;
                if codes.iter().all(|c| i8::try_from(q(*c)).is_ok()) {
                    for (o, c) in out[2..].iter_mut().zip(codes) {
                        *o = q(*c) as i8 as u8;
                    }
                } else {
                    let mut values = [0f32; BLOCK];
                    for (v, c) in values.iter_mut().zip(codes) {
                        *v = scale * q(*c) as f32;
                    }
                    ggml::q8_0(&values, out);
                }
            }
        }
    }
}

impl<T: Integers> Rows for Grouped<T> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        if self.packs_as == GgmlType::F32 || !self.whole {
            let mut values = vec![0.0; self.shape[1]];
            self.values(row, &mut values);
            return rounded(&values, out);
        }
        let mut codes = vec![0; self.shape[1]];
        self.integers.codes(row, &mut codes);
        let blocks = out.chunks_exact_mut(self.packs_as.block_bytes());
        for (at, (out, codes)) in blocks.zip(codes.chunks_exact(BLOCK)).enumerate() {
            self.block(row, at, codes, out);
        }
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        let mut codes = vec![0; self.shape[1]];
        self.integers.codes(row, &mut codes);
        self.decode(row, &codes, out);
    }
}

impl<T: Integers> Coded for Grouped<T> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn packs_as(&self) -> GgmlType {
        self.packs_as
    }
    fn file_bytes(&self) -> usize {
        self.integers.file_bytes()
    }
}
