//! The quantised product with AVX-512 VNNI: a lane is an output row, four weights a lane meet four activations.
//! Few rows unpack the weights in registers; many rows share a panel unpacked once. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::input::Tile;
use super::super::pack::layout::{BLOCK, LANES, Scheme};
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::unpacked::Unpacked;
use std::arch::x86_64::*;

/// Bytes that weights are asked for ahead of their use.
const AHEAD: usize = 4096;
/// Most rows for which weights are unpacked in registers.
const FEW: usize = 8;

/// # Safety
/// As [`super::run`], on a machine with AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: panels and tiles exist; passed on.
    unsafe {
        if work.input.rows() <= FEW {
            let tile = work.input.tile(0, &F::L);
            for p in work.panels.clone() {
                few::<F>(work.matrix.panel(p).as_ptr(), &tile, p, sink);
            }
            return;
        }
        Unpacked::with(work.input.blocks(), |unpacked| {
            for p in work.panels.clone() {
                unpack::<F, false>(work.matrix.panel(p).as_ptr(), unpacked);
                for t in 0..work.input.tiles() {
                    many::<F>(unpacked, &work.input.tile(t, &F::L), p, sink);
                }
            }
        });
    }
}

/// Scales of a block for 16 output rows.
#[derive(Clone, Copy)]
struct Scales {
    d: __m512,
    m: [__m512; 2],
    /// Sub-scales of the halves as f32 (1 where there are none).
    sub: [__m512; 2],
}

/// What a group of a K-quant has once.
#[derive(Clone, Copy)]
struct Header {
    d: __m512,
    minus_m: __m512,
}

#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: 32 bytes, as the caller promised.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

#[inline(always)]
unsafe fn header<F: Format>(group: *const u8) -> Header {
    // SAFETY: a group begins with its header.
    unsafe {
        let zero = _mm512_setzero_ps();
        match F::L.scheme {
            Scheme::Scale | Scheme::ScaleMin => Header {
                d: zero,
                minus_m: zero,
            },
            _ => Header {
                d: halves(group),
                minus_m: _mm512_sub_ps(zero, halves(group.add(32))),
            },
        }
    }
}

#[inline(always)]
unsafe fn scales<F: Format>(group: *const u8, head: Header, b: usize) -> Scales {
    // SAFETY: block b's scales lie within the header.
    unsafe {
        let one = _mm512_set1_ps(1.0);
        let zero = _mm512_setzero_ps();
        let sub = |i: usize| _mm_loadu_si128(group.add(64 + 32 * b + 16 * i).cast());
        let wide = |v| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
        match F::L.scheme {
            Scheme::Scale => Scales {
                d: halves(group.add(32 * b)),
                m: [zero; 2],
                sub: [one; 2],
            },
            Scheme::ScaleMin => Scales {
                d: halves(group.add(32 * b)),
                m: [halves(group.add(64 + 32 * b)); 2],
                sub: [one; 2],
            },
            Scheme::SubMin => Scales {
                d: _mm512_mul_ps(head.d, wide(sub(0))),
                m: [_mm512_mul_ps(head.minus_m, wide(sub(1))); 2],
                sub: [one; 2],
            },
            Scheme::Pair => {
                let signed = |i| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sub(i)));
                Scales {
                    d: head.d,
                    m: [zero; 2],
                    sub: [signed(0), signed(1)],
                }
            }
            Scheme::PairMin => {
                let low = |v| wide(_mm_and_si128(v, _mm_set1_epi8(15)));
                let high = |v| wide(_mm_and_si128(_mm_srli_epi16::<4>(v), _mm_set1_epi8(15)));
                let m = |i| _mm512_mul_ps(head.minus_m, high(sub(i)));
                Scales {
                    d: head.d,
                    m: [m(0), m(1)],
                    sub: [low(sub(0)), low(sub(1))],
                }
            }
        }
    }
}

