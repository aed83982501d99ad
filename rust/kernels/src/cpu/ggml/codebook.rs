//! ggml's types that are looked up in codebooks (IQ1 to IQ3) and its ternary ones (TQ): blocks of 256 to values. The
//! kernels have no panels for them: they are packed as int8. Sources: ggml-common.h and ggml-quants.c of llama.cpp.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::{GgmlType, word};
use half::f16;

/// Elements of a block.
const BLOCK: usize = 256;

/// All codebooks, one after the other (testdata/make_ggml_grids.py).
const GRIDS: &[u8] = include_bytes!("grids.bin");

/// Where a codebook begins in [`GRIDS`], in entries.
const IQ2_XXS: usize = 0;
const IQ2_XS: usize = 256;
const IQ2_S: usize = 768;
const IQ3_XXS: usize = 1792;
const IQ3_S: usize = 2048;
const IQ1_S: usize = 2560;

/// Values that the numbers of a codebook stand for.
const TWO: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const THREE: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const ODD: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const TERNARY: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];

/// What IQ1 adds to or takes from the numbers of a codebook.
const DELTA: f32 = 0.125;

/// Entry `at` of the codebook that begins at `first`: N numbers of 16 / N bits or less.
fn entry<const N: usize, const V: usize>(first: usize, at: usize, values: &[f32; V]) -> [f32; N] {
    let bits = V.ilog2() as usize;
    let at = 2 * (first + at);
    let word = usize::from(u16::from_le_bytes([GRIDS[at], GRIDS[at + 1]]));
    std::array::from_fn(|i| values[word >> (bits * i) & (V - 1)])
}

/// Signs of 8 numbers in 7 bits: the last one makes the number of minuses even.
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | ((signs.count_ones() as u8 & 1) << 7)
}

/// Writes `scale * number`, with its sign, of so many numbers.
fn put(out: &mut [f32], scale: f32, numbers: &[f32], signs: u8) {
    for (i, (out, v)) in out.iter_mut().zip(numbers).enumerate() {
        let v = scale * v;
        *out = if signs >> i & 1 == 1 { -v } else { v };
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn short(block: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The 4 bits of sub-block `i` of 16, as a factor.
fn nibble(scales: &[u8], i: usize) -> f32 {
    f32::from(scales[i / 2] >> (i % 2 * 4) & 15)
}

/// The values of one block of `ty`; of other types nothing.
pub(super) fn block(ty: GgmlType, block: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::IQ2_XXS => iq2_xxs(block, out),
        GgmlType::IQ2_XS => iq2_xs(block, out),
        GgmlType::IQ2_S => iq2_s(block, out),
        GgmlType::IQ3_XXS => iq3_xxs(block, out),
        GgmlType::IQ3_S => iq3_s(block, out),
        GgmlType::IQ1_S => iq1_s(block, out),
        GgmlType::IQ1_M => iq1_m(block, out),
        GgmlType::TQ1_0 => tq1_0(block, out),
        GgmlType::TQ2_0 => tq2_0(block, out),
        _ => {}
    }
}

/// d, then for each 32: 4 entries of a byte; 4 times 7 bits of signs and 4 of scale.
fn iq2_xxs(block: &[u8], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (at, rest) = (2 + 8 * i, word(block, 6 + 8 * i));
        let scale = half(block, 0) * (0.5 + (rest >> 28) as f32) * 0.25;
        for (j, out) in out.chunks_exact_mut(8).enumerate() {
            let numbers: [f32; 8] = entry(IQ2_XXS, usize::from(block[at + j]), &TWO);
            put(out, scale, &numbers, even(rest >> (7 * j)));
        }
    }
}

/// d, for each 8 an entry of 9 bits and 7 bits of signs, for each 16 a scale of 4 bits.
fn iq2_xs(block: &[u8], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let code = short(block, 2 + 2 * i);
        let scale = half(block, 0) * (0.5 + nibble(&block[66..], i / 2)) * 0.25;
        let numbers: [f32; 8] = entry(IQ2_XS, code & 511, &TWO);
        put(out, scale, &numbers, even((code >> 9) as u32));
    }
}

/// d, for each 8 an entry of 8 and 2 bits, signs of 8 bits, for each 16 a scale of 4 bits.
fn iq2_s(block: &[u8], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = usize::from(block[66 + i / 4] >> (i % 4 * 2) & 3);
        let scale = half(block, 0) * (0.5 + nibble(&block[74..], i / 2)) * 0.25;
        let code = usize::from(block[2 + i]) | high << 8;
        let numbers: [f32; 8] = entry(IQ2_S, code, &TWO);
        put(out, scale, &numbers, block[34 + i]);
    }
}

