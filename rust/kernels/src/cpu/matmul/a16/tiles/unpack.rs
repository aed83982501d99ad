//! Packed panels to tiles with AVX-512.
use super::super::super::super::lanes::Zmm;
use super::super::super::super::pack::layout::Scheme;
use super::super::super::super::tile_unit::Amx;
use super::super::super::avx512::panel::{NEAR, Scales, header, prefetch, scales, weights};
use super::super::super::formats::Format;
use super::{Ring, Sink, Unpack, Work};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// # Safety
/// As [`super::panels`], on a machine with AMX-INT8 and AVX-512.
pub(in super::super::super) unsafe fn amx<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    Ring::with(work, |ring| {
        // SAFETY: passed on.
        unsafe { inside::<F>(ring, work, sink) }
    });
}

/// A closure would not have the instruction set.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn inside<F: Format>(ring: Ring, work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on; the instruction set is enabled here.
    unsafe { super::panels::<Amx, Zmm, _>(&Vectors::<F>(PhantomData), ring, work, sink) }
}

/// AVX-512.
struct Vectors<F>(PhantomData<F>);

impl<F: Format> Unpack for Vectors<F> {
    #[inline(always)]
    unsafe fn chunk(&self, work: &Work<'_>, p: usize, chunk: usize, to: *mut u8) {
        let (_, inverse) = work.matrix.panel_scales(p);
        let first = 2 * chunk;
        // SAFETY: groups are whole, so both blocks of the chunk lie within one.
        unsafe {
            let inverse = _mm512_loadu_ps(inverse.as_ptr());
            let group = work
                .matrix
                .panel(p)
                .as_ptr()
                .add(first / F::L.blocks * F::L.bytes());
            let head = header::<F>(group);
            let mut i = 0;
            while i < 2 {
                let b = first % F::L.blocks + i;
                prefetch::<F, NEAR>(group, b);
                let s = scales::<F>(group, head, b);
                let w = weights::<F>(group, b);
                block::<F>(&w, &s, inverse, to.add(i * 512).cast());
                i += 1;
            }
        }
    }
}

/// a | (b & c)
const OR_AND: i32 = 0xf8;

/// High bytes of mul * q + add to `to`, low bytes a tile further on.
#[inline(always)]
unsafe fn block<F: Format>(w: &[__m512i; 8], s: &Scales, inverse: __m512, to: *mut __m512i) {
    // SAFETY: 512 bytes in each of the two tiles.
    unsafe {
        let low = _mm512_set1_epi16(0x00ff);
        let (swap, even_bytes, odd_bytes) = swapped();
        let mut f = factors::<F>(s, 0, inverse);
        let mut z = 0;
        while z < 8 {
            if z == 4 && matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
                f = factors::<F>(s, 1, inverse);
            }
            let even = _mm512_mullo_epi16(_mm512_and_si512(w[z], low), f[0]);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(w[z]), f[0]);
            let (even, odd) = (_mm512_add_epi16(even, f[1]), _mm512_add_epi16(odd, f[1]));
            // Byte shuffles, for shifts would queue up at the one port that takes both them and, beside the
            // tile unit, multiplications.
            let highs = _mm512_mask_shuffle_epi8(odd, even_bytes, even, swap);
            let lows = _mm512_mask_shuffle_epi8(even, odd_bytes, odd, swap);
            _mm512_store_si512(to.add(z), highs);
            _mm512_store_si512(to.add(16 + z), lows);
            z += 1;
        }
    }
}

/// Bytes 1, 0, 3, 2 and so on, as an index of byte shuffles, and the masks of even and odd ones; kept from the compiler,
/// which would make shifts and blends of them.
#[inline(always)]
unsafe fn swapped() -> (__m512i, u64, u64) {
    // SAFETY: registers only.
    unsafe {
        let mut index = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
        let mut even: u64 = 0x5555_5555_5555_5555;
        let mut odd = !even;
        std::arch::asm!("/* {0} {1} {2} */", inout(xmm_reg) index, inout(reg) even, inout(reg) odd,
            options(pure, nomem, nostack, preserves_flags));
        (_mm512_broadcast_i32x4(index), even, odd)
    }
}

/// mul and add of a half in both words of each lane.
#[inline(always)]
unsafe fn factors<F: Format>(s: &Scales, half: usize, inverse: __m512) -> [__m512i; 2] {
    // SAFETY: registers only; the default rounding mode is to nearest, ties to even.
    unsafe {
        let paired = matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin);
        let d = if paired {
            _mm512_mul_ps(s.d, s.sub[half])
        } else {
            s.d
        };
        let mul = twice(_mm512_cvtps_epi32(_mm512_mul_ps(d, inverse)));
        let add = match F::L.scheme {
            Scheme::Scale | Scheme::Pair => {
                _mm512_mullo_epi16(mul, _mm512_set1_epi16(-F::L.offset as i16))
            }
            _ => twice(_mm512_cvtps_epi32(_mm512_mul_ps(s.m[half], inverse))),
        };
        [mul, add]
    }
}

/// The low word of each lane in both of its words.
#[inline(always)]
unsafe fn twice(v: __m512i) -> __m512i {
    // SAFETY: registers only.
    unsafe {
        let low = _mm512_set1_epi32(0xffff);
        _mm512_ternarylogic_epi32::<OR_AND>(_mm512_slli_epi32::<16>(v), v, low)
    }
}
