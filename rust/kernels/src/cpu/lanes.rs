//! Sixteen f32 lanes with the same arithmetic on every instruction set: one generic body of a kernel, instantiated for
//! each, gives the same bits. Knows no kernel.
//!
//! No intrinsics in closures: a closure does not have the instruction set of the function around it, and a call for
//! every instruction is what comes of it. All methods are `inline(always)` and must be inlined into a function that enables the instruction set they use:
//! that is the contract behind every `unsafe` here. Pointers must be valid for the 16 (or stated) elements.
#![allow(clippy::missing_safety_doc)]
#[cfg(target_arch = "aarch64")]
mod neon;

use super::kv::codes::{fp8_value, int8_value};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

/// A vector of 16 f32 lanes.
pub(crate) trait Lanes: Copy {
    /// Vector registers of the 16 lanes.
    const REGISTERS: usize = 1;
    /// All lanes `v`.
    unsafe fn splat(v: f32) -> Self;
    /// 16 values.
    unsafe fn load(from: *const f32) -> Self;
    /// 16 f16 values, widened.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// 16 pairs of bf16, widened: the first of each pair, the second of each pair.
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self);
    /// 16 integers of a byte.
    unsafe fn load_i8(from: *const u8) -> Self;
    /// 16 numbers in e4m3, none of them a NaN.
    unsafe fn load_e4m3(from: *const u8) -> Self;
    /// Writes 16 values.
    unsafe fn store(self, to: *mut f32);
    /// `self * b`
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The largest |value| of both vectors, as bits (so a NaN is larger than infinity).
    unsafe fn largest_bits(self, b: Self) -> u32;
    /// `self` rounded to integers (ties to even; |self| <= 127), written as 16 bytes; their sum.
    unsafe fn round_to_i8(self, to: *mut i8) -> i32;
    /// `self` rounded to integers (ties to even; |self| <= 16383), written as 16 words; their sum.
    #[inline(always)]
    unsafe fn round_to_i16(self, to: *mut i16) -> i32 {
        let mut v = [0f32; 16];
        // SAFETY: `v` holds 16 values; `to` is valid for as many.
        unsafe {
            self.store(v.as_mut_ptr());
            let q = v.map(|v| v.round_ties_even() as i16);
            to.cast::<[i16; 16]>().write_unaligned(q);
            q.iter().map(|&q| i32::from(q)).sum()
        }
    }
    /// Sum of the lanes: halves are added until one lane is left.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut v = [0f32; 16];
        // SAFETY: `v` holds 16 values.
        unsafe { self.store(v.as_mut_ptr()) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
}

/// The oracle: plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Plain(pub [f32; 16]);