/// The weights plus offset of block `b`: vector z holds k = 4z .. 4z+3 of each lane.
#[inline(always)]
unsafe fn weights<F: Format>(group: *const u8, b: usize) -> [__m512i; 8] {
    // SAFETY: block b's planes lie within the group.
    unsafe {
        let low = group.add(F::L.low_at(b));
        let high = group.add(F::L.high_at(b));
        let load = |at: *const u8, i: usize| _mm512_load_si512(at.add(64 * i).cast());
        let mut w = [_mm512_setzero_si512(); 8];
        match F::L.low {
            8 => (0..8).for_each(|z| w[z] = load(low, z)),
            4 => {
                let mask = _mm512_set1_epi8(15);
                for j in 0..4 {
                    let v = load(low, j);
                    w[2 * j] = _mm512_and_si512(v, mask);
                    w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
                }
            }
            _ => {
                let mask = _mm512_set1_epi8(3);
                for t in 0..2 {
                    let v = load(low, t);
                    w[4 * t] = _mm512_and_si512(v, mask);
                    w[4 * t + 1] = _mm512_and_si512(_mm512_srli_epi16::<2>(v), mask);
                    w[4 * t + 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
                    w[4 * t + 3] = _mm512_and_si512(_mm512_srli_epi16::<6>(v), mask);
                }
            }
        }
        // a | (b & c)
        macro_rules! or_and {
            ($a:expr, $b:expr, $c:expr) => {
                _mm512_ternarylogic_epi32::<0xf8>($a, $b, $c)
            };
        }
        match (F::L.high, F::L.low) {
            (1, 4) => {
                let (v, bit) = (load(high, 0), _mm512_set1_epi8(16));
                w[0] = or_and!(w[0], _mm512_slli_epi16::<4>(v), bit);
                w[1] = or_and!(w[1], _mm512_slli_epi16::<3>(v), bit);
                w[2] = or_and!(w[2], _mm512_slli_epi16::<2>(v), bit);
                w[3] = or_and!(w[3], _mm512_slli_epi16::<1>(v), bit);
                w[4] = or_and!(w[4], v, bit);
                w[5] = or_and!(w[5], _mm512_srli_epi16::<1>(v), bit);
                w[6] = or_and!(w[6], _mm512_srli_epi16::<2>(v), bit);
                w[7] = or_and!(w[7], _mm512_srli_epi16::<3>(v), bit);
            }
            (1, _) => {
                let (v, bit) = (load(high, 0), _mm512_set1_epi8(4));
                w[0] = or_and!(w[0], _mm512_slli_epi16::<2>(v), bit);
                w[1] = or_and!(w[1], _mm512_slli_epi16::<1>(v), bit);
                w[2] = or_and!(w[2], v, bit);
                w[3] = or_and!(w[3], _mm512_srli_epi16::<1>(v), bit);
                w[4] = or_and!(w[4], _mm512_srli_epi16::<2>(v), bit);
                w[5] = or_and!(w[5], _mm512_srli_epi16::<3>(v), bit);
                w[6] = or_and!(w[6], _mm512_srli_epi16::<4>(v), bit);
                w[7] = or_and!(w[7], _mm512_srli_epi16::<5>(v), bit);
            }
            (2, _) => {
                let bits = _mm512_set1_epi8(0x30);
                for t in 0..2 {
                    let v = load(high, t);
                    w[4 * t] = or_and!(w[4 * t], _mm512_slli_epi16::<4>(v), bits);
                    w[4 * t + 1] = or_and!(w[4 * t + 1], _mm512_slli_epi16::<2>(v), bits);
                    w[4 * t + 2] = or_and!(w[4 * t + 2], v, bits);
                    w[4 * t + 3] = or_and!(w[4 * t + 3], _mm512_srli_epi16::<2>(v), bits);
                }
            }
            _ => {}
        }
        w
    }
}

/// Asks for block `b`'s share of the group that lies `AHEAD` bytes on.
#[inline(always)]
unsafe fn prefetch<F: Format>(group: *const u8, b: usize) {
    let lines = F::L.bytes() / 64;
    for line in b * lines / F::L.blocks..(b + 1) * lines / F::L.blocks {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(group.wrapping_add(AHEAD + 64 * line).cast()) };
    }
}

/// One block of one row: the dot product and the two or three multiply-adds, as `scalar` defines them.
#[inline(always)]
unsafe fn step<F: Format>(
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
        let parts = if matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
            2
        } else {
            1
        };
        let sums = |part: usize| tile.sums.add((b * parts + part) * tile.rows + row);
        let first = |part| match F::L.scheme {
            Scheme::Scale | Scheme::Pair => _mm512_set1_epi32(*sums(part) as i32),
            _ => _mm512_setzero_si512(),
        };
        let quarter = |dot, z: usize| {
            let dot = _mm512_dpbusd_epi32(dot, w[z], _mm512_set1_epi32(a.add(z).read_unaligned()));
            let a = _mm512_set1_epi32(a.add(z + 1).read_unaligned());
            _mm512_dpbusd_epi32(dot, w[z + 1], a)
        };
        if parts == 1 {
            let dot = quarter(quarter(first(0), 0), 2);
            let dot = _mm512_add_epi32(dot, quarter(quarter(_mm512_setzero_si512(), 4), 6));
            let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc);
            if matches!(F::L.scheme, Scheme::Scale) {
                return acc;
            }
            return _mm512_fmadd_ps(s.m[0], _mm512_set1_ps(f32::from_bits(*sums(0))), acc);
        }
        // The halves' products are integers below 2^24, so float32 adds them exactly.
        let half = |part, z| _mm512_cvtepi32_ps(quarter(quarter(first(part), z), z + 2));
        let dot = _mm512_mul_ps(half(0, 0), s.sub[0]);
        let dot = _mm512_fmadd_ps(half(1, 4), s.sub[1], dot);
        let acc = _mm512_fmadd_ps(dot, scale, acc);
        if matches!(F::L.scheme, Scheme::Pair) {
            return acc;
        }
        let sum = |part| _mm512_set1_ps(f32::from_bits(*sums(part)));
        let acc = _mm512_fmadd_ps(s.m[0], sum(0), acc);
        _mm512_fmadd_ps(s.m[1], sum(1), acc)
    }
}

