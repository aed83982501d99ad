//! What softmax and the activations need of 16 lanes beyond [`Lanes`]: order, division, exponents, masks, bf16.
//! The contract of every `unsafe` is that of [`Lanes`].
#![allow(clippy::missing_safety_doc)]
use super::super::lanes::{Lanes, Plain};

/// 16 lanes with order, division and exponents.
pub(crate) trait Float: Lanes {
    /// `self > b ? self : b`: a NaN in `b` is passed on, one in `self` is not.
    unsafe fn max(self, b: Self) -> Self;
    /// `self < b ? self : b`: a NaN in `b` is passed on, one in `self` is not.
    unsafe fn min(self, b: Self) -> Self;
    /// `self + b`
    unsafe fn add(self, b: Self) -> Self;
    /// `self / b`
    unsafe fn div(self, b: Self) -> Self;
    /// `-self`
    unsafe fn negate(self) -> Self;
    /// `self * 2^n` for whole n in -151..=129, rounded once.
    unsafe fn times_power(self, n: Self) -> Self;
    /// `self * 2^k`, k being the low 9 bits of `t` as it is after `1.5 * 2^23` was added; results must be normal.
    unsafe fn add_exponent(self, t: Self) -> Self;
    /// Lanes `from..to` of `self`, `other` in the rest.
    unsafe fn keep(self, from: usize, to: usize, other: f32) -> Self;
    /// Rounded to bf16, to nearest even, and widened again; a NaN stays one.
    unsafe fn round_bf16(self) -> Self;
    /// Writes 16 bf16, rounded to nearest even; a NaN stays one.
    unsafe fn store_bf16(self, to: *mut u16);
    /// The largest lane; any of them when one is NaN.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut v = [0f32; 16];
        // SAFETY: `v` holds 16 values.
        unsafe { self.store(v.as_mut_ptr()) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] {
                    v[i]
                } else {
                    v[i + half]
                };
            }
        }
        v[0]
    }
}

