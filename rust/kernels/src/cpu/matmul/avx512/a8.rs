//! Weights of any kind against 8-bit activations, four of each a lane: `vpdpbusd`.
//! The contract of every `unsafe` is that of [`Arithmetic`].
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::Tile;
use super::super::super::pack::layout::{BLOCK, Scheme};
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use super::Arithmetic;
use super::panel::{Scales, header, read};
use std::arch::x86_64::*;

/// The arithmetic.
pub(in super::super) struct A8;

impl Arithmetic for A8 {
    type Activation = i8;
    type Weight = u8;
    const FEW: usize = 16;

    #[inline(always)]
    unsafe fn few<F: Format, const R: usize>(
        panel: *const u8,
        tile: &Tile<i8>,
        row: usize,
    ) -> [__m512; R] {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); R];
            let mut head = header::<F>(panel);
            for (group, b, at) in blocks::<F>(panel, tile.blocks) {
                let (w, s) = read::<F>(&mut head, group, b);
                for r in 0..R {
                    acc[r] = step::<F, R>(acc[r], &w, &s, tile, at, row + r);
                }
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn many<F: Format, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<i8>,
        row: usize,
    ) -> [__m512; R] {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); R];
            for b in 0..tile.blocks {
                let w = unpacked.weights::<u8>(b).cast::<[__m512i; 8]>().read();
                let s = unpacked.scales(b, 0).cast::<[__m512; 5]>().read();
                let s = Scales {
                    d: s[0],
                    m: [s[1], s[2]],
                    sub: [s[3], s[4]],
                };
                for r in 0..R {
                    acc[r] = step::<F, R>(acc[r], &w, &s, tile, b, row + r);
                }
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

/// One block of one row: the dot product and the one to three multiply-adds, as `scalar` defines them.
#[inline(always)]
unsafe fn step<F: Format, const R: usize>(
    acc: __m512,
    w: &[__m512i; 8],
    s: &Scales,
    tile: &Tile,
    b: usize,
    row: usize,
) -> __m512 {
    // SAFETY: block and row lie within the tile.
    unsafe {
        let at = b * tile.rows + row;
        let a = tile.q.add(at * BLOCK).cast::<i32>();
        let scale = _mm512_mul_ps(s.d, _mm512_set1_ps(*tile.d.add(at)));
        let zero = _mm512_setzero_si512();
        match F::L.scheme {
            Scheme::Scale => {
                let first = _mm512_set1_epi32(*tile.sums.add(at) as i32);
                let dot = both::<R>(first, w, a);
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc)
            }
            Scheme::ScaleMin | Scheme::SubMin => {
                let dot = both::<R>(zero, w, a);
                let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc);
                let sum = _mm512_set1_ps(f32::from_bits(*tile.sums.add(at)));
                _mm512_fmadd_ps(s.m[0], sum, acc)
            }
            Scheme::Pair => {
                let sums = tile.sums.add(at + b * tile.rows).cast::<i32>();
                let first = half(_mm512_set1_epi32(*sums), w, a, 0);
                let second = half(_mm512_set1_epi32(*sums.add(tile.rows)), w, a, 4);
                _mm512_fmadd_ps(combine(first, second, s), scale, acc)
            }
            Scheme::PairMin => {
                let sums = tile.sums.add(at + b * tile.rows).cast::<f32>();
                let dot = combine(half(zero, w, a, 0), half(zero, w, a, 4), s);
                let acc = _mm512_fmadd_ps(dot, scale, acc);
                let acc = _mm512_fmadd_ps(s.m[0], _mm512_set1_ps(*sums), acc);
                _mm512_fmadd_ps(s.m[1], _mm512_set1_ps(*sums.add(tile.rows)), acc)
            }
        }
    }
}

/// `dot` and the products of 32 weights a lane: in two chains where few rows leave the processor waiting.
#[inline(always)]
unsafe fn both<const R: usize>(dot: __m512i, w: &[__m512i; 8], a: *const i32) -> __m512i {
    // SAFETY: 32 activations from `a` on.
    unsafe {
        let first = half(dot, w, a, 0);
        if R < 4 {
            _mm512_add_epi32(first, half(_mm512_setzero_si512(), w, a, 4))
        } else {
            half(first, w, a, 4)
        }
    }
}

/// `dot` and the products of 16 weights a lane, from vector `z` on.
#[inline(always)]
unsafe fn half(dot: __m512i, w: &[__m512i; 8], a: *const i32, z: usize) -> __m512i {
    // SAFETY: 32 activations from `a` on.
    unsafe {
        let mut dot = dot;
        let mut i = z;
        while i < z + 4 {
            dot = _mm512_dpbusd_epi32(dot, w[i], _mm512_set1_epi32(a.add(i).read_unaligned()));
            i += 1;
        }
        dot
    }
}

/// The halves' dots times their sub-scales: integers below 2^24, so float32 adds them exactly.
#[inline(always)]
unsafe fn combine(first: __m512i, second: __m512i, s: &Scales) -> __m512 {
    // SAFETY: registers only.
    unsafe {
        let first = _mm512_mul_ps(_mm512_cvtepi32_ps(first), s.sub[0]);
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(second), s.sub[1], first)
    }
}