#[inline(always)]
unsafe fn few<F: Format>(panel: *const u8, tile: &Tile, p: usize, sink: &Sink<'_>) {
    let mut row = 0;
    while row < tile.rows {
        // SAFETY: rows row.. exist; passed on.
        row += unsafe {
            match tile.rows - row {
                8.. => few_rows::<F, 8>(panel, tile, row, p, sink),
                4.. => few_rows::<F, 4>(panel, tile, row, p, sink),
                2.. => few_rows::<F, 2>(panel, tile, row, p, sink),
                _ => few_rows::<F, 1>(panel, tile, row, p, sink),
            }
        };
    }
}

/// R rows against a packed panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn few_rows<F: Format, const R: usize>(
    panel: *const u8,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); R];
        let mut group = panel;
        let mut block = 0;
        while block < tile.blocks {
            let head = header::<F>(group);
            for b in 0..F::L.blocks.min(tile.blocks - block) {
                prefetch::<F>(group, b);
                let w = weights::<F>(group, b);
                let s = scales::<F>(group, head, b);
                for r in 0..R {
                    acc[r] = step::<F>(acc[r], &w, &s, tile, block + b, row + r);
                }
            }
            block += F::L.blocks;
            group = group.add(F::L.bytes());
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
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

/// Weights without their offset; PairMin weights (at most 3) times their sub-scales (at most 15).
#[inline(always)]
unsafe fn signed<F: Format>(w: __m512i, sub: __m512) -> __m512i {
    // SAFETY: inlined into a function with the instruction set.
    unsafe {
        if !matches!(F::L.scheme, Scheme::PairMin) {
            return _mm512_sub_epi8(w, _mm512_set1_epi8(F::L.offset as i8));
        }
        let sub = _mm512_cvtps_epi32(sub);
        let sub = _mm512_or_si512(sub, _mm512_slli_epi32::<16>(sub));
        let low = _mm512_and_si512(w, _mm512_set1_epi16(255));
        let high = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(w), sub);
        _mm512_or_si512(_mm512_mullo_epi16(low, sub), _mm512_slli_epi16::<8>(high))
    }
}

/// Unpacks a panel: weights to bytes (SIGNED: as the tile unit takes them), scales to f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn unpack<F: Format, const SIGNED: bool>(panel: *const u8, to: &mut Unpacked) {
    // SAFETY: the panel holds as many blocks as `to`.
    unsafe {
        let mut group = panel;
        for block in 0..to.blocks() {
            let b = block % F::L.blocks;
            prefetch::<F>(group, b);
            let s = scales::<F>(group, header::<F>(group), b);
            for (z, mut w) in weights::<F>(group, b).into_iter().enumerate() {
                if SIGNED {
                    w = signed::<F>(w, s.sub[z / 4]);
                }
                _mm512_store_si512(to.weights(block).add(64 * z).cast(), w);
            }
            let mut put = |i: usize, v| _mm512_store_ps(to.scales(block, i), v);
            put(0, s.d);
            match F::L.scheme {
                Scheme::Scale => {}
                Scheme::ScaleMin | Scheme::SubMin => put(1, s.m[0]),
                Scheme::Pair => (0..2).for_each(|i| put(3 + i, s.sub[i])),
                Scheme::PairMin => {
                    (0..2).for_each(|i| put(1 + i, s.m[i]));
                    (0..2).for_each(|i| put(3 + i, s.sub[i]));
                }
            }
            if b + 1 == F::L.blocks {
                group = group.add(F::L.bytes());
            }
        }
    }
}

unsafe fn many<F: Format>(unpacked: &mut Unpacked, tile: &Tile, p: usize, sink: &Sink<'_>) {
    let mut row = 0;
    while row < tile.rows {
        // SAFETY: rows row.. exist; passed on.
        row += unsafe {
            match tile.rows - row {
                8.. => many_rows::<F, 8>(unpacked, tile, row, p, sink),
                4.. => many_rows::<F, 4>(unpacked, tile, row, p, sink),
                2.. => many_rows::<F, 2>(unpacked, tile, row, p, sink),
                _ => many_rows::<F, 1>(unpacked, tile, row, p, sink),
            }
        };
    }
}

/// R rows against an unpacked panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn many_rows<F: Format, const R: usize>(
    unpacked: &mut Unpacked,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); R];
        for b in 0..tile.blocks {
            let from = unpacked.weights(b);
            let mut w = [_mm512_setzero_si512(); 8];
            (0..8).for_each(|z| w[z] = _mm512_load_si512(from.add(64 * z).cast()));
            let mut get = |i: usize| _mm512_load_ps(unpacked.scales(b, i));
            let s = Scales {
                d: get(0),
                m: [get(1), get(2)],
                sub: [get(3), get(4)],
            };
            for r in 0..R {
                acc[r] = step::<F>(acc[r], &w, &s, tile, b, row + r);
            }
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}
