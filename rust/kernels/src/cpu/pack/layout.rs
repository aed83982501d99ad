//! How the packed form of each quantised type lies in memory. 16 output rows make a panel; a panel is a sequence of
//! groups along K; a group is a header of scales and then, block of 32 by block of 32, the bits of the weights.
//! Knows no instruction set.
use crate::cpu::ggml::{GgmlType, Raw};

/// Output rows of a panel: the lanes of a vector.
pub(crate) const LANES: usize = 16;
/// Bits of a weight up to which a plain product of bytes is faster than one of words: the sums of at least 4 products fit
/// 16 bits.
pub(crate) const FEW_BITS: usize = 6;
/// Weights of a block along K: those that one scale of the activations covers.
pub(crate) const BLOCK: usize = 32;

/// How scales and minima of a block of 32 are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `d * (q - offset)`
    Scale,
    /// `d * q + m`
    ScaleMin,
    /// `d * sub * q - m * min`, one sub-block
    SubMin,
    /// `d * sub * (q - offset)`, two sub-blocks of 16, `sub` signed
    Pair,
    /// `d * sub * q - m * min`, two sub-blocks of 16
    PairMin,
}

/// Where things stand in a group of 16 output rows.
///
/// Header: with groups of 2 blocks `d` f16 [2][16], then (ScaleMin) `m` f16 [2][16]; with groups of 8 blocks `d` f16
/// [16], `m` f16 [16] (zero where there is none) and [8][2][16] bytes: SubMin sub and min, Pair sub of each half,
/// PairMin sub | min << 4 of each half.
/// Then for each block the low planes (2, 4 or 8 bits a weight) of all blocks, then the high planes (1 or 2 bits).
/// The 32 weights of lane r are 8 words of 4 bytes, word z holding k = 4z .. 4z+3. Byte 4r + i of 64 bytes belongs to
/// lane r and k = 4z + i. Low planes: 8 bits, 64 bytes for each z; 4 bits, vector j holds z = 2j low and 2j+1 high;
/// 2 bits, vector t holds z = 4t + s at bit 2s. High planes: 1 bit, z at bit z; 2 bits as low planes of 2 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub scheme: Scheme,
    pub low: usize,
    pub high: usize,
    pub offset: i32,
    /// Blocks of 32 a group.
    pub blocks: usize,
    /// What 4-bit codes stand for, plus `offset`, where that is not themselves.
    pub table: Option<[u8; LANES]>,
}

impl Layout {
    /// The layout of a quantised type; dense types have none.
    pub const fn of(ty: GgmlType) -> Option<Layout> {
        use GgmlType as T;
        use Scheme::{Pair, PairMin, Scale, ScaleMin, SubMin};
        let (scheme, low, high, offset, blocks) = match ty {
            T::Q4_0 => (Scale, 4, 0, 8, 2),
            T::Q4_1 => (ScaleMin, 4, 0, 0, 2),
            T::Q5_0 => (Scale, 4, 1, 16, 2),
            T::Q5_1 => (ScaleMin, 4, 1, 0, 2),
            T::Q8_0 => (Scale, 8, 0, 128, 2),
            T::Q2_K => (PairMin, 2, 0, 0, 8),
            T::Q3_K => (Pair, 2, 1, 4, 8),
            T::Q4_K => (SubMin, 4, 0, 0, 8),
            T::Q5_K => (SubMin, 4, 1, 0, 8),
            T::Q6_K => (Pair, 4, 2, 32, 8),
            T::IQ4_NL => (Scale, 4, 0, 128, 2),
            T::IQ4_XS => (Pair, 4, 0, 128, 8),
            T::MXFP4 => (Scale, 4, 0, 16, 2),
            // Dense, or looked up in a codebook.
            _ => return None,
        };
        Some(Layout {
            scheme,
            low,
            high,
            offset,
            blocks,
            table: ty.table(),
        })
    }

