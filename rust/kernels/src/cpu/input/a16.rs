//! Rows of activations to 16-bit fixed point: a = round(x * (PEAK / max |x|)), one scale a row, cut into two signed bytes
//! a = 256 * high + low. A row whose largest magnitude is below 2^-100 counts as zero; one with an infinity or NaN gets
//! the scale NaN, so that it shows in every output. Knows no matrix.
use super::super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::super::lanes::{Ymm, Zmm};
use super::forms::{Padded, Writer};
use super::{BLOCK, TILE};

/// Largest magnitude of an activation: the high byte then reaches 127 and the low one stays within a signed byte.
const PEAK: f32 = 127.0 * 256.0;
/// Magnitudes below are zero: their reciprocal would not be finite.
const TINY: f32 = f32::from_bits(27 << 23);

/// Vectors that can cut integers into bytes.
pub(super) trait Split: Lanes {
    /// Bits of the largest magnitude of `n` vectors (so a NaN is larger than infinity).
    ///
    /// # Safety
    /// As of [`Lanes`].
    #[inline(always)]
    unsafe fn largest(x: *const f32, n: usize) -> u32 {
        let mut largest = 0;
        for i in 0..n {
            // SAFETY: passed on.
            let v = unsafe { Self::load(x.add(16 * i)) };
            // SAFETY: registers only.
            largest = unsafe { v.largest_bits(v) }.max(largest);
        }
        largest
    }

    /// Rounds 16 values times `by` (ties to even) and writes the bytes of the integers; gives their sum.
    ///
    /// # Safety
    /// As of [`Lanes`]; the products lie within +-PEAK.
    #[inline(always)]
    unsafe fn split(x: *const f32, by: f32, high: *mut i8, low: *mut i8) -> i32 {
        let mut sum = 0;
        for i in 0..16 {
            // SAFETY: 16 values and bytes, as the caller promised.
            unsafe {
                let a = (*x.add(i) * by).round_ties_even() as i32;
                high.add(i).write(((a + 128) >> 8) as i8);
                low.add(i).write(a as i8);
                sum += a;
            }
        }
        sum
    }
}

impl Split for Plain {}
#[cfg(target_arch = "aarch64")]
impl Split for super::super::lanes::Neon {}
#[cfg(target_arch = "x86_64")]
impl Split for Ymm {}

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): inlined into a function with AVX-512; pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Split for Zmm {
    #[inline(always)]
    unsafe fn largest(x: *const f32, n: usize) -> u32 {
        use std::arch::x86_64::*;
        unsafe {
            let mask = _mm512_set1_epi32(0x7fff_ffff);
            let mut largest = _mm512_setzero_si512();
            for i in 0..n {
                let v = _mm512_loadu_si512(x.add(16 * i).cast());
                largest = _mm512_max_epi32(largest, _mm512_and_si512(v, mask));
            }
            _mm512_reduce_max_epi32(largest) as u32
        }
    }

    #[inline(always)]
    unsafe fn split(x: *const f32, by: f32, high: *mut i8, low: *mut i8) -> i32 {
        use std::arch::x86_64::*;
        unsafe {
            // The default rounding mode is to nearest, ties to even.
            let v = _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(by));
            let a = _mm512_cvtps_epi32(v);
            let up = _mm512_srai_epi32::<8>(_mm512_add_epi32(a, _mm512_set1_epi32(128)));
            _mm_storeu_si128(high.cast(), _mm512_cvtepi32_epi8(up));
            _mm_storeu_si128(low.cast(), _mm512_cvtepi32_epi8(a));
            _mm512_reduce_add_epi32(a)
        }
    }
}

/// Bytes, scales and (where asked for) sums of the rows of tile `t`.
///
/// # Safety
/// As [`super::forms::fill`].
#[inline(always)]
pub(super) unsafe fn a16<L: Split>(rows: &Padded, to: &Writer, t: usize, height: usize) {
    let chunks = to.blocks.div_ceil(2);
    // SAFETY: the buffers hold the tile's rows.
    unsafe {
        let bytes = to.a16.add(t * TILE * chunks * 128);
        let sums = to.a16_sums.add(t * TILE * to.blocks * 2);
        for r in 0..height {
            let x = rows.at.add(r * rows.stride);
            let largest = f32::from_bits(L::largest(x, to.blocks * 2));
            let number = (TINY..f32::INFINITY).contains(&largest);
            let by = PEAK / largest;
            to.a16_scales.add(t * TILE + r).write(if number {
                largest / PEAK
            } else if largest < TINY {
                0.0
            } else {
                f32::NAN
            });
            for b in 0..chunks * 2 {
                let high = bytes.add((b / 2 * 2 * height + r) * 64 + b % 2 * BLOCK);
                let low = high.add(height * 64);
                if !number || b == to.blocks {
                    high.write_bytes(0, BLOCK);
                    low.write_bytes(0, BLOCK);
                    if b < to.blocks {
                        sums.add(2 * b * height + r).write(0);
                        sums.add((2 * b + 1) * height + r).write(0);
                    }
                    continue;
                }
                let x = x.add(b * BLOCK);
                let first = L::split(x, by, high, low);
                let second = L::split(x.add(16), by, high.add(16), low.add(16));
                if to.forms.a16_sums {
                    sums.add(2 * b * height + r).write(first);
                    sums.add((2 * b + 1) * height + r).write(second);
                }
            }
        }
    }
}
