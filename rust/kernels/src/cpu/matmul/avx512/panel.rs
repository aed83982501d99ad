//! Reads packed panels with AVX-512: weights to bytes, scales to f32.
//! Functions are `inline(always)` and free of closures, so that they are compiled for their caller's instruction set;
//! the pointers they take must point to a group of the format. That is the contract behind every `unsafe` here.
use super::super::super::buffer;
use super::super::super::pack::layout::Scheme;
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use std::arch::x86_64::*;

/// Bytes that weights are asked for ahead of their use where each is used once.
pub(in super::super) const FAR: usize = 8192;
/// The same where much else passes through the cache meanwhile.
pub(in super::super) const NEAR: usize = 4096;

/// Scales of a block for 16 output rows.
#[derive(Clone, Copy)]
pub(in super::super) struct Scales {
    pub d: __m512,
    pub m: [__m512; 2],
    /// Sub-scales of the halves as f32, where there are any.
    pub sub: [__m512; 2],
}

/// What a group of a K-quant has once: scale, and the minima's scale with its sign changed.
#[derive(Clone, Copy)]
pub(in super::super) struct Header {
    d: __m512,
    minus_m: __m512,
}

#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: 32 bytes, as the caller promised.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

#[inline(always)]
unsafe fn wide(bytes: __m128i) -> __m512 {
    // SAFETY: registers only.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)) }
}

#[inline(always)]
unsafe fn wide_signed(bytes: __m128i) -> __m512 {
    // SAFETY: registers only.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) }
}

#[inline(always)]
pub(in super::super) unsafe fn header<F: Format>(group: *const u8) -> Header {
    // SAFETY: a group begins with its header.
    unsafe {
        let zero = _mm512_setzero_ps();
        match F::L.scheme {
            Scheme::Scale | Scheme::ScaleMin => Header {
                d: zero,
                minus_m: zero,
            },
            Scheme::Pair => Header {
                d: halves(group),
                minus_m: zero,
            },
            Scheme::SubMin | Scheme::PairMin => Header {
                d: halves(group),
                minus_m: _mm512_sub_ps(zero, halves(group.add(32))),
            },
        }
    }
}

#[inline(always)]
pub(in super::super) unsafe fn scales<F: Format>(
    group: *const u8,
    head: Header,
    b: usize,
) -> Scales {
    // SAFETY: block b's scales lie within the header.
    unsafe {
        let zero = [_mm512_setzero_ps(); 2];
        if matches!(F::L.scheme, Scheme::Scale) {
            return Scales {
                d: halves(group.add(32 * b)),
                m: zero,
                sub: zero,
            };
        }
        if matches!(F::L.scheme, Scheme::ScaleMin) {
            let m = halves(group.add(64 + 32 * b));
            return Scales {
                d: halves(group.add(32 * b)),
                m: [m; 2],
                sub: zero,
            };
        }
        let first = _mm_load_si128(group.add(64 + 32 * b).cast());
        let second = _mm_load_si128(group.add(80 + 32 * b).cast());
        match F::L.scheme {
            Scheme::SubMin => {
                let m = _mm512_mul_ps(head.minus_m, wide(second));
                Scales {
                    d: _mm512_mul_ps(head.d, wide(first)),
                    m: [m; 2],
                    sub: zero,
                }
            }
            Scheme::PairMin => {
                let mask = _mm_set1_epi8(15);
                let high = [
                    _mm_and_si128(_mm_srli_epi16::<4>(first), mask),
                    _mm_and_si128(_mm_srli_epi16::<4>(second), mask),
                ];
                let m = [
                    _mm512_mul_ps(head.minus_m, wide(high[0])),
                    _mm512_mul_ps(head.minus_m, wide(high[1])),
                ];
                let sub = [
                    wide(_mm_and_si128(first, mask)),
                    wide(_mm_and_si128(second, mask)),
                ];
                Scales { d: head.d, m, sub }
            }
            _ => Scales {
                d: head.d,
                m: zero,
                sub: [wide_signed(first), wide_signed(second)],
            },
        }
    }
}