    /// Bits of a weight as it is multiplied, plus offset.
    pub const fn bits(&self) -> usize {
        match self.table {
            Some(_) if self.offset > 16 => 8,
            Some(_) => 5,
            None => self.low + self.high,
        }
    }
    /// The least and the greatest weight plus offset.
    pub fn reach(&self) -> [i32; 2] {
        match self.table {
            Some(table) => table.iter().fold([255, 0], |[least, most], &v| {
                [least.min(v.into()), most.max(v.into())]
            }),
            None => [0, (1 << (self.low + self.high)) - 1],
        }
    }
    /// Whether there are minima beside the scales.
    pub const fn minima(&self) -> bool {
        matches!(
            self.scheme,
            Scheme::ScaleMin | Scheme::SubMin | Scheme::PairMin
        )
    }
    /// Whether a block has two sub-blocks of 16.
    pub const fn pairs(&self) -> bool {
        matches!(self.scheme, Scheme::Pair | Scheme::PairMin)
    }
    /// Sub-blocks that have scales of their own: sums of activations a block.
    pub const fn parts(&self) -> usize {
        if self.pairs() { 2 } else { 1 }
    }
    /// Minima of a block.
    pub const fn minima_len(&self) -> usize {
        if self.minima() { self.parts() } else { 0 }
    }
    /// Weights of a group along K.
    pub const fn k(&self) -> usize {
        self.blocks * BLOCK
    }
    /// Bytes of the header, whole cache lines.
    pub const fn header(&self) -> usize {
        match self.scheme {
            Scheme::Scale => 64,
            Scheme::ScaleMin => 128,
            Scheme::SubMin | Scheme::Pair | Scheme::PairMin => 64 + 256,
        }
    }
    /// Offset of block `b`'s low planes.
    pub const fn low_at(&self, b: usize) -> usize {
        self.header() + b * self.low * 64
    }
    /// Offset of block `b`'s high planes.
    pub const fn high_at(&self, b: usize) -> usize {
        self.low_at(self.blocks) + b * self.high * 64
    }
    /// Bytes of a group, whole cache lines.
    pub const fn bytes(&self) -> usize {
        self.high_at(self.blocks)
    }
    /// Bytes of a panel of `k` weights a row.
    pub const fn panel_bytes(&self, k: usize) -> usize {
        k.div_ceil(self.k()) * self.bytes()
    }

    /// Writes one file block of lane `lane` into a group; `first` is the block of 32 within the group it starts at.
    pub fn write(&self, group: &mut [u8], first: usize, lane: usize, raw: &Raw, blocks: usize) {
        let half = |group: &mut [u8], at: usize, bits: u16| {
            group[at + 2 * lane..][..2].copy_from_slice(&bits.to_le_bytes());
        };
        match self.scheme {
            Scheme::Scale => half(group, first * 32, raw.d),
            Scheme::ScaleMin => {
                half(group, first * 32, raw.d);
                half(group, 64 + first * 32, raw.m);
            }
            Scheme::SubMin | Scheme::Pair | Scheme::PairMin => {
                half(group, 0, raw.d);
                half(group, 32, raw.m);
                for b in 0..8 {
                    let pair = match self.scheme {
                        Scheme::SubMin => [raw.sub[b], raw.min[b]],
                        _ => [0, 1].map(|i| raw.sub[2 * b + i] | raw.min[2 * b + i] << 4),
                    };
                    group[64 + b * 32 + lane] = pair[0];
                    group[64 + b * 32 + 16 + lane] = pair[1];
                }
            }
        }
        for b in 0..blocks {
            let mut words = [0u32; 8];
            for (w, q) in words.iter_mut().zip(raw.q[b * BLOCK..].chunks_exact(4)) {
                *w = u32::from_le_bytes([q[0], q[1], q[2], q[3]]);
            }
            self.write_words(group, first + b, lane, &words);
        }
    }

