//! The quantised product with AVX-512 VNNI: a lane is an output row, four weights a lane meet four activations.
//! Few rows unpack the weights in registers; many rows share a panel unpacked once. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
pub(super) mod panel;

use super::super::input::Tile;
use super::super::pack::layout::{BLOCK, LANES, Scheme};
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::unpacked::Unpacked;
use panel::{FAR, Scales, header, prefetch, scales, unpack, weights};
use std::arch::x86_64::*;

/// Most rows for which weights are unpacked in registers.
const FEW: usize = 16;

/// # Safety
/// As [`super::run`], on a machine with AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn run<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        if work.input.rows() <= FEW {
            few_panels::<F>(work, sink);
        } else {
            let blocks = work.input.blocks();
            Unpacked::with::<u8, _>(blocks, |unpacked| many_panels::<F>(unpacked, work, sink));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn few_panels<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    let tile = work.input.tile(0, &F::L);
    for p in work.panels.clone() {
        let panel = work.matrix.panel(p).as_ptr();
        let mut row = 0;
        while row < tile.rows {
            // SAFETY: the panel and rows row.. exist; passed on.
            row += unsafe {
                match tile.rows - row {
                    8.. => few::<F, 8>(panel, &tile, row, p, sink),
                    4.. => few::<F, 4>(panel, &tile, row, p, sink),
                    2.. => few::<F, 2>(panel, &tile, row, p, sink),
                    _ => few::<F, 1>(panel, &tile, row, p, sink),
                }
            };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn many_panels<F: Format>(unpacked: &mut Unpacked, work: &Work<'_>, sink: &Sink<'_>) {
    for p in work.panels.clone() {
        // SAFETY: the panel is of the format and holds the input's blocks.
        unsafe { unpack::<F>(work.matrix.panel(p).as_ptr(), unpacked) };
        for t in 0..work.input.tiles() {
            let tile = work.input.tile(t, &F::L);
            let mut row = 0;
            while row < tile.rows {
                // SAFETY: rows row.. exist; passed on.
                row += unsafe {
                    match tile.rows - row {
                        8.. => many::<F, 8>(unpacked, &tile, row, p, sink),
                        4.. => many::<F, 4>(unpacked, &tile, row, p, sink),
                        2.. => many::<F, 2>(unpacked, &tile, row, p, sink),
                        _ => many::<F, 1>(unpacked, &tile, row, p, sink),
                    }
                };
            }
        }
    }
}

/// R rows against a packed panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn few<F: Format, const R: usize>(
    panel: *const u8,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        let mut acc = [_mm512_setzero_ps(); R];
        let mut group = panel;
        let mut block = 0;
        while block < tile.blocks {
            let head = header::<F>(group);
            for b in 0..F::L.blocks.min(tile.blocks - block) {
                prefetch::<F, FAR>(group, b);
                let w = weights::<F>(group, b);
                let s = scales::<F>(group, head, b);
                for r in 0..R {
                    acc[r] = step::<F, R>(acc[r], &w, &s, tile, block + b, row + r);
                }
            }
            block += F::L.blocks;
            group = group.add(F::L.bytes());
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}

/// R rows against an unpacked panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn many<F: Format, const R: usize>(
    unpacked: &mut Unpacked,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
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
        emit(&acc, tile.row + row, p, sink);
    }
    R
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

/// Hands finished rows to the sink.
#[inline(always)]
unsafe fn emit<const R: usize>(acc: &[__m512; R], row: usize, p: usize, sink: &Sink<'_>) {
    let mut out = [[0f32; LANES]; R];
    // SAFETY: passed on.
    unsafe {
        for r in 0..R {
            _mm512_storeu_ps(out[r].as_mut_ptr(), acc[r]);
        }
        sink.store(p, row, &out);
    }
}