/// The weights plus offset of block `b`: vector z holds k = 4z .. 4z+3 of each lane.
#[inline(always)]
pub(in super::super) unsafe fn weights<F: Format>(group: *const u8, b: usize) -> [__m512i; 8] {
    // SAFETY: block b's planes lie within the group.
    unsafe {
        let low = group.add(F::L.low_at(b)).cast::<__m512i>();
        let high = group.add(F::L.high_at(b)).cast::<__m512i>();
        let mut w = match F::L.low {
            8 => low.cast::<[__m512i; 8]>().read(),
            4 => nibbles(low),
            _ => {
                let (a, b) = (quarters(low.read()), quarters(low.add(1).read()));
                [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
            }
        };
        if let Some(table) = F::L.table {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            let mut z = 0;
            while z < 8 {
                w[z] = _mm512_shuffle_epi8(table, w[z]);
                z += 1;
            }
        }
        match (F::L.high, F::L.low) {
            (1, 4) => add_bit::<4>(w, high.read()),
            (1, _) => add_bit::<2>(w, high.read()),
            (2, _) => add_pair(w, high),
            _ => w,
        }
    }
}

#[inline(always)]
unsafe fn nibbles(low: *const __m512i) -> [__m512i; 8] {
    // SAFETY: four vectors, as the caller promised.
    unsafe {
        let mask = _mm512_set1_epi8(15);
        let mut w = [_mm512_setzero_si512(); 8];
        let mut j = 0;
        while j < 4 {
            let v = low.add(j).read();
            w[2 * j] = _mm512_and_si512(v, mask);
            w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
            j += 1;
        }
        w
    }
}

#[inline(always)]
unsafe fn quarters(v: __m512i) -> [__m512i; 4] {
    // SAFETY: registers only.
    unsafe {
        let mask = _mm512_set1_epi8(3);
        [
            _mm512_and_si512(v, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(v), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(v), mask),
        ]
    }
}

/// a | (b & c)
const OR_AND: i32 = 0xf8;

/// Sets bit AT of every weight: vector z takes bit z of `v`.
#[inline(always)]
unsafe fn add_bit<const AT: u32>(w: [__m512i; 8], v: __m512i) -> [__m512i; 8] {
    // SAFETY: registers only.
    unsafe {
        let mask = _mm512_set1_epi8(1 << AT);
        let mut w = w;
        let mut z = 0;
        while z < 8 {
            let bit = if z < AT {
                _mm512_sll_epi16(v, _mm_cvtsi32_si128((AT - z) as i32))
            } else {
                _mm512_srl_epi16(v, _mm_cvtsi32_si128((z - AT) as i32))
            };
            let at = z as usize;
            w[at] = _mm512_ternarylogic_epi32::<OR_AND>(w[at], bit, mask);
            z += 1;
        }
        w
    }
}

/// Sets bits 4 and 5 of every weight.
#[inline(always)]
unsafe fn add_pair(w: [__m512i; 8], high: *const __m512i) -> [__m512i; 8] {
    // SAFETY: two vectors, as the caller promised.
    unsafe {
        let mask = _mm512_set1_epi8(0x30);
        let mut w = w;
        let mut t = 0;
        while t < 2 {
            let v = high.add(t).read();
            let bits = [
                _mm512_slli_epi16::<4>(v),
                _mm512_slli_epi16::<2>(v),
                v,
                _mm512_srli_epi16::<2>(v),
            ];
            let mut s = 0;
            while s < 4 {
                let at = 4 * t + s;
                w[at] = _mm512_ternarylogic_epi32::<OR_AND>(w[at], bits[s], mask);
                s += 1;
            }
            t += 1;
        }
        w
    }
}

/// Asks for block `b`'s share of the group that lies `AHEAD` bytes on.
#[inline(always)]
pub(in super::super) fn prefetch<F: Format, const AHEAD: usize>(group: *const u8, b: usize) {
    let lines = F::L.bytes() / 64;
    for line in b * lines / F::L.blocks..(b + 1) * lines / F::L.blocks {
        buffer::prefetch::<1>(group.wrapping_add(AHEAD + 64 * line));
    }
}

/// Block `b` of a group, and what is needed next asked for; `head` is that of the group from its first block on.
#[inline(always)]
pub(super) unsafe fn read<F: Format>(
    head: &mut Header,
    group: *const u8,
    b: usize,
) -> ([__m512i; 8], Scales) {
    // SAFETY: passed on.
    unsafe {
        if b == 0 {
            *head = header::<F>(group);
        }
        prefetch::<F, FAR>(group, b);
        (weights::<F>(group, b), scales::<F>(group, *head, b))
    }
}

/// Writes the scales of block `b` of an unpacked panel.
#[inline(always)]
pub(super) unsafe fn keep<F: Format>(s: &Scales, to: &mut Unpacked, b: usize) {
    let to = to.scales(b, 0).cast::<__m512>();
    // SAFETY: five vectors a block.
    unsafe {
        to.write(s.d);
        if F::L.minima() {
            to.add(1).write(s.m[0]);
            to.add(2).write(s.m[1]);
        }
        if F::L.pairs() {
            to.add(3).write(s.sub[0]);
            to.add(4).write(s.sub[1]);
        }
    }
}

/// Unpacks a panel: weights to bytes, scales to f32. The panel holds as many blocks as `to`.
#[inline(always)]
pub(in super::super) unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
    // SAFETY: passed on.
    unsafe {
        let mut head = header::<F>(panel);
        for (group, b, at) in blocks::<F>(panel, to.blocks()) {
            let (w, s) = read::<F>(&mut head, group, b);
            to.weights::<u8>(at).cast::<[__m512i; 8]>().write(w);
            keep::<F>(&s, to, at);
        }
    }
}
