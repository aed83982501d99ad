//! Weights of any kind against 15-bit activations, two of each a lane: `vpdpwssd`. Nothing saturates. A panel is unpacked
//! with offsets and sub-scales multiplied in.
//! The contract of every `unsafe` is that of [`Arithmetic`].
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::{Pairs, Tile};
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use super::Arithmetic;
use super::panel::{Scales, header, keep, read};
use std::arch::x86_64::*;

/// The arithmetic.
pub(in super::super) struct A15;

impl Arithmetic for A15 {
    type Activation = i16;
    type Weight = i16;
    const FEW: usize = 8;

    #[inline(always)]
    unsafe fn few<F: Format, const R: usize>(
        panel: *const u8,
        tile: &Tile<i16>,
        row: usize,
    ) -> [__m512; R] {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); R];
            let mut head = header::<F>(panel);
            for (group, b, at) in blocks::<F>(panel, tile.blocks) {
                let (bytes, s) = read::<F>(&mut head, group, b);
                let fold = Fold::new::<F>(&s);
                let from = Pairs::new(&F::L, tile, at, row);
                let mut dot = [_mm512_setzero_si512(); R];
                let mut more = dot;
                for z in 0..8 {
                    let w = words(bytes[z]);
                    let w = [fold.of::<F>(w[0], z / 4), fold.of::<F>(w[1], z / 4)];
                    for r in 0..R {
                        dot[r] = _mm512_dpwssd_epi32(dot[r], w[0], pair(&from, r, 2 * z));
                        more[r] = _mm512_dpwssd_epi32(more[r], w[1], pair(&from, r, 2 * z + 1));
                    }
                }
                for r in 0..R {
                    dot[r] = _mm512_add_epi32(dot[r], more[r]);
                }
                add::<F, R>(&mut acc, &dot, &s, &from);
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn many<F: Format, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<i16>,
        row: usize,
    ) -> [__m512; R] {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); R];
            for b in 0..tile.blocks {
                let weights = unpacked.weights::<i16>(b).cast::<__m512i>();
                let s = unpacked.scales(b, 0).cast::<__m512>();
                let s = Scales {
                    d: *s,
                    m: [*s.add(1), *s.add(2)],
                    sub: [_mm512_setzero_ps(); 2],
                };
                let from = Pairs::new(&F::L, tile, b, row);
                let mut dot = [_mm512_setzero_si512(); R];
                for i in 0..Pairs::COUNT {
                    let w = *weights.add(i);
                    for r in 0..R {
                        dot[r] = _mm512_dpwssd_epi32(dot[r], w, pair(&from, r, i));
                    }
                }
                add::<F, R>(&mut acc, &dot, &s, &from);
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
        // SAFETY: passed on.
        unsafe {
            let mut head = header::<F>(panel);
            for (group, b, at) in blocks::<F>(panel, to.blocks()) {
                let (bytes, s) = read::<F>(&mut head, group, b);
                let fold = Fold::new::<F>(&s);
                let weights = to.weights::<i16>(at).cast::<__m512i>();
                for z in 0..8 {
                    let w = words(bytes[z]);
                    weights.add(2 * z).write(fold.of::<F>(w[0], z / 4));
                    weights.add(2 * z + 1).write(fold.of::<F>(w[1], z / 4));
                }
                keep::<F>(&s, to, at);
            }
        }
    }
}

/// Four bytes a lane as two pairs of words: the first two of each lane, the last two.
#[inline(always)]
unsafe fn words(bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: registers only.
    unsafe {
        let first = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
        let last = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
        [
            _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(first)),
            _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(last)),
        ]
    }
}

/// What makes stored bits the integers that meet activations.
struct Fold {
    offset: __m512i,
    /// Sub-scales of the halves, in both words of a lane.
    sub: [__m512i; 2],
}

impl Fold {
    #[inline(always)]
    unsafe fn new<F: Format>(s: &Scales) -> Fold {
        // SAFETY: registers only.
        unsafe {
            let offset = _mm512_set1_epi16(F::L.offset as i16);
            let mut sub = [offset; 2];
            if F::L.pairs() {
                for i in 0..2 {
                    let one = _mm512_cvtps_epi32(s.sub[i]);
                    sub[i] =
                        _mm512_mask_blend_epi16(0xaaaa_aaaa, one, _mm512_slli_epi32::<16>(one));
                }
            }
            Fold { offset, sub }
        }
    }

    /// (w - offset) * sub-scale of a half.
    #[inline(always)]
    unsafe fn of<F: Format>(&self, w: __m512i, half: usize) -> __m512i {
        // SAFETY: registers only.
        unsafe {
            let mut w = w;
            if F::L.offset != 0 {
                w = _mm512_sub_epi16(w, self.offset);
            }
            if F::L.pairs() {
                w = _mm512_mullo_epi16(w, self.sub[half]);
            }
            w
        }
    }
}

/// A pair of row r, in every lane.
#[inline(always)]
unsafe fn pair(from: &Pairs, r: usize, i: usize) -> __m512i {
    // SAFETY: 16 pairs a row.
    unsafe { _mm512_set1_epi32(from.pair(r, i).read_unaligned()) }
}

/// Adds a block to the sums, as `scalar` defines it.
#[inline(always)]
unsafe fn add<F: Format, const R: usize>(
    acc: &mut [__m512; R],
    dot: &[__m512i; R],
    s: &Scales,
    from: &Pairs,
) {
    // SAFETY: see the module.
    unsafe {
        for r in 0..R {
            let scale = _mm512_mul_ps(s.d, _mm512_set1_ps(*from.d.add(r)));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), scale, acc[r]);
            for part in 0..F::L.minima_len() {
                let sum = _mm512_set1_ps(*from.sum(part, r).cast());
                acc[r] = _mm512_fmadd_ps(s.m[part], sum, acc[r]);
            }
        }
    }
}