/// d, for each 4 an entry of a byte; for each 32: 4 times 7 bits of signs and 4 of scale.
fn iq3_xxs(block: &[u8], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let rest = word(block, 66 + 4 * i);
        let scale = half(block, 0) * (0.5 + (rest >> 28) as f32) * 0.5;
        for (j, out) in out.chunks_exact_mut(4).enumerate() {
            let code = usize::from(block[2 + 8 * i + j]);
            let numbers: [f32; 4] = entry(IQ3_XXS, code, &THREE);
            put(
                out,
                scale,
                &numbers,
                even(rest >> (7 * (j / 2))) >> (j % 2 * 4),
            );
        }
    }
}

/// d, for each 4 an entry of 8 and 1 bits, signs of a bit each, for each 32 a scale of 4 bits.
fn iq3_s(block: &[u8], out: &mut [f32]) {
    for (j, out) in out.chunks_exact_mut(4).enumerate() {
        let high = usize::from(block[66 + j / 8] >> (j % 8) & 1);
        let scale = half(block, 0) * (1.0 + 2.0 * nibble(&block[106..], j / 8));
        let code = usize::from(block[2 + j]) | high << 8;
        let numbers: [f32; 4] = entry(IQ3_S, code, &ODD);
        put(out, scale, &numbers, block[74 + j / 2] >> (j % 2 * 4));
    }
}

/// d, for each 8 an entry of 8 and 3 bits, for each 32 a scale of 3 bits and the sign of delta.
fn iq1_s(block: &[u8], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let high = short(block, 34 + 2 * i);
        let scale = half(block, 0) * (2 * (high >> 12 & 7) + 1) as f32;
        let delta = if high & 0x8000 == 0 { DELTA } else { -DELTA };
        for (j, out) in out.chunks_exact_mut(8).enumerate() {
            let code = usize::from(block[2 + 4 * i + j]) | (high >> (3 * j) & 7) << 8;
            let numbers: [f32; 8] = entry(IQ1_S, code, &TERNARY);
            put(out, scale, &numbers.map(|v| v + delta), 0);
        }
    }
}

/// For each 8 an entry of 8 and 3 bits and the sign of delta, for each 16 a scale of 3 bits; d in what they leave of words.
fn iq1_m(block: &[u8], out: &mut [f32]) {
    let scales = [0, 1, 2, 3].map(|i| short(block, 48 + 2 * i));
    let d = (0..4).fold(0, |d, i| d | (scales[i] >> 12) << (4 * i));
    let d = f16::from_bits(d as u16).to_f32();
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = usize::from(block[32 + i / 2] >> (i % 2 * 4));
        let scale = d * (2 * (scales[i / 8] >> (i / 2 % 4 * 3) & 7) + 1) as f32;
        let delta = if high & 8 == 0 { DELTA } else { -DELTA };
        let code = usize::from(block[i]) | (high & 7) << 8;
        let numbers: [f32; 8] = entry(IQ1_S, code, &TERNARY);
        put(out, scale, &numbers.map(|v| v + delta), 0);
    }
}

/// Numbers of a byte in base 3, the most significant digit first, of `count` bytes from `at` on: `digits` of each byte.
fn digits(block: &[u8], at: usize, count: usize, digits: u32, d: f32, out: &mut [f32]) {
    for (i, out) in out
        .chunks_exact_mut(count)
        .take(digits as usize)
        .enumerate()
    {
        for (j, out) in out.iter_mut().enumerate() {
            let digit = block[at + j].wrapping_mul(3u8.pow(i as u32));
            *out = d * (f32::from(((u16::from(digit) * 3) >> 8) as u8) - 1.0);
        }
    }
}

/// 32 and 16 bytes of 5 digits, 4 bytes of 4, d.
fn tq1_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 52);
    digits(block, 0, 32, 5, d, &mut out[..160]);
    digits(block, 32, 16, 5, d, &mut out[160..240]);
    digits(block, 48, 4, 4, d, &mut out[240..BLOCK]);
}

/// 2 bits a number, each half of 128 in 32 bytes, d.
fn tq2_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 64);
    for i in 0..BLOCK {
        let q = block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out[i] = d * (f32::from(q) - 1.0);
    }
}
