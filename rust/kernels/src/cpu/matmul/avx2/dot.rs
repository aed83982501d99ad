//! Exact integer dot products of unsigned weights and signed activations, 8 output rows a vector: `vpdpbusd`, or
//! `vpmaddubsw` used so that its 16-bit sums cannot saturate. Knows neither scales nor where weights lie.
//! The contract of every `unsafe` is that of [`Block`], and that what the caller enables is what it asks for.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::pack::layout::BLOCK;
use super::super::formats::Format;
use super::panel::Block;
use std::arch::x86_64::*;

/// The bits of 1.5 * 2^23: as integer plus n, below 2^22, they are those of the float 1.5 * 2^23 + n, so that a
/// subtraction converts n to float32.
pub(super) const MAGIC: i32 = 0x4b40_0000;

/// `first` plus the products of words FROM..TO of R rows' activations (32 bytes a row, one after another) and both
/// halves of a block's weights.
#[inline(always)]
pub(super) unsafe fn dots<
    F: Format,
    B: Block,
    const VNNI: bool,
    const R: usize,
    const FROM: usize,
    const TO: usize,
>(
    weights: &B,
    a: *const i32,
    first: &[__m256i; R],
) -> [[__m256i; 2]; R] {
    // SAFETY: see the module.
    unsafe {
        if VNNI {
            fused::<B, R, FROM, TO>(weights, a, first)
        } else if F::L.low + F::L.high == 8 {
            signed::<B, R, FROM, TO>(weights, a, first)
        } else {
            paired::<F, B, R, FROM, TO>(weights, a, first)
        }
    }
}

/// Word z of row r, in every lane.
#[inline(always)]
unsafe fn word(a: *const i32, r: usize, z: usize) -> __m256i {
    // SAFETY: 32 bytes of row r.
    unsafe { _mm256_set1_epi32(a.add(r * BLOCK / 4 + z).read_unaligned()) }
}

#[inline(always)]
unsafe fn fused<B: Block, const R: usize, const FROM: usize, const TO: usize>(
    weights: &B,
    a: *const i32,
    first: &[__m256i; R],
) -> [[__m256i; 2]; R] {
    // SAFETY: see the module.
    unsafe {
        let mut dot = [[_mm256_setzero_si256(); 2]; R];
        for r in 0..R {
            dot[r] = [first[r]; 2];
        }
        for z in FROM..TO {
            let w = [weights.word(z, 0), weights.word(z, 1)];
            for r in 0..R {
                let a = word(a, r, z);
                for h in 0..2 {
                    dot[r][h] = _mm256_dpbusd_avx_epi32(dot[r][h], w[h], a);
                }
            }
        }
        dot
    }
}

/// Weights of up to 6 bits: so many words are added up in 16 bits as cannot overflow.
#[inline(always)]
unsafe fn paired<F: Format, B: Block, const R: usize, const FROM: usize, const TO: usize>(
    weights: &B,
    a: *const i32,
    first: &[__m256i; R],
) -> [[__m256i; 2]; R] {
    // SAFETY: see the module.
    unsafe {
        let most = 2 * ((1 << (F::L.low + F::L.high)) - 1) * 127;
        let run = (i16::MAX as usize / most).min(8).next_power_of_two();
        let run = if run * most > i16::MAX as usize {
            run / 2
        } else {
            run
        };
        let ones = _mm256_set1_epi16(1);
        let mut dot = [[_mm256_setzero_si256(); 2]; R];
        for r in 0..R {
            dot[r] = [first[r]; 2];
        }
        let mut sum = [[_mm256_setzero_si256(); 2]; R];
        for z in FROM..TO {
            let w = [weights.word(z, 0), weights.word(z, 1)];
            for r in 0..R {
                let a = word(a, r, z);
                for h in 0..2 {
                    let products = _mm256_maddubs_epi16(w[h], a);
                    sum[r][h] = if z % run == 0 {
                        products
                    } else {
                        _mm256_add_epi16(sum[r][h], products)
                    };
                }
            }
            if z % run == run - 1 || z == TO - 1 {
                for r in 0..R {
                    for h in 0..2 {
                        let sum = _mm256_madd_epi16(sum[r][h], ones);
                        dot[r][h] = _mm256_add_epi32(dot[r][h], sum);
                    }
                }
            }
        }
        dot
    }
}

/// Weights of 8 bits, offset 128. The magnitudes of w - 128, at most 128, meet activations that take its sign: a pair of
/// products is at most 2 * 128 * 127, which 16 bits hold.
#[inline(always)]
unsafe fn signed<B: Block, const R: usize, const FROM: usize, const TO: usize>(
    weights: &B,
    a: *const i32,
    first: &[__m256i; R],
) -> [[__m256i; 2]; R] {
    // SAFETY: see the module.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let _ = first; // 128 is taken off the weights, not off the sum
        let mut dot = [[_mm256_set1_epi32(MAGIC); 2]; R];
        for z in FROM..TO {
            let mut w = [_mm256_setzero_si256(); 2];
            let mut size = w;
            for h in 0..2 {
                w[h] = _mm256_xor_si256(weights.word(z, h), _mm256_set1_epi8(-128));
                size[h] = _mm256_abs_epi8(w[h]);
            }
            for r in 0..R {
                let a = word(a, r, z);
                for h in 0..2 {
                    let products = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(a, w[h]));
                    let products = _mm256_madd_epi16(products, ones);
                    dot[r][h] = _mm256_add_epi32(dot[r][h], products);
                }
            }
        }
        dot
    }
}
