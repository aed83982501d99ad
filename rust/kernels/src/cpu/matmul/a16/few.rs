//! Few rows in fixed point with AVX-512 VNNI: integer dots of the stored bits with both bytes of the activations, times
//! the block's integers, in 64-bit sums. Weights are read once and never widened. Same bits as the oracle.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::A16Tile;
use super::super::super::pack::layout::{BLOCK, LANES, Scheme};
use super::super::Work;
use super::super::avx512::panel::{FAR, Header, Scales, header, prefetch, scales, weights};
use super::super::formats::Format;
use super::super::sink::Sink;
use std::arch::x86_64::*;

/// # Safety
/// As [`super::super::run`], on a machine with AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) unsafe fn run<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    for p in work.panels.clone() {
        for t in 0..work.input.tiles() {
            let tile = work.input.a16_tile(t);
            let mut row = 0;
            while row < tile.rows {
                // SAFETY: the panel and rows row.. exist; passed on.
                row += unsafe {
                    match tile.rows - row {
                        4.. => rows::<F, 4>(work, &tile, row, p, sink),
                        2.. => rows::<F, 2>(work, &tile, row, p, sink),
                        _ => rows::<F, 1>(work, &tile, row, p, sink),
                    }
                };
            }
        }
    }
}

/// Sums of the even and of the odd lanes.
type Sum = [__m512i; 2];

/// The integers of a half of a block as 32-bit lanes.
#[derive(Clone, Copy)]
struct Factors {
    mul: __m512i,
    /// Without the weights' offset.
    add: __m512i,
}

/// R rows against a panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<F: Format, const R: usize>(
    work: &Work<'_>,
    tile: &A16Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    let (d, inverse) = work.matrix.panel_scales(p);
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        let inverse = _mm512_loadu_ps(inverse.as_ptr());
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        let mut group = work.matrix.panel(p).as_ptr();
        let mut block = 0;
        while block < tile.blocks {
            let head: Header = header::<F>(group);
            for b in 0..F::L.blocks.min(tile.blocks - block) {
                prefetch::<F, FAR>(group, b);
                let w = weights::<F>(group, b);
                let s = scales::<F>(group, head, b);
                step::<F, R>(&mut sums, &w, &s, inverse, tile, block + b, row);
            }
            block += F::L.blocks;
            group = group.add(F::L.bytes());
        }
        let d = _mm512_loadu_ps(d.as_ptr());
        let mut out = [[0f32; LANES]; R];
        for r in 0..R {
            let scale = _mm512_set1_ps(*tile.scales.add(row + r));
            let v = _mm512_mul_ps(_mm512_mul_ps(rounded(sums[r]), scale), d);
            _mm512_storeu_ps(out[r].as_mut_ptr(), v);
        }
        sink.store(p, tile.row + row, &out);
    }
    R
}

/// One block of R rows.
#[inline(always)]
unsafe fn step<F: Format, const R: usize>(
    sums: &mut [Sum; R],
    w: &[__m512i; 8],
    s: &Scales,
    inverse: __m512,
    tile: &A16Tile,
    b: usize,
    row: usize,
) {
    // SAFETY: block and rows lie within the tile.
    unsafe {
        if matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
            let mut half = 0;
            while half < 2 {
                let f = factors::<F>(s, half, inverse);
                for r in 0..R {
                    let at = Activations::new(tile, row + r, b);
                    let sum = *at.sums.add(half * tile.rows);
                    let dot = dot::<4, R>(w, 4 * half, &at, -F::L.offset * sum);
                    add::<F>(&mut sums[r], dot, f, sum);
                }
                half += 1;
            }
        } else {
            let f = factors::<F>(s, 0, inverse);
            for r in 0..R {
                let at = Activations::new(tile, row + r, b);
                let sum = *at.sums + *at.sums.add(tile.rows);
                let dot = dot::<8, R>(w, 0, &at, -F::L.offset * sum);
                add::<F>(&mut sums[r], dot, f, sum);
            }
        }
    }
}

