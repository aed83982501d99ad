//! Weights of any kind against 15-bit activations, two of each a lane: by `vpdpwssd`, or by `vpmaddwd` and an addition.
//! Nothing saturates. A panel is unpacked with offsets and sub-scales multiplied in.
//! The contract of every `unsafe` is that of [`Arithmetic`].
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::{Pairs, Tile};
use super::super::super::pack::layout::{Layout, Scheme};
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use super::panel::{Block, FAR, Packed, prefetch};
use super::{Arithmetic, Sums};
use std::arch::x86_64::*;

/// The arithmetic.
pub(in super::super) struct A15;

impl Arithmetic for A15 {
    type Activation = i16;
    type Weight = i16;

    /// Sub-scales of halves are multiplied in at every meeting, or once when a panel is unpacked.
    fn few_rows(layout: &Layout) -> usize {
        if layout.pairs() { 3 } else { 8 }
    }

    #[inline(always)]
    unsafe fn few<F: Format, const VNNI: bool, const R: usize>(
        panel: *const u8,
        tile: &Tile<i16>,
        row: usize,
    ) -> Sums<R> {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            for (group, b, at) in blocks::<F>(panel, tile.blocks) {
                prefetch::<F, FAR>(group, b);
                let weights = Packed::<F>::new(group, b);
                let from = Pairs::new(&F::L, tile, at, row);
                for h in 0..2 {
                    let dot = dots::<F, VNNI, R>(&weights, h, &from);
                    let mut m = [_mm256_setzero_ps(); 2];
                    for part in 0..F::L.minima_len() {
                        m[part] = weights.m(h, part);
                    }
                    add::<F, R>(&mut acc, h, &dot, weights.d(h), m, &from);
                }
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn many<F: Format, const VNNI: bool, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<i16>,
        row: usize,
    ) -> Sums<R> {
        // SAFETY: see the module.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            for b in 0..tile.blocks {
                let weights = unpacked.weights::<i16>(b).cast::<__m256i>();
                let scales = unpacked.scales(b, 0).cast::<__m256>();
                let from = Pairs::new(&F::L, tile, b, row);
                let mut dot = [[_mm256_setzero_si256(); R]; 2];
                for i in 0..Pairs::COUNT {
                    let w = [*weights.add(2 * i), *weights.add(2 * i + 1)];
                    for r in 0..R {
                        let a = pair(&from, r, i);
                        for h in 0..2 {
                            dot[h][r] = products::<VNNI>(dot[h][r], w[h], a);
                        }
                    }
                }
                for h in 0..2 {
                    let mut m = [_mm256_setzero_ps(); 2];
                    for part in 0..F::L.minima_len() {
                        m[part] = *scales.add(2 * (1 + part) + h);
                    }
                    add::<F, R>(&mut acc, h, &dot[h], *scales.add(h), m, &from);
                }
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
        // SAFETY: passed on.
        unsafe {
            for (group, b, at) in blocks::<F>(panel, to.blocks()) {
                prefetch::<F, FAR>(group, b);
                unpack_block(&Packed::<F>::new(group, b), to, at);
            }
        }
    }
}

/// Four bytes a lane as two pairs of words: the first two of each lane, the last two.
#[inline(always)]
unsafe fn words(bytes: __m256i) -> [__m256i; 2] {
    // SAFETY: registers only.
    unsafe {
        let first = _mm256_setr_epi8(
            0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, //
            0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1,
        );
        let last = _mm256_setr_epi8(
            2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, //
            2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1,
        );
        [
            _mm256_shuffle_epi8(bytes, first),
            _mm256_shuffle_epi8(bytes, last),
        ]
    }
}

#[inline(always)]
unsafe fn unpack_block<F: Format>(from: &Packed<F>, to: &mut Unpacked, b: usize) {
    // SAFETY: passed on.
    unsafe {
        let weights = to.weights::<i16>(b).cast::<__m256i>();
        let scales = to.scales(b, 0).cast::<__m256>();
        let offset = _mm256_set1_epi16(F::L.offset as i16);
        for h in 0..2 {
            let mut sub = [offset; 2];
            if F::L.pairs() {
                sub = from.sub_integers(h);
                for sub in &mut sub {
                    // In both words of a lane.
                    *sub = _mm256_blend_epi16::<0xaa>(*sub, _mm256_slli_epi32::<16>(*sub));
                }
            }
            for z in 0..8 {
                let mut w = words(from.word(z, h));
                for (i, w) in w.iter_mut().enumerate() {
                    if F::L.offset != 0 {
                        *w = _mm256_sub_epi16(*w, offset);
                    }
                    if F::L.pairs() {
                        *w = _mm256_mullo_epi16(*w, sub[z / 4]);
                    }
                    weights.add(2 * (2 * z + i) + h).write(*w);
                }
            }
            scales.add(h).write(from.d(h));
            if F::L.minima() {
                scales.add(2 + h).write(from.m(h, 0));
            }
            if matches!(F::L.scheme, Scheme::PairMin) {
                scales.add(4 + h).write(from.m(h, 1));
            }
        }
    }
}

/// A pair of row r, in every lane.
#[inline(always)]
unsafe fn pair(from: &Pairs, r: usize, i: usize) -> __m256i {
    // SAFETY: 16 pairs a row.
    unsafe { _mm256_set1_epi32(from.pair(r, i).read_unaligned()) }
}

/// `sum` and the products of two weights and two activations a lane.
#[inline(always)]
unsafe fn products<const VNNI: bool>(sum: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe {
        if VNNI {
            _mm256_dpwssd_avx_epi32(sum, w, a)
        } else {
            _mm256_add_epi32(sum, _mm256_madd_epi16(w, a))
        }
    }
}

/// The integers of half `h` of a packed block: the stored bits meet the activations, then the offset and the sub-scales.
#[inline(always)]
unsafe fn dots<F: Format, const VNNI: bool, const R: usize>(
    weights: &Packed<F>,
    h: usize,
    from: &Pairs,
) -> [__m256i; R] {
    // SAFETY: see the module.
    unsafe {
        if !F::L.pairs() {
            return part::<F, VNNI, R, 0, 8>(weights, h, from, 0);
        }
        let mut dot = part::<F, VNNI, R, 0, 4>(weights, h, from, 0);
        let second = part::<F, VNNI, R, 4, 8>(weights, h, from, 1);
        let sub = weights.sub_integers(h);
        for r in 0..R {
            dot[r] = _mm256_add_epi32(
                _mm256_mullo_epi32(dot[r], sub[0]),
                _mm256_mullo_epi32(second[r], sub[1]),
            );
        }
        dot
    }
}

/// Products of words FROM..TO (of 4 weights) of half `h` of a packed block; `half` is the half of the block with the offset's sums.
#[inline(always)]
unsafe fn part<F: Format, const VNNI: bool, const R: usize, const FROM: usize, const TO: usize>(
    weights: &Packed<F>,
    h: usize,
    from: &Pairs,
    half: usize,
) -> [__m256i; R] {
    // SAFETY: see the module.
    unsafe {
        let mut dot = [_mm256_setzero_si256(); R];
        if F::L.offset != 0 {
            for r in 0..R {
                dot[r] = _mm256_set1_epi32(*from.sum(half, r) as i32);
            }
        }
        for z in FROM..TO {
            let w = words(weights.word(z, h));
            for r in 0..R {
                dot[r] = products::<VNNI>(dot[r], w[0], pair(from, r, 2 * z));
                dot[r] = products::<VNNI>(dot[r], w[1], pair(from, r, 2 * z + 1));
            }
        }
        dot
    }
}

/// Adds half `h` of a block to the sums, as `scalar` defines it: scale `d`, minima `m`.
#[inline(always)]
unsafe fn add<F: Format, const R: usize>(
    acc: &mut Sums<R>,
    h: usize,
    dot: &[__m256i; R],
    d: __m256,
    m: [__m256; 2],
    from: &Pairs,
) {
    // SAFETY: see the module.
    unsafe {
        for r in 0..R {
            let scale = _mm256_mul_ps(d, _mm256_broadcast_ss(&*from.d.add(r)));
            acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), scale, acc[r][h]);
            for part in 0..F::L.minima_len() {
                let sum = from.sum(part, r).cast::<f32>();
                acc[r][h] = _mm256_fmadd_ps(m[part], _mm256_broadcast_ss(&*sum), acc[r][h]);
            }
        }
    }
}
