//! Weights of up to 6 bits against 8-bit activations, four of each a lane: by `vpdpbusd`, or by `vpmaddubsw`, of which so
//! many are added up in 16 bits as cannot overflow.
//! The contract of every `unsafe` is that of [`Arithmetic`].
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::Tile;
use super::super::super::pack::layout::{BLOCK, Layout};
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use super::panel::{Block, FAR, Packed, Ready, prefetch};
use super::{Arithmetic, Sums};
use std::arch::x86_64::*;

/// The arithmetic.
pub(in super::super) struct A8;

impl Arithmetic for A8 {
    type Activation = i8;
    type Weight = u8;

    fn few_rows(_: &Layout) -> usize {
        16
    }

    #[inline(always)]
    unsafe fn few<F: Format, const VNNI: bool, const R: usize>(
        panel: *const u8,
        tile: &Tile<i8>,
        row: usize,
    ) -> Sums<R> {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            for (group, b, at) in blocks::<F>(panel, tile.blocks) {
                prefetch::<F, FAR>(group, b);
                let weights = Packed::<F>::new(group, b);
                step::<F, _, VNNI, R>(&mut acc, &weights, tile, at, row);
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn many<F: Format, const VNNI: bool, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<i8>,
        row: usize,
    ) -> Sums<R> {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            for b in 0..tile.blocks {
                let weights = Ready::new(unpacked, b);
                step::<F, _, VNNI, R>(&mut acc, &weights, tile, b, row);
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
        // SAFETY: passed on.
        unsafe { super::panel::unpack::<F>(panel, to) }
    }
}

/// Integers of R rows and both halves of a panel.
type Dots<const R: usize> = [[__m256i; 2]; R];

/// One block of R rows, as `scalar` defines it.
#[inline(always)]
unsafe fn step<F: Format, B: Block, const VNNI: bool, const R: usize>(
    acc: &mut Sums<R>,
    weights: &B,
    tile: &Tile<i8>,
    b: usize,
    row: usize,
) {
    // SAFETY: block and rows lie within the tile.
    unsafe {
        let at = b * tile.rows + row;
        let a = tile.q.add(at * BLOCK).cast::<i32>();
        let parts = F::L.parts();
        let sums = tile.sums.add(b * parts * tile.rows + row);
        let dot = if F::L.pairs() {
            let first = dots::<F, B, VNNI, R, 0, 4>(weights, a, sums);
            let second = dots::<F, B, VNNI, R, 4, 8>(weights, a, sums.add(tile.rows));
            joined(weights, &first, &second)
        } else {
            float(&dots::<F, B, VNNI, R, 0, 8>(weights, a, sums))
        };
        for h in 0..2 {
            let d = weights.d(h);
            for r in 0..R {
                let scale = _mm256_mul_ps(d, _mm256_broadcast_ss(&*tile.d.add(at + r)));
                acc[r][h] = _mm256_fmadd_ps(dot[r][h], scale, acc[r][h]);
            }
            if F::L.minima() {
                for part in 0..parts {
                    let m = weights.m(h, part);
                    for r in 0..R {
                        let sum = sums.add(part * tile.rows + r).cast::<f32>();
                        acc[r][h] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&*sum), acc[r][h]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn float<const R: usize>(dots: &Dots<R>) -> Sums<R> {
    // SAFETY: registers only.
    unsafe {
        let mut to = [[_mm256_setzero_ps(); 2]; R];
        for r in 0..R {
            for h in 0..2 {
                to[r][h] = _mm256_cvtepi32_ps(dots[r][h]);
            }
        }
        to
    }
}

/// Both halves of a block times their sub-scales: integers below 2^24, so float32 adds them exactly.
#[inline(always)]
unsafe fn joined<B: Block, const R: usize>(
    weights: &B,
    first: &Dots<R>,
    second: &Dots<R>,
) -> Sums<R> {
    // SAFETY: see the module.
    unsafe {
        let (mut to, second) = (float(first), float(second));
        for h in 0..2 {
            let sub = weights.sub(h);
            for r in 0..R {
                let half = _mm256_mul_ps(to[r][h], sub[0]);
                to[r][h] = _mm256_fmadd_ps(second[r][h], sub[1], half);
            }
        }
        to
    }
}

/// Products of words FROM..TO of R rows' activations (32 bytes a row, one after another) and both halves of a block's
/// weights, and what the offset takes off: `sums` of the rows.
#[inline(always)]
unsafe fn dots<
    F: Format,
    B: Block,
    const VNNI: bool,
    const R: usize,
    const FROM: usize,
    const TO: usize,
>(
    weights: &B,
    a: *const i32,
    sums: *const u32,
) -> Dots<R> {
    // SAFETY: see the module.
    unsafe {
        let mut dot = [[_mm256_setzero_si256(); 2]; R];
        if VNNI {
            for z in FROM..TO {
                let w = [weights.word(z, 0), weights.word(z, 1)];
                for r in 0..R {
                    let a = word(a, r, z);
                    for h in 0..2 {
                        dot[r][h] = _mm256_dpbusd_avx_epi32(dot[r][h], w[h], a);
                    }
                }
            }
        } else if F::L.bits() <= 4 || F::L.bits() == 5 && TO - FROM == 4 {
            dot = run::<B, R, FROM, TO>(weights, a);
        } else if F::L.bits() == 5 {
            dot = run::<B, R, 0, 4>(weights, a);
            add(&mut dot, &run::<B, R, 4, 8>(weights, a));
        } else if FROM == 0 {
            debug_assert!(F::L.pairs(), "weights of 6 bits come in halves of 4 words");
            dot = run::<B, R, 0, 2>(weights, a);
            add(&mut dot, &run::<B, R, 2, 4>(weights, a));
        } else {
            dot = run::<B, R, 4, 6>(weights, a);
            add(&mut dot, &run::<B, R, 6, 8>(weights, a));
        }
        if F::L.offset != 0 {
            for r in 0..R {
                let sum = _mm256_set1_epi32(*sums.add(r) as i32);
                for h in 0..2 {
                    dot[r][h] = _mm256_add_epi32(dot[r][h], sum);
                }
            }
        }
        dot
    }
}

/// Adds `more` to `to`.
#[inline(always)]
unsafe fn add<const R: usize>(to: &mut Dots<R>, more: &Dots<R>) {
    // SAFETY: registers only.
    unsafe {
        for r in 0..R {
            for h in 0..2 {
                to[r][h] = _mm256_add_epi32(to[r][h], more[r][h]);
            }
        }
    }
}

/// A run of words whose products fit 16 bits: 8 of 4 bits at most, 2 * 15 * 127 each, 4 of 5 bits or 2 of 6.
#[inline(always)]
unsafe fn run<B: Block, const R: usize, const FROM: usize, const TO: usize>(
    weights: &B,
    a: *const i32,
) -> Dots<R> {
    // SAFETY: see the module.
    unsafe {
        let mut sum = [[_mm256_setzero_si256(); 2]; R];
        for z in FROM..TO {
            let w = [weights.word(z, 0), weights.word(z, 1)];
            for r in 0..R {
                let a = word(a, r, z);
                for h in 0..2 {
                    sum[r][h] = _mm256_add_epi16(sum[r][h], _mm256_maddubs_epi16(w[h], a));
                }
            }
        }
        let ones = _mm256_set1_epi16(1);
        for r in 0..R {
            for h in 0..2 {
                sum[r][h] = _mm256_madd_epi16(sum[r][h], ones);
            }
        }
        sum
    }
}

/// Word z of row r, in every lane.
#[inline(always)]
unsafe fn word(a: *const i32, r: usize, z: usize) -> __m256i {
    // SAFETY: 32 bytes of row r.
    unsafe { _mm256_set1_epi32(a.add(r * BLOCK / 4 + z).read_unaligned()) }
}