/// A row's block: high and low bytes, sums of the halves (`rows` apart).
struct Activations {
    high: *const i32,
    low: *const i32,
    sums: *const i32,
}

impl Activations {
    #[inline(always)]
    unsafe fn new(tile: &A16Tile, row: usize, b: usize) -> Self {
        // SAFETY: row and block lie within the tile.
        unsafe {
            Activations {
                high: tile.part(row, b, 0).cast(),
                low: tile.part(row, b, 1).cast(),
                sums: tile.sums.add(2 * b * tile.rows + row),
            }
        }
    }
}

#[inline(always)]
unsafe fn factors<F: Format>(s: &Scales, half: usize, inverse: __m512) -> Factors {
    // SAFETY: registers only; the default rounding mode is to nearest, ties to even.
    unsafe {
        let d = match F::L.scheme {
            Scheme::Pair | Scheme::PairMin => _mm512_mul_ps(s.d, s.sub[half]),
            _ => s.d,
        };
        Factors {
            mul: _mm512_cvtps_epi32(_mm512_mul_ps(d, inverse)),
            add: _mm512_cvtps_epi32(_mm512_mul_ps(s.m[half], inverse)),
        }
    }
}

/// `first` and the products of the N vectors of weights from `z` on with 16-bit activations: below 2^29.
#[inline(always)]
unsafe fn dot<const N: usize, const R: usize>(
    w: &[__m512i; 8],
    z: usize,
    a: &Activations,
    first: i32,
) -> __m512i {
    // SAFETY: 32 activations in each part.
    unsafe {
        let mut high = _mm512_setzero_si512();
        let mut low = _mm512_set1_epi32(first);
        let mut i = z;
        while i < z + N {
            let h = _mm512_set1_epi32(a.high.add(i).read_unaligned());
            let l = _mm512_set1_epi32(a.low.add(i).read_unaligned());
            high = _mm512_dpbusd_epi32(high, w[i], h);
            low = _mm512_dpbusd_epi32(low, w[i], l);
            i += 1;
        }
        _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low)
    }
}

/// sums += dot * mul + sum * add, 32 x 32 -> 64 bits.
#[inline(always)]
unsafe fn add<F: Format>(sums: &mut Sum, dot: __m512i, f: Factors, sum: i32) {
    // SAFETY: registers only.
    unsafe {
        let odd = [
            _mm512_srli_epi64::<32>(dot),
            _mm512_srli_epi64::<32>(f.mul),
            _mm512_srli_epi64::<32>(f.add),
        ];
        sums[0] = _mm512_add_epi64(sums[0], _mm512_mul_epi32(dot, f.mul));
        sums[1] = _mm512_add_epi64(sums[1], _mm512_mul_epi32(odd[0], odd[1]));
        if !matches!(F::L.scheme, Scheme::Scale | Scheme::Pair) {
            let sum = _mm512_set1_epi32(sum);
            sums[0] = _mm512_add_epi64(sums[0], _mm512_mul_epi32(f.add, sum));
            sums[1] = _mm512_add_epi64(sums[1], _mm512_mul_epi32(odd[2], sum));
        }
    }
}

/// The float32 next to each sum, as the oracle's `rounded` finds it, lanes in order.
#[inline(always)]
unsafe fn rounded(sums: Sum) -> __m512 {
    const ODD: __mmask16 = 0xaaaa;
    // SAFETY: registers only.
    unsafe {
        let high = [
            _mm512_srai_epi64::<16>(sums[0]),
            _mm512_srai_epi64::<16>(sums[1]),
        ];
        let high = _mm512_mask_mov_epi32(high[0], ODD, _mm512_slli_epi64::<32>(high[1]));
        let low = _mm512_mask_mov_epi32(sums[0], ODD, _mm512_slli_epi64::<32>(sums[1]));
        let low = _mm512_and_si512(low, _mm512_set1_epi32(0xffff));
        let unit = _mm512_set1_ps(65536.0);
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), unit, _mm512_cvtepi32_ps(low))
    }
}

const _: () = assert!(BLOCK == 32 && LANES == 16);
