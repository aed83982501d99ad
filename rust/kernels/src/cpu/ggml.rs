//! Block layouts of the ggml types, as files store them, and their scalar dequantisation.
//! Knows nothing of how the kernels keep weights. Source: ggml-common.h and ggml-quants.c of llama.cpp.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use half::{bf16, f16};

mod codebook;
mod quantise;
mod search;
mod write;
pub use quantise::{MADE, q8_0, quantize};

/// Element and block types that can be read. Codes are those of GGUF tensor infos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ1_S,
    IQ1_M,
    TQ1_0,
    TQ2_0,
}

/// Values of 4-bit codes, plus 128 (`kvalues_iq4nl`).
const IQ4: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];
/// Twice the numbers of an E2M1 code, plus 16.
const E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

impl GgmlType {
    const TABLE: [(GgmlType, u32, &'static str, usize, usize); 25] = [
        (GgmlType::F32, 0, "F32", 1, 4),
        (GgmlType::F16, 1, "F16", 1, 2),
        (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
        (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
        (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
        (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
        (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
        (GgmlType::Q2_K, 10, "Q2_K", 256, 84),
        (GgmlType::Q3_K, 11, "Q3_K", 256, 110),
        (GgmlType::Q4_K, 12, "Q4_K", 256, 144),
        (GgmlType::Q5_K, 13, "Q5_K", 256, 176),
        (GgmlType::Q6_K, 14, "Q6_K", 256, 210),
        (GgmlType::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
        (GgmlType::IQ2_XS, 17, "IQ2_XS", 256, 74),
        (GgmlType::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
        (GgmlType::IQ1_S, 19, "IQ1_S", 256, 50),
        (GgmlType::IQ4_NL, 20, "IQ4_NL", 32, 18),
        (GgmlType::IQ3_S, 21, "IQ3_S", 256, 110),
        (GgmlType::IQ2_S, 22, "IQ2_S", 256, 82),
        (GgmlType::IQ4_XS, 23, "IQ4_XS", 256, 136),
        (GgmlType::IQ1_M, 29, "IQ1_M", 256, 56),
        (GgmlType::BF16, 30, "BF16", 1, 2),
        (GgmlType::TQ1_0, 34, "TQ1_0", 256, 54),
        (GgmlType::TQ2_0, 35, "TQ2_0", 256, 66),
        (GgmlType::MXFP4, 39, "MXFP4", 32, 17),
    ];

    fn entry(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        // Every variant stands in the table; the first entry is never reached for another type.
        Self::TABLE
            .iter()
            .find(|e| e.0 == self)
            .unwrap_or(&Self::TABLE[0])
    }
    /// Every type, in the order of their codes.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        Self::TABLE.iter().map(|e| e.0)
    }
    /// The type of a GGUF tensor-info code, if it can be read.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::TABLE.iter().find(|e| e.1 == code).map(|e| e.0)
    }
    /// Its code in GGUF tensor infos.
    pub fn code(self) -> u32 {
        self.entry().1
    }
    /// ggml's name, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.entry().2
    }
    /// Elements a block.
    pub fn block_len(self) -> usize {
        self.entry().3
    }
    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }
    /// Whether elements share scales.
    pub fn is_quantised(self) -> bool {
        self.block_len() > 1
    }
    /// What 4-bit codes stand for, plus the type's offset, where that is not themselves.
    pub(crate) const fn table(self) -> Option<[u8; 16]> {
        match self {
            GgmlType::IQ4_NL | GgmlType::IQ4_XS => Some(IQ4),
            GgmlType::MXFP4 => Some(E2M1),
            _ => None,
        }
    }
    /// Whether whole blocks are looked up in codebooks: no integers with a scale.
    pub(crate) const fn in_codebook(self) -> bool {
        use GgmlType as T;
        matches!(
            self,
            T::IQ2_XXS
                | T::IQ2_XS
                | T::IQ2_S
                | T::IQ3_XXS
                | T::IQ3_S
                | T::IQ1_S
                | T::IQ1_M
                | T::TQ1_0
                | T::TQ2_0
        )
    }
}

/// A file's block in one form for all quantised types: weight = scale * (q - offset) + minimum, where the scale is `d`
/// or `d * sub[j]` and the minimum 0, `m` or `-(m * min[j])`.
pub(crate) struct Raw {
    /// Weights plus the type's offset, so never negative; codes where the type has a table.
    pub q: [u8; 256],
    /// Bits of the block's f16 scale.
    pub d: u16,
    /// Bits of the f16 minimum, or of the scale of the minima (0 where the type has none).
    pub m: u16,
    /// Integer scales of sub-blocks, two's complement where signed.
    pub sub: [u8; 16],
    /// Integer minima of sub-blocks.
    pub min: [u8; 16],
}

impl Raw {
    /// A block of zeros.
    pub fn new() -> Self {
        Raw {
            q: [0; 256],
            d: 0,
            m: 0,
            sub: [0; 16],
            min: [0; 16],
        }
    }

    /// Reads one block of `ty` (`block.len() == ty.block_bytes()`); dense types leave it as it is.
    pub fn read(&mut self, ty: GgmlType, block: &[u8]) {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        (self.d, self.m) = match ty {
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => (half(0), half(2)),
            GgmlType::Q2_K => (half(80), half(82)),
            GgmlType::Q3_K => (half(108), 0),
            GgmlType::Q6_K => (half(208), 0),
            GgmlType::MXFP4 => (f16::from_f32(halved(block[0])).to_bits(), 0),
            _ => (half(0), 0),
        };
        match ty {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => {}
            GgmlType::Q4_0 | GgmlType::IQ4_NL => self.nibbles(&block[2..], 0),
            GgmlType::MXFP4 => {
                self.sub[0] = block[0];
                self.nibbles(&block[1..], 0);
            }
            GgmlType::IQ4_XS => self.iq4(block),
            GgmlType::Q4_1 => self.nibbles(&block[4..], 0),
            GgmlType::Q5_0 => self.nibbles(&block[6..], word(block, 2)),
            GgmlType::Q5_1 => self.nibbles(&block[8..], word(block, 4)),
            GgmlType::Q8_0 => {
                for (q, &v) in self.q.iter_mut().zip(&block[2..34]) {
                    *q = v ^ 0x80; // two's complement + 128
                }
            }
            GgmlType::Q2_K => self.q2(block),
            GgmlType::Q3_K => self.q3(block),
            GgmlType::Q4_K => self.q45(&block[4..16], None, &block[16..144]),
            GgmlType::Q5_K => self.q45(&block[4..16], Some(&block[16..48]), &block[48..176]),
            GgmlType::Q6_K => self.q6(block),
            _ => {}
        }
    }

    /// d, 8 scales of 6 bits (2 of them in a word of their own), nibbles of each 32.
    fn iq4(&mut self, block: &[u8]) {
        let high = u16::from_le_bytes([block[2], block[3]]);
        for i in 0..8 {
            let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
            let scale = (low | ((high >> (2 * i) & 3) << 4) as u8).wrapping_sub(32);
            (self.sub[2 * i], self.sub[2 * i + 1]) = (scale, scale);
            for j in 0..16 {
                let codes = block[8 + 16 * i + j];
                (self.q[32 * i + j], self.q[32 * i + 16 + j]) = (codes & 15, codes >> 4);
            }
        }
    }

    /// 32 weights: low nibbles first, then high ones; bit j of `high` is the fifth bit of weight j.
    fn nibbles(&mut self, qs: &[u8], high: u32) {
        for j in 0..16 {
            self.q[j] = qs[j] & 15 | ((high >> j & 1) << 4) as u8;
            self.q[j + 16] = qs[j] >> 4 | ((high >> (j + 16) & 1) << 4) as u8;
        }
    }

    /// scales [16] (low nibble scale, high nibble minimum), then 64 bytes of 2-bit weights.
    fn q2(&mut self, block: &[u8]) {
        for j in 0..16 {
            self.sub[j] = block[j] & 15;
            self.min[j] = block[j] >> 4;
        }
        self.pairs(&block[16..80]);
    }

    /// 256 weights of 2 bits: each half of 128 takes 32 bytes, 32 weights a shift.
    fn pairs(&mut self, qs: &[u8]) {
        for i in 0..256 {
            self.q[i] = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        }
    }

    /// hmask [32], 64 bytes of 2-bit weights, 16 scales of 6 bits in 12 bytes.
    fn q3(&mut self, block: &[u8]) {
        self.pairs(&block[32..96]);
        for i in 0..256 {
            self.q[i] |= (block[i % 32] >> (i / 32) & 1) << 2;
        }
        let s = &block[96..108];
        for j in 0..16 {
            let low = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
            let high = s[8 + j % 4] >> (j / 4 * 2) & 3;
            self.sub[j] = (low | high << 4).wrapping_sub(32);
        }
    }

    /// 8 scales and minima of 6 bits in 12 bytes, nibbles, and the fifth bits where there are any.
    fn q45(&mut self, s: &[u8], high: Option<&[u8]>, qs: &[u8]) {
        for j in 0..4 {
            self.sub[j] = s[j] & 63;
            self.min[j] = s[j + 4] & 63;
            self.sub[j + 4] = s[j + 8] & 15 | s[j] >> 6 << 4;
            self.min[j + 4] = s[j + 8] >> 4 | s[j + 4] >> 6 << 4;
        }
        for i in 0..256 {
            let low = qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
            self.q[i] = low | high.map_or(0, |h| (h[i % 32] >> (i / 32) & 1) << 4);
        }
    }

    /// ql [128], qh [64], scales i8 [16].
    fn q6(&mut self, block: &[u8]) {
        let (ql, qh) = (&block[..128], &block[128..192]);
        for i in 0..256 {
            let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            let low = ql[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
            self.q[i] = low | (qh[half * 32 + l] >> (quarter * 2) & 3) << 4;
        }
        self.sub.copy_from_slice(&block[192..208]);
    }

    /// Scale, minimum and offset of weight `i`.
    fn affine(&self, ty: GgmlType, i: usize) -> (f32, f32, i32) {
        let (d, m) = (
            f16::from_bits(self.d).to_f32(),
            f16::from_bits(self.m).to_f32(),
        );
        let signed = |j: usize| f32::from(self.sub[j] as i8);
        let both = |j: usize| (d * f32::from(self.sub[j]), -(m * f32::from(self.min[j])), 0);
        match ty {
            GgmlType::Q4_0 => (d, 0.0, 8),
            GgmlType::Q5_0 => (d, 0.0, 16),
            GgmlType::Q8_0 => (d, 0.0, 128),
            GgmlType::Q2_K => both(i / 16),
            GgmlType::Q3_K => (d * signed(i / 16), 0.0, 4),
            GgmlType::Q4_K | GgmlType::Q5_K => both(i / 32),
            GgmlType::Q6_K => (d * signed(i / 16), 0.0, 32),
            GgmlType::IQ4_NL => (d, 0.0, 128),
            GgmlType::IQ4_XS => (d * signed(i / 16), 0.0, 128),
            // Beyond what an f16 holds, too.
            GgmlType::MXFP4 => (halved(self.sub[0]), 0.0, 16),
            _ => (d, m, 0),
        }
    }
}

/// 2^(e - 128): half of the power of two that a byte stands for.
fn halved(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits(u32::from(e - 1) << 23),
    }
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The values of `data`, whole blocks of `ty`; `out` takes `data.len() / block_bytes * block_len` of them (what is
/// longer on either side is left).
pub fn dequantize(ty: GgmlType, data: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::F32 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        GgmlType::F16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        GgmlType::BF16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        _ if ty.in_codebook() => {
            let blocks = data.chunks_exact(ty.block_bytes());
            for (out, block) in out.chunks_exact_mut(ty.block_len()).zip(blocks) {
                codebook::block(ty, block, out);
            }
        }
        _ => {
            let mut raw = Raw::new();
            let table = ty.table();
            let blocks = data.chunks_exact(ty.block_bytes());
            for (out, block) in out.chunks_exact_mut(ty.block_len()).zip(blocks) {
                raw.read(ty, block);
                for (part, out) in out.chunks_exact_mut(16).enumerate() {
                    let (scale, minimum, offset) = raw.affine(ty, part * 16);
                    for (o, &q) in out.iter_mut().zip(&raw.q[part * 16..]) {
                        let q = table.map_or(q, |table| table[usize::from(q & 15)]);
                        *o = scale * (i32::from(q) - offset) as f32 + minimum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
