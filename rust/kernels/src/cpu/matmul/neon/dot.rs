//! Exact integer dot products of signed weights and activations with NEON, 4 output rows a vector. `sdot` and `smmla` by
//! `asm!`: their intrinsics are not stable. Knows neither scales nor where weights lie.
//! The contract of every `unsafe` is that of [`Block`], and that the machine has the instruction.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::pack::layout::BLOCK;
use super::super::formats::Format;
use super::panel::Block;
use std::arch::aarch64::*;
use std::arch::asm;

/// Sums of R rows and four quarters of a panel.
pub(in super::super) type Dots<const R: usize> = [[int32x4_t; 4]; R];

/// A way to multiply.
pub(in super::super) trait Instruction {
    /// The way for a single row of packed weights.
    type One: Instruction;
    /// Whether unpacked words lie in pairs, see [`Block::pair`].
    const PAIRS: bool;
    /// `first` plus the products of words FROM..TO of R rows' activations (32 bytes a row, one after another) and the
    /// block's weights.
    unsafe fn dots<F: Format, B: Block, const R: usize, const FROM: usize, const TO: usize>(
        weights: &B,
        a: *const i8,
        first: &[i32; R],
    ) -> Dots<R>;
}

/// What every processor has.
pub(in super::super) struct Base;
/// `sdot`
pub(in super::super) struct Dot;
/// `smmla`, two rows at a time.
pub(in super::super) struct Matrix;

#[inline(always)]
unsafe fn begin<const R: usize>(first: &[i32; R]) -> Dots<R> {
    // SAFETY: registers only.
    unsafe {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        for r in 0..R {
            dots[r] = [vdupq_n_s32(first[r]); 4];
        }
        dots
    }
}

impl Instruction for Base {
    type One = Base;
    const PAIRS: bool = false;

    /// So many words are added up in 16 bits as cannot overflow.
    #[inline(always)]
    unsafe fn dots<F: Format, B: Block, const R: usize, const FROM: usize, const TO: usize>(
        weights: &B,
        a: *const i8,
        first: &[i32; R],
    ) -> Dots<R> {
        // SAFETY: see the module.
        unsafe {
            // Largest magnitudes: 15 or less, 31, 63, and 128 of signed bytes, times 127.
            let run = match F::L.bits() {
                ..=5 => 8,
                6 => 4,
                _ => 2,
            };
            let mut dots = begin(first);
            for q in 0..4 {
                let mut sums = [[vdupq_n_s16(0); 2]; R];
                let mut wide = [[vdupq_n_s32(0); 2]; R];
                for z in FROM..TO {
                    let w = weights.word(z, q);
                    for r in 0..R {
                        let word = a.add(r * BLOCK + 4 * z).cast::<i32>().read_unaligned();
                        let a = vreinterpret_s8_s32(vdup_n_s32(word));
                        sums[r][0] = vmlal_s8(sums[r][0], vget_low_s8(w), a);
                        sums[r][1] = vmlal_s8(sums[r][1], vget_high_s8(w), a);
                    }
                    if z % run == run - 1 || z == TO - 1 {
                        for r in 0..R {
                            for i in 0..2 {
                                wide[r][i] = vpadalq_s16(wide[r][i], sums[r][i]);
                                sums[r][i] = vdupq_n_s16(0);
                            }
                        }
                    }
                }
                for r in 0..R {
                    let sum = vpaddq_s32(wide[r][0], wide[r][1]);
                    dots[r][q] = vaddq_s32(dots[r][q], sum);
                }
            }
            dots
        }
    }
}

/// `sum` plus the dot products of four bytes of each lane of `w` with word LANE of `a`.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(sum: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the machine has the instruction; registers only.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]", inout(vreg) sum, in(vreg) w, in(vreg) a,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

impl Instruction for Dot {
    type One = Dot;
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn dots<F: Format, B: Block, const R: usize, const FROM: usize, const TO: usize>(
        weights: &B,
        a: *const i8,
        first: &[i32; R],
    ) -> Dots<R> {
        // SAFETY: see the module.
        unsafe {
            let mut dots = begin(first);
            for half in FROM / 4..TO / 4 {
                let mut rows = [vdupq_n_s8(0); R];
                for r in 0..R {
                    rows[r] = vld1q_s8(a.add(r * BLOCK + 16 * half));
                }
                word::<B, R, 0>(weights, half, &rows, &mut dots);
                word::<B, R, 1>(weights, half, &rows, &mut dots);
                word::<B, R, 2>(weights, half, &rows, &mut dots);
                word::<B, R, 3>(weights, half, &rows, &mut dots);
            }
            dots
        }
    }
}

/// Adds the products of word LANE of a half of 16.
#[inline(always)]
unsafe fn word<B: Block, const R: usize, const LANE: usize>(
    weights: &B,
    half: usize,
    rows: &[int8x16_t; R],
    dots: &mut Dots<R>,
) {
    // SAFETY: see the module.
    unsafe {
        for q in 0..4 {
            let w = weights.word(4 * half + LANE, q);
            for r in 0..R {
                dots[r][q] = sdot::<LANE>(dots[r][q], w, rows[r]);
            }
        }
    }
}

/// `sum` plus the products of two rows of 8 bytes, `a`, and two lanes of 8 bytes, `w`.
#[inline(always)]
unsafe fn smmla(sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the machine has the instruction; registers only.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Two halves of vectors side by side: the first ones, the second ones.
#[inline(always)]
unsafe fn sides(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
    // SAFETY: registers only.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        [
            vreinterpretq_s32_s64(vzip1q_s64(a, b)),
            vreinterpretq_s32_s64(vzip2q_s64(a, b)),
        ]
    }
}

impl Instruction for Matrix {
    type One = Dot;
    const PAIRS: bool = true;

    /// Rows 2i and 2i + 1 together; a single row stands for both.
    #[inline(always)]
    unsafe fn dots<F: Format, B: Block, const R: usize, const FROM: usize, const TO: usize>(
        weights: &B,
        a: *const i8,
        first: &[i32; R],
    ) -> Dots<R> {
        // SAFETY: see the module.
        unsafe {
            // Per pair of rows, quarter and pair of lanes: [row][lane].
            let mut sums = [[[vdupq_n_s32(0); 2]; 4]; R];
            for half in FROM / 4..TO / 4 {
                let mut rows = [[vdupq_n_s32(0); 2]; R];
                for i in (0..R).step_by(2) {
                    let other = (i + 1).min(R - 1);
                    let at = |r: usize| a.add(r * BLOCK + 16 * half).cast::<i32>();
                    rows[i] = sides(vld1q_s32(at(i)), vld1q_s32(at(other)));
                }
                for part in 0..2 {
                    for q in 0..4 {
                        let w = weights.pair(4 * half + 2 * part, q);
                        for i in (0..R).step_by(2) {
                            let a = vreinterpretq_s8_s32(rows[i][part]);
                            for l in 0..2 {
                                sums[i][q][l] = smmla(sums[i][q][l], a, w[l]);
                            }
                        }
                    }
                }
            }
            let mut dots = begin(first);
            for i in (0..R).step_by(2) {
                for q in 0..4 {
                    let both = sides(sums[i][q][0], sums[i][q][1]);
                    for r in i..R.min(i + 2) {
                        dots[r][q] = vaddq_s32(dots[r][q], both[r - i]);
                    }
                }
            }
            dots
        }
    }
}
