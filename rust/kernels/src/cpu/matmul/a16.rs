//! Quantised weights in 16-bit fixed point: the arithmetic of tile units, whose products must not stop at every block.
//! Here: its definition and its oracle. Everything between the rounding of the operands and that of the result is
//! integer and exact, so every order, number of rows and instruction set gives the same bits.
//!
//!   a   = round(x * (PEAK / max |x|))                    activations, one scale a row
//!   w   = mul * q + add                                  weights; for each block (or half of 16) and output row
//!         mul = round(d * sub / D), add = round(m / D) - offset * mul,   D: the output row's scale, see [`row_scale`]
//!   sum = sum over K of a * w                            |sum| < 2^46
//!   out = fma(floor(sum / 2^16), 2^16, sum mod 2^16) * (max |x| / PEAK) * D
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(any(target_arch = "x86_64", test))]
mod tiles;

use super::super::input::A16Tile;
use super::super::pack::layout::{BLOCK, LANES, Layout, Scales, Scheme};
use super::Work;
use super::sink::Sink;
#[cfg(target_arch = "x86_64")]
pub(super) use few::run as few;
#[cfg(target_arch = "x86_64")]
pub(super) use tiles::amx;

/// Most columns whose sums of products stay within 32 bits: 2 * 128 * 255 * K < 2^31.
pub(crate) const MOST_COLUMNS: usize = 32 * 1024;
/// Largest magnitude of a weight in units of its row's scale; room is left for the rounding of `mul` (half a unit
/// times a weight of at most 255) and `add`.
const WEIGHT_PEAK: f32 = 32_000.0;
/// Rows from which the tile unit is faster than vectors.
pub(crate) const TILE_ROWS: usize = 4;

/// Integers of one lane in a half of 16 of a block.
pub(crate) fn factors(layout: &Layout, s: &Scales, inverse: f32) -> [(i16, i16); 2] {
    [0, 1].map(|half| {
        let mul = (s.d * s.sub[half] as f32 * inverse).round_ties_even() as i32;
        let add = match layout.scheme {
            Scheme::Scale | Scheme::Pair => 0,
            _ => (s.m[half] * inverse).round_ties_even() as i32,
        };
        (mul as i16, (add - layout.offset * mul) as i16)
    })
}

/// The scale D of an output row and what weights are multiplied with, from the scales of all its blocks: the largest
/// magnitude that any bits could stand for becomes WEIGHT_PEAK. A row of zeros has (0, 0), one with an infinity or
/// NaN (NaN, 0), so that it shows in the output.
pub(crate) fn row_scale(layout: &Layout, blocks: impl Iterator<Item = Scales>) -> (f32, f32) {
    let [low, high] = layout.reach().map(|q| (q - layout.offset) as f32);
    let mut most = 0f32;
    let mut finite = true;
    for s in blocks {
        for half in 0..2 {
            let d = s.d * s.sub[half] as f32;
            for q in [low, high] {
                let size = d.mul_add(q, s.m[half]).abs();
                finite &= size.is_finite();
                most = most.max(size);
            }
        }
    }
    if !finite {
        (f32::NAN, 0.0)
    } else if most < f32::MIN_POSITIVE * WEIGHT_PEAK {
        (0.0, 0.0)
    } else {
        (most / WEIGHT_PEAK, WEIGHT_PEAK / most)
    }
}

/// The result of a sum; see the top of this file.
fn rounded(sum: i64, scale: f32, d: f32) -> f32 {
    let high = (sum >> 16) as i32;
    (high as f32).mul_add(65536.0, (sum & 0xffff) as f32) * scale * d
}

/// The oracle.
///
/// # Safety
/// As [`super::run`].
pub(super) unsafe fn scalar(layout: &Layout, work: &Work<'_>, sink: &Sink<'_>) {
    let input = work.input;
    let mut out = vec![[0f32; LANES]; input.rows()];
    let mut weights = vec![[0i16; BLOCK]; input.blocks()];
    for p in work.panels.clone() {
        for lane in 0..LANES {
            let (d, inverse) = work.matrix.row_scale(p * LANES + lane);
            for (b, w) in weights.iter_mut().enumerate() {
                *w = block(layout, work.matrix.panel(p), b, lane, inverse);
            }
            for (r, out) in out.iter_mut().enumerate() {
                let tile = input.a16_tile(r / 16);
                // SAFETY: the row lies within the tile.
                out[lane] = unsafe {
                    let sum = (0..weights.len())
                        .map(|b| dot(&tile, r % 16, b, &weights[b]))
                        .sum();
                    rounded(sum, *tile.scales.add(r % 16), d)
                };
            }
        }
        // SAFETY: passed on.
        unsafe { sink.store(p, 0, &out) };
    }
}

/// The weights of one lane and block of 32.
pub(super) fn block(
    layout: &Layout,
    panel: &[u8],
    b: usize,
    lane: usize,
    inverse: f32,
) -> [i16; BLOCK] {
    let group = &panel[b / layout.blocks * layout.bytes()..][..layout.bytes()];
    let scales = layout.scales(group, b % layout.blocks, lane);
    let words = layout.words(group, b % layout.blocks, lane);
    let factors = factors(layout, &scales, inverse);
    std::array::from_fn(|i| {
        let (mul, add) = factors[i / 16];
        let q = i16::from(words[i / 4].to_le_bytes()[i % 4]);
        mul.wrapping_mul(q).wrapping_add(add)
    })
}

/// Row `row` of a tile against the 32 weights of block `b`.
unsafe fn dot(tile: &A16Tile, row: usize, b: usize, weights: &[i16; BLOCK]) -> i64 {
    // SAFETY: both parts of the row's block lie within the tile.
    let part = |part: usize| unsafe { &*tile.part(row, b, part).cast::<[i8; BLOCK]>() };
    let (high, low) = (part(0), part(1));
    (0..BLOCK)
        .map(|i| (i64::from(high[i]) * 256 + i64::from(low[i])) * i64::from(weights[i]))
        .sum()
}

#[cfg(test)]
mod tests;