impl Plain {
    #[inline(always)]
    pub fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

// SAFETY (all blocks): the caller's pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Plain([v; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Plain(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let bits = unsafe { from.cast::<[u16; 16]>().read_unaligned() };
        Plain(bits.map(|b| half::f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
        let bits = unsafe { from.cast::<[[u16; 2]; 16]>().read_unaligned() };
        let part = |i: usize| Plain(bits.map(|b| f32::from_bits(u32::from(b[i]) << 16)));
        (part(0), part(1))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        Plain(unsafe { from.cast::<[u8; 16]>().read_unaligned() }.map(int8_value))
    }
    #[inline(always)]
    unsafe fn load_e4m3(from: *const u8) -> Self {
        Plain(unsafe { from.cast::<[u8; 16]>().read_unaligned() }.map(fp8_value))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn largest_bits(self, b: Self) -> u32 {
        let largest = |v: Self| v.0.iter().map(|v| v.abs().to_bits()).fold(0, u32::max);
        largest(self).max(largest(b))
    }
    #[inline(always)]
    unsafe fn round_to_i8(self, to: *mut i8) -> i32 {
        let mut sum = 0;
        for (i, v) in self.0.iter().enumerate() {
            let q = v.round_ties_even() as i8;
            unsafe { to.add(i).write(q) };
            sum += i32::from(q);
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Ymm, Zmm};

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): inlined into a function with the instruction set; pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use super::super::kv::codes::FP8_SHIFT;
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Sign, exponent and fraction of an e4m3 where a float32 has them.
    const E4M3: i32 = 0x87f0_0000_u32 as i32;

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(crate) struct Ymm(pub __m256, pub __m256);

    impl Lanes for Ymm {
        const REGISTERS: usize = 2;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            let v = unsafe { _mm256_set1_ps(v) };
            Ymm(v, v)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Ymm(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self {
            unsafe {
                Ymm(
                    _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
                )
            }
        }
        #[inline(always)]
        unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
            unsafe {
                let (a, b) = (
                    _mm256_loadu_si256(from.cast()),
                    _mm256_loadu_si256(from.add(16).cast()),
                );
                let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                (
                    Ymm(
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
                    ),
                    Ymm(
                        _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                        _mm256_castsi256_ps(_mm256_and_si256(b, high)),
                    ),
                )
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Self {
            unsafe {
                let v = _mm_loadu_si128(from.cast());
                Ymm(
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v))),
                )
            }
        }
        #[inline(always)]
        unsafe fn load_e4m3(from: *const u8) -> Self {
            unsafe {
                let v = _mm_loadu_si128(from.cast());
                let (a, b) = (
                    _mm256_cvtepi8_epi32(v),
                    _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v)),
                );
                let bits = _mm256_set1_epi32(E4M3);
                let (a, b) = (
                    _mm256_and_si256(_mm256_slli_epi32::<20>(a), bits),
                    _mm256_and_si256(_mm256_slli_epi32::<20>(b), bits),
                );
                let size = Self::splat(FP8_SHIFT);
                Ymm(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)).mul(size)
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { Ymm(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe {
                Ymm(
                    _mm256_fmadd_ps(self.0, b.0, c.0),
                    _mm256_fmadd_ps(self.1, b.1, c.1),
                )
            }
        }
        #[inline(always)]
        unsafe fn largest_bits(self, b: Self) -> u32 {
            unsafe {
                let mask = _mm256_set1_ps(f32::from_bits(0x7fff_ffff));
                let (s0, s1) = (_mm256_and_ps(self.0, mask), _mm256_and_ps(self.1, mask));
                let (b0, b1) = (_mm256_and_ps(b.0, mask), _mm256_and_ps(b.1, mask));
                let m = _mm256_max_epi32(
                    _mm256_max_epi32(_mm256_castps_si256(s0), _mm256_castps_si256(s1)),
                    _mm256_max_epi32(_mm256_castps_si256(b0), _mm256_castps_si256(b1)),
                );
                let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
                let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
                let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
                _mm_cvtsi128_si32(m) as u32
            }
        }
        #[inline(always)]
        unsafe fn round_to_i8(self, to: *mut i8) -> i32 {
            unsafe {
                // The default rounding mode is to nearest, ties to even.
                let words =
                    _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let bytes = _mm_packs_epi16(
                    _mm256_castsi256_si128(words),
                    _mm256_extracti128_si256::<1>(words),
                );
                _mm_storeu_si128(to.cast(), bytes);
                sum_of_words(words)
            }
        }
        #[inline(always)]
        unsafe fn round_to_i16(self, to: *mut i16) -> i32 {
            unsafe {
                // As above.
                let words =
                    _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                _mm256_storeu_si256(to.cast(), words);
                sum_of_words(words)
            }
        }
    }

    /// Sum of 16 words.
    #[inline(always)]
    unsafe fn sum_of_words(words: __m256i) -> i32 {
        unsafe {
            let s = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
            let s = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s));
            let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b01_00_11_10>(s));
            let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b10_11_00_01>(s));
            _mm_cvtsi128_si32(s)
        }
    }

    /// AVX-512 F, BW, VL and DQ.
    #[derive(Clone, Copy)]
    pub(crate) struct Zmm(pub __m512);

    impl Lanes for Zmm {
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                let v = _mm256_add_ps(_mm512_castps512_ps256(self.0), high);
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
            }
        }

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { Zmm(_mm512_set1_ps(v)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Zmm(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self {
            unsafe { Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
            unsafe {
                let v = _mm512_loadu_si512(from.cast());
                let odd = _mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                let even = _mm512_slli_epi32::<16>(v);
                (
                    Zmm(_mm512_castsi512_ps(even)),
                    Zmm(_mm512_castsi512_ps(odd)),
                )
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Self {
            unsafe {
                let v = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
                Zmm(_mm512_cvtepi32_ps(v))
            }
        }
        #[inline(always)]
        unsafe fn load_e4m3(from: *const u8) -> Self {
            unsafe {
                let v = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
                let v = _mm512_and_si512(_mm512_slli_epi32::<20>(v), _mm512_set1_epi32(E4M3));
                Zmm(_mm512_castsi512_ps(v)).mul(Self::splat(FP8_SHIFT))
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { Zmm(_mm512_mul_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Zmm(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn largest_bits(self, b: Self) -> u32 {
            unsafe {
                let mask = _mm512_set1_epi32(0x7fff_ffff);
                let a = _mm512_and_si512(_mm512_castps_si512(self.0), mask);
                let b = _mm512_and_si512(_mm512_castps_si512(b.0), mask);
                let m = _mm512_max_epi32(a, b);
                _mm512_reduce_max_epi32(m) as u32
            }
        }
        #[inline(always)]
        unsafe fn round_to_i8(self, to: *mut i8) -> i32 {
            unsafe {
                // The default rounding mode is to nearest, ties to even.
                let q = _mm512_cvtps_epi32(self.0);
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(q));
                _mm512_reduce_add_epi32(q)
            }
        }
        #[inline(always)]
        unsafe fn round_to_i16(self, to: *mut i16) -> i32 {
            unsafe {
                let q = _mm512_cvtps_epi32(self.0);
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(q));
                _mm512_reduce_add_epi32(q)
            }
        }
    }
}