// SAFETY (all blocks): the caller's pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Float for Plain {
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, super::most)
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.zip(b, super::least)
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn negate(self) -> Self {
        Plain(self.0.map(|v| -v))
    }
    #[inline(always)]
    unsafe fn times_power(self, n: Self) -> Self {
        self.zip(n, super::scale)
    }
    #[inline(always)]
    unsafe fn add_exponent(self, t: Self) -> Self {
        self.zip(t, |p, t| {
            f32::from_bits(p.to_bits().wrapping_add(t.to_bits() << 23))
        })
    }
    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, other: f32) -> Self {
        Plain(std::array::from_fn(|i| {
            if (from..to).contains(&i) {
                self.0[i]
            } else {
                other
            }
        }))
    }
    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        Plain(self.0.map(|v| half::bf16::from_f32(v).to_f32()))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let bits = self.0.map(|v| half::bf16::from_f32(v).to_bits());
        unsafe { to.cast::<[u16; 16]>().write_unaligned(bits) };
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): inlined into a function with the instruction set; pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use super::super::super::lanes::{Ymm, Zmm};
    use super::Float;
    use std::arch::x86_64::*;

    /// 8 values rounded to bf16 in the high half of each 32-bit lane; anything in the low half.
    #[inline(always)]
    unsafe fn rounded(v: __m256) -> __m256i {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            _mm256_blendv_epi8(up, quiet, nan)
        }
    }

    #[inline(always)]
    unsafe fn high_half(v: __m256i) -> __m256 {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(v, high))
        }
    }

    #[inline(always)]
    unsafe fn times_power(p: __m256, n: __m256) -> __m256 {
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let p = _mm256_mul_ps(p, power(half));
            _mm256_mul_ps(p, power(_mm256_sub_epi32(n, half)))
        }
    }

    #[inline(always)]
    unsafe fn power(k: __m256i) -> __m256 {
        unsafe {
            let k = _mm256_add_epi32(k, _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(k))
        }
    }

    #[inline(always)]
    unsafe fn add_exponent(p: __m256, t: __m256) -> __m256 {
        unsafe {
            let k = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), k))
        }
    }

    /// All ones in lanes `from..to`, the first lane being number `first`.
    #[inline(always)]
    unsafe fn inside(from: i32, to: i32, first: i32) -> __m256 {
        unsafe {
            let i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let i = _mm256_add_epi32(i, _mm256_set1_epi32(first));
            let low = _mm256_cmpgt_epi32(i, _mm256_set1_epi32(from - 1));
            let high = _mm256_cmpgt_epi32(_mm256_set1_epi32(to), i);
            _mm256_castsi256_ps(_mm256_and_si256(low, high))
        }
    }

    impl Float for Ymm {
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { Ymm(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { Ymm(_mm256_min_ps(self.0, b.0), _mm256_min_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { Ymm(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { Ymm(_mm256_div_ps(self.0, b.0), _mm256_div_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn negate(self) -> Self {
            unsafe {
                let sign = _mm256_set1_ps(-0.0);
                Ymm(_mm256_xor_ps(self.0, sign), _mm256_xor_ps(self.1, sign))
            }
        }
        #[inline(always)]
        unsafe fn times_power(self, n: Self) -> Self {
            unsafe { Ymm(times_power(self.0, n.0), times_power(self.1, n.1)) }
        }
        #[inline(always)]
        unsafe fn add_exponent(self, t: Self) -> Self {
            unsafe { Ymm(add_exponent(self.0, t.0), add_exponent(self.1, t.1)) }
        }
        #[inline(always)]
        unsafe fn keep(self, from: usize, to: usize, other: f32) -> Self {
            unsafe {
                let other = _mm256_set1_ps(other);
                let (from, to) = (from.min(16) as i32, to.min(16) as i32);
                Ymm(
                    _mm256_blendv_ps(other, self.0, inside(from, to, 0)),
                    _mm256_blendv_ps(other, self.1, inside(from, to, 8)),
                )
            }
        }
        #[inline(always)]
        unsafe fn round_bf16(self) -> Self {
            unsafe { Ymm(high_half(rounded(self.0)), high_half(rounded(self.1))) }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut u16) {
            unsafe {
                let (a, b) = (rounded(self.0), rounded(self.1));
                let packed =
                    _mm256_packus_epi32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b));
                _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
            }
        }
    }

    /// As [`rounded`].
    #[inline(always)]
    unsafe fn rounded_wide(v: __m512) -> __m512i {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000))
        }
    }

    impl Float for Zmm {
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { Zmm(_mm512_max_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { Zmm(_mm512_min_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { Zmm(_mm512_add_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { Zmm(_mm512_div_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn negate(self) -> Self {
            unsafe { Zmm(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))) }
        }
        #[inline(always)]
        unsafe fn times_power(self, n: Self) -> Self {
            unsafe { Zmm(_mm512_scalef_ps(self.0, n.0)) }
        }
        #[inline(always)]
        unsafe fn add_exponent(self, t: Self) -> Self {
            unsafe {
                let k = _mm512_slli_epi32::<23>(_mm512_castps_si512(t.0));
                Zmm(_mm512_castsi512_ps(_mm512_add_epi32(
                    _mm512_castps_si512(self.0),
                    k,
                )))
            }
        }
        #[inline(always)]
        unsafe fn keep(self, from: usize, to: usize, other: f32) -> Self {
            let below = |n: usize| ((1u32 << n.min(16)) - 1) as u16;
            unsafe {
                Zmm(_mm512_mask_mov_ps(
                    _mm512_set1_ps(other),
                    below(to) & !below(from),
                    self.0,
                ))
            }
        }
        #[inline(always)]
        unsafe fn round_bf16(self) -> Self {
            unsafe {
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                Zmm(_mm512_castsi512_ps(_mm512_and_si512(
                    rounded_wide(self.0),
                    high,
                )))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut u16) {
            unsafe {
                let high = _mm512_srli_epi32::<16>(rounded_wide(self.0));
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(high));
            }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
    }
}
