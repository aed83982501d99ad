//! What passes over logits need of 16 lanes beyond [`Float`]: comparison into a mask, and packing by one.
//! The contract of every `unsafe` is that of [`Lanes`](super::super::lanes::Lanes).
#![allow(clippy::missing_safety_doc)]
use super::super::exp::Float;
use super::super::lanes::Plain;

/// 16 lanes that can be compared and packed.
pub(super) trait Scan: Float {
    /// Bit i: lane i is at least that of `b`.
    unsafe fn at_least(self, b: Self) -> u16;
    /// Lanes that are at least those of `b`, 0 in place of the others.
    unsafe fn or_zero_below(self, b: Self) -> Self;
    /// The lanes of `mask` one after the other at `to`, and `first` plus their numbers at `ids`. Both have room for 16,
    /// all of which may be written.
    #[inline(always)]
    unsafe fn pack(self, mask: u16, first: u32, to: *mut f32, ids: *mut u32) {
        let mut v = [0f32; 16];
        // SAFETY: 16 values; both places hold 16.
        unsafe {
            self.store(v.as_mut_ptr());
            let (mut left, mut n) = (mask, 0);
            while left != 0 {
                let lane = left.trailing_zeros();
                *to.add(n) = v[lane as usize];
                *ids.add(n) = first + lane;
                left &= left - 1;
                n += 1;
            }
        }
    }
    /// As [`Scan::pack`] with the numbers at `from` in place of counted ones.
    #[inline(always)]
    unsafe fn pack_with(self, mask: u16, from: *const u32, to: *mut f32, ids: *mut u32) {
        // SAFETY: 16 numbers at `from`, read before any is written.
        unsafe {
            let numbers = from.cast::<[u32; 16]>().read_unaligned();
            self.pack(mask, 0, to, ids);
            for i in 0..mask.count_ones() as usize {
                *ids.add(i) = numbers[(*ids.add(i) & 15) as usize];
            }
        }
    }
}

// SAFETY (all blocks): the caller's pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Scan for Plain {
    #[inline(always)]
    unsafe fn at_least(self, b: Self) -> u16 {
        let mut mask = 0;
        for i in 0..16 {
            mask |= u16::from(self.0[i] >= b.0[i]) << i;
        }
        mask
    }
    #[inline(always)]
    unsafe fn or_zero_below(self, b: Self) -> Self {
        self.zip(b, |a, b| if a >= b { a } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): inlined into a function with the instruction set; pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use super::super::super::lanes::{Ymm, Zmm};
    use super::Scan;
    use std::arch::x86_64::*;

    impl Scan for Ymm {
        #[inline(always)]
        unsafe fn at_least(self, b: Self) -> u16 {
            unsafe {
                let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, b.0));
                let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.1, b.1));
                (low | high << 8) as u16
            }
        }
        #[inline(always)]
        unsafe fn or_zero_below(self, b: Self) -> Self {
            unsafe {
                Ymm(
                    _mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, b.0)),
                    _mm256_and_ps(self.1, _mm256_cmp_ps::<_CMP_GE_OQ>(self.1, b.1)),
                )
            }
        }
    }

    impl Scan for Zmm {
        #[inline(always)]
        unsafe fn at_least(self, b: Self) -> u16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, b.0) }
        }
        #[inline(always)]
        unsafe fn or_zero_below(self, b: Self) -> Self {
            unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, b.0);
                Zmm(_mm512_maskz_mov_ps(mask, self.0))
            }
        }
        // Packed in a register and stored whole: a packing store is slow on some processors.
        #[inline(always)]
        unsafe fn pack(self, mask: u16, first: u32, to: *mut f32, ids: *mut u32) {
            unsafe {
                let numbers =
                    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(first as i32));
                _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, self.0));
                _mm512_storeu_si512(ids.cast(), _mm512_maskz_compress_epi32(mask, numbers));
            }
        }
        #[inline(always)]
        unsafe fn pack_with(self, mask: u16, from: *const u32, to: *mut f32, ids: *mut u32) {
            unsafe {
                let numbers = _mm512_loadu_si512(from.cast());
                _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, self.0));
                _mm512_storeu_si512(ids.cast(), _mm512_maskz_compress_epi32(mask, numbers));
            }
        }
    }
}