    fn write_words(&self, group: &mut [u8], b: usize, lane: usize, words: &[u32; 8]) {
        let mut put = |at: usize, plane: usize, word: u32| {
            group[at + 64 * plane + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
        };
        let (low, high) = (self.low_at(b), self.high_at(b));
        match self.low {
            8 => (0..8).for_each(|z| put(low, z, words[z])),
            4 => (0..4).for_each(|j| {
                let mask = 0x0f0f_0f0f;
                put(low, j, words[2 * j] & mask | (words[2 * j + 1] & mask) << 4);
            }),
            _ => (0..2).for_each(|t| put(low, t, pairs(&words[4 * t..], 0))),
        }
        match self.high {
            1 => {
                let bit = |z: usize| (words[z] >> self.low & 0x0101_0101) << z;
                put(high, 0, (0..8).fold(0, |w, z| w | bit(z)));
            }
            2 => (0..2).for_each(|t| put(high, t, pairs(&words[4 * t..], self.low))),
            _ => {}
        }
    }

    /// The 32 weights (plus offset) of lane `lane` in block `b` of a group: 8 words of 4.
    pub fn words(&self, group: &[u8], b: usize, lane: usize) -> [u32; 8] {
        let codes = self.codes(group, b, lane);
        let Some(table) = self.table else {
            return codes;
        };
        let of = |code: u8| table[usize::from(code & 15)];
        codes.map(|word| u32::from_le_bytes(word.to_le_bytes().map(of)))
    }

    /// The same as they lie there.
    fn codes(&self, group: &[u8], b: usize, lane: usize) -> [u32; 8] {
        let get = |at: usize, plane: usize| {
            let g = &group[at + 64 * plane + 4 * lane..][..4];
            u32::from_le_bytes([g[0], g[1], g[2], g[3]])
        };
        let (low, high) = (self.low_at(b), self.high_at(b));
        std::array::from_fn(|z| {
            let l = match self.low {
                8 => get(low, z),
                4 => get(low, z / 2) >> (z % 2 * 4) & 0x0f0f_0f0f,
                _ => get(low, z / 4) >> (z % 4 * 2) & 0x0303_0303,
            };
            let h = match self.high {
                1 => get(high, 0) >> z & 0x0101_0101,
                2 => get(high, z / 4) >> (z % 4 * 2) & 0x0303_0303,
                _ => 0,
            };
            l | h << self.low
        })
    }

    /// Scales of lane `lane` in block `b` of a group, one for each half of 16, and the minima.
    pub fn scales(&self, group: &[u8], b: usize, lane: usize) -> Scales {
        let half = |at: usize| {
            let bits = u16::from_le_bytes([group[at + 2 * lane], group[at + 2 * lane + 1]]);
            half::f16::from_bits(bits).to_f32()
        };
        let sub = |i: usize| group[64 + b * 32 + 16 * i + lane];
        let of = |d, m, sub| Scales { d, m, sub };
        match self.scheme {
            Scheme::Scale => of(half(b * 32), [0.0; 2], [1; 2]),
            Scheme::ScaleMin => of(half(b * 32), [half(64 + b * 32); 2], [1; 2]),
            Scheme::SubMin => {
                let m = -(half(32) * f32::from(sub(1)));
                of(half(0) * f32::from(sub(0)), [m; 2], [1; 2])
            }
            Scheme::Pair => of(half(0), [0.0; 2], [0, 1].map(|i| i32::from(sub(i) as i8))),
            Scheme::PairMin => {
                let m = [0, 1].map(|i| -(half(32) * f32::from(sub(i) >> 4)));
                of(half(0), m, [0, 1].map(|i| i32::from(sub(i) & 15)))
            }
        }
    }
}

/// Four words of 2-bit weights at bit `shift`, as one plane.
fn pairs(words: &[u32], shift: usize) -> u32 {
    (0..4).fold(0, |w, s| w | (words[s] >> shift & 0x0303_0303) << (2 * s))
}

/// Scales of one lane and block of 32: weight i of half h = d * (sub[h] * (q - offset)) + m[h].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scales {
    pub d: f32,
    pub m: [f32; 2],
    pub sub: [i32; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_size_stays_near_the_files() {
        for (ty, layout) in GgmlType::all().filter_map(|t| Some((t, Layout::of(t)?))) {
            let file = layout.k() / ty.block_len() * ty.block_bytes() * LANES;
            assert!(
                layout.bytes() * 100 <= file * 109,
                "{}: {} {file}",
                ty.name(),
                layout.bytes()
            );
            assert_eq!(layout.bytes() % 64, 0);
        }
    }

    #[test]
    fn words_come_back_as_written() {
        for (ty, layout) in GgmlType::all().filter_map(|t| Some((t, Layout::of(t)?))) {
            let mut group = vec![0u8; layout.bytes()];
            let mask = (1u32 << (layout.low + layout.high)) - 1;
            let value = |b: usize, lane: usize, i: usize| {
                ((b * 7919 + lane * 104_729 + i * 31 + i * i) as u32 & mask) as u8
            };
            let per = ty.block_len() / BLOCK;
            for first in (0..layout.blocks).step_by(per) {
                for lane in 0..LANES {
                    let mut raw = Raw::new();
                    for i in 0..ty.block_len() {
                        raw.q[i] = value(first + i / 32, lane, i % 32);
                    }
                    layout.write(&mut group, first, lane, &raw, per);
                }
            }
            for b in 0..layout.blocks {
                for lane in 0..LANES {
                    let got = layout.codes(&group, b, lane).map(u32::to_le_bytes).concat();
                    let want: Vec<u8> = (0..32).map(|i| value(b, lane, i)).collect();
                    assert_eq!(got, want, "{} block {b} lane {lane}", ty.name());
                }
            }
        }
    }
}
